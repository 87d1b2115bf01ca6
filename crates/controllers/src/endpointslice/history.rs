//! Random histories of Services, pods and nodes, seen late, out of order, twice or not at all: whenever the controllers have caught up,
//! slices and Endpoints are what a definition without any cleverness says.

use std::collections::{BTreeMap, BTreeSet};

use client::Key;
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::reconcile::EndpointSlices;
use crate::endpoints::EndpointsController;
use crate::mechanism::Queue;
use crate::sim::Sim;

const MOST: usize = 3;
const KINDS: [&str; 5] = ["Service", "Pod", "Node", "EndpointSlice", "Endpoints"];
const APPS: [&str; 3] = ["a", "b", "c"];

struct World {
    sim: Sim,
    slices: EndpointSlices,
    slice_queue: Queue<Key>,
    endpoints: EndpointsController,
    endpoints_queue: Queue<Key>,
}

impl World {
    fn new() -> World {
        let mut sim = Sim::default();
        sim.follow::<Service>();
        sim.follow::<Pod>();
        sim.follow::<Node>();
        sim.follow::<EndpointSlice>();
        sim.follow::<Endpoints>();
        let (slices, slice_queue) = EndpointSlices::new(MOST, &sim.informers);
        let (endpoints, endpoints_queue) = EndpointsController::new(&sim.informers);
        World { sim, slices, slice_queue, endpoints, endpoints_queue }
    }

    fn restart(&mut self) {
        self.sim.forget_views();
        (self.slices, self.slice_queue) = EndpointSlices::new(MOST, &self.sim.informers);
        (self.endpoints, self.endpoints_queue) = EndpointsController::new(&self.sim.informers);
        self.sim.relist::<Service>();
        self.sim.relist::<Node>();
        self.sim.relist::<Pod>();
        self.sim.relist::<EndpointSlice>();
        self.sim.relist::<Endpoints>();
    }

    /// One decision on what was seen so far; a refusal is taken again. False when there is none to take.
    fn work(&mut self, endpoints_first: bool) -> bool {
        let order = if endpoints_first { [true, false] } else { [false, true] };
        for of_endpoints in order {
            let queue = if of_endpoints { self.endpoints_queue.clone() } else { self.slice_queue.clone() };
            let Some(key) = queue.try_next() else { continue };
            let writes =
                if of_endpoints { self.endpoints.decide(&key).into_iter().collect() } else { self.slices.decide(&key) };
            let failed = self.sim.execute(writes).is_err();
            queue.done(&key, false);
            if failed {
                queue.add(key);
            }
            return true;
        }
        false
    }

    fn settle(&mut self) {
        self.sim.deliver_all();
        let mut rounds = 0;
        while self.work(rounds % 2 == 0) {
            self.sim.deliver_all();
            rounds += 1;
            assert!(rounds < 1000, "never settles: {:?}", self.sim.log);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Pod { number: u8, app: u8, node: u8, port: u8, flags: u8 },
    PodGone(u8),
    Service { number: u8, app: u8, distribution: u8, flags: u8 },
    ServiceGone(u8),
    Node { number: u8, zone: u8 },
    NodeGone(u8),
    Deliver { kind: u8, count: u8 },
    Repeat { kind: u8, count: u8 },
    Lost(u8),
    Work(bool),
    Restart,
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..8_u8, 0..3_u8, 0..4_u8, 0..3_u8, any::<u8>())
            .prop_map(|(number, app, node, port, flags)| Step::Pod { number, app, node, port, flags }),
        2 => (0..8_u8).prop_map(Step::PodGone),
        3 => (0..3_u8, 0..3_u8, 0..4_u8, any::<u8>())
            .prop_map(|(number, app, distribution, flags)| Step::Service { number, app, distribution, flags }),
        1 => (0..3_u8).prop_map(Step::ServiceGone),
        2 => (0..3_u8, 0..3_u8).prop_map(|(number, zone)| Step::Node { number, zone }),
        1 => (0..3_u8).prop_map(Step::NodeGone),
        5 => (0..5_u8, 1..6_u8).prop_map(|(kind, count)| Step::Deliver { kind, count }),
        2 => (0..5_u8, 1..6_u8).prop_map(|(kind, count)| Step::Repeat { kind, count }),
        1 => (0..5_u8).prop_map(Step::Lost),
        8 => any::<bool>().prop_map(Step::Work),
        1 => Just(Step::Restart),
        2 => Just(Step::Settle),
    ]
}

