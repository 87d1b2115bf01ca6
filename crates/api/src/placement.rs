//! Which nodes a pod may be on: selectors over nodes, and tolerations of taints.
//!
//! The scheduler asks before it places a pod, the DaemonSet controller before it makes one, the node controller before it evicts one.

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

/// Whether the pod's `nodeSelector` and required node affinity allow the node.
pub fn allows(spec: &PodSpec, node: &Node) -> bool {
    let labelled = spec.node_selector.iter().flatten().all(|(key, value)| label(node, key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    labelled
        && required
            .is_none_or(|required: &NodeSelector| required.node_selector_terms.iter().any(|term| matches(term, node)))
}

fn label<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// Whether a node is what a term asks for; an empty term asks for nothing and matches none.
pub fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    let name = node.metadata.name.as_deref();
    let field =
        |requirement: &NodeSelectorRequirement| holds(requirement, name.filter(|_| requirement.key == "metadata.name"));
    labels.iter().all(|requirement| holds(requirement, label(node, &requirement.key))) && fields.iter().all(field)
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|one| one == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = values.first().and_then(|text| number(text));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value > bound),
        "Lt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// Whether one of the tolerations covers the taint.
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| covers(toleration, taint))
}

/// Whether a toleration is for this taint.
pub fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if given(&toleration.effect).is_some_and(|effect| effect != taint.effect) {
        return false;
    }
    if given(&toleration.key).is_some_and(|key| key != taint.key) {
        return false;
    }
    let theirs = taint.value.as_deref().unwrap_or_default();
    let mine = toleration.value.as_deref().unwrap_or_default();
    let numbers = || mine.parse::<i64>().ok().zip(theirs.parse::<i64>().ok());
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        // An empty key with `Equal` is refused by the server; here it covers nothing.
        "" | "Equal" => given(&toleration.key).is_some() && mine == theirs,
        "Gt" => numbers().is_some_and(|(mine, theirs)| theirs > mine),
        "Lt" => numbers().is_some_and(|(mine, theirs)| theirs < mine),
        _ => false,
    }
}
