//! `portolan render`: the rules that a node would have for the Services of some manifests. It needs neither root nor a cluster.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use ipnet::IpNet;
use proxy::Ranges;
use serde::Deserialize;
use serde_json::Value;

use crate::terminal;

#[derive(Debug, Clone, Args)]
pub struct RenderOptions {
    /// Manifests: files, folders with all below them, or `-` for standard input
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub filename: Vec<PathBuf>,
    /// Render for this one of the Nodes among the manifests [default: the first]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    #[command(flatten)]
    pub ranges: RangeOptions,
}

/// The address ranges that rules know.
#[derive(Debug, Clone, Args)]
pub struct RangeOptions {
    /// Ranges of the cluster's pods
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    /// Ranges of cluster IPs
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub service_cidr: Vec<IpNet>,
    /// Masquerade all packets to cluster IPs
    #[arg(long)]
    pub masquerade_all: bool,
}

impl RangeOptions {
    pub fn ranges(&self) -> Ranges {
        Ranges {
            cluster: self.cluster_cidr.clone(),
            service: self.service_cidr.clone(),
            masquerade_all: self.masquerade_all,
            ..Ranges::default()
        }
    }
}

pub fn run(options: &RenderOptions) -> Result<()> {
    let objects = objects(&options.filename)?;
    terminal::text(proxy::render(&objects, options.node.as_deref(), &options.ranges.ranges())?);
    Ok(())
}

/// All objects in these places, in their order, lists taken apart.
pub fn objects(places: &[PathBuf]) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for place in places {
        let (name, text) = if place.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            ("standard input".to_owned(), text)
        } else if place.is_dir() {
            objects.extend(self::objects(&below(place)?)?);
            continue;
        } else {
            let name = place.display().to_string();
            (name, fs::read_to_string(place).with_context(|| format!("cannot read `{}`", place.display()))?)
        };
        for document in serde_norway::Deserializer::from_str(&text) {
            let document = Value::deserialize(document).with_context(|| format!("`{name}` is not YAML"))?;
            take(document, &mut objects);
        }
    }
    Ok(objects)
}

fn take(document: Value, objects: &mut Vec<Value>) {
    let list = document["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    match document {
        Value::Object(mut fields) if list && fields.contains_key("items") => {
            let kind = fields.get("kind").and_then(Value::as_str).and_then(|kind| kind.strip_suffix("List"));
            let kind = kind.filter(|kind| !kind.is_empty()).map(str::to_owned);
            let items = fields.remove("items");
            for mut item in items.and_then(|items| items.as_array().cloned()).unwrap_or_default() {
                // An API server leaves the kind out of a list's items.
                if let (Some(kind), true) = (&kind, item["kind"].is_null() && item.is_object()) {
                    item["kind"] = kind.as_str().into();
                }
                take(item, objects);
            }
        }
        Value::Null => {}
        document => objects.push(document),
    }
}

/// The manifests in a folder and below it, by name.
fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let entries = entries.with_context(|| format!("cannot read folder `{}`", folder.display()))?;
    let mut found: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    found.sort();
    let manifest =
        |path: &Path| path.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e == *known));
    found.retain(|path| path.is_dir() || manifest(path));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_are_taken_apart_and_folders_walked_by_name() {
        let place = std::env::temp_dir().join(format!("render-objects-{}", std::process::id()));
        fs::create_dir_all(place.join("z")).unwrap();
        fs::write(
            place.join("b.yaml"),
            "kind: Service\nmetadata: {name: b}\n---\n---\nkind: Node\nmetadata: {name: n}\n",
        )
        .unwrap();
        fs::write(place.join("a.json"), r#"{"kind": "ServiceList", "items": [{"metadata": {"name": "a"}}]}"#).unwrap();
        fs::write(place.join("z/c.yml"), "kind: List\nitems: [{kind: Service, metadata: {name: c}}]\n").unwrap();
        fs::write(place.join("README.md"), "not: [a manifest").unwrap();
        let found = objects(std::slice::from_ref(&place)).unwrap();
        fs::remove_dir_all(&place).unwrap();
        let named = |kind: &str, name: &str| json!({"kind": kind, "metadata": {"name": name}});
        assert_eq!(found, [named("Service", "a"), named("Service", "b"), named("Node", "n"), named("Service", "c")]);
    }
}
