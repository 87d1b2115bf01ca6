//! Which pods have nobody left to end them, and which that have ended are too many.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::Key;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::mechanism::Write;
use crate::{membership, workload};

/// What a pod needs, if its node is `gone` or it never had one.
pub fn decide(pod: &Arc<Pod>, gone: bool, now: Timestamp) -> Vec<Write> {
    let scheduled = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|name| !name.is_empty());
    if !scheduled {
        return if membership::is_terminating(pod) { vec![Write::delete_now(pod.as_ref())] } else { Vec::new() };
    }
    if !gone {
        return Vec::new();
    }
    let mut writes = Vec::new();
    if !membership::is_finished(pod) {
        // Whoever counts this pod learns that it failed before it is gone.
        let (reason, message) = ("DeletionByPodGC", "PodGC: node no longer exists");
        writes.push(workload::mark_disrupted(pod, reason, message, Some("Failed"), now));
    }
    writes.push(Write::delete_now(pod.as_ref()));
    writes
}

/// Pods that have ended and are still there, the oldest first.
#[derive(Debug, Default)]
pub struct Finished(BTreeSet<(Option<Timestamp>, Key)>);

impl Finished {
    /// Takes note of a change; gives the pods that are more than `most`, which are the oldest.
    pub fn note(&mut self, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>, most: usize) -> Vec<Key> {
        if let Some(old) = old {
            self.0.remove(&age(old));
        }
        if let Some(new) = new.filter(|pod| membership::is_finished(pod)) {
            self.0.insert(age(new));
        }
        let surplus = self.0.len().saturating_sub(most);
        self.0.iter().take(surplus).map(|(_, key)| key.clone()).collect()
    }

    /// Whether the pod is among the oldest that are more than `most`.
    pub fn is_surplus(&self, pod: &Arc<Pod>, most: usize) -> bool {
        let surplus = self.0.len().saturating_sub(most);
        self.0.iter().take(surplus).any(|one| *one == age(pod))
    }
}

fn age(pod: &Arc<Pod>) -> (Option<Timestamp>, Key) {
    (pod.creation_timestamp().map(|time| time.0), Key::of(pod.as_ref()))
}
