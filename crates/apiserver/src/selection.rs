//! Which objects of a collection a request means: label and field selectors over stored bytes.

use std::collections::BTreeMap;

use api::selector::{FieldSelector, LabelSelector};
use serde::Deserialize;
use serde_json::Value;

use crate::fault::{Fault, Outcome};
use crate::kinds::{Kind, Scope, Selectable};
use crate::query::Query;

/// The selectors of a request.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

#[derive(Deserialize)]
struct Head {
    metadata: HeadMeta,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct HeadMeta {
    name: String,
    namespace: String,
    labels: BTreeMap<String, String>,
}

impl Selection {
    pub(crate) fn of(kind: &'static Kind, query: &Query) -> Outcome<Selection> {
        let refused = |error: api::selector::SelectorError| Fault::bad_request(error.to_string());
        let labels = LabelSelector::parse(query.text("labelSelector")).map_err(refused)?;
        let fields = FieldSelector::parse(query.text("fieldSelector")).map_err(refused)?;
        fields
            .check_supported(|label| {
                matches!(label, "metadata.name" | "metadata.namespace") || selectable(kind, label).is_some()
            })
            .map_err(refused)?;
        Ok(Selection { labels, fields })
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether the object at this key, with these stored bytes, is meant. What the key tells is not read out of the bytes: a watch of one
    /// object by its name, of which there may be thousands, must cost next to nothing for each change of another.
    pub(crate) fn matches_at(&self, kind: &'static Kind, key: &str, stored: &[u8]) -> Outcome<bool> {
        let told = |label: &str| matches!(label, "metadata.name" | "metadata.namespace");
        if !self.labels.is_everything() || !self.fields.terms().iter().all(|term| told(&term.field)) {
            return self.matches(kind, stored);
        }
        let mut parts = key.rsplit('/');
        let name = parts.next().unwrap_or_default();
        let namespace = match kind.scope {
            Scope::Namespaced => parts.next().unwrap_or_default(),
            Scope::Cluster => "",
        };
        Ok(self.fields.matches(|label| match label {
            "metadata.name" => name.to_owned(),
            _ => namespace.to_owned(),
        }))
    }

    /// The same by the bytes alone.
    pub(crate) fn matches(&self, kind: &'static Kind, stored: &[u8]) -> Outcome<bool> {
        if self.is_everything() {
            return Ok(true);
        }
        // Most selectors are about metadata only, so the rest is parsed only when a field asks for it.
        let head: Head = serde_json::from_slice(stored).map_err(Fault::internal)?;
        if !self.labels.matches(|key| head.metadata.labels.get(key).map(String::as_str)) {
            return Ok(false);
        }
        let deep = self.fields.terms().iter().any(|term| selectable(kind, &term.field).is_some());
        let whole = if deep { serde_json::from_slice(stored).map_err(Fault::internal)? } else { Value::Null };
        Ok(self.fields.matches(|label| match label {
            "metadata.name" => head.metadata.name.clone(),
            "metadata.namespace" => head.metadata.namespace.clone(),
            other => selectable(kind, other).map(|selectable| read(&whole, selectable)).unwrap_or_default(),
        }))
    }
}

fn selectable(kind: &'static Kind, label: &str) -> Option<&'static Selectable> {
    kind.selectable.iter().find(|selectable| selectable.label == label)
}

/// The text that a field selector compares with.
fn read(object: &Value, selectable: &Selectable) -> String {
    selectable
        .pointers
        .iter()
        .filter_map(|pointer| match object.pointer(pointer)? {
            Value::String(text) => Some(text.clone()),
            Value::Null => None,
            other => Some(other.to_string()),
        })
        .find(|text| !text.is_empty())
        .unwrap_or_else(|| selectable.absent.to_owned())
}
