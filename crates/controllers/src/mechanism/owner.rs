//! Owner references: who controls an object, and how a controller takes up objects that match its selector and lets go of others.

use std::sync::Arc;

use client::{Key, Object};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::core::{Selector, SelectorExt};
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::informer::Informer;
use super::queue::Queue;
use super::write::Write;

/// The reference that marks `owner` as the controller of an object.
pub fn owner_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The object's controlling owner.
pub fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    object.meta().owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

pub fn is_controlled_by<K: Resource>(object: &K, uid: &str) -> bool {
    controller_of(object).is_some_and(|owner| owner.uid == uid)
}

/// What is ours, what should become ours, what should stop being ours.
#[derive(Debug)]
pub struct Adoption<K> {
    pub ours: Vec<Arc<K>>,
    pub adopt: Vec<Arc<K>>,
    pub release: Vec<Arc<K>>,
}

/// Sorts candidates by whether they are or should be controlled by `uid`; an object of another controller is never touched.
pub fn adopt<K: Object>(uid: &str, candidates: Vec<Arc<K>>, matches: impl Fn(&K) -> bool) -> Adoption<K> {
    let mut sorted = Adoption { ours: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    for object in candidates {
        let leaving = object.meta().deletion_timestamp.is_some();
        match (controller_of(object.as_ref()), matches(&object)) {
            (Some(owner), true) if owner.uid == uid => sorted.ours.push(object),
            (Some(owner), false) if owner.uid == uid && !leaving => sorted.release.push(object),
            (None, true) if !leaving => sorted.adopt.push(object),
            (Some(_) | None, true | false) => {}
        }
    }
    sorted
}

/// The writes that make an [`Adoption`] so. Each names the object's UID and revision, so that a namesake that came meanwhile and a
/// change that we have not seen are refused by the server.
pub fn adoption_writes<O, K>(owner: &O, adoption: &Adoption<K>) -> Vec<Write>
where
    O: Resource<DynamicType = ()>,
    K: Object,
{
    let mine = owner_reference(owner);
    let others = |object: &K| -> Vec<OwnerReference> {
        object.owner_references().iter().filter(|owner| owner.uid != mine.uid).cloned().collect()
    };
    let taken = adoption.adopt.iter().map(|object| {
        let mut owners = others(object);
        owners.push(mine.clone());
        owned(object.as_ref(), &owners).guarded_by(owner)
    });
    let released = adoption.release.iter().map(|object| owned(object.as_ref(), &others(object)));
    taken.chain(released).collect()
}

fn owned<K: Object>(object: &K, owners: &[OwnerReference]) -> Write {
    let revision = object.resource_version();
    let meta = json!({"uid": object.uid(), "resourceVersion": revision, "ownerReferences": owners});
    Write::patch(object, json!({"metadata": meta}))
}

/// Wakes the owner of each object that changes; for an object that nobody owns, all owners whose selector takes it.
pub fn wake_owners<O: Object, K: Object>(
    owners: &Arc<Informer<O>>,
    owned: &Arc<Informer<K>>,
    selector: impl Fn(&O) -> Option<LabelSelector> + Send + Sync + 'static,
    queue: &Queue<Key>,
) {
    let (owners, wake) = (Arc::clone(owners), queue.clone());
    owned.subscribe(move |old, new| {
        for object in old.into_iter().chain(new) {
            let namespace = object.namespace().unwrap_or_default();
            if let Some(owner) = controller_of(object.as_ref()) {
                if owner.kind == O::kind(&()) {
                    wake.add(Key::new(namespace, &owner.name));
                }
                continue;
            }
            for owner in owners.in_namespace(&namespace) {
                let selector = selector(&owner).and_then(|selector| Selector::try_from(selector).ok());
                if selector.is_some_and(|selector| selector.matches(object.labels())) {
                    wake.add(Key::of(owner.as_ref()));
                }
            }
        }
    });
}
