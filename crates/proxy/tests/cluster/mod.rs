//! The recordings' two nodes without a kernel: models, planners, tables and the flows that are open.
#![allow(clippy::unwrap_used)]

// The runner with real packets reads more of it.
#[allow(dead_code)]
pub mod data;
pub mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use data::{Change, Expect, Objects, Probe, Scenario, host_address};
use nft::kernel::Memory;
use nft::trace::{Fate, Packet, Translation, World, hook};
use nft::{AddrType, Hook, Ruleset, diff};
use proxy::{Delta, Planner, Ranges, SetId, Stale, stale, table_id};
use service_model::{Backend, Family, FrontendKey, Model, NodeView, ObjectKey, Protocol};

const PODS: [(&str, &str); 5] = [("p1", "node1"), ("p2", "node1"), ("p3", "node1"), ("p4", "node2"), ("p5", "node2")];
const ECHO: [u16; 3] = [8080, 8081, 9090];

/// What became of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Reached { endpoint: String, source: String },
    Refused,
    Timeout,
}

/// An open connection: who, where to, and the translation that its node remembers.
#[derive(Debug, Clone)]
struct Held {
    from: String,
    to: (SocketAddr, u8),
    node: &'static str,
    backend: Option<Backend>,
    outcome: Outcome,
}

struct Node {
    model: Model,
    planner: Planner,
    kernel: Memory,
    running: bool,
}

/// The cluster of one scenario.
pub struct Cluster {
    objects: Objects,
    nodes: BTreeMap<&'static str, Node>,
    held: BTreeMap<String, Held>,
    remembered: BTreeMap<String, BTreeMap<IpAddr, Outcome>>,
    dice: Dice,
}

fn ranges() -> Ranges {
    Ranges {
        cluster: ["10.244.0.0/16", "fd00:10:244::/56"].map(|r| r.parse().unwrap()).into(),
        service: ["10.96.0.0/16", "fd00:10:96::/112"].map(|r| r.parse().unwrap()).into(),
        ..Ranges::default()
    }
}

fn within(address: IpAddr, ranges: [&str; 2]) -> bool {
    ranges.iter().any(|range| range.parse::<ipnet::IpNet>().unwrap().contains(&address))
}

impl Cluster {
    pub fn new(scenario: &Scenario) -> Self {
        let objects = Objects::new();
        let nodes = ["node1", "node2"].map(|name| {
            let model = Model::new(NodeView::parse(&objects.node(name)));
            let planner = Planner::new(&ranges());
            let mut kernel = Memory::new();
            let table = Ruleset { tables: [(table_id(), planner.table())].into() };
            kernel.commit(&diff(&Ruleset::default(), &table)).unwrap();
            (name, Node { model, planner, kernel, running: true })
        });
        let mut cluster = Cluster {
            objects,
            nodes: nodes.into(),
            held: BTreeMap::new(),
            remembered: BTreeMap::new(),
            dice: Dice { seed: 1 },
        };
        let objects: Vec<Change> = scenario.objects.iter().map(|o| Change::Apply { apply: o.clone() }).collect();
        cluster.change(&objects);
        cluster
    }

