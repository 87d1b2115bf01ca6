//! What `portolan render` prints: read by people, taken by nft, and the same as what a kernel would hold.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use proxy::{Question, Ranges, plan, render, trace};
use serde_json::json;
use service_model::{Model, NodeView, Protocol};

#[test]
fn a_service_is_told_above_its_rules() {
    let objects = [
        json!({"kind": "Node", "metadata": {"name": "node1"}, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.11"}]}}),
        json!({"kind": "Service", "metadata": {"name": "web", "resourceVersion": "7"}, "spec": {
            "type": "NodePort", "clusterIP": "10.96.0.10", "externalTrafficPolicy": "Local",
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}}),
        json!({"kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": ["10.244.1.2"], "nodeName": "node2"}]}),
        json!({"kind": "Service", "metadata": {"name": "new"}, "spec": {"ports": [{"port": 80}]}}),
        json!({"kind": "Deployment", "metadata": {"name": "web"}}),
    ];
    let text = render(&objects, Some("node1"), &Ranges::default()).unwrap();
    let expected = "\
# for node1
# Service default/new: no cluster IP yet; an API server would assign one
# Service default/web revision 7
#   10.96.0.10:80/TCP -> 10.244.1.2:8080
#   192.0.2.11:30080/TCP -> dropped: no endpoint is ready on this node; for pods and this node 10.244.1.2:8080
";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("10.96.0.10 . tcp . 80 comment \"default/web:http\" : 0.0.0.1"), "{text}");
    assert!(text.contains("10.96.0.10 . tcp . 80 . 0 : 10.244.1.2 . 8080"), "{text}");
}

#[test]
fn a_missing_node_is_said() {
    let error = render(&[], Some("node9"), &Ranges::default()).unwrap_err();
    assert!(error.to_string().starts_with("no Node `node9` among the objects"), "{error}");
}

fn ask(table: &nft::Table, from: &str, to: &str, protocol: Protocol) -> String {
    let from: IpAddr = from.parse().unwrap();
    trace(table, &Question { from, to: to.parse().unwrap(), protocol, from_node: false })
}

#[test]
fn a_trace_tells_what_decided() {
    let service = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {
        "type": "NodePort", "clusterIP": "10.96.0.10", "ports": [{"port": 80, "nodePort": 30080}]}});
    let slice = json!({"addressType": "IPv4",
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.244.1.2"]}, {"addresses": ["10.244.1.3"]}]});
    let node = NodeView { node_port_addresses: vec!["192.0.2.11".parse().unwrap()], ..NodeView::default() };
    let (service, slice) = (serde_json::from_value(service).unwrap(), serde_json::from_value(slice).unwrap());
    let table = plan(&Model::build([&service], [&slice], node), &Ranges::default());
    let expected = "\
192.0.2.101 -> 192.0.2.11:30080/TCP
  services4: @frontends4 has 192.0.2.11 . tcp . 30080 comment \"default/web\" : 0.0.0.2
  dispatch4: @classes4 has 0.0.0.2 : jump mod4-2
  mod4-2: @endpoints4 has 192.0.2.11 . tcp . 30080 . 0 : 10.244.1.2 . 8080
sent to one of 2 endpoints with equal chance, for example 10.244.1.2:8080
  masquerade4: @masquerade4 has 192.0.2.11 . tcp . 30080 comment \"default/web\"
its source becomes the node's address
";
    assert_eq!(ask(&table, "192.0.2.101", "192.0.2.11:30080", Protocol::Tcp), expected);
    assert!(ask(&table, "10.244.1.9", "10.96.0.10:81", Protocol::Tcp).ends_with("refused\n"));
    assert!(ask(&table, "10.244.1.9", "192.0.2.11:22", Protocol::Tcp).ends_with("no Service: left alone\n"));
}
