//! Who is ended and how.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::decide::{Finished, decide};

fn pod(change: impl FnOnce(&mut Value)) -> Arc<Pod> {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "default", "uid": "p"},
        "spec": {"nodeName": "n1", "containers": []}, "status": {"phase": "Running"}});
    change(&mut pod);
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn check(pod: &Arc<Pod>, gone: bool, expected: &[&str]) {
    let writes: Vec<String> = decide(pod, gone, jiff::Timestamp::UNIX_EPOCH).iter().map(ToString::to_string).collect();
    assert_eq!(writes, expected);
}

#[test]
fn only_pods_without_a_keeper_are_ended() {
    check(&pod(|_| {}), false, &[]);
    check(&pod(|_| {}), true, &["patch status of Pod default/p", "delete Pod default/p"]);
    check(&pod(|pod| pod["status"]["phase"] = json!("Succeeded")), true, &["delete Pod default/p"]);
    let unscheduled = |deleting: bool| {
        pod(|pod| {
            pod["spec"]["nodeName"] = Value::Null;
            if deleting {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:05Z");
            }
        })
    };
    check(&unscheduled(false), false, &[]);
    check(&unscheduled(true), false, &["delete Pod default/p"]);
}

#[test]
fn of_many_that_have_ended_the_oldest_go() {
    let ended = |name: &str, born: u8| {
        pod(|pod| {
            pod["metadata"]["name"] = json!(name);
            pod["metadata"]["creationTimestamp"] = json!(format!("2026-01-02T03:04:{born:02}Z"));
            pod["status"]["phase"] = json!("Failed");
        })
    };
    let mut finished = Finished::default();
    let (old, middle, young) = (ended("c", 1), ended("b", 2), ended("a", 3));
    assert!(finished.note(None, Some(&young), 2).is_empty());
    assert!(finished.note(None, Some(&pod(|_| {})), 2).is_empty(), "one that runs does not count");
    assert!(finished.note(None, Some(&old), 2).is_empty());
    let surplus = finished.note(None, Some(&middle), 2);
    assert_eq!(surplus.iter().map(ToString::to_string).collect::<Vec<_>>(), ["default/c"]);
    assert!(finished.is_surplus(&old, 2) && !finished.is_surplus(&middle, 2));
    assert!(finished.note(Some(&old), None, 2).is_empty(), "gone, it counts no more");
}
