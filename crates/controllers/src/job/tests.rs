//! Jobs from their first pod to their end, and the law that every pod is counted once, whatever was seen and however often we restart.

use std::collections::BTreeSet;

use client::Key;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::orphans::Orphans;
use super::pods::{FINALIZER, INDEX};
use super::reconcile::Jobs;
use crate::mechanism::Queue;
use crate::sim::Sim;

struct World {
    sim: Sim,
    jobs: Jobs,
    queue: Queue<Key>,
    orphans: Orphans,
    orphan_queue: Queue<Key>,
    key: Key,
    now: Timestamp,
    events: Vec<String>,
}

fn job(spec: &Value) -> Job {
    let labels = json!({"job": "j"});
    let mut whole = json!({"parallelism": 1, "completions": 1, "backoffLimit": 6, "suspend": false,
        "podReplacementPolicy": "TerminatingOrFailed", "completionMode": "NonIndexed", "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}});
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "j", "namespace": "default"}, "spec": whole})).unwrap()
}

impl World {
    fn new(spec: &Value) -> World {
        let mut sim = Sim::default();
        sim.follow::<Job>();
        sim.follow::<Pod>();
        let (jobs, queue) = Jobs::new(&sim.informers);
        let (orphans, orphan_queue) = Orphans::new(&sim.informers);
        let key = sim.put(&job(spec));
        let now = Timestamp::from_second(1_000_000).unwrap();
        World { sim, jobs, queue, orphans, orphan_queue, key, now, events: Vec::new() }
    }

    fn restart(&mut self) {
        self.sim.informers = crate::mechanism::Informers::default();
        (self.jobs, self.queue) = Jobs::new(&self.sim.informers);
        (self.orphans, self.orphan_queue) = Orphans::new(&self.sim.informers);
        self.sim.relist::<Job>();
        self.sim.relist::<Pod>();
    }

    /// One decision; false when there is none to take.
    fn work(&mut self) -> bool {
        if let Some(key) = self.queue.try_next() {
            let decision = self.jobs.decide(&key, self.now);
            let tells = decision.writes.iter().any(|write| write.target.kind == "Job");
            let failed = self.sim.execute(decision.writes).is_err();
            if tells {
                // As the loop that drives it does: nothing is decided again before the view shows our own write.
                self.sim.deliver_kind("Job", usize::MAX);
            }
            if !failed {
                self.events
                    .extend(decision.events.into_iter().map(|event| format!("{} {}", event.reason, event.message)));
            }
            self.queue.done(&key, false);
            if failed {
                self.queue.add(key);
            }
            return true;
        }
        let Some(key) = self.orphan_queue.try_next() else { return false };
        let failed = self.sim.execute(self.orphans.decide(&key).writes).is_err();
        self.orphan_queue.done(&key, false);
        if failed {
            self.orphan_queue.add(key);
        }
        true
    }

    fn settle(&mut self) -> JobStatus {
        self.sim.deliver_all();
        let mut rounds = 0;
        while self.work() {
            self.sim.deliver_all();
            rounds += 1;
            assert!(rounds < 500, "never settles: {:?}", self.sim.log);
        }
        self.sim.get::<Job>(&self.key).and_then(|job| job.status).unwrap_or_default()
    }

    /// Time passes, and the Job is looked at again.
    fn wait(&mut self, seconds: i64) -> JobStatus {
        self.now += SignedDuration::from_secs(seconds);
        self.queue.add(self.key.clone());
        self.settle()
    }

    fn change(&mut self, change: impl FnOnce(&mut Value)) -> JobStatus {
        let mut job = serde_json::to_value(self.sim.get::<Job>(&self.key).unwrap()).unwrap();
        change(&mut job);
        self.sim.put(&serde_json::from_value::<Job>(job).unwrap());
        self.settle()
    }

    fn active(&self) -> Vec<Pod> {
        self.sim.list::<Pod>().into_iter().filter(crate::workload::is_active).collect()
    }

    fn end(&mut self, pod: &Pod, phase: &str, exit: i32) {
        let mut pod = serde_json::to_value(pod).unwrap();
        let ended = json!({"terminated": {"exitCode": exit, "finishedAt": self.now.to_string()}});
        let container =
            json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": ended});
        pod["status"] = json!({"phase": phase, "containerStatuses": [container]});
        self.sim.put(&serde_json::from_value::<Pod>(pod).unwrap());
    }

    fn end_all(&mut self, phase: &str, exit: i32) -> JobStatus {
        for pod in self.active() {
            self.end(&pod, phase, exit);
        }
        self.settle()
    }

