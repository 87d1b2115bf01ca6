//! What the schemas of `k8s-openapi` do not say: kinds, list types, merge keys, from the schema table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use api::schema::{self, Field, ListType, Shape, Type};
use serde_json::{Map, Value, json};

use super::schemas::{Dialect, number_or_text};

const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// A type and the kinds that it is.
struct Known {
    of: &'static Type,
    kinds: Vec<(&'static str, &'static str, &'static str)>,
}

/// Types by definition name.
fn known() -> &'static BTreeMap<String, Known> {
    static KNOWN: OnceLock<BTreeMap<String, Known>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let mut known = BTreeMap::new();
        for (group, version, kind, of) in schema::kinds() {
            collect(of, &mut known);
            if let Some(known) = known.get_mut(&of.definition()) {
                known.kinds.push((group, version, kind));
            }
        }
        known
    })
}

fn collect(of: &'static Type, known: &mut BTreeMap<String, Known>) {
    let name = of.definition();
    if known.contains_key(&name) {
        return;
    }
    known.insert(name, Known { of, kinds: Vec::new() });
    of.fields.iter().filter_map(Field::message).for_each(|inner| collect(inner, known));
}

/// Swagger has no `allOf` around a reference: what describes a field stands beside `$ref`.
fn unwrap_references(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let reference = match fields.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
                Some([only]) => only.get("$ref").cloned(),
                Some(_) | None => None,
            };
            if let Some(reference) = reference {
                fields.remove("allOf");
                fields.insert("$ref".to_owned(), reference);
            }
            fields.values_mut().for_each(unwrap_references);
        }
        Value::Array(items) => items.iter_mut().for_each(unwrap_references),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

pub(super) fn mark(schemas: &mut Map<String, Value>, dialect: Dialect) {
    if dialect == Dialect::Swagger {
        schemas.values_mut().for_each(unwrap_references);
    }
    if let Some(schema) = schemas.get_mut(INT_OR_STRING) {
        let description = schema["description"].take();
        *schema = number_or_text(dialect);
        schema["description"] = description;
    }
    let names: BTreeSet<String> = schemas.keys().cloned().collect();
    for name in names {
        let (Some(schema), Some(known)) = (schemas.get_mut(&name), known().get(&name)) else { continue };
        if !known.kinds.is_empty() {
            let kinds = known.kinds.iter().map(|(group, version, kind)| {
                json!({"group": group.strip_prefix("meta.k8s.io").unwrap_or(group), "version": version, "kind": kind})
            });
            schema["x-kubernetes-group-version-kind"] = kinds.collect();
        }
        let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { continue };
        for field in known.of.json_fields() {
            if let Some(property) = properties.get_mut(field.name) {
                mark_field(field, property);
            }
        }
    }
}

fn mark_field(field: &Field, property: &mut Value) {
    if field.shape == Shape::List {
        match field.list {
            ListType::Atomic if field.merge_key.is_empty() && !field.merge => {
                property["x-kubernetes-list-type"] = "atomic".into();
            }
            ListType::Atomic => {}
            ListType::Set => property["x-kubernetes-list-type"] = "set".into(),
            ListType::Map(keys) => {
                property["x-kubernetes-list-type"] = "map".into();
                property["x-kubernetes-list-map-keys"] = json!(keys);
            }
        }
    } else if field.atomic {
        property["x-kubernetes-map-type"] = "atomic".into();
    }
    let strategy = match (field.merge, field.retain_keys) {
        (true, true) => "merge,retainKeys",
        (true, false) => "merge",
        (false, true) => "retainKeys",
        (false, false) => return,
    };
    property["x-kubernetes-patch-strategy"] = strategy.into();
    if !field.merge_key.is_empty() {
        property["x-kubernetes-patch-merge-key"] = field.merge_key.into();
    }
}
