//! Wrong types in the result of a strategic merge patch. Upstream turns that result into its structs by another way than its reader of JSON,
//! with other words for what does not fit; the first fault in the order of the fields ends it.

use serde_json::{Map, Value};

use super::faults;
use crate::schema::{Element, Field, Shape, Type};

/// What does not fit, if anything; types with a form of their own, such as quantities, are left to the reader.
pub fn fault(of: &'static Type, value: &Value) -> Option<String> {
    let Value::Object(entries) = value else { return Some(format!("cannot restore struct from: {}", kind(value))) };
    of.fields.iter().find_map(|field| of_field(of, field, entries, value))
}

fn of_field(of: &'static Type, field: &Field, entries: &Map<String, Value>, whole: &Value) -> Option<String> {
    if field.inline {
        let Element::Message(inner) = field.element else { return None };
        return fault(inner, whole);
    }
    let found = entries.get(field.name).filter(|found| !found.is_null())?;
    match (field.shape, found) {
        (Shape::One, found) => of_item(of, field, found),
        (Shape::List, Value::Array(items)) => items.iter().find_map(|item| of_item(of, field, item)),
        (Shape::List, other) => Some(format!("cannot restore slice from {}", kind(other))),
        (Shape::Map, Value::Object(entries)) => entries.values().find_map(|entry| of_item(of, field, entry)),
        (Shape::Map, other) => Some(format!("cannot restore map from {}", kind(other))),
    }
}

fn of_item(of: &'static Type, field: &Field, item: &Value) -> Option<String> {
    if item.is_null() {
        return None;
    }
    let unknown = |go: &str| Some(format!("unrecognized type: {go}"));
    match (field.element, item) {
        (Element::Message(inner), item) => fault(inner, item),
        (Element::String, Value::String(_)) | (Element::Bool, Value::Bool(_)) => None,
        (Element::String, Value::Number(number)) if !number.is_f64() => {
            Some(format!("cannot convert int64 to {}", faults::item_type(field, of)))
        }
        (Element::String, _) => unknown("string"),
        (Element::Bool, _) => unknown("bool"),
        (Element::Int32 | Element::Int64, Value::Number(number)) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() != 0.0 => {
                Some(format!("cannot convert float64 to {}", faults::item_type(field, of)))
            }
            _ => None,
        },
        (Element::Int32, _) => unknown("int32"),
        (Element::Int64, _) => unknown("int64"),
        (Element::Double, Value::Number(_)) => None,
        (Element::Double, _) => unknown("float64"),
        (Element::Bytes, Value::String(_) | Value::Array(_)) => None,
        (Element::Bytes, other) => Some(format!("cannot restore slice from {}", kind(other))),
        (
            Element::Time
            | Element::MicroTime
            | Element::Quantity
            | Element::IntOrString
            | Element::Raw
            | Element::Fields
            | Element::Strings,
            _,
        ) => None,
    }
}

/// The kind of a value as `reflect` calls it.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema;

    fn check(pod: Value, expected: Option<&str>) {
        let of = schema::kind("", "v1", "Pod").unwrap();
        assert_eq!(fault(of, &pod).as_deref(), expected, "{pod}");
    }

    #[test]
    fn what_does_not_fit_is_told_in_the_words_of_the_converter() {
        check(json!({"metadata": {"labels": "invalid"}}), Some("cannot restore map from string"));
        check(json!({"metadata": "x"}), Some("cannot restore struct from: string"));
        check(json!({"spec": {"containers": {}}}), Some("cannot restore slice from map"));
        check(json!({"spec": {"containers": [{"image": true}]}}), Some("unrecognized type: string"));
        check(json!({"spec": {"containers": [{"image": 1}]}}), Some("cannot convert int64 to string"));
        check(json!({"spec": {"activeDeadlineSeconds": "x"}}), Some("unrecognized type: int64"));
        check(json!({"spec": {"activeDeadlineSeconds": 1.0}, "metadata": {"labels": {"a": "b"}}}), None);
    }
}