    fn end_index(&mut self, index: &str, phase: &str, exit: i32) -> JobStatus {
        let pod = self.active().into_iter().find(|pod| pod.annotations()[INDEX] == index).unwrap();
        self.end(&pod, phase, exit);
        self.settle()
    }

    fn indexes(&self) -> BTreeSet<String> {
        self.active().iter().map(|pod| pod.annotations()[INDEX].clone()).collect()
    }
}

fn told(status: &JobStatus) -> Vec<String> {
    let all = status.conditions.iter().flatten();
    all.map(|one| format!("{}={} {}", one.type_, one.status, one.reason.as_deref().unwrap_or_default())).collect()
}

fn message(status: &JobStatus) -> String {
    status.conditions.iter().flatten().last().and_then(|one| one.message.clone()).unwrap_or_default()
}

#[test]
fn a_job_runs_its_pods_and_is_complete() {
    let mut world = World::new(&json!({"parallelism": 2, "completions": 3}));
    let status = world.settle();
    assert_eq!((status.active, status.ready, status.terminating), (Some(2), Some(0), Some(0)));
    assert!(status.start_time.is_some() && status.uncounted_terminated_pods.is_some());
    assert!(world.active().iter().all(|pod| pod.finalizers() == [FINALIZER] && pod.name_any().starts_with("j-")));
    let status = world.end_all("Succeeded", 0);
    assert_eq!((status.active, status.succeeded), (Some(1), Some(2)));
    let status = world.end_all("Succeeded", 0);
    assert_eq!((status.active, status.succeeded, status.failed), (Some(0), Some(3), Some(0)));
    assert_eq!(told(&status), ["SuccessCriteriaMet=True CompletionsReached", "Complete=True CompletionsReached"]);
    assert_eq!(message(&status), "Reached expected number of succeeded pods");
    assert!(status.completion_time.is_some());
    assert!(world.sim.list::<Pod>().iter().all(|pod| pod.finalizers().is_empty()));
    assert!(world.events[0].starts_with("SuccessfulCreate Created pod: j-"), "{:?}", world.events);
    assert_eq!(world.events.last().unwrap(), "Completed Job completed");
}

#[test]
fn a_queue_of_work_is_done_when_one_says_so_and_all_have_ended() {
    let mut world = World::new(&json!({"parallelism": 3, "completions": null}));
    world.settle();
    let first = world.active().remove(0);
    world.end(&first, "Succeeded", 0);
    let status = world.settle();
    assert_eq!((status.active, status.succeeded), (Some(2), Some(1)));
    assert_eq!(told(&status), [""; 0]);
    let status = world.end_all("Succeeded", 0);
    assert_eq!(status.succeeded, Some(3));
    assert_eq!(told(&status).last().unwrap(), "Complete=True CompletionsReached");
}

#[test]
fn failures_pause_longer_each_time_until_the_limit() {
    let mut world = World::new(&json!({"backoffLimit": 2}));
    world.settle();
    let status = world.end_all("Failed", 1);
    assert_eq!((status.active, status.failed), (Some(0), Some(1)));
    assert_eq!(world.wait(9).active, Some(0));
    assert_eq!(world.wait(1).active, Some(1));
    world.end_all("Failed", 1);
    assert_eq!(world.wait(19).active, Some(0));
    assert_eq!(world.wait(1).active, Some(1));
    let status = world.end_all("Failed", 1);
    assert_eq!(status.failed, Some(3));
    assert_eq!(told(&status), ["FailureTarget=True BackoffLimitExceeded", "Failed=True BackoffLimitExceeded"]);
    assert_eq!(message(&status), "Job has reached the specified backoff limit");
    assert_eq!(world.events.last().unwrap(), "BackoffLimitExceeded Job has reached the specified backoff limit");
    assert_eq!(status.completion_time, None);
}

#[test]
fn a_deadline_ends_what_runs_and_counts_it_as_failed() {
    let mut world = World::new(&json!({"parallelism": 2, "completions": 2, "activeDeadlineSeconds": 30}));
    world.settle();
    assert_eq!(world.jobs.decide(&world.key, world.now).again.map(|left| left.as_secs()), Some(30));
    let status = world.wait(30);
    assert_eq!((status.active, status.failed), (Some(0), Some(2)));
    assert_eq!(told(&status), ["FailureTarget=True DeadlineExceeded", "Failed=True DeadlineExceeded"]);
    assert_eq!(message(&status), "Job was active longer than specified deadline");
    assert!(world.sim.list::<Pod>().is_empty());
}

