//! A Service's row: its addresses and ports.

use serde_json::Value;

use crate::kinds::Column;
use crate::kinds::common::{get, table};

pub const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Type", "How the service is reached"),
    Column::text("Cluster-IP", "Address inside the cluster"),
    Column::text("External-IP", "Addresses or name outside"),
    Column::text("Port(s)", "Ports, their node ports and protocols"),
    Column::AGE,
    Column::wide("Selector", "Labels of the pods behind it"),
];

pub fn cells(service: &Value, now: i64) -> Vec<Value> {
    let ports: Vec<String> = get::list(service, "/spec/ports").iter().map(port).collect();
    vec![
        table::name(service),
        get::text(service, "/spec/type").into(),
        table::or_none(get::text(service, "/spec/clusterIPs/0")),
        external(service).into(),
        table::or_none(&ports.join(",")),
        table::age(service, now),
        table::labels(service.pointer("/spec/selector")),
    ]
}

fn port(port: &Value) -> String {
    let (number, protocol) = (get::int(port, "/port"), get::text(port, "/protocol"));
    match get::int(port, "/nodePort") {
        node_port if node_port > 0 => format!("{number}:{node_port}/{protocol}"),
        _ => format!("{number}/{protocol}"),
    }
}

fn external(service: &Value) -> String {
    let mut addresses = get::texts(service, "/spec/externalIPs").join(",");
    match get::text(service, "/spec/type") {
        "ClusterIP" | "NodePort" if addresses.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => addresses,
        "LoadBalancer" => {
            let balancer = table::addresses(service);
            if balancer.is_empty() && addresses.is_empty() {
                return "<pending>".to_owned();
            }
            if !balancer.is_empty() && !addresses.is_empty() {
                addresses.insert(0, ',');
            }
            balancer + &addresses
        }
        "ExternalName" => get::text(service, "/spec/externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}
