//! A StatefulSet step by step: order, identity, claims, rollout with partition, and back.

use client::Key;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::reconcile::StatefulSets;
use crate::mechanism::Queue;
use crate::sim::Sim;

struct World {
    sim: Sim,
    controller: StatefulSets,
    queue: Queue<Key>,
    key: Key,
}

impl World {
    fn new(change: impl FnOnce(&mut Value)) -> World {
        let mut sim = Sim::default();
        sim.follow::<StatefulSet>();
        sim.follow::<Pod>();
        sim.follow::<ControllerRevision>();
        sim.follow::<PersistentVolumeClaim>();
        let (controller, queue) = StatefulSets::new(&sim.informers);
        let template =
            json!({"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}});
        let mut spec = json!({"replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}}, "template": template});
        change(&mut spec);
        let set = json!({"metadata": {"name": "db", "namespace": "default"}, "spec": spec});
        let key = sim.put(&serde_json::from_value::<StatefulSet>(set).unwrap());
        World { sim, controller, queue, key }
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
        self.names()
    }

    fn names(&self) -> Vec<String> {
        self.sim.list::<Pod>().iter().map(|pod| pod.name_any()).collect()
    }

    fn ready(&mut self, name: &str) {
        let mut pod: Pod = self.sim.get(&Key::new("default", name)).unwrap();
        let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        pod.status = Some(serde_json::from_value(status).unwrap());
        self.sim.put(&pod);
    }

    fn roll_out(&mut self) {
        for _ in 0..50 {
            self.settle();
            let waiting = self.sim.list::<Pod>().into_iter().filter(|pod| !crate::membership::is_ready(pod));
            let names: Vec<String> = waiting.map(|pod| pod.name_any()).collect();
            if names.is_empty() {
                return;
            }
            names.iter().for_each(|name| self.ready(name));
        }
        panic!("never rolled out");
    }

    fn edit(&mut self, change: impl FnOnce(&mut StatefulSet)) {
        let mut set: StatefulSet = self.sim.get(&self.key).unwrap();
        change(&mut set);
        self.sim.put(&set);
    }

    fn image(&mut self, image: &str) {
        self.edit(|set| set.spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned()));
    }

    fn images(&self) -> Vec<String> {
        let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
        self.sim.list::<Pod>().iter().map(image).collect()
    }

    fn get(&self) -> StatefulSet {
        self.sim.get(&self.key).unwrap()
    }
}

#[test]
fn pods_come_one_after_the_other_and_go_from_the_top() {
    let mut world = World::new(|_| {});
    assert_eq!(world.settle(), ["db-0"]);
    world.ready("db-0");
    assert_eq!(world.settle(), ["db-0", "db-1"]);
    world.roll_out();
    assert_eq!(world.names(), ["db-0", "db-1", "db-2"]);
    world.edit(|set| set.spec.replicas = Some(1));
    world.sim.log.clear();
    world.settle();
    let deletes: Vec<&String> = world.sim.log.iter().filter(|line| line.starts_with("delete")).collect();
    assert_eq!(deletes, ["delete Pod default/db-2", "delete Pod default/db-1"]);
}

#[test]
fn a_pod_knows_who_it_is() {
    let mut world = World::new(|spec| {
        let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}});
        spec["volumeClaimTemplates"] = json!([claim]);
        spec["ordinals"] = json!({"start": 5});
        spec["replicas"] = json!(1);
    });
    world.roll_out();
    let pod: Pod = world.sim.get(&Key::new("default", "db-5")).unwrap();
    assert_eq!(pod.labels()["statefulset.kubernetes.io/pod-name"], "db-5");
    assert_eq!(pod.labels()["apps.kubernetes.io/pod-index"], "5");
    assert_eq!(pod.labels()["controller-revision-hash"], world.get().status.unwrap().update_revision.unwrap());
    let spec = pod.spec.unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-5"), Some("db")));
    assert_eq!(spec.volumes.unwrap()[0].persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-5");
    let claims = world.sim.list::<PersistentVolumeClaim>();
    assert_eq!(claims[0].name_any(), "data-db-5");
    world.sim.remove::<Pod>(&Key::new("default", "db-5"));
    world.roll_out();
    assert_eq!(world.sim.list::<PersistentVolumeClaim>().len(), 1, "the claim is used again");
}

#[test]
fn in_parallel_all_come_at_once() {
    let mut world = World::new(|spec| spec["podManagementPolicy"] = json!("Parallel"));
    assert_eq!(world.settle(), ["db-0", "db-1", "db-2"]);
    world.edit(|set| set.spec.replicas = Some(0));
    assert!(world.settle().is_empty());
}

#[test]
fn a_rollout_goes_from_the_top_and_waits_for_each() {
    let mut world = World::new(|_| {});
    world.roll_out();
    let first = world.get().status.unwrap().current_revision;
    world.image("v2");
    world.settle();
    assert_eq!(world.images(), ["v1", "v1", "v2"], "the next waits until this one is ready");
    world.roll_out();
    assert_eq!(world.images(), ["v2", "v2", "v2"]);
    let status = world.get().status.unwrap();
    assert_eq!(status.current_revision, status.update_revision);
    assert_ne!(status.current_revision, first);
    assert_eq!((status.updated_replicas, status.current_replicas), (Some(3), Some(3)));
    world.image("v1");
    world.roll_out();
    assert_eq!(world.images(), ["v1", "v1", "v1"]);
    let mut numbers: Vec<_> = world.sim.list::<ControllerRevision>().iter().map(|one| one.revision.unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3], "an old revision is taken up again under a new number");
}

