//! A DaemonSet over nodes that come, go and are tainted, and how it is renewed.

use client::Key;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::placement;
use super::reconcile::DaemonSets;
use crate::mechanism::Queue;
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
