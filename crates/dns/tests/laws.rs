//! Laws of the zone over random Services, and the DNS specification's own examples. Without sockets: a message in, a message out.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::IpAddr;

use dns::answer_message;
use dns::wire::name::{address_label, parse, to_text};
use dns::zone::{ObjectKey, ServiceRecords, ServiceSpec, SliceRecords, Zone};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use proptest::prelude::*;
use serde_json::{Value, json};

fn zone() -> Zone {
    let mut zone = Zone::new(parse("cluster.local").unwrap(), 5, 1);
    for namespace in ["default", "a", "b"] {
        zone.set_namespace(namespace, true);
    }
    zone.set_complete();
    zone
}

fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { namespace: namespace.to_owned(), name: name.to_owned() }
}

fn put(zone: &mut Zone, namespace: &str, name: &str, spec: Value, slices: &[Value]) {
    let service = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
    let slices: Vec<SliceRecords> =
        slices.iter().map(|slice| SliceRecords::read(&serde_json::from_value(slice.clone()).unwrap())).collect();
    zone.set_service(&key(namespace, name), ServiceRecords::read(&ServiceSpec::read(&service), &slices));
}

fn ask(zone: &Zone, name: &str, kind: RecordType) -> Message {
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let mut edns = hickory_proto::op::Edns::new();
    edns.set_max_payload(65_000);
    question.set_edns(edns);
    let mut out = Vec::new();
    assert!(answer_message(zone, &question.to_vec().unwrap(), &mut out), "{name}");
    Message::from_vec(&out).unwrap()
}

fn data(message: &Message) -> BTreeSet<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// The reverse name of an address, written independently of the crate.
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(v6) => {
            let digits: Vec<char> =
                v6.octets().iter().flat_map(|byte| format!("{byte:02x}").chars().collect::<Vec<_>>()).collect();
            digits.iter().rev().map(|digit| format!("{digit}.")).collect::<String>() + "ip6.arpa."
        }
    }
}

fn slice(addresses: &[(&str, Option<&str>)], ports: &[(&str, u16)]) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|(address, host)| json!({"addresses": [address], "hostname": host, "conditions": {"ready": true}}))
        .collect();
    let ports: Vec<Value> =
        ports.iter().map(|(name, port)| json!({"name": name, "port": port, "protocol": "TCP"})).collect();
    json!({"metadata": {}, "addressType": "IPv4", "endpoints": endpoints, "ports": ports})
}

/// Each example of sections 2.2 to 2.5 of the Kubernetes DNS specification 1.1.0.
#[test]
fn the_specifications_own_examples() {
    let mut zone = zone();
    let https = json!([{"name": "https", "port": 443, "protocol": "TCP"}]);
    put(&mut zone, "default", "kubernetes", json!({"clusterIPs": ["10.3.0.1", "2001:db8::1"], "ports": https}), &[]);
    let pets = [("10.3.0.100", Some("my-pet")), ("10.3.0.101", Some("my-pet-2")), ("10.3.0.102", None)];
    put(&mut zone, "default", "headless", json!({"clusterIP": "None"}), &[slice(&pets, &[("https", 443)])]);
    put(&mut zone, "default", "foo", json!({"type": "ExternalName", "externalName": "www.example.com"}), &[]);
    let generated = format!("{}.headless.default.svc.cluster.local.", address_label("10.3.0.102".parse().unwrap()));
    let own = "kubernetes.default.svc.cluster.local.";
    let pet = "my-pet.headless.default.svc.cluster.local.";
    let second = "my-pet-2.headless.default.svc.cluster.local.";
    for (name, kind, expected) in [
        ("dns-version.cluster.local.", RecordType::TXT, vec!["1.1.0".to_owned()]),
        (own, RecordType::A, vec!["10.3.0.1".into()]),
        (own, RecordType::AAAA, vec!["2001:db8::1".into()]),
        ("_https._tcp.kubernetes.default.svc.cluster.local.", RecordType::SRV, vec![format!("0 100 443 {own}")]),
        ("1.0.3.10.in-addr.arpa.", RecordType::PTR, vec![own.into()]),
        (&reverse("2001:db8::1".parse().unwrap()), RecordType::PTR, vec![own.into()]),
        (
            "headless.default.svc.cluster.local.",
            RecordType::A,
            vec!["10.3.0.100".into(), "10.3.0.101".into(), "10.3.0.102".into()],
        ),
        (pet, RecordType::A, vec!["10.3.0.100".into()]),
        (
            "_https._tcp.headless.default.svc.cluster.local.",
            RecordType::SRV,
            vec![format!("0 33 443 {pet}"), format!("0 33 443 {second}"), format!("0 33 443 {generated}")],
        ),
        ("100.0.3.10.in-addr.arpa.", RecordType::PTR, vec![pet.into()]),
        ("foo.default.svc.cluster.local.", RecordType::CNAME, vec!["www.example.com.".into()]),
    ] {
        let answer = ask(&zone, name, kind);
        assert_eq!(data(&answer), expected.into_iter().collect(), "{name} {kind}");
        assert!(answer.metadata.authoritative && answer.answers.iter().all(|record| record.name.to_string() == name));
    }
}

