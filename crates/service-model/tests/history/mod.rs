//! Random histories of Services, slices and nodes: few names and addresses, so that they clash, move and come back.
#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::{Value, json};
use service_model::{Model, NodeView, ObjectKey};

/// One step.
#[derive(Debug, Clone)]
pub enum Step {
    Service(Value),
    NoService(String),
    Slice(Value),
    NoSlice(String),
    Node(Value),
}

/// What is there after a history, by name.
#[derive(Debug, Default)]
pub struct World {
    pub services: std::collections::BTreeMap<String, Service>,
    pub slices: std::collections::BTreeMap<String, EndpointSlice>,
    pub node: Node,
}

impl World {
    pub fn new() -> Self {
        World { node: from(node_object("zone-a", "192.0.2.11")), ..World::default() }
    }

    /// Takes a step here and in the model.
    pub fn step(&mut self, step: &Step, model: &mut Model) {
        match step {
            Step::Service(object) => {
                let service: Service = from(object.clone());
                model.apply_service(&service);
                self.services.insert(name(object), service);
            }
            Step::NoService(name) => {
                model.remove_service(&ObjectKey::new("ns", name.as_str()));
                self.services.remove(name);
            }
            Step::Slice(object) => {
                let slice: EndpointSlice = from(object.clone());
                model.apply_slice(&slice);
                self.slices.insert(name(object), slice);
            }
            Step::NoSlice(name) => {
                model.remove_slice(&ObjectKey::new("ns", name.as_str()));
                self.slices.remove(name);
            }
            Step::Node(object) => {
                self.node = from(object.clone());
                model.set_node(self.view());
            }
        }
    }

    pub fn view(&self) -> NodeView {
        NodeView::parse(&self.node)
    }

    /// A new model of what is there.
    pub fn scratch(&self) -> Model {
        Model::build(self.services.values(), self.slices.values(), self.view())
    }
}

fn from<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).unwrap()
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

pub fn node_object(zone: &str, address: &str) -> Value {
    json!({"metadata": {"name": "node1", "labels": {"topology.kubernetes.io/zone": zone}},
        "status": {"addresses": [{"type": "InternalIP", "address": address}, {"type": "InternalIP", "address": "2001:db8::11"}]}})
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..25)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => service().prop_map(Step::Service),
        1 => (0..4u8).prop_map(|n| Step::NoService(format!("svc{n}"))),
        8 => slice().prop_map(Step::Slice),
        2 => (0..5u8).prop_map(|n| Step::NoSlice(format!("slice{n}"))),
        1 => (prop::sample::select(vec!["zone-a", "zone-b"]), prop::sample::select(vec!["192.0.2.11", "192.0.2.12"]))
            .prop_map(|(zone, address)| Step::Node(node_object(zone, address))),
    ]
}

fn service() -> impl Strategy<Value = Value> {
    let shape = (
        0..4u8,
        0..5u8,
        any::<[bool; 7]>(),
        prop::sample::select(vec!["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
    );
    (shape, 1..3usize, 0..3u8, 0..3i64).prop_map(|((n, ip, on, kind), ports, lb, created)| {
        let mut list = vec![json!({"name": "a", "port": 80, "nodePort": 30080 + i32::from(n / 2)})];
        if ports > 1 {
            list.push(json!({"name": "b", "port": if on[6] { 53 } else { 80 }, "protocol": "UDP", "nodePort": 30080}));
        }
        let (v4, v6) = (format!("10.96.0.{}", ip + 1), format!("fd00:96::{}", ip + 1));
        let ips = if on[0] { vec![v4.clone(), v6] } else { vec![v4.clone()] };
        json!({
            "metadata": {"name": format!("svc{n}"), "namespace": "ns", "creationTimestamp": format!("2026-01-0{}T00:00:00Z", created + 1)},
            "spec": {
                "type": kind, "clusterIP": v4, "clusterIPs": ips, "ports": list,
                "internalTrafficPolicy": if on[1] { "Local" } else { "Cluster" },
                "externalTrafficPolicy": if on[2] { "Local" } else { "Cluster" },
                "sessionAffinity": if on[3] { "ClientIP" } else { "None" },
                "externalIPs": if on[4] { vec![format!("203.0.113.{lb}"), "not an address".into()] } else { vec![] },
                "loadBalancerSourceRanges": if on[5] { vec!["192.0.2.0/24", "192.0.2.101/32", "2001:db8::/64"] } else { vec![] },
            },
            "status": {"loadBalancer": {"ingress": [{"ip": format!("198.51.100.{lb}")}]}},
        })
    })
}

fn slice() -> impl Strategy<Value = Value> {
    let ports = prop::sample::subsequence(vec!["a", "b"], 0..=2);
    (0..5u8, 0..4u8, any::<bool>(), ports, prop::collection::vec(endpoint(), 0..6)).prop_map(|(n, owner, v6, ports, endpoints)| {
        let ports: Vec<Value> = ports
            .into_iter()
            .map(|name| json!({"name": name, "port": 8080, "protocol": if name == "b" { "UDP" } else { "TCP" }}))
            .collect();
        let endpoints: Vec<Value> = endpoints
            .into_iter()
            .map(|(last, mut endpoint)| {
                endpoint["addresses"] = json!([if v6 { format!("fd00:244::{last}") } else { format!("10.244.0.{last}") }]);
                endpoint
            })
            .collect();
        json!({
            "metadata": {"name": format!("slice{n}"), "namespace": "ns", "labels": {"kubernetes.io/service-name": format!("svc{owner}")}},
            "addressType": if v6 { "IPv6" } else { "IPv4" }, "ports": ports, "endpoints": endpoints,
        })
    })
}

fn endpoint() -> impl Strategy<Value = (u8, Value)> {
    let zones = prop::sample::select(vec![None, Some("zone-a"), Some("zone-b")]);
    let nodes = prop::sample::select(vec![None, Some("node1"), Some("node2")]);
    (0..7u8, any::<[bool; 3]>(), nodes.clone(), zones, nodes).prop_map(
        |(last, [ready, serving, terminating], node, zone, hinted)| {
            let named = |name: Option<&str>| name.map(|name| json!([{"name": name}]));
            let endpoint = json!({
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
                "nodeName": node, "hints": {"forZones": named(zone), "forNodes": named(hinted)},
            });
            (last, endpoint)
        },
    )
}