fn pod(number: u8, app: u8, node: u8, port: u8, flags: u8) -> Pod {
    let ready = if flags & 1 != 0 { "True" } else { "False" };
    let phase = if flags & 14 == 14 { "Failed" } else { "Running" };
    let conditions = json!([{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-02T03:04:05Z"}]);
    let ports = match port {
        0 => json!([{"name": "web", "containerPort": 8080}]),
        1 => json!([{"name": "web", "containerPort": 9090}]),
        _ => json!([]),
    };
    let (v4, v6) = (format!("10.244.0.{number}"), format!("fd00::1{number}"));
    let mut pod = json!({"metadata": {"name": format!("p{number}"), "namespace": "default",
            "labels": {"app": APPS[usize::from(app)]}},
        "spec": {"containers": [{"name": "c", "ports": ports}]},
        "status": {"phase": phase, "conditions": conditions, "podIP": v4, "podIPs": [{"ip": v4}, {"ip": v6}]}});
    if node < 3 {
        pod["spec"]["nodeName"] = json!(format!("n{node}"));
    }
    if flags & 48 == 48 {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:05:05Z");
    }
    serde_json::from_value(pod).unwrap()
}

fn service(number: u8, app: u8, distribution: u8, flags: u8) -> Service {
    let families = if flags & 1 != 0 { json!(["IPv4", "IPv6"]) } else { json!(["IPv4"]) };
    let target = if flags & 2 != 0 { json!("web") } else { json!(8080) };
    let mut spec = json!({"selector": {"app": APPS[usize::from(app)]}, "ipFamilies": families,
        "publishNotReadyAddresses": flags & 12 == 12,
        "ports": [{"name": "x", "port": 80, "targetPort": target, "protocol": "TCP"}]});
    spec["clusterIP"] = if flags & 16 != 0 { json!("None") } else { json!("10.96.0.5") };
    if let Some(preference) = [None, Some("PreferSameZone"), Some("PreferSameNode"), None][usize::from(distribution)] {
        spec["trafficDistribution"] = json!(preference);
    }
    let metadata = json!({"name": format!("s{number}"), "namespace": "default"});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn node(number: u8, zone: u8) -> Node {
    let labels = if zone < 2 { json!({"topology.kubernetes.io/zone": format!("z{zone}")}) } else { json!({}) };
    serde_json::from_value(json!({"metadata": {"name": format!("n{number}"), "labels": labels}})).unwrap()
}

fn act(world: &mut World, step: &Step) {
    let named = |letter: char, number: &u8| Key::new("default", format!("{letter}{number}"));
    match step {
        Step::Pod { number, app, node, port, flags } => {
            world.sim.put(&pod(*number, *app, *node, *port, *flags));
        }
        Step::PodGone(number) => world.sim.remove::<Pod>(&named('p', number)),
        Step::Service { number, app, distribution, flags } => {
            world.sim.put(&service(*number, *app, *distribution, *flags));
        }
        Step::ServiceGone(number) => world.sim.remove::<Service>(&named('s', number)),
        Step::Node { number, zone } => drop(world.sim.put(&node(*number, *zone))),
        Step::NodeGone(number) => world.sim.remove::<Node>(&Key::new("", format!("n{number}"))),
        Step::Deliver { kind, count } => world.sim.deliver_kind(KINDS[usize::from(*kind)], usize::from(*count)),
        Step::Repeat { kind, count } => world.sim.repeat(KINDS[usize::from(*kind)], usize::from(*count)),
        Step::Lost(0) => world.sim.relist::<Service>(),
        Step::Lost(1) => world.sim.relist::<Pod>(),
        Step::Lost(2) => world.sim.relist::<Node>(),
        Step::Lost(3) => world.sim.relist::<EndpointSlice>(),
        Step::Lost(_) => world.sim.relist::<Endpoints>(),
        Step::Work(endpoints_first) => drop(world.work(*endpoints_first)),
        Step::Restart => world.restart(),
        Step::Settle => world.settle(),
    }
}

/// Service, family, pod, address and port, and all that is said of it.
type Said = BTreeMap<(String, String, String, String, Option<i32>), String>;

/// Who is an endpoint of what, by definition: every Service against every pod.
fn defined(sim: &Sim) -> Said {
    let zones: BTreeMap<String, String> = sim
        .list::<Node>()
        .into_iter()
        .filter_map(|node| Some((node.name_any(), node.labels().get("topology.kubernetes.io/zone")?.clone())))
        .collect();
    let mut said = Said::new();
    for service in sim.list::<Service>() {
        let spec = service.spec.clone().unwrap();
        for pod in sim.list::<Pod>() {
            let status = pod.status.clone().unwrap();
            if pod.labels()["app"] != spec.selector.as_ref().unwrap()["app"]
                || status.phase.as_deref() == Some("Failed")
            {
                continue;
            }
            let serving = status.conditions.unwrap()[0].status == "True";
            let leaving = pod.metadata.deletion_timestamp.is_some();
            let ready = spec.publish_not_ready_addresses == Some(true) || (serving && !leaving);
            let node = pod.spec.as_ref().unwrap().node_name.clone();
            let zone = node.as_ref().and_then(|node| zones.get(node)).cloned();
            let wish = spec.traffic_distribution.as_deref().filter(|_| ready);
            let hint =
                (zone.clone().filter(|_| wish.is_some()), node.clone().filter(|_| wish == Some("PreferSameNode")));
            let is = format!("{ready} {serving} {leaving} {node:?} {zone:?} {hint:?}");
            let ips = status.pod_ips.unwrap();
            for (place, family) in spec.ip_families.as_ref().unwrap().iter().enumerate() {
                let key =
                    (service.name_any(), family.clone(), pod.name_any(), ips[place].ip.clone(), port(&spec, &pod));
                said.insert(key, is.clone());
            }
        }
    }
    said
}

fn port(spec: &k8s_openapi::api::core::v1::ServiceSpec, pod: &Pod) -> Option<i32> {
    let target = serde_json::to_value(&spec.ports.as_ref().unwrap()[0].target_port).unwrap();
    if target == json!(8080) {
        return Some(8080);
    }
    let ports = pod.spec.as_ref().unwrap().containers[0].ports.clone().unwrap_or_default();
    ports.first().map(|port| port.container_port)
}

fn sliced(sim: &Sim) -> Result<Said, String> {
    let mut said = Said::new();
    for slice in sim.list::<EndpointSlice>() {
        let name = slice.labels()["kubernetes.io/service-name"].clone();
        let owner = sim.get::<Service>(&Key::new("default", &name)).and_then(|service| service.uid());
        if owner.as_ref() != Some(&slice.owner_references()[0].uid) {
            return Err(format!("slice {} belongs to nobody", slice.name_any()));
        }
        let endpoints = slice.endpoints.clone().unwrap_or_default();
        if endpoints.len() > MOST {
            return Err(format!("slice {} holds {}", slice.name_any(), endpoints.len()));
        }
        let port = slice.ports.as_ref().and_then(|ports| ports.first()).and_then(|port| port.port);
        for endpoint in &endpoints {
            let pod = endpoint.target_ref.as_ref().unwrap().name.clone().unwrap();
            let key = (name.clone(), slice.address_type.clone(), pod, endpoint.addresses[0].clone(), port);
            if let Some(twice) = said.insert(key, told(endpoint)) {
                return Err(format!("an endpoint stands twice: {twice}"));
            }
        }
    }
    Ok(said)
}

fn told(endpoint: &Endpoint) -> String {
    let is = endpoint.conditions.clone().unwrap();
    let hints = endpoint.hints.clone().unwrap_or_default();
    let zone = hints.for_zones.and_then(|all| all.first().map(|one| one.name.clone()));
    let node = hints.for_nodes.and_then(|all| all.first().map(|one| one.name.clone()));
    let (ready, serving, leaving) = (is.ready.unwrap(), is.serving.unwrap(), is.terminating.unwrap());
    format!("{ready} {serving} {leaving} {:?} {:?} {:?}", endpoint.node_name, endpoint.zone, (zone, node))
}

/// The same for Endpoints: the first family only, nothing that leaves unless all is published, nothing without its port.
fn defined_addresses(sim: &Sim) -> BTreeSet<(String, String, i32, bool)> {
    let mut all = BTreeSet::new();
    for ((service, family, _, address, port), is) in defined(sim) {
        let spec = sim.get::<Service>(&Key::new("default", &service)).unwrap().spec.unwrap();
        let flags: Vec<&str> = is.split(' ').take(3).collect();
        let publishes = spec.publish_not_ready_addresses == Some(true);
        let gone = flags[2] == "true" && !publishes;
        if let Some(port) = port.filter(|_| family == "IPv4" && !gone) {
            all.insert((service, address, port, flags[0] == "true"));
        }
    }
    all
}

fn addresses(sim: &Sim) -> BTreeSet<(String, String, i32, bool)> {
    let mut all = BTreeSet::new();
    for endpoints in sim.list::<Endpoints>() {
        for subset in endpoints.subsets.iter().flatten() {
            let port = subset.ports.as_ref().unwrap()[0].port;
            for (ready, addresses) in [(true, &subset.addresses), (false, &subset.not_ready_addresses)] {
                let ips = addresses.iter().flatten().map(|address| address.ip.clone());
                all.extend(ips.map(|ip| (endpoints.name_any(), ip, port, ready)));
            }
        }
    }
    all
}

fn check(sim: &Sim) -> Result<(), TestCaseError> {
    let sliced = sliced(sim).map_err(TestCaseError::fail)?;
    prop_assert_eq!(sliced, defined(sim));
    prop_assert_eq!(addresses(sim), defined_addresses(sim));
    let services: BTreeSet<String> = sim.list::<Service>().iter().map(|service| service.name_any()).collect();
    let sliced: BTreeSet<String> =
        sim.list::<EndpointSlice>().iter().map(|slice| slice.labels()["kubernetes.io/service-name"].clone()).collect();
    prop_assert_eq!(&sliced, &services, "every Service has a slice, and no other has");
    let kept: BTreeSet<String> = sim.list::<Endpoints>().iter().map(|one| one.name_any()).collect();
    prop_assert_eq!(&kept, &services);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whenever_all_is_seen_all_is_as_defined(steps in prop::collection::vec(step(), 1..100)) {
        let mut world = World::new();
        for step in &steps {
            act(&mut world, step);
            if matches!(step, Step::Settle) {
                check(&world.sim)?;
            }
        }
        world.settle();
        check(&world.sim)?;
        // From scratch nothing is to be done.
        world.sim.log.clear();
        world.restart();
        world.settle();
        prop_assert!(world.sim.log.is_empty(), "{:?}", world.sim.log);
    }
}

/// A quick delete and re-create of a Service, with what the watches may make of it.
#[test]
fn a_service_made_again_at_once_has_its_slices_whatever_was_seen() {
    for seen in 0..=4 {
        let mut world = World::new();
        world.sim.put(&pod(1, 0, 0, 0, 1));
        world.sim.put(&service(0, 0, 0, 0));
        world.settle();
        world.sim.remove::<Service>(&Key::new("default", "s0"));
        world.sim.put(&service(0, 0, 0, 0));
        world.sim.deliver(seen);
        // Decides in the middle of it, on whatever it has seen.
        world.work(false);
        world.work(true);
        world.settle();
        check(&world.sim).unwrap();
        assert_eq!(sliced(&world.sim).unwrap().len(), 1);
    }
}

/// The selector changes while the pods do: no slice keeps what the old selector meant.
#[test]
fn a_new_selector_leaves_nothing_of_the_old_one() {
    for (seen, kind) in [(0, "Pod"), (1, "Pod"), (1, "Service"), (2, "Pod")] {
        let mut world = World::new();
        world.sim.put(&pod(1, 0, 0, 0, 1));
        world.sim.put(&pod(2, 1, 0, 0, 1));
        world.sim.put(&service(0, 0, 0, 0));
        world.settle();
        world.sim.put(&service(0, 1, 0, 0));
        world.sim.put(&pod(1, 1, 0, 0, 1));
        world.sim.put(&pod(2, 0, 0, 0, 1));
        world.sim.deliver_kind(kind, seen);
        world.work(true);
        world.work(false);
        world.settle();
        check(&world.sim).unwrap();
        let pods: Vec<String> = sliced(&world.sim).unwrap().into_keys().map(|key| key.2).collect();
        assert_eq!(pods, ["p1"]);
    }
}

/// A pod's node is not known yet: it is an endpoint all the same, and gets its zone when the node comes.
#[test]
fn a_missing_node_holds_nothing_up() {
    let mut world = World::new();
    world.sim.put(&pod(1, 0, 2, 0, 1));
    world.sim.put(&service(0, 0, 1, 0));
    world.settle();
    assert_eq!(sliced(&world.sim).unwrap().len(), 1);
    world.sim.put(&node(2, 1));
    world.settle();
    check(&world.sim).unwrap();
    let said: Value = json!(sliced(&world.sim).unwrap().into_values().next().unwrap());
    assert!(said.as_str().unwrap().contains("z1"));
}
