//! PriorityClass: a number by name, and whether pods of it push others aside.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::common::errors::unsupported;
use super::common::{get, meta, table};
use super::{Column, Kind, NameRule, Rules, Scope};

pub const KIND: Kind = Kind {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    columns: &[
        Column::NAME,
        Column::int("Value", "Priority of the pods"),
        Column { r#type: "boolean", ..Column::text("Global-Default", "Whether pods without a class have it") },
        Column::AGE,
        Column::text("PreemptionPolicy", "Whether its pods push others aside"),
    ],
    cells,
    rules: Rules { default, prepare_create, validate_create, validate_update, ..Rules::CLUSTER },
    ..Kind::CLUSTER
};

/// Above this are the system's own classes.
const HIGHEST: i64 = 1_000_000_000;
/// The system's own classes and their values.
pub const SYSTEM: &[(&str, i64)] =
    &[("system-cluster-critical", 2 * HIGHEST), ("system-node-critical", 2 * HIGHEST + 1000)];

fn default(object: &mut Value) {
    get::set_default(object, "/preemptionPolicy", "PreemptLowerPriority");
}

fn prepare_create(object: &mut Value) {
    get::set(object, "/metadata/generation", 1);
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::check(object, NameRule::DnsSubdomain, Scope::Cluster);
    let (name, value) = (get::text(object, "/metadata/name"), get::int(object, "/value"));
    if name.starts_with("system-") {
        if !SYSTEM.contains(&(name, value)) {
            let why = match SYSTEM.iter().find(|(known, _)| *known == name) {
                Some((_, wanted)) => format!("value of {name} PriorityClass must be {wanted}"),
                None => format!("{name} is not a known system priority class"),
            };
            let detail =
                format!("priority class names with 'system-' prefix are reserved for system use only. error: {why}");
            errors.push(FieldError::forbidden(Path::new("metadata").child("name"), detail));
        }
    } else if value > HIGHEST {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        errors.push(FieldError::forbidden(Path::new("value"), detail));
    }
    const POLICIES: &[&str] = &["PreemptLowerPriority", "Never"];
    match get::text(object, "/preemptionPolicy") {
        "" => errors.push(FieldError::required(Path::new("preemptionPolicy"), "")),
        policy if POLICIES.contains(&policy) => {}
        policy => errors.push(unsupported(Path::new("preemptionPolicy"), policy, POLICIES)),
    }
    errors
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    if !get::same(new, old, "/value") {
        // The capital letter is upstream's.
        errors.push(FieldError::forbidden(Path::new("Value"), "may not be changed in an update."));
    }
    if !get::same(new, old, "/preemptionPolicy") {
        let policy = get::text(new, "/preemptionPolicy");
        errors.push(FieldError::invalid(Path::new("preemptionPolicy"), policy, "field is immutable"));
    }
    errors
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    vec![
        table::name(object),
        get::int(object, "/value").into(),
        get::flag(object, "/globalDefault").into(),
        table::age(object, now),
        get::text(object, "/preemptionPolicy").into(),
    ]
}
