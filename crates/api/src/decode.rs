//! Bodies to objects, as strict as upstream: unknown and repeated fields are found with their paths, wrong types refused in Go's words.
//!
//! The schema drives the JSON reader, so nothing is held that the type does not have. What comes out is canonical. `fieldValidation` says
//! whether unknown and repeated fields are ignored, warned of or refused; a value of a wrong type is always refused.

mod faults;
mod reader;
mod restore;

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::canonical::canonicalize;
use crate::field::{FieldError, Path};
use crate::go::quote;
use crate::schema::{self, Type};
use crate::status::Status;

pub use faults::{called, syntax_fault};
use reader::{Expected, Seed, State};

/// The `fieldValidation` parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl FieldValidation {
    /// `None` for a word that is no choice; absent or empty means `Warn`.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "" | "Warn" => Some(FieldValidation::Warn),
            "Ignore" => Some(FieldValidation::Ignore),
            "Strict" => Some(FieldValidation::Strict),
            _ => None,
        }
    }
}

/// The kind that a request's path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
}

/// An object in canonical form, and what a `Warning` header should say of its source.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    pub object: Value,
    pub warnings: Vec<String>,
}

/// Decodes a JSON body. A body without `apiVersion` and `kind` is taken for the wanted kind.
pub fn json(body: &[u8], wanted: Kind<'_>, validation: FieldValidation) -> Result<Decoded, Status> {
    let head: Head = serde_json::from_slice(body).map_err(|error| {
        let fault = faults::head_fault(body, &error);
        let summary = summary(body);
        let kind = wanted.kind;
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: {fault} ({summary})"
        ))
    })?;
    let of = check_kind(&head, wanted)?;
    let mut state = State::default();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let read = Seed { expected: Expected::Message(of), state: &mut state }
        .deserialize(&mut deserializer)
        .and_then(|object| deserializer.end().map(|()| object));
    let object = read.map_err(|error| cannot_be_handled(wanted, &syntax_fault(body, &error)))?;
    finish(of, object, state, wanted, validation, |fault| cannot_be_handled(wanted, fault))
}

/// The same for a body that is no JSON text, such as YAML read into a value.
pub fn value(body: &Value, wanted: Kind<'_>, validation: FieldValidation) -> Result<Decoded, Status> {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let of = check_kind(&Head { api_version: text("apiVersion"), kind: text("kind") }, wanted)?;
    let (object, state) = read_value(of, body);
    finish(of, object, state, wanted, validation, |fault| cannot_be_handled(wanted, fault))
}

/// The result of a JSON or merge patch, which upstream refuses in another way: the message quotes all of it.
pub fn patched(object: &Value, wanted: Kind<'_>, validation: FieldValidation) -> Result<Decoded, Status> {
    let of = wanted_type(wanted)?;
    let (read, state) = read_value(of, object);
    finish(of, read, state, wanted, validation, |fault| refused_patch(crate::go::json(object), fault))
}

/// The result of a strategic merge patch: the message quotes `patch`, and has other words for wrong types.
pub fn merged(object: &Value, patch: &Value, wanted: Kind<'_>, validation: FieldValidation) -> Result<Decoded, Status> {
    let of = wanted_type(wanted)?;
    let refuse = |fault: &str| refused_patch(crate::go::text(patch), fault);
    if let Some(fault) = restore::fault(of, object) {
        return Err(refuse(&fault));
    }
    let (read, state) = read_value(of, object);
    finish(of, read, state, wanted, validation, refuse)
}

fn refused_patch(shown: String, fault: &str) -> Status {
    Status::invalid("", "", "", &[FieldError::invalid(Path::new("patch"), shown, fault)])
}

fn read_value(of: &'static Type, value: &Value) -> (Value, State) {
    let mut state = State::default();
    // A value is no text: its reader has no syntax to fail on.
    let object = Seed { expected: Expected::Message(of), state: &mut state }.deserialize(value).unwrap_or(Value::Null);
    (object, state)
}

fn finish(
    of: &'static Type,
    mut object: Value,
    state: State,
    wanted: Kind<'_>,
    validation: FieldValidation,
    refuse: impl Fn(&str) -> Status,
) -> Result<Decoded, Status> {
    if let Some(fault) = state.wrong_type {
        return Err(refuse(&fault));
    }
    let warnings = match validation {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => state.strict,
        FieldValidation::Strict if state.strict.is_empty() => Vec::new(),
        FieldValidation::Strict => return Err(refuse(&format!("strict decoding error: {}", state.strict.join(", ")))),
    };
    if let Value::Object(fields) = &mut object {
        fields.insert("apiVersion".to_owned(), api_version(wanted.group, wanted.version).into());
        fields.insert("kind".to_owned(), wanted.kind.into());
    }
    canonicalize(of, &mut object);
    Ok(Decoded { object, warnings })
}

/// What a body says that it is. Read by hand: a derived reader would take a list for a struct, and refuse a repeated field.
struct Head {
    api_version: String,
    kind: String,
}

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Head;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Head, A::Error> {
                let mut head = Head { api_version: String::new(), kind: String::new() };
                while let Some(key) = entries.next_key::<String>()? {
                    match key.as_str() {
                        "apiVersion" => head.api_version = entries.next_value::<Option<String>>()?.unwrap_or_default(),
                        "kind" => head.kind = entries.next_value::<Option<String>>()?.unwrap_or_default(),
                        _ => drop(entries.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(head)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// The type to read, if the body says the kind that the path wants.
fn check_kind(head: &Head, wanted: Kind<'_>) -> Result<&'static Type, Status> {
    let wanted_version = api_version(wanted.group, wanted.version);
    let version = if head.api_version.is_empty() { wanted_version.as_str() } else { &head.api_version };
    let kind = if head.kind.is_empty() { wanted.kind } else { &head.kind };
    if version == wanted_version && kind == wanted.kind {
        return wanted_type(wanted);
    }
    let why = match schema::kind_of(version, kind) {
        Some(of) => {
            let package = version.rsplit('/').next().unwrap_or(version);
            let (name, internal) = (of.name, internal_package(wanted.group));
            format!("converting ({package}.{name}) to ({internal}.{}): unknown conversion", wanted.kind)
        }
        None => format!(
            "no kind {} is registered for version {} in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
            quote(kind),
            quote(version)
        ),
    };
    let wanted = wanted.kind;
    Err(Status::bad_request(format!("{kind} in version {} cannot be handled as a {wanted}: {why}", quote(version))))
}

fn wanted_type(wanted: Kind<'_>) -> Result<&'static Type, Status> {
    schema::kind(wanted.group, wanted.version, wanted.kind)
        .ok_or_else(|| Status::internal(format!("no schema of kind {:?} in version {:?}", wanted.kind, wanted.version)))
}

fn cannot_be_handled(wanted: Kind<'_>, fault: &str) -> Status {
    let version = api_version(wanted.group, wanted.version);
    let kind = wanted.kind;
    Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {fault}"))
}

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// The Go package of the unversioned types.
fn internal_package(group: &str) -> &str {
    match group {
        "" => "core",
        group => group.split('.').next().unwrap_or(group),
    }
}

/// The first bytes of a body that could not be read: text if it looks like JSON, else hexadecimal.
fn summary(body: &[u8]) -> String {
    const LENGTH: usize = 30;
    let start = body.get(..LENGTH).unwrap_or(body);
    let more = if body.len() > LENGTH { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(start)),
        Some(_) => format!("{}{more}", start.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

#[cfg(test)]
mod tests;
