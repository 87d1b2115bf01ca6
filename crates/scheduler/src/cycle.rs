//! What is worked out once for a pod, before its nodes are looked at one by one: where others' and its own (anti-)affinity allow and
//! forbid it, and how many pods each of its spread constraints counts in each domain.

use std::collections::{BTreeMap, BTreeSet};

use api::placement;
use k8s_openapi::api::core::v1::{Pod, TopologySpreadConstraint};
use kube::core::{Selector, SelectorExt};
use kube::{Resource, ResourceExt};

use crate::affinity::{self, Term};
use crate::cluster::{Cluster, NodeState, PodState};

/// A topology key and one of its values: a zone, a host.
type Domain = (String, String);

/// A pod about to be placed.
#[derive(Debug)]
pub struct Cycle<'a> {
    pub pod: &'a PodState,
    /// Domains that the anti-affinity of pods already there closes.
    pub closed_by_others: BTreeSet<Domain>,
    /// Domains that the pod's own anti-affinity closes.
    pub closed_by_itself: BTreeSet<Domain>,
    /// Topology keys of the pod's affinity, and the domains where all its terms are met.
    pub affinity: Option<Affinity>,
    pub spread: Vec<Spread>,
    /// Weights of the pod's preferred affinity, and of what pods in place prefer, by domain.
    pub preferred: BTreeMap<Domain, i64>,
    /// Constraints that are only wished for; those of the cluster where the pod names none.
    pub wished: Vec<Wish>,
}

/// A spread constraint that is only wished for.
#[derive(Debug)]
pub struct Wish {
    pub key: String,
    pub max_skew: i64,
    pub counts: BTreeMap<String, i64>,
    /// The pod asked for it by name: a node without the label is no good.
    pub named: bool,
}

/// What every pod of a controller wishes that names nothing itself: upstream's defaults.
const DEFAULT_WISHES: [(&str, i64); 2] = [("kubernetes.io/hostname", 3), ("topology.kubernetes.io/zone", 5)];

/// Required affinity: each topology key must have a domain in `met`, unless nobody could and the pod itself is what it looks for.
#[derive(Debug)]
pub struct Affinity {
    pub keys: Vec<String>,
    pub met: BTreeSet<Domain>,
    pub starts_itself: bool,
}

/// A spread constraint that must hold.
#[derive(Debug)]
pub struct Spread {
    pub key: String,
    pub max_skew: i64,
    pub counts: BTreeMap<String, i64>,
    /// The smallest count over all domains; zero when there are fewer domains than asked for.
    pub least: i64,
    /// Whether the pod itself counts.
    pub own: i64,
}

