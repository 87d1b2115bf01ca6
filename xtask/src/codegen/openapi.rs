//! Reads the structs of `k8s-openapi`: the exact JSON names of the release, and which of them are required.
//!
//! Each definition has a file of its own, machine-made: a header with the definition's name, the struct, and the list of JSON names.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Element, Field, Shape, TypeId, normal, normal_id};

/// Every definition by its normalised name.
pub type Module = BTreeMap<TypeId, Object>;

#[derive(Debug)]
pub struct Object {
    pub name: String,
    pub properties: Vec<Property>,
}

#[derive(Debug, Clone)]
pub struct Property {
    pub json: String,
    pub required: bool,
    rust: String,
}

pub fn read(root: &Path) -> Result<Module> {
    let mut all = Module::new();
    read_folder(root, &mut all)?;
    Ok(all)
}

fn read_folder(folder: &Path, all: &mut Module) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            read_folder(&path, all)?;
        } else if let Some(object) = read_object(&std::fs::read_to_string(&path)?) {
            all.insert(object.0, object.1);
        }
    }
    Ok(())
}

fn read_object(text: &str) -> Option<(TypeId, Object)> {
    let definition = text.lines().next()?.strip_prefix("// Generated from definition ")?;
    let mut parts = definition.rsplit('.');
    let (name, version, group) = (parts.next()?, parts.next()?, parts.next()?);
    let id = TypeId { module: format!("{group}/{version}"), name: name.to_owned() };
    let mut rust = BTreeMap::new();
    // Some definitions are empty objects.
    let body =
        text.split(&format!("pub struct {name} {{")).nth(1).and_then(|rest| rest.split("\n}").next()).unwrap_or("");
    for line in body.lines() {
        if let Some((field, of)) = line.trim().strip_prefix("pub ").and_then(|rest| rest.split_once(':')) {
            rust.insert(normal(field), of.trim().trim_end_matches(',').to_owned());
        }
    }
    let mut properties = Vec::new();
    for line in text.lines() {
        let Some((json, key)) = line.trim().strip_prefix('"').and_then(|rest| rest.split_once("\" => Field::Key_"))
        else {
            continue;
        };
        // apiVersion and kind are constants of the Rust type, not fields.
        let of = match rust.get(&normal(key.trim_end_matches(','))) {
            Some(of) => of.clone(),
            None if matches!(json, "apiVersion" | "kind") => "Option<String>".to_owned(),
            None => continue,
        };
        let required = !of.starts_with("Option<");
        if !properties.iter().any(|property: &Property| property.json == json) {
            properties.push(Property { json: json.to_owned(), required, rust: of });
        }
    }
    Some((normal_id(&id), Object { name: name.to_owned(), properties }))
}

impl Property {
    /// An optional string.
    pub fn text(json: &str) -> Self {
        Property { json: json.to_owned(), required: false, rust: "Option<String>".to_owned() }
    }

    /// A field that only this source knows.
    pub fn into_field(self) -> Field {
        let (element, shape) = self.element();
        let presence = presence(&element, shape, self.required);
        Field {
            json: self.json,
            number: 0,
            element,
            shape,
            inline: false,
            presence,
            go: String::new(),
            markers: Vec::new(),
        }
    }

    fn element(&self) -> (Element, Shape) {
        let mut inner = self.rust.trim_start_matches("Option<");
        let mut shape = Shape::One;
        if let Some(item) = inner.split_once("Vec<").filter(|(before, _)| !before.contains('<')) {
            (shape, inner) = (Shape::List, item.1);
        } else if let Some((_, value)) = inner.split_once("BTreeMap<") {
            (shape, inner) = (Shape::Map, value.split_once(", ").map_or(value, |pair| pair.1));
        }
        // A list in a map is a message of its own in protobuf.
        if shape == Shape::Map && inner.starts_with("std::vec::Vec<") {
            return (Element::Plain("Strings"), shape);
        }
        let inner = inner.trim_end_matches('>');
        let name = inner.rsplit("::").next().unwrap_or(inner);
        let plain = match name {
            "String" => Some("String"),
            "i32" => Some("Int32"),
            "i64" => Some("Int64"),
            "bool" => Some("Bool"),
            "f64" => Some("Double"),
            "ByteString" => Some("Bytes"),
            "Time" => Some("Time"),
            "MicroTime" => Some("MicroTime"),
            "Quantity" => Some("Quantity"),
            "IntOrString" => Some("IntOrString"),
            "RawExtension" | "Value" => Some("Raw"),
            "FieldsV1" => Some("Fields"),
            _ => None,
        };
        if let Some(plain) = plain {
            return (Element::Plain(plain), shape);
        }
        let segments: Vec<&str> = inner.split("::").collect();
        let module = match segments.as_slice() {
            [.., group, version, _] => format!("{group}/{version}"),
            _ => String::new(),
        };
        (Element::Message(TypeId { module, name: name.to_owned() }), shape)
    }
}

/// The best guess where Go's own types are not known.
pub fn presence(element: &Element, shape: Shape, required: bool) -> &'static str {
    match (element, shape, required) {
        (_, _, true) => "Always",
        (Element::Message(_), Shape::One, false) => "Pointer",
        (Element::Plain("Time" | "MicroTime" | "Quantity" | "IntOrString" | "Fields"), Shape::One, false) => "Pointer",
        (Element::Plain(_) | Element::Message(_), Shape::One | Shape::List | Shape::Map, false) => "OmitEmpty",
    }
}
