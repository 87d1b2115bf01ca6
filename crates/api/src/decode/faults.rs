//! Go's words for what is wrong with JSON: clients and people know `encoding/json`'s sentences.

use serde_json::Value;
use serde_json::error::Category;

use crate::schema::{Element, Field, Shape, Type};

/// What a JSON value is called.
pub fn called(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The Go type of a field, as `reflect` prints it without pointers.
pub fn type_of(field: &Field, owner: &Type) -> String {
    let element = item_type(field, owner);
    match field.shape {
        Shape::One => element,
        Shape::List => format!("[]{element}"),
        Shape::Map => format!("map[string]{element}"),
    }
}

/// The Go type of one item or entry of a field.
pub fn item_type(field: &Field, owner: &Type) -> String {
    if !field.go.is_empty() {
        return match field.go.split_once('.') {
            // An import alias such as `metav1` or `corev1` hides a package that is called v1.
            Some((alias, name)) if alias.ends_with("v1") => format!("v1.{name}"),
            Some(_) => field.go.to_owned(),
            None => format!("{}.{}", package(owner), field.go),
        };
    }
    match field.element {
        Element::String => "string".to_owned(),
        Element::Int32 => "int32".to_owned(),
        Element::Int64 => "int64".to_owned(),
        Element::Bool => "bool".to_owned(),
        Element::Double => "float64".to_owned(),
        Element::Bytes => "[]uint8".to_owned(),
        Element::Time => "v1.Time".to_owned(),
        Element::MicroTime => "v1.MicroTime".to_owned(),
        Element::Quantity => "resource.Quantity".to_owned(),
        Element::IntOrString => "intstr.IntOrString".to_owned(),
        Element::Raw => "runtime.RawExtension".to_owned(),
        Element::Fields => "v1.FieldsV1".to_owned(),
        Element::Strings => "v1.ExtraValue".to_owned(),
        Element::Message(of) => format!("{}.{}", package(of), of.name),
    }
}

fn package(of: &Type) -> &'static str {
    of.package.rsplit('.').next().unwrap_or("v1")
}

/// A body that is not even an object with a kind.
pub fn head_fault(body: &[u8], error: &serde_json::Error) -> String {
    const HEAD: &str =
        r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    match error.classify() {
        Category::Io | Category::Syntax | Category::Eof => syntax_fault(body, error),
        Category::Data => match serde_json::from_slice::<Value>(body) {
            Ok(Value::Object(fields)) => {
                let wrong = |name: &str| fields.get(name).filter(|value| !value.is_string() && !value.is_null());
                let (name, value) = match wrong("apiVersion") {
                    Some(value) => ("apiVersion", value),
                    None => ("kind", wrong("kind").unwrap_or(&Value::Null)),
                };
                format!("json: cannot unmarshal {} into Go struct field .{name} of type string", called(value))
            }
            Ok(value) => format!("json: cannot unmarshal {} into Go value of type {HEAD}", called(&value)),
            Err(error) => syntax_fault(body, &error),
        },
    }
}

/// A syntax error in Go's words, as far as the reader's own error tells.
pub fn syntax_fault(body: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let text = error.to_string();
    let place = if text.starts_with("expected value")
        || text.starts_with("trailing comma")
        || text.starts_with("invalid number")
    {
        "looking for beginning of value"
    } else if text.starts_with("expected `:`") {
        "after object key"
    } else if text.starts_with("expected `,` or `}`") {
        "after object key:value pair"
    } else if text.starts_with("expected `,` or `]`") {
        "after array element"
    } else if text.starts_with("key must be a string") {
        "looking for beginning of object key string"
    } else if text.starts_with("trailing characters") {
        "after top-level value"
    } else if text.starts_with("expected ident") {
        "in literal"
    } else if text.starts_with("control character") {
        "in string literal"
    } else if text.starts_with("recursion limit") {
        return "exceeded max depth".to_owned();
    } else {
        return text;
    };
    match character(body, error) {
        Some(character) => format!("invalid character {character:?} {place}"),
        None => "unexpected end of JSON input".to_owned(),
    }
}

/// The character where the reader stopped.
fn character(body: &[u8], error: &serde_json::Error) -> Option<char> {
    let line = body.split(|byte| *byte == b'\n').nth(error.line().checked_sub(1)?)?;
    let rest = line.get(error.column().saturating_sub(1)..)?;
    rest.first().map(|byte| char::from(*byte))
}
