//! EndpointSlice: some of a Service's endpoints, of one address family.

use std::collections::BTreeSet;

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::common::errors::{immutable, invalid_all};
use super::common::{get, meta, names, net, table};
use super::{Column, Kind, Rules};

pub const KIND: Kind = Kind {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    columns: &[
        Column::NAME,
        Column::text("AddressType", "Family of the addresses"),
        Column::text("Ports", "Ports of every endpoint"),
        Column::text("Endpoints", "Addresses of the endpoints"),
        Column::AGE,
    ],
    cells,
    rules: Rules {
        default,
        prepare_create,
        prepare_update,
        validate_create,
        validate_update,
        warnings,
        ..Rules::GENERIC
    },
    ..Kind::NAMESPACED
};

const MOST_ENDPOINTS: usize = 1000;
const MOST_ADDRESSES: usize = 100;
const MOST_PORTS: usize = 20_000;
const MOST_HINTS: usize = 8;

fn default(object: &mut Value) {
    for endpoint in get::list_mut(object, "/endpoints").into_iter().flatten() {
        get::set_default(endpoint, "/conditions", json!({}));
    }
    for port in get::list_mut(object, "/ports").into_iter().flatten() {
        get::set_default(port, "/name", "");
        get::set_default_text(port, "/protocol", "TCP");
    }
}

fn prepare_create(object: &mut Value) {
    get::set(object, "/metadata/generation", 1);
}

fn prepare_update(new: &mut Value, old: &Value) {
    meta::move_generation(new, old, &["/addressType", "/endpoints", "/ports"]);
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_create(object);
    address_type(object, &mut errors);
    endpoints(object, &mut errors);
    ports(object, &mut errors);
    errors
}

/// Endpoints that stay as they were are not judged again.
fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::update(new, old);
    errors.extend(meta::validate_create(new));
    address_type(new, &mut errors);
    if !get::same(new, old, "/endpoints") {
        endpoints(new, &mut errors);
    }
    ports(new, &mut errors);
    immutable(&mut errors, Path::new("addressType"), new.get("addressType"), old.get("addressType"));
    errors
}

fn address_type(object: &Value, errors: &mut Vec<FieldError>) {
    const TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];
    let path = Path::new("addressType");
    match get::text(object, "/addressType") {
        "" => errors.push(FieldError::required(path, "")),
        kind if TYPES.contains(&kind) => {}
        kind => errors.push(FieldError::not_supported(path, kind, TYPES)),
    }
}

fn endpoints(object: &Value, errors: &mut Vec<FieldError>) {
    let path = Path::new("endpoints");
    let endpoints = get::list(object, "/endpoints");
    if endpoints.len() > MOST_ENDPOINTS {
        errors.push(FieldError::too_many(path, endpoints.len(), MOST_ENDPOINTS));
        return;
    }
    let kind = get::text(object, "/addressType");
    for (index, endpoint) in endpoints.iter().enumerate() {
        let path = path.index(index);
        let at = path.child("addresses");
        let addresses = get::texts(endpoint, "/addresses");
        if addresses.is_empty() {
            errors.push(FieldError::required(at.clone(), "must contain at least 1 address"));
        } else if addresses.len() > MOST_ADDRESSES {
            errors.push(FieldError::too_many(at.clone(), addresses.len(), MOST_ADDRESSES));
        }
        for (number, address) in addresses.into_iter().enumerate() {
            self::address(address, kind, &at, &at.index(number), errors);
        }
        if let Some(node) = get::text_opt(endpoint, "/nodeName") {
            invalid_all(errors, &path.child("nodeName"), node, names::dns_subdomain(node));
        }
        errors.extend(meta::labels(endpoint.get("deprecatedTopology"), &path.child("deprecatedTopology")));
        if let Some(host) = get::text_opt(endpoint, "/hostname") {
            invalid_all(errors, &path.child("hostname"), host, names::dns_label(host));
        }
        for list in ["forZones", "forNodes"] {
            hints(endpoint, list, &path.child("hints").child(list), errors);
        }
    }
}

