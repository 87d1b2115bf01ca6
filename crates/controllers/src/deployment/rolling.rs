//! A rolling update: never fewer available pods than `maxUnavailable` allows, never more pods than `maxSurge` allows.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::decide::{Rollout, available, replicas};
use super::scale;
use crate::mechanism::Decision;

/// The next scaling of a rolling update, if one is due.
pub fn decide(rollout: &Rollout<'_>, new: &Arc<ReplicaSet>) -> Option<Decision> {
    let count = new_count(rollout, replicas(new));
    if count != replicas(new) {
        return Some(scale::to(rollout, vec![(new, count)]));
    }
    let down = scale_down(rollout, new);
    (!down.is_empty()).then(|| scale::to(rollout, down))
}

/// How many pods the new ReplicaSet may have now, when it has `present`.
pub fn new_count(rollout: &Rollout<'_>, present: i32) -> i32 {
    let desired = rollout.desired();
    if present >= desired {
        return desired;
    }
    let total: i32 = rollout.all().map(|set| replicas(set)).sum();
    let room = desired + max_surge(rollout) - total;
    if room <= 0 { present } else { present + room.min(desired - present) }
}

fn scale_down<'a>(rollout: &'a Rollout<'_>, new: &ReplicaSet) -> Vec<(&'a Arc<ReplicaSet>, i32)> {
    let total: i32 = rollout.all().map(|set| replicas(set)).sum();
    let min_available = rollout.desired() - max_unavailable(rollout);
    let not_available = replicas(new) - available(new);
    let mut room = total - min_available - not_available;
    if room <= 0 || rollout.old.iter().all(|set| replicas(set) == 0) {
        return Vec::new();
    }
    let mut counts: Vec<(&Arc<ReplicaSet>, i32)> = rollout.old.iter().map(|set| (set, replicas(set))).collect();
    // Pods that serve nobody go first: they cost no availability.
    for (set, count) in &mut counts {
        let dead = (*count - available(set)).min(room).max(0);
        *count -= dead;
        room -= dead;
    }
    let all_available: i32 = rollout.all().map(|set| available(set)).sum();
    let mut spare = (all_available - min_available).min(room);
    for (_, count) in &mut counts {
        let down = (*count).min(spare).max(0);
        *count -= down;
        spare -= down;
    }
    counts.into_iter().filter(|(set, count)| *count != replicas(set)).collect()
}

pub fn max_surge(rollout: &Rollout<'_>) -> i32 {
    if rollout.is_recreate() { 0 } else { limits(rollout).0 }
}

pub fn max_unavailable(rollout: &Rollout<'_>) -> i32 {
    if rollout.is_recreate() || rollout.desired() == 0 { 0 } else { limits(rollout).1.min(rollout.desired()) }
}

/// `maxSurge` rounded up and `maxUnavailable` rounded down; both zero would stand still, so one pod may then be missing.
fn limits(rollout: &Rollout<'_>) -> (i32, i32) {
    let rolling = rollout.spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".to_owned());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);
    let surge = resolve(surge, rollout.desired(), true);
    let unavailable = resolve(unavailable, rollout.desired(), false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// A number, or a percentage of `total`.
pub fn resolve(value: &IntOrString, total: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let hundredths = i64::from(total) * percent;
            let rounded = if up { (hundredths + 99).div_euclid(100) } else { hundredths.div_euclid(100) };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}
