//! What budgets allow, by the numbers.

use std::collections::BTreeMap;

use client::Key;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::reconcile::Budgets;
use super::stale;
use crate::mechanism::Queue;
use crate::sim::Sim;

struct World {
    sim: Sim,
    budgets: Budgets,
    queue: Queue<Key>,
    key: Key,
    now: Timestamp,
    /// What keepers of custom kinds are for, by UID.
    custom: BTreeMap<String, i32>,
    events: Vec<String>,
}

impl World {
    fn new(spec: &Value) -> World {
        let mut sim = Sim::default();
        sim.follow::<PodDisruptionBudget>();
        sim.follow::<Pod>();
        sim.follow::<ReplicaSet>();
        sim.follow::<Deployment>();
        let (budgets, queue) = Budgets::new(&sim.informers);
        let mut whole = json!({"selector": {"matchLabels": {"app": "web"}}});
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let budget = json!({"metadata": {"name": "b", "namespace": "default"}, "spec": whole});
        let key = sim.put(&serde_json::from_value::<PodDisruptionBudget>(budget).unwrap());
        let (custom, events) = (BTreeMap::new(), Vec::new());
        World { sim, budgets, queue, key, now: Timestamp::from_second(1_000_000).unwrap(), custom, events }
    }

    /// A Deployment of so many replicas, of which so many are ready.
    fn deployment(&mut self, replicas: usize, ready: usize) {
        let labels = json!({"app": "web"});
        let spec = json!({"replicas": replicas, "selector": {"matchLabels": labels}, "template": {}});
        let meta = json!({"name": "web", "namespace": "default", "uid": "d"});
        let deployment = json!({"metadata": meta, "spec": spec});
        self.sim.put(&serde_json::from_value::<Deployment>(deployment).unwrap());
        let owner = |kind: &str, name: &str, uid: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true}]);
        let meta = json!({"name": "web-1", "namespace": "default", "uid": "s", "ownerReferences": owner("Deployment", "web", "d")});
        let set = json!({"metadata": meta, "spec": spec});
        self.sim.put(&serde_json::from_value::<ReplicaSet>(set).unwrap());
        for number in 0..replicas {
            self.pod(&format!("p{number}"), number < ready, &owner("ReplicaSet", "web-1", "s"));
        }
    }

    fn pod(&mut self, name: &str, ready: bool, owner: &Value) {
        let status = if ready { "True" } else { "False" };
        let pod = json!({"metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}, "ownerReferences": owner},
            "spec": {"containers": []}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]}});
        self.sim.put(&serde_json::from_value::<Pod>(pod).unwrap());
    }

    fn settle(&mut self) -> PodDisruptionBudgetStatus {
        self.sim.deliver_all();
        let mut rounds = 0;
        while let Some(key) = self.queue.try_next() {
            let decision = self.budgets.decide(&key, &self.custom, self.now);
            self.sim.execute(decision.writes).unwrap();
            self.events.extend(decision.events.into_iter().map(|event| format!("{} {}", event.reason, event.message)));
            self.sim.deliver_all();
            self.queue.done(&key, false);
            rounds += 1;
            assert!(rounds < 50, "never settles: {:?}", self.sim.log);
        }
        self.sim.get::<PodDisruptionBudget>(&self.key).unwrap().status.unwrap_or_default()
    }
}

/// Healthy, desired, expected, allowed.
fn numbers(status: &PodDisruptionBudgetStatus) -> [i32; 4] {
    [status.current_healthy, status.desired_healthy, status.expected_pods, status.disruptions_allowed]
        .map(Option::unwrap)
}

