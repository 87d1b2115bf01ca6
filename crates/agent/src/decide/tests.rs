//! The life of pods, step by step, in a world where every action succeeds unless the case says otherwise.

use std::net::{IpAddr, Ipv4Addr};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::decide;
use crate::model::{Action, Ended, Image, PodState, Resize, Run, Running, Sandbox, Volumes};

struct World {
    pod: Pod,
    state: PodState,
    now: Timestamp,
}

impl World {
    fn new(spec: serde_json::Value) -> World {
        let json = serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec});
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        World { pod: serde_json::from_value(json).unwrap(), state: PodState::new(now), now }
    }

    /// Decides, and does what was decided until nothing is left to do; tells what was done.
    fn settle(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        for _ in 0..50 {
            let actions = decide(&self.pod, &self.state, self.now).actions;
            if actions.is_empty() {
                return done;
            }
            for action in actions {
                done.push(self.act(action));
            }
            if done.last().is_some_and(|last| last == "forget") {
                return done;
            }
        }
        panic!("never settles: {done:?}");
    }

    fn act(&mut self, action: Action) -> String {
        let now = self.now;
        match action {
            Action::MountVolumes => {
                self.state.volumes = Volumes::Mounted;
                "mount".into()
            }
            Action::CreateSandbox => {
                self.state.sandbox = Sandbox::Ready { ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] };
                "sandbox".into()
            }
            Action::Pull { container } => {
                self.state.container_mut(&container).image = Image::Present;
                format!("pull {container}")
            }
            Action::Start { container, attempt } => {
                let c = self.state.container_mut(&container);
                if let Run::Ended(ended) = &c.run {
                    c.backoff.next(ended.finished_at, now);
                }
                c.restarts = attempt;
                c.run = Run::Running(Running {
                    id: "i".into(),
                    image_id: "m".into(),
                    started_at: now,
                    resources: Default::default(),
                });
                (c.started, c.ready) = (true, true);
                format!("start {container} #{attempt}")
            }
            Action::Kill { container, grace, .. } => {
                self.exit(&container, 143);
                format!("kill {container} {}s", grace.as_secs())
            }
            Action::Resize => {
                self.state.resize = Resize::Underway;
                "resize".into()
            }
            Action::RemoveSandbox => {
                self.state.sandbox = Sandbox::Removed;
                "remove".into()
            }
            Action::Fail { reason, message } => {
                self.state.failed = Some((reason.clone(), message));
                format!("fail {reason}")
            }
            Action::Forget => "forget".into(),
        }
    }

    fn exit(&mut self, container: &str, code: i32) {
        let finished_at = self.now;
        let c = self.state.container_mut(container);
        (c.started, c.ready) = (false, false);
        c.run = Run::Ended(Ended {
            id: "i".into(),
            image_id: "m".into(),
            code,
            signal: None,
            reason: "Error".into(),
            message: None,
            started_at: None,
            finished_at,
        });
    }

    fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    fn delete(&mut self) {
        self.pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now));
    }
}

fn with_init() -> serde_json::Value {
    serde_json::json!({"initContainers": [{"name": "i1"}, {"name": "s1", "restartPolicy": "Always"}, {"name": "i2"},
        {"name": "s2", "restartPolicy": "Always"}], "containers": [{"name": "a"}, {"name": "b"}]})
}

#[test]
fn init_containers_run_one_by_one_and_sidecars_stay() {
    let mut w = World::new(with_init());
    assert_eq!(w.settle(), ["mount", "sandbox", "pull i1", "start i1 #0"]);
    w.exit("i1", 0);
    assert_eq!(w.settle(), ["pull s1", "start s1 #0", "pull i2", "start i2 #0"]);
    w.exit("s1", 1);
    assert_eq!(w.settle(), ["start s1 #1"]);
    w.exit("i2", 0);
    let last = ["pull s2", "start s2 #0", "pull a", "pull b", "start a #0", "start b #0"];
    assert_eq!(w.settle(), last);
}

#[test]
fn a_deleted_pod_ends_in_order_and_is_forgotten() {
    let mut w = World::new(with_init());
    w.settle();
    w.exit("i1", 0);
    w.settle();
    w.exit("i2", 0);
    w.settle();
    w.delete();
    let expected = ["kill a 30s", "kill b 30s", "kill s2 30s", "kill s1 30s", "remove", "forget"];
    assert_eq!(w.settle(), expected);
}

