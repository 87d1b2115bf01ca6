//! What every write has in common: its options, its body, and the steps between a body and an object that may be stored.

use std::sync::Arc;

use api::apply::manager_name;
use api::decode::{self, FieldValidation};
use api::field::{FieldError, Path};
use bytes::Bytes;
use http::Method;
use http::header::USER_AGENT;
use http::request::Parts;
use serde_json::Value;

use crate::auth::User;
use crate::body::{self, Encoding};
use crate::fault::{Fault, Outcome};
use crate::kinds::{Kind, Scope};
use crate::object;
use crate::query::Query;

/// The options that create, update and patch share.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    /// Who is said to own the fields that this write sets.
    pub(crate) manager: String,
    pub(crate) validation: FieldValidation,
    /// Takes fields from other managers (apply only).
    pub(crate) force: bool,
    /// Who writes; nobody when it is the server itself.
    pub(crate) user: Option<Arc<User>>,
}

/// An object as it is after a write.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) object: Value,
    pub(crate) warnings: Vec<String>,
    pub(crate) created: bool,
}

impl WriteOptions {
    /// Those of the server's own writes.
    pub(crate) fn own() -> WriteOptions {
        WriteOptions {
            dry_run: false,
            manager: "kube-apiserver".to_owned(),
            validation: FieldValidation::Ignore,
            force: false,
            user: None,
        }
    }

    pub(crate) fn of(query: &Query, parts: &Parts, user: Arc<User>) -> Outcome<WriteOptions> {
        let agent = parts.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let given = query.text("fieldManager");
        let mut errors = Vec::new();
        let kind = match parts.method {
            Method::PATCH => {
                let apply = body::media_type(&parts.headers).starts_with("application/apply-patch");
                apply_options(query, apply, &mut errors);
                "PatchOptions"
            }
            Method::PUT => "UpdateOptions",
            _ => "CreateOptions",
        };
        manager_faults(given, &mut errors);
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let validation = FieldValidation::parse(query.text("fieldValidation")).unwrap_or_else(|| {
            let path = Path::new("fieldValidation");
            let supported = ["", "Ignore", "Strict", "Warn"];
            errors.push(FieldError::not_supported(path, query.text("fieldValidation"), &supported));
            FieldValidation::Strict
        });
        if !errors.is_empty() {
            return Err(Fault::invalid_options(kind, &errors));
        }
        let manager = manager_name(given, agent);
        Ok(WriteOptions { dry_run, manager, validation, force: query.flag("force"), user: Some(user) })
    }
}

/// What only an apply may say, and what it must.
fn apply_options(query: &Query, apply: bool, errors: &mut Vec<FieldError>) {
    if !apply && query.get("force").is_some() {
        errors.push(FieldError::forbidden(Path::new("force"), "may not be specified for non-apply patch"));
    }
    if apply && query.text("fieldManager").is_empty() {
        errors.push(FieldError::required(Path::new("fieldManager"), "is required for apply patch"));
    }
}

fn manager_faults(manager: &str, errors: &mut Vec<FieldError>) {
    const LONGEST: usize = 128;
    let path = Path::new("fieldManager");
    if manager.len() > LONGEST {
        errors.push(FieldError::too_long(path.clone(), LONGEST));
    }
    for (at, character) in manager.char_indices().filter(|(_, character)| character.is_control()) {
        let detail = format!("invalid character U+{:04X} (at position {at})", u32::from(character));
        errors.push(FieldError::invalid(path.clone(), manager, detail));
    }
}

/// `dryRun` may only say `All`.
pub(crate) fn dry_run<'a>(given: impl Iterator<Item = &'a str>, errors: &mut Vec<FieldError>) -> bool {
    let given: Vec<&str> = given.filter(|value| !value.is_empty()).collect();
    if given.iter().any(|value| *value != "All") {
        let fault = FieldError::not_supported(Path::new("dryRun"), "", &["All"]);
        errors.push(FieldError { value: serde_json::json!(given), ..fault });
    }
    !given.is_empty()
}

/// The object in a body, and what there is to warn about.
pub(crate) fn decode(
    kind: &'static Kind,
    body: &Bytes,
    encoding: Encoding,
    validation: FieldValidation,
) -> Outcome<(Value, Vec<String>)> {
    decode_as(object::wanted(kind), body, encoding, validation)
}

/// The same for what is no object of the table, such as a question or a binding.
pub(crate) fn decode_as(
    wanted: decode::Kind<'_>,
    body: &Bytes,
    encoding: Encoding,
    validation: FieldValidation,
) -> Outcome<(Value, Vec<String>)> {
    let decoded = match encoding {
        Encoding::Json => decode::json(body, wanted, validation)?,
        Encoding::Yaml => decode::value(&body::yaml(body)?, wanted, validation)?,
        // Protobuf has no names to mistype; what it does not know it skips.
        Encoding::Protobuf => decode::value(&crate::wire::decode(body)?, wanted, FieldValidation::Ignore)?,
    };
    Ok((decoded.object, decoded.warnings))
}

/// A body as a value, whatever it says it is.
pub(crate) fn parse(body: &Bytes, encoding: Encoding) -> Outcome<Value> {
    match encoding {
        Encoding::Json => serde_json::from_slice(body).map_err(|error| Fault::bad_request(error.to_string())),
        Encoding::Yaml => body::yaml(body),
        Encoding::Protobuf => crate::wire::decode(body),
    }
}

/// The namespace and the name that the path says go into the object, which must not say otherwise.
pub(crate) fn address(kind: &Kind, namespace: &str, name: Option<&str>, object: &mut Value) -> Outcome<()> {
    let given = object::namespace(object);
    match kind.scope {
        Scope::Namespaced if given.is_empty() => object::set_meta(object, "namespace", namespace),
        Scope::Namespaced if given == namespace => {}
        Scope::Namespaced => {
            return Err(Fault::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        Scope::Cluster => object::remove_meta(object, "namespace"),
    }
    let Some(name) = name else { return Ok(()) };
    match object::name(object) {
        "" => object::set_meta(object, "name", name),
        given if given == name => {}
        given => {
            return Err(Fault::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
    }
    Ok(())
}