    /// Takes changes in, one transaction for all of them.
    pub fn change(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Apply { apply } => self.objects.apply(apply),
                Change::Delete { delete } => self.objects.delete(delete),
                // Every affinity timeout in the recordings with a wait for expiry is shorter than the longest wait.
                Change::Wait { wait } if *wait > 2.5 => self.forget_affinity(),
                Change::Wait { .. } => {}
                Change::Proxy { proxy, nodes } => {
                    for name in nodes {
                        let node = self.nodes.get_mut(name.as_str()).unwrap();
                        node.running = proxy == "start";
                        if node.running {
                            node.restart(name, &self.objects);
                        }
                    }
                }
            }
        }
        let mut forgotten = Vec::new();
        for (name, node) in &mut self.nodes {
            if node.running {
                forgotten.extend(node.follow(name, &self.objects).into_iter().map(|stale| (*name, stale)));
            }
        }
        for held in self.held.values_mut() {
            if forgotten.iter().any(|(node, stale)| *node == held.node && concerns(stale, held)) {
                held.backend = None;
            }
        }
        // A proxy that starts compares flows with what is there.
        for held in self.held.values_mut().filter(|held| held.to.1 == 17) {
            let node = &self.nodes[held.node];
            let alive =
                node.model.views().flat_map(|v| &v.ports).filter(|p| p.frontends.iter().any(|f| at(f.at, held.to)));
            if node.running && held.backend.is_some_and(|b| !alive.flat_map(|p| p.alive.iter()).any(|a| *a == b)) {
                held.backend = None;
            }
        }
    }

    fn forget_affinity(&mut self) {
        for node in self.nodes.values_mut() {
            let table = node.kernel.ruleset_mut().tables.get_mut(&table_id()).unwrap();
            for family in Family::ALL {
                table.sets.get_mut(SetId::Affinity.name(family)).unwrap().elements.clear();
            }
        }
    }

    /// Plays a probe; `Err` says what is not as recorded.
    pub fn probe(&mut self, probe: &Probe) -> Result<(), String> {
        if let Some(name) = &probe.check {
            return self.check(name, &probe.expect);
        }
        if probe.http.is_some() {
            return self.http(probe);
        }
        let (to, protocol) = probe.target();
        let mut outcomes = Vec::new();
        let mut same = true;
        let sources = sources(probe, to.is_ipv6());
        for n in 0..probe.n.unwrap_or(40).max(1) {
            let source = sources[n as usize % sources.len()];
            let (outcome, node, backend) = self.connect(&probe.from, source, to, protocol);
            if let Some(name) = &probe.remember {
                self.remembered.entry(name.clone()).or_default().insert(source, outcome.clone());
            }
            if let Some(name) = &probe.same_as {
                same &= self.remembered[name].get(&source) == Some(&outcome);
            }
            if let Some(name) = &probe.hold {
                let held =
                    Held { from: probe.from.clone(), to: (to, protocol), node, backend, outcome: outcome.clone() };
                self.held.insert(name.clone(), held);
                outcomes = vec![outcome];
                break;
            }
            outcomes.push(outcome);
        }
        if !same {
            return Err("clients did not reach what they reached before".into());
        }
        compare(&probe.expect, &outcomes)
    }

    fn check(&mut self, name: &str, expect: &Expect) -> Result<(), String> {
        let held = self.held[name].clone();
        if held.backend.is_some() || held.to.1 == 6 {
            return compare(expect, &[held.outcome]);
        }
        let source = host_address(&held.from, held.to.0.is_ipv6());
        let (outcome, node, backend) = self.connect(&held.from.clone(), source, held.to.0, held.to.1);
        self.held.insert(name.into(), Held { outcome: outcome.clone(), node, backend, ..held });
        compare(expect, &[outcome])
    }

    fn http(&mut self, probe: &Probe) -> Result<(), String> {
        let (address, port): (IpAddr, u16) = {
            let at: SocketAddr = probe.to.parse().unwrap();
            (at.ip(), at.port())
        };
        let node = self.nodes.values().find(|node| node.model.node().addresses.contains(&address));
        let Some(node) = node.filter(|_| port != 10256) else { return Ok(()) };
        let found = node.model.views().find_map(|view| {
            let check = view.health_check.as_ref().filter(|check| check.port.get() == port)?;
            check.families.contains(&Family::of(address)).then_some((&view.key, check.local_endpoints))
        });
        let expect = &probe.expect;
        match (expect.verdict.as_str(), found) {
            ("refused", None) => Ok(()),
            (_, Some((key, local))) => {
                let json = expect.json.as_ref().unwrap();
                let same = expect.status == Some(if local > 0 { 200 } else { 503 })
                    && expect.endpoint_weight == Some(local.to_string())
                    && json["localEndpoints"] == local
                    && json["service"]["name"] == *key.name;
                if same { Ok(()) } else { Err(format!("{key}: {local} local endpoints")) }
            }
            (verdict, None) => Err(format!("no listener, expected {verdict}")),
        }
    }

    /// One connection, through the nodes on its way.
    fn connect(
        &mut self,
        from: &str,
        source: IpAddr,
        to: SocketAddr,
        protocol: u8,
    ) -> (Outcome, &'static str, Option<Backend>) {
        let home = match from {
            "node1" => Some("node1"),
            "node2" => Some("node2"),
            pod => PODS.iter().find(|(name, _)| *name == pod).map(|(_, node)| *node),
        };
        let mut packet = Packet::new(protocol, (source, 40_000), (to.ip(), to.port()));
        let mut client = String::from("client");
        let mut entrance = if from.starts_with("node") { Hook::Output } else { Hook::Prerouting };
        let mut at = home.unwrap_or_else(|| entry(to.ip()));
        let mut translated: Option<(&'static str, Backend)> = None;
        for _ in 0..4 {
            let (fate, nat) = self.hook(at, entrance, &mut packet);
            match fate {
                Fate::Dropped => return (Outcome::Timeout, at, None),
                Fate::Rejected(_) => return (Outcome::Refused, at, None),
                Fate::Accepted => {}
            }
            if !nat.is_empty() && translated.is_none() {
                translated = Some((at, Backend { address: packet.destination, port: packet.destination_port }));
            }
            let (first, backend) = translated.map_or((at, None), |(node, backend)| (node, Some(backend)));
            if host_address(at, packet.destination.is_ipv6()) == packet.destination
                || foreign_local(at, packet.destination)
            {
                return (local(at, &packet, client), first, backend);
            }
            // Leaves the node, or goes to one of its pods: postrouting.
            if self.hook(at, Hook::Postrouting, &mut packet).1.contains(&Translation::Masquerade) {
                packet.source = host_address(at, packet.destination.is_ipv6());
                client = if from == at { "client".into() } else { at.into() };
            }
            if let Some(pod) = pod_at(packet.destination, Some(at)) {
                // An address that meets itself unmasqueraded is dropped by the pod's own kernel.
                let lost = packet.source == packet.destination;
                let outcome = if lost { Outcome::Timeout } else { reached(pod, &packet, client) };
                return (outcome, first, backend);
            }
            let next = if pod_at(packet.destination, Some("node2")).is_some()
                || host_address("node2", packet.destination.is_ipv6()) == packet.destination
            {
                Some("node2")
            } else if pod_at(packet.destination, Some("node1")).is_some()
                || foreign_local("node1", packet.destination)
                || host_address("node1", packet.destination.is_ipv6()) == packet.destination
            {
                Some("node1")
            } else {
                None
            };
            let Some(next) = next else { return (router(&packet, client), first, backend) };
            (at, entrance) = (next, Hook::Prerouting);
            // Another machine sees a new flow.
            let ends = [(packet.source, packet.source_port), (packet.destination, packet.destination_port)];
            packet = Packet::new(protocol, ends[0], ends[1]);
        }
        panic!("a packet went round: {packet:?}");
    }

    fn hook(&mut self, node: &str, at: Hook, packet: &mut Packet) -> (Fate, Vec<Translation>) {
        let ruleset = self.nodes.get_mut(node).unwrap().kernel.ruleset_mut();
        let outcome = hook(ruleset, at, packet, &mut self.dice);
        (outcome.fate, outcome.nat)
    }
}