impl<'a> Cycle<'a> {
    pub fn new(pod: &'a PodState, cluster: &Cluster) -> Cycle<'a> {
        let hard = constraints(&pod.pod).filter(|one| one.when_unsatisfiable == "DoNotSchedule");
        Cycle {
            pod,
            closed_by_others: closed_by_others(pod, cluster),
            closed_by_itself: closed_by_itself(pod, cluster),
            affinity: required(pod, cluster),
            spread: hard.map(|constraint| spread(pod, cluster, constraint)).collect(),
            preferred: preferred(pod, cluster),
            wished: wished(pod, cluster),
        }
    }
}

fn domain(node: &NodeState, key: &str) -> Option<Domain> {
    node.label(key).map(|value| (key.to_owned(), value.to_owned()))
}

fn closed_by_others(pod: &PodState, cluster: &Cluster) -> BTreeSet<Domain> {
    let mut closed = BTreeSet::new();
    for (node, other) in cluster.guarded() {
        for term in other.aversions.iter().filter(|term| term.means(&pod.pod, cluster.namespaces())) {
            closed.extend(domain(node, &term.topology_key));
        }
    }
    closed
}

fn closed_by_itself(pod: &PodState, cluster: &Cluster) -> BTreeSet<Domain> {
    let mut closed = BTreeSet::new();
    for term in &pod.aversions {
        let near = cluster.pods().filter(|(_, other)| term.means(&other.pod, cluster.namespaces()));
        closed.extend(near.filter_map(|(node, _)| domain(node, &term.topology_key)));
    }
    closed
}

fn required(pod: &PodState, cluster: &Cluster) -> Option<Affinity> {
    let terms: Vec<Term> = affinity::required_affinity(&pod.pod).iter().map(|term| Term::new(term, &pod.pod)).collect();
    if terms.is_empty() {
        return None;
    }
    let means = |other: &Pod| terms.iter().all(|term| term.means(other, cluster.namespaces()));
    let mut met = BTreeSet::new();
    for (node, _) in cluster.pods().filter(|(_, other)| means(&other.pod)) {
        met.extend(terms.iter().filter_map(|term| domain(node, &term.topology_key)));
    }
    let starts_itself = met.is_empty() && means(&pod.pod);
    Some(Affinity { keys: terms.into_iter().map(|term| term.topology_key).collect(), met, starts_itself })
}

fn constraints(pod: &Pod) -> impl Iterator<Item = &TopologySpreadConstraint> {
    pod.spec.iter().flat_map(|spec| spec.topology_spread_constraints.iter().flatten())
}

fn spread(pod: &PodState, cluster: &Cluster, constraint: &TopologySpreadConstraint) -> Spread {
    let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
    let selector = constraint.label_selector.as_ref().map(|one| affinity::narrowed(one, &pod.pod, keys, "In"));
    let selector = selector.and_then(|selector| Selector::try_from(selector).ok());
    let counts_pod = |other: &Pod| {
        other.meta().namespace == pod.pod.meta().namespace
            && other.metadata.deletion_timestamp.is_none()
            && selector.as_ref().is_some_and(|selector| selector.matches(other.labels()))
    };
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for node in cluster.nodes().filter(|node| takes_part(pod, node, constraint)) {
        if let Some(value) = node.label(&constraint.topology_key) {
            let here = node.pods.values().filter(|other| counts_pod(&other.pod)).map(|_| 1_i64).sum::<i64>();
            *counts.entry(value.to_owned()).or_default() += here;
        }
    }
    let enough = i64::try_from(counts.len()).unwrap_or(i64::MAX) >= i64::from(constraint.min_domains.unwrap_or(1));
    let least = if enough { counts.values().min().copied().unwrap_or(0) } else { 0 };
    Spread {
        key: constraint.topology_key.clone(),
        max_skew: i64::from(constraint.max_skew),
        counts,
        least,
        own: i64::from(selector.as_ref().is_some_and(|selector| selector.matches(pod.pod.labels()))),
    }
}

/// Whether a node's pods count for a constraint: by default where the pod's node affinity allows it, whatever the taints.
fn takes_part(pod: &PodState, node: &NodeState, constraint: &TopologySpreadConstraint) -> bool {
    let Some(object) = &node.node else { return false };
    let by_affinity = constraint.node_affinity_policy.as_deref() == Some("Ignore") || pod.allows(object);
    let taints = object.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let hard = |effect: &str| matches!(effect, "NoSchedule" | "NoExecute");
    let by_taints = constraint.node_taints_policy.as_deref() != Some("Honor")
        || taints.into_iter().all(|taint| !hard(&taint.effect) || placement::tolerates(pod.tolerations(), taint));
    by_affinity && by_taints
}

fn preferred(pod: &PodState, cluster: &Cluster) -> BTreeMap<Domain, i64> {
    let mut weights = BTreeMap::new();
    for (node, other) in cluster.wishing() {
        let meant = other.wishes_of_others.iter().filter(|(term, _)| term.means(&pod.pod, cluster.namespaces()));
        for (term, weight) in meant {
            if let Some(domain) = domain(node, &term.topology_key) {
                *weights.entry(domain).or_default() += weight;
            }
        }
    }
    for (term, weight) in affinity::wishes(&pod.pod) {
        for (node, _) in cluster.pods().filter(|(_, other)| term.means(&other.pod, cluster.namespaces())) {
            if let Some(domain) = domain(node, &term.topology_key) {
                *weights.entry(domain).or_default() += weight;
            }
        }
    }
    weights
}

fn wished(pod: &PodState, cluster: &Cluster) -> Vec<Wish> {
    if constraints(&pod.pod).next().is_some() {
        let soft = constraints(&pod.pod).filter(|one| one.when_unsatisfiable == "ScheduleAnyway");
        return soft
            .map(|constraint| {
                let Spread { key, max_skew, counts, .. } = spread(pod, cluster, constraint);
                Wish { key, max_skew, counts, named: true }
            })
            .collect();
    }
    let Some(controller) = &pod.controller else { return Vec::new() };
    let default = |(key, max_skew): (&str, i64)| {
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        for (node, count) in cluster.siblings(controller) {
            if let Some(value) = node.label(key) {
                *counts.entry(value.to_owned()).or_default() += count;
            }
        }
        Wish { key: key.to_owned(), max_skew, counts, named: false }
    };
    DEFAULT_WISHES.into_iter().map(default).collect()
}