#[derive(Debug, Clone)]
struct Service {
    namespace: &'static str,
    name: &'static str,
    spec: Value,
    endpoints: Vec<(IpAddr, Option<&'static str>, bool)>,
}

fn services() -> impl Strategy<Value = Vec<Service>> {
    let names = prop::sample::select(vec!["web", "db", "x", "svc", "tcp", "10-0-0-1"]);
    let namespaces = prop::sample::select(vec!["default", "a", "b"]);
    let address = prop_oneof![
        (0u8..8).prop_map(|n| IpAddr::from([10, 0, 0, n])),
        (0u16..8).prop_map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n]))
    ];
    let host = prop::option::of(prop::sample::select(vec!["pet-0", "pet-1", "10-0-0-3"]));
    let endpoints = prop::collection::vec((address.clone(), host, any::<bool>()), 0..6);
    let spec = prop_oneof![
        prop::collection::vec(address, 1..3)
            .prop_map(|ips| json!({"clusterIPs": ips, "ports": [{"name": "http", "port": 80}]})),
        any::<bool>().prop_map(|all| json!({"clusterIP": "None", "publishNotReadyAddresses": all})),
        prop::sample::select(vec!["web.a.svc.cluster.local", "db.b.svc.cluster.local", "x.a.svc.cluster.local"])
            .prop_map(|target| json!({"type": "ExternalName", "externalName": target})),
        Just(json!({"clusterIP": ""})),
    ];
    let service = (namespaces, names, spec, endpoints).prop_map(|(namespace, name, spec, endpoints)| Service {
        namespace,
        name,
        spec,
        endpoints,
    });
    prop::collection::vec(service, 0..12)
}

fn apply(zone: &mut Zone, service: &Service) {
    let endpoints: Vec<Value> = service
        .endpoints
        .iter()
        .map(|(address, host, ready)| json!({"addresses": [address], "hostname": host, "conditions": {"ready": ready}}))
        .collect();
    let slice = json!({"metadata": {}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]});
    put(zone, service.namespace, service.name, service.spec.clone(), &[slice]);
}

/// Every name and reverse name that such Services can have, and some that none has.
fn names() -> Vec<String> {
    let mut names = Vec::new();
    for namespace in ["default", "a", "b", "nosuch"] {
        for service in ["web", "db", "x", "svc", "tcp", "10-0-0-1", "nosuch"] {
            let name = format!("{service}.{namespace}.svc.cluster.local.");
            let below = [
                "pet-0",
                "pet-1",
                "10-0-0-3",
                "10-0-0-1",
                "fd00--3",
                "0--3",
                "_tcp",
                "_http._tcp",
                "_http._udp",
                "_udp",
            ];
            names.extend(below.iter().map(|label| format!("{label}.{name}")));
            names.push(name);
        }
        names.push(format!("{namespace}.svc.cluster.local."));
    }
    names.extend((0..8).map(|n| reverse(IpAddr::from([10, 0, 0, n]))));
    names.extend((0..8).map(|n| reverse(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n]))));
    names
}

