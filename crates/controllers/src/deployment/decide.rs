//! The one next step of a Deployment: the first thing that is not as it should be.
//!
//! Each decision does one kind of thing (take up ReplicaSets, make the new one, scale, clean up, tell the status) and leaves the rest to
//! the decision that follows when the views show it. So every step is taken on facts, and a crash between two steps loses nothing.

use std::sync::Arc;
use std::time::Duration;

use client::events::Draft;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use serde_json::json;

use super::{revision, rolling, scale, status};
use crate::mechanism::{Decision, Write, adopt, adoption_writes};

#[derive(Debug)]
pub struct Observed<'a> {
    pub deployment: &'a Deployment,
    /// Its ReplicaSets, and those without a controller that its selector selects.
    pub sets: Vec<Arc<ReplicaSet>>,
    /// The pods of its ReplicaSets.
    pub pods: Vec<Arc<Pod>>,
    /// The ReplicaSet that has the name which the new one would get, whoever owns it.
    pub namesake: Option<Arc<ReplicaSet>>,
    pub now: Timestamp,
}

/// A Deployment with its ReplicaSets sorted out.
#[derive(Debug)]
pub struct Rollout<'a> {
    pub deployment: &'a Deployment,
    pub spec: &'a DeploymentSpec,
    /// The ReplicaSet of the present template.
    pub new: Option<Arc<ReplicaSet>>,
    /// All others, oldest first.
    pub old: Vec<Arc<ReplicaSet>>,
    pub now: Timestamp,
}

impl Rollout<'_> {
    pub fn desired(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }

    pub fn is_recreate(&self) -> bool {
        self.spec.strategy.as_ref().is_some_and(|strategy| strategy.type_.as_deref() == Some("Recreate"))
    }
}

pub fn decide(observed: &Observed<'_>) -> Decision {
    let deployment = observed.deployment;
    let spec = &deployment.spec;
    let Ok(selector) = Selector::try_from(spec.selector.clone()) else { return Decision::default() };
    if selector.selects_all() {
        let message = "This deployment is selecting all pods. A non-empty selector is required.";
        return tell(Draft::warning(deployment, "SelectingAll", message));
    }
    let uid = deployment.uid().unwrap_or_default();
    let adoption = adopt(&uid, observed.sets.clone(), |set: &ReplicaSet| selector.matches(set.labels()));
    let adopting = adoption_writes(deployment, &adoption);
    let (new, old) = revision::split(spec, adoption.ours);
    let rollout = Rollout { deployment, spec, new, old, now: observed.now };
    if deployment.metadata.deletion_timestamp.is_some() {
        return status::write(&rollout);
    }
    if !adopting.is_empty() {
        return adopting.into();
    }
    let step = status::pause(&rollout)
        .or_else(|| revision::settle(&rollout))
        .or_else(|| step(&rollout, observed))
        .or_else(|| clean_up(&rollout));
    step.unwrap_or_else(|| status::write(&rollout))
}

fn tell(event: Draft) -> Decision {
    Decision { events: vec![event], ..Decision::default() }
}

/// Makes or scales ReplicaSets, if that is what comes next.
fn step(rollout: &Rollout<'_>, observed: &Observed<'_>) -> Option<Decision> {
    if rollout.spec.paused == Some(true) || scale::is_asked(rollout) {
        return scale::decide(rollout);
    }
    if rollout.is_recreate() { recreate(rollout, observed) } else { roll(rollout, observed) }
}

fn roll(rollout: &Rollout<'_>, observed: &Observed<'_>) -> Option<Decision> {
    match &rollout.new {
        None => Some(make_new(rollout, observed)),
        Some(new) => rolling::decide(rollout, new),
    }
}

/// All old pods end before the first new one starts.
fn recreate(rollout: &Rollout<'_>, observed: &Observed<'_>) -> Option<Decision> {
    let down: Vec<_> = rollout.old.iter().filter(|set| replicas(set) > 0).map(|set| (set, 0)).collect();
    if !down.is_empty() {
        return Some(scale::to(rollout, down));
    }
    let new_uid = rollout.new.as_ref().and_then(|new| new.uid());
    let of_new =
        |pod: &Pod| crate::mechanism::controller_of(pod).is_some_and(|owner| Some(&owner.uid) == new_uid.as_ref());
    let running = |pod: &&Arc<Pod>| !of_new(pod) && !crate::membership::is_finished(pod);
    if observed.pods.iter().any(|pod| running(&pod)) {
        return None;
    }
    match &rollout.new {
        None => Some(make_new(rollout, observed)),
        Some(new) if replicas(new) != rollout.desired() => Some(scale::to(rollout, vec![(new, rollout.desired())])),
        Some(_) => None,
    }
}

fn make_new(rollout: &Rollout<'_>, observed: &Observed<'_>) -> Decision {
    let count = if rollout.is_recreate() { rollout.desired() } else { rolling::new_count(rollout, 0) };
    if let Some(namesake) = &observed.namesake {
        // Not ours, or of another template: its name stands in our way, so the hash must be another. A ReplicaSet of ours that is
        // being deleted gives the name back.
        return if namesake.metadata.deletion_timestamp.is_some() {
            Decision { again: Some(Duration::from_secs(1)), ..Decision::default() }
        } else {
            status::count_collision(rollout.deployment)
        };
    }
    let set = revision::make(rollout, count);
    let mut decision = Decision::from(vec![Write::create(&set)]);
    if count > 0 {
        let message = format!("Scaled up replica set {} from 0 to {count}", set.name_any());
        decision.events.push(Draft::normal(rollout.deployment, "ScalingReplicaSet", message));
    }
    decision
}

/// Deletes the oldest of the ReplicaSets that are only kept to roll back to.
fn clean_up(rollout: &Rollout<'_>) -> Option<Decision> {
    if !status::is_complete(rollout) && rollout.spec.paused != Some(true) {
        return None;
    }
    let limit = usize::try_from(rollout.spec.revision_history_limit.unwrap_or(10)).ok()?;
    let idle = |set: &ReplicaSet| {
        let seen = set.status.as_ref().is_some_and(|status| status.observed_generation >= set.metadata.generation);
        replicas(set) == 0 && present(set) == 0 && seen
    };
    // One that goes already is not kept, and is not one too many.
    let mut kept: Vec<&Arc<ReplicaSet>> =
        rollout.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
    let surplus = kept.len().checked_sub(limit).filter(|surplus| *surplus > 0)?;
    kept.sort_by_key(|set| revision::of(set));
    let oldest = kept.into_iter().take(surplus).filter(|set| idle(set));
    let writes: Vec<Write> = oldest.map(|set| Write::delete(set.as_ref())).collect();
    (!writes.is_empty()).then(|| writes.into())
}

pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// How many pods the ReplicaSet has now.
pub fn present(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

/// How many of its pods are available, never more than it is to keep: the rest may be on their way out.
pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0).min(replicas(set))
}

/// A merge patch that is refused when the object has changed since we saw it.
pub fn guarded(set: &ReplicaSet, mut patch: serde_json::Value) -> Write {
    patch["metadata"]["uid"] = json!(set.metadata.uid);
    patch["metadata"]["resourceVersion"] = json!(set.metadata.resource_version);
    Write::patch(set, patch)
}
