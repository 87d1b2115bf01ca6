//! What a Deployment tells: counts over its ReplicaSets, and the conditions Available, Progressing and ReplicaFailure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::decide::{Rollout, present};
use super::revision::REVISION_HISTORY;
use super::rolling;
use crate::mechanism::{Decision, Write};

const CREATED: &str = "NewReplicaSetCreated";
const FOUND: &str = "FoundNewReplicaSet";
const UPDATED: &str = "ReplicaSetUpdated";
const AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";

/// Writes the status if it tells anything new.
pub fn write(rollout: &Rollout<'_>) -> Decision {
    let old = rollout.deployment.status.clone().unwrap_or_default();
    let mut status = count(rollout, &old);
    let mut conditions = Conditions { all: old.conditions.clone().unwrap_or_default(), now: rollout.now };
    available(rollout, &status, &mut conditions);
    let again = progress(rollout, &old, &status, &mut conditions);
    failure(rollout, &mut conditions);
    status.conditions = (!conditions.all.is_empty()).then_some(conditions.all);
    let write = (status != old).then(|| replace(rollout.deployment, status));
    Decision { writes: write.into_iter().collect(), again, ..Decision::default() }
}

/// Notes that the Deployment was paused or resumed, before anything else is done about it.
pub fn pause(rollout: &Rollout<'_>) -> Option<Decision> {
    rollout.spec.progress_deadline_seconds?;
    let old = rollout.deployment.status.clone().unwrap_or_default();
    let mut conditions = Conditions { all: old.conditions.clone().unwrap_or_default(), now: rollout.now };
    let reason = conditions.reason("Progressing");
    let paused = rollout.spec.paused == Some(true);
    if reason == Some(TIMED_OUT) {
        return None;
    }
    match (paused, reason == Some(PAUSED)) {
        (true, false) => conditions.set("Progressing", "Unknown", PAUSED, "Deployment is paused".to_owned()),
        (false, true) => conditions.set("Progressing", "Unknown", RESUMED, "Deployment is resumed".to_owned()),
        (true, true) | (false, false) => return None,
    }
    let status = DeploymentStatus { conditions: Some(conditions.all), ..old };
    Some(vec![replace(rollout.deployment, status)].into())
}

/// Counts a hash that was taken, so that the next one is another.
pub fn count_collision(deployment: &Deployment) -> Decision {
    let mut status = deployment.status.clone().unwrap_or_default();
    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
    vec![replace(deployment, status)].into()
}

/// Whether all pods are of the new template and available, and no other is left.
pub fn is_complete(rollout: &Rollout<'_>) -> bool {
    completed(rollout, &count(rollout, &DeploymentStatus::default()))
}

fn completed(rollout: &Rollout<'_>, status: &DeploymentStatus) -> bool {
    let desired = rollout.desired();
    let is = |count: Option<i32>| count.unwrap_or(0) == desired;
    is(status.updated_replicas) && is(status.replicas) && is(status.available_replicas)
}

fn replace(deployment: &Deployment, status: DeploymentStatus) -> Write {
    Write::replace_status(&Deployment { status: Some(status), ..deployment.clone() })
}