#[test]
fn a_suspended_job_has_no_pods_and_counts_none_as_failed() {
    let mut world = World::new(&json!({"parallelism": 2, "completions": 2, "suspend": true}));
    let status = world.settle();
    assert_eq!((status.active, status.start_time.clone()), (Some(0), None));
    assert_eq!(told(&status), ["Suspended=True JobSuspended"]);
    let status = world.change(|job| job["spec"]["suspend"] = json!(false));
    assert_eq!((status.active, told(&status)), (Some(2), vec!["Suspended=False JobResumed".to_owned()]));
    let started = status.start_time;
    assert!(started.is_some());
    let status = world.change(|job| job["spec"]["suspend"] = json!(true));
    assert_eq!((status.active, status.failed), (Some(0), Some(0)));
    world.now += SignedDuration::from_secs(5);
    let status = world.change(|job| job["spec"]["suspend"] = json!(false));
    assert_ne!(status.start_time, started, "the deadline begins anew");
    let words: Vec<&String> = world.events.iter().filter(|event| event.contains("Job ")).collect();
    assert_eq!(
        words,
        ["Suspended Job suspended", "Resumed Job resumed", "Suspended Job suspended", "Resumed Job resumed"]
    );
}

#[test]
fn fewer_in_parallel_are_no_failures() {
    let mut world = World::new(&json!({"parallelism": 3, "completions": 9}));
    world.settle();
    let status = world.change(|job| job["spec"]["parallelism"] = json!(1));
    assert_eq!((status.active, status.failed), (Some(1), Some(0)));
}

