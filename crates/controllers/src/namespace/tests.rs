//! The steps by which a namespace goes.

use std::sync::Arc;

use client::Key;
use k8s_openapi::api::core::v1::Namespace;
use kube::discovery::ApiResource;
use serde_json::json;

use super::decide::{Step, decide, finalize};
use super::tell::tell;
use crate::mechanism::{Item, ServedKind, Verb};

fn namespace(going: bool) -> Namespace {
    let mut meta = json!({"name": "n"});
    if going {
        meta["deletionTimestamp"] = json!("2026-01-02T03:04:05Z");
    }
    serde_json::from_value(json!({"metadata": meta, "spec": {"finalizers": ["kubernetes"]}})).unwrap()
}

fn item(kind: &str, name: &str, deleting: bool) -> Arc<Item> {
    let resource = ApiResource {
        group: String::new(),
        version: "v1".to_owned(),
        api_version: "v1".to_owned(),
        kind: kind.to_owned(),
        plural: format!("{}s", kind.to_lowercase()),
    };
    Arc::new(Item {
        kind: Arc::new(ServedKind { resource, namespaced: true }),
        key: Key::new("n", name),
        uid: name.to_owned(),
        revision: None,
        owners: Vec::new(),
        deleting,
        finalizers: Vec::new(),
    })
}

fn deletes(step: Step) -> Vec<String> {
    let Step::Empty(writes) = step else { panic!("{step:?}") };
    writes.iter().map(ToString::to_string).collect()
}

#[test]
fn pods_go_before_all_else_and_the_namespace_last() {
    let (pod, map) = (item("Pod", "p", false), item("ConfigMap", "c", false));
    assert_eq!(decide(&namespace(false), std::slice::from_ref(&pod)), Step::Nothing);
    assert_eq!(deletes(decide(&namespace(true), &[pod, map.clone()])), ["delete Pod n/p"]);
    assert_eq!(decide(&namespace(true), &[item("Pod", "p", true), map.clone()]), Step::Wait);
    assert_eq!(deletes(decide(&namespace(true), &[map])), ["delete ConfigMap n/c"]);
    assert_eq!(decide(&namespace(true), &[]), Step::Finish);
}

#[test]
fn only_our_finalizer_is_taken_off() {
    let mut namespace = namespace(true);
    namespace.spec.as_mut().unwrap().finalizers = Some(vec!["kubernetes".into(), "other".into()]);
    let Verb::ReplaceSubresource("finalize", body) = finalize(&namespace).verb else { panic!() };
    assert_eq!(body["spec"]["finalizers"], json!(["other"]));
}

#[test]
fn what_is_left_is_told() {
    let now = jiff::Timestamp::UNIX_EPOCH;
    let mut held = Item::clone(&item("Pod", "p", true));
    held.finalizers.push("example.com/mine".to_owned());
    let write = tell(&namespace(true), &[Arc::new(held)], now).unwrap();
    let Verb::PatchStatus(patch) = &write.verb else { panic!("{write}") };
    let told: Vec<String> = patch["status"]["conditions"].as_array().unwrap()[3..]
        .iter()
        .map(|one| {
            format!(
                "{}={} {}",
                one["type"].as_str().unwrap(),
                one["status"].as_str().unwrap(),
                one["message"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "NamespaceContentRemaining=True Some resources are remaining: pods. has 1 resource instances",
            "NamespaceFinalizersRemaining=True Some content in the namespace has finalizers remaining: \
            example.com/mine in 1 resource instances",
        ]
    );
    let mut namespace = namespace(true);
    namespace.status = serde_json::from_value(patch["status"].clone()).unwrap();
    assert!(tell(&namespace, &[item("Pod", "p", true)], now).is_some());
}
