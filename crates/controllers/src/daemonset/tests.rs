//! A DaemonSet over nodes that come, go and are tainted, and how it is renewed.

use std::sync::Arc;
use std::time::Duration;

use client::Key;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::decide::{Observed, decide};
use super::placement;
use super::reconcile::DaemonSets;
use crate::mechanism::{Queue, Verb, Write};
use crate::sim::Sim;

struct World {
    sim: Sim,
    controller: DaemonSets,
    queue: Queue<Key>,
    key: Key,
}

impl World {
    fn new(nodes: usize, change: impl FnOnce(&mut Value)) -> World {
        let mut sim = Sim::default();
        sim.follow::<DaemonSet>();
        sim.follow::<Pod>();
        sim.follow::<Node>();
        sim.follow::<ControllerRevision>();
        let (controller, queue) = DaemonSets::new(&sim.informers);
        let template =
            json!({"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}});
        let mut spec = json!({"selector": {"matchLabels": {"app": "d"}}, "template": template});
        change(&mut spec);
        let set = json!({"metadata": {"name": "d", "namespace": "default"}, "spec": spec});
        let key = sim.put(&serde_json::from_value::<DaemonSet>(set).unwrap());
        let mut world = World { sim, controller, queue, key };
        (0..nodes).for_each(|number| world.node(&format!("n{number}"), json!([])));
        world
    }

    fn node(&mut self, name: &str, taints: Value) {
        let node = json!({"metadata": {"name": name, "labels": {"host": name}}, "spec": {"taints": taints}});
        self.sim.put(&serde_json::from_value::<Node>(node).unwrap());
    }

    fn settle(&mut self) -> Vec<String> {
        self.sim.deliver_all();
        let mut rounds = 0;
        while let Some(key) = self.queue.try_next() {
            self.sim.execute(self.controller.decide(&key, Timestamp::UNIX_EPOCH).writes).unwrap();
            self.sim.deliver_all();
            self.queue.done(&key, false);
            rounds += 1;
            assert!(rounds < 500, "never settles: {:?}", &self.sim.log[self.sim.log.len() - 20..]);
        }
        let mut nodes: Vec<String> =
            self.sim.list::<Pod>().iter().map(|pod| placement::target(pod).unwrap().to_owned()).collect();
        nodes.sort();
        nodes
    }

    fn ready_all(&mut self) -> usize {
        let waiting: Vec<Pod> =
            self.sim.list::<Pod>().into_iter().filter(|pod| !crate::membership::is_ready(pod)).collect();
        for mut pod in waiting.clone() {
            let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
            pod.status = Some(serde_json::from_value(status).unwrap());
            self.sim.put(&pod);
        }
        waiting.len()
    }

    fn roll_out(&mut self) -> usize {
        let mut most = 0;
        for _ in 0..50 {
            self.settle();
            let waiting = self.ready_all();
            most = most.max(waiting);
            if waiting == 0 {
                return most;
            }
        }
        panic!("never rolled out");
    }

    fn image(&mut self, image: &str) {
        let mut set: DaemonSet = self.sim.get(&self.key).unwrap();
        set.spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
        self.sim.put(&set);
    }

    fn images(&self) -> Vec<String> {
        let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
        self.sim.list::<Pod>().iter().map(image).collect()
    }
}

#[test]
fn every_node_has_one() {
    let mut world = World::new(2, |_| {});
    assert_eq!(world.settle(), ["n0", "n1"]);
    world.node("n2", json!([]));
    assert_eq!(world.settle(), ["n0", "n1", "n2"]);
    world.roll_out();
    let status = world.sim.get::<DaemonSet>(&world.key).unwrap().status.unwrap();
    assert_eq!((status.desired_number_scheduled, status.current_number_scheduled, status.number_ready), (3, 3, 3));
    assert_eq!(
        (status.updated_number_scheduled, status.number_available, status.number_unavailable),
        (Some(3), Some(3), None)
    );
    let pod = world.sim.list::<Pod>().remove(0);
    assert!(pod.labels().contains_key("controller-revision-hash"));
    assert_eq!(pod.spec.unwrap().tolerations.unwrap().len(), 6);
}

#[test]
fn taints_and_selectors_are_heeded() {
    let mut world = World::new(2, |_| {});
    world.settle();
    let taint = |effect: &str| json!([{"key": "k", "effect": effect}]);
    world.node("n0", taint("NoSchedule"));
    assert_eq!(world.settle(), ["n0", "n1"], "what is there may stay");
    world.node("n1", taint("NoExecute"));
    world.node("n2", taint("NoSchedule"));
    assert_eq!(world.settle(), ["n0"]);
    let unreachable = json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]);
    world.node("n3", unreachable);
    assert_eq!(world.settle(), ["n0", "n3"], "daemons stay where the network does not");
    let mut world = World::new(3, |spec| spec["template"]["spec"]["nodeSelector"] = json!({"host": "n1"}));
    assert_eq!(world.settle(), ["n1"]);
}