#[test]
fn indexes_are_known_to_the_pods_and_counted() {
    let mut world = World::new(&json!({"parallelism": 3, "completions": 4, "completionMode": "Indexed"}));
    world.settle();
    let pods = world.active();
    let pod = pods.iter().find(|pod| pod.annotations()[INDEX] == "1").unwrap();
    assert!(pod.name_any().starts_with("j-1-"), "{}", pod.name_any());
    assert_eq!(pod.labels()[INDEX], "1");
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(spec.hostname.as_deref(), Some("j-1"));
    let variable = serde_json::to_value(&spec.containers[0].env.as_ref().unwrap()[0]).unwrap();
    let field = "metadata.labels['batch.kubernetes.io/job-completion-index']";
    assert_eq!(variable, json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": field}}}));
    assert_eq!(world.indexes(), BTreeSet::from(["0", "1", "2"].map(str::to_owned)));
    let status = world.end_index("1", "Succeeded", 0);
    assert_eq!((status.completed_indexes.as_deref(), status.succeeded), (Some("1"), Some(1)));
    assert_eq!(world.indexes(), BTreeSet::from(["0", "2", "3"].map(str::to_owned)));
    let status = world.end_all("Succeeded", 0);
    assert_eq!((status.completed_indexes.as_deref(), status.succeeded), (Some("0-3"), Some(4)));
    assert_eq!(told(&status).last().unwrap(), "Complete=True CompletionsReached");
}

#[test]
fn a_failed_index_is_made_again() {
    let mut world = World::new(&json!({"parallelism": 2, "completions": 2, "completionMode": "Indexed"}));
    world.settle();
    let status = world.end_index("0", "Failed", 1);
    assert_eq!((status.failed, world.indexes()), (Some(1), BTreeSet::from(["1".to_owned()])));
    world.wait(10);
    assert_eq!(world.indexes(), BTreeSet::from(["0", "1"].map(str::to_owned)));
}

#[test]
fn each_index_has_a_limit_of_its_own() {
    let spec = json!({"parallelism": 2, "completions": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1,
        "backoffLimit": i32::MAX});
    let mut world = World::new(&spec);
    world.settle();
    const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
    assert!(world.active().iter().all(|pod| pod.annotations()[FAILURES] == "0"));
    let status = world.end_index("0", "Failed", 1);
    assert_eq!((status.failed, status.failed_indexes.as_deref()), (Some(0), Some("")), "held until it is replaced");
    let status = world.wait(10);
    assert_eq!(status.failed, Some(1));
    let again = world.active().into_iter().find(|pod| pod.annotations()[INDEX] == "0").unwrap();
    assert_eq!(again.annotations()[FAILURES], "1");
    let status = world.end_index("0", "Failed", 1);
    assert_eq!((status.failed, status.failed_indexes.as_deref()), (Some(2), Some("0")));
    assert_eq!(world.indexes(), BTreeSet::from(["1".to_owned()]), "the other goes on");
    let status = world.end_index("1", "Succeeded", 0);
    assert_eq!(told(&status), ["FailureTarget=True FailedIndexes", "Failed=True FailedIndexes"]);
    assert_eq!((message(&status).as_str(), status.completed_indexes.as_deref()), ("Job has failed indexes", Some("1")));
}

#[test]
fn too_many_failed_indexes_end_the_job() {
    let spec = json!({"parallelism": 3, "completions": 5, "completionMode": "Indexed", "backoffLimitPerIndex": 0,
        "maxFailedIndexes": 1, "backoffLimit": i32::MAX});
    let mut world = World::new(&spec);
    world.settle();
    world.end_index("0", "Failed", 1);
    let status = world.end_index("1", "Failed", 1);
    assert_eq!(told(&status).last().unwrap(), "Failed=True MaxFailedIndexesExceeded");
    assert_eq!(message(&status), "Job has exceeded the specified maximal number of failed indexes");
    assert!(world.active().is_empty());
}

#[test]
fn a_success_policy_may_be_content_with_less() {
    let rules = json!({"rules": [{"succeededIndexes": "0,2-3", "succeededCount": 2}]});
    let spec = json!({"parallelism": 4, "completions": 4, "completionMode": "Indexed", "successPolicy": rules});
    let mut world = World::new(&spec);
    world.settle();
    assert_eq!(told(&world.end_index("1", "Succeeded", 0)), [""; 0]);
    assert_eq!(told(&world.end_index("0", "Succeeded", 0)), [""; 0]);
    let status = world.end_index("3", "Succeeded", 0);
    assert_eq!(told(&status), ["SuccessCriteriaMet=True SuccessPolicy", "Complete=True SuccessPolicy"]);
    assert_eq!((message(&status).as_str(), status.failed), ("Matched rules at index 0", Some(0)));
    assert!(world.active().is_empty());
}

#[test]
fn a_failure_policy_ignores_counts_or_ends() {
    let rules = json!({"rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {"containerName": "c", "operator": "In", "values": [3]}},
        {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [1, 2]}}]});
    let mut world =
        World::new(&json!({"backoffLimit": 0, "podFailurePolicy": rules, "podReplacementPolicy": "Failed"}));
    world.settle();
    let status = world.end_all("Failed", 3);
    assert_eq!((status.failed, told(&status)), (Some(0), vec![]));
    world.wait(10);
    let pod = world.active().remove(0);
    let status = world.end_all("Failed", 42);
    assert_eq!(told(&status), ["FailureTarget=True PodFailurePolicy", "Failed=True PodFailurePolicy"]);
    let name = pod.name_any();
    let expected =
        format!("Container c for pod default/{name} failed with exit code 42 matching FailJob rule at index 2");
    assert_eq!(message(&status), expected);
    let mut world =
        World::new(&json!({"backoffLimit": 0, "podFailurePolicy": rules, "podReplacementPolicy": "Failed"}));
    world.settle();
    assert_eq!(told(&world.end_all("Failed", 2)).last().unwrap(), "Failed=True BackoffLimitExceeded");
}

#[test]
fn restarts_in_the_pod_count_towards_the_limit() {
    let template = json!({"metadata": {"labels": {"job": "j"}},
        "spec": {"restartPolicy": "OnFailure", "containers": [{"name": "c"}]}});
    let mut world = World::new(&json!({"backoffLimit": 2, "template": template}));
    world.settle();
    for (restarts, ended) in [(1, false), (2, true)] {
        let mut pod = serde_json::to_value(world.active().remove(0)).unwrap();
        let container = json!({"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": restarts});
        pod["status"] = json!({"phase": "Running", "containerStatuses": [container]});
        world.sim.put(&serde_json::from_value::<Pod>(pod).unwrap());
        let status = world.settle();
        assert_eq!(told(&status).last().is_some_and(|last| last == "Failed=True BackoffLimitExceeded"), ended);
    }
}

#[test]
fn pods_of_a_job_that_is_gone_are_let_go() {
    let mut world = World::new(&json!({"parallelism": 2, "completions": 2}));
    world.settle();
    world.sim.remove::<Job>(&world.key.clone());
    world.settle();
    assert!(world.sim.list::<Pod>().iter().all(|pod| pod.finalizers().is_empty()));
}

