//! Wakes on ReplicaSets, ReplicationControllers and pods; reads the views; decides.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use client::events::Draft;
use client::{Key, Object};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use tokio::task::JoinHandle;

use super::decide::{decide_controller, decide_set};
use super::keep::Candidates;
use crate::Error;
use crate::mechanism::{Controller, Decision, Drive, Informer, Informers, Queue, controller_of, drive, wake_owners};

/// What differs between the two kinds.
pub trait Replicated: Object {
    const CONTROLLER: &'static str;

    fn selector(&self) -> Option<LabelSelector>;
    fn decide(&self, pods: Candidates<'_>, failure: Option<&str>, now: Timestamp) -> Decision;
}

impl Replicated for ReplicaSet {
    const CONTROLLER: &'static str = "replicaset-controller";

    fn selector(&self) -> Option<LabelSelector> {
        Some(self.spec.selector.clone())
    }

    fn decide(&self, pods: Candidates<'_>, failure: Option<&str>, now: Timestamp) -> Decision {
        decide_set(self, pods, failure, now)
    }
}

impl Replicated for ReplicationController {
    const CONTROLLER: &'static str = "replication-controller";

    fn selector(&self) -> Option<LabelSelector> {
        let match_labels = self.spec.as_ref()?.selector.clone();
        Some(LabelSelector { match_labels, match_expressions: None })
    }

    fn decide(&self, pods: Candidates<'_>, failure: Option<&str>, now: Timestamp) -> Decision {
        decide_controller(self, pods, failure, now)
    }
}

#[derive(Debug)]
pub struct Replicas<K> {
    owners: Arc<Informer<K>>,
    pods: Arc<Informer<Pod>>,
    /// Why the last pods of an owner could not be made; only as long as this process lives.
    failures: Mutex<BTreeMap<Key, String>>,
}

pub fn start_sets(with: &Drive) -> JoinHandle<()> {
    start::<ReplicaSet>(with)
}

pub fn start_controllers(with: &Drive) -> JoinHandle<()> {
    start::<ReplicationController>(with)
}

fn start<K: Replicated>(with: &Drive) -> JoinHandle<()> {
    let (controller, queue) = Replicas::<K>::new(&with.informers);
    tokio::spawn(drive(Arc::new(controller), queue, with.clone()))
}

impl<K: Replicated> Replicas<K> {
    pub fn new(informers: &Informers) -> (Self, Queue<Key>) {
        let queue = Queue::default();
        let made = Replicas { owners: informers.of::<K>(), pods: informers.of(), failures: Mutex::default() };
        let wake = queue.clone();
        made.owners.subscribe(move |old, new| {
            if let Some(owner) = new.or(old) {
                wake.add(Key::of(owner.as_ref()));
            }
        });
        wake_owners(&made.owners, &made.pods, |owner: &K| owner.selector(), &queue);
        (made, queue)
    }

    pub fn decide(&self, key: &Key, now: Timestamp) -> Decision {
        let Some(owner) = self.owners.get(key) else {
            self.note(key, None);
            return Decision::default();
        };
        let mut candidates = self.pods.owned_by(&owner.uid().unwrap_or_default());
        if let Some(selector) = owner.selector() {
            let strays = self.pods.selected(&key.namespace, &selector).into_iter();
            candidates.extend(strays.filter(|pod| controller_of(pod.as_ref()).is_none()));
        }
        let failure = self.note(key, None);
        let is_taken = |name: &str| self.pods.get(&Key::new(key.namespace.clone(), name)).is_some();
        owner.decide(Candidates { pods: candidates, is_taken: &is_taken }, failure.as_deref(), now)
    }

    /// Replaces what is remembered of a failure, and gives back what was.
    fn note(&self, key: &Key, failure: Option<String>) -> Option<String> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match failure {
            Some(failure) => failures.insert(key.clone(), failure),
            None => failures.remove(key),
        }
    }
}

impl<K: Replicated> Controller for Replicas<K> {
    type Key = Key;

    fn name(&self) -> &'static str {
        K::CONTROLLER
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        Ok(self.decide(key, Timestamp::now()))
    }

    fn refused(&self, key: &Key, error: &Error) -> Option<Draft> {
        if error.is_race() {
            return None;
        }
        let cause = error.status().map_or_else(|| error.chain(), |status| status.message.clone());
        self.note(key, Some(cause.clone()));
        let owner = self.owners.get(key)?;
        Some(Draft::warning(owner.as_ref(), "FailedCreate", format!("Error creating: {cause}")))
    }
}
