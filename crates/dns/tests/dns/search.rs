//! Server-side search against clients that walk their own search list: whatever they are, they end where they would have ended.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use dns::wire::name::parse;
use hickory_proto::op::{Message, ResponseCode};
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use serde_json::json;

use crate::support::outside::Outside;
use crate::support::{PATIENCE, Running, config, data, namespace, query, service, slice, small_api};

const LIST: [&str; 4] = ["shop.svc.cluster.local.", "svc.cluster.local.", "cluster.local.", "lan."];
const NDOTS: usize = 5;
/// The pod's address, in namespace `shop`.
const POD: &str = "127.0.0.5";

fn known_outside() -> Outside {
    let a = |address: &str| json!([["A", 300, address]]);
    let names = json!({
        "www.example.com.": [["A", 300, "198.51.100.1"], ["AAAA", 300, "2001:db8::1"]],
        "example.com.": a("198.51.100.2"),
        "six.example.com.": [["AAAA", 300, "2001:db8::6"]],
        "text.example.com.": [["TXT", 300, "\"only text\""]],
        "alias.example.com.": [["CNAME", 300, "www.example.com."]],
        "broken.example.com.": "SERVFAIL",
        "broken.lan.": "SERVFAIL",
        "printer.lan.": a("198.51.100.3"),
        "six.lan.": [["AAAA", 300, "2001:db8::7"]],
        "text.lan.": [["TXT", 300, "\"only text\""]],
        "shop.": a("198.51.100.4"),
        "web.": a("198.51.100.5"),
    });
    Outside::start(&names, &json!({".": "a. b. 1 1800 900 604800 60"}))
}

fn pod(namespace: &str, name: &str, address: &str, phase: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name},
        "spec": {"containers": [], "dnsPolicy": "ClusterFirst"}, "status": {"phase": phase, "podIPs": [{"ip": address}]}})
}

async fn start(outside: &Outside, search: bool) -> Running {
    let api = small_api();
    api.apply(&namespace("shop"));
    api.apply(&service("shop", "web", json!({"clusterIP": "10.96.0.7"})));
    api.apply(&service("shop", "db", json!({"clusterIP": "None"})));
    api.apply(&slice("shop", "db", &["10.0.0.1"]));
    api.apply(&service("default", "www", json!({"clusterIP": "10.96.0.8"})));
    api.apply(&service("shop", "ext", json!({"type": "ExternalName", "externalName": "www.example.com"})));
    api.apply(&pod("shop", "client", POD, "Running"));
    // An earlier pod of that address is no reason to doubt, two at a time are.
    api.apply(&pod("shop", "done", POD, "Succeeded"));
    api.apply(&pod("shop", "one", "127.0.0.6", "Running"));
    api.apply(&pod("default", "two", "127.0.0.6", "Running"));
    let mut config = config(vec![outside.address]);
    config.search = search.then(|| vec![parse("lan").unwrap()]);
    Running::start(config, api).synced().await
}

