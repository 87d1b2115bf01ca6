//! A node with three pods and a host outside, each a network namespace, and the proxy in the node's.
#![allow(clippy::unwrap_used)]

pub mod api;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use api::Api;
use linux::NetNs;
use netlink::NfTables;
use netlink::links::{Links, Route};
use proxy::{Applied, Config, NodePortAddresses, PodInterface, table_id};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

static LABS: AtomicU32 = AtomicU32::new(0);
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Lab {
    pub api: Api,
    pub node: NetNs,
    pub pods: Vec<NetNs>,
    pub outside: NetNs,
    /// How far the running proxy is.
    pub applied: watch::Receiver<Applied>,
    pub registry: telemetry::Registry,
    pub count_connections: bool,
    pub node_port_addresses: NodePortAddresses,
    /// Pods are known by these interfaces rather than by their range.
    pub pods_by: Option<PodInterface>,
    directory: PathBuf,
    proxy: Option<(CancellationToken, JoinHandle<Result<(), proxy::Error>>)>,
}

/// What a connection met.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Met {
    /// The endpoint's name and the address that it saw.
    Answer(String, IpAddr),
    Refused,
    Nothing,
}

impl Met {
    pub fn name(&self) -> &str {
        match self {
            Met::Answer(name, _) => name,
            Met::Refused => "refused",
            Met::Nothing => "nothing",
        }
    }
}

pub const NODE: &str = "192.0.2.11";
pub const OUTSIDE: &str = "192.0.2.101";

pub fn pod_address(n: usize) -> IpAddr {
    format!("10.244.1.{}", n + 10).parse().unwrap()
}

