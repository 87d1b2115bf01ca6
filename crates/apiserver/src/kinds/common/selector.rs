//! Label selectors as fields of objects: whether they are well-formed, and whether they match.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::errors::invalid_all;
use super::{get, meta, names};

/// A `LabelSelector`.
pub fn validate(selector: Option<&Value>, path: &Path) -> Vec<FieldError> {
    let Some(selector) = selector.filter(|found| found.is_object()) else { return Vec::new() };
    let mut errors = meta::labels(selector.get("matchLabels"), &path.child("matchLabels"));
    for (index, expression) in get::list(selector, "/matchExpressions").iter().enumerate() {
        errors.extend(requirement(expression, &path.child("matchExpressions").index(index)));
    }
    errors
}

fn requirement(expression: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let values = get::texts(expression, "/values");
    match get::text(expression, "/operator") {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(path.child("values"), detail));
        }
        "In" | "NotIn" => {}
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(path.child("values"), detail));
        }
        "Exists" | "DoesNotExist" => {}
        other => errors.push(FieldError::invalid(path.child("operator"), other, "not a valid selector operator")),
    }
    let key = get::text(expression, "/key");
    invalid_all(&mut errors, &path.child("key"), key, names::qualified(key));
    for (index, value) in values.iter().enumerate() {
        invalid_all(&mut errors, &path.child("values").index(index), value, names::label_value(value));
    }
    errors
}

/// Whether a `LabelSelector` selects nothing in particular: absent, or without a requirement.
pub fn is_empty(selector: Option<&Value>) -> bool {
    selector.is_none_or(|selector| {
        get::entries(selector, "/matchLabels").next().is_none() && get::list(selector, "/matchExpressions").is_empty()
    })
}

/// Whether a `LabelSelector` selects these labels; an absent one selects nothing, an empty one everything.
pub fn matches(selector: Option<&Value>, labels: Option<&Value>) -> bool {
    let Some(selector) = selector.filter(|found| found.is_object()) else { return false };
    let label = |key: &str| labels.and_then(|all| all.get(key)).and_then(Value::as_str);
    get::entries(selector, "/matchLabels").all(|(key, value)| label(key) == value.as_str())
        && get::list(selector, "/matchExpressions").iter().all(|expression| {
            let values = get::texts(expression, "/values");
            let found = label(get::text(expression, "/key"));
            match get::text(expression, "/operator") {
                "In" => found.is_some_and(|value| values.contains(&value)),
                "NotIn" => found.is_none_or(|value| !values.contains(&value)),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}
