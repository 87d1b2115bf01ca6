//! The schemas of one group and version: its kinds, their lists, and all that they are made of.
//!
//! They come from `k8s-openapi`, by way of a packed file beside this one: the code that makes them is two megabytes in a program that needs them
//! when somebody asks for `kubectl explain`. The test in `made` holds the file to the crate.

#[cfg(test)]
mod made;

use std::collections::BTreeMap;
use std::io::Read;

use api::schema;
use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::marks;
use crate::kinds::{KINDS, Kind};

/// Which of the two formats a schema is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Swagger,
    OpenApi3,
}

impl Dialect {
    /// Where references point.
    fn root(self) -> &'static str {
        match self {
            Dialect::Swagger => "#/definitions/",
            Dialect::OpenApi3 => "#/components/schemas/",
        }
    }
}

/// What the file holds, references as OpenAPI 3 has them.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Definitions {
    /// The types that `group/version` needs, all that they are made of included.
    groups: BTreeMap<String, Vec<String>>,
    schemas: BTreeMap<String, Value>,
}

const PACKED: &[u8] = include_bytes!("schemas/definitions.json.gz");

fn unpack() -> std::io::Result<Definitions> {
    let mut text = Vec::new();
    GzDecoder::new(PACKED).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Schemas by definition name.
pub(super) fn of(group: &str, version: &str, dialect: Dialect) -> Map<String, Value> {
    let mut all = unpack().expect("the packed definitions are read by a test");
    let names = all.groups.remove(&format!("{group}/{version}")).unwrap_or_default();
    let mut schemas = Map::new();
    for name in names {
        if let Some(mut schema) = all.schemas.remove(&name) {
            if dialect == Dialect::Swagger {
                point(&mut schema, dialect.root());
            }
            schemas.insert(name, schema);
        }
    }
    for kind in KINDS.iter().filter(|kind| kind.group == group && kind.version == version) {
        if let Some(of) = schema::kind(kind.group, kind.version, kind.kind) {
            schemas.insert(format!("{}List", of.definition()), list(kind, dialect.root(), &of.definition()));
        }
    }
    marks::mark(&mut schemas, dialect);
    schemas
}

/// Turns every reference to another root.
fn point(schema: &mut Value, root: &str) {
    match schema {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(to) if name == "$ref" => {
                        if let Some(name) = to.strip_prefix(Dialect::OpenApi3.root()) {
                            *to = format!("{root}{name}");
                        }
                    }
                    other => point(other, root),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| point(value, root)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn list(kind: &Kind, root: &str, item: &str) -> Value {
    json!({
        "description": format!("{name}List is a list of {name}", name = kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The version of this representation"},
            "kind": {"type": "string", "description": "The kind of this list"},
            "items": {
                "type": "array",
                "description": format!("List of {}", kind.plural),
                "items": {"allOf": [{"$ref": format!("{root}{item}")}]},
            },
            "metadata": {
                "description": "What the list says about itself",
                "allOf": [{"$ref": format!("{root}io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")}],
            },
        },
    })
}

/// A type that holds a number or a text, as each dialect says it.
pub(super) fn number_or_text(dialect: Dialect) -> Value {
    match dialect {
        Dialect::Swagger => json!({"type": "string", "format": "int-or-string"}),
        Dialect::OpenApi3 => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
    }
}
