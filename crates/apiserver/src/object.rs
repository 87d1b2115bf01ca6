//! Objects as values and as stored bytes: keys, encoding, metadata by name.
//!
//! Stored bytes are JSON without `kind` and `apiVersion`, as the items of a list are; `metadata.resourceVersion` is stamped into them
//! by the store. So a list is the bytes one after another, and a get puts the two names in front.

use std::borrow::Cow;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};
use store::Body;

use crate::fault::{Fault, Outcome};
use crate::kinds::{Kind, Scope};

/// The kind that objects of `kind` are stored as: itself, or the one it is another name of.
pub(crate) fn stored(kind: &'static Kind) -> (&'static str, &'static str) {
    match &kind.alias {
        Some(alias) => (alias.group, kind.plural),
        None => (kind.group, kind.plural),
    }
}

/// What the keys of a collection start with. An empty namespace is all of them.
pub(crate) fn prefix(kind: &'static Kind, namespace: &str) -> String {
    let (group, plural) = stored(kind);
    let group = if group.is_empty() { "core" } else { group };
    match kind.scope {
        Scope::Namespaced if !namespace.is_empty() => format!("/{group}/{plural}/{namespace}/"),
        Scope::Namespaced | Scope::Cluster => format!("/{group}/{plural}/"),
    }
}

pub(crate) fn key(kind: &'static Kind, namespace: &str, name: &str) -> String {
    let mut key = prefix(kind, namespace);
    key.push_str(name);
    key
}

/// Where upstream keeps the object, which some of its messages tell: some kinds lie under the names of their first years.
pub(crate) fn upstream_key(kind: &Kind, namespace: &str, name: &str) -> String {
    let folder = match (kind.group, kind.plural) {
        ("", "services") => "services/specs",
        ("", "endpoints") => "services/endpoints",
        ("", "nodes") => "minions",
        ("", "replicationcontrollers") => "controllers",
        ("networking.k8s.io", "ingresses") => "ingress",
        (_, plural) => plural,
    };
    match kind.scope {
        Scope::Namespaced => format!("/registry/{folder}/{namespace}/{name}"),
        Scope::Cluster => format!("/registry/{folder}/{name}"),
    }
}

/// `v1`, `apps/v1`.
pub(crate) fn api_version(kind: &Kind) -> String {
    if kind.group.is_empty() { kind.version.to_owned() } else { format!("{}/{}", kind.group, kind.version) }
}

/// The kind as the decoder wants to know it.
pub(crate) fn wanted(kind: &Kind) -> api::decode::Kind<'static> {
    api::decode::Kind { group: kind.group, version: kind.version, kind: kind.kind }
}

/// The stored form of an object, whose revision the store fills in.
pub(crate) fn encode(kind: &'static Kind, object: &Value) -> Body {
    let object = &*as_stored(kind, object);
    let head = br#"{"metadata":{"resourceVersion":""#.to_vec();
    let mut tail = b"\"".to_vec();
    let empty = Map::new();
    let members = |value: &Value, skip: &[&str], tail: &mut Vec<u8>| {
        for (name, value) in value.as_object().unwrap_or(&empty) {
            if !skip.contains(&name.as_str()) && !value.is_null() {
                tail.push(b',');
                write_json(&Value::String(name.clone()), tail);
                tail.push(b':');
                write_json(value, tail);
            }
        }
    };
    members(&object["metadata"], &["resourceVersion"], &mut tail);
    tail.push(b'}');
    members(object, &["kind", "apiVersion", "metadata"], &mut tail);
    tail.push(b'}');
    Body::Stamped { head, tail }
}

/// The object with `kind` and `apiVersion`.
pub(crate) fn decode(kind: &'static Kind, bytes: &[u8]) -> Outcome<Value> {
    let mut object: Value = serde_json::from_slice(bytes).map_err(Fault::internal)?;
    name_kind(kind, &mut object);
    if let Some(alias) = &kind.alias {
        (alias.from_stored)(&mut object);
    }
    Ok(object)
}