/// Chance, the same in every run.
struct Dice {
    seed: u32,
}

impl World for Dice {
    fn number(&mut self, modulus: u32) -> u32 {
        self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.seed >> 8) % modulus
    }

    fn address_type(&self, address: IpAddr) -> AddrType {
        panic!("no rule of ours asks what kind of address {address} is")
    }
}

impl Node {
    fn observe(&mut self, name: &str, objects: &Objects) {
        let mut view = NodeView::parse(&objects.node(name));
        if view.addresses.is_empty() {
            view.addresses = self.model.node().addresses.clone();
            view.node_port_addresses = self.model.node().node_port_addresses.clone();
        }
        self.model.set_node(view);
        let gone = |key: &ObjectKey, present: &BTreeMap<String, serde_json::Value>| !present.contains_key(&*key.name);
        let services: Vec<ObjectKey> =
            self.model.service_keys().filter(|k| gone(k, &objects.services)).cloned().collect();
        let slices: Vec<ObjectKey> = self.model.slice_keys().filter(|k| gone(k, &objects.slices)).cloned().collect();
        services.iter().for_each(|key| self.model.remove_service(key));
        slices.iter().for_each(|key| self.model.remove_slice(key));
        objects.services.keys().for_each(|name| self.model.apply_service(&objects.service(name)));
        objects.slices.keys().for_each(|name| self.model.apply_slice(&objects.slice(name)));
    }

    fn follow(&mut self, name: &str, objects: &Objects) -> Vec<Stale> {
        self.observe(name, objects);
        let mut delta = Delta::default();
        let mut forgotten = Vec::new();
        for change in self.model.take_changes() {
            self.planner.apply(&change, &mut delta);
            forgotten.extend(stale(change.old.as_deref(), change.new.as_deref()));
        }
        self.kernel.commit(&delta.batch(&Planner::new(&ranges()).table())).unwrap();
        forgotten
    }

    /// A new process: everything from scratch but the kernel.
    fn restart(&mut self, name: &str, objects: &Objects) {
        self.model = Model::new(self.model.node().clone());
        self.planner = Planner::adopting(&ranges(), &self.kernel.ruleset().tables[&table_id()], &self.model);
        self.observe(name, objects);
        for change in self.model.take_changes() {
            self.planner.apply(&change, &mut Delta::default());
        }
        self.planner.settle();
        let wanted = Ruleset { tables: [(table_id(), self.planner.table())].into() };
        let batch = diff(self.kernel.ruleset(), &wanted);
        self.kernel.commit(&batch).unwrap();
    }
}

fn at(frontend: FrontendKey, to: (SocketAddr, u8)) -> bool {
    frontend.address == to.0.ip() && frontend.port == to.0.port() && frontend.protocol.number() == to.1
}

fn concerns(stale: &Stale, held: &Held) -> bool {
    held.to.1 == Protocol::Udp.number()
        && match stale {
            Stale::Departed { frontend, backend } => at(*frontend, held.to) && held.backend == Some(*backend),
            Stale::Gone { frontend } => at(*frontend, held.to) && held.backend.is_some(),
            Stale::Untranslated { frontend } => at(*frontend, held.to) && held.backend.is_none(),
        }
}

