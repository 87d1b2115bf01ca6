//! `Status`: how a Kubernetes API server says no (and, for some deletes, yes), with upstream's reasons, details and sentences.
//!
//! A constructor a kind of answer, as `k8s.io/apimachinery/pkg/api/errors` has them. The texts are an interface: people grep for them,
//! and clients decide by `reason`, `details` and `causes`. `resource` arguments are plural names (`services`), `kind` arguments kinds.

use std::fmt;

use serde_json::{Map, Value};

use crate::field::FieldError;
use crate::go;

/// An answer that is about the request rather than an object; serialised by [`Status::to_value`], carried as an error until the HTTP edge.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason, such as `NotFound`; empty for a success.
    pub reason: &'static str,
    pub message: String,
    pub details: Option<Box<Details>>,
    /// Where an expired list may go on, at another version; else empty.
    pub continuation: String,
}

/// What the status is about. Empty texts and zero are left out of the JSON.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// A kind or a plural resource name: upstream uses both.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: u32,
}

/// One of several reasons.
#[derive(Debug, Clone, PartialEq)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

impl Status {
    fn failure(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Status { code, reason, message: message.into(), details: None, continuation: String::new() }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        self.details =
            Some(Box::new(Details { name: name.into(), group: group.into(), kind: kind.into(), ..Details::default() }));
        self
    }

