//! Tables for what the Endpoints object holds.

use client::Key;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::reconcile::EndpointsController;
use crate::sim::Sim;

struct World {
    sim: Sim,
    controller: EndpointsController,
}

impl World {
    fn new(change: impl FnOnce(&mut Value)) -> World {
        let mut sim = Sim::default();
        sim.follow::<Service>();
        sim.follow::<Pod>();
        sim.follow::<Endpoints>();
        let (controller, _) = EndpointsController::new(&sim.informers);
        let mut spec =
            json!({"selector": {"app": "web"}, "clusterIP": "10.96.0.5", "ports": [{"port": 80, "targetPort": 8080}]});
        change(&mut spec);
        let service =
            json!({"metadata": {"name": "web", "namespace": "default", "labels": {"team": "a"}}, "spec": spec});
        sim.put(&serde_json::from_value::<Service>(service).unwrap());
        World { sim, controller }
    }

    fn pod(&mut self, name: &str, ip: &str, change: impl FnOnce(&mut Value)) {
        let conditions = json!([{"type": "Ready", "status": "True"}]);
        let mut pod = json!({"metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions}});
        change(&mut pod);
        self.sim.put(&serde_json::from_value::<Pod>(pod).unwrap());
    }

    fn settle(&mut self) -> Option<Endpoints> {
        let key = Key::new("default", "web");
        self.sim.deliver_all();
        let write = self.controller.decide(&key);
        self.sim.execute(write.into_iter().collect()).unwrap();
        self.sim.deliver_all();
        assert_eq!(self.controller.decide(&key), None, "a second look changes nothing");
        self.sim.get(&key)
    }
}

fn text(endpoints: &Endpoints) -> Vec<String> {
    let ips = |addresses: &Option<Vec<k8s_openapi::api::core::v1::EndpointAddress>>| {
        addresses.iter().flatten().map(|address| address.ip.clone()).collect::<Vec<_>>().join(",")
    };
    let subsets = endpoints.subsets.iter().flatten();
    subsets
        .map(|subset| {
            let ports = subset.ports.iter().flatten().map(|port| port.port.to_string()).collect::<Vec<_>>().join(",");
            format!("{} | {} : {ports}", ips(&subset.addresses), ips(&subset.not_ready_addresses))
        })
        .collect()
}

#[test]
fn ready_and_other_addresses_stand_apart() {
    let mut world = World::new(|_| {});
    world.pod("a", "10.244.0.2", |_| {});
    world.pod("b", "10.244.0.3", |pod| pod["status"]["conditions"][0]["status"] = json!("False"));
    world.pod("c", "10.244.0.4", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:05Z"));
    world.pod("d", "10.244.0.5", |pod| pod["status"]["phase"] = json!("Failed"));
    let endpoints = world.settle().unwrap();
    assert_eq!(text(&endpoints), ["10.244.0.2 | 10.244.0.3 : 8080"]);
    assert_eq!(endpoints.labels()["endpoints.kubernetes.io/managed-by"], "endpoint-controller");
    assert_eq!(endpoints.labels()["team"], "a");
    let address = &endpoints.subsets.unwrap()[0].addresses.clone().unwrap()[0];
    assert_eq!(address.target_ref.as_ref().unwrap().name.as_deref(), Some("a"));
}

#[test]
fn all_are_published_if_asked() {
    let mut world = World::new(|spec| spec["publishNotReadyAddresses"] = json!(true));
    world.pod("a", "10.244.0.2", |pod| pod["status"]["conditions"][0]["status"] = json!("False"));
    world.pod("b", "10.244.0.3", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:05Z"));
    assert_eq!(text(&world.settle().unwrap()), ["10.244.0.2,10.244.0.3 |  : 8080"]);
}

#[test]
fn a_headless_service_may_do_without_ports() {
    let mut world = World::new(|spec| {
        spec["clusterIP"] = json!("None");
        spec["ports"] = Value::Null;
    });
    world.pod("a", "10.244.0.2", |_| {});
    let endpoints = world.settle().unwrap();
    assert_eq!(text(&endpoints), ["10.244.0.2 |  : "]);
    assert_eq!(endpoints.labels()["service.kubernetes.io/headless"], "");
}

#[test]
fn a_thousand_addresses_are_held_and_ready_ones_first() {
    let mut world = World::new(|_| {});
    for number in 0..1001 {
        let ready = if number == 1000 { "True" } else { "False" };
        let ip = format!("10.244.{}.{}", number / 250, number % 250);
        world.pod(&format!("p{number:04}"), &ip, |pod| pod["status"]["conditions"][0]["status"] = json!(ready));
    }
    let endpoints = world.settle().unwrap();
    let subset = endpoints.subsets.as_ref().unwrap()[0].clone();
    assert_eq!((subset.addresses.unwrap().len(), subset.not_ready_addresses.unwrap().len()), (1, 999));
    assert_eq!(endpoints.annotations()["endpoints.kubernetes.io/over-capacity"], "truncated");
    world.sim.remove::<Pod>(&Key::new("default", "p0000"));
    assert!(!world.settle().unwrap().annotations().contains_key("endpoints.kubernetes.io/over-capacity"));
}

#[test]
fn endpoints_go_with_their_service_but_those_of_others_stay() {
    let mut world = World::new(|_| {});
    world.settle();
    let foreign = json!({"metadata": {"name": "own", "namespace": "default"}});
    let foreign = world.sim.put(&serde_json::from_value::<Endpoints>(foreign).unwrap());
    world.sim.remove::<Service>(&Key::new("default", "web"));
    assert!(world.settle().is_none());
    assert_eq!(world.controller.decide(&foreign), None);
}
