//! Amounts of resources: which names there are, and requests against limits.

use api::field::{FieldError, Path};
use api::quantity::Quantity;
use serde_json::Value;

use super::errors::invalid_all;
use super::{get, names};

const OF_CONTAINERS: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

/// A quantity of a map such as `limits`; a malformed one was refused when the object was read.
pub fn quantity(value: &Value) -> Quantity {
    Quantity::from_value(value).unwrap_or(Quantity::from_units(0))
}

/// `resources` of a container.
pub fn requirements(resources: &Value, claims: &[&str], path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (limits, requests) = (path.child("limits"), path.child("requests"));
    for (name, amount) in get::entries(resources, "/limits") {
        errors.extend(container_amount(name, quantity(amount), &limits.key(name)));
    }
    for (name, amount) in get::entries(resources, "/requests") {
        let amount = quantity(amount);
        errors.extend(container_amount(name, amount, &requests.key(name)));
        let limit = get::map(resources, "/limits").and_then(|all| all.get(name)).map(quantity);
        match limit {
            Some(limit) if amount != limit && !may_overcommit(name) => {
                let detail = format!("must be equal to {name} limit of {limit}");
                errors.push(FieldError::invalid(requests.clone(), amount.to_string(), detail));
            }
            Some(limit) if amount > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.push(FieldError::invalid(requests.clone(), amount.to_string(), detail));
            }
            None if !may_overcommit(name) => {
                errors.push(FieldError::required(limits.clone(), "Limit must be set for non overcommitable resources"));
            }
            Some(_) | None => {}
        }
    }
    if asks(resources, |name| name.starts_with("hugepages-"))
        && !asks(resources, |name| name == "cpu" || name == "memory")
    {
        errors.push(FieldError::forbidden(path.clone(), "HugePages require cpu or memory"));
    }
    for (index, claim) in get::list(resources, "/claims").iter().enumerate() {
        let name = get::text(claim, "/name");
        let path = path.child("claims").index(index);
        if name.is_empty() {
            errors.push(FieldError::required(path.child("name"), ""));
        } else if !claims.contains(&name) {
            errors.push(FieldError::not_found(path.child("name"), name));
        }
    }
    errors
}

fn asks(resources: &Value, wanted: impl Fn(&str) -> bool) -> bool {
    ["/limits", "/requests"].iter().any(|list| get::entries(resources, list).any(|(name, _)| wanted(name)))
}

fn container_amount(name: &str, amount: Quantity, path: &Path) -> Vec<FieldError> {
    let mut errors = container_name(name, path);
    errors.extend(amount_of(name, amount, path));
    errors
}

/// A resource by its name: qualified, and standard where it has no prefix.
pub fn name(name: &str, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    invalid_all(&mut errors, path, name, names::qualified(name));
    if errors.is_empty() && !name.contains('/') && !name.starts_with("hugepages-") && !STANDARD.contains(&name) {
        let detail = "must be a standard resource type or fully qualified";
        errors.push(FieldError::invalid(path.clone(), name, detail));
    }
    errors
}

/// The same for a resource that a container may ask for.
pub fn container_name(name: &str, path: &Path) -> Vec<FieldError> {
    let mut errors = self::name(name, path);
    if !names::qualified(name).is_empty() {
        return errors;
    }
    if !name.contains('/') {
        if !name.starts_with("hugepages-") && !OF_CONTAINERS.contains(&name) {
            errors.push(FieldError::invalid(path.clone(), name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(FieldError::invalid(path.clone(), name, "doesn't follow extended resource name standard"));
    }
    errors
}

/// Not negative, and whole where the resource is counted.
pub fn amount_of(name: &str, amount: Quantity, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if amount.is_negative() {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(path.clone(), amount.to_string(), detail));
    }
    if is_extended(name) && amount.milli_value() % 1000 != 0 {
        errors.push(FieldError::invalid(path.clone(), amount.to_string(), "must be an integer"));
    }
    errors
}

fn may_overcommit(name: &str) -> bool {
    is_native(name) && !name.starts_with("hugepages-")
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified(&format!("requests.{name}")).is_empty()
}
