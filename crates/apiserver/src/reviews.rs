//! Questions that are answered and not stored: who am I, may I, is this token good.

use api::field::{FieldError, Path};
use api::status::Status;
use serde_json::{Value, json};

use crate::Server;
use crate::auth::{Attributes, User, token};
use crate::fault::{Fault, Outcome};

/// A kind of question.
#[derive(Debug)]
pub(crate) struct Review {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) namespaced: bool,
    /// The status, from who asks, what, and in which namespace.
    pub(crate) answer: fn(&Server, &User, &Value, &str) -> Outcome<Value>,
}

/// A question about the cluster as a whole.
const QUESTION: Review =
    Review { group: "", version: "v1", kind: "", plural: "", singular: "", namespaced: false, answer: self_subject };
const AUTHENTICATION: Review = Review { group: "authentication.k8s.io", ..QUESTION };
const AUTHORIZATION: Review = Review { group: "authorization.k8s.io", ..QUESTION };

/// All of them.
pub(crate) static REVIEWS: &[Review] = &[
    Review {
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        answer: self_subject,
        ..AUTHENTICATION
    },
    Review {
        kind: "TokenReview",
        plural: "tokenreviews",
        singular: "tokenreview",
        answer: token_review,
        ..AUTHENTICATION
    },
    Review {
        kind: "LocalSubjectAccessReview",
        plural: "localsubjectaccessreviews",
        singular: "localsubjectaccessreview",
        namespaced: true,
        answer: local_access,
        ..AUTHORIZATION
    },
    Review {
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        answer: self_access,
        ..AUTHORIZATION
    },
    Review {
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        answer: self_rules,
        ..AUTHORIZATION
    },
    Review {
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        answer: subject_access,
        ..AUTHORIZATION
    },
];

pub(crate) fn review_at(group: &str, version: &str, plural: &str) -> Option<&'static Review> {
    REVIEWS.iter().find(|review| review.group == group && review.version == version && review.plural == plural)
}

fn shown(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.clone().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn self_subject(_server: &Server, user: &User, _object: &Value, _: &str) -> Outcome<Value> {
    Ok(json!({"userInfo": shown(user)}))
}

fn token_review(server: &Server, _user: &User, object: &Value, _: &str) -> Outcome<Value> {
    let audiences = texts(&object["spec"]["audiences"]);
    let token = object["spec"]["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(Fault::bad_request("token is required for TokenReview in authentication"));
    }
    Ok(match token::user(server, token, &audiences) {
        Some(user) => json!({"authenticated": true, "user": shown(&user), "audiences": audiences}),
        None => json!({"user": {}, "error": "invalid bearer token"}),
    })
}

fn self_access(server: &Server, user: &User, object: &Value, _: &str) -> Outcome<Value> {
    let mut errors = asked(object);
    unnamed(object, &[], "must be empty", &mut errors);
    judge("SelfSubjectAccessReview", errors)?;
    Ok(verdict(server, user, &object["spec"]))
}

fn subject_access(server: &Server, _user: &User, object: &Value, _: &str) -> Outcome<Value> {
    let mut errors = asked(object);
    about_someone(object, &mut errors);
    unnamed(object, &[], "must be empty", &mut errors);
    judge("SubjectAccessReview", errors)?;
    Ok(of_subject(server, object))
}

/// The same within the namespace of the path.
fn local_access(server: &Server, _user: &User, object: &Value, namespace: &str) -> Outcome<Value> {
    let mut errors = asked(object);
    about_someone(object, &mut errors);
    unnamed(object, &["namespace"], "must be empty except for namespace", &mut errors);
    let spec = Path::new("spec");
    let given = object["metadata"]["namespace"].as_str().unwrap_or_default();
    if !given.is_empty() && given != namespace {
        return Err(Fault::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let wanted = object["spec"]["resourceAttributes"]["namespace"].as_str().unwrap_or_default();
    if object["spec"]["resourceAttributes"].is_object() && wanted != namespace {
        let path = spec.child("resourceAttributes").child("namespace");
        errors.push(FieldError::invalid(path, wanted, "must match metadata.namespace"));
    }
    if let Some(paths) = object["spec"].get("nonResourceAttributes") {
        let path = spec.child("nonResourceAttributes");
        errors.push(FieldError::invalid(path, paths.clone(), "disallowed on this kind of request"));
    }
    judge("LocalSubjectAccessReview", errors)?;
    Ok(of_subject(server, object))
}

fn judge(kind: &str, errors: Vec<FieldError>) -> Outcome<()> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid("authorization.k8s.io", kind, "", &errors).into())
}

/// A question is about a resource or about a path.
fn asked(object: &Value) -> Vec<FieldError> {
    let spec = &object["spec"];
    let path = Path::new("spec");
    let (resource, paths) = (spec.get("resourceAttributes"), spec.get("nonResourceAttributes"));
    match (resource, paths) {
        (Some(_), Some(paths)) => {
            let detail = "cannot be specified in combination with resourceAttributes";
            vec![FieldError::invalid(path.child("nonResourceAttributes"), paths.clone(), detail)]
        }
        (None, None) => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            vec![FieldError::invalid(path.child("resourceAttributes"), Value::Null, detail)]
        }
        (Some(_), None) | (None, Some(_)) => Vec::new(),
    }
}

fn about_someone(object: &Value, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    if spec["user"].as_str().unwrap_or_default().is_empty() && texts(&spec["groups"]).is_empty() {
        let path = Path::new("spec").child("user");
        errors.push(FieldError::invalid(path, "", "at least one of user or group must be specified"));
    }
}

/// Questions have no name.
fn unnamed(object: &Value, allowed: &[&str], detail: &str, errors: &mut Vec<FieldError>) {
    let fields = object["metadata"].as_object().into_iter().flatten();
    let named = fields
        .filter(|(name, value)| !value.is_null() && *name != "managedFields" && !allowed.contains(&name.as_str()));
    if named.count() > 0 {
        errors.push(FieldError::invalid(Path::new("metadata"), object["metadata"].clone(), detail));
    }
}

fn of_subject(server: &Server, object: &Value) -> Value {
    let spec = &object["spec"];
    let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
    let user = User { name: text("user"), uid: text("uid"), groups: texts(&spec["groups"]), ..User::default() };
    verdict(server, &user, spec)
}

fn verdict(server: &Server, user: &User, spec: &Value) -> Value {
    match server.access.reason(&*server.store, user, &attributes(spec)) {
        Some(reason) if reason.is_empty() => json!({"allowed": true}),
        Some(reason) => json!({"allowed": true, "reason": reason}),
        None => json!({"allowed": false}),
    }
}

fn attributes(spec: &Value) -> Attributes {
    let resource = &spec["resourceAttributes"];
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    if resource.is_object() {
        return Attributes {
            verb: text(resource, "verb"),
            group: text(resource, "group"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: text(resource, "namespace"),
            name: text(resource, "name"),
            path: String::new(),
        };
    }
    let path = &spec["nonResourceAttributes"];
    Attributes { verb: text(path, "verb"), path: text(path, "path"), ..Attributes::default() }
}

/// What a user may do in a namespace, as rules.
fn self_rules(server: &Server, user: &User, object: &Value, _: &str) -> Outcome<Value> {
    let namespace = object["spec"]["namespace"].as_str().unwrap_or_default();
    if namespace.is_empty() {
        return Err(Fault::bad_request("no namespace on request"));
    }
    let (resources, paths) = server.access.rules(&*server.store, user, namespace);
    Ok(json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false}))
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}
