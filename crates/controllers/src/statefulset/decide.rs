//! The next step of a StatefulSet: make what is missing, from the lowest ordinal up; remove what is too many and renew what is of an old
//! template, from the highest down; one at a time unless pods may come and go in parallel.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::events::Draft;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};

use super::{identity, retention, status};
use crate::mechanism::{Decision, Write, adopt, adoption_writes};
use crate::membership;
use crate::revisions::{self, HASH_LABEL, Present};
use crate::workload::{self, Availability};

#[derive(Debug)]
pub struct Observed<'a> {
    pub set: &'a StatefulSet,
    pub pods: Vec<Arc<Pod>>,
    /// Its revisions, oldest first.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// The claims that exist in the namespace, by name.
    pub claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    pub now: Timestamp,
}

/// A set with its pods in their places.
#[derive(Debug)]
pub struct Places<'a> {
    pub set: &'a StatefulSet,
    /// The pods that should be, by ordinal.
    pub kept: BTreeMap<i32, Arc<Pod>>,
    /// The pods that should not, by ordinal.
    pub surplus: BTreeMap<i32, Arc<Pod>>,
    pub first: i32,
    pub replicas: i32,
    /// Names of the revision that the set comes from and the one that it goes to.
    pub current: String,
    pub update: String,
    pub now: Timestamp,
}

impl Places<'_> {
    pub fn ordinals(&self) -> std::ops::Range<i32> {
        self.first..self.first.saturating_add(self.replicas)
    }

    pub fn is_available(&self, pod: &Pod) -> bool {
        let patience = self.set.spec.min_ready_seconds.unwrap_or(0);
        workload::availability(pod, patience, self.now) == Availability::Available
    }

    fn is_healthy(&self, pod: &Pod) -> bool {
        self.is_available(pod) && !membership::is_terminating(pod)
    }

    fn is_parallel(&self) -> bool {
        self.set.spec.pod_management_policy.as_deref() == Some("Parallel")
    }

    fn partition(&self) -> i32 {
        let strategy = self.set.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        strategy.and_then(|rolling| rolling.partition).unwrap_or(0)
    }
}

pub fn revision_of(pod: &Pod) -> &str {
    pod.labels().get(HASH_LABEL).map_or("", String::as_str)
}

pub fn decide(observed: &Observed<'_>) -> Decision {
    let set = observed.set;
    let Ok(selector) = Selector::try_from(set.spec.selector.clone()) else { return Decision::default() };
    let uid = set.uid().unwrap_or_default();
    let fits = |pod: &Pod| selector.matches(pod.labels()) && identity::ordinal(set, pod).is_some();
    let adoption = adopt(&uid, observed.pods.clone(), fits);
    let going = set.metadata.deletion_timestamp.is_some();
    if !going {
        let adopting = adoption_writes(set, &adoption);
        if !adopting.is_empty() {
            return adopting.into();
        }
    }
    let old = set.status.clone().unwrap_or_default();
    let collisions = old.collision_count.unwrap_or(0);
    let update = match revisions::present(set, &set.spec.template, collisions, &observed.revisions) {
        Present::Is(revision) => revision,
        Present::Writing(_) | Present::Collides if going => return Decision::default(),
        Present::Writing(write) => return vec![*write].into(),
        Present::Collides => return status::count_collision(set),
    };
    let known = |name: &String| observed.revisions.iter().any(|one| one.name_any() == *name);
    let current = old.current_revision.filter(known).unwrap_or_else(|| update.name_any());
    let places = place(observed, &adoption.ours, current, update.name_any());
    if !going {
        let kept = retention::writes(&places, &observed.claims);
        if !kept.is_empty() {
            return kept.into();
        }
        let step = step(&places, observed);
        if !step.writes.is_empty() {
            return step;
        }
    }
    let status = status::write(&places);
    if going || !status.writes.is_empty() {
        return status;
    }
    let limit = set.spec.revision_history_limit.unwrap_or(10);
    let used = |one: &ControllerRevision| {
        let name = one.name_any();
        name == places.current || name == places.update || adoption.ours.iter().any(|pod| revision_of(pod) == name)
    };
    Decision { writes: revisions::surplus(&observed.revisions, limit, used), ..status }
}

fn place<'a>(observed: &Observed<'a>, pods: &[Arc<Pod>], current: String, update: String) -> Places<'a> {
    let set = observed.set;
    let mut places = Places {
        set,
        kept: BTreeMap::new(),
        surplus: BTreeMap::new(),
        first: set.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0),
        replicas: set.spec.replicas.unwrap_or(1),
        current,
        update,
        now: observed.now,
    };
    for pod in pods {
        if let Some(ordinal) = identity::ordinal(set, pod) {
            let wanted = places.ordinals().contains(&ordinal);
            let to = if wanted { &mut places.kept } else { &mut places.surplus };
            to.insert(ordinal, Arc::clone(pod));
        }
    }
    places
}

fn step(places: &Places<'_>, observed: &Observed<'_>) -> Decision {
    let mut decision = Decision::default();
    if fill(places, observed, &mut decision) == Flow::Stop {
        return decision;
    }
    if shrink(places, &mut decision) == Flow::Stop || !decision.writes.is_empty() {
        return decision;
    }
    renew(places, &mut decision);
    decision
}

