//! Tables for each rule, and laws over random histories: whatever was seen in whatever order, the end is what the definition says.

use std::collections::{BTreeMap, BTreeSet};

use client::Key;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::reconcile::EndpointSlices;
use crate::mechanism::Queue;
use crate::sim::Sim;

fn service(spec: Value) -> Service {
    let metadata = json!({"name": "web", "namespace": "default", "labels": {"team": "a"}});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn plain() -> Service {
    service(json!({"selector": {"app": "web"}, "clusterIP": "10.96.0.5", "ipFamilies": ["IPv4"],
        "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]}))
}

fn pod(name: &str, ip: &str, ready: bool) -> Value {
    let status = if ready { "True" } else { "False" };
    let conditions = json!([{"type": "Ready", "status": status, "lastTransitionTime": "2026-01-02T03:04:05Z"}]);
    json!({"metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions}})
}

struct World {
    sim: Sim,
    controller: EndpointSlices,
    queue: Queue<Key>,
}

impl World {
    fn new(max: usize) -> World {
        let mut sim = Sim::default();
        sim.follow::<Service>();
        sim.follow::<Pod>();
        sim.follow::<Node>();
        sim.follow::<EndpointSlice>();
        let (controller, queue) = EndpointSlices::new(max, &sim.informers);
        World { sim, controller, queue }
    }

    fn put_pod(&mut self, pod: &Value) -> Key {
        self.sim.put(&serde_json::from_value::<Pod>(pod.clone()).unwrap())
    }

    /// Delivers all and works until nothing is left to do.
    fn settle(&mut self) -> Vec<EndpointSlice> {
        self.sim.deliver_all();
        let mut rounds = 0;
        while let Some(key) = self.queue.try_next() {
            let _ = self.sim.execute(self.controller.decide(&key));
            self.sim.deliver_all();
            self.queue.done(&key, false);
            rounds += 1;
            assert!(rounds < 1000, "never settles: {:?}", self.sim.log);
        }
        self.sim.list()
    }

    fn restart(&mut self) {
        let max = 3;
        self.sim.informers = crate::mechanism::Informers::default();
        (self.controller, self.queue) = EndpointSlices::new(max, &self.sim.informers);
        self.sim.relist::<Service>();
        self.sim.relist::<Node>();
        self.sim.relist::<Pod>();
        self.sim.relist::<EndpointSlice>();
    }
}

fn endpoints(slices: &[EndpointSlice]) -> Vec<&Endpoint> {
    slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()).collect()
}

fn one(pod: &Value, service: &Service) -> (EndpointSlice, Endpoint) {
    let mut world = World::new(100);
    world.sim.put(service);
    world.put_pod(pod);
    let slices = world.settle();
    assert_eq!(slices.len(), 1);
    let endpoint = endpoints(&slices)[0].clone();
    (slices[0].clone(), endpoint)
}

#[test]
fn a_slice_is_found_by_its_labels_and_owned_by_its_service() {
    let (slice, endpoint) = one(&pod("a", "10.244.0.2", true), &plain());
    let labels = slice.labels();
    assert_eq!(labels["kubernetes.io/service-name"], "web");
    assert_eq!(labels["endpointslice.kubernetes.io/managed-by"], "endpointslice-controller.k8s.io");
    assert_eq!(labels["team"], "a");
    assert!(!labels.contains_key("service.kubernetes.io/headless"));
    let owner = &slice.owner_references()[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.controller), ("Service", "web", Some(true)));
    assert!(slice.name_any().starts_with("web-") && slice.name_any().len() == 9, "{}", slice.name_any());
    assert_eq!(slice.annotations()["endpoints.kubernetes.io/last-change-trigger-time"], "2026-01-02T03:04:05Z");
    assert_eq!(slice.address_type, "IPv4");
    let port = &slice.ports.as_ref().unwrap()[0];
    assert_eq!((port.name.as_deref(), port.port, port.protocol.as_deref()), (Some("http"), Some(8080), Some("TCP")));
    assert_eq!(endpoint.addresses, ["10.244.0.2"]);
    assert_eq!(endpoint.node_name.as_deref(), Some("n1"));
    assert_eq!(endpoint.target_ref.unwrap().name.as_deref(), Some("a"));
}

#[test]
fn conditions_say_ready_serving_terminating() {
    let mut leaving = pod("a", "10.244.0.2", true);
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:05:05Z");
    let publishing =
        service(json!({"selector": {"app": "web"}, "publishNotReadyAddresses": true, "clusterIP": "None"}));
    let table = [
        (pod("a", "10.244.0.2", true), plain(), (true, true, false)),
        (pod("a", "10.244.0.2", false), plain(), (false, false, false)),
        (leaving.clone(), plain(), (false, true, true)),
        (pod("a", "10.244.0.2", false), publishing.clone(), (true, false, false)),
        (leaving, publishing, (true, true, true)),
    ];
    for (pod, service, (ready, serving, terminating)) in table {
        let conditions = one(&pod, &service).1.conditions.unwrap();
        assert_eq!(conditions.ready, Some(ready));
        assert_eq!(conditions.serving, Some(serving));
        assert_eq!(conditions.terminating, Some(terminating));
    }
}

#[test]
fn finished_pods_and_pods_without_an_address_are_no_endpoints() {
    let mut finished = pod("a", "10.244.0.2", true);
    finished["status"]["phase"] = json!("Succeeded");
    let mut homeless = pod("b", "10.244.0.3", false);
    homeless["status"] = json!({"phase": "Pending"});
    let mut world = World::new(100);
    world.sim.put(&plain());
    world.put_pod(&finished);
    world.put_pod(&homeless);
    let slices = world.settle();
    assert_eq!(slices.len(), 1, "a Service without endpoints keeps one empty slice");
    assert!(endpoints(&slices).is_empty());
}

#[test]
fn named_ports_of_different_numbers_make_different_slices() {
    let named = service(json!({"selector": {"app": "web"}, "clusterIP": "10.96.0.5",
        "ports": [{"port": 80, "targetPort": "web", "protocol": "TCP"}]}));
    let mut world = World::new(100);
    world.sim.put(&named);
    for (name, ip, number) in [("a", "10.244.0.2", 8080), ("b", "10.244.0.3", 9090), ("c", "10.244.0.4", 8080)] {
        let mut pod = pod(name, ip, true);
        pod["spec"]["containers"][0]["ports"] = json!([{"name": "web", "containerPort": number, "protocol": "TCP"}]);
        world.put_pod(&pod);
    }
    let slices = world.settle();
    let mut numbers: Vec<_> = slices
        .iter()
        .map(|slice| (slice.ports.as_ref().unwrap()[0].port.unwrap(), slice.endpoints.as_ref().unwrap().len()))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [(8080, 2), (9090, 1)]);
}

#[test]
fn dual_stack_makes_slices_per_family() {
    let both = service(json!({"selector": {"app": "web"}, "ipFamilies": ["IPv4", "IPv6"],
        "ports": [{"port": 80, "protocol": "TCP"}]}));
    let mut pod = pod("a", "10.244.0.2", true);
    pod["status"]["podIPs"] = json!([{"ip": "10.244.0.2"}, {"ip": "fd00::2"}]);
    let mut world = World::new(100);
    world.sim.put(&both);
    world.put_pod(&pod);
    let slices = world.settle();
    let mut found: Vec<_> =
        slices.iter().map(|s| (s.address_type.clone(), s.endpoints.as_ref().unwrap()[0].addresses.clone())).collect();
    found.sort();
    assert_eq!(found, [("IPv4".into(), vec!["10.244.0.2".into()]), ("IPv6".into(), vec!["fd00::2".to_owned()])]);
}

#[test]
fn hostname_counts_only_in_the_subdomain_of_the_service() {
    let mut named = pod("a", "10.244.0.2", true);
    named["spec"]["hostname"] = json!("web-0");
    assert_eq!(one(&named, &plain()).1.hostname, None);
    named["spec"]["subdomain"] = json!("web");
    assert_eq!(one(&named, &plain()).1.hostname.as_deref(), Some("web-0"));
}

#[test]
fn hints_follow_traffic_distribution() {
    let table = [(None, false, false), (Some("PreferClose"), true, false), (Some("PreferSameZone"), true, false)];
    let table = table.into_iter().chain([(Some("PreferSameNode"), true, true)]);
    for (preference, by_zone, by_node) in table {
        let mut service = plain();
        service.spec.as_mut().unwrap().traffic_distribution = preference.map(str::to_owned);
        let mut world = World::new(100);
        world.sim.put(&service);
        world.put_pod(&pod("a", "10.244.0.2", true));
        world.put_pod(&pod("b", "10.244.0.3", false));
        world.settle();
        let node = json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}}});
        world.sim.put(&serde_json::from_value::<Node>(node).unwrap());
        let slices = world.settle();
        let all = endpoints(&slices);
        assert!(all.iter().all(|endpoint| endpoint.zone.as_deref() == Some("z1")), "the node's zone arrives late");
        let hints = all[0].hints.clone().unwrap_or_default();
        assert_eq!(hints.for_zones.is_some_and(|zones| zones[0].name == "z1"), by_zone);
        assert_eq!(hints.for_nodes.is_some_and(|nodes| nodes[0].name == "n1"), by_node);
        assert_eq!(all[1].hints, None, "an endpoint that is not ready has no hint");
    }
}

