//! Protobuf messages to JSON objects. Fields of unknown numbers are skipped, as protobuf demands.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::wire::{Fields, Wire, varint};
use super::{MAGIC, ProtobufError, decode_nested};
use crate::schema::{Element, Field, Shape, Type};
use crate::time;

/// The object of one message; zero values are kept, canonicalisation drops those that mean nothing.
pub fn message(of: &'static Type, bytes: &[u8], depth: u8) -> Result<Value, ProtobufError> {
    let mut object = Map::new();
    message_into(of, bytes, &mut object, depth)?;
    Ok(Value::Object(object))
}

fn message_into(
    of: &'static Type,
    bytes: &[u8],
    object: &mut Map<String, Value>,
    depth: u8,
) -> Result<(), ProtobufError> {
    for found in Fields::new(bytes) {
        let (number, wire) = found?;
        // Number 0 marks what protobuf does not carry.
        let Some(field) = of.fields.iter().find(|field| number > 0 && field.number == number) else { continue };
        if let (true, Some(inner)) = (field.inline, field.message()) {
            message_into(inner, bytes_of(field, wire)?, object, depth)?;
            continue;
        }
        match field.shape {
            Shape::One => {
                let value = element(field, wire, depth)?;
                object.insert(field.name.to_owned(), value);
            }
            Shape::List => {
                let items = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(items) = items {
                    append(field, wire, items, depth)?;
                }
            }
            Shape::Map => {
                let (key, value) = entry(field, wire, depth)?;
                let entries = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(entries) = entries {
                    entries.insert(key, value);
                }
            }
        }
    }
    Ok(())
}

fn bytes_of<'a>(field: &'static Field, wire: Wire<'a>) -> Result<&'a [u8], ProtobufError> {
    match wire {
        Wire::Bytes(bytes) => Ok(bytes),
        Wire::Varint(_) | Wire::Fixed64(_) | Wire::Fixed32(_) => Err(wrong(field, wire)),
    }
}

fn wrong(field: &'static Field, wire: Wire<'_>) -> ProtobufError {
    ProtobufError::WrongWireType { field: field.name, wire_type: wire.number() }
}

/// Numbers may come packed: many in one field.
fn append(field: &'static Field, wire: Wire<'_>, items: &mut Vec<Value>, depth: u8) -> Result<(), ProtobufError> {
    if let (Element::Int32 | Element::Int64 | Element::Bool, Wire::Bytes(mut packed)) = (field.element, wire) {
        while !packed.is_empty() {
            let (value, rest) = varint(packed)?;
            items.push(element(field, Wire::Varint(value), depth)?);
            packed = rest;
        }
        return Ok(());
    }
    items.push(element(field, wire, depth)?);
    Ok(())
}

/// A map entry is a message of key and value; an absent value is the zero one.
fn entry(field: &'static Field, wire: Wire<'_>, depth: u8) -> Result<(String, Value), ProtobufError> {
    let (mut key, mut value) = (String::new(), None);
    for found in Fields::new(bytes_of(field, wire)?) {
        match found? {
            (1, Wire::Bytes(bytes)) => key = text(field.name, bytes)?,
            (2, wire) => value = Some(element(field, wire, depth)?),
            _ => {}
        }
    }
    let value = match value {
        Some(value) => value,
        None => element(field, Wire::Bytes(&[]), depth).or_else(|_| element(field, Wire::Varint(0), depth))?,
    };
    Ok((key, value))
}

