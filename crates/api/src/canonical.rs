//! The canonical form of an object: what upstream's decoder followed by its encoder would make of it.
//!
//! Go structs have no notion of "not there" but pointers: an empty `omitempty` field is dropped, a field without `omitempty` is written
//! even when it was never given (`status: {}`, `endpoints: null`), a null is the same as nothing, and times and quantities are rewritten.
//! Comparing, storing and answering canonical objects makes "unchanged" mean the same as upstream.

use serde_json::{Map, Value};

use crate::quantity::Quantity;
use crate::schema::{Element, Field, Presence, Shape, Type};
use crate::time;

/// Rewrites an object of a type into its canonical form. Fields that the type does not have are dropped; values of a wrong type are left
/// as they are, for [`crate::decode`] to refuse.
pub fn canonicalize(of: &'static Type, value: &mut Value) {
    if let Value::Object(object) = value {
        let fields = of.json_fields();
        object.retain(|name, _| fields.iter().any(|field| field.name == name));
        for field in fields {
            canonicalize_field(field, object);
        }
    }
}

fn canonicalize_field(field: &'static Field, object: &mut Map<String, Value>) {
    match object.get_mut(field.name) {
        None | Some(Value::Null) => match absent(field) {
            Some(written) => drop(object.insert(field.name.to_owned(), written)),
            None => drop(object.remove(field.name)),
        },
        Some(value) => {
            match (field.shape, &mut *value) {
                (Shape::One, value) => canonicalize_element(field.element, value),
                (Shape::List, Value::Array(items)) => {
                    items.iter_mut().for_each(|item| canonicalize_item(field.element, item))
                }
                (Shape::Map, Value::Object(entries)) => {
                    entries.values_mut().for_each(|entry| canonicalize_item(field.element, entry));
                }
                (Shape::List | Shape::Map, _) => {}
            }
            if field.presence == Presence::OmitEmpty && is_empty(value) {
                object.remove(field.name);
            }
        }
    }
}

/// What is written for a field that was not given.
fn absent(field: &'static Field) -> Option<Value> {
    match (field.presence, field.shape) {
        (Presence::Always, Shape::One) => match field.element {
            // A port or count of 0 would hide from the defaults that it was not given.
            Element::IntOrString => None,
            element => Some(zero(element)),
        },
        (Presence::Always, Shape::List | Shape::Map) | (Presence::Nullable, _) => Some(Value::Null),
        (Presence::OmitEmpty | Presence::Pointer, Shape::One | Shape::List | Shape::Map) => None,
    }
}

/// Go's zero value, as JSON.
fn zero(element: Element) -> Value {
    match element {
        Element::String => "".into(),
        Element::Int32 | Element::Int64 | Element::Double | Element::IntOrString => 0.into(),
        Element::Bool => false.into(),
        Element::Quantity => "0".into(),
        Element::Bytes | Element::Time | Element::MicroTime | Element::Raw | Element::Fields | Element::Strings => {
            Value::Null
        }
        Element::Message(of) => {
            let mut value = Value::Object(Map::new());
            canonicalize(of, &mut value);
            value
        }
    }
}

fn canonicalize_item(element: Element, value: &mut Value) {
    if value.is_null() {
        *value = zero(element);
    } else {
        canonicalize_element(element, value);
    }
}

fn canonicalize_element(element: Element, value: &mut Value) {
    match element {
        Element::Message(of) => canonicalize(of, value),
        Element::Quantity => {
            if let Ok(quantity) = Quantity::from_value(value) {
                *value = quantity.to_string().into();
            }
        }
        Element::Time => rewrite(value, time::seconds),
        Element::MicroTime => rewrite(value, time::micros),
        Element::String
        | Element::Int32
        | Element::Int64
        | Element::Bool
        | Element::Double
        | Element::Bytes
        | Element::IntOrString
        | Element::Raw
        | Element::Fields
        | Element::Strings => {}
    }
}

fn rewrite(value: &mut Value, print: fn(jiff::Timestamp) -> String) {
    if let Some(parsed) = value.as_str().and_then(time::parse) {
        *value = print(parsed).into();
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema;

    #[track_caller]
    fn check(mut given: Value, expected: Value) {
        let of = schema::kind_of(given["apiVersion"].as_str().unwrap(), given["kind"].as_str().unwrap()).unwrap();
        canonicalize(of, &mut given);
        assert_eq!(given, expected);
        canonicalize(of, &mut given);
        assert_eq!(given, expected, "a second time changes nothing");
    }

    #[test]
    fn empty_fields_go_and_structs_come() {
        check(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "labels": {}, "annotations": null}, "nope": 1,
                "spec": {"ports": [{"port": 80, "nodePort": 0, "name": ""}], "allocateLoadBalancerNodePorts": false}}),
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
                "spec": {"ports": [{"port": 80}], "allocateLoadBalancerNodePorts": false}, "status": {"loadBalancer": {}}}),
        );
        check(
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "endpoints": [{"addresses": ["192.0.2.1"]}]}),
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {}, "addressType": "", "ports": null,
                "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {}}]}),
        );
    }

    #[test]
    fn quantities_and_times_are_rewritten() {
        check(
            json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"creationTimestamp": null, "deletionTimestamp": "2026-01-01T02:00:00.5+02:00"},
                "spec": {"hard": {"cpu": "1000m", "pods": 5}}}),
            json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"hard": {"cpu": "1", "pods": "5"}}, "status": {}}),
        );
    }
}
