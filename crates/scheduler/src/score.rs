//! Which of the nodes that can take a pod is best: the sum of upstream's scores, each from 0 to 100, with upstream's weights.
//!
//! Among equals the node with the fewest pods wins, then the first by name: the same picture always gives the same answer.

use std::collections::BTreeSet;

use api::placement;

use crate::cluster::NodeState;
use crate::cycle::Cycle;

const MOST: i64 = 100;

/// The best of `nodes`.
pub fn best<'a>(cycle: &Cycle<'_>, nodes: &[&'a NodeState]) -> Option<&'a NodeState> {
    if let [only] = nodes {
        return Some(only);
    }
    let mut totals = vec![0_i64; nodes.len()];
    let scores: [(i64, Vec<i64>); 6] = [
        (1, nodes.iter().map(|node| least_allocated(cycle, node)).collect()),
        (1, nodes.iter().map(|node| balanced(cycle, node)).collect()),
        (3, normal(nodes.iter().map(|node| -intolerable(cycle, node)).collect())),
        (2, normal(nodes.iter().map(|node| node_affinity(cycle, node)).collect())),
        (2, normal(nodes.iter().map(|node| pod_affinity(cycle, node)).collect())),
        (2, spread(cycle, nodes)),
    ];
    for (weight, of_nodes) in scores {
        for (total, score) in totals.iter_mut().zip(of_nodes) {
            *total += weight * score;
        }
    }
    let ranked = nodes.iter().zip(totals);
    ranked.max_by_key(|(node, total)| (*total, std::cmp::Reverse((node.pods.len(), &node.name)))).map(|(node, _)| *node)
}

/// Stretches scores to 0..100; all the same means all are equally good.
fn normal(scores: Vec<i64>) -> Vec<i64> {
    let (Some(least), Some(most)) = (scores.iter().min().copied(), scores.iter().max().copied()) else { return scores };
    if least == most {
        return vec![0; scores.len()];
    }
    scores.into_iter().map(|score| (score - least) * MOST / (most - least)).collect()
}

/// Of processor and memory, what would be taken, and what there is.
fn shares(cycle: &Cycle<'_>, node: &NodeState) -> impl Iterator<Item = (i64, i64)> {
    let (there, more) = (node.light, cycle.pod.light);
    let all = [
        (there.cpu + more.cpu, node.allocatable.get("cpu")),
        (there.memory + more.memory, node.allocatable.get("memory")),
    ];
    all.into_iter().filter(|(_, has)| *has > 0).map(|(taken, has)| (taken.min(has), has))
}

fn least_allocated(cycle: &Cycle<'_>, node: &NodeState) -> i64 {
    let (mut sum, mut count) = (0, 0);
    for (used, has) in shares(cycle, node) {
        sum += (has - used).saturating_mul(MOST) / has;
        count += 1;
    }
    sum / count.max(1)
}

/// Prefers nodes whose resources are used up at the same pace.
fn balanced(cycle: &Cycle<'_>, node: &NodeState) -> i64 {
    let mut used = shares(cycle, node).map(|(used, has)| used.saturating_mul(MOST) / has);
    match (used.next(), used.next()) {
        (Some(a), Some(b)) => MOST - (a - b).abs() / 2,
        (Some(_) | None, _) => MOST,
    }
}

/// Prefers domains with few pods of the kind. A constraint over many domains weighs more, as each of them says less.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // counts of pods and nodes, and a score from 0 to 100
fn spread(cycle: &Cycle<'_>, nodes: &[&NodeState]) -> Vec<i64> {
    if cycle.wished.is_empty() {
        return vec![0; nodes.len()];
    }
    let mut totals: Vec<Option<f64>> = vec![Some(0.0); nodes.len()];
    for wish in &cycle.wished {
        let values: Vec<Option<&str>> = nodes.iter().map(|node| node.label(&wish.key)).collect();
        let domains: BTreeSet<&str> = values.iter().copied().flatten().collect();
        let weight = ((domains.len() + 2) as f64).ln();
        for (total, value) in totals.iter_mut().zip(values) {
            match value {
                Some(value) => {
                    let count = wish.counts.get(value).copied().unwrap_or(0) as f64;
                    *total = total.map(|total| total + count * weight + (wish.max_skew - 1) as f64);
                }
                None if wish.named => *total = None,
                None => {}
            }
        }
    }
    let counted = || totals.iter().copied().flatten();
    let (least, most) = (counted().fold(f64::INFINITY, f64::min), counted().fold(0.0, f64::max));
    let score =
        |total: f64| if most <= 0.0 { MOST } else { (MOST as f64 * (most + least - total) / most).round() as i64 };
    totals.iter().map(|total| total.map_or(0, score)).collect()
}

fn intolerable(cycle: &Cycle<'_>, node: &NodeState) -> i64 {
    let spec = node.node.as_ref().and_then(|node| node.spec.as_ref());
    let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let soft = taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
    soft.filter(|taint| !placement::tolerates(cycle.pod.tolerations(), taint)).map(|_| 1).sum()
}

fn node_affinity(cycle: &Cycle<'_>, node: &NodeState) -> i64 {
    let Some(object) = &node.node else { return 0 };
    let affinity = cycle.pod.pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
    let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let met = preferred.into_iter().flatten().filter(|term| placement::matches(&term.preference, object));
    met.map(|term| i64::from(term.weight)).sum()
}

fn pod_affinity(cycle: &Cycle<'_>, node: &NodeState) -> i64 {
    cycle.preferred.iter().filter(|((key, value), _)| node.label(key) == Some(value)).map(|(_, weight)| weight).sum()
}
