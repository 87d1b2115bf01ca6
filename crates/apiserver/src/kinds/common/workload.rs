//! What kinds that keep pods running share: counts and percentages, selectors, and counts in status.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::errors::{immutable, invalid_all, non_negative};
use super::internal::{SELECTOR, as_struct};
use super::{get, meta, names, selector};

/// A count, or a percentage of one: not negative, well-formed.
pub fn int_or_percent(errors: &mut Vec<FieldError>, path: &Path, value: Option<&Value>) {
    match value {
        Some(Value::String(text)) if !is_percent(text) => {
            let fault = names::pattern(
                "a valid percent string must be a numeric string followed by an ending '%'",
                "[0-9]+%",
                &["1%", "93%"],
            );
            invalid_all(errors, path, text, vec![fault]);
        }
        Some(Value::String(_)) | None => {}
        Some(other) => non_negative(errors, path.clone(), other.as_i64()),
    }
}

fn is_percent(text: &str) -> bool {
    text.strip_suffix('%').is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// The number before the `%`, or the number itself.
pub fn amount(value: Option<&Value>) -> i64 {
    match value {
        Some(Value::String(text)) => text.trim_end_matches('%').parse().unwrap_or(0),
        Some(other) => other.as_i64().unwrap_or(0),
        None => 0,
    }
}

/// At most all.
pub fn at_most_all(errors: &mut Vec<FieldError>, path: &Path, value: Option<&Value>) {
    if let Some(Value::String(text)) = value
        && is_percent(text)
        && amount(value) > 100
    {
        errors.push(FieldError::invalid(path.clone(), text.as_str(), "must not be greater than 100%"));
    }
}

/// `spec.selector` of a workload: there, well-formed and not empty. `empty` says what is wrong with an empty one.
pub fn selector(errors: &mut Vec<FieldError>, object: &Value, path: &Path, empty: &str) {
    let path = path.child("selector");
    let chosen = object.pointer("/spec/selector");
    match chosen.filter(|chosen| chosen.is_object()) {
        None => errors.push(FieldError::required(path, "")),
        Some(chosen) => {
            errors.extend(selector::validate(Some(chosen), &path));
            if selector::is_empty(Some(chosen)) {
                errors.push(as_struct(FieldError::invalid(path, chosen.clone(), empty), SELECTOR));
            }
        }
    }
}

/// The selector of a workload stays for life.
pub fn same_selector(errors: &mut Vec<FieldError>, new: &Value, old: &Value) {
    let path = Path::new("spec").child("selector");
    let mut moved = Vec::new();
    immutable(&mut moved, path, new.pointer("/spec/selector"), old.pointer("/spec/selector"));
    errors.extend(moved.into_iter().map(|fault| as_struct(fault, SELECTOR)));
}

/// A status update's metadata and counts: none negative, those of `parts` not more than all replicas.
pub fn status(new: &Value, old: &Value, counts: &[&str], parts: &[&str]) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    let path = Path::new("status");
    let count = |field: &str| get::int_opt(new, &format!("/status/{field}"));
    for field in counts {
        non_negative(&mut errors, path.child(field), count(field));
    }
    let all = count("replicas").unwrap_or(0);
    for field in parts {
        if let Some(part) = count(field).filter(|part| *part > all) {
            errors.push(FieldError::invalid(path.child(field), part, "cannot be greater than status.replicas"));
        }
    }
    if parts.contains(&"readyReplicas")
        && let Some(available) = count("availableReplicas").filter(|n| *n > count("readyReplicas").unwrap_or(0))
    {
        errors.push(FieldError::invalid(
            path.child("availableReplicas"),
            available,
            "cannot be greater than readyReplicas",
        ));
    }
    let collisions = "/status/collisionCount";
    if get::int(new, collisions) < get::int(old, collisions) {
        let value = get::int(new, collisions);
        errors.push(FieldError::invalid(path.child("collisionCount"), value, "cannot be decremented"));
    }
    errors
}
