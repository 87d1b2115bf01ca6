//! The decision about one pod: a node, or why none.

use std::collections::BTreeMap;
use std::fmt;

use crate::cluster::{Cluster, NodeState, PodState};
use crate::cycle::Cycle;
use crate::filter::{Reason, filter};
use crate::score;

/// Where a pod goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Node(String),
    /// No node can take it: how many there are, and how many fail for each reason.
    Nowhere {
        nodes: usize,
        reasons: BTreeMap<Reason, usize>,
    },
}

impl fmt::Display for Verdict {
    /// Upstream's text of the event and the condition.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Node(name) => f.write_str(name),
            Verdict::Nowhere { nodes: 0, .. } => f.write_str("no nodes available to schedule pods"),
            Verdict::Nowhere { nodes, reasons } => {
                let mut texts: Vec<String> =
                    reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
                texts.sort();
                write!(f, "0/{nodes} nodes are available: {}.", texts.join(", "))
            }
        }
    }
}

/// Finds the best node for a pod that is not placed yet.
pub fn decide(pod: &PodState, cluster: &Cluster) -> Verdict {
    let cycle = Cycle::new(pod, cluster);
    // Who made room for the pod on a node expects it there.
    let nominated = pod.pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
    if let Some(node) = nominated.and_then(|name| cluster.node(name)).filter(|node| filter(&cycle, node).is_empty()) {
        return Verdict::Node(node.name.clone());
    }
    let mut able: Vec<&NodeState> = Vec::new();
    let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
    let mut nodes = 0;
    for node in cluster.nodes() {
        nodes += 1;
        let failed = filter(&cycle, node);
        if failed.is_empty() {
            able.push(node);
        }
        for reason in failed {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    match score::best(&cycle, &able) {
        Some(node) => Verdict::Node(node.name.clone()),
        None => Verdict::Nowhere { nodes, reasons },
    }
}