/// Everything that the zone says, but for the serial.
fn told(zone: &Zone) -> Vec<String> {
    let mut all = Vec::new();
    for name in names() {
        for kind in
            [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::PTR, RecordType::CNAME, RecordType::TXT]
        {
            let mut question = Message::new(7, hickory_proto::op::MessageType::Query, hickory_proto::op::OpCode::Query);
            question.add_query(Query::query(Name::from_ascii(&name).unwrap(), kind));
            let mut out = Vec::new();
            if answer_message(zone, &question.to_vec().unwrap(), &mut out) {
                let answer = Message::from_vec(&out).unwrap();
                all.push(format!("{name} {kind} {:?} {:?}", answer.metadata.response_code, data(&answer)));
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// The zone after changes is the zone made from the end state alone.
    #[test]
    fn changes_leave_nothing_behind(changes in services(), removed in prop::collection::vec(any::<bool>(), 12)) {
        let mut changed = zone();
        let mut end = std::collections::BTreeMap::new();
        for (service, removed) in changes.iter().zip(&removed) {
            apply(&mut changed, service);
            end.insert((service.namespace, service.name), service);
            if *removed {
                changed.set_service(&key(service.namespace, service.name), None);
                end.remove(&(service.namespace, service.name));
            }
        }
        let mut fresh = zone();
        end.values().for_each(|service| apply(&mut fresh, service));
        prop_assert_eq!(told(&changed), told(&fresh));
    }

    /// Whether a name exists does not depend on the type (RFC 8020); what is denied has an SOA; reverse names lead back.
    #[test]
    fn names_exist_for_every_type_or_none(all in services()) {
        let mut zone = zone();
        all.iter().for_each(|service| apply(&mut zone, service));
        for name in names() {
            let mut codes = BTreeSet::new();
            if name.ends_with("arpa.") {
                continue;
            }
            for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT, RecordType::MX, RecordType::PTR] {
                let answer = ask(&zone, &name, kind);
                // The end of an alias may be missing where the alias is not.
                if answer.answers.iter().all(|record| record.record_type() != RecordType::CNAME) {
                    codes.insert(format!("{:?}", answer.metadata.response_code));
                    prop_assert_eq!(answer.answers.is_empty(), !answer.authorities.is_empty(), "{} {}", name, kind);
                }
            }
            prop_assert!(codes.len() <= 1, "{}: {:?}", name, codes);
        }
        for n in 0..8 {
            for address in [IpAddr::from([10, 0, 0, n]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)])] {
                let mut question = Message::query();
                question.add_query(Query::query(Name::from_ascii(reverse(address)).unwrap(), RecordType::PTR));
                let mut out = Vec::new();
                if answer_message(&zone, &question.to_vec().unwrap(), &mut out) {
                    let kind = if address.is_ipv4() { RecordType::A } else { RecordType::AAAA };
                    let answer = Message::from_vec(&out).unwrap();
                    prop_assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
                    for target in data(&answer) {
                        prop_assert!(data(&ask(&zone, &target, kind)).contains(&address.to_string()), "{} {}", address, target);
                    }
                }
            }
        }
        prop_assert_eq!(to_text(zone.domain()), "cluster.local.");
    }

    /// SRV records name ports that exist on addresses that exist.
    #[test]
    fn ports_lead_to_addresses(all in services()) {
        let mut zone = zone();
        all.iter().for_each(|service| apply(&mut zone, service));
        for name in names().iter().filter(|name| name.starts_with("_http._tcp.")) {
            let answer = ask(&zone, name, RecordType::SRV);
            for record in &answer.answers {
                let text = record.data.to_string();
                let target = text.rsplit(' ').next().unwrap();
                let addresses = [RecordType::A, RecordType::AAAA].map(|kind| ask(&zone, target, kind).answers.len());
                prop_assert!(addresses.iter().sum::<usize>() > 0, "{} {}", name, text);
            }
            let distinct: BTreeSet<String> = answer.answers.iter().map(|record| record.to_string()).collect();
            prop_assert_eq!(distinct.len(), answer.answers.len(), "a record twice");
        }
    }
}