#[test]
fn one_pod_changes_one_slice() {
    let mut world = World::new(100);
    world.sim.put(&plain());
    for number in 0..250 {
        world.put_pod(&pod(&format!("p{number:03}"), &format!("10.244.1.{number}"), true));
    }
    let slices = world.settle();
    let mut sizes: Vec<_> = slices.iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100, 100]);
    world.sim.log.clear();
    world.put_pod(&pod("p007", "10.244.1.7", false));
    world.settle();
    assert_eq!(world.sim.log.len(), 1, "{:?}", world.sim.log);
    world.sim.log.clear();
    world.sim.remove::<Pod>(&Key::new("default", "p008"));
    world.settle();
    assert_eq!(world.sim.log.len(), 1, "{:?}", world.sim.log);
    world.sim.log.clear();
    world.put_pod(&pod("new", "10.244.2.1", true));
    world.settle();
    assert_eq!(world.sim.log.len(), 1, "{:?}", world.sim.log);
}

#[test]
fn the_empty_slice_takes_up_the_first_endpoints_and_the_last_is_kept() {
    let mut world = World::new(100);
    world.sim.put(&plain());
    world.settle();
    world.put_pod(&pod("a", "10.244.0.2", true));
    world.settle();
    world.sim.remove::<Pod>(&Key::new("default", "a"));
    world.settle();
    let name = world.sim.list::<EndpointSlice>()[0].name_any();
    let create = format!("create EndpointSlice default/{name}");
    let replace = format!("replace EndpointSlice default/{name}");
    assert_eq!(world.sim.log, [create, replace.clone(), replace]);
}

