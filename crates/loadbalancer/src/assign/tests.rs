//! The rules of assignment, each as a table of Services and what they get; and the laws that hold for any of them.

use k8s_openapi::api::core::v1::Service;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn service(name: &str, created: i64, more: Value) -> Service {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z")},
        "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"], "ports": [{"port": 80}], "selector": {"app": name}}
    });
    merge(&mut object, more);
    serde_json::from_value(object).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn asks(annotation: &str, value: &str) -> Value {
    json!({"metadata": {"annotations": {annotation: value}}})
}

fn has(addresses: &[&str]) -> Value {
    json!({"status": {"loadBalancer": {"ingress": addresses.iter().map(|a| json!({"ip": a})).collect::<Vec<_>>()}}})
}

fn pools(texts: &[&str]) -> Pools {
    let (pools, faults) = Pools::join(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>(), Vec::new());
    assert_eq!(faults, []);
    pools
}

fn decide(given: &[&str], services: &[Service], reserved: &[&str]) -> BTreeMap<Key, Outcome> {
    let requests: Vec<Request> = services.iter().map(Request::read).collect();
    let reserved = reserved.iter().map(|address| address.parse().unwrap()).collect();
    let (pools, before) = (pools(given), BTreeMap::new());
    let ground = Ground { pools: &pools, reserved: &reserved, before: &before, config_map: "kube-system/pools" };
    assign(ground, &requests)
}

/// Shows `name address,address` or `name Reason`, a line a Service.
fn check(given: &[&str], services: &[Service], expected: &[&str]) {
    let shown: Vec<String> = decide(given, services, &[])
        .iter()
        .map(|(key, outcome)| match outcome {
            Outcome::Assigned { addresses, .. } => {
                let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                format!("{} {}", key.name, all.join(","))
            }
            Outcome::Pending(why) => format!("{} {}", key.name, why.reason()),
        })
        .collect();
    assert_eq!(shown, expected);
}

#[test]
fn the_oldest_is_served_first_and_a_full_pool_is_said() {
    let services = [service("b", 1, json!({})), service("c", 2, json!({})), service("a", 3, json!({}))];
    check(&["10.0.0.1-10.0.0.2"], &services, &["a PoolExhausted", "b 10.0.0.1", "c 10.0.0.2"]);
    check(&[], &services[..1], &["b NoPool"]);
    let told = decide(&["10.0.0.1-10.0.0.2"], &services, &[]);
    let Outcome::Pending(why) = &told[&Key::new("default", "a")] else { panic!("{told:?}") };
    let expected = "all 2 IPv4 addresses of `default` (10.0.0.1-10.0.0.2) are in use; hint: enlarge the pool, delete a \
                    Service of type LoadBalancer, or share an address with metallb.io/allow-shared-ip";
    assert_eq!(why.to_string(), expected);
}

#[test]
fn what_a_service_has_it_keeps_unless_it_asks_for_another() {
    let old = service("old", 1, json!({}));
    let kept = service("kept", 2, has(&["10.0.0.1"]));
    check(&["10.0.0.1-10.0.0.9"], &[old.clone(), kept.clone()], &["kept 10.0.0.1", "old 10.0.0.2"]);
    let mut moved = asks("metallb.io/loadBalancerIPs", "10.0.0.7");
    merge(&mut moved, has(&["10.0.0.1"]));
    check(&["10.0.0.1-10.0.0.9"], &[old, service("kept", 2, moved)], &["kept 10.0.0.7", "old 10.0.0.1"]);
    // An address of no pool any more is given up.
    check(&["10.9.0.1-10.9.0.9"], &[kept], &["kept 10.9.0.1"]);
}

#[test]
fn a_cleared_status_takes_nothing_away() {
    let service = service("web", 1, json!({}));
    let (pools, reserved) = (pools(&["10.0.0.1-10.0.0.9"]), BTreeSet::new());
    let before = [(Key::of(&service), vec!["10.0.0.5".parse().unwrap()])].into();
    let ground = Ground { pools: &pools, reserved: &reserved, before: &before, config_map: "" };
    let outcome = assign(ground, &[Request::read(&service)]);
    assert_eq!(outcome[&Key::of(&service)].addresses(), ["10.0.0.5".parse::<IpAddr>().unwrap()]);
}

