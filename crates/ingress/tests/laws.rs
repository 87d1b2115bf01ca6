//! Laws of the routing table: what is rebuilt step by step equals what is built at once, whatever the order of changes.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use ingress::routes::{ClassRule, Model, Table};
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use proptest::prelude::*;
use serde_json::{Value, json};
use service_model::ObjectKey;

const HOSTS: [&str; 4] = ["", "a.example", "b.example", "*.example"];
const PATHS: [&str; 4] = ["/", "/x", "/x/y", "/x/"];

/// One change of one object; the number names the object.
#[derive(Debug, Clone)]
enum Step {
    Ingress {
        name: u8,
        class: Option<bool>,
        host: usize,
        path: usize,
        exact: bool,
        service: u8,
        default: bool,
        auth: bool,
    },
    NoIngress(u8),
    Service {
        name: u8,
        port: u16,
    },
    NoService(u8),
    Slice {
        name: u8,
        service: u8,
        address: u8,
        ready: bool,
    },
    NoSlice(u8),
    Class {
        ours: bool,
        default: bool,
    },
    NoClass,
    Secret {
        usable: bool,
    },
    NoSecret,
    Commit,
}

fn step() -> impl Strategy<Value = Step> {
    let ingress =
        (0..5_u8, any::<Option<bool>>(), 0..4_usize, 0..4_usize, any::<bool>(), 0..3_u8, any::<bool>(), any::<bool>());
    prop_oneof![
        8 => ingress.prop_map(|(name, class, host, path, exact, service, default, auth)| {
            Step::Ingress { name, class, host, path, exact, service, default, auth }
        }),
        2 => (0..5_u8).prop_map(Step::NoIngress),
        3 => (0..3_u8, 80..82_u16).prop_map(|(name, port)| Step::Service { name, port }),
        1 => (0..3_u8).prop_map(Step::NoService),
        4 => (0..4_u8, 0..3_u8, 1..5_u8, any::<bool>()).prop_map(|(name, service, address, ready)| {
            Step::Slice { name, service, address, ready }
        }),
        1 => (0..4_u8).prop_map(Step::NoSlice),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(ours, default)| Step::Class { ours, default }),
        1 => Just(Step::NoClass),
        2 => any::<bool>().prop_map(|usable| Step::Secret { usable }),
        1 => Just(Step::NoSecret),
        4 => Just(Step::Commit),
    ]
}