/// The object as it is stored, for what is written about the stored form only: columns and selectable fields.
pub(crate) fn as_stored<'a>(kind: &Kind, object: &'a Value) -> Cow<'a, Value> {
    match &kind.alias {
        Some(alias) => {
            let mut stored = object.clone();
            (alias.to_stored)(&mut stored);
            Cow::Owned(stored)
        }
        None => Cow::Borrowed(object),
    }
}

/// The metadata of an object's bytes. It is what stored bytes begin with, so the rest of them is not looked at.
pub(crate) fn head<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Outcome<T> {
    #[derive(Deserialize)]
    struct Object<T> {
        metadata: T,
    }
    let Some(rest) = bytes.strip_prefix(br#"{"metadata":"#) else {
        return serde_json::from_slice::<Object<T>>(bytes).map(|object| object.metadata).map_err(Fault::internal);
    };
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter();
    values.next().ok_or_else(|| Fault::internal("an object without metadata"))?.map_err(Fault::internal)
}

/// Puts `kind` and `apiVersion` where they belong.
pub(crate) fn name_kind(kind: &Kind, object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), api_version(kind).into());
        map.insert("kind".to_owned(), kind.kind.into());
    }
}

/// Appends the object as a client reads it.
pub(crate) fn write_named(kind: &'static Kind, stored: &[u8], out: &mut Vec<u8>) -> Outcome<()> {
    if kind.alias.is_some() {
        write_json(&decode(kind, stored)?, out);
        return Ok(());
    }
    out.extend_from_slice(format!(r#"{{"kind":"{}","apiVersion":"{}","#, kind.kind, api_version(kind)).as_bytes());
    out.extend_from_slice(stored.get(1..).unwrap_or_default());
    Ok(())
}

/// Appends the object as an item of a list.
pub(crate) fn write_item(kind: &'static Kind, stored: &[u8], out: &mut Vec<u8>) -> Outcome<()> {
    if kind.alias.is_some() {
        let mut object = decode(kind, stored)?;
        if let Some(map) = object.as_object_mut() {
            map.remove("kind");
            map.remove("apiVersion");
        }
        write_json(&object, out);
        return Ok(());
    }
    out.extend_from_slice(stored);
    Ok(())
}

/// Appends a value as JSON.
pub(crate) fn write_json(value: &Value, out: &mut Vec<u8>) {
    // Writing a `Value` into memory has no way to fail: its keys are strings and its numbers finite.
    let written = serde_json::to_writer(out, value);
    debug_assert!(written.is_ok());
}

/// A value as bytes of JSON.
pub(crate) fn json_bytes(value: &Value) -> Bytes {
    let mut out = Vec::with_capacity(256);
    write_json(value, &mut out);
    Bytes::from(out)
}

/// A text of the metadata; empty when absent.
pub(crate) fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

pub(crate) fn name(object: &Value) -> &str {
    meta(object, "name")
}

pub(crate) fn namespace(object: &Value) -> &str {
    meta(object, "namespace")
}

/// Sets a member of the metadata, which is made when absent.
pub(crate) fn set_meta(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(metadata) = metadata_mut(object) {
        metadata.insert(field.to_owned(), value.into());
    }
}

pub(crate) fn remove_meta(object: &mut Value, field: &str) {
    if let Some(metadata) = metadata_mut(object) {
        metadata.remove(field);
    }
}

/// The metadata, made when absent; nothing when the object is no object.
pub(crate) fn metadata_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let metadata = object.as_object_mut()?.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if metadata.is_null() {
        *metadata = Value::Object(Map::new());
    }
    metadata.as_object_mut()
}

/// Whether anyone wants to act before the object goes.
pub(crate) fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty())
}

pub(crate) fn is_deleting(object: &Value) -> bool {
    !meta(object, "deletionTimestamp").is_empty()
}

/// A time as Kubernetes writes it, to the second.
pub(crate) fn timestamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Now, to the second.
pub(crate) fn now() -> String {
    timestamp(Timestamp::now())
}
