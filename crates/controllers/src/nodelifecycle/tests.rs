//! What a silent node leads to, what its conditions lead to, and which pods may stay.

use std::sync::Arc;

use client::Key;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use std::time::Duration;

use super::decide::decide;
use super::eviction;
use super::reconcile::{Asking, NodeLifecycle};
use crate::mechanism::{Controller, Queue, Verb, Write};
use crate::sim::Sim;

fn node(ready: &str, taints: Value) -> Node {
    let conditions = json!([{"type": "Ready", "status": ready}, {"type": "DiskPressure", "status": "False"}]);
    serde_json::from_value(
        json!({"metadata": {"name": "n1", "uid": "n1", "resourceVersion": "3"}, "spec": {"taints": taints},
        "status": {"conditions": conditions}}),
    )
    .unwrap()
}

fn pod(name: &str, tolerations: Value) -> Arc<Pod> {
    let conditions = json!([{"type": "Ready", "status": "True"}]);
    let pod = json!({"metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"nodeName": "n1", "containers": [], "tolerations": tolerations},
        "status": {"phase": "Running", "conditions": conditions}});
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn taints(write: &Write) -> Vec<String> {
    let Verb::Patch(patch) = &write.verb else { panic!("{write}") };
    let taints = patch["spec"]["taints"].as_array().unwrap();
    taints
        .iter()
        .map(|taint| format!("{}:{}", taint["key"].as_str().unwrap(), taint["effect"].as_str().unwrap()))
        .collect()
}

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

#[test]
fn a_silent_node_is_unknown_and_its_pods_are_not_ready() {
    let decision = decide(&node("True", json!([])), &[pod("p", json!([]))], true, NOW);
    let writes: Vec<String> = decision.writes.iter().map(ToString::to_string).collect();
    assert_eq!(writes, ["patch status of Node n1", "patch status of Pod default/p"]);
    let Verb::PatchStatus(patch) = &decision.writes[0].verb else { panic!() };
    let conditions = patch["status"]["conditions"].as_array().unwrap();
    assert_eq!(conditions.len(), 4);
    assert!(conditions.iter().all(|condition| condition["status"] == "Unknown"));
    assert_eq!(conditions[0]["reason"], "NodeStatusUnknown");
    assert_eq!(decision.events[0].message, "Node n1 status is now: NodeNotReady");
    assert!(decide(&node("True", json!([])), &[pod("p", json!([]))], false, NOW).writes.is_empty());
}

#[test]
fn conditions_lead_to_taints_and_back() {
    let foreign = json!({"key": "mine", "effect": "NoSchedule"});
    let unknown = decide(&node("Unknown", json!([foreign])), &[], false, NOW);
    let unreachable = ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"];
    assert_eq!(taints(&unknown.writes[0]), ["mine:NoSchedule", unreachable[0], unreachable[1]]);
    let not_ready = decide(&node("False", json!([])), &[], false, NOW);
    let expected = ["node.kubernetes.io/not-ready:NoSchedule", "node.kubernetes.io/not-ready:NoExecute"];
    assert_eq!(taints(&not_ready.writes[0]), expected);
    let left = json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}, foreign]);
    let back = decide(&node("True", left), &[], false, NOW);
    assert_eq!(taints(&back.writes[0]), ["mine:NoSchedule"]);
    // As the API server makes a node: the taint goes once it is ready, and no sooner.
    let made = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
    assert!(taints(&decide(&node("True", made.clone()), &[], false, NOW).writes[0]).is_empty());
    assert_eq!(taints(&decide(&node("False", made), &[], false, NOW).writes[0]), expected);
    let mut cordoned = node("True", json!([]));
    cordoned.spec.as_mut().unwrap().unschedulable = Some(true);
    let cordoned = decide(&cordoned, &[], false, NOW);
    assert_eq!(taints(&cordoned.writes[0]), ["node.kubernetes.io/unschedulable:NoSchedule"]);
}

#[test]
fn pods_leave_when_their_toleration_runs_out() {
    let taint = json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": NOW.to_string()}]);
    let node = node("Unknown", taint);
    let tolerates = |seconds: Value| json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": seconds}]);
    let pods = [pod("a", json!([])), pod("b", tolerates(json!(300))), pod("c", tolerates(Value::Null))];
    let decision = eviction::decide(&node, &pods, NOW);
    assert_eq!(
        decision.writes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["patch status of Pod default/a", "delete Pod default/a"]
    );
    assert_eq!(decision.again, Some(Duration::from_secs(300)));
    let later = eviction::decide(&node, &pods[1..], NOW + SignedDuration::from_secs(300));
    assert_eq!(
        later.writes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["patch status of Pod default/b", "delete Pod default/b"]
    );
}

