//! PodDisruptionBudget: how many pods may be evicted at once.

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::common::errors::{non_negative, shown};
use super::common::{get, meta, selector, table, workload};
use super::{Column, Kind, Rules, Subresource};

pub const KIND: Kind = Kind {
    group: "policy",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    subresources: &[Subresource::Status],
    unconditional_update: false,
    columns: &[
        Column::NAME,
        Column::text("Min Available", "Pods that must stay available"),
        Column::text("Max Unavailable", "Pods that may be unavailable"),
        Column::int("Allowed Disruptions", "Pods that may be evicted now"),
        Column::AGE,
    ],
    cells,
    rules: Rules {
        default,
        prepare_create,
        prepare_update,
        validate_create,
        validate_update,
        validate_status,
        ..Rules::GENERIC
    },
    ..Kind::NAMESPACED
};

const COUNTS: &[&str] = &["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];

fn default(object: &mut Value) {
    get::object_at(object, "/spec");
    get::object_at(object, "/status");
    for count in COUNTS {
        get::set_default(object, &format!("/status/{count}"), 0);
    }
}

fn prepare_create(object: &mut Value) {
    meta::start(object, json!({}));
    for count in COUNTS {
        get::set(object, &format!("/status/{count}"), 0);
    }
}

fn prepare_update(new: &mut Value, old: &Value) {
    meta::keep_status_move_generation(new, old, &["/spec"]);
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

fn validate_status(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    for count in COUNTS {
        non_negative(&mut errors, Path::new("status").child(count), get::int_opt(new, &format!("/status/{count}")));
    }
    errors
}

fn spec(object: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    let bound = |field: &str| object.pointer(&format!("/spec/{field}")).filter(|found| !found.is_null());
    if let (Some(fewest), Some(most)) = (bound("minAvailable"), bound("maxUnavailable")) {
        // Upstream shows its internal struct here.
        let or_null = |field: &str| bound(field).cloned().unwrap_or(Value::Null);
        let (chosen, policy) = (or_null("selector"), or_null("unhealthyPodEvictionPolicy"));
        let text = format!(
            r#"{{"MinAvailable":{fewest},"Selector":{chosen},"MaxUnavailable":{most},"UnhealthyPodEvictionPolicy":{policy}}}"#
        );
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.push(shown(FieldError::invalid(path.clone(), Value::Null, detail), text));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        workload::int_or_percent(&mut errors, &path.child(field), bound(field));
        workload::at_most_all(&mut errors, &path.child(field), bound(field));
    }
    errors.extend(selector::validate(bound("selector"), &path.child("selector")));
    const POLICIES: &[&str] = &["AlwaysAllow", "IfHealthyBudget"];
    let policy = get::text_opt(object, "/spec/unhealthyPodEvictionPolicy");
    if let Some(policy) = policy.filter(|policy| !POLICIES.contains(policy)) {
        errors.push(FieldError::not_supported(path.child("unhealthyPodEvictionPolicy"), policy, POLICIES));
    }
    errors
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    let bound = |field: &str| -> Value {
        match object.pointer(field) {
            Some(Value::String(text)) => text.as_str().into(),
            Some(Value::Number(number)) => number.to_string().into(),
            Some(_) | None => "N/A".into(),
        }
    };
    vec![
        table::name(object),
        bound("/spec/minAvailable"),
        bound("/spec/maxUnavailable"),
        get::int(object, "/status/disruptionsAllowed").into(),
        table::age(object, now),
    ]
}
