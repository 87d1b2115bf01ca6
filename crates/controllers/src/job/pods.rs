//! One pod of a Job: its finalizer, its index, whether it failed, when it ended; and how a new one is made.

use std::sync::Arc;

use client::events::Draft;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use kube::ResourceExt;
use serde_json::json;

use super::policy;
use crate::mechanism::{Write, owner_reference};
use crate::{membership, workload};

/// Holds a pod until its Job has counted it.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// What a generated name leaves for its prefix.
const LONGEST_PREFIX: usize = 58;

pub fn is_tracked(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|one| one == FINALIZER)
}

pub fn index(pod: &Pod) -> Option<i32> {
    pod.annotations().get(INDEX)?.parse().ok().filter(|index| *index >= 0)
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub fn has_succeeded(pod: &Pod) -> bool {
    phase(pod) == "Succeeded"
}

/// Whether a pod must have failed to be replaced, or may also be on its way out.
pub fn replaces_only_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

pub fn has_failed(pod: &Pod, spec: &JobSpec) -> bool {
    match phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        // One that goes before its end counts as failed: it may never come to say so itself.
        _ => !replaces_only_failed(spec) && membership::is_terminating(pod),
    }
}

/// On its way out, and not at its end yet.
pub fn is_leaving(pod: &Pod) -> bool {
    membership::is_terminating(pod) && !membership::is_finished(pod)
}

/// When a finished pod ended, as well as it can be told.
pub fn ended(pod: &Pod) -> Option<Timestamp> {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let of = |status: &k8s_openapi::api::core::v1::ContainerStatus| {
        status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)
    };
    let all: Option<Vec<Timestamp>> = containers.iter().map(of).collect();
    let by_containers = all.and_then(|times| times.into_iter().max());
    let unready = || membership::condition(pod, "Ready").filter(|ready| ready.status == "False");
    by_containers
        .or_else(|| unready()?.last_transition_time.as_ref().map(|time| time.0))
        .or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|time| time.0))
        .or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

fn number(pod: &Pod, annotation: &str) -> i32 {
    pod.annotations().get(annotation).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// How often the index of a pod had failed before this pod, ignored failures left out.
pub fn earlier_failures(pod: &Pod) -> i32 {
    number(pod, FAILURES)
}

/// The same with ignored failures.
pub fn all_earlier_failures(pod: &Pod) -> i32 {
    number(pod, FAILURES).saturating_add(number(pod, IGNORED_FAILURES))
}

/// Lets a pod go.
pub fn release(pod: &Pod) -> Write {
    let rest: Vec<&String> = pod.finalizers().iter().filter(|one| *one != FINALIZER).collect();
    let meta = json!({"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version, "finalizers": rest});
    Write::patch(pod, json!({"metadata": meta}))
}

pub fn created(job: &Job, name: &str) -> Draft {
    Draft::normal(job, "SuccessfulCreate", format!("Created pod: {name}"))
}

pub fn deleted(job: &Job, pod: &Pod) -> Draft {
    Draft::normal(job, "SuccessfulDelete", format!("Deleted pod: {}", pod.name_any()))
}

/// What the name of a pod begins with.
pub fn prefix(job: &Job, index: Option<i32>) -> String {
    let end = index.map_or_else(|| "-".to_owned(), |index| format!("-{index}-"));
    let name: String = job.name_any().chars().take(LONGEST_PREFIX - end.len()).collect();
    format!("{name}{end}")
}

/// A pod of the Job; `replaced` is the failed pod of the index whose failures it carries on.
pub fn make(job: &Job, name: String, index: Option<i32>, replaced: Option<&Arc<Pod>>) -> Pod {
    let mut pod = workload::pod_from(&job.spec_or_default().template, owner_reference(job), job.namespace(), name);
    pod.metadata.generate_name = Some(prefix(job, index));
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|one| one == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    let Some(index) = index else { return pod };
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{}-{index}", job.name_any()));
    spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(tell_index);
    if job.spec_or_default().backoff_limit_per_index.is_some() {
        let (failures, ignored) = replaced.map_or((0, 0), |replaced| carried(job, replaced));
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(FAILURES.to_owned(), failures.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED_FAILURES.to_owned(), ignored.to_string());
        }
    }
    pod
}

fn carried(job: &Job, replaced: &Pod) -> (i32, i32) {
    let counts = policy::verdict(job.spec_or_default().pod_failure_policy.as_ref(), replaced).counts();
    let (failures, ignored) = (number(replaced, FAILURES), number(replaced, IGNORED_FAILURES));
    (failures.saturating_add(i32::from(counts)), ignored.saturating_add(i32::from(!counts)))
}

/// Containers learn their index from the environment.
fn tell_index(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    variables.push(EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value: None,
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
    });
}

/// The specification of a Job; the server lets none in without one.
pub trait Specified {
    fn spec_or_default(&self) -> &JobSpec;
}

impl Specified for Job {
    fn spec_or_default(&self) -> &JobSpec {
        static NONE: std::sync::LazyLock<JobSpec> = std::sync::LazyLock::new(JobSpec::default);
        self.spec.as_ref().unwrap_or(&NONE)
    }
}
