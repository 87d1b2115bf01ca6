//! Wakes on Deployments, ReplicaSets and pods that go; reads the views; decides.

use std::sync::Arc;

use client::Key;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::task::JoinHandle;

use super::decide::{Observed, decide};
use super::revision;
use crate::Error;
use crate::mechanism::{Controller, Decision, Drive, Informer, Informers, Queue, controller_of, drive, wake_owners};

#[derive(Debug)]
pub struct Deployments {
    deployments: Arc<Informer<Deployment>>,
    sets: Arc<Informer<ReplicaSet>>,
    pods: Arc<Informer<Pod>>,
}

pub fn start(with: &Drive) -> JoinHandle<()> {
    let (controller, queue) = Deployments::new(&with.informers);
    tokio::spawn(drive(Arc::new(controller), queue, with.clone()))
}

impl Deployments {
    pub fn new(informers: &Informers) -> (Self, Queue<Key>) {
        let queue = Queue::default();
        let made = Deployments { deployments: informers.of(), sets: informers.of(), pods: informers.of() };
        let wake = queue.clone();
        made.deployments.subscribe(move |old, new| {
            if let Some(deployment) = new.or(old) {
                wake.add(Key::of(deployment.as_ref()));
            }
        });
        let selector = |deployment: &Deployment| Some(deployment.spec.selector.clone());
        wake_owners(&made.deployments, &made.sets, selector, &queue);
        let (sets, wake) = (Arc::clone(&made.sets), queue.clone());
        made.pods.subscribe(move |old, new| {
            // Only `Recreate` waits for pods, and only for their end.
            let gone = old.filter(|_| new.is_none_or(|pod| crate::membership::is_finished(pod)));
            let owner = gone.and_then(|pod| Some((pod.namespace()?, controller_of(pod.as_ref())?.name.clone())));
            let set = owner.and_then(|(namespace, name)| sets.get(&Key::new(namespace, name)));
            if let Some((set, owner)) = set.as_ref().and_then(|set| Some((set, controller_of(set.as_ref())?))) {
                wake.add(Key::new(set.namespace().unwrap_or_default(), &owner.name));
            }
        });
        (made, queue)
    }

    pub fn decide(&self, key: &Key, now: Timestamp) -> Decision {
        let Some(deployment) = self.deployments.get(key) else { return Decision::default() };
        let mut sets = self.sets.owned_by(&deployment.uid().unwrap_or_default());
        let strays = self.sets.selected(&key.namespace, &deployment.spec.selector).into_iter();
        sets.extend(strays.filter(|set| controller_of(set.as_ref()).is_none()));
        let pods = sets.iter().flat_map(|set| self.pods.owned_by(&set.uid().unwrap_or_default())).collect();
        let namesake = self.sets.get(&Key::new(key.namespace.clone(), revision::name(&deployment)));
        decide(&Observed { deployment: &deployment, sets, pods, namesake, now })
    }
}

impl Controller for Deployments {
    type Key = Key;

    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        Ok(self.decide(key, Timestamp::now()))
    }
}
