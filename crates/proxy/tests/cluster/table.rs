//! `tests/data/table.txt` as scenarios: each case once for each family, with a probe for each row and protocol.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::data::{Expect, Probe, Scenario, host_address};

/// One case as it is written.
#[derive(Debug, Default)]
struct Case<'a> {
    name: &'a str,
    families: Vec<&'a str>,
    spec: Vec<(&'a str, &'a str)>,
    endpoints: Vec<&'a str>,
    rows: Vec<&'a str>,
}

/// All cases; `protocols` gives those that are asked in a family.
pub fn table(protocols: fn(v6: bool) -> &'static [&'static str]) -> Vec<Scenario> {
    let mut cases: Vec<Case<'_>> = Vec::new();
    for line in include_str!("../data/table.txt").lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        match (words.next(), cases.last_mut()) {
            (None, _) => {}
            (Some("case"), _) => {
                let name = words.next().unwrap();
                cases.push(Case { name, families: words.collect(), ..Case::default() });
            }
            (Some("spec"), Some(case)) => case.spec = words.map(|word| word.split_once('=').unwrap()).collect(),
            (Some("endpoints"), Some(case)) => case.endpoints = words.collect(),
            (Some(_), Some(case)) => case.rows.push(line),
            (Some(_), None) => panic!("a row before the first case: {line}"),
        }
    }
    let numbered = (1..).zip(&cases);
    numbered.flat_map(|(n, case)| case.families.iter().map(move |f| scenario(case, n, *f == "6", protocols))).collect()
}

fn scenario(case: &Case<'_>, n: usize, v6: bool, protocols: fn(bool) -> &'static [&'static str]) -> Scenario {
    let name = format!("{}-v{}", case.name, if v6 { 6 } else { 4 });
    let mut probes = Vec::new();
    for (row, protocol) in case.rows.iter().flat_map(|row| protocols(v6).iter().map(move |p| (row, p))) {
        probes.push(probe(row, n, v6, protocol));
    }
    let objects = vec![service(case, &name, n, v6), slice(case, &name, v6)];
    Scenario { name, objects, probes, steps: Vec::new(), unstable: Value::Null }
}

/// The addresses of a case's Service: cluster IP, balancer's, external.
fn addresses(n: usize, v6: bool) -> [String; 3] {
    if v6 {
        [format!("fd00:10:96::5{n:03}"), format!("2001:db8:0:2::5{n:03}"), format!("2001:db8:0:3::5{n:03}")]
    } else {
        [format!("10.96.50.{n}"), format!("198.51.100.{}", n + 100), format!("203.0.113.{}", n + 100)]
    }
}

fn node_port(n: usize, v6: bool) -> usize {
    31_000 + n * 2 + usize::from(v6)
}

fn service(case: &Case<'_>, name: &str, n: usize, v6: bool) -> Value {
    let [vip, balancer, external] = addresses(n, v6);
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 80, "targetPort": 8080, "protocol": protocol});
    let mut ports = [port("t", "TCP"), port("u", "UDP")];
    let mut spec = json!({"type": "ClusterIP", "clusterIP": vip, "clusterIPs": [vip]});
    let mut opens = true;
    for (field, value) in &case.spec {
        match *field {
            "external" => spec["externalIPs"] = json!([external]),
            "ranges" => spec["loadBalancerSourceRanges"] = value.split(',').collect(),
            "allocateLoadBalancerNodePorts" => {
                opens = *value == "true";
                spec[*field] = opens.into();
            }
            _ => spec[*field] = (*value).into(),
        }
    }
    if spec["type"] != "ClusterIP" && opens {
        ports.iter_mut().for_each(|port| port["nodePort"] = node_port(n, v6).into());
    }
    spec["ports"] = ports.into_iter().collect();
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    if service["spec"]["type"] == "LoadBalancer" {
        service["status"] = json!({"loadBalancer": {"ingress": [{"ip": balancer}]}});
    }
    service
}

fn slice(case: &Case<'_>, name: &str, v6: bool) -> Value {
    let endpoints: Vec<Value> = case
        .endpoints
        .iter()
        .map(|endpoint| {
            let (pod, marks) = endpoint.split_at(2);
            let node = if matches!(pod, "p4" | "p5") { "node2" } else { "node1" };
            let (draining, not_ready) = (marks.contains('!'), marks.contains('?'));
            let hint = marks
                .chars()
                .find(char::is_ascii_lowercase)
                .map(|zone| json!({"forZones": [{"name": format!("zone-{zone}")}]}));
            json!({"addresses": [host_address(pod, v6)], "nodeName": node, "hints": hint, "conditions": {
            "ready": !draining && !not_ready, "serving": !not_ready, "terminating": draining}})
        })
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": if v6 { "IPv6" } else { "IPv4" },
        "metadata": {"name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}}, "endpoints": endpoints,
        "ports": [{"name": "t", "port": 8080, "protocol": "TCP"}, {"name": "u", "port": 8080, "protocol": "UDP"}]})
}

fn probe(row: &str, n: usize, v6: bool, protocol: &str) -> Probe {
    let words: Vec<&str> = row.split_whitespace().collect();
    let [from, to, rest @ ..] = &words[..] else { panic!("{row}") };
    let [vip, balancer, external] = addresses(n, v6);
    let (address, port) = match *to {
        "vip" => (vip, 80),
        "lb" => (balancer, 80),
        "ext" => (external, 80),
        node => (host_address(node.strip_prefix("np@").unwrap(), v6).to_string(), node_port(n, v6)),
    };
    let to = if v6 { format!("[{address}]:{port}/{protocol}") } else { format!("{address}:{port}/{protocol}") };
    Probe {
        from: (*from).into(),
        to,
        // Enough to meet each of several endpoints.
        n: Some(if matches!(rest, [_, _, _, ..]) && rest[0] != "one" { 25 } else { 8 }),
        sources: 0,
        source_port: None,
        hold: None,
        check: None,
        remember: None,
        same_as: None,
        http: None,
        quirk: None,
        expect: expect(rest),
    }
}

fn expect(words: &[&str]) -> Expect {
    let mut expect = Expect {
        verdict: "ok".into(),
        reached: None,
        reached_count: None,
        source: Vec::new(),
        status: None,
        endpoint_weight: None,
        json: None,
    };
    match words {
        [verdict @ ("refused" | "timeout")] => expect.verdict = (*verdict).into(),
        ["one", "of", .., source] => {
            expect.reached_count = Some(1);
            expect.source = source.split(',').map(str::to_owned).collect();
        }
        [pods @ .., source] => {
            expect.reached = Some(pods.iter().map(|pod| format!("{pod}:8080")).collect());
            expect.source = source.split(',').map(str::to_owned).collect();
        }
        [] => panic!("a row without an end"),
    }
    expect
}
