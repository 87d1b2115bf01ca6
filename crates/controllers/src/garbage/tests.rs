//! Each fate of an object, by its owners and by how they go.

use std::sync::Arc;

use client::Key;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::discovery::ApiResource;

use super::decide::{FOREGROUND, ORPHAN, Owner, decide};
use crate::mechanism::{Inventory, Item, Queue, ServedKind, Verb, Write};

fn kind(kind: &str) -> Arc<ServedKind> {
    let resource = ApiResource {
        group: String::new(),
        version: "v1".to_owned(),
        api_version: "v1".to_owned(),
        kind: kind.to_owned(),
        plural: format!("{}s", kind.to_lowercase()),
    };
    Arc::new(ServedKind { resource, namespaced: true })
}

fn owner(uid: &str, blocks: bool) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: uid.to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(blocks),
    }
}

fn item(uid: &str, owners: &[OwnerReference], deleting: bool, finalizers: &[&str]) -> Item {
    Item {
        kind: kind("Pod"),
        key: Key::new("default", uid),
        uid: uid.to_owned(),
        revision: Some("7".to_owned()),
        owners: owners.to_vec(),
        deleting,
        finalizers: finalizers.iter().map(|one| (*one).to_owned()).collect(),
    }
}

fn check(item: &Item, owners: &[(OwnerReference, Owner)], dependents: &[Item], expected: &[&str]) {
    let dependents: Vec<Arc<Item>> = dependents.iter().cloned().map(Arc::new).collect();
    let writes: Vec<String> = decide(item, owners, &dependents).iter().map(tell).collect();
    assert_eq!(writes, expected);
}

fn tell(write: &Write) -> String {
    match &write.verb {
        Verb::Delete { propagation, .. } => format!("{write} {propagation:?}"),
        Verb::Patch(patch) => {
            let meta = &patch["metadata"];
            let list = meta.get("ownerReferences").or(meta.get("finalizers")).unwrap();
            format!("{write} keeps {}", list.as_array().unwrap().len())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_object_lives_while_an_owner_lives() {
    let (a, b) = (owner("a", true), owner("b", true));
    let one = item("x", &[a.clone(), b.clone()], false, &[]);
    check(&one, &[(a.clone(), Owner::Solid), (b.clone(), Owner::Solid)], &[], &[]);
    check(&one, &[(a.clone(), Owner::Solid), (b.clone(), Owner::Absent)], &[], &["patch Pod default/x keeps 1"]);
    check(&one, &[(a.clone(), Owner::Solid), (b.clone(), Owner::Waiting)], &[], &["patch Pod default/x keeps 1"]);
    check(&one, &[(a, Owner::Absent), (b, Owner::Absent)], &[], &["delete Pod default/x Background"]);
    check(&item("x", &[], false, &[]), &[], &[], &[]);
}

#[test]
fn an_owner_that_waits_takes_its_dependents_along_in_order() {
    let a = owner("a", true);
    let one = item("x", std::slice::from_ref(&a), false, &[]);
    let below = item("y", &[owner("x", true)], false, &[]);
    check(&one, &[(a.clone(), Owner::Waiting)], &[], &["delete Pod default/x Background"]);
    check(&one, &[(a, Owner::Waiting)], &[below], &["delete Pod default/x Foreground"]);
}

#[test]
fn foreground_waits_for_those_that_block() {
    let leaving = item("a", &[], true, &[FOREGROUND, "other"]);
    check(&leaving, &[], &[item("x", &[owner("a", true)], true, &[])], &[]);
    check(&leaving, &[], &[item("x", &[owner("a", false)], true, &[])], &["patch Pod default/a keeps 1"]);
    check(&leaving, &[], &[], &["patch Pod default/a keeps 1"]);
}

#[test]
fn orphans_are_let_go_first() {
    let leaving = item("a", &[], true, &[ORPHAN]);
    let dependent = item("x", &[owner("a", true), owner("b", true)], false, &[]);
    check(&leaving, &[], &[dependent], &["patch Pod default/x keeps 1", "patch Pod default/a keeps 0"]);
}

#[test]
fn an_object_on_its_way_is_left_alone() {
    let a = owner("a", true);
    check(&item("x", std::slice::from_ref(&a), true, &[]), &[(a, Owner::Absent)], &[], &[]);
}

#[test]
fn the_end_of_an_owner_wakes_what_it_owned() {
    let inventory = Arc::new(Inventory::default());
    let queue = Queue::default();
    super::reconcile::follow(&inventory, &queue);
    inventory.applied(item("a", &[], false, &[]));
    inventory.applied(item("x", &[owner("a", true)], false, &[]));
    assert_eq!(queue.try_next().as_deref(), Some("x"));
    queue.done(&"x".to_owned(), false);
    inventory.deleted("a");
    assert_eq!(queue.try_next().as_deref(), Some("x"));
    queue.done(&"x".to_owned(), false);
    inventory.applied(item("a", &[], true, &[FOREGROUND]));
    inventory.deleted("x");
    let woken: Vec<String> = std::iter::from_fn(|| queue.try_next()).collect();
    assert_eq!(woken, ["a", "x"], "the owner that waited looks again");
}
