//! The recordings' topology in network namespaces: a router, two nodes with five pods, two hosts outside, and a proxy on each node.
#![allow(clippy::unwrap_used)]

pub mod sctp;
pub mod sockets;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use linux::NetNs;
use netlink::NfTables;
use netlink::links::{Links, Route, RouteKind, Via};
use proxy::{Config, SetId, table_id};
use serde_json::json;
use service_model::Family;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::data::{Objects, host_address};

static TOPOLOGIES: AtomicU32 = AtomicU32::new(0);
const HOSTS: [&str; 5] = ["router", "node1", "node2", "outside", "outside2"];
const PODS: [(&str, &str, u8); 5] =
    [("p1", "node1", 1), ("p2", "node1", 2), ("p3", "node1", 3), ("p4", "node2", 1), ("p5", "node2", 2)];
/// Balancers and external addresses: the router's own.
const BALANCED: [&str; 4] = ["198.51.100.0/24", "203.0.113.0/24", "2001:db8:0:2::/64", "2001:db8:0:3::/64"];
const SERVICES: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];

type Running = (CancellationToken, JoinHandle<Result<(), proxy::Error>>);

pub struct Topology {
    pub api: Api,
    namespaces: BTreeMap<String, NetNs>,
    proxies: BTreeMap<String, Running>,
    directory: PathBuf,
    barrier: u16,
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn single(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// Addresses of a host on the link.
fn on_link(host: &str) -> Vec<IpNet> {
    let (v4, v6) = match host {
        "router" => (ip("192.0.2.1"), ip("2001:db8:0:1::1")),
        other => (host_address(other, false), host_address(other, true)),
    };
    let mut addresses = vec![IpNet::new(v4, 24).unwrap(), IpNet::new(v6, 64).unwrap()];
    if host == "node1" {
        addresses.extend([net("192.0.2.13/24"), net("2001:db8:0:1::13/64")]);
    }
    addresses
}

/// The further addresses that a pod owns.
pub fn blocks(node: &str, n: u8) -> [IpNet; 2] {
    let number = if node == "node1" { 1 } else { 2 };
    [net(&format!("10.244.{number}.{}/26", u16::from(n) * 64)), net(&format!("fd00:10:244:{number}:{n}::/80"))]
}

impl Topology {
    pub async fn new() -> Self {
        let number = TOPOLOGIES.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("proxy-topology-{}-{number}", std::process::id()));
        let mut topology =
            Topology { api: Api::new(), namespaces: BTreeMap::new(), proxies: BTreeMap::new(), directory, barrier: 0 };
        for name in HOSTS.into_iter().chain(["switch"]).chain(PODS.map(|(pod, _, _)| pod)) {
            topology.make(name);
        }
        topology.link().await;
        for (pod, node, n) in PODS {
            topology.plug(pod, node, n).await;
        }
        topology.routes().await;
        for name in ["node1", "node2"].into_iter().chain(PODS.map(|(pod, _, _)| pod)) {
            sockets::echo(topology.at(name), name, &[8080, 8081, 9090], &[8080, 8081, 9090]);
            sctp::answer(topology.at(name), name, 8080);
        }
        sockets::echo(topology.at("router"), "lb", &[80, 443], &[53, 80]);
        let objects = Objects::new();
        for node in objects.nodes.values() {
            let mut node = node.clone();
            node["kind"] = json!("Node");
            node["apiVersion"] = json!("v1");
            topology.api.apply(&node);
        }
        topology.start("node1");
        topology.start("node2");
        topology
    }

    pub fn at(&self, name: &str) -> &NetNs {
        &self.namespaces[name]
    }

    fn make(&mut self, name: &str) {
        let netns = NetNs::create(self.directory.join(name)).unwrap();
        // Addresses are unique here; waiting a second for that to be found out would be all that detection does.
        for key in ["net.ipv6.conf.all.accept_dad", "net.ipv6.conf.default.accept_dad"] {
            netns.set_sysctl(key, "0").unwrap();
        }
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.ip_nonlocal_bind"] {
            netns.set_sysctl(key, "1").unwrap();
        }
        // A refusal over UDP is an ICMP message, and a burst of probes is no reason to hold some back.
        netns.set_sysctl("net.ipv4.icmp_ratelimit", "0").unwrap();
        netns.set_sysctl("net.ipv6.icmp.ratelimit", "0").unwrap();
        for (key, value) in [("net.ipv4.icmp_msgs_per_sec", "1000000"), ("net.ipv4.icmp_msgs_burst", "100000")] {
            // Older kernels keep these for the whole machine, out of a namespace's reach.
            let _ = netns.set_sysctl(key, value);
        }
        self.namespaces.insert(name.into(), netns);
    }

    async fn link(&self) {
        let switch = Links::open(self.at("switch")).unwrap();
        let bridge = switch.add_bridge("br0").await.unwrap();
        switch.set_up(bridge.index).await.unwrap();
        for host in HOSTS {
            let port = switch.add_veth(host, "eth0", self.at(host)).await.unwrap();
            switch.set_bridge(port.index, Some(bridge.index)).await.unwrap();
            switch.set_up(port.index).await.unwrap();
            let inside = Links::open(self.at(host)).unwrap();
            let eth0 = inside.link("eth0").await.unwrap().index;
            for address in on_link(host) {
                inside.add_address(eth0, address).await.unwrap();
            }
            inside.set_up(eth0).await.unwrap();
        }
    }

