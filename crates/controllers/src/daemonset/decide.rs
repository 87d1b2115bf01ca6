//! The next step of a DaemonSet: a pod where one is missing, none where none belongs, and the old ones replaced as fast as is allowed.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use client::events::Draft;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};

use super::placement::{self, Place};
use super::{renew, status};
use crate::mechanism::{Decision, Write, adopt, adoption_writes, owner_reference};
use crate::revisions::{self, HASH_LABEL, Present};
use crate::workload::{self, Availability};
use crate::{membership, names};

pub struct Observed<'a> {
    pub set: &'a DaemonSet,
    pub pods: Vec<Arc<Pod>>,
    pub nodes: Vec<Arc<Node>>,
    /// Its revisions, oldest first.
    pub revisions: Vec<Arc<ControllerRevision>>,
    pub is_taken: &'a dyn Fn(&str) -> bool,
    /// What is left of a node's pause, when a pod has failed there again; asked once for each failed pod that is to go.
    pub pause: &'a dyn Fn(&str) -> Option<Duration>,
    pub now: Timestamp,
}

/// One node and the set's pods on it.
#[derive(Debug)]
pub struct Seat {
    pub node: String,
    pub place: Place,
    /// Pods that are not finished, the oldest first; those that are being deleted too.
    pub pods: Vec<Arc<Pod>>,
    /// Pods that have ended and nobody has deleted yet. Those that are only held by somebody else take no place.
    pub ended: Vec<Arc<Pod>>,
}

impl Seat {
    pub fn oldest(&self) -> Option<&Arc<Pod>> {
        self.pods.iter().chain(&self.ended).min_by_key(|pod| age(pod))
    }
}

/// Upstream's order of a node's pods: those that are on it before those that are only meant for it, the oldest first.
fn age(pod: &Pod) -> (bool, Option<Timestamp>, String) {
    let is_bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_some_and(|name| !name.is_empty());
    (!is_bound, pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod.name_any())
}

/// All nodes, and the revision that pods should be of.
#[derive(Debug)]
pub struct Seats<'a> {
    pub set: &'a DaemonSet,
    pub all: Vec<Seat>,
    pub hash: String,
    pub now: Timestamp,
}

impl Seats<'_> {
    pub fn is_available(&self, pod: &Pod) -> bool {
        let patience = self.set.spec.min_ready_seconds.unwrap_or(0);
        workload::availability(pod, patience, self.now) == Availability::Available && !membership::is_terminating(pod)
    }

    pub fn is_new(&self, pod: &Pod) -> bool {
        pod.labels().get(HASH_LABEL) == Some(&self.hash)
    }
}

pub fn decide(observed: &Observed<'_>) -> Decision {
    let set = observed.set;
    let Ok(selector) = Selector::try_from(set.spec.selector.clone()) else { return Decision::default() };
    if selector.selects_all() {
        let message = "This daemon set is selecting all pods. A non-empty selector is required.";
        return Decision { events: vec![Draft::warning(set, "SelectingAll", message)], ..Decision::default() };
    }
    if set.metadata.deletion_timestamp.is_some() {
        return Decision::default();
    }
    let uid = set.uid().unwrap_or_default();
    let adoption = adopt(&uid, observed.pods.clone(), |pod: &Pod| selector.matches(pod.labels()));
    let adopting = adoption_writes(set, &adoption);
    if !adopting.is_empty() {
        return adopting.into();
    }
    let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let revision = match revisions::present(set, &set.spec.template, collisions, &observed.revisions) {
        Present::Is(revision) => revision,
        Present::Writing(write) => return vec![*write].into(),
        Present::Collides => return status::count_collision(set),
    };
    let hash = revision.labels().get(HASH_LABEL).cloned().unwrap_or_default();
    let seats = Seats { set, all: seats(observed, &adoption.ours), hash, now: observed.now };
    let seated = seat(&seats, observed);
    if !seated.writes.is_empty() {
        return seated;
    }
    let renewed = renew(&seats, observed);
    if !renewed.writes.is_empty() {
        return Decision { again: seated.again, ..renewed };
    }
    let mut decision = status::write(&seats);
    decision.again = decision.again.into_iter().chain(seated.again).min();
    if decision.writes.is_empty() {
        let limit = set.spec.revision_history_limit.unwrap_or(10);
        let used = |one: &ControllerRevision| {
            let hash = one.labels().get(HASH_LABEL);
            hash == Some(&seats.hash) || adoption.ours.iter().any(|pod| pod.labels().get(HASH_LABEL) == hash)
        };
        decision.writes = revisions::surplus(&observed.revisions, limit, used);
    }
    decision
}

