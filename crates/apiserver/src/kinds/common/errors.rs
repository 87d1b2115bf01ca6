//! Field errors in forms that several kinds use.

use api::field::{ErrorKind, FieldError, Path};
use serde_json::Value;

pub const IMMUTABLE: &str = "field is immutable";

/// One `Invalid value` for each message, as upstream reports every way in which a text is wrong.
pub fn invalid_all(errors: &mut Vec<FieldError>, path: &Path, value: &str, messages: Vec<String>) {
    errors.extend(messages.into_iter().map(|message| FieldError::invalid(path.clone(), value, message)));
}

/// `Unsupported value`, with the supported ones in the order given rather than sorted.
pub fn unsupported(path: Path, value: &str, supported: &[&str]) -> FieldError {
    let quoted: Vec<String> = supported.iter().map(|known| format!("{known:?}")).collect();
    let detail = format!("supported values: {}", quoted.join(", "));
    FieldError { kind: ErrorKind::NotSupported, path, value: value.into(), shown: None, detail }
}

/// The same error with its value printed as `text`: where upstream shows one of its structs, whose fields have an order and other names.
pub fn shown(error: FieldError, text: String) -> FieldError {
    FieldError { shown: Some(text), ..error }
}

/// The same error without the value.
pub fn without_value(error: FieldError) -> FieldError {
    shown(error, String::new())
}

/// `field is immutable` if the two differ; the new value is shown.
pub fn immutable(errors: &mut Vec<FieldError>, path: Path, new: Option<&Value>, old: Option<&Value>) {
    let (new, old) = (new.unwrap_or(&Value::Null), old.unwrap_or(&Value::Null));
    if new != old {
        errors.push(FieldError::invalid(path, new.clone(), IMMUTABLE));
    }
}

/// `must be greater than or equal to 0` if it is not.
pub fn non_negative(errors: &mut Vec<FieldError>, path: Path, value: Option<i64>) {
    if let Some(value) = value.filter(|value| *value < 0) {
        errors.push(FieldError::invalid(path, value, "must be greater than or equal to 0"));
    }
}

/// `must be greater than 0` if it is not.
pub fn positive(errors: &mut Vec<FieldError>, path: Path, value: Option<i64>) {
    if let Some(value) = value.filter(|value| *value <= 0) {
        errors.push(FieldError::invalid(path, value, "must be greater than 0"));
    }
}
