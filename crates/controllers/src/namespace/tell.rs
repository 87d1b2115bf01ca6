//! What a namespace that goes tells about itself: what is left in it, and which finalizers hold that; upstream's conditions and words.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::mechanism::{Item, Write};

/// The write that brings the conditions in line, if they are not.
pub fn tell(namespace: &Namespace, content: &[Arc<Item>], now: Timestamp) -> Option<Write> {
    let old = namespace.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let conditions: Vec<NamespaceCondition> = said(content)
        .into_iter()
        .map(|(r#type, status, reason, message)| {
            let known = old.iter().find(|one| one.type_ == r#type);
            let since = known.filter(|one| one.status == status).and_then(|one| one.last_transition_time.clone());
            NamespaceCondition {
                type_: r#type.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: since.or(Some(Time(now))),
            }
        })
        .collect();
    let meta = json!({"uid": namespace.metadata.uid});
    (conditions != old)
        .then(|| Write::patch_status(namespace, json!({"metadata": meta, "status": {"conditions": conditions}})))
}

type Said = (&'static str, &'static str, &'static str, String);

fn said(content: &[Arc<Item>]) -> [Said; 5] {
    let (mut kinds, mut finalizers): (BTreeMap<String, usize>, BTreeMap<&str, usize>) = Default::default();
    for item in content {
        let kind = &item.kind.resource;
        *kinds.entry(format!("{}.{}", kind.plural, kind.group)).or_default() += 1;
        for finalizer in &item.finalizers {
            *finalizers.entry(finalizer).or_default() += 1;
        }
    }
    let list = |parts: Vec<String>| parts.join(", ");
    let left = list(kinds.iter().map(|(kind, count)| format!("{kind} has {count} resource instances")).collect());
    let held = list(finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect());
    let remaining = if kinds.is_empty() {
        ("False", "ContentRemoved", "All content successfully removed".to_owned())
    } else {
        ("True", "SomeResourcesRemain", format!("Some resources are remaining: {left}"))
    };
    let holding = if finalizers.is_empty() {
        ("False", "ContentHasNoFinalizers", "All content-preserving finalizers finished".to_owned())
    } else {
        ("True", "SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {held}"))
    };
    let good = |r#type, reason, message: &str| (r#type, "False", reason, message.to_owned());
    [
        good("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
        good(
            "NamespaceDeletionGroupVersionParsingFailure",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        good(
            "NamespaceDeletionContentFailure",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        ("NamespaceContentRemaining", remaining.0, remaining.1, remaining.2),
        ("NamespaceFinalizersRemaining", holding.0, holding.1, holding.2),
    ]
}
