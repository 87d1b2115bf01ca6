//! What every controller that makes pods needs: a pod from a template, when a pod counts as available, and which pods go first.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::ResourceExt;
use serde_json::json;

use crate::mechanism::Write;
use crate::membership;

pub const DISRUPTED: &str = "DisruptionTarget";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// A pod as the template says, owned by `owner`, under a name of the caller's choice.
pub fn pod_from(template: &PodTemplateSpec, owner: OwnerReference, namespace: Option<String>, name: String) -> Pod {
    let model = template.metadata.clone().unwrap_or_default();
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", owner.name)),
        name: Some(name),
        namespace,
        labels: model.labels,
        annotations: model.annotations,
        finalizers: model.finalizers,
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: template.spec.clone(), status: None }
}

/// Says on a pod, before it is ended, that this is no fault of its own: a Job need not count it (KEP-3329).
pub fn mark_disrupted(pod: &Pod, reason: &str, message: &str, phase: Option<&str>, now: Timestamp) -> Write {
    let mut conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    conditions.retain(|condition| condition.type_ != DISRUPTED);
    conditions.push(PodCondition {
        type_: DISRUPTED.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    });
    let mut status = json!({"conditions": conditions});
    if let Some(phase) = phase {
        status["phase"] = json!(phase);
    }
    let meta = json!({"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version});
    Write::patch_status(pod, json!({"metadata": meta, "status": status}))
}

/// Whether the pod runs or will run: it has not finished and is not being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !membership::is_finished(pod) && !membership::is_terminating(pod)
}

/// Whether the pod waits for what it needs to start.
pub fn is_pending(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending")
}

pub fn has_failed(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Failed")
}

/// Whether the pod has been ready for long enough, and if not, how long that still takes.
pub fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    let Some(ready) = membership::condition(pod, "Ready").filter(|ready| ready.status == "True") else {
        return Availability::NotReady;
    };
    if min_ready_seconds == 0 {
        return Availability::Available;
    }
    let since = ready.last_transition_time.as_ref().map_or(now, |time| time.0);
    let left = SignedDuration::from_secs(i64::from(min_ready_seconds)) - now.duration_since(since);
    match std::time::Duration::try_from(left) {
        Ok(left) if !left.is_zero() => Availability::In(left),
        Ok(_) | Err(_) => Availability::Available,
    }
}

/// How a pod stands to `minReadySeconds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    NotReady,
    /// Ready, and available when it stays so for this long.
    In(std::time::Duration),
    Available,
}

/// Sorts pods so that those that are missed least come first: upstream's order for scaling down.
pub fn rank_for_deletion(pods: &mut [Arc<Pod>]) {
    let mut on_node: BTreeMap<String, usize> = BTreeMap::new();
    for pod in pods.iter().filter_map(|pod| node(pod)) {
        *on_node.entry(pod.to_owned()).or_default() += 1;
    }
    let neighbours = |pod: &Pod| node(pod).and_then(|name| on_node.get(name)).copied().unwrap_or_default();
    pods.sort_by(|a, b| {
        let by_state = (node(a).is_some(), phase(a), membership::is_ready(a), cost(a)).cmp(&(
            node(b).is_some(),
            phase(b),
            membership::is_ready(b),
            cost(b),
        ));
        by_state
            .then_with(|| neighbours(b).cmp(&neighbours(a)))
            .then_with(|| newest_first(ready_since(a), ready_since(b)))
            .then_with(|| restarts(b).cmp(&restarts(a)))
            .then_with(|| newest_first(born(a), born(b)))
            .then_with(|| a.name_any().cmp(&b.name_any()))
    });
}

fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn phase(pod: &Pod) -> u8 {
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Running") => 2,
        Some("Unknown") => 1,
        _ => 0,
    }
}

fn cost(pod: &Pod) -> i32 {
    pod.annotations().get(DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = membership::condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

fn born(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

fn newest_first(a: Option<Timestamp>, b: Option<Timestamp>) -> Ordering {
    b.cmp(&a)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).max().unwrap_or(0)
}
