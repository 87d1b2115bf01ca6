//! Namespace: a room for names.

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::common::errors::invalid_all;
use super::common::{get, meta, names, table};
use super::{Column, Kind, NameRule, Rules, Scope, Selectable, Subresource};

pub const KIND: Kind = Kind {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    subresources: &[Subresource::Status],
    rules: Rules {
        default,
        prepare_create,
        prepare_update,
        validate_create,
        validate_status,
        name: NameRule::DnsLabel,
        ..Rules::GENERIC
    },
    columns: &[Column::NAME, Column::text("Status", "Active or Terminating"), Column::AGE],
    cells,
    selectable: &[Selectable::text("status.phase", &["/status/phase"]), Selectable::text("name", &["/metadata/name"])],
    ..Kind::CLUSTER
};

/// Kept while anything is left inside.
const FINALIZER: &str = "kubernetes";

/// Every namespace can be selected by its name.
fn default(object: &mut Value) {
    let name = get::text(object, "/metadata/name").to_owned();
    if !name.is_empty() {
        get::set(object, "/metadata/labels/kubernetes.io~1metadata.name", name);
    }
    get::object_at(object, "/spec");
    get::object_at(object, "/status");
    get::set_default_text(object, "/status/phase", "Active");
}

fn prepare_create(object: &mut Value) {
    get::set(object, "/status", json!({"phase": "Active"}));
    if !get::texts(object, "/spec/finalizers").contains(&FINALIZER) {
        get::push(object, "/spec/finalizers", FINALIZER.into());
    }
}

fn prepare_update(new: &mut Value, old: &Value) {
    meta::prepare_update(new, old);
    get::copy(new, old, "/spec/finalizers");
    get::copy(new, old, "/status");
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::check(object, NameRule::DnsLabel, Scope::Cluster);
    let path = Path::new("spec").child("finalizers");
    for finalizer in get::texts(object, "/spec/finalizers") {
        invalid_all(&mut errors, &path, finalizer, names::qualified(finalizer));
        if !finalizer.contains('/') && ![FINALIZER, "orphan", "foregroundDeletion"].contains(&finalizer) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(path.clone(), finalizer, detail));
        }
    }
    errors
}

fn validate_status(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    let phase = get::text(new, "/status/phase");
    let (wanted, state) =
        if get::has(new, "/metadata/deletionTimestamp") { ("Terminating", "not empty") } else { ("Active", "empty") };
    if phase != wanted {
        let detail = format!("may only be '{wanted}' if `deletionTimestamp` is {state}");
        errors.push(FieldError::invalid(Path::new("status").child("Phase"), phase, detail));
    }
    errors
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    vec![table::name(object), get::text(object, "/status/phase").into(), table::age(object, now)]
}
