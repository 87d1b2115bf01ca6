//! Lease: who holds a role now, and for how long without renewal.

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::common::errors::{non_negative, positive};
use super::common::{get, meta, table};
use super::{Column, Kind, Rules};

pub const KIND: Kind = Kind {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    create_on_update: true,
    unconditional_update: false,
    columns: &[Column::NAME, Column::text("Holder", "Who holds the lease"), Column::AGE],
    cells,
    rules: Rules { default, validate_create, validate_update, ..Rules::GENERIC },
    ..Kind::NAMESPACED
};

fn default(object: &mut Value) {
    if !get::has(object, "/spec") {
        get::set(object, "/spec", json!({}));
    }
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_create(object);
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
    positive(&mut errors, path.child("leaseDurationSeconds"), get::int_opt(object, "/spec/leaseDurationSeconds"));
    non_negative(&mut errors, path.child("leaseTransitions"), get::int_opt(object, "/spec/leaseTransitions"));
    errors
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    vec![table::name(object), get::text(object, "/spec/holderIdentity").into(), table::age(object, now)]
}
