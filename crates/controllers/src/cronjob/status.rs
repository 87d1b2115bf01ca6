//! What a CronJob knows of its Jobs: which are active, when one last started and when one last succeeded.

use std::sync::Arc;

use client::events::Draft;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::job::finished;

/// Brings a status in line with the Jobs that are there.
pub fn follow(cron: &CronJob, jobs: &[Arc<Job>]) -> (CronJobStatus, Vec<Draft>) {
    let mut status = cron.status.clone().unwrap_or_default();
    let mut events = Vec::new();
    let mut active = status.active.take().unwrap_or_default();
    for job in jobs {
        let listed = active.iter().position(|one| one.uid == job.metadata.uid);
        let scheduled = scheduled(cron, job);
        match (listed, finished(job)) {
            (None, None) => match scheduled {
                // Made by the decision before this one.
                Some(_) => active.push(reference(job)),
                None => {
                    let text = "Saw a job that the controller did not create or forgot";
                    events.push(Draft::warning(cron, "UnexpectedJob", format!("{text}: {}", job.name_any())));
                }
            },
            (Some(place), Some(ended)) => {
                active.remove(place);
                let message = format!("Saw completed job: {}, condition: {}", job.name_any(), ended.type_);
                events.push(Draft::normal(cron, "SawCompletedJob", message));
            }
            (Some(_), None) | (None, Some(_)) => {}
        }
        status.last_schedule_time = later(status.last_schedule_time, scheduled);
        let completed = job.status.as_ref().and_then(|status| status.completion_time.as_ref()).map(|time| time.0);
        if finished(job).is_some_and(|ended| ended.type_ == "Complete") {
            status.last_successful_time = later(status.last_successful_time, completed);
        }
    }
    active.retain(|one| {
        let there = jobs.iter().any(|job| job.metadata.uid == one.uid);
        if !there {
            let name = one.name.as_deref().unwrap_or_default();
            events.push(Draft::normal(cron, "MissingJob", format!("Active job went missing: {name}")));
        }
        there
    });
    status.active = (!active.is_empty()).then_some(active);
    (status, events)
}

fn later(known: Option<Time>, other: Option<Timestamp>) -> Option<Time> {
    known.into_iter().chain(other.map(Time)).max_by_key(|time| time.0)
}

/// The time for which a Job was made, if it was made by the clock.
fn scheduled(cron: &CronJob, job: &Job) -> Option<Timestamp> {
    let name = job.name_any();
    let minutes: i64 = name.strip_prefix(&cron.name_any())?.strip_prefix('-')?.parse().ok()?;
    let told: Timestamp = job.annotations().get(super::decide::SCHEDULED)?.parse().ok()?;
    (told.as_second() / 60 == minutes).then_some(told)
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        namespace: job.namespace(),
        name: job.metadata.name.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    }
}
