//! What is mirrored, how, and when not.

use client::Key;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::reconcile::Mirroring;
use crate::sim::Sim;

struct World {
    sim: Sim,
    controller: Mirroring,
}

impl World {
    fn new() -> World {
        let mut sim = Sim::default();
        sim.follow::<Service>();
        sim.follow::<Endpoints>();
        sim.follow::<EndpointSlice>();
        let (controller, _) = Mirroring::new(&sim.informers);
        World { sim, controller }
    }

    fn service(&mut self, selector: Value) {
        let spec = json!({"selector": selector, "ports": [{"port": 80}]});
        let service = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec});
        self.sim.put(&serde_json::from_value::<Service>(service).unwrap());
    }

    fn endpoints(&mut self, labels: Value, subsets: Value) {
        let meta = json!({"name": "web", "namespace": "default", "labels": labels, "annotations": {"a": "b"}});
        let endpoints = json!({"metadata": meta, "subsets": subsets});
        self.sim.put(&serde_json::from_value::<Endpoints>(endpoints).unwrap());
    }

    fn settle(&mut self) -> Vec<EndpointSlice> {
        for _ in 0..3 {
            self.sim.deliver_all();
            let writes = self.controller.decide(&Key::new("default", "web"));
            self.sim.execute(writes).unwrap();
        }
        self.sim.deliver_all();
        assert!(self.controller.decide(&Key::new("default", "web")).is_empty());
        self.sim.list()
    }
}

fn subsets() -> Value {
    json!([{"addresses": [{"ip": "192.0.2.1", "hostname": "h"}, {"ip": "2001:db8::1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}],
        "ports": [{"port": 8080}]}])
}

#[test]
fn each_family_gets_its_slice() {
    let mut world = World::new();
    world.service(Value::Null);
    world.endpoints(json!({"team": "a"}), subsets());
    let mut slices = world.settle();
    slices.sort_by_key(|slice| slice.address_type.clone());
    assert_eq!(slices.len(), 2);
    let v4 = slices[0].endpoints.clone().unwrap();
    assert_eq!(v4.iter().map(|e| e.addresses[0].as_str()).collect::<Vec<_>>(), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(v4.iter().map(|e| e.conditions.as_ref().unwrap().ready).collect::<Vec<_>>(), [Some(true), Some(false)]);
    assert_eq!(v4[0].hostname.as_deref(), Some("h"));
    assert_eq!(slices[0].labels()["team"], "a");
    assert_eq!(slices[0].annotations()["a"], "b");
    assert_eq!(slices[0].owner_references()[0].kind, "Endpoints");
    assert_eq!(
        slices[0].labels()["endpointslice.kubernetes.io/managed-by"],
        "endpointslicemirroring-controller.k8s.io"
    );
    assert_eq!(slices[1].endpoints.as_ref().unwrap()[0].addresses, ["2001:db8::1"]);
}

#[test]
fn nothing_is_mirrored_that_should_not_be() {
    let skip = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    for (selector, labels) in [(Value::Null, skip), (json!({"app": "web"}), json!({}))] {
        let mut world = World::new();
        world.service(Value::Null);
        world.endpoints(json!({}), subsets());
        assert_eq!(world.settle().len(), 2);
        world.service(selector);
        world.endpoints(labels, subsets());
        assert!(world.settle().is_empty());
    }
    let mut world = World::new();
    world.endpoints(json!({}), subsets());
    assert!(world.settle().is_empty(), "no Service, no slices");
}

#[test]
fn a_change_is_followed() {
    let mut world = World::new();
    world.service(Value::Null);
    world.endpoints(json!({}), subsets());
    world.settle();
    world.endpoints(json!({}), json!([{"addresses": [{"ip": "192.0.2.9"}], "ports": [{"port": 9090, "name": "x"}]}]));
    let slices = world.settle();
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0].endpoints.as_ref().unwrap()[0].addresses, ["192.0.2.9"]);
    assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(9090));
}
