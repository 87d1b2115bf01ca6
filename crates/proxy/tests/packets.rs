//! Every recorded scenario with real packets: two nodes with the whole proxy on each, and an API that tells them the objects.
//!
//! The same expectations as `scenarios.rs` plays through the tracer.
#![allow(clippy::unwrap_used)]

#[path = "lab/api.rs"]
#[allow(dead_code)]
mod api;
#[path = "cluster/data.rs"]
#[allow(dead_code)]
mod data;
#[path = "cluster/table.rs"]
mod table;
mod topology;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use data::{Change, Expect, Probe, Scenario, host_address, scenarios};
use topology::sockets::{Met, Open, PATIENCE, SILENCE, http, open};
use topology::{Topology, blocks, sctp};

/// Probes that take longer than this leave a scenario with timeouts of seconds without meaning.
const BUSY: Duration = Duration::from_millis(700);
/// How often a probe that is not yet as recorded is tried again: a proxy forgets UDP flows just after its commit.
const TRIES: u32 = 20;
/// And for how long.
const RETRY: Duration = Duration::from_secs(2);

struct Play {
    topology: Topology,
    held: BTreeMap<String, Open>,
    remembered: BTreeMap<String, BTreeMap<IpAddr, String>>,
    faults: Vec<String>,
}

impl Play {
    async fn scenario(&mut self, scenario: &Scenario) {
        scenario.objects.iter().for_each(|object| self.topology.api.apply(object));
        self.topology.settle().await;
        let mut began = Instant::now();
        self.probes(scenario, &scenario.probes, 0).await;
        for (n, step) in scenario.steps.iter().enumerate() {
            let waits = step.change.iter().any(|change| matches!(change, Change::Wait { .. }));
            if waits && began.elapsed() > BUSY {
                // The machine is too busy for what the scenario says of seconds; the tracer has played it.
                break;
            }
            for change in &step.change {
                self.change(change).await;
            }
            began = Instant::now();
            let stopped = step.change.iter().any(|c| matches!(c, Change::Proxy { proxy, .. } if proxy == "stop"));
            if !stopped || step.change.iter().any(|c| matches!(c, Change::Proxy { proxy, .. } if proxy == "start")) {
                self.topology.settle().await;
            }
            let told = self.faults.len();
            self.probes(scenario, &step.probes, n + 1).await;
            if waits && began.elapsed() > BUSY {
                self.faults.truncate(told);
            }
        }
        self.clear(scenario).await;
    }

