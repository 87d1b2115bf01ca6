//! PodTemplate: a pod's template on its own.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::common::{get, meta, table};
use super::{Column, Kind, Rules, pod};

pub const KIND: Kind = Kind {
    kind: "PodTemplate",
    plural: "podtemplates",
    singular: "podtemplate",
    columns: &[
        Column::NAME,
        Column::text("Containers", "Names of the template's containers"),
        Column::text("Images", "Images of the template's containers"),
        Column::text("Pod Labels", "Labels of the pods"),
    ],
    cells,
    rules: Rules {
        default,
        prepare_create,
        prepare_update,
        validate_create,
        validate_update,
        warnings,
        ..Rules::GENERIC
    },
    ..Kind::NAMESPACED
};

fn default(object: &mut Value) {
    pod::default::template(object, "/template");
}

fn prepare_create(object: &mut Value) {
    get::set(object, "/metadata/generation", 1);
}

fn prepare_update(new: &mut Value, old: &Value) {
    meta::move_generation(new, old, &["/template"]);
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_create(object);
    errors.extend(template(object));
    errors
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    errors.extend(template(new));
    errors
}

fn template(object: &Value) -> Vec<FieldError> {
    pod::template::validate(object.get("template").unwrap_or(&Value::Null), &Path::new("template"))
}

fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    pod::template_warnings(new, old, "/template", "template")
}

fn cells(object: &Value, _now: i64) -> Vec<Value> {
    let [names, images] = table::containers(object, "/template/spec/containers");
    vec![table::name(object), names, images, table::labels(object.pointer("/template/metadata/labels"))]
}
