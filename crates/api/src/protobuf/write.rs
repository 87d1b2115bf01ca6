//! JSON objects to protobuf messages.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::ProtobufError;
use super::wire::{put_bytes, put_double, put_int};
use crate::schema::{Element, Field, Shape, Type};
use crate::time;

/// The bytes of one message. Absent and null fields are not written: readers take them for zero, as upstream's own zeros.
pub fn message(of: &'static Type, object: &Value) -> Result<Vec<u8>, ProtobufError> {
    let mut out = Vec::new();
    for field in of.fields.iter().filter(|field| field.number > 0) {
        if let (true, Some(inner)) = (field.inline, field.message()) {
            let inner = message(inner, object)?;
            if !inner.is_empty() {
                put_bytes(&mut out, field.number, &inner);
            }
            continue;
        }
        let Some(value) = object.get(field.name).filter(|value| !value.is_null()) else { continue };
        match (field.shape, value) {
            (Shape::One, value) => element(&mut out, field, field.number, value)?,
            (Shape::List, Value::Array(items)) => {
                for item in items {
                    element(&mut out, field, field.number, item)?;
                }
            }
            (Shape::Map, Value::Object(entries)) => {
                for (key, value) in entries {
                    let mut entry = Vec::new();
                    put_bytes(&mut entry, 1, key.as_bytes());
                    element(&mut entry, field, 2, value)?;
                    put_bytes(&mut out, field.number, &entry);
                }
            }
            (Shape::List, _) => return Err(wrong(field, "list")),
            (Shape::Map, _) => return Err(wrong(field, "map")),
        }
    }
    Ok(out)
}

fn wrong(field: &'static Field, expected: &'static str) -> ProtobufError {
    ProtobufError::WrongType { field: field.name, expected }
}

fn element(out: &mut Vec<u8>, field: &'static Field, number: u32, value: &Value) -> Result<(), ProtobufError> {
    let text = || match value {
        // A null item is Go's empty text.
        Value::Null => Ok(""),
        value => value.as_str().ok_or_else(|| wrong(field, "string")),
    };
    match field.element {
        Element::String => put_bytes(out, number, text()?.as_bytes()),
        Element::Int32 | Element::Int64 => put_int(out, number, integer(field, value)?),
        Element::Bool => put_int(out, number, i64::from(value.as_bool().ok_or_else(|| wrong(field, "boolean"))?)),
        Element::Double => put_double(out, number, value.as_f64().ok_or_else(|| wrong(field, "number"))?),
        Element::Bytes => put_bytes(out, number, &STANDARD.decode(text()?).map_err(|_| wrong(field, "base64 text"))?),
        Element::Time | Element::MicroTime => put_bytes(out, number, &timestamp(field, text()?)?),
        Element::Quantity => {
            let number_text = value.as_number().map(ToString::to_string);
            let mut inner = Vec::new();
            put_bytes(
                &mut inner,
                1,
                match &number_text {
                    Some(number) => number.as_bytes(),
                    None => text()?.as_bytes(),
                },
            );
            put_bytes(out, number, &inner);
        }
        Element::IntOrString => put_bytes(out, number, &int_or_string(field, value)?),
        Element::Raw | Element::Fields => {
            let mut inner = Vec::new();
            put_bytes(&mut inner, 1, value.to_string().as_bytes());
            put_bytes(out, number, &inner);
        }
        Element::Strings => {
            let mut inner = Vec::new();
            for item in value.as_array().into_iter().flatten() {
                put_bytes(&mut inner, 1, item.as_str().ok_or_else(|| wrong(field, "string"))?.as_bytes());
            }
            put_bytes(out, number, &inner);
        }
        Element::Message(of) if value.is_object() || value.is_null() => put_bytes(out, number, &message(of, value)?),
        Element::Message(_) => return Err(wrong(field, "object")),
    }
    Ok(())
}

fn integer(field: &'static Field, value: &Value) -> Result<i64, ProtobufError> {
    value.as_i64().ok_or_else(|| wrong(field, "number"))
}

fn timestamp(field: &'static Field, text: &str) -> Result<Vec<u8>, ProtobufError> {
    let time = time::parse(text).ok_or_else(|| wrong(field, "time"))?;
    let nanos = i64::from(time.subsec_nanosecond());
    // A time before 1970 has a negative fraction here; protobuf counts it forward from the second before.
    let (seconds, nanos) =
        if nanos < 0 { (time.as_second() - 1, nanos + 1_000_000_000) } else { (time.as_second(), nanos) };
    let mut out = Vec::new();
    put_int(&mut out, 1, seconds);
    put_int(&mut out, 2, nanos);
    Ok(out)
}

fn int_or_string(field: &'static Field, value: &Value) -> Result<Vec<u8>, ProtobufError> {
    let mut out = Vec::new();
    let (kind, number, text) = match value {
        Value::String(text) => (1, 0, text.as_str()),
        value => (0, integer(field, value)?, ""),
    };
    put_int(&mut out, 1, kind);
    put_int(&mut out, 2, number);
    put_bytes(&mut out, 3, text.as_bytes());
    Ok(out)
}
