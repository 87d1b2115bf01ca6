//! Services with ten endpoints each, written through the API.

use std::net::Ipv4Addr;
use std::path::Path;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

pub const ENDPOINTS: usize = 10;
pub const NODE: &str = "bench";
const AT_ONCE: usize = 32;

pub struct Cluster {
    services: Api<Service>,
    slices: Api<EndpointSlice>,
    present: usize,
    changes: u32,
}

/// The cluster IP of a Service, above those that the cluster gave out itself.
pub fn vip(service: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 4, 0).to_bits() + service as u32)
}

/// Endpoints are addresses of the machine that measures.
pub fn endpoint(service: usize, index: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 0).to_bits() + (service * ENDPOINTS + index) as u32)
}

fn service(n: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("bench-{n}")},
        "spec": {"clusterIP": vip(n), "ports": [{"port": 80, "targetPort": 8080}]}})
}

fn slice(n: usize, endpoints: &[Ipv4Addr]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|e| json!({"addresses": [e], "conditions": {"ready": true}, "nodeName": "elsewhere"}))
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
        "metadata": {"name": format!("bench-{n}"), "labels": {"kubernetes.io/service-name": format!("bench-{n}")}},
        "ports": [{"name": "", "port": 8080}]})
}

fn all(n: usize) -> Vec<Ipv4Addr> {
    (0..ENDPOINTS).map(|index| endpoint(n, index)).collect()
}

impl Cluster {
    pub async fn connect(kubeconfig: &str) -> Self {
        let client = client::from_kubeconfig(Some(Path::new(kubeconfig)), None).await.unwrap();
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
        let nodes: Api<Node> = Api::all(client.clone());
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        let (services, slices) = (Api::namespaced(client.clone(), "default"), Api::namespaced(client, "default"));
        Cluster { services, slices, present: 0, changes: 0 }
    }

    /// Adds Services until there are so many.
    pub async fn grow(&mut self, size: usize) {
        let (services, slices) = (self.services.clone(), self.slices.clone());
        let writes = futures::stream::iter(self.present..size).map(|n| {
            let (services, slices) = (services.clone(), slices.clone());
            async move {
                let create = PostParams::default();
                services.create(&create, &serde_json::from_value(service(n)).unwrap()).await.unwrap();
                slices.create(&create, &serde_json::from_value(slice(n, &all(n))).unwrap()).await.unwrap();
            }
        });
        writes.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
        self.present = size;
    }

    /// The first endpoint of a Service gives way to one that was never there.
    pub async fn change(&mut self, n: usize) {
        self.changes += 1;
        let mut endpoints = all(n);
        endpoints[0] = Ipv4Addr::from_bits(Ipv4Addr::new(10, 140, 0, 0).to_bits() + self.changes);
        let changed = json!({"endpoints": slice(n, &endpoints)["endpoints"]});
        let name = format!("bench-{n}");
        self.slices.patch(&name, &PatchParams::default(), &Patch::Merge(&changed)).await.unwrap();
    }
}