fn seats(observed: &Observed<'_>, pods: &[Arc<Pod>]) -> Vec<Seat> {
    let mut by_node: BTreeMap<&str, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        by_node.entry(placement::target(pod).unwrap_or_default()).or_default().push(Arc::clone(pod));
    }
    let seat = |node: &Arc<Node>| {
        let name = node.name_any();
        let mut here = by_node.remove(name.as_str()).unwrap_or_default();
        here.sort_by_key(|pod| age(pod));
        let (mut ended, pods): (Vec<Arc<Pod>>, _) = here.into_iter().partition(|pod| membership::is_finished(pod));
        ended.retain(|pod| !membership::is_terminating(pod));
        Seat { node: name, place: placement::place(&observed.set.spec.template, node), pods, ended }
    };
    observed.nodes.iter().map(seat).collect()
}

/// Pods where they are missing, and none where they do not belong.
fn seat(seats: &Seats<'_>, observed: &Observed<'_>) -> Decision {
    let mut decision = Decision::default();
    for seat in &seats.all {
        let staying: Vec<&Arc<Pod>> = seat.pods.iter().filter(|pod| !membership::is_terminating(pod)).collect();
        match seat.place {
            Place::Wanted if seat.pods.is_empty() && seat.ended.is_empty() => {
                make(seats, observed, seat, &mut decision)
            }
            Place::Wanted | Place::Tolerated => {
                seat.ended.iter().for_each(|pod| clear(seats, observed, (seat, pod), &mut decision));
                surplus(seats, &staying).into_iter().for_each(|pod| remove(seats, pod, &mut decision));
            }
            Place::Unwanted => staying.into_iter().chain(&seat.ended).for_each(|pod| remove(seats, pod, &mut decision)),
        }
    }
    decision
}

/// Makes room for the successor of a pod that has ended, unless that happens too often there.
fn clear(seats: &Seats<'_>, observed: &Observed<'_>, (seat, pod): (&Seat, &Arc<Pod>), decision: &mut Decision) {
    if let Some(left) = (observed.pause)(&seat.node) {
        decision.again = Some(decision.again.map_or(left, |other| other.min(left)));
        return;
    }
    let (name, node) = (name(pod), &seat.node);
    decision.events.push(if workload::has_failed(pod) {
        let text = format!("Found failed daemon pod {name} on node {node}, will try to kill it");
        Draft::warning(seats.set, "FailedDaemonPod", text)
    } else {
        let text = format!("Found succeeded daemon pod {name} on node {node}, will try to delete it");
        Draft::normal(seats.set, "SucceededDaemonPod", text)
    });
    decision.writes.push(Write::delete(pod.as_ref()));
}

/// Pods of a node, the oldest first, that are more than may be there: all but the oldest; where a new one may come beside an old one, the
/// oldest of each kind, as long as the old one is ready and the new one is not available.
fn surplus<'a>(seats: &Seats<'_>, staying: &[&'a Arc<Pod>]) -> Vec<&'a Arc<Pod>> {
    if !renew::allows_surge(seats.set) {
        return staying.iter().skip(1).copied().collect();
    }
    let (new, old): (Vec<_>, Vec<_>) = staying.iter().copied().partition(|pod| seats.is_new(pod));
    let mut surplus: Vec<&Arc<Pod>> = new.iter().skip(1).chain(old.iter().skip(1)).copied().collect();
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (!membership::is_ready(old) || seats.is_available(new))
    {
        surplus.push(old);
    }
    surplus
}

/// Replaces pods of old revisions.
fn renew(seats: &Seats<'_>, observed: &Observed<'_>) -> Decision {
    let mut decision = Decision::default();
    let renewal = renew::decide(seats);
    renewal.remove.into_iter().for_each(|pod| remove(seats, pod, &mut decision));
    renewal.make.into_iter().for_each(|seat| make(seats, observed, seat, &mut decision));
    decision
}

fn make(seats: &Seats<'_>, observed: &Observed<'_>, seat: &Seat, decision: &mut Decision) {
    let set = seats.set;
    let newest = observed.pods.iter().filter_map(|pod| pod.resource_version()?.parse::<u64>().ok()).max().unwrap_or(0);
    let names = (0_u64..).map(|ordinal| {
        let mut hasher = names::Fnv::default();
        (&set.metadata.uid, &set.metadata.resource_version, &seat.node, &seats.hash, newest, ordinal).hash(&mut hasher);
        format!("{}-{}", set.name_any(), names::suffix(hasher.finish()))
    });
    let made = |name: &str| decision.writes.iter().any(|write| write.target.key.name == name);
    let Some(name) = { names }.find(|name| !(observed.is_taken)(name) && !made(name)) else { return };
    let mut pod = workload::pod_from(&set.spec.template, owner_reference(set), set.namespace(), name);
    pod.metadata.labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), seats.hash.clone());
    pod.spec = pod.spec.map(|spec| placement::bound_to(spec, &seat.node));
    decision.events.push(Draft::normal(set, "SuccessfulCreate", format!("Created pod: {}", pod.name_any())));
    decision.writes.push(Write::create(&pod));
}

fn remove(seats: &Seats<'_>, pod: &Arc<Pod>, decision: &mut Decision) {
    decision.events.push(Draft::normal(seats.set, "SuccessfulDelete", format!("Deleted pod: {}", pod.name_any())));
    decision.writes.push(Write::delete(pod.as_ref()));
}

fn name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}
