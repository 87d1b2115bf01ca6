//! Deployments with their ReplicaSets and pods: rollouts that hold their promises at every step, in whatever order pods become ready.

use client::Key;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::reconcile::Deployments;
use super::rolling;
use crate::mechanism::Queue;
use crate::replicaset::tests_support::{Replicas, replicas_of};
use crate::sim::Sim;

struct World {
    sim: Sim,
    deployments: Deployments,
    deployment_queue: Queue<Key>,
    sets: Replicas<ReplicaSet>,
    set_queue: Queue<Key>,
    key: Key,
    now: Timestamp,
    events: Vec<String>,
}

fn deployment(replicas: i32, strategy: Value) -> Deployment {
    let containers = json!([{"name": "c", "image": "v1"}]);
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": containers}});
    let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template,
        "strategy": strategy, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 2});
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec})).unwrap()
}

fn rolling_update(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

impl World {
    fn new(replicas: i32, strategy: Value) -> World {
        let mut sim = Sim::default();
        sim.follow::<Deployment>();
        sim.follow::<ReplicaSet>();
        sim.follow::<Pod>();
        let (deployments, deployment_queue) = Deployments::new(&sim.informers);
        let (sets, set_queue) = replicas_of(&sim.informers);
        let key = sim.put(&deployment(replicas, strategy));
        let now = Timestamp::UNIX_EPOCH;
        World { sim, deployments, deployment_queue, sets, set_queue, key, now, events: Vec::new() }
    }

    /// One decision of either controller; false when there is none to take.
    fn work(&mut self) -> bool {
        self.sim.deliver_all();
        if let Some(key) = self.deployment_queue.try_next() {
            let decision = self.deployments.decide(&key, self.now);
            self.events.extend(decision.events.iter().map(|event| event.message.clone()));
            self.sim.execute(decision.writes).unwrap();
            self.deployment_queue.done(&key, false);
        } else if let Some(key) = self.set_queue.try_next() {
            let writes = self.sets.decide(&key, self.now).writes;
            self.sim.execute(writes).unwrap();
            self.set_queue.done(&key, false);
        } else {
            return false;
        }
        self.sim.deliver_all();
        true
    }

    fn settle(&mut self) {
        let mut rounds = 0;
        while self.work() {
            rounds += 1;
            assert!(rounds < 2000, "never settles: {:?}", &self.sim.log[self.sim.log.len() - 20..]);
        }
    }

    fn set_ready(&mut self, name: &str, ready: bool) {
        let mut pod = serde_json::to_value(self.sim.get::<Pod>(&Key::new("default", name)).unwrap()).unwrap();
        let ready = json!({"type": "Ready", "status": if ready { "True" } else { "False" }});
        pod["status"] = json!({"phase": "Running", "conditions": [ready]});
        self.sim.put(&serde_json::from_value::<Pod>(pod).unwrap());
    }

    fn names(&self, ready: bool) -> Vec<String> {
        let pods = self.sim.list::<Pod>();
        let is = pods.iter().filter(|pod| crate::membership::is_ready(pod) == ready);
        is.map(|pod| pod.name_any()).collect()
    }

    /// All pods become ready until nothing moves any more.
    fn roll_out(&mut self) {
        for _ in 0..100 {
            self.settle();
            let waiting = self.names(false);
            if waiting.is_empty() {
                return;
            }
            for name in waiting {
                if self.sim.get::<Pod>(&Key::new("default", &name)).is_some() {
                    self.set_ready(&name, true);
                }
            }
        }
        panic!("never rolled out");
    }

    fn edit(&mut self, change: impl FnOnce(&mut Deployment)) {
        let mut deployment: Deployment = self.sim.get(&self.key).unwrap();
        change(&mut deployment);
        self.sim.put(&deployment);
    }

    fn image(&mut self, image: &str) {
        self.edit(|deployment| {
            deployment.spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
        });
    }

    fn get(&self) -> Deployment {
        self.sim.get(&self.key).unwrap()
    }

    fn condition(&self, r#type: &str) -> Option<(String, String, String)> {
        let all = self.get().status?.conditions?;
        let found = all.into_iter().find(|condition| condition.type_.as_deref() == Some(r#type))?;
        Some((found.status?, found.reason?, found.message?))
    }

    fn images(&self) -> Vec<String> {
        let pods = self.sim.list::<Pod>();
        pods.iter().map(|pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap()).collect()
    }
}

#[test]
fn a_deployment_makes_its_replica_set_and_pods_and_says_so() {
    let mut world = World::new(3, rolling_update(json!("25%"), json!("25%")));
    world.settle();
    let sets = world.sim.list::<ReplicaSet>();
    assert_eq!(sets.len(), 1);
    let hash = sets[0].labels()["pod-template-hash"].clone();
    assert_eq!(sets[0].name_any(), format!("web-{hash}"));
    assert_eq!(sets[0].annotations()["deployment.kubernetes.io/revision"], "1");
    assert_eq!(sets[0].annotations()["deployment.kubernetes.io/desired-replicas"], "3");
    assert_eq!(sets[0].annotations()["deployment.kubernetes.io/max-replicas"], "4");
    assert_eq!(world.get().annotations()["deployment.kubernetes.io/revision"], "1");
    assert_eq!(world.events, [format!("Scaled up replica set web-{hash} from 0 to 3")]);
    assert!(world.sim.list::<Pod>().iter().all(|pod| pod.labels()["pod-template-hash"] == hash));
    let (status, reason, message) = world.condition("Available").unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "MinimumReplicasUnavailable"));
    assert_eq!(message, "Deployment does not have minimum availability.");
    let (status, reason, message) = world.condition("Progressing").unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("True", "ReplicaSetUpdated"));
    assert_eq!(message, format!("ReplicaSet \"web-{hash}\" is progressing."));
    world.roll_out();
    let (_, reason, message) = world.condition("Progressing").unwrap();
    assert_eq!(reason, "NewReplicaSetAvailable");
    assert_eq!(message, format!("ReplicaSet \"web-{hash}\" has successfully progressed."));
    assert_eq!(world.condition("Available").unwrap().1, "MinimumReplicasAvailable");
    let status = world.get().status.unwrap();
    assert_eq!((status.replicas, status.updated_replicas, status.available_replicas), (Some(3), Some(3), Some(3)));
    assert_eq!(
        (status.unavailable_replicas, status.observed_generation),
        (None, Some(world.get().metadata.generation.unwrap()))
    );
}

