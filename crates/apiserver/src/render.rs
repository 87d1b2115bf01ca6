//! Answers in the form that was asked for: whole objects, tables or metadata only, as JSON, YAML or protobuf.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use store::Entry;

use crate::fault::{Fault, Outcome};
use crate::kinds::{Column, Kind};
use crate::negotiate::{Form, Media, Shape};
use crate::object;
use crate::query::Query;

/// How much of an object a row of a table carries along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowObject {
    None,
    Metadata,
    Whole,
}

/// A renderer for one kind and one form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Renderer {
    pub(crate) kind: &'static Kind,
    pub(crate) form: Form,
    rows: RowObject,
}

/// What a list says about itself.
#[derive(Debug, Default)]
pub(crate) struct ListMeta {
    pub(crate) revision: u64,
    pub(crate) continue_token: Option<String>,
    pub(crate) remaining: Option<usize>,
}

impl ListMeta {
    fn to_value(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if let Some(token) = &self.continue_token {
            meta["continue"] = token.clone().into();
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
        meta
    }
}

impl Renderer {
    pub(crate) fn new(kind: &'static Kind, form: Form, query: &Query) -> Outcome<Renderer> {
        let rows = match query.text("includeObject") {
            "" | "Metadata" => RowObject::Metadata,
            "None" => RowObject::None,
            "Object" => RowObject::Whole,
            other => {
                return Err(Fault::bad_request(format!(
                    "Table.meta.k8s.io \"\" is invalid: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
                )));
            }
        };
        Ok(Renderer { kind, form, rows })
    }

    /// One object, as it is stored.
    pub(crate) fn stored(&self, bytes: &[u8]) -> Outcome<Bytes> {
        let mut out = Vec::with_capacity(self.room(bytes));
        if self.write_stored(bytes, &mut out)? {
            return Ok(out.into());
        }
        self.object(&object::decode(self.kind, bytes)?)
    }

    /// How much room one object takes at most; of a small part of it, more or less. What is kept for a slow reader keeps the room it was given.
    pub(crate) fn room(&self, stored: &[u8]) -> usize {
        if self.form.shape == Shape::Whole { stored.len() + 96 } else { 512 }
    }

    /// Appends an object without reading it, where its form is made of stored bytes; false if it is not.
    pub(crate) fn write_stored(&self, bytes: &[u8], out: &mut Vec<u8>) -> Outcome<bool> {
        match (self.form.shape, self.form.media) {
            (Shape::Whole, Media::Json) => object::write_named(self.kind, bytes, out)?,
            (Shape::Partial, Media::Json) if self.kind.alias.is_none() => {
                let metadata: &RawValue = object::head(bytes)?;
                let meta = self.form.meta;
                let kind = format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"{meta}","metadata":"#);
                out.extend_from_slice(kind.as_bytes());
                out.extend_from_slice(metadata.get().as_bytes());
                out.push(b'}');
            }
            (_, Media::Yaml | Media::Protobuf) | (Shape::Partial | Shape::Table, Media::Json) => return Ok(false),
        }
        Ok(true)
    }

    /// One object.
    pub(crate) fn object(&self, object: &Value) -> Outcome<Bytes> {
        let value = match self.form.shape {
            Shape::Whole => return write(object, self.form.media),
            Shape::Partial => self.partial(object),
            Shape::Table => {
                let meta = json!({"resourceVersion": object::meta(object, "resourceVersion")});
                self.table(meta, std::iter::once(Ok(object.clone())), true)?
            }
        };
        write(&value, self.form.media)
    }

    /// An object within a watch event; only the first table says its columns.
    pub(crate) fn event_object(&self, object: &Value, first: bool) -> Outcome<Value> {
        match self.form.shape {
            Shape::Whole => Ok(object.clone()),
            Shape::Partial => Ok(self.partial(object)),
            Shape::Table => {
                let meta = json!({"resourceVersion": object::meta(object, "resourceVersion")});
                self.table(meta, std::iter::once(Ok(object.clone())), first)
            }
        }
    }