#[test]
fn a_pod_deleted_before_anything_ran_is_forgotten() {
    let mut w = World::new(serde_json::json!({"containers": [{"name": "a"}]}));
    w.delete();
    assert_eq!(w.settle(), ["remove", "forget"]);
    let mut w = World::new(serde_json::json!({"containers": [{"name": "a"}]}));
    w.settle();
    w.state.orphaned = true;
    assert_eq!(w.settle(), ["kill a 1s", "remove", "forget"]);
}

#[test]
fn a_crash_loop_waits_longer_each_time() {
    let mut w = World::new(serde_json::json!({"containers": [{"name": "a"}]}));
    w.settle();
    w.exit("a", 1);
    assert_eq!(w.settle(), ["start a #1"]);
    w.exit("a", 1);
    assert!(w.settle().is_empty());
    let wake = decide(&w.pod, &w.state, w.now).wake_at.unwrap();
    assert_eq!(wake.duration_since(w.now), SignedDuration::from_secs(10));
    w.pass(10);
    assert_eq!(w.settle(), ["start a #2"]);
    w.exit("a", 1);
    w.pass(19);
    assert!(w.settle().is_empty());
    w.pass(1);
    assert_eq!(w.settle(), ["start a #3"]);
}

#[test]
fn a_job_ends_by_its_policy() {
    for (policy, code, expected) in
        [("Never", 1, "remove"), ("Never", 0, "remove"), ("OnFailure", 0, "remove"), ("OnFailure", 1, "start a #1")]
    {
        let mut w = World::new(serde_json::json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        w.settle();
        w.exit("a", code);
        assert_eq!(w.settle(), [expected], "{policy} {code}");
        assert_eq!(super::outcome(&w.pod, &w.state), (expected == "remove").then_some(code == 0));
    }
}

#[test]
fn a_failed_init_container_fails_the_pod_that_never_restarts() {
    let mut w = World::new(serde_json::json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}],
        "containers": [{"name": "a"}]}));
    w.settle();
    w.exit("i", 3);
    assert_eq!(w.settle(), ["remove"]);
    assert_eq!(super::outcome(&w.pod, &w.state), Some(false));
}

#[test]
fn a_sidecar_ends_when_the_work_is_done() {
    let mut w = World::new(serde_json::json!({"restartPolicy": "Never",
        "initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]}));
    w.settle();
    w.exit("a", 0);
    assert_eq!(w.settle(), ["kill s 30s", "remove"]);
}

#[test]
fn the_deadline_ends_a_pod() {
    let mut w = World::new(serde_json::json!({"activeDeadlineSeconds": 60, "containers": [{"name": "a"}]}));
    w.settle();
    w.pass(59);
    assert!(w.settle().is_empty());
    w.pass(1);
    assert_eq!(w.settle(), ["fail DeadlineExceeded", "kill a 30s", "remove"]);
}

#[test]
fn a_failed_pull_backs_off() {
    let mut w = World::new(serde_json::json!({"containers": [{"name": "a"}]}));
    (w.state.volumes, w.state.sandbox) = (Volumes::Mounted, Sandbox::Ready { ips: vec![] });
    let c = w.state.container_mut("a");
    c.pull_backoff.next(w.now, w.now);
    c.image = Image::Failed { reason: "ErrImagePull".into(), message: "no".into(), at: w.now };
    let decision = decide(&w.pod, &w.state, w.now);
    assert!(decision.actions.is_empty());
    assert_eq!(decision.wake_at.unwrap().duration_since(w.now), super::PULL_ERROR_SHOWN);
    w.pass(10);
    assert_eq!(w.settle(), ["pull a", "start a #0"]);
}

#[test]
fn other_resources_are_given_once_and_asked_for_again_when_refused() {
    let mut w = World::new(serde_json::json!({"containers": [{"name": "a"}]}));
    w.settle();
    let resources = serde_json::json!({"requests": {"cpu": "2"}});
    w.pod.spec.as_mut().unwrap().containers[0].resources = serde_json::from_value(resources).unwrap();
    assert_eq!(w.settle(), ["resize"]);
    let retry_at = w.now + SignedDuration::from_secs(5);
    w.state.resize = Resize::Refused { reason: "Deferred", message: String::new(), retry_at };
    assert!(w.settle().is_empty());
    w.pass(5);
    assert_eq!(w.settle(), ["resize"]);
}