#[test]
fn below_the_partition_pods_stay_old_even_when_made_anew() {
    let mut world = World::new(|spec| {
        spec["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}});
    });
    world.roll_out();
    world.image("v2");
    world.roll_out();
    assert_eq!(world.images(), ["v1", "v1", "v2"]);
    world.sim.remove::<Pod>(&Key::new("default", "db-0"));
    world.roll_out();
    assert_eq!(world.images(), ["v1", "v1", "v2"]);
}

#[test]
fn on_delete_waits_for_people() {
    let mut world = World::new(|spec| spec["updateStrategy"] = json!({"type": "OnDelete"}));
    world.roll_out();
    world.image("v2");
    world.roll_out();
    assert_eq!(world.images(), ["v1", "v1", "v1"]);
    world.sim.remove::<Pod>(&Key::new("default", "db-1"));
    world.roll_out();
    assert_eq!(world.images(), ["v1", "v2", "v1"]);
}

#[test]
fn a_failed_pod_is_made_anew() {
    let mut world = World::new(|spec| spec["replicas"] = json!(1));
    world.roll_out();
    let before = world.sim.list::<Pod>()[0].uid();
    let mut pod: Pod = world.sim.get(&Key::new("default", "db-0")).unwrap();
    pod.status = Some(serde_json::from_value(json!({"phase": "Failed"})).unwrap());
    world.sim.put(&pod);
    world.roll_out();
    assert_ne!(world.sim.list::<Pod>()[0].uid(), before);
}

#[test]
fn claims_go_as_the_policy_says() {
    let owners = |world: &World| -> Vec<String> {
        let claims = world.sim.list::<PersistentVolumeClaim>();
        let all = claims.iter().map(|claim| {
            let owners: Vec<String> = claim.owner_references().iter().map(|owner| owner.name.clone()).collect();
            format!("{} {}", claim.name_any(), owners.join(" "))
        });
        all.collect()
    };
    for (deleted, scaled, kept, surplus) in [
        ("Retain", "Retain", "", ""),
        ("Delete", "Retain", "db", "db"),
        ("Retain", "Delete", "", "db-1"),
        ("Delete", "Delete", "db", "db-1"),
    ] {
        let mut world = World::new(|spec| {
            spec["replicas"] = json!(2);
            spec["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {}}]);
            spec["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted": deleted, "whenScaled": scaled});
        });
        world.roll_out();
        assert_eq!(owners(&world), [format!("data-db-0 {kept}"), format!("data-db-1 {kept}")], "{deleted} {scaled}");
        world.edit(|set| set.spec.replicas = Some(1));
        world.settle();
        assert_eq!(world.names(), ["db-0"]);
        assert_eq!(owners(&world), [format!("data-db-0 {kept}"), format!("data-db-1 {surplus}")], "{deleted} {scaled}");
    }
}

#[test]
fn a_claim_that_a_waiting_pod_misses_is_made_again() {
    for (phase, claims) in [("Pending", 1), ("Running", 0)] {
        let mut world = World::new(|spec| {
            spec["replicas"] = json!(1);
            spec["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {}}]);
        });
        world.settle();
        let mut pod: Pod = world.sim.get(&Key::new("default", "db-0")).unwrap();
        pod.status = Some(serde_json::from_value(json!({"phase": phase})).unwrap());
        world.sim.put(&pod);
        world.settle();
        world.sim.remove::<PersistentVolumeClaim>(&Key::new("default", "data-db-0"));
        world.settle();
        assert_eq!(world.sim.list::<PersistentVolumeClaim>().len(), claims, "{phase}");
    }
}
