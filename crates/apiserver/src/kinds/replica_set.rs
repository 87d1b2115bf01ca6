//! ReplicaSet: so many pods of one template.

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::common::errors::non_negative;
use super::common::{get, meta, table, workload};
use super::{Column, Kind, NameRule, Rules, Scope, Selectable, Subresource, pod};

pub const KIND: Kind = Kind {
    group: "apps",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    columns: &[
        Column::NAME,
        Column::int("Desired", "Pods wanted"),
        Column::int("Current", "Pods that exist"),
        Column::int("Ready", "Pods that are ready"),
        Column::AGE,
        Column::wide("Containers", "Names of the template's containers"),
        Column::wide("Images", "Images of the template's containers"),
        Column::wide("Selector", "Labels that select the pods"),
    ],
    cells,
    rules: RULES,
    selectable: &[Selectable { label: "status.replicas", pointers: &["/status/replicas"], absent: "0" }],
    ..Kind::NAMESPACED
};

const RULES: Rules = Rules {
    default,
    prepare_create,
    prepare_update,
    prepare_status: meta::prepare_status,
    validate_create,
    validate_update,
    validate_status,
    warnings,
    name: NameRule::DnsSubdomain,
};

fn default(object: &mut Value) {
    pod::default::template(object, "/spec/template");
    get::set_default(object, "/spec/replicas", 1);
    get::object_at(object, "/status");
    get::set_default(object, "/status/replicas", 0);
}

/// Shared with ReplicationController.
pub fn prepare_create(object: &mut Value) {
    meta::start(object, json!({"replicas": 0}));
}

/// Shared with ReplicationController.
pub fn prepare_update(new: &mut Value, old: &Value) {
    meta::keep_status_move_generation(new, old, &["/spec"]);
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::check(object, NameRule::DnsSubdomain, Scope::Namespaced);
    errors.extend(spec(object));
    errors
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    errors.extend(spec(new));
    workload::same_selector(&mut errors, new, old);
    errors
}

/// Shared with ReplicationController.
pub fn validate_status(new: &Value, old: &Value) -> Vec<FieldError> {
    const PARTS: &[&str] = &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    const COUNTS: &[&str] =
        &["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
    workload::status(new, old, COUNTS, PARTS)
}

/// Shared with ReplicationController.
pub fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    pod::template_warnings(new, old, "/spec/template", "spec.template")
}

fn spec(object: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    non_negative(&mut errors, path.child("replicas"), get::int_opt(object, "/spec/replicas"));
    non_negative(&mut errors, path.child("minReadySeconds"), get::int_opt(object, "/spec/minReadySeconds"));
    workload::selector(&mut errors, object, &path, "empty selector is invalid for deployment");
    let template = object.pointer("/spec/template").unwrap_or(&Value::Null);
    let chosen = object.pointer("/spec/selector");
    errors.extend(pod::template::validate_kept(template, chosen, &path.child("template"), "ReplicaSet"));
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
        table::selector(object.pointer("/spec/selector")),
    ]
}
