//! Kubernetes' protobuf form of objects, both ways, driven by the schema table: no generated message types.
//!
//! `application/vnd.kubernetes.protobuf` is the four bytes `k8s\0` and a `runtime.Unknown` message that names the kind and holds the object's
//! bytes. kubectl's typed commands, client-go informers and all upstream components speak it and have no way back to JSON.
//! Decoded objects are canonical, so that they equal the same object sent as JSON.

mod read;
pub mod wire;
mod write;

use serde_json::Value;
use thiserror::Error;

use crate::canonical::canonicalize;
use crate::schema::{self, Type};

/// The prefix that tells an envelope from other bytes.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// What is wrong with an object or with bytes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProtobufError {
    /// The kind has no protobuf form, like custom resources and `Table`.
    #[error("no protobuf form of kind {kind:?} in version {api_version:?}")]
    UnknownKind { api_version: String, kind: String },
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoEnvelope,
    #[error("unexpected EOF")]
    Truncated,
    #[error("proto: illegal wireType {0}")]
    WireType(u8),
    #[error("proto: wrong wireType = {wire_type} for field {field}")]
    WrongWireType { field: &'static str, wire_type: u8 },
    #[error("proto: field {field} contains invalid UTF-8")]
    NotText { field: &'static str },
    #[error("proto: integer overflow")]
    Overflow,
    #[error("field {field} holds bytes that are not JSON")]
    NotJson { field: &'static str },
    #[error("envelopes within envelopes are nested too deep")]
    TooDeep,
    #[error("field {field} is not a {expected}")]
    WrongType { field: &'static str, expected: &'static str },
}

/// An object, recognised by its `apiVersion` and `kind`, in its envelope.
pub fn encode(object: &Value) -> Result<Vec<u8>, ProtobufError> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let of = find(api_version, kind)?;
    let raw = write::message(of, object)?;
    let mut meta = Vec::with_capacity(api_version.len() + kind.len() + 4);
    wire::put_bytes(&mut meta, 1, api_version.as_bytes());
    wire::put_bytes(&mut meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(raw.len() + meta.len() + 20);
    out.extend_from_slice(MAGIC);
    wire::put_bytes(&mut out, 1, &meta);
    wire::put_bytes(&mut out, 2, &raw);
    // Content encoding and type are not pointers upstream, so they are written though empty.
    wire::put_bytes(&mut out, 3, b"");
    wire::put_bytes(&mut out, 4, b"");
    Ok(out)
}

/// The object in an envelope, with `apiVersion` and `kind`, in canonical form.
pub fn decode(bytes: &[u8]) -> Result<Value, ProtobufError> {
    decode_nested(bytes, MAX_NESTED)
}

/// A list of lists, or an event about a revision that holds an object: bytes from outside must not choose our stack's depth.
const MAX_NESTED: u8 = 4;

fn decode_nested(bytes: &[u8], depth: u8) -> Result<Value, ProtobufError> {
    let body = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::NoEnvelope)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in wire::Fields::new(body) {
        match field? {
            (1, wire::Wire::Bytes(meta)) => {
                for field in wire::Fields::new(meta) {
                    match field? {
                        (1, wire::Wire::Bytes(text)) => api_version = read::text("apiVersion", text)?,
                        (2, wire::Wire::Bytes(text)) => kind = read::text("kind", text)?,
                        _ => {}
                    }
                }
            }
            (2, wire::Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let of = find(&api_version, &kind)?;
    let mut object = read::message(of, raw, depth)?;
    if let Value::Object(fields) = &mut object {
        fields.insert("apiVersion".to_owned(), api_version.into());
        fields.insert("kind".to_owned(), kind.into());
    }
    canonicalize(of, &mut object);
    Ok(object)
}

/// One event of a watch (`;stream=watch`): its length in four bytes, then a `WatchEvent` without an envelope whose object has one.
pub fn watch_frame(event_type: &str, object: &Value) -> Result<Vec<u8>, ProtobufError> {
    let mut raw = Vec::new();
    wire::put_bytes(&mut raw, 1, &encode(object)?);
    let mut event = Vec::with_capacity(raw.len() + event_type.len() + 16);
    wire::put_bytes(&mut event, 1, event_type.as_bytes());
    wire::put_bytes(&mut event, 2, &raw);
    let length = u32::try_from(event.len()).map_err(|_| ProtobufError::Overflow)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.append(&mut event);
    Ok(frame)
}

/// The first event of a watch stream and how many bytes it took; `None` when more bytes must come.
pub fn read_watch_frame(stream: &[u8]) -> Result<Option<(String, Value, usize)>, ProtobufError> {
    let Some((length, rest)) = stream.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| ProtobufError::Overflow)?;
    let Some(event) = rest.get(..length) else { return Ok(None) };
    let (mut event_type, mut object) = (String::new(), Value::Null);
    for field in wire::Fields::new(event) {
        match field? {
            (1, wire::Wire::Bytes(text)) => event_type = read::text("type", text)?,
            (2, wire::Wire::Bytes(raw)) => object = read::raw("object", raw, MAX_NESTED)?,
            _ => {}
        }
    }
    Ok(Some((event_type, object, length + 4)))
}

/// Whether objects of this kind can be sent as protobuf.
pub fn knows(api_version: &str, kind: &str) -> bool {
    schema::kind_of(api_version, kind).is_some()
}

fn find(api_version: &str, kind: &str) -> Result<&'static Type, ProtobufError> {
    schema::kind_of(api_version, kind)
        .ok_or_else(|| ProtobufError::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() })
}

#[cfg(test)]
mod tests;
