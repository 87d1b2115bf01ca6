//! ReplicationController: the older ReplicaSet, with a selector of labels alone.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::common::errors::non_negative;
use super::common::{get, meta, table};
use super::{Kind, NameRule, Rules, Scope, pod, replica_set};

pub const KIND: Kind = Kind {
    group: "",
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    short_names: &["rc"],
    cells,
    rules: Rules { default, validate_create, validate_update, ..replica_set::KIND.rules },
    ..replica_set::KIND
};

/// Labels and selector that were not given are the template's labels.
fn default(object: &mut Value) {
    let labels = object.pointer("/spec/template/metadata/labels").cloned();
    if let Some(labels) = labels.filter(|labels| labels.as_object().is_some_and(|all| !all.is_empty())) {
        for field in ["/spec/selector", "/metadata/labels"] {
            if get::entries(object, field).next().is_none() {
                get::set(object, field, labels.clone());
            }
        }
    }
    if get::has(object, "/spec/template") {
        pod::default::template(object, "/spec/template");
    }
    get::object_at(object, "/spec");
    get::set_default(object, "/spec/replicas", 1);
    get::object_at(object, "/status");
    get::set_default(object, "/status/replicas", 0);
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::check(object, NameRule::DnsSubdomain, Scope::Namespaced);
    errors.extend(spec(object));
    errors
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    errors.extend(spec(new));
    errors
}

fn spec(object: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    non_negative(&mut errors, path.child("minReadySeconds"), get::int_opt(object, "/spec/minReadySeconds"));
    if get::entries(object, "/spec/selector").next().is_none() {
        errors.push(FieldError::required(path.child("selector"), ""));
    }
    non_negative(&mut errors, path.child("replicas"), get::int_opt(object, "/spec/replicas"));
    let at = path.child("template");
    match object.pointer("/spec/template") {
        None => errors.push(FieldError::required(at, "")),
        Some(template) => {
            let chosen = object.pointer("/spec/selector");
            errors.extend(pod::template::validate_kept_by_labels(template, chosen, &at, "ReplicationController"));
        }
    }
    errors
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    let [names, images] = table::containers(object, "/spec/template/spec/containers");
    vec![
        table::name(object),
        get::int(object, "/spec/replicas").into(),
        get::int(object, "/status/replicas").into(),
        get::int(object, "/status/readyReplicas").into(),
        table::age(object, now),
        names,
        images,
        table::labels(object.pointer("/spec/selector")),
    ]
}
