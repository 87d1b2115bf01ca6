//! ResourceQuota: how much a namespace may hold. Stored and judged; nothing counts yet.

use std::collections::BTreeSet;

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::common::errors::{immutable, invalid_all};
use super::common::{get, meta, names, resources, table};
use super::{Column, Kind, Rules, Subresource, stored};

pub const KIND: Kind = Kind {
    kind: "ResourceQuota",
    plural: "resourcequotas",
    singular: "resourcequota",
    short_names: &["quota"],
    subresources: &[Subresource::Status],
    columns: &[
        Column::NAME,
        Column::text("Request", "Requests in use and their limits"),
        Column::text("Limit", "Limits in use and their limits"),
        Column::AGE,
    ],
    cells,
    rules: Rules {
        default: stored::default_status,
        prepare_create: |object| get::set(object, "/status", json!({})),
        prepare_update: stored::keep_status,
        validate_create,
        validate_update,
        validate_status,
        warnings: |new, old| stored::idle(new, old, "ResourceQuota", "counts and limits nothing"),
        ..Rules::GENERIC
    },
    ..Kind::NAMESPACED
};

const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const SCOPES: &[&str] = &[
    "BestEffort",
    "NotBestEffort",
    "Terminating",
    "NotTerminating",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
/// What pods are limited by, besides their number.
const OF_PODS: &[&str] = &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory", "pods"];

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_create(object);
    let path = Path::new("spec");
    amounts(object, "/spec/hard", &path.child("hard"), &mut errors);
    scopes(object, &path, &mut errors);
    errors
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    errors.extend(validate_create(new));
    let path = Path::new("spec").child("scopes");
    let set =
        |object: &Value| get::texts(object, "/spec/scopes").into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    if set(new) != set(old) {
        immutable(&mut errors, path, new.pointer("/spec/scopes"), old.pointer("/spec/scopes"));
    }
    errors
}

fn validate_status(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    for list in ["hard", "used"] {
        amounts(new, &format!("/status/{list}"), &Path::new("status").child(list), &mut errors);
    }
    errors
}

fn amounts(object: &Value, pointer: &str, path: &Path, errors: &mut Vec<FieldError>) {
    for (name, amount) in get::entries(object, pointer) {
        let path = path.key(name);
        invalid_all(errors, &path, name, names::qualified(name));
        if !name.contains('/') && !STANDARD.contains(&name.as_str()) {
            errors.push(FieldError::invalid(path.clone(), name.as_str(), "must be a standard resource for quota"));
        }
        let amount = resources::quantity(amount);
        if amount.is_negative() {
            let detail = "must be greater than or equal to 0";
            errors.push(FieldError::invalid(path.clone(), amount.to_string(), detail));
        }
        if COUNTED.contains(&name.as_str()) && amount.milli_value() % 1000 != 0 {
            errors.push(FieldError::invalid(path, amount.to_string(), "must be an integer"));
        }
    }
}

fn scopes(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let scopes = get::texts(object, "/spec/scopes");
    let path = path.child("scopes");
    let mut fault = |detail: &str| errors.push(FieldError::invalid(path.clone(), scopes.clone(), detail));
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            fault("unsupported scope");
        }
        for (resource, _) in get::entries(object, "/spec/hard") {
            let standard = STANDARD.contains(&resource.as_str());
            if standard && !OF_PODS.contains(&resource.as_str()) && *scope != "VolumeAttributesClass" {
                fault("unsupported scope applied to resource");
            }
        }
    }
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&one) && scopes.contains(&other) {
            fault("conflicting scopes");
        }
    }
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in get::entries(object, "/status/hard") {
        let used = get::map(object, "/status/used").and_then(|map| map.get(resource)).and_then(Value::as_str);
        let entry = format!("{resource}: {}/{}", used.unwrap_or("0"), hard.as_str().unwrap_or(""));
        if resource.starts_with("limits") { limits.push(entry) } else { requests.push(entry) }
    }
    vec![table::name(object), requests.join(", ").into(), limits.join(", ").into(), table::age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_scopes_are_judged() {
        let quota = |spec: Value| {
            let object = json!({"metadata": {"name": "q", "namespace": "n"}, "spec": spec});
            validate_create(&object).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(quota(json!({"hard": {"pods": "10", "count/widgets": "3"}})).is_empty());
        assert_eq!(
            quota(json!({"hard": {"pods": "1500m", "cpu": "-1", "x": "1"}})),
            [
                "spec.hard[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
                "spec.hard[x]: Invalid value: \"x\": must be a standard resource for quota",
            ]
        );
        assert_eq!(
            quota(json!({"hard": {"pods": "1"}, "scopes": ["BestEffort", "NotBestEffort"]})),
            ["spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes"]
        );
    }
}