#[test]
fn a_pod_that_was_let_go_does_not_stay_to_end_uncounted() {
    let mut world = World::new(&json!({"parallelism": 2, "completions": 2}));
    world.settle();
    let mut pod = world.active().remove(0);
    // As if a refusal had come between letting it go and deleting it.
    pod.metadata.finalizers = None;
    world.sim.put(&pod);
    world.settle();
    let active = world.active();
    assert_eq!(active.len(), 2);
    assert!(active.iter().all(|other| other.uid() != pod.uid() && other.finalizers() == [FINALIZER.to_owned()]));
}

#[test]
fn a_stray_pod_is_taken_up_and_held() {
    let mut world = World::new(&json!({}));
    let stray = json!({"metadata": {"name": "stray", "namespace": "default", "labels": {"job": "j"}},
        "spec": {"containers": []}});
    world.sim.put(&serde_json::from_value::<Pod>(stray).unwrap());
    world.settle();
    let pods = world.sim.list::<Pod>();
    assert_eq!(pods.len(), 1);
    assert_eq!((pods[0].finalizers(), pods[0].owner_references().len()), ([FINALIZER.to_owned()].as_slice(), 1));
}

#[test]
fn jobs_of_other_controllers_are_left_alone() {
    let mut world = World::new(&json!({"managedBy": "example.com/other"}));
    assert_eq!(world.settle(), JobStatus::default());
    assert!(world.sim.list::<Pod>().is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Ends { which: u8, well: bool },
    Parallelism(u8),
    Deliver(u8),
    Lost,
    Work,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (any::<u8>(), any::<bool>()).prop_map(|(which, well)| Step::Ends { which, well }),
        1 => (0..5_u8).prop_map(Step::Parallelism),
        4 => (1..6_u8).prop_map(Step::Deliver),
        1 => Just(Step::Lost),
        6 => Just(Step::Work),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_pod_that_ends_is_counted_once(
        steps in prop::collection::vec(step(), 1..80), indexed in any::<bool>(), completions in 1..7_i32,
    ) {
        let mode = if indexed { "Indexed" } else { "NonIndexed" };
        let spec = json!({"parallelism": 3, "completions": completions, "completionMode": mode, "backoffLimit": 100});
        let mut world = World::new(&spec);
        let (mut well, mut badly) = (BTreeSet::new(), BTreeSet::new());
        for step in &steps {
            match step {
                Step::Ends { which, well: true } | Step::Ends { which, well: false } => {
                    let active = world.active();
                    let tracked: Vec<&Pod> =
                        active.iter().filter(|pod| pod.finalizers().iter().any(|one| one == FINALIZER)).collect();
                    if let Some(pod) = tracked.get(usize::from(*which) % tracked.len().max(1)) {
                        let is_well = matches!(step, Step::Ends { well: true, .. });
                        world.end(pod, if is_well { "Succeeded" } else { "Failed" }, i32::from(!is_well));
                        if is_well { &mut well } else { &mut badly }.insert(pod.uid());
                    }
                }
                Step::Parallelism(count) => {
                    let mut job: Job = world.sim.get(&world.key).unwrap();
                    job.spec.as_mut().unwrap().parallelism = Some(i32::from(*count));
                    world.sim.put(&job);
                }
                Step::Deliver(count) => world.sim.deliver(usize::from(*count)),
                Step::Lost => world.sim.relist::<Pod>(),
                Step::Work => drop(world.work()),
                Step::Restart => world.restart(),
            }
            world.now += SignedDuration::from_secs(1);
        }
        world.settle();
        // Long enough that no pause holds anything back, and with room for every pod.
        world.change(|job| job["spec"]["parallelism"] = json!(3));
        world.wait(10_000);
        let mut rounds = 0;
        let status = loop {
            let status = world.settle();
            if status.conditions.iter().flatten().any(|one| one.type_ == "Complete") {
                break status;
            }
            for pod in world.active() {
                well.insert(pod.uid());
                world.end(&pod, "Succeeded", 0);
            }
            rounds += 1;
            prop_assert!(rounds < 20, "{status:?}");
        };
        let log = world.sim.log.join("\n");
        prop_assert_eq!(status.failed, Some(i32::try_from(badly.len()).unwrap()), "{}", log);
        let expected = if indexed { completions } else { i32::try_from(well.len()).unwrap() };
        prop_assert_eq!(status.succeeded, Some(expected));
        prop_assert!(i32::try_from(well.len()).unwrap() >= completions);
        prop_assert!(world.sim.list::<Pod>().iter().all(|pod| pod.finalizers().is_empty()));
        world.sim.log.clear();
        world.restart();
        world.settle();
        prop_assert!(world.sim.log.is_empty(), "{:?}", world.sim.log);
    }
}
