//! Pods leave a node with a `NoExecute` taint: at once, or when their toleration has run out.

use std::sync::Arc;
use std::time::Duration;

use api::placement::covers;
use client::events::Draft;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::ResourceExt;

use crate::mechanism::{Decision, Write};
use crate::workload;

/// Decides which pods must go now, and when the next one must.
pub fn decide(node: &Node, pods: &[Arc<Pod>], now: Timestamp) -> Decision {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let taints: Vec<&Taint> = taints.iter().filter(|taint| taint.effect == "NoExecute").collect();
    let mut decision = Decision::default();
    if taints.is_empty() {
        return decision;
    }
    for pod in pods.iter().filter(|pod| workload::is_active(pod)) {
        match stay(pod, &taints, now) {
            Stay::ForEver => {}
            Stay::For(left) => decision.again = Some(decision.again.map_or(left, |other| other.min(left))),
            Stay::No => {
                let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
                let message = format!("Marking for deletion Pod {name}");
                decision.events.push(Draft::normal(pod.as_ref(), "TaintManagerEviction", message));
                let reason = ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint");
                decision.writes.push(workload::mark_disrupted(pod, reason.0, reason.1, None, now));
                decision.writes.push(Write::delete(pod.as_ref()));
            }
        }
    }
    decision
}

#[derive(Debug, PartialEq, Eq)]
enum Stay {
    ForEver,
    For(Duration),
    No,
}

/// For how long a pod may stay under all of the taints together.
fn stay(pod: &Pod, taints: &[&Taint], now: Timestamp) -> Stay {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let mut left: Option<Duration> = None;
    for taint in taints {
        let covering: Vec<&Toleration> = tolerations.iter().filter(|toleration| covers(toleration, taint)).collect();
        if covering.is_empty() {
            return Stay::No;
        }
        let shortest = covering.iter().filter_map(|toleration| toleration.toleration_seconds).min();
        let Some(seconds) = shortest else { continue };
        // A pod that came after the taint has its whole time before it.
        let came = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let since = taint.time_added.as_ref().map_or(now, |time| came.map_or(time.0, |came| came.max(time.0)));
        let rest = SignedDuration::from_secs(seconds.max(0)) - now.duration_since(since);
        match Duration::try_from(rest) {
            Ok(rest) if !rest.is_zero() => left = Some(left.map_or(rest, |other| other.min(rest))),
            Ok(_) | Err(_) => return Stay::No,
        }
    }
    left.map_or(Stay::ForEver, Stay::For)
}
