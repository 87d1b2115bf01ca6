//! How a number of alike pods is kept: take up strays, make what is missing, delete what is too many, count.
//!
//! The names of new pods follow from the facts of the decision. Deciding twice on the same facts meets the names taken, and the server
//! refuses: no surplus pod comes about.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use client::events::Draft;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::core::{Selector, SelectorExt};
use kube::{Resource, ResourceExt};

use crate::mechanism::{Write, adopt, adoption_writes, owner_reference};
use crate::workload::{self, Availability};
use crate::{membership, names};

/// How many pods are made or deleted in one go.
const BURST: usize = 500;

/// What a ReplicaSet and a ReplicationController have in common.
#[derive(Debug)]
pub struct Wanted<'a, O> {
    pub owner: &'a O,
    pub replicas: usize,
    pub selector: &'a Selector,
    pub template: &'a PodTemplateSpec,
    pub min_ready_seconds: i32,
}

/// The pods of an owner and those that it could take up, and whether a name is another pod's.
pub struct Candidates<'a> {
    pub pods: Vec<Arc<Pod>>,
    pub is_taken: &'a dyn Fn(&str) -> bool,
}

impl std::fmt::Debug for Candidates<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Candidates").field("pods", &self.pods).finish_non_exhaustive()
    }
}

/// What is to be done, and what there is.
#[derive(Debug, Default)]
pub struct Kept {
    pub writes: Vec<Write>,
    pub events: Vec<Draft>,
    pub count: Count,
    pub again: Option<Duration>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    pub replicas: i32,
    pub fully_labelled: i32,
    pub ready: i32,
    pub available: i32,
    pub terminating: i32,
}

/// Decides about the pods that are `owner`'s or could be.
pub fn keep<O>(wanted: &Wanted<'_, O>, candidates: Candidates<'_>, now: Timestamp) -> Kept
where
    O: Resource<DynamicType = ()>,
{
    let uid = wanted.owner.meta().uid.clone().unwrap_or_default();
    let mine = |pod: &Pod| crate::mechanism::is_controlled_by(pod, &uid);
    let Candidates { pods, is_taken } = candidates;
    let candidates = pods.into_iter().filter(|pod| !membership::is_finished(pod) || mine(pod)).collect();
    let adoption = adopt(&uid, candidates, |pod: &Pod| wanted.selector.matches(pod.labels()));
    let deleting = wanted.owner.meta().deletion_timestamp.is_some();
    let (active, rest): (Vec<_>, Vec<_>) = adoption.ours.iter().cloned().partition(|pod| workload::is_active(pod));
    let mut kept = Kept { count: count(wanted, &active, now), ..Kept::default() };
    kept.count.terminating = rest.iter().filter(|pod| membership::is_terminating(pod)).map(|_| 1).sum();
    kept.again = active.iter().filter_map(|pod| soon(pod, wanted.min_ready_seconds, now)).min();
    if deleting {
        return kept;
    }
    kept.writes = adoption_writes(wanted.owner, &adoption);
    if !kept.writes.is_empty() {
        // Counts change with this; what is missing is decided when the views show it.
        return kept;
    }
    if active.len() < wanted.replicas {
        let missing = (wanted.replicas - active.len()).min(BURST);
        let revisions = adoption.ours.iter().filter_map(|pod| pod.resource_version()?.parse::<u64>().ok());
        let newest = revisions.max().unwrap_or(0);
        make(wanted, missing, newest, is_taken, &mut kept);
    } else if active.len() > wanted.replicas {
        let surplus = (active.len() - wanted.replicas).min(BURST);
        remove(wanted, active, surplus, &mut kept);
    }
    kept
}

fn make<O>(wanted: &Wanted<'_, O>, missing: usize, newest: u64, is_taken: &dyn Fn(&str) -> bool, kept: &mut Kept)
where
    O: Resource<DynamicType = ()>,
{
    let meta = wanted.owner.meta();
    let names = (0_u64..).map(|ordinal| {
        let mut hasher = names::Fnv::default();
        (&meta.uid, &meta.resource_version, newest, ordinal).hash(&mut hasher);
        format!("{}-{}", wanted.owner.name_any(), names::suffix(hasher.finish()))
    });
    let mut used = BTreeSet::new();
    for name in names.filter(|name| !is_taken(name) && used.insert(name.clone())).take(missing) {
        kept.events.push(Draft::normal(wanted.owner, "SuccessfulCreate", format!("Created pod: {name}")));
        let owner = owner_reference(wanted.owner);
        let pod = workload::pod_from(wanted.template, owner, meta.namespace.clone(), name);
        kept.writes.push(Write::create(&pod));
    }
}

fn remove<O>(wanted: &Wanted<'_, O>, mut active: Vec<Arc<Pod>>, surplus: usize, kept: &mut Kept)
where
    O: Resource<DynamicType = ()>,
{
    workload::rank_for_deletion(&mut active);
    for pod in active.iter().take(surplus) {
        let message = format!("Deleted pod: {}", pod.name_any());
        kept.events.push(Draft::normal(wanted.owner, "SuccessfulDelete", message));
        kept.writes.push(Write::delete(pod.as_ref()));
    }
}

fn count<O>(wanted: &Wanted<'_, O>, active: &[Arc<Pod>], now: Timestamp) -> Count {
    let expected = wanted.template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let labelled = |pod: &Pod| expected.iter().all(|(key, value)| pod.labels().get(key) == Some(value));
    let mut count = Count::default();
    for pod in active {
        count.replicas += 1;
        count.fully_labelled += i32::from(labelled(pod));
        match workload::availability(pod, wanted.min_ready_seconds, now) {
            Availability::NotReady => {}
            Availability::In(_) => count.ready += 1,
            Availability::Available => {
                count.ready += 1;
                count.available += 1;
            }
        }
    }
    count
}

fn soon(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    match workload::availability(pod, min_ready_seconds, now) {
        Availability::In(left) => Some(left),
        Availability::NotReady | Availability::Available => None,
    }
}
