//! Where a pod wants to run: affinity, tolerations, spreading.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::spec::word;
use crate::kinds::common::errors::{invalid_all, unsupported};
use crate::kinds::common::internal::{TOLERATION, as_struct};
use crate::kinds::common::{get, names, selector};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
const POSITIVE: &str = "must be greater than zero";

pub fn validate(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let path = path.child("affinity");
    if let Some(node) = spec.pointer("/affinity/nodeAffinity").filter(|found| found.is_object()) {
        node_affinity(node, &path.child("nodeAffinity"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.pointer(&format!("/affinity/{kind}")).filter(|found| found.is_object()) else {
            continue;
        };
        let path = path.child(kind);
        for (index, term) in get::list(affinity, &format!("/{REQUIRED}")).iter().enumerate() {
            pod_term(term, &path.child(REQUIRED).index(index), errors);
        }
        for (index, weighted) in get::list(affinity, &format!("/{PREFERRED}")).iter().enumerate() {
            let path = path.child(PREFERRED).index(index);
            weight(weighted, &path, errors);
            pod_term(weighted.get("podAffinityTerm").unwrap_or(&Value::Null), &path.child("podAffinityTerm"), errors);
        }
    }
}

fn node_affinity(affinity: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(required) = affinity.get(REQUIRED).filter(|found| found.is_object()) {
        node_selector(required, &path.child(REQUIRED), errors);
    }
    for (index, weighted) in get::list(affinity, &format!("/{PREFERRED}")).iter().enumerate() {
        let path = path.child(PREFERRED).index(index);
        weight(weighted, &path, errors);
        node_term(weighted.get("preference").unwrap_or(&Value::Null), &path.child("preference"), errors);
    }
}

/// A `NodeSelector`: terms, any of which is enough.
pub fn node_selector(selector: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let path = path.child("nodeSelectorTerms");
    let terms = get::list(selector, "/nodeSelectorTerms");
    if terms.is_empty() {
        errors.push(FieldError::required(path.clone(), "must have at least one node selector term"));
    }
    for (index, term) in terms.iter().enumerate() {
        node_term(term, &path.index(index), errors);
    }
}

fn node_term(term: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for (index, requirement) in get::list(term, "/matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(index);
        let values = get::list(requirement, "/values").len();
        let at = path.child("values");
        match get::text(requirement, "/operator") {
            "In" | "NotIn" if values == 0 => {
                errors.push(FieldError::required(at, "must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if values > 0 => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(at, detail));
            }
            "Gt" | "Lt" if values != 1 => {
                let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.push(FieldError::required(at, detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => errors.push(FieldError::invalid(path.child("operator"), other, "not a valid selector operator")),
        }
        let key = get::text(requirement, "/key");
        invalid_all(errors, &path.child("key"), key, names::qualified(key));
    }
    for (index, requirement) in get::list(term, "/matchFields").iter().enumerate() {
        let path = path.child("matchFields").index(index);
        let values = get::texts(requirement, "/values");
        match get::text(requirement, "/operator") {
            "In" | "NotIn" if values.len() == 1 => {}
            "In" | "NotIn" => {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.push(FieldError::required(path.child("values"), detail));
            }
            other => errors.push(FieldError::invalid(path.child("operator"), other, "not a valid selector operator")),
        }
        let key = get::text(requirement, "/key");
        if key != "metadata.name" {
            errors.push(FieldError::invalid(path.child("key"), key, "not a valid field selector key"));
            continue;
        }
        for (index, value) in values.iter().enumerate() {
            invalid_all(errors, &path.child("values").index(index), value, names::dns_subdomain(value));
        }
    }
}

fn weight(weighted: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let weight = get::int(weighted, "/weight");
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(path.child("weight"), weight, "must be in the range 1-100"));
    }
}

fn pod_term(term: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for field in ["labelSelector", "namespaceSelector"] {
        errors.extend(selector::validate(term.get(field), &path.child(field)));
    }
    for namespace in get::texts(term, "/namespaces") {
        invalid_all(errors, &path.child("namespace"), namespace, names::dns_label(namespace));
    }
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        label_keys(term, field, path, errors);
    }
    topology_key(term, path, errors);
}

fn label_keys(term: &Value, field: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let keys = get::texts(term, &format!("/{field}"));
    if !keys.is_empty() && !get::has(term, "/labelSelector") {
        let detail = "must not be specified when labelSelector is not set";
        errors.push(FieldError::forbidden(path.child(field), detail));
        return;
    }
    for (index, key) in keys.iter().enumerate() {
        invalid_all(errors, &path.child(field).index(index), key, names::qualified(key));
    }
}

fn topology_key(term: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let key = get::text(term, "/topologyKey");
    if key.is_empty() {
        errors.push(FieldError::required(path.child("topologyKey"), "can not be empty"));
    }
    invalid_all(errors, &path.child("topologyKey"), key, names::qualified(key));
}

/// `topologySpreadConstraints`.
pub fn spread(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let mut seen = Vec::new();
    for (index, constraint) in get::list(spec, "/topologySpreadConstraints").iter().enumerate() {
        let path = path.index(index);
        let skew = get::int(constraint, "/maxSkew");
        if skew <= 0 {
            errors.push(FieldError::invalid(path.child("maxSkew"), skew, POSITIVE));
        }
        topology_key(constraint, &path, errors);
        let action = get::text(constraint, "/whenUnsatisfiable");
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&action) {
            let path = path.child("whenUnsatisfiable");
            errors.push(FieldError::not_supported(path, action, &["DoNotSchedule", "ScheduleAnyway"]));
        }
        let pair = format!("{{{}, {action}}}", get::text(constraint, "/topologyKey"));
        if seen.contains(&pair) {
            errors.push(FieldError::duplicate(path.child("{topologyKey, whenUnsatisfiable}"), pair));
        } else {
            seen.push(pair);
        }
        if let Some(domains) = get::int_opt(constraint, "/minDomains") {
            let path = path.child("minDomains");
            if domains <= 0 {
                errors.push(FieldError::invalid(path.clone(), domains, POSITIVE));
            }
            if action != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.push(FieldError::invalid(path, domains, detail));
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if let Some(policy) =
                get::text_opt(constraint, &format!("/{field}")).filter(|p| !["Honor", "Ignore"].contains(p))
            {
                errors.push(FieldError::not_supported(path.child(field), policy, &["Honor", "Ignore"]));
            }
        }
        label_keys(constraint, "matchLabelKeys", &path, errors);
        errors.extend(selector::validate(constraint.get("labelSelector"), &path.child("labelSelector")));
    }
}

pub fn tolerations(tolerations: &[Value], path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = path.index(index);
        let part = |field: &str| get::text(toleration, field);
        let (key, operator, effect, value) = (part("/key"), part("/operator"), part("/effect"), part("/value"));
        if !key.is_empty() {
            invalid_all(&mut errors, &path.child("key"), key, names::qualified(key));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(path.child("operator"), operator, detail));
        }
        if get::has(toleration, "/tolerationSeconds") && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(path.child("effect"), effect, detail));
        }
        match operator {
            "Equal" | "" => {
                let faults = names::label_value(value);
                if !faults.is_empty() {
                    errors.push(FieldError::invalid(path.child("operator"), value, faults.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                let fault = FieldError::invalid(path.child("operator"), toleration.clone(), detail);
                errors.push(as_struct(fault, TOLERATION));
            }
            "Exists" => {}
            other => errors.push(unsupported(path.child("operator"), other, &["Equal", "Exists"])),
        }
        if !effect.is_empty() {
            word(&mut errors, path.child("effect"), effect, EFFECTS);
        }
    }
    errors
}
