//! Which nodes a DaemonSet's pod belongs on, and how the scheduler is told to put it on exactly one of them.

use api::placement;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    PodTemplateSpec, Toleration,
};
use kube::ResourceExt;

/// Whether a node gets a pod, and whether it may keep one that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Wanted,
    /// A taint keeps new pods away, but does not drive out this one.
    Tolerated,
    Unwanted,
}

/// Daemons run where ordinary pods may not: they are part of what makes a node well.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

pub fn place(template: &PodTemplateSpec, node: &Node) -> Place {
    let spec = tolerant(template.spec.clone().unwrap_or_default());
    let named = spec.node_name.as_deref().is_none_or(|name| name.is_empty() || name == node.name_any());
    if !named || !placement::allows(&spec, node) {
        return Place::Unwanted;
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let bad =
        |effect: &str| taints.iter().any(|taint| taint.effect == effect && !placement::tolerates(tolerations, taint));
    match (bad("NoExecute"), bad("NoSchedule")) {
        (true, _) => Place::Unwanted,
        (false, true) => Place::Tolerated,
        (false, false) => Place::Wanted,
    }
}

fn tolerant(mut spec: PodSpec) -> PodSpec {
    let network = (spec.host_network == Some(true)).then_some(NETWORK);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        tolerations.push(Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        });
    }
    spec
}

/// The pod's spec for one node: the scheduler has that node to choose from and no other.
pub fn bound_to(spec: PodSpec, node: &str) -> PodSpec {
    let mut spec = tolerant(spec);
    let name = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![name]), match_expressions: None };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
    spec
}

/// The node that a daemon pod is on, or is meant for.
pub fn target(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let required = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = required.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let name = fields.into_iter().find(|field| field.key == "metadata.name")?;
    name.values.as_ref()?.first().map(String::as_str)
}