#[test]
fn an_address_may_be_asked_for_by_field_and_annotation() {
    let field = |ip: &str| json!({"spec": {"loadBalancerIP": ip}});
    let given = &["10.0.0.1-10.0.0.9", "manual=10.1.0.1-10.1.0.9"];
    // Those that ask come before those that take what is left.
    let first = service("any", 1, json!({}));
    check(given, &[first, service("x", 2, field("10.0.0.1"))], &["any 10.0.0.2", "x 10.0.0.1"]);
    check(given, &[service("x", 1, asks("portolan.dev/load-balancer-ips", "10.1.0.3"))], &["x 10.1.0.3"]);
    check(given, &[service("x", 1, field("10.2.0.1"))], &["x AddressNotInPool"]);
    check(given, &[service("x", 1, asks("metallb.io/loadBalancerIPs", "ten"))], &["x InvalidRequest"]);
    check(given, &[service("x", 1, asks("metallb.io/loadBalancerIPs", "10.0.0.1,10.0.0.2"))], &["x InvalidRequest"]);
    check(given, &[service("x", 1, asks("metallb.io/loadBalancerIPs", "fd00::1"))], &["x AddressFamilyMismatch"]);
    let mut both = field("10.0.0.1");
    merge(&mut both, asks("metallb.io/loadBalancerIPs", "10.0.0.2"));
    check(given, &[service("x", 1, both)], &["x InvalidRequest"]);
    let rivals = [service("x", 1, field("10.0.0.4")), service("y", 2, field("10.0.0.4"))];
    check(given, &rivals, &["x 10.0.0.4", "y AddressInUse"]);
}

#[test]
fn a_pool_may_be_asked_for() {
    let given = &["a=10.0.0.1", "b=10.1.0.1-10.1.0.2"];
    check(given, &[service("x", 1, asks("metallb.io/address-pool", "b"))], &["x 10.1.0.1"]);
    check(given, &[service("x", 1, asks("metallb.io/address-pool", "c"))], &["x PoolNotFound"]);
    let mut clash = asks("metallb.io/address-pool", "b");
    merge(&mut clash, json!({"spec": {"loadBalancerIP": "10.0.0.1"}}));
    check(given, &[service("x", 1, clash)], &["x AddressNotInPool"]);
    // One that is full gives way to the next.
    let services = [service("x", 1, json!({})), service("y", 2, json!({}))];
    check(given, &services, &["x 10.0.0.1", "y 10.1.0.1"]);
    let annotations = [("portolan.dev/load-balancer-pool".to_owned(), "b".to_owned())].into();
    assert_eq!(crate::request::namespace_pool(&annotations).as_deref(), Some("b"));
}

#[test]
fn services_share_by_key_with_different_ports_and_the_same_pods_if_local() {
    let shares = |name: &str, created, key: &str, port: u16, more: Value| {
        let mut spec = json!({"spec": {"ports": [{"port": port}]}});
        merge(&mut spec, asks("metallb.io/allow-shared-ip", key));
        merge(&mut spec, more);
        service(name, created, spec)
    };
    let none = || json!({});
    let given = &["10.0.0.1-10.0.0.3"];
    check(given, &[shares("a", 1, "k", 80, none()), shares("b", 2, "k", 81, none())], &["a 10.0.0.1", "b 10.0.0.1"]);
    check(given, &[shares("a", 1, "k", 80, none()), shares("b", 2, "k", 80, none())], &["a 10.0.0.1", "b 10.0.0.2"]);
    check(given, &[shares("a", 1, "k", 80, none()), shares("b", 2, "l", 81, none())], &["a 10.0.0.1", "b 10.0.0.2"]);
    let udp = json!({"spec": {"ports": [{"port": 80, "protocol": "UDP"}]}});
    check(given, &[shares("a", 1, "k", 80, none()), shares("b", 2, "k", 80, udp)], &["a 10.0.0.1", "b 10.0.0.1"]);
    let local = |app: &str| json!({"spec": {"externalTrafficPolicy": "Local", "selector": {"app": app}}});
    check(
        given,
        &[shares("a", 1, "k", 80, local("x")), shares("b", 2, "k", 81, local("x"))],
        &["a 10.0.0.1", "b 10.0.0.1"],
    );
    check(
        given,
        &[shares("a", 1, "k", 80, local("x")), shares("b", 2, "k", 81, local("y"))],
        &["a 10.0.0.1", "b 10.0.0.2"],
    );
    check(
        given,
        &[shares("a", 1, "k", 80, local("x")), shares("b", 2, "k", 81, none())],
        &["a 10.0.0.1", "b 10.0.0.2"],
    );
    // Both had the same address and one has changed its port since: the younger moves.
    let clash = [shares("a", 1, "k", 80, has(&["10.0.0.1"])), shares("b", 2, "k", 80, has(&["10.0.0.1"]))];
    check(given, &clash, &["a 10.0.0.1", "b 10.0.0.2"]);
}

