//! A ReplicaSet and its pods, step by step, and the law that no history of what was seen makes too many pods for good.

use client::Key;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::reconcile::Replicas;
use crate::mechanism::{Decision, Queue};
use crate::sim::{Refused, Sim};

struct World {
    sim: Sim,
    controller: Replicas<ReplicaSet>,
    queue: Queue<Key>,
    key: Key,
}

fn set(replicas: i32) -> ReplicaSet {
    let template =
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec})).unwrap()
}

impl World {
    fn new(replicas: i32) -> World {
        let mut sim = Sim::default();
        sim.follow::<ReplicaSet>();
        sim.follow::<Pod>();
        let (controller, queue) = Replicas::new(&sim.informers);
        let key = sim.put(&set(replicas));
        World { sim, controller, queue, key }
    }

    fn decide(&self) -> Decision {
        self.controller.decide(&self.key, Timestamp::UNIX_EPOCH)
    }

    fn settle(&mut self) {
        self.sim.deliver_all();
        let mut rounds = 0;
        while let Some(key) = self.queue.try_next() {
            self.sim.execute(self.controller.decide(&key, Timestamp::UNIX_EPOCH).writes).unwrap();
            self.sim.deliver_all();
            self.queue.done(&key, false);
            rounds += 1;
            assert!(rounds < 500, "never settles: {:?}", self.sim.log);
        }
    }

    fn scale(&mut self, replicas: i32) {
        let mut set: ReplicaSet = self.sim.get(&self.key).unwrap();
        set.spec.replicas = Some(replicas);
        self.sim.put(&set);
    }

    fn set(&self) -> ReplicaSet {
        self.sim.get(&self.key).unwrap()
    }

    fn patch_pod(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut pod = serde_json::to_value(self.sim.get::<Pod>(&Key::new("default", name)).unwrap()).unwrap();
        change(&mut pod);
        self.sim.put(&serde_json::from_value::<Pod>(pod).unwrap());
    }

    fn ready(&mut self, name: &str) {
        self.patch_pod(name, |pod| {
            let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:00:00Z"});
            pod["status"] = json!({"phase": "Running", "conditions": [ready]});
            pod["spec"]["nodeName"] = json!("n1");
        });
    }
}

#[test]
fn pods_are_made_from_the_template_and_counted() {
    let mut world = World::new(3);
    world.settle();
    let pods = world.sim.list::<Pod>();
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(|pod| pod.labels()["app"] == "web" && pod.name_any().starts_with("web-")));
    assert!(pods.iter().all(|pod| pod.owner_references()[0].block_owner_deletion == Some(true)));
    let status = world.set().status.unwrap();
    assert_eq!((status.replicas, status.fully_labeled_replicas, status.ready_replicas), (3, Some(3), None));
    assert_eq!(status.observed_generation, Some(1));
    world.ready(&pods[0].name_any());
    world.settle();
    let status = world.set().status.unwrap();
    assert_eq!((status.ready_replicas, status.available_replicas), (Some(1), Some(1)));
}

#[test]
fn events_name_each_pod() {
    let mut world = World::new(1);
    world.sim.deliver_all();
    let decision = world.decide();
    let event = &decision.events[0];
    assert_eq!(event.reason, "SuccessfulCreate");
    assert_eq!(event.message, format!("Created pod: {}", decision.writes[0].target.key.name));
}

#[test]
fn the_least_missed_pods_go_first() {
    let mut world = World::new(3);
    world.settle();
    let names: Vec<String> = world.sim.list::<Pod>().iter().map(|pod| pod.name_any()).collect();
    world.ready(&names[0]);
    world.ready(&names[2]);
    world.scale(2);
    world.settle();
    let left: Vec<String> = world.sim.list::<Pod>().iter().map(|pod| pod.name_any()).collect();
    assert_eq!(left, [names[0].clone(), names[2].clone()]);
    world.patch_pod(&names[0], |pod| {
        pod["metadata"]["annotations"] = json!({"controller.kubernetes.io/pod-deletion-cost": "-5"});
    });
    world.scale(1);
    world.settle();
    assert_eq!(world.sim.list::<Pod>()[0].name_any(), names[2]);
}

#[test]
fn a_decision_on_old_facts_is_refused() {
    let mut world = World::new(2);
    world.sim.deliver_all();
    let first = world.decide().writes;
    let second = world.decide().writes;
    world.sim.execute(first).unwrap();
    assert_eq!(world.sim.execute(second), Err(Refused::Exists));
    world.settle();
    assert_eq!(world.sim.list::<Pod>().len(), 2);
}

#[test]
fn strays_are_taken_up_and_those_that_left_are_let_go() {
    let mut world = World::new(1);
    let stray = json!({"metadata": {"name": "stray", "namespace": "default", "labels": {"app": "web"}},
        "spec": {"containers": []}});
    world.sim.put(&serde_json::from_value::<Pod>(stray).unwrap());
    world.settle();
    let pods = world.sim.list::<Pod>();
    assert_eq!(pods.len(), 1, "the stray counts, nothing is made");
    assert_eq!(pods[0].owner_references()[0].name, "web");
    world.patch_pod("stray", |pod| pod["metadata"]["labels"] = json!({"app": "none"}));
    world.settle();
    let pods = world.sim.list::<Pod>();
    assert_eq!(pods.len(), 2, "another took its place");
    let stray = pods.iter().find(|pod| pod.name_any() == "stray").unwrap();
    assert!(stray.owner_references().is_empty());
}

