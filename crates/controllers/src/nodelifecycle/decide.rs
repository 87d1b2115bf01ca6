//! What follows from a node's heartbeat and conditions: `Unknown` when it is silent, taints for what is wrong, pods that are not ready
//! because nobody can say that they are.

use std::sync::Arc;

use client::events::Draft;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::json;

use crate::mechanism::{Decision, Write};
use crate::{membership, workload};

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The conditions that only the node itself can vouch for.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Conditions that keep new pods away while they are true, and the taint that does.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// Decides about a node. `silent` is whether its heartbeat has stopped.
pub fn decide(node: &Node, pods: &[Arc<Pod>], silent: bool, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    if silent {
        if let Some(write) = unknown(node, now) {
            let message = format!("Node {} status is now: NodeNotReady", node.name_any());
            decision.events.push(Draft::normal(node, "NodeNotReady", message));
            decision.writes.push(write);
        }
        for pod in pods.iter().filter(|pod| membership::is_ready(pod)) {
            decision.events.push(Draft::warning(pod.as_ref(), "NodeNotReady", "Node is not ready"));
            decision.writes.push(not_ready(pod, now));
        }
    }
    if decision.writes.is_empty() {
        // Taints follow from conditions that the views show.
        decision.writes.extend(taint(node, now));
    }
    decision
}

fn condition<'a>(node: &'a Node, r#type: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == r#type)
}

fn unknown(node: &Node, now: Timestamp) -> Option<Write> {
    if VOUCHED.iter().all(|name| condition(node, name).is_some_and(|condition| condition.status == "Unknown")) {
        return None;
    }
    let mut conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    for name in VOUCHED {
        let known = conditions.iter_mut().find(|condition| condition.type_ == name);
        match known {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(Time(now));
            }
            None => conditions.push(NodeCondition {
                type_: name.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_transition_time: Some(Time(now)),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
            }),
        }
    }
    let meta = json!({"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version});
    Some(Write::patch_status(node, json!({"metadata": meta, "status": {"conditions": conditions}})))
}

fn not_ready(pod: &Pod, now: Timestamp) -> Write {
    let mut conditions: Vec<PodCondition> =
        pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    for condition in conditions.iter_mut().filter(|condition| condition.type_ == "Ready") {
        condition.status = "False".to_owned();
        condition.last_transition_time = Some(Time(now));
    }
    let meta = json!({"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version});
    Write::patch_status(pod, json!({"metadata": meta, "status": {"conditions": conditions}}))
}

/// Puts on and takes off the taints that are ours to keep; those of others stay as they are.
fn taint(node: &Node, now: Timestamp) -> Option<Write> {
    let present = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let wanted = wanted(node);
    let ours = |taint: &Taint| {
        let key = taint.key.as_str();
        let pressure = PRESSURES.iter().any(|(_, of)| *of == key);
        key == NOT_READY || key == UNREACHABLE || (taint.effect == "NoSchedule" && (pressure || key == UNSCHEDULABLE))
    };
    let is = |taint: &Taint, (key, effect): &(&str, &str)| taint.key == *key && taint.effect == *effect;
    let mut taints: Vec<Taint> =
        present.iter().filter(|taint| !ours(taint) || wanted.iter().any(|one| is(taint, one))).cloned().collect();
    for one in &wanted {
        if !taints.iter().any(|taint| is(taint, one)) {
            let (key, effect) = *one;
            let time_added = (effect == "NoExecute").then_some(Time(now));
            taints.push(Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added });
        }
    }
    if taints == present {
        return None;
    }
    let meta = json!({"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version});
    Some(Write::patch(node, json!({"metadata": meta, "spec": {"taints": taints}})))
}

fn wanted(node: &Node) -> Vec<(&'static str, &'static str)> {
    let mut wanted = Vec::new();
    match condition(node, "Ready").map(|ready| ready.status.as_str()) {
        // A node that has never said anything about itself is not judged yet.
        Some("True") | None => {}
        Some("Unknown") => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        Some(_) => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
    }
    for (name, key) in PRESSURES {
        if condition(node, name).is_some_and(|condition| condition.status == "True") {
            wanted.push((key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

/// Whether a pod still counts on its node.
pub fn counts(pod: &Pod) -> bool {
    !membership::is_finished(pod) && (workload::is_active(pod) || membership::is_terminating(pod))
}
