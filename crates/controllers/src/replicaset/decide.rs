//! From a ReplicaSet, or a ReplicationController, and its pods to writes: pods first, then the status that counts them.
//!
//! The status is written in a pass of its own, once the views show the pods: it never tells of pods that are only meant to be.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::Selector;

use super::keep::{Candidates, Count, Kept, Wanted, keep};
use crate::mechanism::{Decision, Write};

/// Decides about a ReplicaSet. `failure` is why its last pods could not be made or deleted, if that was so.
pub fn decide_set(set: &ReplicaSet, pods: Candidates<'_>, failure: Option<&str>, now: Timestamp) -> Decision {
    let spec = &set.spec;
    let Ok(selector) = Selector::try_from(spec.selector.clone()) else { return Decision::default() };
    let template = spec.template.clone().unwrap_or_default();
    let wanted = Wanted {
        owner: set,
        replicas: usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0),
        selector: &selector,
        template: &template,
        min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
    };
    let kept = keep(&wanted, pods, now);
    let old = set.status.clone().unwrap_or_default();
    let status = set_status(&old, set.metadata.generation, kept.count, failure, now);
    let write = (old != status).then(|| Write::replace_status(&ReplicaSet { status: Some(status), ..set.clone() }));
    combine(kept, write, failure.is_some())
}

/// Decides about a ReplicationController.
pub fn decide_controller(
    controller: &ReplicationController,
    pods: Candidates<'_>,
    failure: Option<&str>,
    now: Timestamp,
) -> Decision {
    let Some(spec) = &controller.spec else { return Decision::default() };
    let selector: Selector = spec.selector.clone().unwrap_or_default().into_iter().collect();
    let template = spec.template.clone().unwrap_or_default();
    let wanted = Wanted {
        owner: controller,
        replicas: usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0),
        selector: &selector,
        template: &template,
        min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
    };
    let kept = keep(&wanted, pods, now);
    let old = controller.status.clone().unwrap_or_default();
    let status = controller_status(&old, controller.metadata.generation, kept.count, failure, now);
    let changed = ReplicationController { status: Some(status.clone()), ..controller.clone() };
    combine(kept, (old != status).then(|| Write::replace_status(&changed)), failure.is_some())
}

fn combine(kept: Kept, status: Option<Write>, failing: bool) -> Decision {
    let Kept { mut writes, events, again, .. } = kept;
    if failing {
        // The pods may be refused again and nothing after them be written: the status says so first.
        writes = status.into_iter().chain(writes).collect();
    } else if writes.is_empty() {
        writes.extend(status);
    }
    Decision { writes, events, again }
}

fn set_status(
    old: &ReplicaSetStatus,
    generation: Option<i64>,
    count: Count,
    failure: Option<&str>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let known = conditions.iter().position(|condition| condition.type_.as_deref() == Some("ReplicaFailure"));
    match (failure, known) {
        (Some(message), None) => conditions.push(ReplicaSetCondition {
            type_: Some("ReplicaFailure".to_owned()),
            status: Some("True".to_owned()),
            reason: Some("FailedCreate".to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: Some(Time(now)),
        }),
        (None, Some(index)) => drop(conditions.remove(index)),
        (Some(_), Some(_)) | (None, None) => {}
    }
    ReplicaSetStatus {
        replicas: count.replicas,
        fully_labeled_replicas: positive(count.fully_labelled),
        ready_replicas: positive(count.ready),
        available_replicas: positive(count.available),
        terminating_replicas: terminating(count.terminating, old.terminating_replicas),
        observed_generation: generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}

fn controller_status(
    old: &ReplicationControllerStatus,
    generation: Option<i64>,
    count: Count,
    failure: Option<&str>,
    now: Timestamp,
) -> ReplicationControllerStatus {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let known = conditions.iter().position(|condition| condition.type_ == "ReplicaFailure");
    match (failure, known) {
        (Some(message), None) => conditions.push(ReplicationControllerCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some("FailedCreate".to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: Some(Time(now)),
        }),
        (None, Some(index)) => drop(conditions.remove(index)),
        (Some(_), Some(_)) | (None, None) => {}
    }
    ReplicationControllerStatus {
        replicas: count.replicas,
        fully_labeled_replicas: positive(count.fully_labelled),
        ready_replicas: positive(count.ready),
        available_replicas: positive(count.available),
        observed_generation: generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}

/// Kubernetes leaves a zero out of a status.
pub fn positive(count: i32) -> Option<i32> {
    (count > 0).then_some(count)
}

/// A pointer upstream: once it was said, a zero is said too.
fn terminating(count: i32, old: Option<i32>) -> Option<i32> {
    if old.is_some() { Some(count) } else { positive(count) }
}