#[test]
fn dual_stack_takes_one_of_each_family() {
    let dual = |policy: &str| json!({"spec": {"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": policy}});
    let given = &["10.0.0.1,fd00::1-fd00::9"];
    check(given, &[service("x", 1, dual("RequireDualStack"))], &["x fd00::1,10.0.0.1"]);
    let second = [service("w", 1, json!({})), service("x", 2, dual("RequireDualStack"))];
    check(given, &second, &["w 10.0.0.1", "x PoolExhausted"]);
    let second = [service("w", 1, json!({})), service("x", 2, dual("PreferDualStack"))];
    check(given, &second, &["w 10.0.0.1", "x fd00::1"]);
    check(&["10.0.0.1"], &[service("x", 1, dual("RequireDualStack"))], &["x NoAddressFamily"]);
    // The family that it has stays when the other is added or taken away.
    let mut grown = dual("PreferDualStack");
    merge(&mut grown, has(&["fd00::5"]));
    check(given, &[service("x", 1, grown)], &["x fd00::5,10.0.0.1"]);
    check(&["10.0.0.1-10.0.0.9"], &[service("x", 1, has(&["fd00::5", "10.0.0.4"]))], &["x 10.0.0.4"]);
    check(&["10.0.0.1-10.0.0.9,fd00::5"], &[service("x", 1, has(&["fd00::5", "10.0.0.4"]))], &["x 10.0.0.4"]);
    let mut half = dual("RequireDualStack");
    merge(&mut half, asks("metallb.io/loadBalancerIPs", "fd00::7"));
    check(given, &[service("x", 1, half)], &["x fd00::7,10.0.0.1"]);
}

#[test]
fn reserved_addresses_are_passed_over() {
    let outcome = decide(&["10.0.0.1-10.0.0.3"], &[service("x", 1, json!({}))], &["10.0.0.1"]);
    assert_eq!(outcome[&Key::new("default", "x")].addresses(), ["10.0.0.2".parse::<IpAddr>().unwrap()]);
    let asks = service("x", 1, json!({"spec": {"loadBalancerIP": "10.0.0.1"}}));
    let outcome = decide(&["10.0.0.1-10.0.0.3"], &[asks], &["10.0.0.1"]);
    assert!(matches!(&outcome[&Key::new("default", "x")], Outcome::Pending(why) if why.reason() == "AddressReserved"));
}

#[test]
fn only_our_class_is_ours() {
    let class = |class: &str| service("x", 1, json!({"spec": {"loadBalancerClass": class}}));
    assert!(crate::request::is_ours(&service("x", 1, json!({})), None));
    assert!(crate::request::is_ours(&class(crate::request::CLASS), None));
    assert!(!crate::request::is_ours(&class("example.com/other"), None));
    assert!(!crate::request::is_ours(&service("x", 1, json!({})), Some("example.com/other")));
    assert!(crate::request::is_ours(&class("example.com/other"), Some("example.com/other")));
    assert!(!crate::request::is_ours(&service("x", 1, json!({"spec": {"type": "NodePort"}})), None));
}

