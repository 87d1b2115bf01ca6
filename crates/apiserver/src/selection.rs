//! Which objects of a collection a request means: label and field selectors over stored bytes.

use std::collections::BTreeMap;
use std::fmt;

use api::selector::{FieldSelector, LabelSelector};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::fault::{Fault, Outcome};
use crate::kinds::{Kind, Scope, Selectable};
use crate::object;
use crate::query::Query;

/// The selectors of a request.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Head {
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

    fn needs_head(&self, kind: &'static Kind) -> bool {
        !self.labels.is_everything() || self.fields.terms().iter().any(|term| selectable(kind, &term.field).is_none())
    }

    /// The same by the bytes alone.
    pub(crate) fn matches(&self, kind: &'static Kind, stored: &[u8]) -> Outcome<bool> {
        if self.is_everything() {
            return Ok(true);
        }
        // A watch is asked this of every change, by each node for its own pods: nothing is read but what is asked for.
        let head: Head = if self.needs_head(kind) { object::head(stored)? } else { Head::default() };
        if !self.labels.matches(|key| head.labels.get(key).map(String::as_str)) {
            return Ok(false);
        }
        let mut deep = BTreeMap::new();
        for selectable in self.fields.terms().iter().filter_map(|term| selectable(kind, &term.field)) {
            deep.insert(selectable.label, read(stored, selectable)?);
        }
        Ok(self.fields.matches(|label| match label {
            "metadata.name" => head.name.clone(),
            "metadata.namespace" => head.namespace.clone(),
            other => deep.get(other).cloned().unwrap_or_default(),
        }))
    }
}

fn selectable(kind: &'static Kind, label: &str) -> Option<&'static Selectable> {
    kind.selectable.iter().find(|selectable| selectable.label == label)
}

/// The text that a field selector compares with.
fn read(stored: &[u8], selectable: &Selectable) -> Outcome<String> {
    for pointer in selectable.pointers {
        let mut deserializer = serde_json::Deserializer::from_slice(stored);
        let text = match At(pointer).deserialize(&mut deserializer).map_err(Fault::internal)? {
            Value::String(text) => text,
            Value::Null => continue,
            other => other.to_string(),
        };
        if !text.is_empty() {
            return Ok(text);
        }
    }
    Ok(selectable.absent.to_owned())
}

/// Reads the one value at a JSON pointer (of plain names) and steps over all others; null when it is not there.
#[derive(Clone, Copy)]
struct At<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.0.is_empty() { Value::deserialize(deserializer) } else { deserializer.deserialize_any(self) }
    }
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let path = self.0.trim_start_matches('/');
        let (name, rest) = path.find('/').map_or((path, ""), |at| path.split_at(at));
        let mut found = Value::Null;
        while let Some(named) = map.next_key_seed(Is(name))? {
            if named {
                found = map.next_value_seed(At(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

/// Whether a member's name is this one.
struct Is<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_value_at_a_pointer_is_what_reading_it_all_finds() {
        let object = json!({
            "metadata": {"name": "web\"1", "labels": {"a": "b"}, "list": [1, [2], {"x": null}]},
            "spec": {"nodeName": "n1", "flag": true, "nothing": null, "count": -1.5, "text": "spec"},
            "status": "odd",
            "podIP": "10.0.0.1",
        });
        let bytes = object.to_string();
        let pointers = [
            "/metadata/name",
            "/metadata/labels",
            "/metadata/list/0",
            "/metadata/none/x",
            "/spec/nodeName",
            "/spec/flag",
            "/spec/nothing",
            "/spec/nothing/x",
            "/spec/flag/x",
            "/spec/count/x",
            "/spec/count",
            "/spec/text/x",
            "/status/podIP",
            "/podIP",
            "/spec",
            "/none",
        ];
        for pointer in pointers {
            let mut deserializer = serde_json::Deserializer::from_slice(bytes.as_bytes());
            let found = At(pointer).deserialize(&mut deserializer).unwrap();
            let expected = if pointer.ends_with("/0") { None } else { object.pointer(pointer) };
            assert_eq!(found, expected.cloned().unwrap_or_default(), "{pointer}");
        }
    }
}