#[test]
fn a_new_image_rolls_and_an_old_one_rolls_back_to_its_replica_set() {
    let mut world = World::new(3, rolling_update(json!(1), json!(0)));
    world.roll_out();
    let first = world.sim.list::<ReplicaSet>()[0].name_any();
    world.image("v2");
    world.roll_out();
    assert_eq!(world.images(), ["v2", "v2", "v2"]);
    assert_eq!(world.get().annotations()["deployment.kubernetes.io/revision"], "2");
    assert_eq!(world.condition("Progressing").unwrap().1, "NewReplicaSetAvailable");
    // What `kubectl rollout undo` does: it puts the old template back.
    world.image("v1");
    world.roll_out();
    assert_eq!(world.images(), ["v1", "v1", "v1"]);
    assert_eq!(world.sim.list::<ReplicaSet>().len(), 2, "no third ReplicaSet");
    let back: ReplicaSet = world.sim.get(&Key::new("default", first)).unwrap();
    assert_eq!(back.annotations()["deployment.kubernetes.io/revision"], "3");
    assert_eq!(back.annotations()["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(world.get().annotations()["deployment.kubernetes.io/revision"], "3");
}

#[test]
fn history_is_kept_to_its_limit() {
    let mut world = World::new(1, rolling_update(json!(1), json!(0)));
    for image in ["v1", "v2", "v3", "v4", "v5"] {
        world.image(image);
        world.roll_out();
    }
    let mut revisions: Vec<String> = world
        .sim
        .list::<ReplicaSet>()
        .iter()
        .map(|set| set.annotations()["deployment.kubernetes.io/revision"].clone())
        .collect();
    revisions.sort();
    assert_eq!(revisions, ["3", "4", "5"]);
}

#[test]
fn recreate_ends_all_before_it_starts_any() {
    let mut world = World::new(3, json!({"type": "Recreate"}));
    world.roll_out();
    world.image("v2");
    for _ in 0..200 {
        if !world.work() {
            break;
        }
        let images = world.images();
        assert!(images.iter().all(|image| *image == images[0]), "{images:?}");
    }
    world.roll_out();
    assert_eq!(world.images(), ["v2", "v2", "v2"]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(2, rolling_update(json!(1), json!(0)));
    world.roll_out();
    world.edit(|deployment| deployment.spec.paused = Some(true));
    world.settle();
    assert_eq!(world.condition("Progressing").unwrap().1, "DeploymentPaused");
    world.image("v2");
    world.edit(|deployment| deployment.spec.replicas = Some(4));
    world.roll_out();
    assert_eq!(world.images(), ["v1"; 4]);
    world.edit(|deployment| deployment.spec.paused = None);
    world.roll_out();
    assert_eq!(world.images(), ["v2"; 4]);
    assert_eq!(world.condition("Progressing").unwrap().1, "NewReplicaSetAvailable");
}

#[test]
fn a_rollout_that_stands_still_is_reported() {
    let mut world = World::new(1, rolling_update(json!(1), json!(0)));
    world.settle();
    world.now += SignedDuration::from_secs(601);
    world.deployment_queue.add(world.key.clone());
    world.settle();
    let (status, reason, message) = world.condition("Progressing").unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ProgressDeadlineExceeded"));
    assert!(message.ends_with("has timed out progressing."), "{message}");
    world.roll_out();
    assert_eq!(world.condition("Progressing").unwrap().1, "NewReplicaSetAvailable");
}

#[test]
fn a_scale_in_the_middle_is_shared_in_proportion() {
    let mut world = World::new(10, rolling_update(json!(3), json!(2)));
    world.roll_out();
    world.image("v2");
    world.settle();
    let counts = |world: &World| {
        let mut counts: Vec<i32> =
            world.sim.list::<ReplicaSet>().iter().map(|set| set.spec.replicas.unwrap()).collect();
        counts.sort_unstable();
        counts
    };
    assert_eq!(counts(&world), [5, 8], "the documentation's own example");
    world.edit(|deployment| deployment.spec.replicas = Some(15));
    world.settle();
    assert_eq!(counts(&world), [7, 11]);
}

#[test]
fn a_name_that_is_taken_changes_the_hash() {
    let mut world = World::new(1, rolling_update(json!(1), json!(0)));
    let name = super::revision::name(&world.get());
    let mut foreign = serde_json::to_value(deployment(1, Value::Null)).unwrap();
    foreign["metadata"]["name"] = json!(name);
    foreign["metadata"]["labels"] = json!({"other": "one"});
    foreign["spec"]["template"]["metadata"]["labels"] = json!({"other": "one"});
    foreign["spec"] =
        json!({"selector": {"matchLabels": {"other": "one"}}, "template": foreign["spec"]["template"], "replicas": 0});
    foreign.as_object_mut().unwrap().remove("kind");
    foreign.as_object_mut().unwrap().remove("apiVersion");
    world.sim.put(&serde_json::from_value::<ReplicaSet>(foreign).unwrap());
    world.roll_out();
    assert_eq!(world.get().status.unwrap().collision_count, Some(1));
    assert_eq!(world.images(), ["v1"]);
}

#[test]
fn percentages_round_in_favour_of_availability() {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String as Text;
    assert_eq!(rolling::resolve(&Text("25%".into()), 10, true), 3);
    assert_eq!(rolling::resolve(&Text("25%".into()), 10, false), 2);
    assert_eq!(rolling::resolve(&Text("100%".into()), 3, false), 3);
}

fn check_promises(world: &World, floor: i32, ceiling: i32) -> Result<(), TestCaseError> {
    let pods = world.sim.list::<Pod>();
    // As upstream, the ceiling holds for what ReplicaSets are asked to keep: a pod that is to go may still be there.
    let total: i32 = world.sim.list::<ReplicaSet>().iter().map(|set| set.spec.replicas.unwrap()).sum();
    let ready = pods.iter().filter(|pod| crate::membership::is_ready(pod)).count();
    prop_assert!(total <= ceiling, "{total} pods, {ceiling} allowed");
    prop_assert!(i32::try_from(ready).unwrap() >= floor, "{ready} ready, {floor} promised");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_rolling_update_keeps_its_promises(
        (replicas, surge, unavailable) in (1..8_i32, 0..4_i32, 0..4_i32),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..80),
    ) {
        let mut world = World::new(replicas, rolling_update(json!(surge), json!(unavailable)));
        world.roll_out();
        world.image("v2");
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        let (floor, ceiling) = ((replicas - unavailable).max(0), replicas + surge);
        for choice in &order {
            // Either someone decides, or some pod becomes ready; nothing else can happen.
            if choice.index(3) > 0 && world.work() {
                check_promises(&world, floor, ceiling)?;
                continue;
            }
            let waiting = world.names(false);
            if !waiting.is_empty() {
                let name = choice.get(&waiting).clone();
                world.set_ready(&name, true);
            }
            check_promises(&world, floor, ceiling)?;
        }
        world.roll_out();
        let count = usize::try_from(replicas).unwrap();
        prop_assert_eq!(world.images(), vec!["v2".to_owned(); count]);
    }
}

/// The last rollout ended an hour ago: that is no time in which this one made no progress.
#[test]
fn a_rollout_has_its_whole_deadline() {
    for strategy in [json!({"type": "Recreate"}), rolling_update(json!(1), json!(0))] {
        let mut world = World::new(2, strategy);
        world.roll_out();
        world.now += SignedDuration::from_hours(1);
        world.image("v2");
        let mut said = Vec::new();
        while world.work() {
            said.extend(world.condition("Progressing").map(|(_, reason, _)| reason));
        }
        assert!(!said.contains(&"ProgressDeadlineExceeded".to_owned()), "{said:?}");
        world.now += SignedDuration::from_hours(1);
        world.deployment_queue.add(world.key.clone());
        world.settle();
        assert_eq!(world.condition("Progressing").unwrap().1, "ProgressDeadlineExceeded");
    }
}

#[test]
fn a_replica_set_that_goes_already_costs_no_other_its_place() {
    let mut world = World::new(1, rolling_update(json!(1), json!(0)));
    world.roll_out();
    for image in ["v2", "v3"] {
        world.image(image);
        world.roll_out();
    }
    let first = |set: &&ReplicaSet| set.annotations()["deployment.kubernetes.io/revision"] == "1";
    let mut held = world.sim.list::<ReplicaSet>().iter().find(first).unwrap().clone();
    held.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    world.sim.put(&held);
    world.image("v4");
    world.roll_out();
    let mut kept: Vec<String> = world
        .sim
        .list::<ReplicaSet>()
        .iter()
        .filter(|set| set.metadata.deletion_timestamp.is_none())
        .map(|set| set.annotations()["deployment.kubernetes.io/revision"].clone())
        .collect();
    kept.sort();
    assert_eq!(kept, ["2", "3", "4"]);
}
