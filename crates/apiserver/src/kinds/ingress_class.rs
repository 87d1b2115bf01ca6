//! IngressClass: who serves the Ingresses that name it.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::common::errors::{immutable, invalid_all};
use super::common::{get, meta, names, table};
use super::{Column, Kind, NameRule, Rules, Scope};

pub const KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    columns: &[
        Column::NAME,
        Column::text("Controller", "Controller that serves the class"),
        Column::text("Parameters", "Object that configures the controller"),
        Column::AGE,
    ],
    cells,
    rules: Rules { default, prepare_create, prepare_update, validate_create, validate_update, ..Rules::CLUSTER },
    ..Kind::CLUSTER
};

fn default(object: &mut Value) {
    get::object_at(object, "/spec");
    get::set_default(object, "/spec/parameters/scope", "Cluster");
}

fn prepare_create(object: &mut Value) {
    get::set(object, "/metadata/generation", 1);
}

fn prepare_update(new: &mut Value, old: &Value) {
    meta::move_generation(new, old, &["/spec"]);
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = meta::check(object, NameRule::DnsSubdomain, Scope::Cluster);
    let controller = get::text(object, "/spec/controller");
    if controller.len() > 250 {
        errors.push(FieldError::too_long(path.child("controller"), 250));
    }
    domain_path(controller, &path.child("controller"), &mut errors);
    if let Some(parameters) = object.pointer("/spec/parameters").filter(|found| found.is_object()) {
        self::parameters(parameters, &path.child("parameters"), &mut errors);
    }
    errors
}

/// A domain, a slash and a path: `example.com/controller`.
fn domain_path(text: &str, path: &Path, errors: &mut Vec<FieldError>) {
    match text.split_once('/') {
        _ if text.is_empty() => errors.push(FieldError::required(path.clone(), "")),
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            invalid_all(errors, path, domain, names::dns_subdomain(domain));
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
            if !rest.bytes().all(allowed) {
                let fault = names::pattern("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[]);
                errors.push(FieldError::invalid(path.clone(), rest, fault));
            }
        }
        Some(_) | None => {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(FieldError::invalid(path.clone(), text, detail));
        }
    }
}

fn parameters(parameters: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(group) = get::text_opt(parameters, "/apiGroup") {
        invalid_all(errors, &path.child("apiGroup"), group, names::dns_subdomain(group));
    }
    for field in ["kind", "name"] {
        let value = get::text(parameters, &format!("/{field}"));
        if value.is_empty() {
            errors.push(FieldError::required(path.child(field), ""));
        } else {
            invalid_all(errors, &path.child(field), value, names::path_segment(value));
        }
    }
    let namespace = get::text(parameters, "/namespace");
    match get::text(parameters, "/scope") {
        "Namespace" if namespace.is_empty() => {
            let detail = "`parameters.scope` is set to 'Namespace'";
            errors.push(FieldError::required(path.child("namespace"), detail));
        }
        "Namespace" => invalid_all(errors, &path.child("namespace"), namespace, names::dns_label(namespace)),
        "Cluster" if !namespace.is_empty() => {
            let detail = "`parameters.scope` is set to 'Cluster'";
            errors.push(FieldError::forbidden(path.child("namespace"), detail));
        }
        "Cluster" => {}
        other => errors.push(FieldError::not_supported(path.child("scope"), other, &["Cluster", "Namespace"])),
    }
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    let path = Path::new("spec").child("controller");
    immutable(&mut errors, path, new.pointer("/spec/controller"), old.pointer("/spec/controller"));
    errors.extend(validate_create(new));
    errors
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    let parameters = object.pointer("/spec/parameters").filter(|found| found.is_object()).map(|found| {
        let group = get::text_opt(found, "/apiGroup").map(|group| format!(".{group}")).unwrap_or_default();
        format!("{}{group}/{}", get::text(found, "/kind"), get::text(found, "/name"))
    });
    vec![
        table::name(object),
        get::text(object, "/spec/controller").into(),
        table::or_none(&parameters.unwrap_or_default()),
        table::age(object, now),
    ]
}
