//! Wakes on Jobs and pods; reads the views; decides.

use std::sync::Arc;

use client::Key;
use client::events::Draft;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::task::JoinHandle;

use super::decide::{Observed, decide};
use super::orphans::Orphans;
use crate::Error;
use crate::mechanism::{Controller, Decision, Drive, Informer, Informers, Queue, controller_of, drive, wake_owners};

#[derive(Debug)]
pub struct Jobs {
    jobs: Arc<Informer<Job>>,
    pods: Arc<Informer<Pod>>,
}

pub fn start(with: &Drive) -> JoinHandle<()> {
    let (jobs, queue) = Jobs::new(&with.informers);
    let (orphans, orphan_queue) = Orphans::new(&with.informers);
    let (jobs, orphans) =
        (drive(Arc::new(jobs), queue, with.clone()), drive(Arc::new(orphans), orphan_queue, with.clone()));
    tokio::spawn(async move {
        tokio::join!(jobs, orphans);
    })
}

impl Jobs {
    pub fn new(informers: &Informers) -> (Self, Queue<Key>) {
        let queue = Queue::default();
        let made = Jobs { jobs: informers.of(), pods: informers.of() };
        let wake = queue.clone();
        made.jobs.subscribe(move |_, new| {
            if let Some(job) = new {
                wake.add(Key::of(job.as_ref()));
            }
        });
        wake_owners(&made.jobs, &made.pods, |job: &Job| job.spec.as_ref()?.selector.clone(), &queue);
        (made, queue)
    }

    pub fn decide(&self, key: &Key, now: Timestamp) -> Decision {
        let Some(job) = self.jobs.get(key) else { return Decision::default() };
        let mut pods = self.pods.owned_by(&job.uid().unwrap_or_default());
        if let Some(selector) = job.spec.as_ref().and_then(|spec| spec.selector.as_ref()) {
            let strays = self.pods.selected(&key.namespace, selector).into_iter();
            pods.extend(strays.filter(|pod| controller_of(pod.as_ref()).is_none()));
        }
        let is_taken = |name: &str| self.pods.get(&Key::new(key.namespace.clone(), name)).is_some();
        decide(Observed { job: &job, pods, is_taken: &is_taken, now })
    }
}

impl Controller for Jobs {
    type Key = Key;

    fn name(&self) -> &'static str {
        "job-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        Ok(self.decide(key, Timestamp::now()))
    }

    fn refused(&self, key: &Key, error: &Error) -> Option<Draft> {
        let (job, status) = (self.jobs.get(key)?, error.status().filter(|_| !error.is_race())?);
        Some(Draft::warning(job.as_ref(), "FailedCreate", format!("Error creating: {}", status.message)))
    }
}