#[test]
fn a_service_made_again_gets_slices_of_its_own() {
    let mut world = World::new(100);
    let key = world.sim.put(&plain());
    world.put_pod(&pod("a", "10.244.0.2", true));
    world.settle();
    world.sim.remove::<Service>(&key);
    world.sim.put(&plain());
    let slices = world.settle();
    let uid = world.sim.get::<Service>(&key).unwrap().uid().unwrap();
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0].owner_references()[0].uid, uid);
    assert_eq!(endpoints(&slices).len(), 1);
}

#[test]
fn a_decision_on_old_facts_cannot_make_a_duplicate() {
    let mut world = World::new(100);
    let key = world.sim.put(&plain());
    world.put_pod(&pod("a", "10.244.0.2", true));
    world.sim.deliver_all();
    world.sim.execute(world.controller.decide(&key)).unwrap();
    let again = world.controller.decide(&key);
    assert_eq!(world.sim.execute(again), Err(crate::sim::Refused::Exists));
    assert_eq!(world.sim.list::<EndpointSlice>().len(), 1);
}

#[test]
fn slices_of_others_are_left_alone() {
    let mut world = World::new(100);
    world.sim.put(&plain());
    let foreign = json!({"metadata": {"name": "own", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": []});
    world.sim.put(&serde_json::from_value::<EndpointSlice>(foreign).unwrap());
    let slices = world.settle();
    assert_eq!(slices.len(), 2);
}

#[derive(Debug, Clone)]
enum Step {
    Pod { number: u8, app: bool, ready: bool, leaving: bool, finished: bool, port: bool },
    PodGone(u8),
    Service { app: bool, named: bool },
    ServiceGone,
    Deliver(u8),
    Lost,
    Work,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let flags = (0..8_u8, any::<bool>(), any::<bool>(), any::<bool>(), 0..6_u8, any::<bool>());
    prop_oneof![
        6 => flags.prop_map(|(number, app, ready, leaving, finished, port)| {
            Step::Pod { number, app, ready, leaving, finished: finished == 0, port }
        }),
        2 => (0..8_u8).prop_map(Step::PodGone),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(app, named)| Step::Service { app, named }),
        1 => Just(Step::ServiceGone),
        4 => (1..5_u8).prop_map(Step::Deliver),
        1 => Just(Step::Lost),
        4 => Just(Step::Work),
        1 => Just(Step::Restart),
    ]
}

fn random_pod(step: &Step) -> Option<Value> {
    let Step::Pod { number, app, ready, leaving, finished, port } = step else { return None };
    let mut pod = pod(&format!("p{number}"), &format!("10.244.0.{number}"), *ready);
    pod["metadata"]["labels"]["app"] = json!(if *app { "web" } else { "other" });
    if *leaving {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:05:05Z");
    }
    if *finished {
        pod["status"]["phase"] = json!("Failed");
    }
    let port = if *port { 8080 } else { 9090 };
    pod["spec"]["containers"][0]["ports"] = json!([{"name": "web", "containerPort": port}]);
    Some(pod)
}

/// The definition, without any cleverness: address and port to conditions.
fn definition(sim: &Sim) -> BTreeMap<(String, i32), (bool, bool, bool)> {
    let Some(service) = sim.get::<Service>(&Key::new("default", "web")) else { return BTreeMap::new() };
    let spec = service.spec.unwrap();
    let named = spec.ports.unwrap()[0].name.as_deref() == Some("named");
    let mut all = BTreeMap::new();
    for pod in sim.list::<Pod>() {
        let status = pod.status.clone().unwrap();
        if pod.labels()["app"] != spec.selector.as_ref().unwrap()["app"] || status.phase.as_deref() == Some("Failed") {
            continue;
        }
        let own = pod.spec.as_ref().unwrap().containers[0].ports.as_ref().unwrap()[0].container_port;
        let ready = status.conditions.unwrap()[0].status == "True";
        let leaving = pod.metadata.deletion_timestamp.is_some();
        let port = if named { own } else { 8080 };
        all.insert((status.pod_ip.unwrap(), port), (ready && !leaving, ready, leaving));
    }
    all
}

fn observed(slices: &[EndpointSlice]) -> BTreeMap<(String, i32), (bool, bool, bool)> {
    let mut all = BTreeMap::new();
    for slice in slices {
        assert!(slice.endpoints.as_ref().unwrap().len() <= 3);
        for endpoint in slice.endpoints.iter().flatten() {
            let is = endpoint.conditions.clone().unwrap();
            let port = slice.ports.as_ref().unwrap()[0].port.unwrap();
            let is = (is.ready.unwrap(), is.serving.unwrap(), is.terminating.unwrap());
            let twice = all.insert((endpoint.addresses[0].clone(), port), is);
            assert_eq!(twice, None, "an endpoint stands once");
        }
    }
    all
}

fn act(world: &mut World, step: &Step) {
    match step {
        Step::Pod { .. } => drop(world.put_pod(&random_pod(step).unwrap())),
        Step::PodGone(number) => world.sim.remove::<Pod>(&Key::new("default", format!("p{number}"))),
        Step::Service { app, named } => {
            let app = if *app { "web" } else { "other" };
            let (name, target) = if *named { ("named", json!("web")) } else { ("plain", json!(8080)) };
            let ports = json!([{"name": name, "port": 80, "targetPort": target}]);
            world.sim.put(&service(json!({"selector": {"app": app}, "clusterIP": "10.96.0.5", "ports": ports})));
        }
        Step::ServiceGone => world.sim.remove::<Service>(&Key::new("default", "web")),
        Step::Deliver(count) => world.sim.deliver(usize::from(*count)),
        Step::Lost => {
            world.sim.relist::<Pod>();
            world.sim.relist::<EndpointSlice>();
        }
        Step::Work => {
            if let Some(key) = world.queue.try_next() {
                // Decides on whatever it has seen so far; a refusal is taken again.
                let failed = world.sim.execute(world.controller.decide(&key)).is_err();
                world.queue.done(&key, false);
                if failed {
                    world.queue.add(key);
                }
            }
        }
        Step::Restart => world.restart(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_end_is_what_the_definition_says(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new(3);
        for step in &steps {
            act(&mut world, step);
        }
        let slices = world.settle();
        prop_assert_eq!(observed(&slices), definition(&world.sim));
        let uid = world.sim.get::<Service>(&Key::new("default", "web")).and_then(|service| service.uid());
        let owners: BTreeSet<_> = slices.iter().map(|slice| slice.owner_references()[0].uid.clone()).collect();
        prop_assert!(owners.len() <= 1 && owners.first() == uid.as_ref(), "{owners:?} {uid:?}");
        // A second look changes nothing, and neither does one by a controller that has just started.
        world.sim.log.clear();
        world.queue.add(Key::new("default", "web"));
        world.settle();
        world.restart();
        world.settle();
        prop_assert!(world.sim.log.is_empty(), "{:?}", world.sim.log);
    }
}
