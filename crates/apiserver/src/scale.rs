//! The subresource `scale`: `autoscaling/v1 Scale` as a view of an object's replicas.

use api::schema;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::fault::{Fault, Outcome};
use crate::kinds::common::table;
use crate::kinds::{Column, Kind};
use crate::merge::PatchType;
use crate::update::{Edit, Edited, Part};

/// How it is shown: its names and columns.
pub(crate) static KIND: Kind = Kind {
    group: "autoscaling",
    kind: "Scale",
    plural: "scales",
    singular: "scale",
    columns: &[
        Column { format: "", ..Column::NAME },
        Column::int("Desired", "Replicas that are wanted"),
        Column::int("Available", "Replicas that there are"),
        Column::AGE,
    ],
    cells: |scale, now| {
        let count = |of: &str| scale[of]["replicas"].as_i64().unwrap_or(0).into();
        vec![table::name(scale), count("spec"), count("status"), table::age(scale, now)]
    },
    ..Kind::NAMESPACED
};

/// The view of an object.
pub(crate) fn of(object: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)},
    });
    match object["spec"]["replicas"].as_i64() {
        Some(0) | None => {}
        Some(replicas) => scale["spec"]["replicas"] = replicas.into(),
    }
    let selector = selector(&object["spec"]["selector"]);
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// A selector as text: a `LabelSelector`, or the plain map of a ReplicationController.
fn selector(selector: &Value) -> String {
    let plain = selector.get("matchLabels").is_none() && selector.get("matchExpressions").is_none();
    let parsed = if plain {
        let labels = selector.as_object().into_iter().flatten();
        Ok(api::selector::LabelSelector::from_map(
            labels.filter_map(|(key, value)| value.as_str().map(|value| (key.as_str(), value))),
        ))
    } else {
        api::selector::LabelSelector::from_object(Some(selector))
    };
    parsed.map(|selector| selector.to_string()).unwrap_or_default()
}

/// Replaces the number of replicas by that of a whole `Scale`.
pub(crate) struct Set(pub(crate) Value);

/// Patches the view, and takes the number from it.
pub(crate) struct Patched(pub(crate) PatchType, pub(crate) Bytes);

impl Edit for Set {
    fn edit(&self, old: &Value) -> Outcome<Edited> {
        rescaled(old, &self.0).map(Edited::from)
    }

    fn subresource(&self, _: Part) -> &'static str {
        "scale"
    }
}

impl Edit for Patched {
    fn edit(&self, old: &Value) -> Outcome<Edited> {
        let of = schema::kind("autoscaling", "v1", "Scale").ok_or_else(|| Fault::internal("no schema of Scale"))?;
        let patched = crate::merge::patched(of, &crate::scale::of(old), &self.1, self.0)?;
        rescaled(old, &patched).map(Edited::from)
    }

    fn subresource(&self, _: Part) -> &'static str {
        "scale"
    }
}

fn rescaled(old: &Value, scale: &Value) -> Outcome<Value> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let path = api::field::Path::new("spec").child("replicas");
        let error = api::field::FieldError::invalid(path, replicas, "must be greater than or equal to 0");
        let name = scale["metadata"]["name"].as_str().unwrap_or_default();
        return Err(api::status::Status::invalid("autoscaling", "Scale", name, &[error]).into());
    }
    let mut object = old.clone();
    object["spec"]["replicas"] = replicas.into();
    if let Some(version) = scale["metadata"]["resourceVersion"].as_str() {
        object["metadata"]["resourceVersion"] = version.into();
    }
    Ok(object)
}
