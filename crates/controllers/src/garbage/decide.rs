//! What becomes of one object, given its owners and what it owns.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use crate::mechanism::{Item, Propagation, Target, Verb, Write};

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

/// What is known of one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It is there.
    Solid,
    /// It is being deleted and waits for what it owns.
    Waiting,
    /// It is gone for good.
    Absent,
}

/// Decides about an object. `owners` has the state of each of its owners; `dependents` is what names it as an owner.
pub fn decide(item: &Item, owners: &[(OwnerReference, Owner)], dependents: &[Arc<Item>]) -> Vec<Write> {
    if item.deleting {
        if has(item, ORPHAN) {
            return orphan(item, dependents);
        }
        return if has(item, FOREGROUND) { foreground(item, dependents) } else { Vec::new() };
    }
    if owners.is_empty() {
        return Vec::new();
    }
    let solid: Vec<&OwnerReference> =
        owners.iter().filter(|(_, is)| *is == Owner::Solid).map(|(owner, _)| owner).collect();
    if solid.len() == owners.len() {
        return Vec::new();
    }
    if !solid.is_empty() {
        // Someone else still wants it: only the references that mean nothing any more are taken off.
        return vec![keep_owners(item, &solid)];
    }
    let waited_for = owners.iter().any(|(_, is)| *is == Owner::Waiting);
    let propagation = match waited_for && !dependents.is_empty() {
        true => Propagation::Foreground,
        false if has(item, FOREGROUND) => Propagation::Foreground,
        false => Propagation::Background,
    };
    vec![delete(item, propagation)]
}

fn has(item: &Item, finalizer: &str) -> bool {
    item.finalizers.iter().any(|one| one == finalizer)
}

fn foreground(item: &Item, dependents: &[Arc<Item>]) -> Vec<Write> {
    let blocks = |dependent: &&Arc<Item>| {
        let mut mine = dependent.owners.iter().filter(|owner| owner.uid == item.uid);
        mine.any(|owner| owner.block_owner_deletion == Some(true))
    };
    if dependents.iter().any(|dependent| blocks(&dependent)) {
        // Each dependent is decided on its own: it sees that its owner waits.
        return Vec::new();
    }
    vec![without_finalizer(item, FOREGROUND)]
}

fn orphan(item: &Item, dependents: &[Arc<Item>]) -> Vec<Write> {
    let mut writes: Vec<Write> = dependents
        .iter()
        .map(|dependent| {
            let others: Vec<&OwnerReference> = dependent.owners.iter().filter(|owner| owner.uid != item.uid).collect();
            keep_owners(dependent, &others)
        })
        .collect();
    writes.push(without_finalizer(item, ORPHAN));
    writes
}

fn keep_owners(item: &Item, owners: &[&OwnerReference]) -> Write {
    let meta = json!({"uid": item.uid, "resourceVersion": item.revision, "ownerReferences": owners});
    write(item, Verb::Patch(json!({"metadata": meta})))
}

fn without_finalizer(item: &Item, finalizer: &str) -> Write {
    let rest: Vec<&String> = item.finalizers.iter().filter(|one| *one != finalizer).collect();
    let meta = json!({"uid": item.uid, "resourceVersion": item.revision, "finalizers": rest});
    write(item, Verb::Patch(json!({"metadata": meta})))
}

pub fn delete(item: &Item, propagation: Propagation) -> Write {
    write(item, Verb::Delete { uid: item.uid.clone(), propagation, grace: None })
}

fn write(item: &Item, verb: Verb) -> Write {
    let kind = item.kind.resource.kind.clone();
    let path = item.kind.path(&item.key.namespace);
    Write::to(Target { kind, path, key: item.key.clone() }, verb)
}
