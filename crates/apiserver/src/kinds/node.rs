//! Node: a machine that runs pods.

use std::collections::BTreeSet;

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::common::errors::{invalid_all, shown, unsupported};
use super::common::{get, meta, names, net, resources, table};
use super::{Column, Kind, NameRule, Rules, Scope, Selectable, Subresource};

pub const KIND: Kind = Kind {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    subresources: &[Subresource::Status],
    columns: &[
        Column::NAME,
        Column::text("Status", "Whether pods can run there"),
        Column::text("Roles", "Roles of the node"),
        Column::AGE,
        Column::text("Version", "Version of the node agent"),
        Column::wide("Internal-IP", "Address inside the cluster"),
        Column::wide("External-IP", "Address from outside"),
        Column::wide("OS-Image", "Operating system"),
        Column::wide("Kernel-Version", "Version of the kernel"),
        Column::wide("Container-Runtime", "What runs the containers"),
    ],
    cells,
    rules: Rules {
        default,
        prepare_update,
        validate_create,
        validate_update,
        validate_status: validate_update,
        ..Rules::GENERIC
    },
    selectable: &[Selectable { label: "spec.unschedulable", pointers: &["/spec/unschedulable"], absent: "false" }],
    ..Kind::CLUSTER
};

/// `podCIDR` is the first of `podCIDRs`. A node that registers brings its status, so that nothing is taken from it.
fn default(object: &mut Value) {
    get::object_at(object, "/spec");
    get::object_at(object, "/status");
    let one = get::text(object, "/spec/podCIDR").to_owned();
    let first = get::texts(object, "/spec/podCIDRs").first().map(|first| (*first).to_owned());
    match first {
        Some(first) => get::set(object, "/spec/podCIDR", first),
        None if !one.is_empty() => get::set(object, "/spec/podCIDRs", json!([one])),
        None => {}
    }
}

fn prepare_update(new: &mut Value, old: &Value) {
    meta::prepare_update(new, old);
    get::copy(new, old, "/status");
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::check(object, NameRule::DnsSubdomain, Scope::Cluster);
    taints(object, &mut errors);
    amounts(object, &mut errors);
    let path = Path::new("spec").child("podCIDRs");
    let ranges = get::texts(object, "/spec/podCIDRs");
    for (index, range) in ranges.iter().enumerate() {
        invalid_all(&mut errors, &path.index(index), range, net::cidr(range));
    }
    let families: BTreeSet<bool> = ranges.iter().map(|range| range.contains(':')).collect();
    if ranges.len() > 1 && families.len() != ranges.len() {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.push(FieldError::invalid(path, ranges, detail));
    }
    errors
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    amounts(new, &mut errors);
    let addresses = get::list(new, "/status/addresses");
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            let path = Path::new("status").child("addresses").index(index);
            let (kind, value) = (get::text(address, "/type"), get::text(address, "/address"));
            let text = format!(r#"{{"Type":{kind:?},"Address":{value:?}}}"#);
            errors.push(shown(FieldError::duplicate(path, Value::Null), text));
        }
    }
    for (field, singular) in [("podCIDRs", "podCIDR"), ("providerID", "providerID")] {
        let pointer = format!("/spec/{field}");
        let was_set = get::has(old, &pointer) && !get::text_opt(old, &pointer).is_some_and(str::is_empty);
        if was_set && !get::same(new, old, &pointer) {
            let detail = format!("node updates may not change {singular} except from \"\" to valid");
            errors.push(FieldError::forbidden(Path::new("spec").child(field), detail));
        }
    }
    taints(new, &mut errors);
    errors
}

fn amounts(object: &Value, errors: &mut Vec<FieldError>) {
    for list in ["capacity", "allocatable"] {
        for (name, amount) in get::entries(object, &format!("/status/{list}")) {
            let path = Path::new("status").child(list).child(name);
            errors.extend(resources::amount_of(name, resources::quantity(amount), &path));
        }
    }
}

fn taints(object: &Value, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, taint) in get::list(object, "/spec/taints").iter().enumerate() {
        // The path is upstream's.
        let path = Path::new("metadata").child("taints").index(index);
        let part = |field: &str| get::text(taint, field);
        let (key, value, effect) = (part("/key"), part("/value"), part("/effect"));
        invalid_all(errors, &path.child("key"), key, names::qualified(key));
        let faults = names::label_value(value);
        if !faults.is_empty() {
            errors.push(FieldError::invalid(path.child("value"), value, faults.join(";")));
        }
        const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if effect.is_empty() {
            errors.push(FieldError::required(path.child("effect"), ""));
        } else if !EFFECTS.contains(&effect) {
            errors.push(unsupported(path.child("effect"), effect, EFFECTS));
        }
        if !seen.insert((key, effect)) {
            let text = format!(r#"{{"Key":{key:?},"Value":{value:?},"Effect":{effect:?},"TimeAdded":null}}"#);
            let mut fault = shown(FieldError::duplicate(path, Value::Null), text);
            fault.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(fault);
        }
    }
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    let address = |kind: &str| {
        let mut addresses = get::list(object, "/status/addresses").iter();
        let found = addresses.find(|one| get::text(one, "/type") == kind);
        table::or_none(found.map_or("", |one| get::text(one, "/address")))
    };
    let info = |field: &str| -> Value {
        match get::text(object, field) {
            "" => "<unknown>".into(),
            text => text.into(),
        }
    };
    vec![
        table::name(object),
        status(object).into(),
        roles(object),
        table::age(object, now),
        get::text(object, "/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("/status/nodeInfo/osImage"),
        info("/status/nodeInfo/kernelVersion"),
        info("/status/nodeInfo/containerRuntimeVersion"),
    ]
}

fn status(object: &Value) -> String {
    let mut conditions = get::list(object, "/status/conditions").iter();
    let ready = match conditions.find(|one| get::text(one, "/type") == "Ready") {
        Some(one) if get::text(one, "/status") == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if get::flag(object, "/spec/unschedulable") { format!("{ready},SchedulingDisabled") } else { ready.to_owned() }
}

fn roles(object: &Value) -> Value {
    let mut roles = BTreeSet::new();
    for (label, value) in get::entries(object, "/metadata/labels") {
        let role = match label.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => role,
            None if label == "kubernetes.io/role" => value.as_str().unwrap_or(""),
            None => "",
        };
        if !role.is_empty() {
            roles.insert(role);
        }
    }
    table::or_none(&roles.into_iter().collect::<Vec<_>>().join(","))
}
