//! ConfigMap: texts and bytes under keys.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::common::errors::invalid_all;
use super::common::{get, meta, names, table};
use super::{Column, Kind, Rules};

pub const KIND: Kind = Kind {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    columns: &[Column::NAME, Column::text("Data", "Number of keys"), Column::AGE],
    cells,
    rules: Rules { validate_create, validate_update, ..Rules::GENERIC },
    ..Kind::NAMESPACED
};

/// Of all values together, in bytes; also a Secret's.
pub const LIMIT: usize = 1 << 20;
/// What an immutable ConfigMap or Secret refuses.
pub const FROZEN: &str = "field is immutable when `immutable` is set";

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_create(object);
    errors.extend(data(object));
    errors
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    frozen(new, old, &["data", "binaryData"], &mut errors);
    errors.extend(validate_create(new));
    errors
}

/// What was declared immutable stays, the declaration included.
pub fn frozen(new: &Value, old: &Value, fields: &[&str], errors: &mut Vec<FieldError>) {
    if !get::flag(old, "/immutable") {
        return;
    }
    if !get::flag(new, "/immutable") {
        errors.push(FieldError::forbidden(Path::new("immutable"), FROZEN));
    }
    for field in fields {
        if !get::same(new, old, &format!("/{field}")) {
            errors.push(FieldError::forbidden(Path::new(field), FROZEN));
        }
    }
}

fn data(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in get::entries(object, "/data") {
        let path = Path::new("data").key(key);
        invalid_all(&mut errors, &path, key, names::config_key(key));
        if get::map(object, "/binaryData").is_some_and(|all| all.contains_key(key)) {
            errors.push(FieldError::invalid(path, key.as_str(), "duplicate of key present in binaryData"));
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in get::entries(object, "/binaryData") {
        invalid_all(&mut errors, &Path::new("binaryData").key(key), key, names::config_key(key));
        size += decoded_length(value);
    }
    if size > LIMIT {
        errors.push(FieldError::too_long(Path::root(), LIMIT));
    }
    errors
}

/// How many bytes base64 stands for.
pub fn decoded_length(value: &Value) -> usize {
    let text = value.as_str().unwrap_or("").trim_end_matches('=');
    text.len() * 3 / 4
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    let keys = get::entries(object, "/data").count() + get::entries(object, "/binaryData").count();
    vec![table::name(object), keys.into(), table::age(object, now)]
}
