//! A rolling update: which pods of old revisions go, and which nodes get a new one beside the old.
//!
//! Without `maxSurge` a pod goes before its successor comes, and `maxUnavailable` bounds how many nodes are without. With it the successor
//! comes first; a node whose old pod serves nobody gets one at once, beyond the bound. Both as upstream decides.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::decide::{Seat, Seats};
use super::placement::Place;
use crate::membership;

/// What a rolling update does now.
#[derive(Debug, Default)]
pub struct Renewal<'a> {
    pub remove: Vec<&'a Arc<Pod>>,
    pub make: Vec<&'a Seat>,
}

/// `maxSurge` and `maxUnavailable` in nodes.
#[derive(Debug, Clone, Copy)]
struct Limits {
    surge: i32,
    unavailable: i32,
}

/// Whether a pod of the present revision may be beside an old one.
pub fn allows_surge(set: &DaemonSet) -> bool {
    limits(set, 1).is_some_and(|limits| limits.surge > 0)
}

pub fn decide<'a>(seats: &'a Seats<'_>) -> Renewal<'a> {
    let wanted: i32 = seats.all.iter().filter(|seat| seat.place == Place::Wanted).map(|_| 1).sum();
    let Some(limits) = limits(seats.set, wanted) else { return Renewal::default() };
    // What is where it may not be goes anyway.
    let occupied = seats.all.iter().filter(|seat| seat.place != Place::Unwanted && !seat.pods.is_empty());
    let pairs: Vec<Pair<'_>> = occupied.map(|seat| Pair::on(seats, seat)).collect();
    if limits.surge > 0 {
        beside(seats, &pairs, limits.surge, wanted)
    } else {
        after(seats, &pairs, limits.unavailable)
    }
}

/// Nothing for a set whose pods are renewed when somebody deletes them.
fn limits(set: &DaemonSet, nodes: i32) -> Option<Limits> {
    let strategy = set.spec.update_strategy.as_ref();
    if strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("OnDelete")) {
        return None;
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let count = |value: Option<&IntOrString>, default| {
        value.map_or(default, |value| crate::deployment::resolve(value, nodes, true))
    };
    let surge = count(rolling.and_then(|rolling| rolling.max_surge.as_ref()), 0);
    let unavailable = count(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), i32::from(surge == 0));
    // Both zero would stand still.
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    Some(Limits { surge, unavailable })
}

/// The pods of a node that stay: at most one of each kind, or the node is put in order first.
struct Pair<'a> {
    seat: &'a Seat,
    new: Option<&'a Arc<Pod>>,
    old: Option<&'a Arc<Pod>>,
}

impl<'a> Pair<'a> {
    fn on(seats: &Seats<'_>, seat: &'a Seat) -> Pair<'a> {
        let staying = || seat.pods.iter().filter(|pod| !membership::is_terminating(pod));
        Pair { seat, new: staying().find(|pod| seats.is_new(pod)), old: staying().find(|pod| !seats.is_new(pod)) }
    }
}

/// A pod goes, then its successor comes.
fn after<'a>(seats: &Seats<'_>, pairs: &[Pair<'a>], limit: i32) -> Renewal<'a> {
    let mut missing = 0;
    let (mut dead, mut serving) = (Vec::new(), Vec::new());
    for pair in pairs {
        match (pair.new, pair.old) {
            (None, None) | (Some(_), Some(_)) => missing += 1,
            (Some(new), None) => missing += i32::from(!seats.is_available(new)),
            (None, Some(old)) if seats.is_available(old) => serving.push(old),
            (None, Some(old)) => {
                missing += 1;
                dead.push(old);
            }
        }
    }
    let room = usize::try_from(limit - missing).unwrap_or(0);
    Renewal { remove: dead.into_iter().chain(serving.into_iter().take(room)).collect(), make: Vec::new() }
}

/// A successor comes, then the pod goes.
fn beside<'a>(seats: &Seats<'_>, pairs: &[Pair<'a>], limit: i32, wanted: i32) -> Renewal<'a> {
    let (mut surging, mut available) = (0, 0);
    let (mut urgent, mut candidates, mut misplaced, mut remove) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for pair in pairs {
        available += i32::from(pair.old.or(pair.new).is_some_and(|pod| seats.is_available(pod)));
        let may_have = pair.seat.place == Place::Wanted;
        match (pair.new, pair.old) {
            (_, None) => {}
            (None, Some(old)) => match (seats.is_available(old), may_have) {
                (true, true) => candidates.push(pair.seat),
                (true, false) => misplaced.push(old),
                (false, true) => urgent.push(pair.seat),
                (false, false) => remove.push(old),
            },
            (Some(new), Some(old)) if seats.is_available(new) => remove.push(old),
            (Some(_), Some(_)) => surging += 1,
        }
    }
    // One that may not be made anew goes only when there are enough others.
    remove.extend(misplaced.into_iter().take(usize::try_from(available - wanted).unwrap_or(0)));
    let room = usize::try_from(limit - surging).unwrap_or(0);
    Renewal { remove, make: urgent.into_iter().chain(candidates.into_iter().take(room)).collect() }
}
