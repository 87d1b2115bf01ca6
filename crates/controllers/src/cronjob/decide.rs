//! The next step of a CronJob: tell what became of its Jobs, drop the oldest finished ones, start one when the clock says so.

use std::sync::Arc;

use api::cron::Schedule;
use client::events::Draft;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::clock::Clock;
use super::status;
use crate::job::finished;
use crate::mechanism::{Decision, Write, owner_reference};

pub const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// A CronJob, the Jobs that it controls, and the clock on its wall.
pub struct Observed<'a> {
    pub cron: &'a CronJob,
    pub jobs: Vec<Arc<Job>>,
    /// The zone that it names, or that of this machine; none when nobody knows the one it names.
    pub zone: Option<TimeZone>,
    /// Whether some Job has the name already.
    pub is_taken: &'a dyn Fn(&str) -> bool,
    pub now: Timestamp,
}

pub fn decide(observed: &Observed<'_>) -> Decision {
    let Observed { cron, jobs, .. } = observed;
    let spec = &cron.spec;
    let (status, mut events) = status::follow(cron, jobs);
    let mut writes = Vec::new();
    if cron.status.clone().unwrap_or_default() != status {
        writes.push(Write::replace_status(&CronJob { status: Some(status.clone()), ..(*cron).clone() }));
    }
    let mut decision = Decision::default();
    if cron.metadata.deletion_timestamp.is_none() {
        forget(cron, spec, jobs, &mut decision);
        start(observed, spec, &status, &mut decision);
    }
    events.extend(decision.events);
    writes.extend(decision.writes);
    Decision { writes, events, again: decision.again }
}

/// Deletes the oldest finished Jobs beyond the limits.
fn forget(cron: &CronJob, spec: &CronJobSpec, jobs: &[Arc<Job>], decision: &mut Decision) {
    for (kind, limit) in [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)]
    {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
        let is = |job: &&Arc<Job>| {
            finished(job).is_some_and(|ended| ended.type_ == kind) && job.metadata.deletion_timestamp.is_none()
        };
        let mut ended: Vec<&Arc<Job>> = jobs.iter().filter(is).collect();
        ended.sort_by_key(|job| {
            let started = job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
            // One that never started is the youngest.
            (started.is_none(), started, job.name_any())
        });
        let surplus = ended.len().saturating_sub(limit);
        for job in ended.into_iter().take(surplus) {
            delete(cron, job, decision);
        }
    }
}

fn delete(cron: &CronJob, job: &Job, decision: &mut Decision) {
    decision.events.push(Draft::normal(cron, "SuccessfulDelete", format!("Deleted job {}", job.name_any())));
    decision.writes.push(Write::delete(job));
}

fn start(observed: &Observed<'_>, spec: &CronJobSpec, status: &CronJobStatus, decision: &mut Decision) {
    let (cron, now) = (observed.cron, observed.now);
    let Some(zone) = &observed.zone else {
        let name = spec.time_zone.as_deref().unwrap_or_default();
        let message = format!("invalid timeZone: {name:?}: unknown time zone {name}");
        return decision.events.push(Draft::warning(cron, "UnknownTimeZone", message));
    };
    if spec.suspend == Some(true) {
        return;
    }
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(fault) => {
            let message = format!("unparseable schedule: {:?} : {fault}", spec.schedule);
            return decision.events.push(Draft::warning(cron, "UnparseableSchedule", message));
        }
    };
    let last = status.last_schedule_time.as_ref().or(cron.metadata.creation_timestamp.as_ref());
    let since = last.map_or(now, |time| time.0);
    let clock = Clock { schedule: &schedule, zone, since, starting_deadline: spec.starting_deadline_seconds };
    decision.again = clock.pause(now);
    let due = match clock.due(now) {
        Ok(due) => due,
        Err(fault) => {
            let message = format!("invalid schedule: {} : {fault}", spec.schedule);
            return decision.events.push(Draft::warning(cron, "InvalidSchedule", message));
        }
    };
    let Some(time) = due.time else { return };
    if due.missed_many {
        let message =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew".to_owned();
        decision.events.push(Draft::warning(cron, "TooManyMissedTimes", message));
    }
    if clock.starting_deadline.is_some_and(|seconds| time + SignedDuration::from_secs(seconds) < now) {
        let missed = time.strftime("%a, %d %b %Y %H:%M:%S +0000");
        let message = format!("Missed scheduled time to start a job: {missed}");
        return decision.events.push(Draft::warning(cron, "MissSchedule", message));
    }
    launch(observed, spec, status, (time, zone), decision);
}

fn launch(
    observed: &Observed<'_>,
    spec: &CronJobSpec,
    status: &CronJobStatus,
    (time, zone): (Timestamp, &TimeZone),
    decision: &mut Decision,
) {
    let cron = observed.cron;
    let name = format!("{}-{}", cron.name_any(), time.as_second() / 60);
    if (observed.is_taken)(&name) {
        return;
    }
    let active = status.active.as_deref().unwrap_or_default();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            return decision.events.push(Draft::normal(cron, "JobAlreadyActive", message));
        }
        Some("Replace") => {
            let running = observed.jobs.iter().filter(|job| active.iter().any(|one| one.uid == job.metadata.uid));
            running.for_each(|job| delete(cron, job, decision));
        }
        _ => {}
    }
    decision.events.push(Draft::normal(cron, "SuccessfulCreate", format!("Created job {name}")));
    decision.writes.push(Write::create(&make(cron, spec, name, time, zone)));
}

fn make(cron: &CronJob, spec: &CronJobSpec, name: String, time: Timestamp, zone: &TimeZone) -> Job {
    let model = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = model.annotations.unwrap_or_default();
    let clock = time.to_zoned(zone.clone());
    let offset = if clock.offset().is_zero() { "Z".to_owned() } else { clock.strftime("%:z").to_string() };
    annotations.insert(SCHEDULED.to_owned(), format!("{}{offset}", clock.strftime("%Y-%m-%dT%H:%M:%S")));
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: cron.namespace(),
        labels: model.labels,
        annotations: Some(annotations),
        owner_references: Some(vec![owner_reference(cron)]),
        ..ObjectMeta::default()
    };
    Job { metadata, spec: spec.job_template.spec.clone(), status: None }
}
