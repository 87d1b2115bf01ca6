//! Reads the messages of `k8s-pb`: prost structs whose attributes hold number and wire type and whose comments hold upstream's markers.
//!
//! The files are machine-made and line by line regular, so lines are read rather than Rust parsed.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Element, Shape, TypeId, normal_id};

/// Every message by its normalised name.
pub type Module = BTreeMap<TypeId, Message>;

#[derive(Debug)]
pub struct Message {
    pub atomic: bool,
    pub fields: Vec<Field>,
}

#[derive(Debug)]
pub struct Field {
    pub name: String,
    pub number: u32,
    pub element: Element,
    pub shape: Shape,
    pub markers: Vec<(String, String)>,
}

const MODULES: &[(&str, &str)] = &[
    ("core/v1", "api/core/v1"),
    ("apps/v1", "api/apps/v1"),
    ("batch/v1", "api/batch/v1"),
    ("discovery/v1", "api/discovery/v1"),
    ("networking/v1", "api/networking/v1"),
    ("events/v1", "api/events/v1"),
    ("coordination/v1", "api/coordination/v1"),
    ("policy/v1", "api/policy/v1"),
    ("rbac/v1", "api/rbac/v1"),
    ("scheduling/v1", "api/scheduling/v1"),
    ("authentication/v1", "api/authentication/v1"),
    ("authorization/v1", "api/authorization/v1"),
    ("autoscaling/v1", "api/autoscaling/v1"),
    ("autoscaling/v2", "api/autoscaling/v2"),
    ("storage/v1", "api/storage/v1"),
    ("node/v1", "api/node/v1"),
    ("meta/v1", "apimachinery/pkg/apis/meta/v1"),
];

pub fn read(root: &Path) -> Result<Module> {
    let mut all = Module::new();
    for (module, folder) in MODULES {
        let path = root.join("src").join(folder).join("mod.rs");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        read_module(module, &text, &mut all)?;
    }
    Ok(all)
}

fn read_module(module: &str, text: &str, all: &mut Module) -> Result<()> {
    let mut markers = Vec::new();
    let mut current: Option<(String, Message)> = None;
    let mut attribute = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if let Some(comment) = line.strip_prefix("///") {
            markers.extend(marker(comment.trim()));
        } else if line.starts_with("#[prost(") {
            attribute = line.to_owned();
        } else if let Some(name) = line.strip_prefix("pub struct ").and_then(|rest| rest.split_whitespace().next()) {
            let atomic = markers.iter().any(|(name, value)| name == "structType" && value == "atomic");
            let name = name.trim_end_matches("{}").to_owned();
            let message = Message { atomic, fields: Vec::new() };
            if line.ends_with("{}") {
                all.insert(normal_id(&TypeId { module: module.to_owned(), name }), message);
            } else {
                current = Some((name, message));
            }
            markers.clear();
        } else if let (Some(rest), Some((_, message))) = (line.strip_prefix("pub "), current.as_mut()) {
            let mut declared = rest.to_owned();
            while !(declared.ends_with(',') && balanced(&declared)) {
                declared.push_str(lines.next().context("file ends inside a field")?.trim());
            }
            message.fields.push(field(module, &attribute, &declared, std::mem::take(&mut markers))?);
        } else if line == "}"
            && let Some((name, message)) = current.take()
        {
            all.insert(normal_id(&TypeId { module: module.to_owned(), name }), message);
        }
    }
    Ok(())
}

fn balanced(text: &str) -> bool {
    text.matches('<').count() == text.matches('>').count()
}

/// `+listType=map` as a pair; other comment lines are not ours to copy.
fn marker(comment: &str) -> Option<(String, String)> {
    let (name, value) = comment.strip_prefix('+')?.split_once('=')?;
    // Of defaults only texts are said plainly; references to constants are not.
    if name == "default" {
        let text = value.trim().strip_prefix('"')?.strip_suffix('"')?;
        return Some((name.to_owned(), text.to_owned()));
    }
    let known = ["patchStrategy", "patchMergeKey", "listType", "listMapKey", "mapType", "structType"];
    known.contains(&name).then(|| (name.to_owned(), value.trim().trim_matches('"').to_owned()))
}

fn field(module: &str, attribute: &str, declared: &str, markers: Vec<(String, String)>) -> Result<Field> {
    let (name, rust) = declared.trim_end_matches(',').split_once(':').context("field without a type")?;
    let tag = attribute.split("tag = \"").nth(1).and_then(|rest| rest.split('"').next()).context("no tag")?;
    let inside = attribute.trim_start_matches("#[prost(");
    let shape = match inside {
        map if map.starts_with("btree_map") => Shape::Map,
        list if list.contains("repeated") => Shape::List,
        _ => Shape::One,
    };
    let wire = if shape == Shape::Map {
        inside.split('"').nth(1).and_then(|pair| pair.split(", ").nth(1)).context("map without a value")?
    } else {
        inside.split([',', ' ', '=']).next().context("empty attribute")?
    };
    let (element, shape) = element(module, wire, rust, shape)?;
    Ok(Field { name: name.to_owned(), number: tag.parse()?, element, shape, markers })
}

fn element(module: &str, wire: &str, rust: &str, shape: Shape) -> Result<(Element, Shape)> {
    let plain = |name| Ok((Element::Plain(name), shape));
    match wire {
        "string" => plain("String"),
        "int32" => plain("Int32"),
        "int64" => plain("Int64"),
        "bool" => plain("Bool"),
        "double" => plain("Double"),
        "bytes" => plain("Bytes"),
        "message" => {
            let inner = rust.rsplit('<').next().unwrap_or(rust).trim_end_matches(['>', ',', ' ']);
            let inner = inner.rsplit(',').next().unwrap_or(inner).trim();
            let segments: Vec<&str> = inner.split("::").filter(|part| *part != "super").collect();
            let name = segments.last().copied().context("message without a type")?;
            let special = match name {
                "Time" => Some("Time"),
                "MicroTime" => Some("MicroTime"),
                "Quantity" => Some("Quantity"),
                "IntOrString" => Some("IntOrString"),
                "RawExtension" => Some("Raw"),
                "FieldsV1" => Some("Fields"),
                "ExtraValue" | "Verbs" => Some("Strings"),
                _ => None,
            };
            if let Some(special) = special {
                return plain(special);
            }
            let module = match segments.as_slice() {
                [.., group, version, _] => format!("{group}/{version}"),
                _ => module.to_owned(),
            };
            Ok((Element::Message(TypeId { module, name: name.to_owned() }), shape))
        }
        other => anyhow::bail!("unknown wire type {other} of {rust}"),
    }
}
