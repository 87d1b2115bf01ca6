//! Wakes on pods and on nodes that go; before a pod is ended for the lack of its node, the server itself is asked whether that is so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::{Client, Key};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::core::PartialObjectMeta;
use kube::{Api, ResourceExt};
use tokio::task::JoinHandle;

use super::decide::{Finished, decide};
use crate::Error;
use crate::mechanism::{Controller, Decision, Drive, Informer, Queue, Write, drive};

/// A node that was deleted by mistake, or registers again, has this long to come back.
const QUARANTINE: Duration = Duration::from_secs(40);
/// So many pods that have ended are kept for people to look at; upstream's figure.
const MOST_FINISHED: usize = 12_500;

struct PodGc {
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    finished: Arc<Mutex<Finished>>,
    client: Client,
}

pub fn start(with: &Drive) -> JoinHandle<()> {
    let queue = Queue::default();
    let (pods, nodes) = (with.informers.of(), with.informers.of());
    let made = PodGc { pods, nodes, finished: Arc::default(), client: with.client.clone() };
    let (nodes, finished, wake) = (Arc::clone(&made.nodes), Arc::clone(&made.finished), queue.clone());
    made.pods.subscribe(move |old, new| {
        lock(&finished).note(old, new, MOST_FINISHED).into_iter().for_each(|key| wake.add(key));
        let Some(pod) = new else { return };
        match pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
            None if pod.metadata.deletion_timestamp.is_some() => wake.add(Key::of(pod.as_ref())),
            Some(name) if old.is_none() && nodes.get(&Key::new("", &name)).is_none() => {
                wake.add_after(Key::of(pod.as_ref()), QUARANTINE);
            }
            None | Some(_) => {}
        }
    });
    let (pods, wake) = (Arc::clone(&made.pods), queue.clone());
    made.nodes.subscribe(move |old, new| {
        if let (Some(node), None) = (old, new) {
            for pod in pods.on_node(&node.name_any()) {
                wake.add_after(Key::of(pod.as_ref()), QUARANTINE);
            }
        }
    });
    tokio::spawn(drive(Arc::new(made), queue, with.clone()))
}

// A poisoned lock means that a reader panicked while it held plain data: the data are whole.
fn lock(finished: &Mutex<Finished>) -> MutexGuard<'_, Finished> {
    finished.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Controller for PodGc {
    type Key = Key;

    fn name(&self) -> &'static str {
        "pod-garbage-collector-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        let Some(pod) = self.pods.get(key) else { return Ok(Decision::default()) };
        if lock(&self.finished).is_surplus(&pod, MOST_FINISHED) {
            return Ok(vec![Write::delete_now(pod.as_ref())].into());
        }
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty());
        let Some(name) = node else { return Ok(decide(&pod, false, Timestamp::now()).into()) };
        if self.nodes.get(&Key::new("", &name)).is_some() {
            return Ok(Decision::default());
        }
        let api: Api<PartialObjectMeta<Node>> = Api::all(self.client.clone());
        let found = api.get_opt(&name).await;
        let found = found.map_err(|source| Error::Read { what: format!("node {name}"), source: Box::new(source) })?;
        Ok(decide(&pod, found.is_none(), Timestamp::now()).into())
    }
}
