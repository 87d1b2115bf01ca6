//! Nodes and a host on one link, each a network namespace, and an API server; nobody but the kernel's own neighbour table is asked.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use apiserver::{ApiServer, User};
use client::Client;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use linux::NetNs;
use loadbalancer::{Config, Interfaces, Speaker};
use netlink::links::Links;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

static LABS: AtomicU32 = AtomicU32::new(0);
/// Far more than anything here takes, so that only a fault runs into it.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Lab {
    pub client: Client,
    server: ApiServer,
    directory: PathBuf,
    switch: NetNs,
    host: NetNs,
    nodes: BTreeMap<String, NetNs>,
    running: BTreeMap<String, (CancellationToken, JoinHandle<Result<(), loadbalancer::Error>>)>,
}

impl Lab {
    /// Nodes `a`, `b` and `c`, and a host, on a bridge; nobody speaks yet.
    pub async fn new() -> Lab {
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("lb-lab-{}-{number}", std::process::id()));
        let make = |name: &str| NetNs::create(directory.join(name)).unwrap();
        let (switch, host) = (make("switch"), make("host"));
        let inside = Links::open(&switch).unwrap();
        let bridge = inside.add_bridge("bridge").await.unwrap();
        inside.set_up(bridge.index).await.unwrap();
        let mut nodes = BTreeMap::new();
        for (number, name) in ["a", "b", "c"].iter().enumerate() {
            let node = make(name);
            plug(&inside, bridge.index, name, &node, 11 + u8::try_from(number).unwrap()).await;
            nodes.insert((*name).to_owned(), node);
        }
        plug(&inside, bridge.index, "host", &host, 101).await;
        let mut config = apiserver::Config::new(directory.join("api"));
        config.service_cidrs = vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()];
        let server = ApiServer::open(config).await.unwrap();
        let client = client::in_process(server.service(User::admin()));
        let lab = Lab { client, server, directory, switch, host, nodes, running: BTreeMap::new() };
        for name in ["a", "b", "c"] {
            lab.node(name, true).await;
        }
        lab
    }

    pub async fn node(&self, name: &str, ready: bool) {
        let api: Api<Node> = Api::all(self.client.clone());
        if api.get_opt(name).await.unwrap().is_none() {
            let node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
            api.create(&PostParams::default(), &node).await.unwrap();
        }
        let status = if ready { "True" } else { "Unknown" };
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Starts the load balancer of one node, as a process of its own would run it.
    pub fn speak(&mut self, node: &str, pools: &[&str]) {
        let mut config = Config::new(pools.iter().map(|pool| pool.parse().unwrap()).collect());
        config.elect = Some(node.to_owned());
        let netns = self.nodes[node].clone();
        config.speakers = vec![Speaker { node: node.to_owned(), netns, interfaces: Interfaces::Networks }];
        let shutdown = CancellationToken::new();
        let client = client::in_process(self.server.service(User::admin()));
        let running = tokio::spawn(loadbalancer::run(config, client, shutdown.clone()));
        self.running.insert(node.to_owned(), (shutdown, running));
    }

    pub fn speak_all(&mut self, pools: &[&str]) {
        for node in ["a", "b", "c"] {
            self.speak(node, pools);
        }
    }

    /// Ends it as a signal would: it hands over.
    pub async fn stop(&mut self, node: &str) {
        let (shutdown, running) = self.running.remove(node).unwrap();
        shutdown.cancel();
        running.await.unwrap().unwrap();
    }

    /// Cuts a node off the link, as a pulled cable does.
    pub async fn pull_cable(&self, node: &str) {
        let links = Links::open(&self.switch).unwrap();
        links.set_down(links.link(node).await.unwrap().index).await.unwrap();
    }

    pub async fn plug_in(&self, node: &str) {
        let links = Links::open(&self.switch).unwrap();
        links.set_up(links.link(node).await.unwrap().index).await.unwrap();
    }

    pub async fn service(&self, name: &str, more: Value) {
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "selector": {"app": name}}
        });
        for key in ["spec", "metadata"] {
            for (field, value) in more[key].as_object().into_iter().flatten() {
                service[key][field] = value.clone();
            }
        }
        let api: Api<Service> = Api::default_namespaced(self.client.clone());
        api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(service)).await.unwrap();
    }

    pub async fn get(&self, name: &str) -> Service {
        Api::<Service>::default_namespaced(self.client.clone()).get(name).await.unwrap()
    }

    pub async fn delete(&self, name: &str) {
        let api: Api<Service> = Api::default_namespaced(self.client.clone());
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Endpoints of a Service: a node each, ready or draining.
    pub async fn endpoints(&self, service: &str, places: &[(&str, bool)]) {
        let endpoint = |(number, (node, ready)): (usize, &(&str, bool))| {
            json!({
                "addresses": [format!("10.244.0.{}", number + 1)], "nodeName": node,
                "conditions": {"ready": ready, "serving": true, "terminating": !ready}
            })
        };
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
            "endpoints": places.iter().enumerate().map(endpoint).collect::<Vec<_>>()
        });
        let api: Api<EndpointSlice> = Api::default_namespaced(self.client.clone());
        api.patch(service, &PatchParams::apply("test").force(), &Patch::Apply(slice)).await.unwrap();
    }

    /// The addresses in a Service's status, once there are as many.
    pub async fn addresses(&self, name: &str, count: usize) -> Vec<IpAddr> {
        until("addresses in the status", async || {
            let addresses = current(&self.get(name).await);
            (addresses.len() == count).then_some(addresses)
        })
        .await
    }

    /// The node whose MAC the host's kernel learns for an address; none if nobody answers.
    pub async fn who_answers(&self, address: IpAddr) -> Option<String> {
        let probe = || {
            let any: IpAddr = if address.is_ipv6() { "::".parse().unwrap() } else { Ipv4Addr::UNSPECIFIED.into() };
            let _ = ip(&["neigh", "flush", "to", &address.to_string()]);
            let socket = UdpSocket::bind((any, 0)).unwrap();
            // The answer to ARP is what counts; whether the packet arrives does not.
            let _ = socket.send_to(b"?", (address, 9));
            let start = Instant::now();
            loop {
                let known = ip(&["neigh", "show", "to", &address.to_string()]);
                let mac = known.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).map(str::to_owned);
                if mac.is_some() || known.contains("FAILED") || start.elapsed() > Duration::from_secs(5) {
                    return mac;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        let mac = self.host.run(probe).unwrap()?;
        for (name, node) in &self.nodes {
            let uplink = Links::open(node).unwrap().link("uplink").await.unwrap();
            if uplink.mac.is_some_and(|known| known.to_string() == mac) {
                return Some(name.clone());
            }
        }
        Some(mac)
    }

    /// Waits until an address is answered by one of these nodes, and says by which.
    pub async fn answered_by(&self, address: IpAddr, nodes: &str) -> String {
        until(&format!("{address} answered by one of {nodes}"), async || {
            self.who_answers(address).await.filter(|node| nodes.split(' ').any(|one| one == node))
        })
        .await
    }

    pub async fn silent(&self, address: IpAddr) {
        until(&format!("{address} silent"), async || self.who_answers(address).await.is_none().then_some(())).await;
    }

    /// The MAC that the host's kernel has for an address now, without asking anew: what gratuitous announcements change.
    pub fn remembered(&self, address: IpAddr) -> String {
        self.host.run(|| ip(&["neigh", "show", "to", &address.to_string()])).unwrap()
    }

    pub async fn mac(&self, node: &str) -> String {
        Links::open(&self.nodes[node]).unwrap().link("uplink").await.unwrap().mac.unwrap().to_string()
    }

    pub async fn leases(&self, role: &str) -> Vec<(String, String)> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), "kube-system");
        let of_role = kube::api::ListParams::default().labels(&format!("portolan.dev/loadbalancer={role}"));
        let listed = api.list(&of_role).await.unwrap().items.into_iter();
        let held =
            |lease: Lease| (lease.metadata.name.unwrap(), lease.spec.unwrap().holder_identity.unwrap_or_default());
        listed.map(held).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (shutdown, running) in self.running.values() {
            shutdown.cancel();
            running.abort();
        }
        for namespace in self.nodes.values().chain([&self.switch, &self.host]) {
            let _ = namespace.delete();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

pub fn current(service: &Service) -> Vec<IpAddr> {
    loadbalancer::request::current(service)
}

/// Asks again until there is an answer.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "never {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn plug(switch: &Links, bridge: u32, port: &str, namespace: &NetNs, last: u8) {
    // No waiting for duplicate addresses: these are ours.
    namespace.set_sysctl("net.ipv6.conf.default.accept_dad", "0").unwrap();
    let near = switch.add_veth(port, "uplink", namespace).await.unwrap();
    switch.set_bridge(near.index, Some(bridge)).await.unwrap();
    let inside = Links::open(namespace).unwrap();
    let uplink = inside.link("uplink").await.unwrap();
    inside.add_address(uplink.index, format!("192.0.2.{last}/24").parse().unwrap()).await.unwrap();
    inside.add_address(uplink.index, format!("fd00:2::{last}/64").parse().unwrap()).await.unwrap();
    switch.set_up(near.index).await.unwrap();
    inside.set_up(uplink.index).await.unwrap();
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
