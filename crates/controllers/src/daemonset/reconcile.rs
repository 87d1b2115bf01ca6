//! Wakes on DaemonSets, their pods and revisions, and nodes; reads the views; decides.

use std::sync::Arc;

use client::Key;
use client::events::Draft;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use tokio::task::JoinHandle;

use super::decide::{Observed, decide};
use super::pauses::Pauses;
use crate::Error;
use crate::mechanism::{Controller, Decision, Drive, Informer, Informers, Queue, controller_of, drive, wake_owners};

#[derive(Debug)]
pub struct DaemonSets {
    sets: Arc<Informer<DaemonSet>>,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    revisions: Arc<Informer<ControllerRevision>>,
    pauses: Pauses,
}

pub fn start(with: &Drive) -> JoinHandle<()> {
    let (controller, queue) = DaemonSets::new(&with.informers);
    tokio::spawn(drive(Arc::new(controller), queue, with.clone()))
}

impl DaemonSets {
    pub fn new(informers: &Informers) -> (Self, Queue<Key>) {
        let queue = Queue::default();
        let (sets, pods) = (informers.of(), informers.of());
        let pauses = Pauses::default();
        let made = DaemonSets { sets, pods, nodes: informers.of(), revisions: informers.of(), pauses };
        let wake = queue.clone();
        made.sets.subscribe(move |old, new| {
            if let Some(set) = new.or(old) {
                wake.add(Key::of(set.as_ref()));
            }
        });
        wake_owners(&made.sets, &made.pods, |set: &DaemonSet| Some(set.spec.selector.clone()), &queue);
        wake_owners(&made.sets, &made.revisions, |_| None, &queue);
        let (sets, wake) = (Arc::clone(&made.sets), queue.clone());
        made.nodes.subscribe(move |old, new| {
            // A heartbeat moves no pod; only where pods may be does.
            let matters = |node: &Node| (node.spec.clone(), node.metadata.labels.clone());
            if old.map(|node| matters(node)) != new.map(|node| matters(node)) {
                sets.list().iter().for_each(|set| wake.add(Key::of(set.as_ref())));
            }
        });
        (made, queue)
    }

    pub fn decide(&self, key: &Key, now: Timestamp) -> Decision {
        let Some(set) = self.sets.get(key) else {
            self.pauses.forget(key);
            return Decision::default();
        };
        let uid = set.uid().unwrap_or_default();
        let mut pods = self.pods.owned_by(&uid);
        let strays = self.pods.selected(&key.namespace, &set.spec.selector).into_iter();
        pods.extend(strays.filter(|pod| controller_of(pod.as_ref()).is_none()));
        let mut revisions = self.revisions.owned_by(&uid);
        revisions.sort_by_key(|one| (one.revision, one.name_any()));
        let is_taken = |name: &str| self.pods.get(&Key::new(key.namespace.clone(), name)).is_some();
        let pause = |node: &str| self.pauses.left(key, node, now);
        let (nodes, is_taken, pause) = (self.nodes.list(), &is_taken, &pause);
        decide(&Observed { set: &set, pods, nodes, revisions, is_taken, pause, now })
    }
}

impl Controller for DaemonSets {
    type Key = Key;

    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        Ok(self.decide(key, Timestamp::now()))
    }

    fn refused(&self, key: &Key, error: &Error) -> Option<Draft> {
        let (set, status) = (self.sets.get(key)?, error.status().filter(|_| !error.is_race())?);
        Some(Draft::warning(set.as_ref(), "FailedCreate", format!("Error creating: {}", status.message)))
    }
}
