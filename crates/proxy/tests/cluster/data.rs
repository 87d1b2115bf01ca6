//! The recorded scenarios as values.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Deserialize)]
pub struct Scenario {
    pub name: String,
    pub objects: Vec<Value>,
    #[serde(default)]
    pub probes: Vec<Probe>,
    #[serde(default)]
    pub steps: Vec<Step>,
    #[serde(default)]
    pub unstable: Value,
}

#[derive(Debug, Deserialize)]
pub struct Step {
    #[serde(default)]
    pub change: Vec<Change>,
    #[serde(default)]
    pub probes: Vec<Probe>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Change {
    Apply { apply: Value },
    Delete { delete: String },
    Wait { wait: f64 },
    Proxy { proxy: String, nodes: Vec<String> },
}

#[derive(Debug, Clone, Deserialize)]
pub struct Probe {
    pub from: String,
    #[serde(default)]
    pub to: String,
    pub n: Option<u32>,
    #[serde(default)]
    pub sources: u32,
    pub source_port: Option<u16>,
    pub hold: Option<String>,
    pub check: Option<String>,
    pub remember: Option<String>,
    pub same_as: Option<String>,
    pub http: Option<String>,
    pub quirk: Option<String>,
    pub expect: Expect,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Expect {
    #[serde(default)]
    pub verdict: String,
    pub reached: Option<Vec<String>>,
    pub reached_count: Option<usize>,
    #[serde(default)]
    pub source: Vec<String>,
    pub status: Option<u16>,
    pub endpoint_weight: Option<String>,
    pub json: Option<Value>,
}

impl Probe {
    /// Where it goes; a probe of HTTP has no protocol.
    pub fn target(&self) -> (SocketAddr, u8) {
        let (address, protocol) = self.to.split_once('/').unwrap_or((&self.to, "tcp"));
        let number = match protocol {
            "tcp" => 6,
            "udp" => 17,
            "sctp" => 132,
            other => panic!("{other}"),
        };
        (address.parse().unwrap(), number)
    }
}

pub fn scenarios() -> Vec<Scenario> {
    #[derive(Deserialize)]
    struct File {
        packets: Vec<Scenario>,
    }
    let file: File = serde_json::from_str(include_str!("../data/packets.json")).unwrap();
    file.packets
}

/// The objects of a cluster, as an API server would hold them.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    pub services: BTreeMap<String, Value>,
    pub slices: BTreeMap<String, Value>,
    pub nodes: BTreeMap<String, Value>,
}

impl Objects {
    pub fn new() -> Self {
        let mut objects = Objects::default();
        for (name, zone, v4, v6) in [
            ("node1", "zone-a", "192.0.2.11", "2001:db8:0:1::11"),
            ("node2", "zone-b", "192.0.2.12", "2001:db8:0:1::12"),
        ] {
            let addresses = [v4, v6].map(|address| json!({"type": "InternalIP", "address": address}));
            let node = json!({
                "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}, "status": {"addresses": addresses},
            });
            objects.nodes.insert(name.into(), node);
        }
        objects
    }

    fn kind(&mut self, kind: &str) -> &mut BTreeMap<String, Value> {
        match kind {
            "Service" => &mut self.services,
            "EndpointSlice" => &mut self.slices,
            "Node" => &mut self.nodes,
            other => panic!("{other}"),
        }
    }

    /// Creates or replaces; a status that is not given stays.
    pub fn apply(&mut self, object: &Value) {
        let mut object = object.clone();
        object["metadata"]["namespace"] = json!("packets");
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let kept = self.kind(object["kind"].as_str().unwrap());
        if object.get("status").is_none()
            && let Some(status) = kept.get(&name).and_then(|old| old.get("status"))
        {
            object["status"] = status.clone();
        }
        kept.insert(name, object);
    }

    pub fn delete(&mut self, what: &str) {
        let (kind, name) = what.split_once('/').unwrap();
        self.kind(kind).remove(name);
    }

    pub fn service(&self, name: &str) -> Service {
        serde_json::from_value(self.services[name].clone()).unwrap()
    }

    pub fn slice(&self, name: &str) -> EndpointSlice {
        serde_json::from_value(self.slices[name].clone()).unwrap()
    }

    pub fn node(&self, name: &str) -> Node {
        serde_json::from_value(self.nodes[name].clone()).unwrap()
    }
}

/// Where things are in the recordings' topology.
pub fn host_address(host: &str, v6: bool) -> IpAddr {
    let (v4, six) = match host {
        "p1" => ("10.244.1.11", "fd00:10:244:1::11"),
        "p2" => ("10.244.1.12", "fd00:10:244:1::12"),
        "p3" => ("10.244.1.13", "fd00:10:244:1::13"),
        "p4" => ("10.244.2.14", "fd00:10:244:2::14"),
        "p5" => ("10.244.2.15", "fd00:10:244:2::15"),
        "node1" => ("192.0.2.11", "2001:db8:0:1::11"),
        "node2" => ("192.0.2.12", "2001:db8:0:1::12"),
        "outside" => ("192.0.2.101", "2001:db8:0:1::101"),
        "outside2" => ("192.0.2.102", "2001:db8:0:1::102"),
        other => panic!("{other}"),
    };
    if v6 { six.parse().unwrap() } else { v4.parse().unwrap() }
}