fn address(address: &str, kind: &str, list: &Path, path: &Path, errors: &mut Vec<FieldError>) {
    if kind == "FQDN" {
        if address.is_empty() {
            errors.push(FieldError::required(path.clone(), ""));
            return;
        }
        let name = address.strip_suffix('.').unwrap_or(address);
        let faults = names::dns_subdomain(name);
        if faults.is_empty() && !name.contains('.') {
            let detail = "should be a domain with at least two segments separated by dots";
            errors.push(FieldError::invalid(path.clone(), address, detail));
        }
        invalid_all(errors, path, address, faults);
        return;
    }
    let faults = net::ip(address);
    if !faults.is_empty() {
        invalid_all(errors, path, address, faults);
        return;
    }
    let right = match kind {
        "IPv4" => net::is_ipv4(address),
        "IPv6" => net::is_ipv6(address),
        _ => return,
    };
    if !right {
        errors.push(FieldError::invalid(list.clone(), address, format!("must be an {kind} address")));
    }
    invalid_all(errors, path, address, net::not_special(address));
}

fn hints(endpoint: &Value, list: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let hints = get::list(endpoint, &format!("/hints/{list}"));
    if hints.len() > MOST_HINTS {
        errors.push(FieldError::too_many(path.clone(), hints.len(), MOST_HINTS));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, hint) in hints.iter().enumerate() {
        let name = get::text(hint, "/name");
        let path = path.index(index).child("name");
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(path.clone(), name));
        }
        invalid_all(errors, &path, name, names::label_value(name));
    }
}

fn ports(object: &Value, errors: &mut Vec<FieldError>) {
    let path = Path::new("ports");
    let ports = get::list(object, "/ports");
    if ports.len() > MOST_PORTS {
        errors.push(FieldError::too_many(path, ports.len(), MOST_PORTS));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = get::text(port, "/name");
        if !name.is_empty() {
            invalid_all(errors, &path.child("name"), name, names::dns_label(name));
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(path.child("name"), name));
        }
        if let Some(number) = get::int_opt(port, "/port") {
            let faults = names::port_number(number).into_iter();
            errors.extend(faults.map(|fault| FieldError::invalid(path.child("port"), number, fault)));
        }
        match get::text(port, "/protocol") {
            "" => errors.push(FieldError::required(path.child("protocol"), "")),
            "SCTP" | "TCP" | "UDP" => {}
            other => errors.push(FieldError::not_supported(path.child("protocol"), other, &["SCTP", "TCP", "UDP"])),
        }
        if let Some(protocol) = get::text_opt(port, "/appProtocol") {
            invalid_all(errors, &path.child("appProtocol"), protocol, names::qualified(protocol));
        }
    }
}

fn warnings(new: &Value, _old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, endpoint) in get::list(new, "/endpoints").iter().enumerate() {
        for (at, address) in get::texts(endpoint, "/addresses").into_iter().enumerate() {
            warnings.extend(net::ip_warning(&format!("endpoints[{index}].addresses[{at}]"), address));
        }
    }
    warnings
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    let ports = get::list(object, "/ports").iter().map(|port| match get::int_opt(port, "/port") {
        Some(number) => number.to_string(),
        None => get::text_opt(port, "/name").unwrap_or("*").to_owned(),
    });
    let endpoints = get::list(object, "/endpoints").iter();
    let addresses = endpoints.flat_map(|endpoint| get::texts(endpoint, "/addresses")).map(str::to_owned);
    vec![
        table::name(object),
        get::text(object, "/addressType").into(),
        or_unset(table::first_three(ports)),
        or_unset(table::first_three(addresses)),
        table::age(object, now),
    ]
}

fn or_unset(text: String) -> Value {
    if text.is_empty() { "<unset>".into() } else { text.into() }
}
