//! Objects that no API server should hold: the rest of the rules is right, and the culprit is named in an Event and counted.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod lab;

use std::time::Duration;

use lab::{Lab, count, names, pod_address, tcp};
use serde_json::{Value, json};

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn slice(name: &str, service: &str, endpoints: Value) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}}, "ports": [{"name": "", "port": 8080}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_left_out_named_and_counted() {
    let mut lab = Lab::new().await;
    let wrong = json!([
        {"addresses": ["not an address"]}, {"addresses": ["fd00::1"]}, {"addresses": ["127.0.0.1"]}, {"addresses": []},
        {"addresses": [pod_address(2)]}, {"addresses": [pod_address(2)]}, {"addresses": ["224.0.0.1"]},
    ]);
    lab.api.apply(&slice("web-1", "web", wrong));
    lab.api.apply(&slice("other-1", "other", json!([{"addresses": [pod_address(3)]}])));
    // They clash in the external IP and in a port; the cluster IPs are their own.
    let ports = json!([{"port": 80}, {"name": "again", "port": 80}, {"name": "none", "port": 0}, {"name": "what", "port": 81, "protocol": "ICMP"}]);
    lab.api.apply(&service(
        "web",
        json!({"clusterIP": "10.96.0.10", "externalIPs": ["203.0.113.1", "x"], "ports": ports}),
    ));
    lab.api.apply(&service(
        "other",
        json!({"clusterIP": "10.96.0.20", "externalIPs": ["203.0.113.1"], "ports": [{"port": 80}]}),
    ));
    lab.start().await;
    lab.until("both Services", |table| count(table, "cluster-ips4") == 2 && count(table, "frontends4") == 3).await;
    assert_eq!(names(20, || tcp(&lab.pods[0], "10.96.0.10:80")), ["p2".to_owned()].into());
    assert_eq!(names(20, || tcp(&lab.pods[0], "10.96.0.20:80")), ["p3".to_owned()].into());
    let told = |part: &str| lab.api.events().iter().any(|(reason, note)| reason == "LeftOut" && note.contains(part));
    for part in ["not an address", "fd00::1", "127.0.0.1", "10.244.1.12", "224.0.0.1", "203.0.113.1", "`x`", "ICMP"] {
        for _ in 0..1000 {
            if told(part) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(told(part), "no event says {part}: {:#?}", lab.api.events());
    }
    let metrics = lab.registry.scrape().body;
    let line = metrics.lines().find(|line| line.starts_with("portolan_proxy_faults_total ")).unwrap();
    let faults: f64 = line.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(faults >= 9.0, "{line}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_endpoints_of_one_service_do_not_disturb_another() {
    let mut lab = Lab::new().await;
    lab.service("web", json!({"clusterIP": "10.96.0.10", "np": null}), &[2]);
    lab.api.apply(&service("many", json!({"clusterIP": "10.96.0.30", "ports": [{"port": 80}]})));
    for n in 0..10u8 {
        let addresses =
            (0..10_000u32).map(|at| json!({"addresses": [format!("10.{}.{}.{}", 128 + n, at / 250, at % 250 + 1)]}));
        lab.api.apply(&slice(&format!("many-{n}"), "many", addresses.collect()));
    }
    lab.start().await;
    let revision = lab.slice("web", &[2, 3]);
    let applied = lab.applied.wait_for(|applied| applied.slices >= revision);
    tokio::time::timeout(Duration::from_secs(60), applied).await.unwrap().unwrap();
    let netns = lab.node.clone();
    let table = netlink::NfTables::open(&netns).unwrap().dump(&proxy::table_id()).unwrap().table.unwrap();
    let endpoints: usize =
        table.sets.iter().filter(|(name, _)| name.starts_with("endpoints4")).map(|(_, set)| set.elements.len()).sum();
    assert_eq!(endpoints, 100_000 + 4);
    assert_eq!(names(30, || tcp(&lab.pods[0], "10.96.0.10:80")), ["p2".to_owned(), "p3".to_owned()].into());
    lab.stop().await;
}