#[test]
fn a_pod_that_came_after_the_taint_has_its_whole_time() {
    let taint = json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": NOW.to_string()}]);
    let tolerates = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 300}]);
    let mut late = Pod::clone(&pod("late", tolerates));
    late.metadata.creation_timestamp = Some(Time(NOW + SignedDuration::from_secs(200)));
    let decision = eviction::decide(&node("Unknown", taint), &[Arc::new(late)], NOW + SignedDuration::from_secs(400));
    assert!(decision.writes.is_empty());
    assert_eq!(decision.again, Some(Duration::from_secs(100)));
}

fn lease(renewed: i64) -> Lease {
    let renewed = Timestamp::from_second(renewed).unwrap().to_string();
    serde_json::from_value(json!({"metadata": {"name": "n1", "namespace": "kube-node-lease"},
        "spec": {"leaseDurationSeconds": 4, "renewTime": renewed}}))
    .unwrap()
}

async fn writes(controller: &NodeLifecycle, queue: &Queue<Key>) -> usize {
    let key = queue.next().await;
    let decision = controller.decide(&key, Timestamp::now());
    queue.done(&key, false);
    if let Some(again) = decision.again {
        queue.add_after(key, again);
    }
    decision.writes.len()
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_moves_keeps_a_node_alive_and_one_that_stops_does_not() {
    let mut sim = Sim::default();
    sim.follow::<Node>();
    sim.follow::<Lease>();
    let (controller, queue) = NodeLifecycle::new(&sim.informers);
    sim.put(&node("True", json!([])));
    sim.put(&lease(1));
    sim.deliver_all();
    assert_eq!(writes(&controller, &queue).await, 0);
    for second in 2..7 {
        tokio::time::advance(Duration::from_secs(1)).await;
        sim.put(&lease(second));
        sim.deliver_all();
    }
    // Due, but it has moved since.
    assert_eq!(writes(&controller, &queue).await, 0);
    let stopped = tokio::time::Instant::now();
    assert_eq!(writes(&controller, &queue).await, 1);
    let took = stopped.elapsed();
    assert!(took <= Duration::from_millis(4100), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_standstill_of_our_own_a_node_gets_a_moment_to_be_heard() {
    let mut sim = Sim::default();
    sim.follow::<Node>();
    sim.follow::<Lease>();
    let (controller, queue) = NodeLifecycle::new(&sim.informers);
    sim.put(&node("True", json!([])));
    sim.put(&lease(1));
    sim.deliver_all();
    assert_eq!(writes(&controller, &queue).await, 0);
    // The machine stood still: nobody could renew, and nobody could look.
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(writes(&controller, &queue).await, 0);
    sim.put(&lease(2));
    sim.deliver_all();
    assert_eq!(writes(&controller, &queue).await, 0);
    // One moment, no second.
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(writes(&controller, &queue).await, 0);
    assert_eq!(writes(&controller, &queue).await, 1);
}

/// The view may stand still because the API was out of reach: nobody is called dead before the Lease itself was asked.
#[tokio::test(start_paused = true)]
async fn who_is_silent_in_the_view_alone_is_not_dead() {
    for (renewed, dead) in [(1, true), (2, false)] {
        let mut sim = Sim::default();
        sim.follow::<Node>();
        sim.follow::<Lease>();
        let (lifecycle, queue) = NodeLifecycle::new(&sim.informers);
        sim.put(&node("True", json!([])));
        sim.put(&lease(1));
        sim.deliver_all();
        assert_eq!(writes(&lifecycle, &queue).await, 0);
        let list = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "LeaseList", "metadata": {},
            "items": [serde_json::to_value(lease(renewed)).unwrap()]});
        let serve = move |_: http::Request<Body>| {
            let answer = http::Response::new(Body::from(list.to_string().into_bytes()));
            async move { Ok::<_, std::convert::Infallible>(answer) }
        };
        let asking = Asking::new(lifecycle, &Client::new(tower::service_fn(serve), "default"));
        // Four seconds, half of one late, and the moment that follows.
        for _ in 0..2 {
            tokio::time::advance(Duration::from_secs(6)).await;
            let _ = asking.reconcile(&Key::new("", "n1")).await.unwrap();
            if !dead {
                break;
            }
        }
        let decision = asking.reconcile(&Key::new("", "n1")).await.unwrap();
        assert_eq!(decision.writes.is_empty(), !dead, "renewed at {renewed}");
    }
}
