//! Secret: bytes under keys, of a type that may demand some of them.

use api::field::{FieldError, Path};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::common::errors::{immutable, invalid_all, shown};
use super::common::{get, meta, names, table};
use super::config_map::{LIMIT, decoded_length, frozen};
use super::{Column, Kind, Rules, Selectable};

pub const KIND: Kind = Kind {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    columns: &[
        Column::NAME,
        Column::text("Type", "What the data is for"),
        Column::text("Data", "Number of keys"),
        Column::AGE,
    ],
    cells,
    rules: Rules { default, validate_create, validate_update, ..Rules::GENERIC },
    selectable: &[Selectable::text("type", &["/type"])],
    ..Kind::NAMESPACED
};

/// `stringData` is a way to write `data`, never read back.
fn default(object: &mut Value) {
    get::set_default_text(object, "/type", "Opaque");
    if let Some(Value::Object(texts)) = get::remove(object, "/stringData")
        && let Some(data) = get::object_at(object, "/data")
    {
        for (key, text) in texts {
            data.insert(key, STANDARD.encode(text.as_str().unwrap_or("")).into());
        }
    }
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_create(object);
    let path = Path::new("data");
    let mut size = 0;
    for (key, value) in get::entries(object, "/data") {
        invalid_all(&mut errors, &path.key(key), key, names::config_key(key));
        size += decoded_length(value);
    }
    if size > LIMIT {
        errors.push(FieldError::too_long(path.clone(), LIMIT));
    }
    by_type(object, &path, &mut errors);
    errors
}

/// The keys and annotations that well-known types must have.
fn by_type(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let data = get::map(object, "/data");
    let value = |key: &str| data.and_then(|all| all.get(key)).and_then(Value::as_str);
    let required = |key: &str| FieldError::required(path.key(key), "");
    match get::text(object, "/type") {
        "kubernetes.io/service-account-token" => {
            let account = "kubernetes.io/service-account.name";
            let named = get::map(object, "/metadata/annotations").and_then(|all| all.get(account)?.as_str());
            if named.unwrap_or("").is_empty() {
                let path = Path::new("metadata").child("annotations").key(account);
                errors.push(FieldError::required(path, ""));
            }
        }
        "kubernetes.io/dockercfg" => errors.extend(json_under(".dockercfg", value(".dockercfg"), path)),
        "kubernetes.io/dockerconfigjson" => {
            errors.extend(json_under(".dockerconfigjson", value(".dockerconfigjson"), path));
        }
        "kubernetes.io/basic-auth" if value("username").is_none() && value("password").is_none() => {
            errors.extend([required("username"), required("password")]);
        }
        "kubernetes.io/ssh-auth" if value("ssh-privatekey").unwrap_or("").is_empty() => {
            errors.push(required("ssh-privatekey"));
        }
        "kubernetes.io/tls" => {
            errors.extend(["tls.crt", "tls.key"].into_iter().filter(|key| value(key).is_none()).map(required));
        }
        _ => {}
    }
}

/// The fault shows nothing of what is secret.
fn json_under(key: &str, value: Option<&str>, path: &Path) -> Option<FieldError> {
    let Some(value) = value else { return Some(FieldError::required(path.key(key), "")) };
    let bytes = STANDARD.decode(value).unwrap_or_default();
    let why = match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(_)) => return None,
        Ok(Value::Null) => return None,
        Ok(other) => {
            let kind = api::decode::called(&other);
            format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}")
        }
        Err(error) => api::decode::syntax_fault(&bytes, &error),
    };
    let fault = FieldError::invalid(path.key(key), Value::Null, why);
    Some(shown(fault, "\"<secret contents redacted>\"".to_owned()))
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    immutable(&mut errors, Path::new("type"), new.get("type"), old.get("type"));
    frozen(new, old, &["data"], &mut errors);
    errors.extend(validate_create(new));
    errors
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    vec![
        table::name(object),
        get::text(object, "/type").into(),
        get::entries(object, "/data").count().into(),
        table::age(object, now),
    ]
}
