//! The next step of a Job: count what ended, end the Job, or keep as many pods as should run.
//!
//! The status is written first, then pods are let go, deleted and made: whatever fails in between, the status already says what is to be
//! finished.

use std::sync::Arc;

use client::events::Draft;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use serde_json::json;

use super::count::{Counted, count_ended};
use super::ending::{self, Ending};
use super::pods::{self, FINALIZER, Specified};
use super::replenish::{self, Step};
use super::state::{State, count};
use crate::mechanism::{Adoption, Decision, Verb, Write, adopt, adoption_writes};

/// Jobs that name another controller are not ours.
const OURS: &str = "kubernetes.io/job-controller";

/// The Job's pods and those that it could take up, and whether a name is another pod's.
pub struct Observed<'a> {
    pub job: &'a Job,
    pub pods: Vec<Arc<Pod>>,
    pub is_taken: &'a dyn Fn(&str) -> bool,
    pub now: Timestamp,
}

pub fn is_ours(job: &Job) -> bool {
    job.spec_or_default().managed_by.as_deref().is_none_or(|by| by == OURS)
}

pub fn decide(observed: Observed<'_>) -> Decision {
    let Observed { job, pods, is_taken, now } = observed;
    let selector = job.spec_or_default().selector.clone().unwrap_or_default();
    let Ok(selector) = Selector::try_from(selector) else { return Decision::default() };
    if !is_ours(job) {
        return Decision::default();
    }
    let adoption = adopt(&job.uid().unwrap_or_default(), pods, |pod: &Pod| selector.matches(pod.labels()));
    if super::finished(job).is_some() {
        // Nothing is counted any more, so nothing is to be held.
        let held = adoption.ours.iter().filter(|pod| pods::is_tracked(pod));
        return held.map(|pod| pods::release(pod)).collect::<Vec<Write>>().into();
    }
    if job.metadata.deletion_timestamp.is_none() {
        let adopting = tracked_adoption(job, &adoption);
        if !adopting.is_empty() {
            return adopting.into();
        }
    }
    step(&State::new(job, adoption.ours, now), is_taken)
}

/// A pod that is taken up is held until it is counted, one that is let go is not.
fn tracked_adoption(job: &Job, adoption: &Adoption<Pod>) -> Vec<Write> {
    let mut writes = adoption_writes(job, adoption);
    for (write, pod) in writes.iter_mut().zip(adoption.adopt.iter().chain(&adoption.release)) {
        let taken = adoption.adopt.iter().any(|other| Arc::ptr_eq(other, pod));
        let mut finalizers: Vec<&str> = pod.finalizers().iter().map(String::as_str).collect();
        finalizers.retain(|one| *one != FINALIZER);
        if taken {
            finalizers.push(FINALIZER);
        }
        if let Verb::Patch(patch) = &mut write.verb {
            patch["metadata"]["finalizers"] = json!(finalizers);
        }
    }
    writes
}

fn step(state: &State<'_>, is_taken: &dyn Fn(&str) -> bool) -> Decision {
    let announced = ending::announced(state);
    let end = announced.clone().or_else(|| ending::due(state)).or_else(|| ending::complete(state));
    let mut counted = count_ended(state, end.as_ref());
    let mut events = Vec::new();
    tell(state, end.as_ref(), &mut counted.status, &mut events);
    let Step { release, deletes, creates, events: told, again } = match &end {
        Some(_) => end_pods(state),
        None if state.is_going() => Step::default(),
        None => replenish::decide(state, is_taken),
    };
    match &end {
        Some(end) if announced.is_none() => push(&mut counted.status, end.interim(state.now)),
        Some(end) if is_over(state, &counted) => close(state, end, &mut counted.status, &mut events),
        Some(_) | None => {}
    }
    events.extend(told);
    let deadline = ending::until_deadline(state).filter(|_| end.is_none());
    let mut writes = Vec::new();
    if !same(&state.old, &counted.status) {
        writes.push(Write::replace_status(&Job { status: Some(counted.status), ..state.job.clone() }));
    }
    writes.extend(counted.release);
    // One that is counted as ended cannot also be too many, but a pod may be let go only once.
    writes.extend(release.into_iter().filter(|write| !writes_to(&writes, write)).collect::<Vec<_>>());
    writes.extend(deletes);
    writes.extend(creates);
    Decision { writes, events, again: again.into_iter().chain(deadline).min() }
}

