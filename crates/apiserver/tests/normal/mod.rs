//! Answers without what only the server that gave them could know.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Replaces chosen values, unless a request of the case gave them.
pub struct Normal {
    namespace: String,
    keep_managed: bool,
    given_texts: BTreeSet<String>,
    given_numbers: BTreeSet<i64>,
}

impl Normal {
    pub fn new<'a>(namespace: &str, keep_managed: bool, bodies: impl Iterator<Item = &'a Value>) -> Self {
        let mut normal = Normal {
            namespace: namespace.to_owned(),
            keep_managed,
            given_texts: BTreeSet::new(),
            given_numbers: BTreeSet::new(),
        };
        bodies.for_each(|body| normal.take(body));
        normal
    }

    fn take(&mut self, value: &Value) {
        match value {
            Value::String(text) => {
                self.given_texts.insert(text.clone());
            }
            Value::Number(number) => self.given_numbers.extend(number.as_i64()),
            Value::Array(items) => items.iter().for_each(|item| self.take(item)),
            Value::Object(map) => map.values().for_each(|item| self.take(item)),
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// The body to send: `{ns}` is the namespace.
    pub fn request(&self, body: &Value) -> Value {
        match body {
            Value::String(text) => text.replace("{ns}", &self.namespace).into(),
            Value::Array(items) => items.iter().map(|item| self.request(item)).collect(),
            Value::Object(map) => map.iter().map(|(key, item)| (key.clone(), self.request(item))).collect(),
            other => other.clone(),
        }
    }

    pub fn answer(&self, body: Value) -> Value {
        self.normal("", body)
    }

    /// The recorded answer has its places marked; only what is dropped is left out of it too.
    pub fn expected(&self, body: &Value) -> Value {
        match body {
            Value::Array(items) => items.iter().map(|item| self.expected(item)).collect(),
            Value::Object(map) => map
                .iter()
                .filter(|(key, _)| !self.dropped(key))
                .map(|(key, item)| (key.clone(), self.expected(item)))
                .collect(),
            other => other.clone(),
        }
    }

    fn dropped(&self, key: &str) -> bool {
        matches!(key, "description" | "storageVersionHash") || (key == "managedFields" && !self.keep_managed)
    }

    fn normal(&self, key: &str, value: Value) -> Value {
        match value {
            Value::Object(map) => {
                let kept = map.into_iter().filter(|(key, _)| !self.dropped(key));
                Value::Object(kept.map(|(key, item)| (key.clone(), self.normal(&key, item))).collect::<Map<_, _>>())
            }
            Value::Array(items) => items.into_iter().map(|item| self.normal(key, item)).collect(),
            Value::Number(number) => match key {
                "nodePort" | "healthCheckNodePort" if !self.given_numbers.contains(&number.as_i64().unwrap_or(-1)) => {
                    format!("<{key}>").into()
                }
                "remainingItemCount" => "<remainingItemCount>".into(),
                _ => Value::Number(number),
            },
            Value::String(text) => self.text(key, &text).into(),
            other => other,
        }
    }

    fn text(&self, key: &str, text: &str) -> String {
        if self.given_texts.contains(text) {
            return text.to_owned();
        }
        match key {
            "uid" | "resourceVersion" | "continue" => return format!("<{key}>"),
            "cells" if is_age(text) => return "<age>".to_owned(),
            "name" => {
                for prefix in ["gen-", "kube-api-access-"] {
                    if text.strip_prefix(prefix).is_some_and(|rest| rest.len() == 5) {
                        return format!("<{prefix}generated>");
                    }
                }
            }
            _ if is_time(text) => return format!("<{key}>"),
            _ => {}
        }
        let text = text.replace(&self.namespace, "{ns}");
        self.words(&text)
    }

    /// Addresses and UUIDs anywhere in a text.
    fn words(&self, text: &str) -> String {
        let mut out = String::new();
        let mut word = String::new();
        for character in text.chars().chain([' ']) {
            if character.is_ascii_alphanumeric() || matches!(character, '.' | '-') {
                word.push(character);
                continue;
            }
            let address = word.starts_with("10.96.") && word.parse::<std::net::Ipv4Addr>().is_ok();
            if address && !self.given_texts.contains(&word) {
                out.push_str("<ip>");
            } else if is_uuid(&word) && !self.given_texts.contains(&word) {
                out.push_str("<uid>");
            } else {
                out.push_str(&word);
            }
            word.clear();
            out.push(character);
        }
        out.pop();
        out
    }
}

fn is_age(text: &str) -> bool {
    text.ends_with(['s', 'm', 'h', 'd'])
        && text.chars().all(|character| character.is_ascii_digit() || "smhd".contains(character))
        && text.starts_with(|character: char| character.is_ascii_digit())
}

fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    text.len() >= 20 && bytes[4] == b'-' && bytes[10] == b'T' && text.ends_with('Z')
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
        && text.chars().all(|character| character.is_ascii_hexdigit() || character == '-')
}
