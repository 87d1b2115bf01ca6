//! Environment variables, and references to the pod's own fields, which volumes use too.

use api::field::{FieldError, Path};
use api::quantity::Quantity;
use serde_json::Value;

use crate::kinds::common::errors::invalid_all;
use crate::kinds::common::{get, names, resources};

const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// What a pod's fields are called in `fieldRef`.
const KNOWN: &[&str] =
    &["metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase"];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SIZES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

pub fn env(container: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for (index, variable) in get::list(container, "/env").iter().enumerate() {
        let path = path.index(index);
        let name = get::text(variable, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(path.child("name"), ""));
        } else {
            invalid_all(errors, &path.child("name"), name, names::env_name(name));
        }
        if let Some(from) = variable.get("valueFrom").filter(|from| from.is_object()) {
            value_from(from, !get::text(variable, "/value").is_empty(), &path.child("valueFrom"), errors);
        }
    }
}

fn value_from(from: &Value, has_value: bool, path: &Path, errors: &mut Vec<FieldError>) {
    let mut sources = 0;
    let mut source = |name: &str| {
        let found = from.get(name).filter(|found| found.is_object());
        sources += usize::from(found.is_some());
        found
    };
    if let Some(reference) = source("fieldRef") {
        field_reference(reference, FIELDS, &path.child("fieldRef"), errors);
    }
    if let Some(reference) = source("resourceFieldRef") {
        resource_reference(reference, false, &path.child("resourceFieldRef"), errors);
    }
    for name in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(reference) = source(name) {
            key_reference(reference, &path.child(name), errors);
        }
    }
    source("fileKeyRef");
    let detail = match sources {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        _ if has_value => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(path.clone(), "", detail));
}

fn key_reference(reference: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let (name, key) = (get::text(reference, "/name"), get::text(reference, "/key"));
    invalid_all(errors, &path.child("name"), name, names::dns_subdomain(name));
    if key.is_empty() {
        errors.push(FieldError::required(path.child("key"), ""));
    } else {
        invalid_all(errors, &path.child("key"), key, names::config_key(key));
    }
}

pub fn env_from(container: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for (index, from) in get::list(container, "/envFrom").iter().enumerate() {
        let at = path.index(index);
        let prefix = get::text(from, "/prefix");
        if !prefix.is_empty() {
            invalid_all(errors, &at.child("prefix"), prefix, names::env_name(prefix));
        }
        let mut sources = 0;
        for source in ["configMapRef", "secretRef"] {
            let Some(reference) = from.get(source).filter(|found| found.is_object()) else { continue };
            sources += 1;
            let name = get::text(reference, "/name");
            let path = at.child(source).child("name");
            if name.is_empty() {
                errors.push(FieldError::required(path, ""));
            } else {
                invalid_all(errors, &path, name, names::dns_subdomain(name));
            }
        }
        if sources != 1 {
            let detail = match sources {
                0 => "must specify one of: `configMapRef` or `secretRef`",
                _ => "may not have more than one field specified at a time",
            };
            errors.push(FieldError::invalid(path.clone(), "", detail));
        }
    }
}

/// A reference to a field of the pod, one of `supported`, or to one label or annotation.
pub fn field_reference(reference: &Value, supported: &[&str], path: &Path, errors: &mut Vec<FieldError>) {
    let (version, field) = (get::text(reference, "/apiVersion"), get::text(reference, "/fieldPath"));
    if version.is_empty() || field.is_empty() {
        let missing = if version.is_empty() { "apiVersion" } else { "fieldPath" };
        errors.push(FieldError::required(path.child(missing), ""));
        return;
    }
    let subscript = field.strip_suffix("']").and_then(|field| field.split_once("['"));
    if let Some((map, key)) = subscript {
        match map {
            "metadata.annotations" => {
                invalid_all(errors, path, &key.to_lowercase(), names::qualified(&key.to_lowercase()))
            }
            "metadata.labels" => invalid_all(errors, path, key, names::qualified(key)),
            _ => {
                let detail = format!("error converting fieldPath: field label does not support subscript: {map}");
                errors.push(FieldError::invalid(path.child("fieldPath"), field, detail));
            }
        }
    } else if version != "v1" || !(FIELDS.contains(&field) || KNOWN.contains(&field)) {
        let why = if version == "v1" {
            format!("field label not supported: {field}")
        } else {
            format!("unsupported pod version: {version}")
        };
        errors.push(FieldError::invalid(path.child("fieldPath"), field, format!("error converting fieldPath: {why}")));
    } else if !supported.contains(&field) {
        errors.push(FieldError::not_supported(path.child("fieldPath"), field, supported));
    }
}

/// A reference to what a container asks for.
pub fn resource_reference(reference: &Value, in_volume: bool, path: &Path, errors: &mut Vec<FieldError>) {
    let resource = get::text(reference, "/resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|prefix| resource.starts_with(prefix));
    if in_volume && get::text(reference, "/containerName").is_empty() {
        errors.push(FieldError::required(path.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(FieldError::required(path.child("resource"), ""));
    } else if !RESOURCES.contains(&resource) && !huge {
        errors.push(FieldError::not_supported(path.child("resource"), resource, RESOURCES));
    }
    let divisor = reference.get("divisor").map_or(Quantity::from_units(0), resources::quantity);
    if divisor.is_zero() {
        return;
    }
    let (good, what) = match resource {
        "limits.cpu" | "requests.cpu" => (["1m", "1"].as_slice(), "cpu"),
        "limits.memory" | "requests.memory" => (SIZES, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (SIZES, "local ephemeral storage"),
        _ if huge => (SIZES, "hugepages"),
        _ => return,
    };
    if !good.contains(&divisor.to_string().as_str()) {
        let listed = if what == "cpu" { "1m and 1".to_owned() } else { good.join(", ") };
        let detail = format!("only divisor's values {listed} are supported with the {what} resource");
        errors.push(FieldError::invalid(path.child("divisor"), resource, detail));
    }
}
