//! The next step of a DaemonSet: a pod where one is missing, none where none belongs, and the old ones replaced as fast as is allowed.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use client::events::Draft;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};

use super::placement::{self, Place};
use super::status;
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
    pub now: Timestamp,
}

/// One node and the set's pods on it.
#[derive(Debug)]
pub struct Seat {
    pub node: String,
    pub place: Place,
    /// Pods that are not finished, the oldest first; those that are being deleted too.
    pub pods: Vec<Arc<Pod>>,
    pub failed: Vec<Arc<Pod>>,
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
    let mut decision = seat(&seats, observed);
    if decision.writes.is_empty() {
        decision = renew(&seats, observed);
    }
    if !decision.writes.is_empty() {
        return decision;
    }
    let mut decision = status::write(&seats);
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
        here.sort_by_key(|pod| (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod.name_any()));
        let (failed, pods) = here.into_iter().partition(|pod| membership::is_finished(pod));
        Seat { node: name, place: placement::place(&observed.set.spec.template, node), pods, failed }
    };
    observed.nodes.iter().map(seat).collect()
}

/// Pods where they are missing, and none where they do not belong.
fn seat(seats: &Seats<'_>, observed: &Observed<'_>) -> Decision {
    let mut decision = Decision::default();
    for seat in &seats.all {
        for pod in seat.failed.iter().filter(|pod| !membership::is_terminating(pod)) {
            let text = format!("Found failed daemon pod {} on node {}, will try to kill it", name(pod), seat.node);
            decision.events.push(Draft::warning(seats.set, "FailedDaemonPod", text));
            decision.writes.push(Write::delete(pod.as_ref()));
        }
        let staying: Vec<&Arc<Pod>> = seat.pods.iter().filter(|pod| !membership::is_terminating(pod)).collect();
        match seat.place {
            Place::Wanted if seat.pods.is_empty() && seat.failed.is_empty() => {
                make(seats, observed, seat, &mut decision)
            }
            Place::Wanted | Place::Tolerated => {
                let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = staying.iter().partition(|pod| seats.is_new(pod));
                // One of each revision may be there at once while the new one starts; more is too much.
                for pod in new.iter().skip(1).chain(old.iter().skip(1)) {
                    remove(seats, pod, &mut decision);
                }
            }
            Place::Unwanted => staying.iter().for_each(|pod| remove(seats, pod, &mut decision)),
        }
    }
    decision
}

/// Replaces pods of old revisions: as many at once as may be missing, or with a new one beside the old where that is asked for.
fn renew(seats: &Seats<'_>, observed: &Observed<'_>) -> Decision {
    let mut decision = Decision::default();
    let strategy = seats.set.spec.update_strategy.as_ref();
    if strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("OnDelete")) {
        return decision;
    }
    let wanted: Vec<&Seat> = seats.all.iter().filter(|seat| seat.place == Place::Wanted).collect();
    let total = i32::try_from(wanted.len()).unwrap_or(i32::MAX);
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let limit =
        |value: Option<&IntOrString>, default| value.map_or(default, |v| crate::deployment::resolve(v, total, true));
    let surge = limit(rolling.and_then(|rolling| rolling.max_surge.as_ref()), 0);
    let unavailable = limit(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), i32::from(surge == 0));
    let missing = |seat: &&&Seat| !seat.pods.iter().any(|pod| seats.is_available(pod));
    let mut room = unavailable - wanted.iter().filter(missing).map(|_| 1).sum::<i32>();
    let surging = |seat: &&&Seat| seat.pods.len() > 1;
    let mut extra = surge - wanted.iter().filter(surging).map(|_| 1).sum::<i32>();
    for seat in wanted {
        let new = seat.pods.iter().find(|pod| seats.is_new(pod));
        let Some(old) = seat.pods.iter().find(|pod| !seats.is_new(pod)).filter(|pod| !membership::is_terminating(pod))
        else {
            continue;
        };
        let serves = seats.is_available(old);
        if new.is_some_and(|new| seats.is_available(new)) || (!serves && surge == 0) {
            remove(seats, old, &mut decision);
        } else if new.is_none() && extra > 0 {
            extra -= 1;
            make(seats, observed, seat, &mut decision);
        } else if new.is_none() && room > 0 && surge == 0 {
            room -= 1;
            remove(seats, old, &mut decision);
        }
    }
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