#[test]
fn as_many_may_go_as_the_budget_leaves() {
    let table = [
        (json!({"minAvailable": 2}), 3, [3, 2, 3, 1]),
        (json!({"minAvailable": 2}), 2, [2, 2, 3, 0]),
        (json!({"minAvailable": "50%"}), 3, [3, 2, 3, 1]),
        (json!({"minAvailable": "100%"}), 3, [3, 3, 3, 0]),
        (json!({"maxUnavailable": 1}), 3, [3, 2, 3, 1]),
        (json!({"maxUnavailable": 1}), 2, [2, 2, 3, 0]),
        (json!({"maxUnavailable": "50%"}), 3, [3, 1, 3, 2]),
        (json!({"maxUnavailable": 9}), 3, [3, 0, 3, 3]),
    ];
    for (spec, ready, expected) in table {
        let mut world = World::new(&spec);
        world.deployment(3, ready);
        let status = world.settle();
        assert_eq!(numbers(&status), expected, "{spec} with {ready} ready");
        let condition = &status.conditions.unwrap()[0];
        let told = if expected[3] > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), told);
        assert_eq!((status.observed_generation, condition.observed_generation), (Some(1), Some(1)));
    }
}

#[test]
fn without_pods_nothing_may_go() {
    let mut world = World::new(&json!({"maxUnavailable": 1}));
    assert_eq!(numbers(&world.settle()), [0, 0, 0, 0]);
    assert_eq!(world.events[0], "NoPods No matching pods found");
}

#[test]
fn a_keeper_of_a_custom_kind_counts_if_it_has_a_number() {
    let mut world = World::new(&json!({"maxUnavailable": 1}));
    let owner =
        json!([{"apiVersion": "example.org/v1", "kind": "Widget", "name": "w", "uid": "w1", "controller": true}]);
    world.pod("p0", true, &owner);
    let condition = world.settle().conditions.unwrap()[0].clone();
    assert_eq!(condition.reason, "SyncFailed");
    world.custom.insert("w1".to_owned(), 2);
    world.pod("p1", true, &owner);
    assert_eq!(numbers(&world.settle()), [2, 1, 2, 1]);
}

#[test]
fn an_evicted_pod_counts_as_gone_for_two_minutes() {
    let mut world = World::new(&json!({"minAvailable": 1}));
    world.deployment(3, 3);
    world.settle();
    let mut budget: PodDisruptionBudget = world.sim.get(&world.key).unwrap();
    let time = json!({"p0": world.now.to_string()});
    budget.status.as_mut().unwrap().disrupted_pods = serde_json::from_value(time).unwrap();
    world.sim.put(&budget);
    let status = world.settle();
    assert_eq!((numbers(&status), status.disrupted_pods.map(|pods| pods.len())), ([2, 1, 3, 1], Some(1)));
    let again = world.budgets.decide(&world.key, &world.custom, world.now).again;
    assert_eq!(again.map(|left| left.as_secs()), Some(120));
    world.now += SignedDuration::from_secs(120);
    world.queue.add(world.key.clone());
    let status = world.settle();
    assert_eq!((numbers(&status), status.disrupted_pods), ([3, 1, 3, 2], None));
    assert!(
        world.events.contains(&"NotDeleted Pod was expected by PDB default/b to be deleted but it wasn't".to_owned())
    );
}

#[test]
fn a_share_of_pods_of_an_unknown_keeper_is_unknown() {
    let mut world = World::new(&json!({"maxUnavailable": 1}));
    world.pod("p", true, &json!([{"apiVersion": "x/v1", "kind": "X", "name": "x", "uid": "x", "controller": true}]));
    let status = world.settle();
    let condition = &status.conditions.unwrap()[0];
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "SyncFailed"));
    assert_eq!(condition.message, "found no controllers for pod \"p\"");
}

#[test]
fn a_disruption_that_did_not_come_is_taken_back() {
    let pod = |status: &str| -> Pod {
        let condition =
            json!({"type": "DisruptionTarget", "status": status, "lastTransitionTime": "1970-01-01T00:00:00Z"});
        let pod = json!({"metadata": {"name": "p", "namespace": "default"}, "status": {"conditions": [condition]}});
        serde_json::from_value(pod).unwrap()
    };
    let at = |second| Timestamp::from_second(second).unwrap();
    assert_eq!(stale::decide(&pod("True"), at(60)).again.map(|left| left.as_secs()), Some(60));
    assert_eq!(stale::decide(&pod("True"), at(120)).writes.len(), 1);
    assert_eq!(stale::decide(&pod("False"), at(120)).writes.len(), 0);
}