#[test]
fn a_failed_pod_is_made_anew() {
    let mut world = World::new(1, |_| {});
    world.roll_out();
    let mut pod = world.sim.list::<Pod>().remove(0);
    pod.status = Some(serde_json::from_value(json!({"phase": "Failed"})).unwrap());
    world.sim.put(&pod);
    world.roll_out();
    let pods = world.sim.list::<Pod>();
    assert_eq!(pods.len(), 1);
    assert_ne!(pods[0].name_any(), pod.name_any());
}

#[test]
fn a_rollout_keeps_to_its_limits() {
    let rolling = |field: &str, value: Value| {
        let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {field: value}});
        move |spec: &mut Value| spec["updateStrategy"] = strategy
    };
    let mut one = World::new(4, |_| {});
    let mut two = World::new(4, rolling("maxUnavailable", json!("50%")));
    for (world, most) in [(&mut one, 1), (&mut two, 2)] {
        world.roll_out();
        world.image("v2");
        assert_eq!(world.roll_out(), most);
        assert_eq!(world.images(), ["v2"; 4]);
    }
    let mut surging = World::new(3, |spec| {
        let rolling = json!({"maxSurge": 1, "maxUnavailable": 0});
        spec["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": rolling});
    });
    surging.roll_out();
    surging.image("v2");
    assert_eq!(surging.settle().len(), 4, "a new one beside the old");
    surging.roll_out();
    assert_eq!(surging.images(), ["v2"; 3]);
}

/// What is done about nodes that look like this, a node a word: `O` an old pod that is available, `o` one that is not, `N` and `n` new ones,
/// `x` an old one on its way out, `f` and `s` one that failed or succeeded, `-` none, `!` a taint that keeps new pods away; the first letter
/// is the oldest.
fn decided(strategy: &Value, nodes: &str) -> Vec<Write> {
    let template =
        json!({"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "v2"}]}});
    let spec = json!({"selector": {"matchLabels": {"app": "d"}}, "template": template, "updateStrategy": strategy});
    let set = json!({"metadata": {"name": "d", "namespace": "default", "uid": "d"}, "spec": spec});
    let set: DaemonSet = serde_json::from_value(set).unwrap();
    let decide = |pods: &[Arc<Pod>], nodes: &[Arc<Node>], revisions: Vec<Arc<ControllerRevision>>| {
        let (pods, nodes) = (pods.to_vec(), nodes.to_vec());
        let now = Timestamp::UNIX_EPOCH;
        decide(&Observed { set: &set, pods, nodes, revisions, is_taken: &|_| false, pause: &|_| None, now })
    };
    let Verb::Create(revision) = decide(&[], &[], Vec::new()).writes.remove(0).verb else { panic!("no revision") };
    let revision: ControllerRevision = serde_json::from_value(revision.value()).unwrap();
    let hash = revision.labels()["controller-revision-hash"].clone();
    let (mut all, mut pods) = (Vec::new(), Vec::new());
    for (number, word) in nodes.split(' ').enumerate() {
        let taints = if word.contains('!') { json!([{"key": "k", "effect": "NoSchedule"}]) } else { json!([]) };
        let node = json!({"metadata": {"name": format!("n{number}")}, "spec": {"taints": taints}});
        all.push(Arc::new(serde_json::from_value::<Node>(node).unwrap()));
        for (place, letter) in word.chars().filter(char::is_ascii_alphabetic).enumerate() {
            let hash = if letter.eq_ignore_ascii_case(&'n') { &hash } else { "old" };
            let born = Timestamp::from_second(i64::try_from(place).unwrap()).unwrap().to_string();
            let phase = match letter {
                'f' => "Failed",
                's' => "Succeeded",
                _ => "Running",
            };
            let owner =
                json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d", "controller": true});
            let mut pod = json!({
                "metadata": {"name": format!("n{number}{letter}"), "namespace": "default", "uid": format!("{number}{place}"),
                    "labels": {"app": "d", "controller-revision-hash": hash}, "creationTimestamp": born, "ownerReferences": [owner]},
                "spec": {"nodeName": format!("n{number}"), "containers": []},
                "status": {"phase": phase, "conditions": [{"type": "Ready", "status": if letter.is_ascii_uppercase() { "True" } else { "False" }}]},
            });
            if letter == 'x' {
                pod["metadata"]["deletionTimestamp"] = json!(born);
            }
            pods.push(Arc::new(serde_json::from_value::<Pod>(pod).unwrap()));
        }
    }
    decide(&pods, &all, vec![Arc::new(revision)]).writes
}

/// The nodes and what happens there: `+` a pod is made, `-o` and so on one is deleted.
fn renewed(strategy: &Value, nodes: &str) -> String {
    let mut told: Vec<String> = decided(strategy, nodes)
        .into_iter()
        .filter_map(|write| match write.verb {
            Verb::Create(pod) => {
                let pod: Pod = serde_json::from_value(pod.value()).unwrap();
                Some(format!("{}+", placement::target(&pod).unwrap()))
            }
            Verb::Delete { .. } => {
                let (node, letter) = write.target.key.name.split_at(2);
                Some(format!("{node}-{letter}"))
            }
            _ => None,
        })
        .collect();
    told.sort();
    told.join(" ")
}

#[test]
fn nodes_are_renewed_as_upstream_does() {
    let rolling = |surge: i32, unavailable: i32| json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
    let check = |strategy: &Value, nodes: &str, expected: &str| {
        assert_eq!(renewed(strategy, nodes), expected, "{strategy}: {nodes}");
    };
    let one = rolling(0, 1);
    check(&one, "O O O", "n0-O");
    check(&one, "N O O", "n1-O");
    check(&one, "n O O", "");
    // What serves nobody goes at once, and counts as missing.
    check(&one, "o O O", "n0-o");
    check(&one, "o o O", "n0-o n1-o");
    check(&rolling(0, 2), "o O O", "n0-o n1-O");
    check(&one, "x O O", "");
    // One too many is put in order before anything is renewed.
    check(&one, "ON O O", "n0-N");
    check(&one, "- O O", "n0+");
    // A node that takes no new pods loses its old one all the same.
    check(&one, "!O N", "n0-O");
    let surge = rolling(1, 0);
    check(&surge, "O O O", "n0+");
    check(&surge, "On O O", "");
    check(&surge, "ON O O", "n0-O");
    check(&surge, "xN O O", "n1+");
    check(&surge, "N O O", "n1+");
    check(&surge, "n O O", "n1+");
    // A node that is without gets its pod beyond the bound.
    check(&surge, "o O O", "n0+ n1+");
    check(&surge, "o o On", "n0+ n1+");
    check(&surge, "on O O", "n0-o");
    check(&surge, "OOn O", "n0-O");
    check(&surge, "ONn O", "n0-O n0-n");
    // One that may not be made anew stays as long as there are no more than should be.
    check(&surge, "!O O", "n0-O n1+");
    check(&surge, "!O o", "n1+");
    check(&surge, "!o O", "n0-o n1+");
    check(&rolling(2, 0), "O O O", "n0+ n1+");
    let on_delete = json!({"type": "OnDelete"});
    check(&on_delete, "O o N", "");
    check(&on_delete, "ON O", "n0-N");
    // Pods that ended make room; what only a finalizer keeps takes none.
    check(&one, "f N", "n0-f");
    check(&one, "s N", "n0-s");
}

/// `kubectl rollout status` goes by these: a node whose old pod is still there is not renewed, however many new ones are beside it.
#[test]
fn a_node_counts_as_its_oldest_pod() {
    let check = |strategy: &Value, nodes: &str, expected: [i32; 6]| {
        let Verb::ReplaceStatus(set) = decided(strategy, nodes).remove(0).verb else { panic!("{nodes}") };
        let set = set.value();
        let fields = [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberMisscheduled",
            "numberReady",
            "numberAvailable",
            "updatedNumberScheduled",
        ];
        let found = fields.map(|field| i32::try_from(set["status"][field].as_i64().unwrap_or(0)).unwrap());
        assert_eq!(found, expected, "{nodes}");
    };
    let surge = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}});
    check(&surge, "On On", [2, 2, 0, 2, 2, 0]);
    check(&surge, "N On", [2, 2, 0, 2, 2, 1]);
    let on_delete = json!({"type": "OnDelete"});
    check(&on_delete, "xN O", [2, 2, 0, 1, 1, 0]);
    check(&on_delete, "!O N", [1, 1, 1, 1, 1, 1]);
}