impl Lab {
    /// Pods `p1` to `p3` answer on TCP and UDP port 8080 with their name and the peer that they see.
    pub async fn new() -> Self {
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("proxy-lab-{}-{number}", std::process::id()));
        let make = |name: &str| NetNs::create(directory.join(name)).unwrap();
        let (node, outside) = (make("node"), make("outside"));
        let links = Links::open(&node).unwrap();
        for key in ["net.ipv4.ip_forward", "net.ipv4.conf.all.accept_local"] {
            node.set_sysctl(key, "1").unwrap();
        }
        // A refusal over UDP is an ICMP message, and a burst of questions is no reason to hold some back.
        node.set_sysctl("net.ipv4.icmp_ratelimit", "0").unwrap();
        for (key, value) in [("net.ipv4.icmp_msgs_per_sec", "1000000"), ("net.ipv4.icmp_msgs_burst", "100000")] {
            // Older kernels keep these for the whole machine, out of a namespace's reach.
            let _ = node.set_sysctl(key, value);
        }
        join(&links, "uplink", &outside, NODE, OUTSIDE).await;
        let mut pods = Vec::new();
        for n in 1..=3 {
            let pod = make(&format!("p{n}"));
            plug(&links, n, &pod).await;
            echo(&pod, &format!("p{n}"));
            pods.push(pod);
        }
        let (applied, registry) = (watch::channel(Applied::default()).1, telemetry::Registry::default());
        let lab = Lab {
            api: Api::new(),
            node,
            pods,
            outside,
            applied,
            registry,
            count_connections: false,
            node_port_addresses: NodePortAddresses::Primary,
            pods_by: None,
            directory,
            proxy: None,
        };
        lab.api.apply(&json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"},
            "status": {"addresses": [{"type": "InternalIP", "address": NODE}]},
        }));
        lab
    }

    pub async fn start(&mut self) {
        let mut config = Config::new("node1", self.node.clone());
        config.pods_by.clone_from(&self.pods_by);
        config.node_port_addresses.clone_from(&self.node_port_addresses);
        if self.count_connections {
            config.count_connections = true;
            config.metrics = Some(SocketAddr::from(([127, 0, 0, 1], 10249)));
        }
        if self.pods_by.is_none() {
            config.cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
        }
        config.service_cidrs = vec!["10.96.0.0/16".parse().unwrap()];
        config.registry = telemetry::Registry::default();
        (self.applied, self.registry) = (config.applied.subscribe(), config.registry.clone());
        let end = CancellationToken::new();
        let running = tokio::spawn(proxy::run(config, self.api.client(), end.clone()));
        self.proxy = Some((end, running));
    }

    pub async fn stop(&mut self) {
        if let Some((end, running)) = self.proxy.take() {
            end.cancel();
            running.await.unwrap().unwrap();
        }
    }

    /// A Service `name` on port 80 with affinity or not, and a slice with these pods ready.
    pub fn service(&self, name: &str, spec: Value, pods: &[usize]) {
        let mut spec = spec;
        spec["ports"] = json!([
            {"name": "t", "port": 80, "protocol": "TCP", "nodePort": spec["np"]},
            {"name": "u", "port": 80, "protocol": "UDP", "nodePort": spec["np"]},
        ]);
        spec.as_object_mut().unwrap().remove("np");
        self.api.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}));
        self.slice(name, pods);
    }

    /// Gives the revision.
    pub fn slice(&self, service: &str, pods: &[usize]) -> u64 {
        let endpoints: Vec<Value> = pods
            .iter()
            .map(|n| json!({"addresses": [pod_address(*n)], "conditions": {"ready": true}, "nodeName": "node1"}))
            .collect();
        self.api.put(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
            "metadata": {"name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "t", "port": 8080, "protocol": "TCP"}, {"name": "u", "port": 8080, "protocol": "UDP"}],
        }))
    }

    /// Waits until the kernel has that revision of the slices.
    pub async fn until_applied(&mut self, revision: u64) {
        let applied = self.applied.wait_for(|applied| applied.slices >= revision);
        tokio::time::timeout(PATIENCE, applied).await.unwrap().unwrap();
    }

    /// Waits until the node's table has all these in its listing of elements, which is when the proxy has taken a change in.
    pub async fn until(&self, what: &str, done: impl Fn(&nft::Table) -> bool) {
        let mut kernel = NfTables::open(&self.node).unwrap();
        let began = std::time::Instant::now();
        loop {
            if kernel.dump(&table_id()).unwrap().table.is_some_and(|table| done(&table)) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "waited for {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The ruleset's number: how many commits there were.
    pub fn generation(&self) -> u32 {
        NfTables::open(&self.node).unwrap().generation().unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for netns in self.pods.iter().chain([&self.node, &self.outside]) {
            let _ = netns.delete();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// How many elements a set has.
pub fn count(table: &nft::Table, set: &str) -> usize {
    table.sets.get(set).map_or(0, |set| set.elements.len())
}

async fn join(links: &Links, name: &str, other: &NetNs, here: &str, there: &str) {
    let link = links.add_veth(name, "eth0", other).await.unwrap();
    links.add_address(link.index, format!("{here}/24").parse().unwrap()).await.unwrap();
    links.set_up(link.index).await.unwrap();
    let inside = Links::open(other).unwrap();
    let peer = inside.link("eth0").await.unwrap();
    inside.add_address(peer.index, format!("{there}/24").parse().unwrap()).await.unwrap();
    inside.set_up(peer.index).await.unwrap();
    inside.add_route(&Route::gateway("0.0.0.0/0".parse().unwrap(), here.parse().unwrap())).await.unwrap();
    links.add_route(&Route::gateway("0.0.0.0/0".parse().unwrap(), there.parse().unwrap())).await.unwrap();
}

async fn plug(links: &Links, n: usize, pod: &NetNs) {
    let link = links.add_veth(&format!("pod{n}"), "eth0", pod).await.unwrap();
    links.add_address(link.index, "10.244.1.1/32".parse().unwrap()).await.unwrap();
    links.set_up(link.index).await.unwrap();
    let address = format!("{}/32", pod_address(n));
    links.add_route(&Route::link(address.parse().unwrap(), link.index)).await.unwrap();
    let inside = Links::open(pod).unwrap();
    let eth0 = inside.link("eth0").await.unwrap().index;
    inside.add_address(eth0, address.parse().unwrap()).await.unwrap();
    inside.set_up(eth0).await.unwrap();
    inside.add_route(&Route::onlink("0.0.0.0/0".parse().unwrap(), "10.244.1.1".parse().unwrap(), eth0)).await.unwrap();
}

/// Threads that live as long as the test's process: a listener in a namespace has no owner that could end it.
fn echo(pod: &NetNs, name: &str) {
    let (tcp, udp) =
        pod.run(|| (TcpListener::bind("0.0.0.0:8080").unwrap(), UdpSocket::bind("0.0.0.0:8080").unwrap())).unwrap();
    let answer = name.to_owned();
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let (mut stream, answer) = (stream.unwrap(), answer.clone());
            std::thread::spawn(move || {
                let peer = stream.peer_addr().unwrap().ip();
                let mut byte = [0];
                while stream.read(&mut byte).is_ok_and(|n| n > 0) {
                    if stream.write_all(format!("{answer} {peer}\n").as_bytes()).is_err() {
                        break;
                    }
                }
            });
        }
    });
    let answer = name.to_owned();
    std::thread::spawn(move || {
        let mut byte = [0; 16];
        while let Ok((_, peer)) = udp.recv_from(&mut byte) {
            let _ = udp.send_to(format!("{answer} {}\n", peer.ip()).as_bytes(), peer);
        }
    });
}

/// Asks on an open connection.
pub fn ask(stream: &mut TcpStream) -> Met {
    let mut answer = [0; 64];
    match stream.write_all(b"?").and_then(|()| stream.read(&mut answer)) {
        Ok(n) if n > 0 => parse(&answer[..n]),
        Ok(_) | Err(_) => Met::Nothing,
    }
}

pub fn open(from: &NetNs, to: &str) -> Option<TcpStream> {
    let to: SocketAddr = to.parse().unwrap();
    let stream = from.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Some(stream)
}

pub fn tcp(from: &NetNs, to: &str) -> Met {
    tcp_within(from, to, PATIENCE)
}

/// As [`tcp`]; a short patience is for those who expect no answer at all.
pub fn tcp_within(from: &NetNs, to: &str, patience: Duration) -> Met {
    let to: SocketAddr = to.parse().unwrap();
    match from.run(|| TcpStream::connect_timeout(&to, patience)).unwrap() {
        Ok(mut stream) => {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            ask(&mut stream)
        }
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Met::Refused,
        Err(_) => Met::Nothing,
    }
}

pub fn udp_socket(from: &NetNs, to: &str) -> UdpSocket {
    let socket = from.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket
}

/// Asks up to three times: a packet that is on its way while its flow is forgotten is lost.
pub fn ask_udp(socket: &UdpSocket) -> Met {
    let mut answer = [0; 64];
    for _ in 0..3 {
        match socket.send(b"?").and_then(|_| socket.recv(&mut answer)) {
            Ok(n) => return parse(&answer[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Met::Refused,
            Err(_) => {}
        }
    }
    Met::Nothing
}

fn parse(answer: &[u8]) -> Met {
    let text = std::str::from_utf8(answer).unwrap();
    let (name, peer) = text.trim().split_once(' ').unwrap();
    Met::Answer(name.into(), peer.parse().unwrap())
}

/// The names that `n` connections reached.
pub fn names(n: usize, mut connect: impl FnMut() -> Met) -> BTreeSet<String> {
    (0..n).map(|_| connect().name().to_owned()).collect()
}
