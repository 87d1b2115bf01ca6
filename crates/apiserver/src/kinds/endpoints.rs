//! Endpoints: the older form of a Service's endpoints, all in one object.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::common::errors::invalid_all;
use super::common::{get, meta, names, net, table};
use super::{Column, Kind, Rules};

pub const KIND: Kind = Kind {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    create_on_update: true,
    columns: &[Column::NAME, Column::text("Endpoints", "Addresses and ports that are ready"), Column::AGE],
    cells,
    rules: Rules { default, validate_create, validate_update, warnings, ..Rules::GENERIC },
    deprecation: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
    ..Kind::NAMESPACED
};

fn default(object: &mut Value) {
    for subset in get::list_mut(object, "/subsets").into_iter().flatten() {
        for port in get::list_mut(subset, "/ports").into_iter().flatten() {
            get::set_default_text(port, "/protocol", "TCP");
        }
    }
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_create(object);
    for (index, subset) in get::list(object, "/subsets").iter().enumerate() {
        self::subset(subset, &Path::new("subsets").index(index), &mut errors);
    }
    errors
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    errors.extend(validate_create(new));
    errors
}

fn subset(subset: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let lists = ["addresses", "notReadyAddresses"];
    if lists.iter().all(|list| get::list(subset, &format!("/{list}")).is_empty()) {
        errors.push(FieldError::required(path.clone(), "must specify `addresses` or `notReadyAddresses`"));
    }
    for list in lists {
        for (index, one) in get::list(subset, &format!("/{list}")).iter().enumerate() {
            address(one, &path.child(list).index(index), errors);
        }
    }
    let ports = get::list(subset, "/ports");
    for (index, one) in ports.iter().enumerate() {
        port(one, ports.len() > 1, &path.child("ports").index(index), errors);
    }
}

fn address(one: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let (ip, host, node) = (get::text(one, "/ip"), get::text(one, "/hostname"), get::text_opt(one, "/nodeName"));
    invalid_all(errors, &path.child("ip"), ip, net::ip(ip));
    if !host.is_empty() {
        invalid_all(errors, &path.child("hostname"), host, names::dns_label(host));
    }
    if let Some(node) = node {
        invalid_all(errors, &path.child("nodeName"), node, names::dns_subdomain(node));
    }
    invalid_all(errors, &path.child("ip"), ip, net::not_special(ip));
}

fn port(one: &Value, named: bool, path: &Path, errors: &mut Vec<FieldError>) {
    let (name, number, protocol) = (get::text(one, "/name"), get::int(one, "/port"), get::text(one, "/protocol"));
    if !name.is_empty() {
        invalid_all(errors, &path.child("name"), name, names::dns_label(name));
    } else if named {
        errors.push(FieldError::required(path.child("name"), ""));
    }
    for fault in names::port_number(number) {
        errors.push(FieldError::invalid(path.child("port"), number, fault));
    }
    if protocol.is_empty() {
        errors.push(FieldError::required(path.child("protocol"), ""));
    } else if !["SCTP", "TCP", "UDP"].contains(&protocol) {
        errors.push(FieldError::not_supported(path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]));
    }
    if let Some(protocol) = get::text_opt(one, "/appProtocol") {
        invalid_all(errors, &path.child("appProtocol"), protocol, names::qualified(protocol));
    }
}

fn warnings(new: &Value, _old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, subset) in get::list(new, "/subsets").iter().enumerate() {
        for list in ["addresses", "notReadyAddresses"] {
            for (at, address) in get::list(subset, &format!("/{list}")).iter().enumerate() {
                let field = format!("subsets[{index}].{list}[{at}].ip");
                warnings.extend(net::ip_warning(&field, get::text(address, "/ip")));
            }
        }
    }
    warnings
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    let subsets = get::list(object, "/subsets");
    let shown = match subsets {
        [] => "<none>".to_owned(),
        _ => table::first_three(subsets.iter().flat_map(pairs)),
    };
    vec![table::name(object), shown.into(), table::age(object, now)]
}

/// Each address with each port; an address alone where there are no ports.
fn pairs(subset: &Value) -> Vec<String> {
    let addresses: Vec<&str> = get::list(subset, "/addresses").iter().map(|one| get::text(one, "/ip")).collect();
    let ports = get::list(subset, "/ports");
    if ports.is_empty() {
        return addresses.into_iter().map(str::to_owned).collect();
    }
    let pair = |port: i64, ip: &str| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
    let of_port = |port: &Value| {
        let number = get::int(port, "/port");
        addresses.iter().map(move |ip| pair(number, ip)).collect::<Vec<_>>()
    };
    ports.iter().flat_map(of_port).collect()
}