#[test]
fn pods_of_another_controller_are_left_alone() {
    let mut world = World::new(1);
    let owner = json!({"apiVersion": "v1", "kind": "Other", "name": "o", "uid": "u", "controller": true});
    let foreign = json!({"metadata": {"name": "foreign", "namespace": "default", "labels": {"app": "web"},
        "ownerReferences": [owner]}, "spec": {"containers": []}});
    world.sim.put(&serde_json::from_value::<Pod>(foreign).unwrap());
    world.settle();
    assert_eq!(world.sim.list::<Pod>().len(), 2);
}

#[test]
fn a_refusal_becomes_a_condition_and_goes_again() {
    let mut world = World::new(1);
    world.sim.deliver_all();
    let none = super::keep::Candidates { pods: Vec::new(), is_taken: &|_| false };
    let failing = super::decide::decide_set(&world.set(), none, Some("no more pods"), Timestamp::UNIX_EPOCH);
    world.sim.execute(failing.writes).unwrap();
    let condition = world.set().status.unwrap().conditions.unwrap().remove(0);
    assert_eq!(condition.type_.as_deref(), Some("ReplicaFailure"));
    assert_eq!(condition.message.as_deref(), Some("no more pods"));
    world.settle();
    assert_eq!(world.set().status.unwrap().conditions, None);
}

#[test]
fn finished_pods_are_replaced() {
    let mut world = World::new(1);
    world.settle();
    let name = world.sim.list::<Pod>()[0].name_any();
    world.patch_pod(&name, |pod| pod["status"] = json!({"phase": "Failed"}));
    world.settle();
    assert_eq!(world.sim.list::<Pod>().len(), 2);
    assert_eq!(world.set().status.unwrap().replicas, 1);
}

#[test]
fn a_replication_controller_does_the_same() {
    let mut sim = Sim::default();
    sim.follow::<ReplicationController>();
    sim.follow::<Pod>();
    let (controller, _queue) = Replicas::<ReplicationController>::new(&sim.informers);
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}});
    let spec = json!({"replicas": 2, "selector": {"app": "web"}, "template": template});
    let made = json!({"metadata": {"name": "rc", "namespace": "default"}, "spec": spec});
    let key = sim.put(&serde_json::from_value::<ReplicationController>(made).unwrap());
    for _ in 0..3 {
        sim.deliver_all();
        let writes = controller.decide(&key, Timestamp::UNIX_EPOCH).writes;
        sim.execute(writes).unwrap();
    }
    assert_eq!(sim.list::<Pod>().len(), 2);
    assert_eq!(sim.get::<ReplicationController>(&key).unwrap().status.unwrap().replicas, 2);
}

#[derive(Debug, Clone)]
enum Step {
    Scale(i32),
    Kill(usize),
    Finish(usize),
    Deliver(usize),
    Work,
    Lost,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..6_i32).prop_map(Step::Scale),
        2 => (0..6_usize).prop_map(Step::Kill),
        1 => (0..6_usize).prop_map(Step::Finish),
        3 => (1..6_usize).prop_map(Step::Deliver),
        5 => Just(Step::Work),
        1 => Just(Step::Lost),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn in_the_end_there_are_as_many_as_asked(steps in prop::collection::vec(step(), 1..50)) {
        let mut world = World::new(2);
        for step in &steps {
            let names: Vec<String> = world.sim.list::<Pod>().iter().map(|pod| pod.name_any()).collect();
            match step {
                Step::Scale(replicas) => world.scale(*replicas),
                Step::Kill(index) => {
                    if let Some(name) = names.get(*index) {
                        world.sim.remove::<Pod>(&Key::new("default", name));
                    }
                }
                Step::Finish(index) => {
                    if let Some(name) = names.get(*index) {
                        world.patch_pod(name, |pod| pod["status"] = json!({"phase": "Failed"}));
                    }
                }
                Step::Deliver(count) => world.sim.deliver(*count),
                Step::Work => {
                    // The loop waits until its own writes are shown; here that is not so, which must do no lasting harm.
                    let writes = world.decide().writes;
                    let _ = world.sim.execute(writes);
                }
                Step::Lost => world.sim.relist::<Pod>(),
            }
        }
        let key = world.key.clone();
        world.queue.add(key);
        world.settle();
        let wanted = world.set().spec.replicas.unwrap();
        let active = world.sim.list::<Pod>().iter().filter(|pod| crate::workload::is_active(pod)).count();
        prop_assert_eq!(i32::try_from(active).unwrap(), wanted);
        prop_assert_eq!(world.set().status.unwrap().replicas, wanted);
    }
}
