//! CronJobs by a clock that the test turns.

use client::Key;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::reconcile::CronJobs;
use crate::mechanism::Queue;
use crate::sim::Sim;

struct World {
    sim: Sim,
    crons: CronJobs,
    queue: Queue<Key>,
    key: Key,
    now: Timestamp,
    events: Vec<String>,
}

fn at(clock: &str) -> Timestamp {
    format!("2026-01-02T{clock}Z").parse().unwrap()
}

impl World {
    fn new(spec: &Value) -> World {
        let mut sim = Sim::default();
        sim.follow::<CronJob>();
        sim.follow::<Job>();
        let (crons, queue) = CronJobs::new(&sim.informers, TimeZone::UTC);
        let template = json!({"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}, "spec": {"template": {}}});
        let mut whole = json!({"schedule": "*/10 * * * *", "jobTemplate": template, "concurrencyPolicy": "Allow",
            "suspend": false, "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1});
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let metadata = json!({"name": "c", "namespace": "default", "creationTimestamp": "2026-01-02T10:00:00Z"});
        let cron: CronJob = serde_json::from_value(json!({"metadata": metadata, "spec": whole})).unwrap();
        let key = sim.put(&cron);
        World { sim, crons, queue, key, now: at("10:00:00"), events: Vec::new() }
    }

    fn wait_until(&mut self, clock: &str) -> Vec<String> {
        self.now = at(clock);
        self.queue.add(self.key.clone());
        self.sim.deliver_all();
        let mut rounds = 0;
        while let Some(key) = self.queue.try_next() {
            let decision = self.crons.decide(&key, self.now);
            self.sim.execute(decision.writes).unwrap();
            self.events.extend(decision.events.into_iter().map(|event| format!("{} {}", event.reason, event.message)));
            self.sim.deliver_all();
            self.queue.done(&key, false);
            rounds += 1;
            assert!(rounds < 50, "never settles: {:?}", self.sim.log);
        }
        self.sim.list::<Job>().iter().map(|job| job.name_any()).collect()
    }

    fn end(&mut self, job: &str, how: &str) {
        let mut job: Job = self.sim.get(&Key::new("default", job)).unwrap();
        let now = self.now.to_string();
        let mut status = json!({"startTime": now, "conditions": [{"type": how, "status": "True"}]});
        if how == "Complete" {
            status["completionTime"] = json!(now);
        }
        job.status = Some(serde_json::from_value(status).unwrap());
        self.sim.put(&job);
    }

    fn active(&self) -> Vec<String> {
        let status = self.sim.get::<CronJob>(&self.key).unwrap().status.unwrap_or_default();
        status.active.unwrap_or_default().into_iter().map(|one| one.name.unwrap()).collect()
    }
}

/// The name of the Job for a time of that day.
fn name(clock: &str) -> String {
    format!("c-{}", at(clock).as_second() / 60)
}

#[test]
fn a_job_is_made_for_each_time_and_followed() {
    let mut world = World::new(&json!({"timeZone": "Europe/Vienna"}));
    assert!(world.wait_until("10:09:59").is_empty());
    assert_eq!(world.crons.decide(&world.key, world.now).again.map(|left| left.as_millis()), Some(1100));
    assert_eq!(world.wait_until("10:10:00"), [name("10:10:00")]);
    let job = world.sim.list::<Job>().remove(0);
    assert_eq!(job.labels()["a"], "b");
    assert_eq!(job.annotations()["c"], "d");
    assert_eq!(job.annotations()["batch.kubernetes.io/cronjob-scheduled-timestamp"], "2026-01-02T11:10:00+01:00");
    assert_eq!(job.owner_references()[0].controller, Some(true));
    assert_eq!(world.active(), [name("10:10:00")]);
    let status = world.sim.get::<CronJob>(&world.key).unwrap().status.unwrap();
    assert_eq!(status.last_schedule_time.unwrap().0, at("10:10:00"));
    world.end(&name("10:10:00"), "Complete");
    world.wait_until("10:11:00");
    assert!(world.active().is_empty());
    let status = world.sim.get::<CronJob>(&world.key).unwrap().status.unwrap();
    assert_eq!(status.last_successful_time.unwrap().0, at("10:10:00"));
    let name = name("10:10:00");
    let told = [
        format!("SuccessfulCreate Created job {name}"),
        format!("SawCompletedJob Saw completed job: {name}, condition: Complete"),
    ];
    assert_eq!(world.events, told);
}

#[test]
fn policies_let_run_hold_back_or_replace() {
    for (policy, jobs) in
        [("Allow", vec!["10:10:00", "10:20:00"]), ("Forbid", vec!["10:10:00"]), ("Replace", vec!["10:20:00"])]
    {
        let mut world = World::new(&json!({"concurrencyPolicy": policy}));
        world.wait_until("10:10:00");
        let expected: Vec<String> = jobs.iter().map(|clock| name(clock)).collect();
        assert_eq!(world.wait_until("10:20:00"), expected, "{policy}");
        assert_eq!(world.active(), expected, "{policy}");
        let held =
            "JobAlreadyActive Not starting job because prior execution is running and concurrency policy is Forbid";
        assert_eq!(world.events.iter().any(|event| event == held), policy == "Forbid");
    }
}

#[test]
fn missed_times_are_met_once_and_not_too_late() {
    let mut world = World::new(&json!({}));
    assert_eq!(world.wait_until("10:55:00"), [name("10:50:00")]);
    let mut world = World::new(&json!({"startingDeadlineSeconds": 60}));
    assert!(world.wait_until("10:55:00").is_empty());
    assert_eq!(world.wait_until("11:00:59"), [name("11:00:00")]);
    let mut world = World::new(&json!({"suspend": true}));
    assert!(world.wait_until("10:55:00").is_empty());
}

#[test]
fn history_is_kept_within_limits() {
    let mut world = World::new(&json!({"successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 0}));
    for (clock, how) in
        [("10:10:00", "Complete"), ("10:20:00", "Failed"), ("10:30:00", "Complete"), ("10:40:00", "Complete")]
    {
        world.wait_until(clock);
        world.end(&name(clock), how);
    }
    assert_eq!(world.wait_until("10:45:00"), [name("10:30:00"), name("10:40:00")]);
    assert!(world.events.contains(&format!("SuccessfulDelete Deleted job {}", name("10:20:00"))));
}

#[test]
fn a_job_made_by_hand_is_not_taken_for_one_of_the_clock() {
    let mut world = World::new(&json!({"concurrencyPolicy": "Forbid"}));
    let uid = world.sim.get::<CronJob>(&world.key).unwrap().uid();
    let owner = json!([{"apiVersion": "batch/v1", "kind": "CronJob", "name": "c", "uid": uid, "controller": true}]);
    let job = json!({"metadata": {"name": "by-hand", "namespace": "default", "ownerReferences": owner}, "spec": {"template": {}}});
    world.sim.put(&serde_json::from_value::<Job>(job).unwrap());
    assert_eq!(world.wait_until("10:10:00"), ["by-hand".to_owned(), name("10:10:00")]);
    assert_eq!(world.active(), [name("10:10:00")]);
    assert!(
        world.events[0].starts_with("UnexpectedJob Saw a job that the controller did not create or forgot: by-hand")
    );
}

#[test]
fn what_cannot_be_followed_is_told() {
    let table = [
        (
            json!({"timeZone": "Mars/Olympus"}),
            "UnknownTimeZone invalid timeZone: \"Mars/Olympus\": unknown time zone Mars/Olympus",
        ),
        (
            json!({"schedule": "often"}),
            "UnparseableSchedule unparseable schedule: \"often\" : expected exactly 5 fields, found 1: [often]",
        ),
    ];
    for (spec, expected) in table {
        let mut world = World::new(&spec);
        world.wait_until("10:10:00");
        assert_eq!(world.events.first().map(String::as_str), Some(expected));
    }
}