#[test]
fn a_node_that_refuses_its_pod_waits_for_the_next() {
    let mut world = World::new(1, |_| {});
    let fail = |world: &mut World| {
        let mut pod = world.sim.list::<Pod>().remove(0);
        pod.status = Some(serde_json::from_value(json!({"phase": "Failed"})).unwrap());
        world.sim.put(&pod);
        world.sim.deliver_all();
        pod.name_any()
    };
    world.settle();
    let first = fail(&mut world);
    world.settle();
    let second = fail(&mut world);
    assert_ne!(first, second, "the first is replaced at once");
    world.settle();
    assert_eq!(world.sim.list::<Pod>().remove(0).name_any(), second, "the second not yet");
    let now = Timestamp::UNIX_EPOCH;
    let decision = world.controller.decide(&world.key, now);
    assert_eq!((decision.writes.len(), decision.again), (0, Some(Duration::from_secs(1))));
    let later = world.controller.decide(&world.key, now + SignedDuration::from_secs(1));
    assert_eq!(later.events[0].reason, "FailedDaemonPod");
}

#[test]
fn a_pod_that_ended_and_is_only_held_takes_no_place() {
    let mut world = World::new(1, |_| {});
    world.roll_out();
    let mut pod = world.sim.list::<Pod>().remove(0);
    pod.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    pod.status = Some(serde_json::from_value(json!({"phase": "Succeeded"})).unwrap());
    world.sim.put(&pod);
    assert_eq!(world.settle(), ["n0", "n0"], "its successor does not wait");
}