/// A Service of a small world in which clashes are common.
fn any_service(number: usize) -> impl Strategy<Value = Service> {
    let asked = prop_oneof![4 => Just(None), 1 => (1..7u8).prop_map(Some)];
    let key = prop_oneof![2 => Just(None), 1 => prop_oneof![Just("k"), Just("l")].prop_map(Some)];
    (asked, key, 80..83u16, any::<bool>(), 0..4u8).prop_map(move |(asked, key, port, local, policy)| {
        let policy_name = if local { "Local" } else { "Cluster" };
        let mut more = json!({"spec": {"ports": [{"port": port}], "externalTrafficPolicy": policy_name, "selector": {"app": "x"}}});
        if policy > 1 {
            let dual = if policy == 2 { "RequireDualStack" } else { "PreferDualStack" };
            merge(&mut more, json!({"spec": {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": dual}}));
        }
        if let Some(asked) = asked {
            merge(&mut more, json!({"spec": {"loadBalancerIP": format!("10.0.0.{asked}")}}));
        }
        if let Some(key) = key {
            merge(&mut more, asks("metallb.io/allow-shared-ip", key));
        }
        service(&format!("s{number:02}"), i64::try_from(number).unwrap(), more)
    })
}

fn any_services() -> impl Strategy<Value = Vec<Service>> {
    (0..14usize).prop_flat_map(|count| (0..count).map(any_service).collect::<Vec<_>>())
}

fn settled(services: &[Service], outcome: &BTreeMap<Key, Outcome>) -> Vec<Service> {
    let settle = |service: &Service| {
        let texts: Vec<String> = outcome[&Key::of(service)].addresses().iter().map(ToString::to_string).collect();
        let mut value = serde_json::to_value(service).unwrap();
        merge(&mut value, has(&texts.iter().map(String::as_str).collect::<Vec<_>>()));
        serde_json::from_value(value).unwrap()
    };
    services.iter().map(settle).collect()
}

proptest! {
    /// No address serves the same port twice, none comes from outside the pools, and each family is served once.
    #[test]
    fn nobody_is_given_what_another_has(services in any_services()) {
        let outcome = decide(&["10.0.0.1-10.0.0.5,fd00::1-fd00::3"], &services, &[]);
        let mut taken = BTreeSet::new();
        for service in &services {
            let request = Request::read(service);
            let addresses = outcome[&request.key].addresses();
            let families: BTreeSet<Family> = addresses.iter().map(|a| Family::of(*a)).collect();
            prop_assert_eq!(families.len(), addresses.len());
            for address in addresses {
                prop_assert!(pools(&["10.0.0.1-10.0.0.5,fd00::1-fd00::3"]).holding(*address).is_some());
                for port in &request.ports {
                    prop_assert!(taken.insert((*address, *port)), "{} {:?} twice", address, port);
                }
            }
        }
    }

    /// Writing the outcome into the statuses and deciding again changes nothing.
    #[test]
    fn a_second_decision_changes_nothing(services in any_services()) {
        let first = decide(&["10.0.0.1-10.0.0.5,fd00::1-fd00::3"], &services, &[]);
        let second = decide(&["10.0.0.1-10.0.0.5,fd00::1-fd00::3"], &settled(&services, &first), &[]);
        prop_assert_eq!(first, second);
    }

    /// When one Service goes, every other keeps what it has.
    #[test]
    fn a_deletion_moves_nobody(services in any_services(), gone in any::<prop::sample::Index>()) {
        prop_assume!(!services.is_empty());
        let given = &["10.0.0.1-10.0.0.5,fd00::1-fd00::3"];
        let first = decide(given, &services, &[]);
        let mut left = settled(&services, &first);
        left.remove(gone.index(services.len()));
        for (key, after) in decide(given, &left, &[]) {
            for address in first[&key].addresses() {
                prop_assert!(after.addresses().contains(address), "{key} lost {address}");
            }
        }
    }
}