fn element(field: &'static Field, wire: Wire<'_>, depth: u8) -> Result<Value, ProtobufError> {
    let name = field.name;
    match field.element {
        Element::String => Ok(text(name, bytes_of(field, wire)?)?.into()),
        Element::Int32 | Element::Int64 | Element::Bool => number(field, wire),
        Element::Double => match wire {
            Wire::Fixed64(bits) => Ok(f64::from_bits(bits).into()),
            Wire::Varint(_) | Wire::Bytes(_) | Wire::Fixed32(_) => Err(wrong(field, wire)),
        },
        Element::Bytes => Ok(STANDARD.encode(bytes_of(field, wire)?).into()),
        Element::Time => timestamp(bytes_of(field, wire)?, time::seconds),
        Element::MicroTime => timestamp(bytes_of(field, wire)?, time::micros),
        Element::Quantity => {
            let text = first_text(name, bytes_of(field, wire)?)?;
            Ok(if text.is_empty() { "0".into() } else { text.into() })
        }
        Element::IntOrString => int_or_string(name, bytes_of(field, wire)?),
        Element::Raw | Element::Fields => raw(name, bytes_of(field, wire)?, depth),
        Element::Strings => {
            let mut items = Vec::new();
            for found in Fields::new(bytes_of(field, wire)?) {
                if let (1, Wire::Bytes(bytes)) = found? {
                    items.push(text(name, bytes)?.into());
                }
            }
            Ok(Value::Array(items))
        }
        Element::Message(of) => message(of, bytes_of(field, wire)?, depth),
    }
}

fn number(field: &'static Field, wire: Wire<'_>) -> Result<Value, ProtobufError> {
    let Wire::Varint(bits) = wire else { return Err(wrong(field, wire)) };
    let value = bits.cast_signed();
    Ok(match field.element {
        Element::Bool => (value != 0).into(),
        // As gogo-proto does: the low half counts.
        Element::Int32 => i32::from_le_bytes(bits.to_le_bytes().first_chunk::<4>().copied().unwrap_or_default()).into(),
        _ => value.into(),
    })
}

/// Bytes as text, which must be UTF-8 for JSON to hold it.
pub fn text(field: &'static str, bytes: &[u8]) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::NotText { field })
}

/// The text of the messages that hold one text as field 1.
fn first_text(field: &'static str, bytes: &[u8]) -> Result<String, ProtobufError> {
    let mut out = String::new();
    for found in Fields::new(bytes) {
        if let (1, Wire::Bytes(bytes)) = found? {
            out = text(field, bytes)?;
        }
    }
    Ok(out)
}

/// An empty timestamp is the zero time, which JSON writes as null.
fn timestamp(bytes: &[u8], print: fn(jiff::Timestamp) -> String) -> Result<Value, ProtobufError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    for found in Fields::new(bytes) {
        match found? {
            (1, Wire::Varint(value)) => seconds = value.cast_signed(),
            (2, Wire::Varint(value)) => {
                nanos = i32::try_from(value.cast_signed()).map_err(|_| ProtobufError::Overflow)?
            }
            _ => {}
        }
    }
    // The zero time of Go, year 1, is sent by clients that have none.
    if seconds == -62_135_596_800 && nanos == 0 {
        return Ok(Value::Null);
    }
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|_| ProtobufError::Overflow)?;
    Ok(print(time).into())
}

fn int_or_string(field: &'static str, bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut kind, mut number, mut string) = (0, 0, String::new());
    for found in Fields::new(bytes) {
        match found? {
            (1, Wire::Varint(value)) => kind = value,
            (2, Wire::Varint(value)) => number = value.cast_signed(),
            (3, Wire::Bytes(bytes)) => string = text(field, bytes)?,
            _ => {}
        }
    }
    Ok(if kind == 1 { string.into() } else { number.into() })
}

/// A `RawExtension`: JSON, or an object in an envelope of its own.
pub fn raw(field: &'static str, bytes: &[u8], depth: u8) -> Result<Value, ProtobufError> {
    let mut value = Value::Null;
    for found in Fields::new(bytes) {
        if let (1, Wire::Bytes(bytes)) = found? {
            value = match bytes {
                [] => Value::Null,
                envelope if envelope.starts_with(MAGIC) => {
                    decode_nested(envelope, depth.checked_sub(1).ok_or(ProtobufError::TooDeep)?)?
                }
                json => serde_json::from_slice(json).map_err(|_| ProtobufError::NotJson { field })?,
            };
        }
    }
    Ok(value)
}