    async fn plug(&self, pod: &str, node: &str, n: u8) {
        let links = Links::open(self.at(node)).unwrap();
        let link = links.add_veth(pod, "eth0", self.at(pod)).await.unwrap();
        let inside = Links::open(self.at(pod)).unwrap();
        let eth0 = inside.link("eth0").await.unwrap().index;
        let loopback = inside.link("lo").await.unwrap().index;
        let number = if node == "node1" { 1 } else { 2 };
        let gateways = [ip(&format!("10.244.{number}.1")), ip(&format!("fd00:10:244:{number}::1"))];
        links.set_up(link.index).await.unwrap();
        inside.set_up(eth0).await.unwrap();
        for (v6, gateway) in [(false, gateways[0]), (true, gateways[1])] {
            let address = host_address(pod, v6);
            links.add_address(link.index, single(gateway)).await.unwrap();
            inside.add_address(eth0, single(address)).await.unwrap();
            links.add_route(&Route::link(single(address), link.index)).await.unwrap();
            let block = blocks(node, n)[usize::from(v6)];
            links.add_route(&Route::onlink(block, address, link.index)).await.unwrap();
            let default = if v6 { net("::/0") } else { net("0.0.0.0/0") };
            inside.add_route(&Route::onlink(default, gateway, eth0)).await.unwrap();
            inside.add_route(&local(block, loopback)).await.unwrap();
        }
    }

    async fn routes(&self) {
        for host in HOSTS {
            let links = Links::open(self.at(host)).unwrap();
            for v6 in [false, true] {
                for (node, number) in [("node1", 1), ("node2", 2)] {
                    let pods = if v6 { format!("fd00:10:244:{number}::/64") } else { format!("10.244.{number}.0/24") };
                    if host != node {
                        links.add_route(&Route::gateway(net(&pods), host_address(node, v6))).await.unwrap();
                    }
                }
                let balanced = BALANCED.iter().chain(&SERVICES).map(|range| net(range));
                for range in balanced.filter(|range| range.addr().is_ipv6() == v6) {
                    match host {
                        "outside" | "outside2" => {
                            links.add_route(&Route::gateway(range, host_address("node1", v6))).await.unwrap();
                        }
                        "router" => self.router(&links, range).await,
                        _ => {}
                    }
                }
                if host.starts_with("node") {
                    let (default, router) = if v6 { ("::/0", "2001:db8:0:1::1") } else { ("0.0.0.0/0", "192.0.2.1") };
                    links.add_route(&Route::gateway(net(default), ip(router))).await.unwrap();
                }
            }
        }
    }

    /// The router answers at balancers' addresses and drops what is for Services.
    async fn router(&self, links: &Links, range: IpNet) {
        let loopback = links.link("lo").await.unwrap().index;
        let services = SERVICES.iter().any(|services| net(services) == range);
        let route = if services {
            Route { via: Via::Kind(RouteKind::Blackhole), ..local(range, loopback) }
        } else {
            local(range, loopback)
        };
        links.add_route(&route).await.unwrap();
    }

    pub fn start(&mut self, node: &str) {
        let mut config = Config::new(node, self.at(node).clone());
        config.cluster_cidrs = vec![net("10.244.0.0/16"), net("fd00:10:244::/56")];
        config.service_cidrs = SERVICES.map(net).into();
        let end = CancellationToken::new();
        let running = tokio::spawn(proxy::run(config, self.api.client(), end.clone()));
        self.proxies.insert(node.into(), (end, running));
    }

    pub async fn stop(&mut self, node: &str) {
        if let Some((end, running)) = self.proxies.remove(node) {
            end.cancel();
            running.await.unwrap().unwrap();
        }
    }

    /// Waits until every running proxy has taken in all that was applied: a Service and a slice that come after it.
    pub async fn settle(&mut self) {
        self.barrier += 1;
        let address = format!("10.96.{}.{}", 200 + self.barrier / 250, self.barrier % 250 + 1);
        self.api.apply(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "barrier"},
            "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 9}]},
        }));
        self.api.apply(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "barrier", "labels": {"kubernetes.io/service-name": "barrier"}},
            "ports": [{"port": 9, "name": ""}],
            "endpoints": [{"addresses": [format!("10.244.9.{}", self.barrier % 250 + 1)], "nodeName": "node1"}],
        }));
        let key = nft::Bytes::new().ip(ip(&address)).proto(6).port(9).number(0);
        let endpoint = nft::Bytes::new().ip(ip(&format!("10.244.9.{}", self.barrier % 250 + 1))).port(9);
        let endpoint = nft::Element::value(endpoint);
        for node in self.proxies.keys() {
            let mut kernel = NfTables::open(self.at(node)).unwrap();
            let began = Instant::now();
            loop {
                let table = kernel.dump(&table_id()).unwrap().table.unwrap_or_default();
                let set = table.sets.get(SetId::Endpoints(0).name(Family::V4));
                if set.and_then(|set| set.elements.get(&key)) == Some(&endpoint) {
                    break;
                }
                assert!(began.elapsed() < Duration::from_secs(20), "the proxy of {node} is behind");
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }
    }
}

fn local(range: IpNet, loopback: u32) -> Route {
    Route { via: Via::Kind(RouteKind::Local { index: loopback }), ..Route::link(range, loopback) }
}

impl Drop for Topology {
    fn drop(&mut self) {
        self.namespaces.values().for_each(|netns| drop(netns.delete()));
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