/// What is there now, by kind and name.
#[derive(Default)]
struct World(BTreeMap<(&'static str, String), Value>);

fn meta(name: &str) -> Value {
    // The older, the smaller the name: an order that is not that of application.
    json!({"namespace": "default", "name": name, "creationTimestamp": "2026-01-01T00:00:00Z"})
}

fn object(step: &Step) -> Option<(&'static str, String, Option<Value>)> {
    Some(match step {
        Step::Ingress { name, class, host, path, exact, service, default, auth } => {
            let backend = json!({"service": {"name": format!("s{service}"), "port": {"number": 80}}});
            let mut metadata = meta(&format!("i{name}"));
            if *auth {
                metadata["annotations"] = json!({"nginx.ingress.kubernetes.io/auth-type": "basic", "nginx.ingress.kubernetes.io/auth-secret": "users"});
            }
            let kind = if *exact { "Exact" } else { "Prefix" };
            let mut spec =
                json!({"rules": [{"http": {"paths": [{"path": PATHS[*path], "pathType": kind, "backend": backend}]}}]});
            if !HOSTS[*host].is_empty() {
                spec["rules"][0]["host"] = json!(HOSTS[*host]);
            }
            if let Some(class) = class {
                spec["ingressClassName"] = json!(if *class { "portolan" } else { "other" });
            }
            if *default {
                spec["defaultBackend"] = backend;
            }
            ("Ingress", format!("i{name}"), Some(json!({"metadata": metadata, "spec": spec})))
        }
        Step::NoIngress(name) => ("Ingress", format!("i{name}"), None),
        Step::Service { name, port } => {
            let spec = json!({"ports": [{"name": "http", "port": port}]});
            ("Service", format!("s{name}"), Some(json!({"metadata": meta(&format!("s{name}")), "spec": spec})))
        }
        Step::NoService(name) => ("Service", format!("s{name}"), None),
        Step::Slice { name, service, address, ready } => {
            let mut metadata = meta(&format!("e{name}"));
            metadata["labels"] = json!({"kubernetes.io/service-name": format!("s{service}")});
            let endpoint = json!({"addresses": [format!("10.0.0.{address}")], "conditions": {"ready": ready}});
            let slice = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": [endpoint], "ports": [{"name": "http", "port": 8080}]});
            ("Slice", format!("e{name}"), Some(slice))
        }
        Step::NoSlice(name) => ("Slice", format!("e{name}"), None),
        Step::Class { ours, default } => {
            let annotations = json!({"ingressclass.kubernetes.io/is-default-class": default.to_string()});
            let controller = if *ours { "us" } else { "them" };
            let metadata = json!({"name": "portolan", "annotations": annotations});
            ("Class", "portolan".into(), Some(json!({"metadata": metadata, "spec": {"controller": controller}})))
        }
        Step::NoClass => ("Class", "portolan".into(), None),
        Step::Secret { usable } => {
            // `ann:{SHA}…` or nothing that can be used.
            let auth = if *usable { "YW5uOntTSEF9NWVuNkc2TWV6UnJvVDNYS3FrZFBPbVkvQmZRPQ==" } else { "YW5uOnBsYWlu" };
            ("Secret", "users".into(), Some(json!({"metadata": meta("users"), "data": {"auth": auth}})))
        }
        Step::NoSecret => ("Secret", "users".into(), None),
        Step::Commit => return None,
    })
}

fn apply(model: &mut Model, kind: &str, name: &str, object: Option<&Value>) {
    let key = ObjectKey::new("default", name);
    let read = object.cloned();
    match (kind, read) {
        ("Ingress", Some(value)) => model.apply_ingress(&Arc::new(serde_json::from_value::<Ingress>(value).unwrap())),
        ("Ingress", None) => model.remove_ingress(&key),
        ("Service", Some(value)) => model.apply_service(&serde_json::from_value::<Service>(value).unwrap()),
        ("Service", None) => model.remove_service(&key),
        ("Slice", Some(value)) => model.apply_slice(&serde_json::from_value::<EndpointSlice>(value).unwrap()),
        ("Slice", None) => model.remove_slice(&key),
        ("Class", Some(value)) => drop(model.apply_class(&serde_json::from_value::<IngressClass>(value).unwrap())),
        ("Class", None) => drop(model.remove_class(name)),
        ("Secret", Some(value)) => model.apply_secret(&Arc::new(serde_json::from_value::<Secret>(value).unwrap())),
        ("Secret", None) => model.remove_secret(&key),
        other => panic!("{other:?}"),
    }
}

fn model() -> Model {
    Model::new(ClassRule { controller: "us".into(), name: "portolan".into() }, true, "cluster.local")
}

/// Everything that a client could see of a table.
fn shown(table: &Table) -> Vec<String> {
    let mut all = Vec::new();
    for host in ["a.example", "b.example", "c.example", "x.y.example", "other"] {
        for path in ["/", "/x", "/x/", "/x/y", "/x/y/z", "/xx", "/q"] {
            let told = table.find(host, path).map(|route| {
                let endpoints: Vec<_> = route.backend.set().endpoints.iter().map(|e| e.address.to_string()).collect();
                format!("{} {} {} {:?} {:?}", route.ingress, route.path, route.backend.service, endpoints, route.gate)
            });
            all.push(format!("{host}{path}: {told:?}"));
        }
    }
    for name in ["s0", "s1", "s2"] {
        let route = table.find_name(&format!("{name}.default.localhost"));
        all.push(format!(
            "{name}: {:?}",
            route.map(|route| (route.backend.port.clone(), route.backend.set().endpoints.len()))
        ));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn step_by_step_equals_at_once(steps in proptest::collection::vec(step(), 1..60)) {
        let (mut stepwise, mut world, mut table) = (model(), World::default(), Table::default());
        for step in steps.iter().chain([&Step::Commit]) {
            match object(step) {
                Some((kind, name, object)) => {
                    apply(&mut stepwise, kind, &name, object.as_ref());
                    match object {
                        Some(object) => drop(world.0.insert((kind, name), object)),
                        None => drop(world.0.remove(&(kind, name))),
                    }
                }
                None => {
                    if let Some(next) = stepwise.commit().table {
                        table = next;
                    }
                    let mut at_once = model();
                    for ((kind, name), object) in &world.0 {
                        apply(&mut at_once, kind, name, Some(object));
                    }
                    let expected = at_once.commit().table.unwrap_or_default();
                    prop_assert_eq!(shown(&table), shown(&expected));
                    // A second commit has nothing to say.
                    let again = stepwise.commit();
                    prop_assert!(again.table.is_none() && again.certificates.is_none() && again.faults.is_empty());
                }
            }
        }
    }
}
