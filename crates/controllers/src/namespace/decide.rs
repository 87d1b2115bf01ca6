//! What is to be deleted in a namespace that is going, and when it may go.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use serde_json::json;

use crate::mechanism::{Item, Propagation, Target, Verb, Write};

/// The finalizer in `spec.finalizers` that stands for the content.
pub const KUBERNETES: &str = "kubernetes";

/// The next step for a namespace.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// It stays, or is not ours to finish.
    Nothing,
    /// Delete these, and look again when they are gone.
    Empty(Vec<Write>),
    /// Content is on its way out; its end wakes us.
    Wait,
    /// Nothing is left as far as we know: ask the server itself, then let it go.
    Finish,
}

/// Pods go first (KEP-5080): what they depend on, such as network policies and secrets, is there until they have ended.
pub fn decide(namespace: &Namespace, content: &[Arc<Item>]) -> Step {
    let going = namespace.metadata.deletion_timestamp.is_some();
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default();
    if !going || !finalizers.iter().any(|finalizer| finalizer == KUBERNETES) {
        return Step::Nothing;
    }
    if content.is_empty() {
        return Step::Finish;
    }
    let is_pod = |item: &&Arc<Item>| item.kind.resource.kind == "Pod" && item.kind.resource.group.is_empty();
    let pods: Vec<&Arc<Item>> = content.iter().filter(is_pod).collect();
    let first = if pods.is_empty() { content.iter().collect() } else { pods };
    let writes: Vec<Write> = first.into_iter().filter(|item| !item.deleting).map(|item| delete(item)).collect();
    if writes.is_empty() { Step::Wait } else { Step::Empty(writes) }
}

fn delete(item: &Item) -> Write {
    let target = Target {
        kind: item.kind.resource.kind.clone(),
        path: item.kind.path(&item.key.namespace),
        key: item.key.clone(),
    };
    Write::to(target, Verb::Delete { uid: item.uid.clone(), propagation: Propagation::Background, grace: None })
}

/// The write that lets the namespace go.
pub fn finalize(namespace: &Namespace) -> Write {
    let mut freed = namespace.clone();
    if let Some(finalizers) = freed.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|finalizer| finalizer != KUBERNETES);
    }
    let body = serde_json::to_value(&freed).unwrap_or_else(|_| json!({}));
    Write::new(namespace, Verb::ReplaceSubresource("finalize", body))
}