fn writes_to(writes: &[Write], write: &Write) -> bool {
    writes.iter().any(|other| other.target == write.target)
}

/// What the status tells beside what has ended.
fn tell(state: &State<'_>, end: Option<&Ending>, status: &mut JobStatus, events: &mut Vec<Draft>) {
    status.active = Some(count(&state.active));
    status.ready = Some(state.ready);
    status.terminating = Some(state.terminating);
    if status.start_time.is_none() && !state.is_suspended() {
        status.start_time = Some(Time(state.now));
    }
    if end.is_some() || state.is_going() {
        return;
    }
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter().position(|one| one.type_ == "Suspended");
    let is = known.is_some_and(|known| conditions[known].status == "True");
    if is == state.is_suspended() {
        return;
    }
    let (value, reason, event, message) = match state.is_suspended() {
        true => ("True", "JobSuspended", "Suspended", "Job suspended"),
        false => ("False", "JobResumed", "Resumed", "Job resumed"),
    };
    let condition = ending::condition("Suspended", value, reason, message, state.now);
    match known {
        Some(known) => conditions[known] = condition,
        None => conditions.push(condition),
    }
    if !state.is_suspended() {
        // The deadline is about the time that a Job is active without a break.
        status.start_time = Some(Time(state.now));
    }
    events.push(Draft::normal(state.job, event, message));
}

/// The pods of a Job that ends.
fn end_pods(state: &State<'_>) -> Step {
    let deletes = state.active.iter().map(|pod| Write::delete(pod.as_ref())).collect();
    let events = state.active.iter().map(|pod| pods::deleted(state.job, pod)).collect();
    Step { deletes, events, ..Step::default() }
}

/// Every pod has ended and is a number.
fn is_over(state: &State<'_>, counted: &Counted) -> bool {
    let noted = counted.status.uncounted_terminated_pods.as_ref();
    let none = noted.is_none_or(|noted| *noted == UncountedTerminatedPods::default());
    none && !counted.is_full && state.terminating == 0 && state.active.is_empty()
}

fn close(state: &State<'_>, end: &Ending, status: &mut JobStatus, events: &mut Vec<Draft>) {
    push(status, end.last(state.now));
    if !end.success {
        events.push(Draft::warning(state.job, &end.reason, end.message.clone()));
        return;
    }
    status.completion_time = Some(Time(state.now));
    if state.spec.completions.is_some_and(|completions| status.succeeded.unwrap_or(0) > completions) {
        let message = "Too many succeeded pods running after completion count reached";
        events.push(Draft::warning(state.job, "TooManySucceededPods", message));
    }
    events.push(Draft::normal(state.job, "Completed", "Job completed"));
}

fn push(status: &mut JobStatus, condition: JobCondition) {
    status.conditions.get_or_insert_default().push(condition);
}

/// Whether two statuses say the same: a zero that is said and one that is left out do not differ.
fn same(old: &JobStatus, new: &JobStatus) -> bool {
    normal(old.clone()) == normal(new.clone())
}

fn normal(mut status: JobStatus) -> JobStatus {
    let counts =
        [&mut status.active, &mut status.ready, &mut status.succeeded, &mut status.failed, &mut status.terminating];
    for count in counts {
        *count = count.filter(|count| *count != 0);
    }
    status.conditions = status.conditions.filter(|all| !all.is_empty());
    status.uncounted_terminated_pods =
        status.uncounted_terminated_pods.filter(|noted| *noted != UncountedTerminatedPods::default());
    status
}
