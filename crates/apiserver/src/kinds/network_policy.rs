//! NetworkPolicy: which traffic a pod accepts. Stored and served; nothing enforces it yet, and a writer is told so.

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::common::errors::invalid_all;
use super::common::{get, meta, names, net, selector, table};
use super::{Column, Kind, Rules, stored};

pub const KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    singular: "networkpolicy",
    short_names: &["netpol"],
    columns: &[Column::NAME, Column::text("Pod-Selector", "Labels of the pods it is for"), Column::AGE],
    cells,
    rules: Rules {
        default,
        prepare_create,
        prepare_update,
        validate_create,
        validate_update,
        warnings: |new, old| stored::idle(new, old, "NetworkPolicy", "allows and denies nothing"),
        ..Rules::GENERIC
    },
    ..Kind::NAMESPACED
};

/// A policy is about what comes in, and about what goes out if it says something about that.
fn default(object: &mut Value) {
    get::object_at(object, "/spec/podSelector");
    for direction in ["/spec/ingress", "/spec/egress"] {
        for rule in get::list_mut(object, direction).into_iter().flatten() {
            for port in get::list_mut(rule, "/ports").into_iter().flatten() {
                get::set_default(port, "/protocol", "TCP");
            }
        }
    }
    if get::list(object, "/spec/policyTypes").is_empty() {
        let both = !get::list(object, "/spec/egress").is_empty();
        get::set(object, "/spec/policyTypes", if both { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
}

fn prepare_create(object: &mut Value) {
    get::set(object, "/metadata/generation", 1);
}

fn prepare_update(new: &mut Value, old: &Value) {
    meta::move_generation(new, old, &["/spec"]);
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_create(object);
    errors.extend(spec(object));
    errors
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    errors.extend(spec(new));
    errors
}

fn spec(object: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = selector::validate(object.pointer("/spec/podSelector"), &path.child("podSelector"));
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in get::list(object, &format!("/spec/{direction}")).iter().enumerate() {
            let path = path.child(direction).index(index);
            for (index, port) in get::list(rule, "/ports").iter().enumerate() {
                self::port(port, &path.child("ports").index(index), &mut errors);
            }
            for (index, peer) in get::list(rule, &format!("/{peers}")).iter().enumerate() {
                self::peer(peer, &path.child(peers).index(index), &mut errors);
            }
        }
    }
    let types = get::texts(object, "/spec/policyTypes");
    if types.len() > 2 {
        let detail = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid(path.child("policyTypes"), types, detail));
        return errors;
    }
    for (index, kind) in types.into_iter().enumerate().filter(|(_, kind)| !["Egress", "Ingress"].contains(kind)) {
        errors.push(FieldError::not_supported(path.child("policyTypes").index(index), kind, &["Egress", "Ingress"]));
    }
    errors
}

fn port(port: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let protocol = get::text(port, "/protocol");
    if !["SCTP", "TCP", "UDP"].contains(&protocol) {
        errors.push(FieldError::not_supported(path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]));
    }
    let end = get::int_opt(port, "/endPort");
    match port.get("port") {
        Some(Value::String(name)) => {
            if end.is_some() {
                let detail = "may not be specified when `port` is non-numeric";
                errors.push(FieldError::invalid(path.child("endPort"), end, detail));
            }
            invalid_all(errors, &path.child("port"), name, names::port_name(name));
        }
        Some(number) if !number.is_null() => {
            let number = number.as_i64().unwrap_or(0);
            let faults = names::port_number(number).into_iter();
            errors.extend(faults.map(|fault| FieldError::invalid(path.child("port"), number, fault)));
            if end.is_some_and(|end| end < number) {
                let detail = "must be greater than or equal to `port`";
                errors.push(FieldError::invalid(path.child("endPort"), end, detail));
            }
        }
        Some(_) | None => {
            if end.is_some() {
                let detail = "may not be specified when `port` is not specified";
                errors.push(FieldError::invalid(path.child("endPort"), end, detail));
            }
        }
    }
}

fn peer(peer: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let mut kinds = 0;
    for field in ["podSelector", "namespaceSelector"] {
        let chosen = peer.get(field).filter(|found| found.is_object());
        kinds += usize::from(chosen.is_some());
        errors.extend(selector::validate(chosen, &path.child(field)));
    }
    let block = peer.get("ipBlock").filter(|found| found.is_object());
    if let Some(block) = block {
        let range = get::text(block, "/cidr");
        let path = path.child("ipBlock");
        if range.is_empty() {
            errors.push(FieldError::required(path.child("cidr"), ""));
        } else {
            invalid_all(errors, &path.child("cidr"), range, net::cidr(range));
        }
        for (index, except) in get::texts(block, "/except").into_iter().enumerate() {
            let path = path.child("except").index(index);
            invalid_all(errors, &path, except, net::cidr(except));
            if let (Some(outer), Some(inner)) = (net::parse_cidr(range), net::parse_cidr(except))
                && !(outer.contains(&inner) && outer != inner)
            {
                errors.push(FieldError::invalid(path, except, "must be a strict subset of `cidr`"));
            }
        }
    }
    if kinds == 0 && block.is_none() {
        errors.push(FieldError::required(path.clone(), "must specify a peer"));
    } else if kinds > 0 && block.is_some() {
        errors.push(FieldError::forbidden(path.clone(), "may not specify both ipBlock and another peer"));
    }
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    vec![table::name(object), table::selector(object.pointer("/spec/podSelector")), table::age(object, now)]
}