/// The node that a packet from outside enters.
fn entry(to: IpAddr) -> &'static str {
    let second = pod_at(to, Some("node2")).is_some() || host_address("node2", to.is_ipv6()) == to;
    if second { "node2" } else { "node1" }
}

/// Addresses of node1 that its Node object does not list.
fn foreign_local(node: &str, address: IpAddr) -> bool {
    let more = ["192.0.2.13", "2001:db8:0:1::13", "10.244.1.1", "fd00:10:244:1::1"];
    address.is_loopback() || (node == "node1" && more.iter().any(|a| a.parse::<IpAddr>().unwrap() == address))
}

fn pod_at(address: IpAddr, node: Option<&str>) -> Option<&'static str> {
    PODS.into_iter()
        .filter(|(_, home)| node.is_none_or(|node| node == *home))
        .map(|(pod, _)| pod)
        .find(|pod| host_address(pod, address.is_ipv6()) == address || block(pod, address.is_ipv6()).contains(&address))
}

/// The further addresses that a pod owns.
fn block(pod: &str, v6: bool) -> ipnet::IpNet {
    let (v4, six) = match pod {
        "p1" => ("10.244.1.64/26", "fd00:10:244:1:1::/80"),
        "p2" => ("10.244.1.128/26", "fd00:10:244:1:2::/80"),
        "p3" => ("10.244.1.192/26", "fd00:10:244:1:3::/80"),
        "p4" => ("10.244.2.64/26", "fd00:10:244:2:1::/80"),
        _ => ("10.244.2.128/26", "fd00:10:244:2:2::/80"),
    };
    if v6 { six.parse().unwrap() } else { v4.parse().unwrap() }
}

fn sources(probe: &Probe, v6: bool) -> Vec<IpAddr> {
    if probe.sources == 0 {
        return vec![host_address(&probe.from, v6)];
    }
    let network = block(&probe.from, v6).network();
    (1..=probe.sources)
        .map(|n| match network {
            IpAddr::V4(v4) => IpAddr::from((v4.to_bits() + n).to_be_bytes()),
            IpAddr::V6(v6) => IpAddr::from((v6.to_bits() + u128::from(n)).to_be_bytes()),
        })
        .collect()
}

fn reached(host: &str, packet: &Packet, source: String) -> Outcome {
    let open =
        if packet.protocol == 132 { packet.destination_port == 8080 } else { ECHO.contains(&packet.destination_port) };
    if open {
        Outcome::Reached { endpoint: format!("{host}:{}", packet.destination_port), source }
    } else {
        Outcome::Refused
    }
}

fn local(node: &str, packet: &Packet, source: String) -> Outcome {
    reached(node, packet, source)
}

/// The default route: drops the service ranges and answers at the balancer's.
fn router(packet: &Packet, source: String) -> Outcome {
    let balancer = within(packet.destination, ["198.51.100.0/24", "2001:db8:0:2::/64"])
        || within(packet.destination, ["203.0.113.0/24", "2001:db8:0:3::/64"]);
    let open = matches!((packet.protocol, packet.destination_port), (6, 80 | 443) | (17, 53 | 80));
    match (balancer, open) {
        (true, true) => Outcome::Reached { endpoint: format!("lb:{}", packet.destination_port), source },
        (true, false) => Outcome::Refused,
        (false, _) => Outcome::Timeout,
    }
}

fn compare(expect: &Expect, outcomes: &[Outcome]) -> Result<(), String> {
    let (mut endpoints, mut sources) = (BTreeSet::new(), BTreeSet::new());
    let mut verdicts = BTreeSet::new();
    for outcome in outcomes {
        match outcome {
            Outcome::Reached { endpoint, source } => {
                endpoints.insert(endpoint.clone());
                sources.insert(source.clone());
                verdicts.insert("ok");
            }
            Outcome::Refused => drop(verdicts.insert("refused")),
            Outcome::Timeout => drop(verdicts.insert("timeout")),
        }
    }
    let got = format!("{verdicts:?} {endpoints:?} from {sources:?}");
    let wanted = if expect.verdict == "alive" { "ok" } else { &expect.verdict };
    let verdict = verdicts.len() == 1 && verdicts.contains(wanted);
    let reached =
        expect.reached.as_ref().is_none_or(|wanted| wanted.iter().cloned().collect::<BTreeSet<_>>() == endpoints);
    let count = expect.reached_count.is_none_or(|wanted| wanted == endpoints.len());
    let source = wanted != "ok" || expect.source.iter().cloned().collect::<BTreeSet<_>>() == sources;
    if verdict && reached && count && source { Ok(()) } else { Err(format!("{got}, expected {expect:?}")) }
}
