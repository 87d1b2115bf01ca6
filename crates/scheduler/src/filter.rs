//! Whether a node can take a pod, and if not, why: upstream's reasons in upstream's words and order.

use std::fmt;

use api::placement;

use crate::cluster::NodeState;
use crate::cycle::Cycle;

/// Why a node cannot take a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    Unschedulable,
    OtherNode,
    Taint,
    NodeAffinity,
    Ports,
    TooManyPods,
    Insufficient(String),
    Spread,
    SpreadLabel,
    Affinity,
    AntiAffinity,
    AntiAffinityOfOthers,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Reason::Unschedulable => "node(s) were unschedulable",
            Reason::OtherNode => "node(s) didn't match the requested node name",
            Reason::Taint => "node(s) had untolerated taint(s)",
            Reason::NodeAffinity => "node(s) didn't match Pod's node affinity/selector",
            Reason::Ports => "node(s) didn't have free ports for the requested pod ports",
            Reason::TooManyPods => "Too many pods",
            Reason::Insufficient(resource) => return write!(f, "Insufficient {resource}"),
            Reason::Spread => "node(s) didn't match pod topology spread constraints",
            Reason::SpreadLabel => "node(s) didn't match pod topology spread constraints (missing required label)",
            Reason::Affinity => "node(s) didn't match pod affinity rules",
            Reason::AntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Reason::AntiAffinityOfOthers => "node(s) didn't satisfy existing pods anti-affinity rules",
        };
        f.write_str(text)
    }
}

/// The reasons of the first rule that the node fails; none when it can take the pod.
pub fn filter(cycle: &Cycle<'_>, node: &NodeState) -> Vec<Reason> {
    let rules = [unschedulable, name, taints, node_affinity, ports, fits, spread, affinity];
    rules.iter().map(|rule| rule(cycle, node)).find(|reasons| !reasons.is_empty()).unwrap_or_default()
}

fn unless(holds: bool, reason: Reason) -> Vec<Reason> {
    if holds { Vec::new() } else { vec![reason] }
}

fn unschedulable(cycle: &Cycle<'_>, node: &NodeState) -> Vec<Reason> {
    let cordoned = node.node.as_ref().and_then(|node| node.spec.as_ref()?.unschedulable).unwrap_or(false);
    let taint = k8s_openapi::api::core::v1::Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Default::default()
    };
    unless(!cordoned || placement::tolerates(cycle.pod.tolerations(), &taint), Reason::Unschedulable)
}

fn name(cycle: &Cycle<'_>, node: &NodeState) -> Vec<Reason> {
    let asked = cycle.pod.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    unless(asked.is_empty() || asked == node.name, Reason::OtherNode)
}

fn taints(cycle: &Cycle<'_>, node: &NodeState) -> Vec<Reason> {
    let spec = node.node.as_ref().and_then(|node| node.spec.as_ref());
    let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let hard = |effect: &str| matches!(effect, "NoSchedule" | "NoExecute");
    let bad = taints.iter().any(|taint| hard(&taint.effect) && !placement::tolerates(cycle.pod.tolerations(), taint));
    unless(!bad, Reason::Taint)
}

fn node_affinity(cycle: &Cycle<'_>, node: &NodeState) -> Vec<Reason> {
    let allowed = node.node.as_ref().is_some_and(|node| cycle.pod.allows(node));
    unless(allowed, Reason::NodeAffinity)
}

fn ports(cycle: &Cycle<'_>, node: &NodeState) -> Vec<Reason> {
    if cycle.pod.ports.is_empty() {
        return Vec::new();
    }
    let mut taken = node.pods.values().flat_map(|pod| &pod.ports);
    let conflict = taken.any(|taken| cycle.pod.ports.iter().any(|port| port.conflicts(taken)));
    unless(!conflict, Reason::Ports)
}

fn fits(cycle: &Cycle<'_>, node: &NodeState) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let count = i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
    if count >= node.allocatable.get("pods") {
        reasons.push(Reason::TooManyPods);
    }
    for (resource, amount) in cycle.pod.requests.iter() {
        let free = node.allocatable.get(resource) - node.requested.get(resource);
        if amount > 0 && amount > free {
            reasons.push(Reason::Insufficient(resource.to_owned()));
        }
    }
    reasons
}

fn spread(cycle: &Cycle<'_>, node: &NodeState) -> Vec<Reason> {
    for spread in &cycle.spread {
        let Some(value) = node.label(&spread.key) else { return vec![Reason::SpreadLabel] };
        let here = spread.counts.get(value).copied().unwrap_or(0);
        if here + spread.own - spread.least > spread.max_skew {
            return vec![Reason::Spread];
        }
    }
    Vec::new()
}

fn affinity(cycle: &Cycle<'_>, node: &NodeState) -> Vec<Reason> {
    let closed = |domains: &std::collections::BTreeSet<(String, String)>| {
        domains.iter().any(|(key, value)| node.label(key) == Some(value))
    };
    if let Some(affinity) = &cycle.affinity {
        let met = affinity.keys.iter().all(|key| {
            let Some(value) = node.label(key) else { return false };
            affinity.starts_itself || affinity.met.contains(&(key.clone(), value.to_owned()))
        });
        if !met {
            return vec![Reason::Affinity];
        }
    }
    if closed(&cycle.closed_by_itself) {
        return vec![Reason::AntiAffinity];
    }
    unless(!closed(&cycle.closed_by_others), Reason::AntiAffinityOfOthers)
}
