//! Where in an object something is wrong, and what: the field errors of Kubernetes' validation, in its words.
//!
//! The texts are an interface: people grep for them and tools parse the causes of a `Status`. Rendering follows
//! `k8s.io/apimachinery/pkg/util/validation/field`; the rules that produce the errors live with each kind.

use std::fmt;

use serde_json::Value;

use crate::go;

/// A path to a field, as `spec.ports[0].port` or `metadata.labels[a/b]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(String);

impl Path {
    /// The path of a top-level field.
    pub fn new(name: &str) -> Self {
        Path(name.to_owned())
    }

    /// The object itself: upstream's path of a field without a name, which it prints as an index that is none.
    pub fn root() -> Self {
        Path("[]".to_owned())
    }

    /// A field below this one. Dots in `name` are taken as written: `child("spec.ports")` descends twice.
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Path(name.to_owned()) } else { Path(format!("{}.{name}", self.0)) }
    }

    /// An element of a list.
    pub fn index(&self, index: usize) -> Self {
        Path(format!("{}[{index}]", self.0))
    }

    /// An entry of a map.
    pub fn key(&self, key: &str) -> Self {
        Path(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Upstream prints an absent path as `<nil>`.
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// What kind of fault a field has; `reason()` is the word that `Status` causes carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    Required,
    NotFound,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TypeInvalid,
    Internal,
}

impl ErrorKind {
    /// The machine-readable reason, such as `FieldValueInvalid`.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::Invalid => "FieldValueInvalid",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::TypeInvalid => "FieldValueTypeInvalid",
            ErrorKind::Internal => "InternalError",
        }
    }

    fn words(self) -> &'static str {
        match self {
            ErrorKind::Required => "Required value",
            ErrorKind::NotFound => "Not found",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::Invalid | ErrorKind::TypeInvalid => "Invalid value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooMany => "Too many",
            ErrorKind::Internal => "Internal error",
        }
    }
}

/// One fault of one field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    pub kind: ErrorKind,
    pub path: Path,
    /// What stood there; printed for the kinds that name the value.
    pub value: Value,
    /// How the value is printed, where that is not its own JSON; empty leaves it out.
    pub shown: Option<String>,
    /// What would be right; may be empty.
    pub detail: String,
}

impl FieldError {
    pub fn required(path: Path, detail: impl Into<String>) -> Self {
        FieldError { kind: ErrorKind::Required, path, value: Value::Null, shown: None, detail: detail.into() }
    }

    pub fn invalid(path: Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        FieldError { kind: ErrorKind::Invalid, path, value: value.into(), shown: None, detail: detail.into() }
    }

    pub fn forbidden(path: Path, detail: impl Into<String>) -> Self {
        FieldError { kind: ErrorKind::Forbidden, path, value: Value::Null, shown: None, detail: detail.into() }
    }

    pub fn not_found(path: Path, value: impl Into<Value>) -> Self {
        FieldError { kind: ErrorKind::NotFound, path, value: value.into(), shown: None, detail: String::new() }
    }

    pub fn duplicate(path: Path, value: impl Into<Value>) -> Self {
        FieldError { kind: ErrorKind::Duplicate, path, value: value.into(), shown: None, detail: String::new() }
    }

    /// An enumeration that does not know the value; `supported` is printed sorted, as upstream does.
    pub fn not_supported(path: Path, value: impl Into<Value>, supported: &[&str]) -> Self {
        let mut known: Vec<&str> = supported.to_vec();
        known.sort_unstable();
        let quoted: Vec<String> = known.iter().map(|s| go::quote(s)).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        FieldError { kind: ErrorKind::NotSupported, path, value: value.into(), shown: None, detail }
    }

    pub fn too_long(path: Path, max: usize) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        FieldError {
            kind: ErrorKind::TooLong,
            path,
            value: Value::Null,
            shown: None,
            detail: format!("may not be more than {max} {unit}"),
        }
    }

    pub fn too_many(path: Path, actual: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        FieldError {
            kind: ErrorKind::TooMany,
            path,
            value: actual.into(),
            shown: None,
            detail: format!("must have at most {max} {unit}"),
        }
    }

    /// The message without the path: what a `Status` cause carries.
    pub fn body(&self) -> String {
        let words = self.kind.words();
        let head = match self.kind {
            ErrorKind::Required | ErrorKind::Forbidden | ErrorKind::TooLong | ErrorKind::Internal => words.to_owned(),
            ErrorKind::NotFound
            | ErrorKind::Duplicate
            | ErrorKind::Invalid
            | ErrorKind::NotSupported
            | ErrorKind::TooMany
            | ErrorKind::TypeInvalid => {
                match self.shown.as_deref() {
                    // A value that is not worth showing.
                    Some("") => words.to_owned(),
                    Some(text) => format!("{words}: {text}"),
                    None => format!("{words}: {}", shown(&self.value)),
                }
            }
        };
        if self.detail.is_empty() { head } else { format!("{head}: {}", self.detail) }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// A value as upstream prints it: strings quoted, numbers and booleans bare, the rest as JSON.
fn shown(value: &Value) -> String {
    match value {
        // Upstream takes the word for a text.
        Value::Null => "\"null\"".to_owned(),
        Value::String(text) => go::quote(text),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => go::json(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_upstream_prints_them() {
        let port = Path::new("spec").child("ports").index(0).child("port");
        let invalid = FieldError::invalid(port, 0, "must be between 1 and 65535, inclusive");
        assert_eq!(invalid.to_string(), "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive");
        let unknown = FieldError::not_supported(Path::new("spec").child("type"), "X", &["NodePort", "ClusterIP"]);
        assert_eq!(
            unknown.to_string(),
            r#"spec.type: Unsupported value: "X": supported values: "ClusterIP", "NodePort""#
        );
        assert_eq!(FieldError::required(Path::new("spec"), "").to_string(), "spec: Required value");
    }
}