/// Whether what comes after may go on now.
#[derive(Debug, PartialEq, Eq)]
enum Flow {
    Go,
    Stop,
}

/// Makes missing pods, in order.
fn fill(places: &Places<'_>, observed: &Observed<'_>, decision: &mut Decision) -> Flow {
    for ordinal in places.ordinals() {
        match places.kept.get(&ordinal) {
            None => make(places, observed, ordinal, decision),
            Some(pod) if membership::is_finished(pod) && !membership::is_terminating(pod) => {
                let message =
                    format!("StatefulSet {} is recreating failed Pod {}", places.set.name_any(), pod.name_any());
                decision.events.push(Draft::warning(places.set, "RecreatingFailedPod", message));
                decision.writes.push(Write::delete(pod.as_ref()));
            }
            Some(pod) => {
                if workload::is_pending(pod) {
                    claim(places, observed, ordinal, decision);
                }
                if !places.is_parallel() && !places.is_healthy(pod) {
                    return Flow::Stop;
                }
            }
        }
        if !decision.writes.is_empty() && !places.is_parallel() {
            return Flow::Stop;
        }
    }
    Flow::Go
}

/// Makes the claims of an ordinal that are missing: with its pod, and again while that waits for them.
fn claim(places: &Places<'_>, observed: &Observed<'_>, ordinal: i32, decision: &mut Decision) {
    let set = places.set;
    for claim in identity::claims(set, ordinal) {
        let name = claim.name_any();
        if !observed.claims.contains_key(&name) {
            let pod = identity::pod_name(set, ordinal);
            let message = format!("create Claim {name} Pod {pod} in StatefulSet {} success", set.name_any());
            decision.events.push(Draft::normal(set, "SuccessfulCreate", message));
            decision.writes.push(Write::create(&claim));
        }
    }
}

fn make(places: &Places<'_>, observed: &Observed<'_>, ordinal: i32, decision: &mut Decision) {
    let set = places.set;
    claim(places, observed, ordinal, decision);
    let (template, revision) = version(places, observed, ordinal);
    let pod = identity::pod(set, ordinal, &template, &revision);
    let message = format!("create Pod {} in StatefulSet {} successful", pod.name_any(), set.name_any());
    decision.events.push(Draft::normal(set, "SuccessfulCreate", message));
    decision.writes.push(Write::create(&pod));
}

/// Which template a new pod gets: below the partition, and where the rollout has not come to yet, still the old one.
fn version(places: &Places<'_>, observed: &Observed<'_>, ordinal: i32) -> (PodTemplateSpec, String) {
    let rolling = places.set.spec.update_strategy.as_ref();
    let on_delete = rolling.is_some_and(|strategy| strategy.type_.as_deref() == Some("OnDelete"));
    let place = ordinal - places.first;
    let renewed = places.set.status.as_ref().and_then(|status| status.updated_replicas).unwrap_or(0);
    // The rollout goes from the highest ordinal down, so the lowest ones are of the old template for the longest.
    let untouched = places.replicas - renewed - 1;
    let old = places.current != places.update && !on_delete && (place < places.partition() || place < untouched);
    let found = observed.revisions.iter().find(|one| one.name_any() == places.current).filter(|_| old);
    match found.and_then(|revision| revisions::template(revision)) {
        Some(template) => (template, places.current.clone()),
        None => (places.set.spec.template.clone(), places.update.clone()),
    }
}

/// Deletes surplus pods, the highest ordinal first.
fn shrink(places: &Places<'_>, decision: &mut Decision) -> Flow {
    let first_unhealthy = places.surplus.iter().find(|(_, pod)| !places.is_healthy(pod)).map(|(ordinal, _)| *ordinal);
    for (ordinal, pod) in places.surplus.iter().rev() {
        if membership::is_terminating(pod) {
            if places.is_parallel() {
                continue;
            }
            return Flow::Stop;
        }
        if !places.is_parallel() && !places.is_healthy(pod) && first_unhealthy != Some(*ordinal) {
            return Flow::Stop;
        }
        delete(places, pod, decision);
        if !places.is_parallel() {
            return Flow::Stop;
        }
    }
    Flow::Go
}

/// Replaces pods of an old template, the highest ordinal first, as long as those above are well.
fn renew(places: &Places<'_>, decision: &mut Decision) {
    let strategy = places.set.spec.update_strategy.as_ref();
    if strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("OnDelete")) {
        return;
    }
    let limit = strategy.and_then(|strategy| strategy.rolling_update.as_ref()?.max_unavailable.as_ref());
    let limit = limit.map_or(1, |limit| crate::deployment::resolve(limit, places.replicas, true).max(1));
    let mut missing = 0;
    for (ordinal, pod) in places.kept.iter().rev() {
        if ordinal - places.first < places.partition() || missing >= limit {
            return;
        }
        if revision_of(pod) != places.update && !membership::is_terminating(pod) {
            delete(places, pod, decision);
            missing += 1;
        } else if !places.is_healthy(pod) {
            missing += 1;
        }
    }
}

fn delete(places: &Places<'_>, pod: &Arc<Pod>, decision: &mut Decision) {
    let message = format!("delete Pod {} in StatefulSet {} successful", pod.name_any(), places.set.name_any());
    decision.events.push(Draft::normal(places.set, "SuccessfulDelete", message));
    decision.writes.push(Write::delete(pod.as_ref()));
}