fn ask(server: SocketAddr, from: &str, name: &str, kind: &str) -> Message {
    let socket = UdpSocket::bind((from.parse::<IpAddr>().unwrap(), 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = if name.ends_with('.') { name.to_owned() } else { format!("{name}.") };
    socket.send_to(&query(&name, kind).to_vec().unwrap(), server).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

/// How resolvers differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Goes on past names that exist without the type.
    Glibc,
    /// Stops there, and does not search for names with enough dots.
    Musl,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Met {
    Addresses(BTreeSet<String>),
    NoData,
    NoName,
    Fault,
}

fn one(server: SocketAddr, name: &str, types: &[&str]) -> Met {
    let answers: Vec<Message> = types.iter().map(|kind| ask(server, POD, name, kind)).collect();
    let found = answers.iter().flat_map(data).filter(|data| data.parse::<IpAddr>().is_ok()).collect::<BTreeSet<_>>();
    let code = |code| answers.iter().any(|answer| answer.metadata.response_code == code);
    if !found.is_empty() {
        Met::Addresses(found)
    } else if code(ResponseCode::ServFail) {
        Met::Fault
    } else if code(ResponseCode::NXDomain) {
        Met::NoName
    } else {
        Met::NoData
    }
}

/// The walk as res_search(3) of glibc, or `name_from_dns_search` of musl, has it.
fn walk(server: SocketAddr, name: &str, kind: Kind, types: &[&str]) -> Met {
    let many_dots = name.matches('.').count() >= NDOTS;
    let (mut no_data, mut fault) = (false, false);
    let searched = LIST.iter().map(|domain| format!("{name}.{domain}"));
    let mut steps: Vec<String> = if many_dots && kind == Kind::Musl { Vec::new() } else { searched.collect() };
    steps.insert(if many_dots { 0 } else { steps.len() }, name.to_owned());
    for step in steps {
        match (one(server, &step, types), kind) {
            (found @ Met::Addresses(_), _) => return found,
            (met @ (Met::NoData | Met::Fault), Kind::Musl) => return met,
            (Met::NoData, Kind::Glibc) => no_data = true,
            (Met::Fault, Kind::Glibc) => fault = true,
            (Met::NoName, _) => {}
        }
    }
    match (no_data, fault) {
        (true, _) => Met::NoData,
        (false, true) => Met::Fault,
        (false, false) => Met::NoName,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_client_ends_elsewhere_than_by_its_own_walk() {
    let outside = known_outside();
    let (plain, searching) = (start(&outside, false).await, start(&outside, true).await);
    let (slow, fast) = (plain.address, searching.address);
    let words = [
        "web", "db", "ext", "www", "six", "text", "alias", "broken", "printer", "example", "com", "shop", "default",
        "svc", "cluster", "local", "lan", "nosuch", "10-0-0-1",
    ];
    let label = prop::sample::select(words.to_vec());
    let plain_name = prop::collection::vec(label.clone(), 1..=5).prop_map(|labels| labels.join("."));
    let likely = prop::sample::select(vec![
        "www.example.com",
        "six.example.com",
        "text.example.com",
        "broken.example.com",
        "com",
    ]);
    let tail =
        prop::sample::select(vec!["", ".shop", ".shop.svc", ".svc", ".cluster.local", ".svc.cluster.local", ".lan"]);
    let built = (likely, tail).prop_map(|(name, tail)| format!("{name}{tail}"));
    let kinds = prop::sample::select(vec![Kind::Glibc, Kind::Musl]);
    let types = prop::sample::select(vec![vec!["A"], vec!["AAAA"], vec!["A", "AAAA"]]);
    let strategy = (prop_oneof![plain_name, built], kinds, types);
    let checked = tokio::task::spawn_blocking(move || {
        let mut runner = TestRunner::new(Cases { cases: 400, failure_persistence: None, ..Cases::default() });
        runner.run(&strategy, |(name, kind, types)| {
            // What begins like a walk's first question and is meant as it stands cannot be told apart: the documented price.
            prop_assume!(!(name.matches('.').count() >= NDOTS && name.ends_with("shop.svc.cluster.local")));
            let (expected, met) = (walk(slow, &name, kind, &types), walk(fast, &name, kind, &types));
            prop_assert_eq!(expected, met, "{} {:?} {:?}", name, kind, types);
            Ok(())
        })
    });
    checked.await.unwrap().unwrap();
    plain.stop().await;
    searching.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outside_name_costs_one_question() {
    let outside = known_outside();
    let running = start(&outside, true).await;
    let server = running.address;
    tokio::task::spawn_blocking(move || {
        let first = |name: &str, kind| ask(server, POD, &format!("{name}.{}", LIST[0]), kind);
        assert_eq!(data(&first("www.example.com", "A")), ["198.51.100.1", "www.example.com."]);
        assert_eq!(data(&first("www.example.com", "AAAA")), ["2001:db8::1", "www.example.com."]);
        assert_eq!(data(&first("alias.example.com", "A")), ["198.51.100.1", "alias.example.com.", "www.example.com."]);
        // Names of the cluster further down the list, and names that the node's own domain completes.
        assert_eq!(data(&first("www.default", "A")), ["10.96.0.8", "www.default.svc.cluster.local."]);
        assert_eq!(data(&first("printer", "A")), ["198.51.100.3", "printer.lan."]);
        // The letters of the question come back as they were.
        let mixed = first("WwW.Example.com", "A");
        assert_eq!(mixed.answers[0].name.to_string(), "WwW.Example.com.shop.svc.cluster.local.");
        // Denials and doubts are plain.
        assert_eq!(first("no.example.com", "A").metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(first("broken.example.com", "A").metadata.response_code, ResponseCode::NXDomain);
        // Other types, other search domains, unknown clients and shared addresses walk themselves.
        assert_eq!(first("www.example.com", "TXT").metadata.response_code, ResponseCode::NXDomain);
        let second = ask(server, POD, &format!("www.example.com.{}", LIST[1]), "A");
        assert_eq!(second.metadata.response_code, ResponseCode::NXDomain);
        for other in ["127.0.0.1", "127.0.0.6"] {
            let answer = ask(server, other, &format!("www.example.com.{}", LIST[0]), "A");
            assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{other}");
        }
    })
    .await
    .unwrap();
    // A pod that leaves takes its search list with it, and its address may be another's.
    running.api.delete(&pod("shop", "client", POD, "Running"));
    running.api.apply(&pod("default", "next", POD, "Running"));
    let asked = format!("www.example.com.{}", LIST[0]);
    let start = std::time::Instant::now();
    while ask(server, POD, &asked, "A").metadata.response_code != ResponseCode::NXDomain {
        assert!(start.elapsed() < PATIENCE);
    }
    let asked = "www.example.com.default.svc.cluster.local.";
    while data(&ask(server, POD, asked, "A")) != ["198.51.100.1", "www.example.com."] {
        assert!(start.elapsed() < PATIENCE);
    }
    running.stop().await;
}
