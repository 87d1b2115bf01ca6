//! Wakes on StatefulSets, their pods and revisions, and claims; reads the views; decides.

use std::sync::Arc;

use client::Key;
use client::events::Draft;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use tokio::task::JoinHandle;

use super::decide::{Observed, decide};
use super::identity;
use crate::Error;
use crate::mechanism::{Controller, Decision, Drive, Informer, Informers, Queue, controller_of, drive, wake_owners};

#[derive(Debug)]
pub struct StatefulSets {
    sets: Arc<Informer<StatefulSet>>,
    pods: Arc<Informer<Pod>>,
    revisions: Arc<Informer<ControllerRevision>>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
}

pub fn start(with: &Drive) -> JoinHandle<()> {
    let (controller, queue) = StatefulSets::new(&with.informers);
    tokio::spawn(drive(Arc::new(controller), queue, with.clone()))
}

impl StatefulSets {
    pub fn new(informers: &Informers) -> (Self, Queue<Key>) {
        let queue = Queue::default();
        let made = StatefulSets {
            sets: informers.of(),
            pods: informers.of(),
            revisions: informers.of(),
            claims: informers.of(),
        };
        let wake = queue.clone();
        made.sets.subscribe(move |old, new| {
            if let Some(set) = new.or(old) {
                wake.add(Key::of(set.as_ref()));
            }
        });
        let (sets, wake) = (Arc::clone(&made.sets), queue.clone());
        made.claims.subscribe(move |old, new| {
            let Some(claim) = new.or(old) else { return };
            let sets = sets.in_namespace(&claim.namespace().unwrap_or_default()).into_iter();
            let sets = sets.filter(|set| identity::may_be_of(set, &claim.name_any()));
            sets.for_each(|set| wake.add(Key::of(set.as_ref())));
        });
        let selector = |set: &StatefulSet| Some(set.spec.selector.clone());
        wake_owners(&made.sets, &made.pods, selector, &queue);
        wake_owners(&made.sets, &made.revisions, |_| None, &queue);
        (made, queue)
    }

    pub fn decide(&self, key: &Key, now: Timestamp) -> Decision {
        let Some(set) = self.sets.get(key) else { return Decision::default() };
        let uid = set.uid().unwrap_or_default();
        let mut pods = self.pods.owned_by(&uid);
        let strays = self.pods.selected(&key.namespace, &set.spec.selector).into_iter();
        pods.extend(strays.filter(|pod| controller_of(pod.as_ref()).is_none()));
        let mut revisions = self.revisions.owned_by(&uid);
        revisions.sort_by_key(|one| (one.revision, one.name_any()));
        let claims =
            self.claims.in_namespace(&key.namespace).into_iter().map(|claim| (claim.name_any(), claim)).collect();
        decide(&Observed { set: &set, pods, revisions, claims, now })
    }
}

impl Controller for StatefulSets {
    type Key = Key;

    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        Ok(self.decide(key, Timestamp::now()))
    }

    fn refused(&self, key: &Key, error: &Error) -> Option<Draft> {
        let (set, status) = (self.sets.get(key)?, error.status().filter(|_| !error.is_race())?);
        let message = format!("{error} in StatefulSet {} failed error: {}", set.name_any(), status.message);
        Some(Draft::warning(set.as_ref(), "FailedCreate", message))
    }
}
