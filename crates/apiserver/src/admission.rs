//! Admission: what the cluster as a whole has to say about a write, between defaults and validation.
//!
//! Namespaces that do not exist or are going away take nothing new; Pods get their ServiceAccount's token and their priority, claims and
//! volumes what holds them while they are in use; no Pod is sent to a new node before it is known to be ready.

use std::time::Duration;

use api::status::Cause;
use serde_json::Value;
use store::RangeOptions;

use crate::Server;
use crate::fault::{Fault, Outcome};
use crate::kinds::admission as rules;
use crate::kinds::{Kind, Scope, find};
use crate::object;

/// How long a Pod waits for its namespace's account.
const PATIENCE: Duration = Duration::from_secs(1);

/// Refuses new objects in a namespace that is absent or being deleted.
pub(crate) fn namespace_accepts(server: &Server, kind: &'static Kind, namespace: &str, name: &str) -> Outcome<()> {
    if kind.scope == Scope::Cluster {
        return Ok(());
    }
    let Some(namespaces) = find("", "v1", "namespaces") else { return Ok(()) };
    let Some(entry) = server.store.get(&object::key(namespaces, "", namespace)) else {
        return Err(Fault::not_found(namespaces, namespace));
    };
    let object = object::decode(namespaces, &entry.value)?;
    if !object::is_deleting(&object) {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut fault = Fault::forbidden(kind, name, &why);
    if let Some(details) = &mut fault.0.details {
        details.causes = vec![Cause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        }];
    }
    Err(fault)
}

/// Changes a new object as upstream's admission plugins do.
pub(crate) fn create(server: &Server, kind: &'static Kind, object: &mut Value) -> Outcome<()> {
    match (kind.group, kind.plural) {
        ("", "pods") => pod(server, kind, object),
        ("", "nodes") => {
            rules::node_taint(object);
            Ok(())
        }
        ("networking.k8s.io", "ingresses") => {
            rules::ingress_class(object, &all(server, ("networking.k8s.io", "v1", "ingressclasses"))?);
            Ok(())
        }
        ("", "persistentvolumeclaims") => {
            rules::protect(object, "kubernetes.io/pvc-protection");
            Ok(())
        }
        ("", "persistentvolumes") => {
            rules::protect(object, "kubernetes.io/pv-protection");
            Ok(())
        }
        (_, _) => Ok(()),
    }
}

/// Changes an updated object as upstream's admission plugins do; `sent` is one that the writer wrote down whole.
pub(crate) fn update(kind: &Kind, new: &mut Value, old: &Value, sent: bool) {
    if (kind.group, kind.plural) != ("", "pods") {
        return;
    }
    if sent {
        rules::pod_keeps(new, old);
    }
    rules::pod_tolerations(new);
}

fn pod(server: &Server, kind: &Kind, pod: &mut Value) -> Outcome<()> {
    let refuse = |pod: &Value, why: &str| Fault::forbidden(kind, object::name(pod), why);
    let account = find("", "v1", "serviceaccounts").and_then(|accounts| {
        let entry = server.store.get(&object::key(accounts, object::namespace(pod), rules::pod_account_name(pod)))?;
        object::decode(accounts, &entry.value).ok()
    });
    let suffix = crate::create::generate("");
    rules::pod_account(pod, account.as_ref(), &suffix).map_err(|why| refuse(pod, &why))?;
    rules::pod_tolerations(pod);
    let classes = all(server, ("scheduling.k8s.io", "v1", "priorityclasses"))?;
    rules::pod_priority(pod, &classes).map_err(|why| refuse(pod, &why))?;
    let runtime = find("node.k8s.io", "v1", "runtimeclasses").zip(rules::pod_runtime_name(pod));
    let runtime = runtime.and_then(|(classes, name)| {
        let entry = server.store.get(&object::key(classes, "", name))?;
        object::decode(classes, &entry.value).ok()
    });
    rules::pod_runtime(pod, runtime.as_ref()).map_err(|why| refuse(pod, &why))
}

fn all(server: &Server, (group, version, plural): (&str, &str, &str)) -> Outcome<Vec<Value>> {
    let Some(kind) = find(group, version, plural) else { return Ok(Vec::new()) };
    let range = server.store.range(&object::prefix(kind, ""), RangeOptions::default())?;
    range.entries.iter().map(|entry| object::decode(kind, &entry.value)).collect()
}

/// A new namespace gets its account a moment after it was made: a Pod that comes at once waits for it, as upstream lets it.
pub(crate) async fn account_is_there(server: &Server, kind: &'static Kind, namespace: &str, object: &Value) {
    if !(kind.group.is_empty() && kind.plural == "pods") || rules::pod_account_name(object) != "default" {
        return;
    }
    let Some(accounts) = find("", "v1", "serviceaccounts") else { return };
    let key = object::key(accounts, namespace, "default");
    let Ok(mut watch) = server.store.watch(&key, server.store.revision()) else { return };
    if server.store.get(&key).is_none() {
        // Without one in time the Pod is refused with the reason, so how the wait ended does not matter.
        drop(tokio::time::timeout(PATIENCE, watch.next()).await);
    }
}
