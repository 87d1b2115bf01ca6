//! Pods that are held for a Job that is gone: nobody will count them, so they are let go.

use std::sync::Arc;

use client::Key;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::pods;
use crate::Error;
use crate::mechanism::{Controller, Decision, Informer, Informers, Queue, controller_of};

#[derive(Debug)]
pub struct Orphans {
    jobs: Arc<Informer<Job>>,
    pods: Arc<Informer<Pod>>,
}

impl Orphans {
    pub fn new(informers: &Informers) -> (Self, Queue<Key>) {
        let queue = Queue::default();
        let made = Orphans { jobs: informers.of(), pods: informers.of() };
        let wake = queue.clone();
        made.pods.subscribe(move |_, new| {
            if let Some(pod) = new.filter(|pod| pods::is_tracked(pod)) {
                wake.add(Key::of(pod.as_ref()));
            }
        });
        let (pods, wake) = (Arc::clone(&made.pods), queue.clone());
        made.jobs.subscribe(move |old, new| {
            if let (Some(job), None) = (old, new) {
                for pod in pods.owned_by(&job.uid().unwrap_or_default()) {
                    wake.add(Key::of(pod.as_ref()));
                }
            }
        });
        (made, queue)
    }

    pub fn decide(&self, key: &Key) -> Decision {
        let Some(pod) = self.pods.get(key).filter(|pod| pods::is_tracked(pod)) else { return Decision::default() };
        let is_kept = controller_of(pod.as_ref()).is_some_and(|owner| {
            // Held for another kind's sake, or for a Job that is there.
            let there = || self.jobs.get(&Key::new(key.namespace.clone(), &owner.name));
            owner.kind != "Job" || there().is_some_and(|job| job.uid().as_deref() == Some(&owner.uid))
        });
        if is_kept { Decision::default() } else { vec![pods::release(&pod)].into() }
    }
}

impl Controller for Orphans {
    type Key = Key;

    fn name(&self) -> &'static str {
        "job-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        Ok(self.decide(key))
    }
}
