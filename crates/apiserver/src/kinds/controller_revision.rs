//! ControllerRevision: one state of a controller's template, for rollbacks.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::common::errors::{immutable, non_negative};
use super::common::{get, meta, table};
use super::{Column, Kind, Rules};

pub const KIND: Kind = Kind {
    group: "apps",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    columns: &[
        Column::NAME,
        Column::text("Controller", "Controller of the object"),
        Column::text("Revision", "Number of the state"),
        Column::AGE,
    ],
    cells,
    rules: Rules { validate_create, validate_update, ..Rules::GENERIC },
    ..Kind::NAMESPACED
};

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_create(object);
    if !get::has(object, "/data") {
        errors.push(FieldError::required(Path::new("data"), "data is mandatory"));
    }
    non_negative(&mut errors, Path::new("revision"), get::int_opt(object, "/revision"));
    errors
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    errors.extend(validate_create(new));
    immutable(&mut errors, Path::new("data"), new.get("data"), old.get("data"));
    errors
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    let owners = get::list(object, "/metadata/ownerReferences");
    let controller = owners.iter().find(|owner| get::flag(owner, "/controller")).map(|owner| {
        let kind = get::text(owner, "/kind");
        let kind = match get::text(owner, "/apiVersion").rsplit_once('/') {
            Some((group, _)) => format!("{kind}.{group}"),
            None => kind.to_owned(),
        };
        format!("{}/{}", kind.to_lowercase(), get::text(owner, "/name"))
    });
    vec![
        table::name(object),
        table::or_none(&controller.unwrap_or_default()),
        get::int(object, "/revision").into(),
        table::age(object, now),
    ]
}