    /// A list of stored objects.
    pub(crate) fn list(&self, entries: &[Entry], meta: &ListMeta) -> Outcome<Bytes> {
        let room = entries.iter().map(|entry| self.room(&entry.value)).sum();
        let decoded = || entries.iter().map(|entry| object::decode(self.kind, &entry.value));
        let value = match (self.form.shape, self.form.media) {
            (Shape::Whole, Media::Json) => {
                let kind = format!("{}List", self.kind.kind);
                let api_version = object::api_version(self.kind);
                return json_list(&kind, &api_version, entries, meta, room, |stored, out| {
                    object::write_item(self.kind, stored, out)
                });
            }
            (Shape::Partial, Media::Json) if self.kind.alias.is_none() => {
                return json_list("PartialObjectMetadataList", self.form.meta, entries, meta, room, |stored, out| {
                    self.write_stored(stored, out).map(drop)
                });
            }
            (Shape::Whole, Media::Yaml | Media::Protobuf) => {
                let items = decoded().collect::<Outcome<Vec<Value>>>()?;
                json!({
                    "kind": format!("{}List", self.kind.kind),
                    "apiVersion": object::api_version(self.kind),
                    "metadata": meta.to_value(),
                    "items": items,
                })
            }
            (Shape::Partial, _) => {
                let items = decoded().map(|item| Ok(self.partial(&item?))).collect::<Outcome<Vec<Value>>>()?;
                json!({
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": self.form.meta,
                    "metadata": meta.to_value(),
                    "items": items,
                })
            }
            (Shape::Table, _) => self.table(meta.to_value(), decoded(), true)?,
        };
        write(&value, self.form.media)
    }

    /// A list of objects that are not stored.
    pub(crate) fn list_of(&self, objects: Vec<Value>, meta: &ListMeta) -> Outcome<Bytes> {
        let meta = meta.to_value();
        let (kind, api_version, items) = match self.form.shape {
            Shape::Table => {
                return write(&self.table(meta, objects.into_iter().map(Ok), true)?, self.form.media);
            }
            Shape::Partial => (
                "PartialObjectMetadata",
                self.form.meta.to_owned(),
                objects.iter().map(|object| self.partial(object)).collect::<Vec<Value>>(),
            ),
            Shape::Whole => (self.kind.kind, object::api_version(self.kind), objects),
        };
        let list = json!({"kind": format!("{kind}List"), "apiVersion": api_version, "metadata": meta, "items": items});
        write(&list, self.form.media)
    }

    fn partial(&self, object: &Value) -> Value {
        json!({"kind": "PartialObjectMetadata", "apiVersion": self.form.meta, "metadata": object["metadata"]})
    }

    fn table(&self, meta: Value, objects: impl Iterator<Item = Outcome<Value>>, with_columns: bool) -> Outcome<Value> {
        let now = jiff::Timestamp::now().as_second();
        let mut rows = Vec::new();
        for object in objects {
            let object = object?;
            let cells = (self.kind.cells)(&object::as_stored(self.kind, &object), now);
            let mut row = json!({"cells": cells});
            match self.rows {
                RowObject::None => {}
                RowObject::Metadata => row["object"] = self.partial(&object),
                RowObject::Whole => row["object"] = object,
            }
            rows.push(row);
        }
        let columns: Vec<Value> =
            if with_columns { self.kind.columns.iter().map(column).collect() } else { Vec::new() };
        Ok(json!({
            "kind": "Table",
            "apiVersion": self.form.meta,
            "metadata": meta,
            "columnDefinitions": columns,
            "rows": rows,
        }))
    }
}

/// The quick way for the common cases: stored bytes one after another.
fn json_list(
    kind: &str,
    api_version: &str,
    entries: &[Entry],
    meta: &ListMeta,
    room: usize,
    write: impl Fn(&[u8], &mut Vec<u8>) -> Outcome<()>,
) -> Outcome<Bytes> {
    let mut out = Vec::with_capacity(room + 256);
    let head = format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":"#);
    out.extend_from_slice(head.as_bytes());
    object::write_json(&meta.to_value(), &mut out);
    out.extend_from_slice(br#","items":["#);
    for (index, entry) in entries.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(&entry.value, &mut out)?;
    }
    out.extend_from_slice(b"]}");
    Ok(out.into())
}

fn column(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.r#type,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

/// Any value that has `kind` and `apiVersion`.
pub(crate) fn write(value: &Value, media: Media) -> Outcome<Bytes> {
    match media {
        Media::Json | Media::Yaml => write_plain(value, media),
        Media::Protobuf => crate::wire::encode(value).map(Bytes::from),
    }
}

/// What has no protobuf form: YAML where it was asked for, else JSON.
pub(crate) fn write_plain(value: &impl Serialize, media: Media) -> Outcome<Bytes> {
    if media == Media::Yaml {
        return serde_norway::to_string(value).map(Bytes::from).map_err(Fault::internal);
    }
    let mut out = Vec::with_capacity(1024);
    serde_json::to_writer(&mut out, value).map_err(Fault::internal)?;
    out.push(b'\n');
    Ok(out.into())
}
