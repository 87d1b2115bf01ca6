//! IPAddress: one allocated cluster address and whose it is.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::common::errors::{immutable, invalid_all};
use super::common::internal::{PARENT, as_struct};
use super::common::{get, meta, names, table};
use super::{Column, Kind, NameRule, Rules, Scope};

pub const KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "IPAddress",
    plural: "ipaddresses",
    singular: "ipaddress",
    short_names: &["ip"],
    rules: Rules { validate_create, validate_update, name: NameRule::Address, ..Rules::GENERIC },
    columns: &[Column::NAME, Column::text("ParentRef", "Object that holds the address")],
    cells,
    ..Kind::CLUSTER
};

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::check(object, NameRule::Address, Scope::Cluster);
    let path = Path::new("spec").child("parentRef");
    let Some(parent) = object.pointer("/spec/parentRef").filter(|found| found.is_object()) else {
        errors.push(FieldError::required(path, ""));
        return errors;
    };
    let group = get::text(parent, "/group");
    if !group.is_empty() {
        invalid_all(&mut errors, &path.child("group"), group, names::dns_subdomain(group));
    }
    for field in ["resource", "name"] {
        let value = get::text(parent, &format!("/{field}"));
        if value.is_empty() {
            errors.push(FieldError::required(path.child(field), ""));
        } else {
            invalid_all(&mut errors, &path.child(field), value, names::path_segment(value));
        }
    }
    let namespace = get::text(parent, "/namespace");
    if !namespace.is_empty() {
        invalid_all(&mut errors, &path.child("namespace"), namespace, names::path_segment(namespace));
    }
    errors
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    let path = Path::new("spec").child("parentRef");
    let mut moved = Vec::new();
    immutable(&mut moved, path, new.pointer("/spec/parentRef"), old.pointer("/spec/parentRef"));
    errors.extend(moved.into_iter().map(|fault| as_struct(fault, PARENT)));
    errors
}

fn cells(object: &Value, _now: i64) -> Vec<Value> {
    let parent = object.pointer("/spec/parentRef").filter(|found| found.is_object()).map(|parent| {
        let part = |field: &str| get::text(parent, field);
        let resource = match part("/group") {
            "" => part("/resource").to_lowercase(),
            group => format!("{}.{group}", part("/resource")).to_lowercase(),
        };
        match part("/namespace") {
            "" => format!("{resource}/{}", part("/name")),
            namespace => format!("{resource}/{namespace}/{}", part("/name")),
        }
    });
    vec![table::name(object), table::or_none(&parent.unwrap_or_default())]
}
