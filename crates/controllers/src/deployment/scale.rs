//! Scaling: `spec.replicas` was changed, possibly in the middle of a rollout, and every ReplicaSet takes its share.

use std::sync::Arc;

use client::events::Draft;
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::ResourceExt;
use serde_json::json;

use super::decide::{Rollout, available, guarded, replicas};
use super::revision::{DESIRED, MAX};
use super::rolling;
use crate::mechanism::Decision;

/// Whether the Deployment was scaled since its ReplicaSets last were.
pub fn is_asked(rollout: &Rollout<'_>) -> bool {
    rollout
        .all()
        .filter(|set| replicas(set) > 0)
        .any(|set| number(set, DESIRED).is_some_and(|desired| desired != rollout.desired()))
}

/// Gives each ReplicaSet what it should have at the Deployment's new size.
pub fn decide(rollout: &Rollout<'_>) -> Option<Decision> {
    let active: Vec<&Arc<ReplicaSet>> = rollout.all().filter(|set| replicas(set) > 0).collect();
    let only = match active.as_slice() {
        [] => rollout.new.as_ref().or(rollout.old.last()),
        [one] => Some(*one),
        [_, _, ..] => None,
    };
    let counts: Vec<(&Arc<ReplicaSet>, i32)> = match only {
        Some(set) => vec![(set, rollout.desired())],
        None if active.is_empty() => Vec::new(),
        None if rollout.new.as_ref().is_some_and(|new| is_saturated(rollout, new)) => {
            rollout.old.iter().map(|set| (set, 0)).collect()
        }
        None if rollout.is_recreate() => Vec::new(),
        None => proportions(rollout, &active),
    };
    let wrong = |(set, count): &(&Arc<ReplicaSet>, i32)| {
        *count != replicas(set) || (*count > 0 && number(set, DESIRED) != Some(rollout.desired()))
    };
    let counts: Vec<_> = counts.into_iter().filter(wrong).collect();
    (!counts.is_empty()).then(|| to(rollout, counts))
}

/// Scales ReplicaSets, notes the size that this was for, and tells people.
pub fn to(rollout: &Rollout<'_>, counts: Vec<(&Arc<ReplicaSet>, i32)>) -> Decision {
    let max = rollout.desired() + rolling::max_surge(rollout);
    let mut decision = Decision::default();
    for (set, count) in counts {
        let notes = json!({DESIRED: rollout.desired().to_string(), MAX: max.to_string()});
        let patch = json!({"metadata": {"annotations": notes}, "spec": {"replicas": count}});
        decision.writes.push(guarded(set, patch));
        let old = replicas(set);
        if count != old {
            let way = if count > old { "up" } else { "down" };
            let message = format!("Scaled {way} replica set {} from {old} to {count}", set.name_any());
            decision.events.push(Draft::normal(rollout.deployment, "ScalingReplicaSet", message));
        }
    }
    decision
}

fn number(set: &ReplicaSet, annotation: &str) -> Option<i32> {
    set.annotations().get(annotation)?.parse().ok()
}

fn is_saturated(rollout: &Rollout<'_>, new: &ReplicaSet) -> bool {
    let desired = rollout.desired();
    number(new, DESIRED) == Some(desired) && replicas(new) == desired && available(new) == desired
}

/// Shares of a change in proportion to the size of each, the largest first; what rounding leaves over goes to the largest.
fn proportions<'a>(rollout: &Rollout<'_>, active: &[&'a Arc<ReplicaSet>]) -> Vec<(&'a Arc<ReplicaSet>, i32)> {
    let desired = rollout.desired();
    let allowed = if desired > 0 { desired + rolling::max_surge(rollout) } else { 0 };
    let present: i32 = active.iter().map(|set| replicas(set)).sum();
    let change = allowed - present;
    let mut sorted: Vec<&Arc<ReplicaSet>> = active.to_vec();
    // Among equals the newest grows first and the oldest shrinks first.
    let newest_first = change > 0;
    sorted.sort_by_key(|set| {
        let born = set.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
        (std::cmp::Reverse(replicas(set)), if newest_first { -born } else { born }, set.name_any())
    });
    let mut shared = 0;
    let mut counts: Vec<(&Arc<ReplicaSet>, i32)> = Vec::new();
    for set in sorted {
        let share = if change == 0 { 0 } else { share(set, allowed, present) };
        let left = change - shared;
        let share = if change > 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
        shared += share;
        counts.push((set, replicas(set) + share));
    }
    if let Some((_, count)) = counts.first_mut() {
        *count = (*count + change - shared).max(0);
    }
    counts
}

fn share(set: &ReplicaSet, allowed: i32, present: i32) -> i32 {
    if allowed == 0 {
        return -replicas(set);
    }
    let base = number(set, MAX).filter(|max| *max > 0).unwrap_or(present);
    let scaled = f64::from(replicas(set)) * f64::from(allowed) / f64::from(base);
    // At most a few thousand pods: the rounded value fits.
    #[allow(clippy::cast_possible_truncation)]
    let rounded = scaled.round() as i32;
    rounded - replicas(set)
}