fn count(rollout: &Rollout<'_>, old: &DeploymentStatus) -> DeploymentStatus {
    let positive = |count: i32| (count > 0).then_some(count);
    let sum = |of: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| -> i32 {
        rollout.all().filter_map(|set| set.status.as_ref()).map(of).sum()
    };
    let replicas = sum(|status| status.replicas);
    let available = sum(|status| status.available_replicas.unwrap_or(0));
    let asked: i32 = rollout.all().map(|set| super::decide::replicas(set)).sum();
    let leaving = sum(|status| status.terminating_replicas.unwrap_or(0));
    DeploymentStatus {
        observed_generation: rollout.deployment.metadata.generation,
        replicas: positive(replicas),
        updated_replicas: positive(rollout.new.as_ref().map_or(0, |new| present(new))),
        ready_replicas: positive(sum(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: positive(available),
        unavailable_replicas: positive(asked - available),
        terminating_replicas: if old.terminating_replicas.is_some() { Some(leaving) } else { positive(leaving) },
        collision_count: old.collision_count,
        conditions: None,
    }
}

fn available(rollout: &Rollout<'_>, status: &DeploymentStatus, conditions: &mut Conditions) {
    let enough = rollout.desired() - rolling::max_unavailable(rollout);
    if status.available_replicas.unwrap_or(0) >= enough {
        let message = "Deployment has minimum availability.".to_owned();
        conditions.set("Available", "True", "MinimumReplicasAvailable", message);
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        conditions.set("Available", "False", "MinimumReplicasUnavailable", message);
    }
}

/// Tells how the rollout goes. Gives back when to look again, should nothing happen.
fn progress(
    rollout: &Rollout<'_>,
    old: &DeploymentStatus,
    status: &DeploymentStatus,
    conditions: &mut Conditions,
) -> Option<Duration> {
    let Some(deadline) = rollout.spec.progress_deadline_seconds.filter(|seconds| *seconds < i32::MAX) else {
        conditions.all.retain(|condition| condition.type_.as_deref() != Some("Progressing"));
        return None;
    };
    let name = rollout.new.as_ref().map(|new| new.name_any());
    let what = name.as_ref().map_or_else(
        || format!("Deployment \"{}\"", rollout.deployment.name_any()),
        |name| format!("ReplicaSet \"{name}\""),
    );
    if rollout.spec.paused == Some(true) {
        return None;
    }
    announce(rollout, old, conditions);
    let reason = conditions.reason("Progressing").map(str::to_owned);
    if status.replicas == status.updated_replicas && reason.as_deref() == Some(AVAILABLE) {
        return None;
    }
    if completed(rollout, status) {
        conditions.set("Progressing", "True", AVAILABLE, format!("{what} has successfully progressed."));
        return None;
    }
    if progressed(old, status) {
        conditions.touch("Progressing", "True", UPDATED, format!("{what} is progressing."));
    }
    // A success that lies long back says nothing about a rollout that has only begun.
    if matches!(conditions.reason("Progressing"), Some(TIMED_OUT | AVAILABLE)) {
        return None;
    }
    let left = conditions.left("Progressing", deadline)?;
    if left.is_zero() {
        conditions.set("Progressing", "False", TIMED_OUT, format!("{what} has timed out progressing."));
        return None;
    }
    Some(left)
}

/// The first word about a ReplicaSet: it was made, or an old one is taken up again.
fn announce(rollout: &Rollout<'_>, old: &DeploymentStatus, conditions: &mut Conditions) {
    let Some(new) = &rollout.new else { return };
    let name = new.name_any();
    let message = conditions.get("Progressing").and_then(|condition| condition.message.clone()).unwrap_or_default();
    let resumed = conditions.reason("Progressing") == Some(RESUMED);
    let known = message.contains(&format!("\"{name}\"")) || old.conditions.is_some() && resumed;
    if known {
        return;
    }
    if new.annotations().contains_key(REVISION_HISTORY) {
        conditions.touch("Progressing", "True", FOUND, format!("Found new replica set \"{name}\""));
    } else {
        conditions.touch("Progressing", "True", CREATED, format!("Created new replica set \"{name}\""));
    }
}

fn progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let others = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    new.updated_replicas > old.updated_replicas
        || others(new) < others(old)
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
}

fn failure(rollout: &Rollout<'_>, conditions: &mut Conditions) {
    let told = rollout.all().filter_map(|set| set.status.as_ref()?.conditions.as_ref()).flatten();
    let failing = told.into_iter().find(|condition| condition.type_.as_deref() == Some("ReplicaFailure"));
    match failing {
        Some(failing) => {
            let reason = failing.reason.clone().unwrap_or_default();
            let message = failing.message.clone().unwrap_or_default();
            conditions.set("ReplicaFailure", "True", &reason, message);
        }
        None => conditions.all.retain(|condition| condition.type_.as_deref() != Some("ReplicaFailure")),
    }
}

struct Conditions {
    all: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn get(&self, r#type: &str) -> Option<&DeploymentCondition> {
        self.all.iter().find(|condition| condition.type_.as_deref() == Some(r#type))
    }

    fn reason(&self, r#type: &str) -> Option<&str> {
        self.get(r#type)?.reason.as_deref()
    }

    /// Says something, unless it was said already.
    fn set(&mut self, r#type: &str, status: &str, reason: &str, message: String) {
        let same = self
            .get(r#type)
            .is_some_and(|old| old.status.as_deref() == Some(status) && old.reason.as_deref() == Some(reason));
        if !same {
            self.touch(r#type, status, reason, message);
        }
    }

    /// Says something, and that it was said now.
    fn touch(&mut self, r#type: &str, status: &str, reason: &str, message: String) {
        let old = self.all.iter().position(|condition| condition.type_.as_deref() == Some(r#type));
        let kept = old.map(|index| self.all.remove(index)).filter(|old| old.status.as_deref() == Some(status));
        let since = kept.and_then(|old| old.last_transition_time).unwrap_or(Time(self.now));
        self.all.push(DeploymentCondition {
            type_: Some(r#type.to_owned()),
            status: Some(status.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_update_time: Some(Time(self.now)),
            last_transition_time: Some(since),
        });
    }

    /// How much of `deadline` seconds is left since the condition was last said.
    fn left(&self, r#type: &str, deadline: i32) -> Option<Duration> {
        let since = self.get(r#type)?.last_update_time.as_ref()?.0;
        let left = SignedDuration::from_secs(i64::from(deadline)) - self.now.duration_since(since);
        Some(Duration::try_from(left).unwrap_or(Duration::ZERO))
    }
}