    /// `services "a" not found`
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} not found", qualified(group, resource), go::quote(name));
        Status::failure(404, "NotFound", message).about(group, resource, name)
    }

    /// No such resource, or a path that no handler knows.
    pub fn no_such_resource() -> Self {
        Status::failure(404, "NotFound", "the server could not find the requested resource").about("", "", "")
    }

    /// `services "a" already exists`
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} already exists", qualified(group, resource), go::quote(name));
        Status::failure(409, "AlreadyExists", message).about(group, resource, name)
    }

    /// A create with `generateName` whose every try met an existing name.
    pub fn generate_name_conflict(group: &str, resource: &str, name: &str) -> Self {
        let mut status = Status::already_exists(group, resource, name);
        status.message.push_str(", the server was not able to generate a unique name for the object");
        status.with_retry_after(1)
    }

    /// `Operation cannot be fulfilled on services "a": …`
    pub fn conflict(group: &str, resource: &str, name: &str, why: impl fmt::Display) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} {}: {why}", qualified(group, resource), go::quote(name));
        Status::failure(409, "Conflict", message).about(group, resource, name)
    }

    /// The conflict of an update that carries an old `resourceVersion`.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Status::conflict(group, resource, name, why)
    }

    /// Server-side apply met fields of other managers.
    pub fn apply_conflict(message: impl Into<String>, causes: Vec<Cause>) -> Self {
        let mut status = Status::failure(409, "Conflict", message);
        status.details = Some(Box::new(Details { causes, ..Details::default() }));
        status
    }

    /// `Service "a" is invalid: …`, with every field error as a cause.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let message = format!("{} {} is invalid: {}", qualified(group, kind), go::quote(name), aggregate(errors));
        let mut status = Status::failure(422, "Invalid", message).about(group, kind, name);
        if let Some(details) = &mut status.details {
            details.causes = errors
                .iter()
                .map(|error| Cause {
                    reason: error.kind.reason().to_owned(),
                    message: error.body(),
                    field: error.path.to_string(),
                })
                .collect();
        }
        status
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Status::failure(400, "BadRequest", message)
    }

    pub fn unauthorized(message: &str) -> Self {
        Status::failure(401, "Unauthorized", if message.is_empty() { "Unauthorized" } else { message })
    }

    /// `services "a" is forbidden: …`; without a name the resource alone, without a resource only the reason.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: impl fmt::Display) -> Self {
        let message = match (resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{} is forbidden: {why}", qualified(group, resource)),
            (_, _) => format!("{} {} is forbidden: {why}", qualified(group, resource), go::quote(name)),
        };
        Status::failure(403, "Forbidden", message).about(group, resource, name)
    }

    /// A verb that the resource does not have: `patch is not supported on resources of kind "…"`.
    pub fn method_not_supported(group: &str, resource: &str, action: &str) -> Self {
        let message =
            format!("{action} is not supported on resources of kind {}", go::quote(&qualified(group, resource)));
        Status::failure(405, "MethodNotAllowed", message).about(group, resource, "")
    }

    /// An HTTP method that the path does not have.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Status::failure(405, "MethodNotAllowed", message).about("", "", "")
    }

    /// None of the media types in `Accept` is one of `available`.
    pub fn not_acceptable(available: &[&str]) -> Self {
        let message = format!("406: Not Acceptable\n\nAvailable representations: {}", available.join(", "));
        Status::failure(406, "NotAcceptable", message).about("", "", "")
    }

    /// The body's `Content-Type` is none of `accepted`.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Status::failure(415, "UnsupportedMediaType", message)
    }

    /// A patch with a `Content-Type` that is no patch type.
    pub fn unsupported_patch_type() -> Self {
        Status::failure(415, "UnsupportedMediaType", "415: Unsupported Media Type").about("", "", "")
    }

    /// A JSON patch whose operations do not fit the object.
    pub fn rejected_patch() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Status::failure(422, "Invalid", message).about("", "", "")
    }

    /// A watch or continue token from before the oldest revision that is still kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Status::failure(410, "Expired", message)
    }

    pub fn gone(message: impl Into<String>) -> Self {
        Status::failure(410, "Gone", message)
    }

    pub fn entity_too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Status::failure(413, "RequestEntityTooLarge", message)
    }

    /// 429 with `Retry-After`; also how an eviction says that a disruption budget forbids it now.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Status::failure(429, "TooManyRequests", message).with_retry_after(retry_after_seconds)
    }

    /// `Timeout: …`
    pub fn timeout(message: impl fmt::Display, retry_after_seconds: u32) -> Self {
        Status::failure(504, "Timeout", format!("Timeout: {message}")).with_retry_after(retry_after_seconds)
    }

    /// The server could not finish the operation now.
    pub fn server_timeout(group: &str, resource: &str, operation: &str, retry_after_seconds: u32) -> Self {
        let message = format!(
            "The {operation} operation against {} could not be completed at this time, please try again.",
            qualified(group, resource)
        );
        Status::failure(500, "ServerTimeout", message)
            .about(group, resource, operation)
            .with_retry_after(retry_after_seconds)
    }

    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Status::failure(503, "ServiceUnavailable", message)
    }

    /// `Internal error occurred: …`
    pub fn internal(error: impl fmt::Display) -> Self {
        let mut status = Status::failure(500, "InternalError", format!("Internal error occurred: {error}"));
        let cause = Cause { reason: String::new(), message: error.to_string(), field: String::new() };
        status.details = Some(Box::new(Details { causes: vec![cause], ..Details::default() }));
        status
    }

    /// The answer to a delete that left nothing behind.
    pub fn deleted(group: &str, resource: &str, name: &str, uid: &str) -> Self {
        let mut status = Status::failure(200, "", "").about(group, resource, name);
        if let Some(details) = &mut status.details {
            details.uid = uid.to_owned();
        }
        status
    }

    /// A success about nothing in particular, as for a collection that was deleted.
    pub fn success() -> Self {
        Status::failure(200, "", "")
    }

    /// Clients wait so long before they try again.
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_with(Box::default).retry_after_seconds = seconds;
        self
    }

    pub fn is_success(&self) -> bool {
        self.code < 400
    }

    /// The object as it goes over the wire.
    pub fn to_value(&self) -> Value {
        let mut object = Map::new();
        object.insert("kind".into(), "Status".into());
        object.insert("apiVersion".into(), "v1".into());
        let mut metadata = Map::new();
        put(&mut metadata, "continue", &self.continuation);
        object.insert("metadata".into(), metadata.into());
        object.insert("status".into(), if self.is_success() { "Success" } else { "Failure" }.into());
        put(&mut object, "message", &self.message);
        put(&mut object, "reason", self.reason);
        if let Some(details) = &self.details {
            object.insert("details".into(), details.to_value());
        }
        object.insert("code".into(), self.code.into());
        Value::Object(object)
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut object = Map::new();
        put(&mut object, "name", &self.name);
        put(&mut object, "group", &self.group);
        put(&mut object, "kind", &self.kind);
        put(&mut object, "uid", &self.uid);
        if !self.causes.is_empty() {
            object.insert("causes".into(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after_seconds > 0 {
            object.insert("retryAfterSeconds".into(), self.retry_after_seconds.into());
        }
        Value::Object(object)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut object = Map::new();
        put(&mut object, "reason", &self.reason);
        put(&mut object, "message", &self.message);
        put(&mut object, "field", &self.field);
        Value::Object(object)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

fn put(object: &mut Map<String, Value>, name: &str, text: &str) {
    if !text.is_empty() {
        object.insert(name.into(), text.into());
    }
}

/// `deployments.apps`; the core group adds nothing.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

/// One error as it is, several in brackets, none twice.
fn aggregate(errors: &[FieldError]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for text in errors.iter().map(FieldError::to_string) {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.as_slice() {
        // Upstream prints a nil aggregate so.
        [] => "<nil>".to_owned(),
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::field::Path;

    #[test]
    fn not_found_is_upstreams() {
        let expected = json!({"apiVersion": "v1", "code": 404, "details": {"kind": "services", "name": "zz"}, "kind": "Status",
            "message": "services \"zz\" not found", "metadata": {}, "reason": "NotFound", "status": "Failure"});
        assert_eq!(Status::not_found("", "services", "zz").to_value(), expected);
        assert_eq!(Status::not_found("apps", "deployments", "d").to_string(), "deployments.apps \"d\" not found");
    }

    #[test]
    fn conflict_tells_to_try_again() {
        let expected = json!({"apiVersion": "v1", "code": 409, "details": {"kind": "services", "name": "a"}, "kind": "Status",
            "message": "Operation cannot be fulfilled on services \"a\": the object has been modified; please apply your changes \
             to the latest version and try again", "metadata": {}, "reason": "Conflict", "status": "Failure"});
        assert_eq!(Status::modified("", "services", "a").to_value(), expected);
    }

    #[test]
    fn invalid_has_every_cause_and_each_sentence_once() {
        let uid = || FieldError::invalid(Path::new("metadata").child("uid"), "x", "field is immutable");
        let status = Status::invalid("", "Service", "a", &[uid(), uid()]);
        assert_eq!(status.message, "Service \"a\" is invalid: metadata.uid: Invalid value: \"x\": field is immutable");
        let value = status.to_value();
        assert_eq!(value["details"]["causes"].as_array().unwrap().len(), 2);
        let other = FieldError::required(Path::new("spec"), "");
        let status = Status::invalid("networking.k8s.io", "Ingress", "i", &[uid(), other]);
        assert_eq!(
            status.message,
            "Ingress.networking.k8s.io \"i\" is invalid: [metadata.uid: Invalid value: \"x\": field is immutable, spec: Required value]"
        );
    }

    #[test]
    fn statuses_about_nothing_keep_empty_details_as_upstream_does() {
        assert_eq!(Status::method_not_allowed().to_value()["details"], json!({}));
        assert_eq!(Status::bad_request("x").to_value().get("details"), None);
        assert_eq!(Status::success().to_value()["status"], "Success");
    }
}