    async fn clear(&mut self, scenario: &Scenario) {
        self.held.clear();
        self.remembered.clear();
        let applied = scenario.steps.iter().flat_map(|step| &step.change).filter_map(|change| match change {
            Change::Apply { apply } => Some(apply),
            Change::Delete { .. } | Change::Wait { .. } | Change::Proxy { .. } => None,
        });
        for object in scenario.objects.iter().chain(applied) {
            let (kind, name) = (object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
            if kind == "Node" {
                let nodes = data::Objects::new();
                let mut node = nodes.nodes[name].clone();
                node["kind"] = "Node".into();
                self.topology.api.apply(&node);
            } else {
                self.topology.api.delete(kind, name);
            }
        }
    }

    async fn change(&mut self, change: &Change) {
        match change {
            Change::Apply { apply } => self.topology.api.apply(apply),
            Change::Delete { delete } => {
                let (kind, name) = delete.split_once('/').unwrap();
                self.topology.api.delete(kind, name);
            }
            Change::Wait { wait } => tokio::time::sleep(Duration::from_secs_f64(*wait)).await,
            Change::Proxy { proxy, nodes } => {
                for node in nodes {
                    if proxy == "start" { self.topology.start(node) } else { self.topology.stop(node).await }
                }
            }
        }
    }

    async fn probes(&mut self, scenario: &Scenario, probes: &[Probe], step: usize) {
        for probe in probes.iter().filter(|probe| probe.quirk.is_none()) {
            let mut last = String::new();
            let began = Instant::now();
            for attempt in 0..=TRIES {
                if attempt == TRIES || (attempt > 0 && began.elapsed() > RETRY) {
                    self.faults.push(format!(
                        "{} step {step}: {} -> {}{:?}: {last}",
                        scenario.name, probe.from, probe.to, probe.check
                    ));
                    break;
                }
                match self.probe(probe) {
                    Ok(()) => break,
                    Err(fault) => last = fault,
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        }
    }

    fn probe(&mut self, probe: &Probe) -> Result<(), String> {
        if let Some(name) = &probe.check {
            let met = self.held.get_mut(name).unwrap().ask();
            return compare(probe, &[met]);
        }
        if let Some(path) = &probe.http {
            return self.http(probe, path);
        }
        let (to, protocol) = probe.target();
        let silent = probe.expect.verdict == "timeout";
        let count =
            if matches!(probe.expect.verdict.as_str(), "timeout" | "refused") { 1 } else { probe.n.unwrap_or(40) };
        let mut all = Vec::new();
        for n in 0..count.max(1) {
            let source = source(probe, n, to.is_ipv6());
            let patience = if silent { SILENCE } else { PATIENCE };
            let netns = self.topology.at(&probe.from);
            if protocol == 132 {
                all.push(sctp::handshake(netns, source, probe.source_port.unwrap_or(0), to, patience));
                continue;
            }
            let met = match open(netns, source, probe.source_port.unwrap_or(0), to, protocol == 17, patience) {
                Ok(mut opened) => {
                    let met = opened.ask();
                    if let Some(name) = &probe.hold {
                        self.held.insert(name.clone(), opened);
                        return compare(probe, &[met]);
                    }
                    met
                }
                Err(met) => met,
            };
            if let (Some(source), Met::Answer { endpoint, .. }) = (source.or(Some(to.ip())), &met) {
                if let Some(name) = &probe.remember {
                    self.remembered.entry(name.clone()).or_default().insert(source, endpoint.clone());
                }
                if probe.same_as.as_ref().is_some_and(|name| self.remembered[name].get(&source) != Some(endpoint)) {
                    return Err(format!("{source} reached {endpoint}, not what it reached before"));
                }
            }
            all.push(met);
        }
        compare(probe, &all)
    }

    fn http(&self, probe: &Probe, path: &str) -> Result<(), String> {
        let expect = &probe.expect;
        match http(self.topology.at(&probe.from), probe.to.parse().unwrap(), path) {
            Err(Met::Refused) if expect.verdict == "refused" => Ok(()),
            Err(met) => Err(format!("{met:?}, expected {expect:?}")),
            Ok((status, weight, document)) => {
                let json = expect.json.as_ref().is_none_or(|wanted| alike(wanted, &document));
                let same = expect.status == Some(status) && weight == expect.endpoint_weight && json;
                if same { Ok(()) } else { Err(format!("{status} {weight:?} {document}, expected {expect:?}")) }
            }
        }
    }
}

/// The same fields with the same values, times aside.
fn alike(wanted: &serde_json::Value, got: &serde_json::Value) -> bool {
    match (wanted, got) {
        (serde_json::Value::String(text), serde_json::Value::String(_)) if text == "<time>" => true,
        (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| alike(value, other)))
        }
        (wanted, got) => wanted == got,
    }
}

fn source(probe: &Probe, n: u32, v6: bool) -> Option<IpAddr> {
    if probe.sources == 0 {
        return None;
    }
    let (node, number) = match probe.from.as_str() {
        "p1" => ("node1", 1),
        "p2" => ("node1", 2),
        "p3" => ("node1", 3),
        "p4" => ("node2", 1),
        _ => ("node2", 2),
    };
    let offset = n % probe.sources + 1;
    Some(match blocks(node, number)[usize::from(v6)].network() {
        IpAddr::V4(v4) => IpAddr::from((v4.to_bits() + offset).to_be_bytes()),
        IpAddr::V6(v6) => IpAddr::from((v6.to_bits() + u128::from(offset)).to_be_bytes()),
    })
}

/// Whose address that is: a client's own, or a node's.
fn owner(peer: IpAddr, from: &str) -> String {
    let gateway = |node: &str, number: u8| {
        let gateways = [format!("10.244.{number}.1"), format!("fd00:10:244:{number}::1")];
        let more =
            if node == "node1" { ["192.0.2.13", "2001:db8:0:1::13"] } else { ["192.0.2.12", "2001:db8:0:1::12"] };
        gateways.iter().map(String::as_str).chain(more).any(|text| text.parse() == Ok(peer))
            || peer == host_address(node, peer.is_ipv6())
    };
    let node = if gateway("node1", 1) {
        "node1"
    } else if gateway("node2", 2) {
        "node2"
    } else {
        return "client".into();
    };
    if node == from { "client".into() } else { node.into() }
}

fn compare(probe: &Probe, all: &[Met]) -> Result<(), String> {
    let expect: &Expect = &probe.expect;
    let (mut verdicts, mut endpoints, mut sources) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for met in all {
        match met {
            Met::Answer { endpoint, peer } => {
                verdicts.insert("ok");
                endpoints.insert(endpoint.clone());
                sources.insert(owner(*peer, &probe.from));
            }
            Met::Refused => drop(verdicts.insert("refused")),
            Met::Nothing => drop(verdicts.insert("timeout")),
        }
    }
    let wanted = if expect.verdict == "alive" { "ok" } else { &expect.verdict };
    let verdict = verdicts.len() == 1 && verdicts.contains(wanted);
    let reached =
        expect.reached.as_ref().is_none_or(|wanted| wanted.iter().cloned().collect::<BTreeSet<_>>() == endpoints);
    let count = expect.reached_count.is_none_or(|wanted| wanted == endpoints.len());
    let source = wanted != "ok" || expect.source.iter().cloned().collect::<BTreeSet<_>>() == sources;
    let got = format!("{verdicts:?} {endpoints:?} from {sources:?}");
    if verdict && reached && count && source { Ok(()) } else { Err(format!("{got}, expected {expect:?}")) }
}

async fn play(scenarios: &[Scenario], part: usize, parts: usize) {
    let mut play = Play {
        topology: Topology::new().await,
        held: BTreeMap::new(),
        remembered: BTreeMap::new(),
        faults: Vec::new(),
    };
    for scenario in scenarios.iter().filter(|s| s.unstable.is_null()).skip(part).step_by(parts) {
        play.scenario(scenario).await;
    }
    for node in ["node1", "node2"] {
        play.topology.stop(node).await;
    }
    assert!(play.faults.is_empty(), "{} differences:\n{}", play.faults.len(), play.faults.join("\n"));
}

// In parts, so that test runners can play them side by side.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_end_as_recorded_first_part() {
    play(&scenarios(), 0, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_end_as_recorded_second_part() {
    play(&scenarios(), 1, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_end_as_recorded_third_part() {
    play(&scenarios(), 2, 3).await;
}

/// The tracer asks each row for both protocols in both families; one of each is enough to see that the kernel agrees.
fn table() -> Vec<Scenario> {
    table::table(|v6| if v6 { &["udp"] } else { &["tcp"] })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_end_as_the_table_says_first_part() {
    play(&table(), 0, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_end_as_the_table_says_second_part() {
    play(&table(), 1, 2).await;
}
