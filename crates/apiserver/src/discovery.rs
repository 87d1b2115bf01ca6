//! Discovery: which groups, versions, resources and verbs there are, in the old and in the aggregated form.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::kinds::{KINDS, Kind, Scope};
use crate::negotiate::{Media, accepted};
use crate::parts;
use crate::reports::{self, REPORTS, Report};
use crate::reviews::{REVIEWS, Review};

/// The verbs of every stored kind.
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// A namespace is never deleted by the collection, nor is a service account's.
const NO_COLLECTION: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];

pub(crate) fn verbs(kind: &Kind) -> &'static [&'static str] {
    if kind.group.is_empty() && kind.plural == "namespaces" { NO_COLLECTION } else { VERBS }
}

/// The content type of the aggregated form, when the client takes it before the old one.
pub(crate) fn aggregated(headers: &HeaderMap) -> Option<&'static str> {
    accepted(headers).iter().find_map(|clause| {
        let wanted = clause.media == "application/json"
            && clause.parameter("g") == Some("apidiscovery.k8s.io")
            && clause.parameter("as") == Some("APIGroupDiscoveryList");
        match clause.parameter("v") {
            Some("v2") if wanted => Some("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
            _ => None,
        }
    })
}

/// Groups in order, without core.
fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&'static str> = Vec::new();
    let reported = REPORTS.iter().map(|report| report.kind.group);
    for group in KINDS.iter().map(|kind| kind.group).chain(REVIEWS.iter().map(|review| review.group)).chain(reported) {
        if !group.is_empty() && !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

/// Versions of a group, the preferred one first.
fn versions(group: &str) -> Vec<&'static str> {
    let stored = KINDS.iter().filter(|kind| kind.group == group).map(|kind| kind.version);
    let asked = REVIEWS.iter().filter(|review| review.group == group).map(|review| review.version);
    let mut versions: Vec<&'static str> = Vec::new();
    let reported = REPORTS.iter().filter(|report| report.kind.group == group).map(|report| report.kind.version);
    for version in stored.chain(asked).chain(reported) {
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    versions
}

/// All groups with their versions, core first.
pub(crate) fn group_versions() -> Vec<(&'static str, &'static str)> {
    let all = std::iter::once("").chain(groups());
    all.flat_map(|group| versions(group).into_iter().map(move |version| (group, version))).collect()
}

pub(crate) fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

pub(crate) fn group_list() -> Value {
    let groups: Vec<Value> = groups().into_iter().map(group_body).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `APIGroup`, or nothing for a group that is not served.
pub(crate) fn group(name: &str) -> Option<Value> {
    let known = groups().into_iter().find(|known| *known == name)?;
    let mut group = group_body(known);
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Some(group)
}

fn group_body(name: &str) -> Value {
    let versions: Vec<Value> = versions(name)
        .into_iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "preferredVersion": versions.first(), "versions": versions})
}

/// The old form's list of resources. Scripts look for its text, so its fields come in upstream's order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ResourceList {
    kind: &'static str,
    api_version: &'static str,
    group_version: String,
    resources: Vec<ApiResource>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ApiResource {
    name: String,
    singular_name: &'static str,
    namespaced: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    kind: &'static str,
    verbs: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    short_names: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    categories: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_version_hash: Option<String>,
}

/// The resources of a version, or nothing for one that is not served.
pub(crate) fn resources(group: &str, version: &str) -> Option<ResourceList> {
    let mut resources = Vec::new();
    for kind in KINDS.iter().filter(|kind| kind.group == group && kind.version == version) {
        resources.push(ApiResource { storage_version_hash: Some(storage_hash(kind)), ..resource(kind, verbs(kind)) });
        resources.extend(parts::of(kind).iter().map(|part| subresource(kind, part)));
    }
    let reviews = REVIEWS.iter().filter(|review| review.group == group && review.version == version);
    resources
        .extend(reviews.map(|review| created_only(review.plural, review.singular, review.namespaced, review.kind)));
    resources.extend(reported(group, version).map(|report| resource(&report.kind, reports::VERBS)));
    if resources.is_empty() {
        return None;
    }
    if group.is_empty() {
        resources.push(created_only("bindings", "binding", true, "Binding"));
    }
    resources.sort_by(|a, b| a.name.cmp(&b.name));
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(ResourceList { kind: "APIResourceList", api_version: "v1", group_version, resources })
}

/// Upstream's `StorageVersionHash`: clients compare it to learn whether objects are stored in another version than before.
fn storage_hash(kind: &Kind) -> String {
    let own = (kind.group, kind.version, kind.kind);
    let (group, version, name) = kind.alias.as_ref().map_or(own, |alias| (alias.group, alias.version, alias.kind));
    STANDARD.encode(&Sha256::digest(format!("{group}/{version}/{name}"))[..8])
}

fn reported(group: &str, version: &str) -> impl Iterator<Item = &'static Report> {
    REPORTS.iter().filter(move |report| report.kind.group == group && report.kind.version == version)
}

fn resource(kind: &Kind, verbs: &[&'static str]) -> ApiResource {
    ApiResource {
        verbs: verbs.to_vec(),
        short_names: kind.short_names.to_vec(),
        categories: kind.categories.to_vec(),
        ..created_only(kind.plural, kind.singular, kind.scope == Scope::Namespaced, kind.kind)
    }
}

fn subresource(kind: &Kind, part: &parts::Part) -> ApiResource {
    let (group, version) = part.group_version.unzip();
    ApiResource {
        name: format!("{}/{}", kind.plural, part.name),
        group,
        version,
        verbs: part.verbs.to_vec(),
        ..created_only("", "", kind.scope == Scope::Namespaced, part.kind)
    }
}

fn created_only(name: &str, singular: &'static str, namespaced: bool, kind: &'static str) -> ApiResource {
    ApiResource {
        name: name.to_owned(),
        singular_name: singular,
        namespaced,
        group: None,
        version: None,
        kind,
        verbs: vec!["create"],
        short_names: Vec::new(),
        categories: Vec::new(),
        storage_version_hash: None,
    }
}

/// The aggregated form: of core at `/api`, of all other groups at `/apis`.
pub(crate) fn aggregate(core: bool) -> Value {
    let groups = if core { vec![""] } else { groups() };
    let items: Vec<Value> = groups.into_iter().map(aggregated_group).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_group(group: &str) -> Value {
    let versions: Vec<Value> = versions(group)
        .into_iter()
        .map(|version| {
            let stored = KINDS.iter().filter(|kind| kind.group == group && kind.version == version);
            let asked = REVIEWS.iter().filter(|review| review.group == group && review.version == version);
            let mut resources: Vec<Value> =
                stored.map(|kind| aggregated_resource(kind, verbs(kind))).chain(asked.map(aggregated_review)).collect();
            let reports = reported(group, version);
            resources.extend(reports.map(|report| aggregated_resource(&report.kind, reports::VERBS)));
            if group.is_empty() {
                resources.push(json!({
                    "resource": "bindings",
                    "responseKind": {"group": "", "version": "v1", "kind": "Binding"},
                    "scope": "Namespaced",
                    "singularResource": "binding",
                    "verbs": ["create"],
                }));
            }
            resources.sort_by(|a, b| a["resource"].as_str().cmp(&b["resource"].as_str()));
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let mut metadata = Map::new();
    if !group.is_empty() {
        metadata.insert("name".to_owned(), group.into());
    }
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(kind: &Kind, verbs: &[&str]) -> Value {
    let subresources: Vec<Value> = parts::of(kind)
        .iter()
        .map(|part| {
            let (group, version) = part.group_version.unwrap_or((kind.group, kind.version));
            json!({
                "subresource": part.name,
                "responseKind": {"group": group, "version": version, "kind": part.kind},
                "verbs": part.verbs,
            })
        })
        .collect();
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": verbs,
    });
    for (name, list) in [("shortNames", kind.short_names), ("categories", kind.categories)] {
        if !list.is_empty() {
            resource[name] = json!(list);
        }
    }
    if !subresources.is_empty() {
        resource["subresources"] = subresources.into();
    }
    resource
}

fn aggregated_review(review: &Review) -> Value {
    json!({
        "resource": review.plural,
        "responseKind": {"group": review.group, "version": review.version, "kind": review.kind},
        "scope": if review.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": review.singular,
        "verbs": ["create"],
    })
}

/// How discovery is written for a client. It has no protobuf form here; every client of it reads JSON.
pub(crate) fn media(headers: &HeaderMap) -> Media {
    match crate::negotiate::Form::of(headers) {
        Ok(form) if form.media == Media::Yaml => Media::Yaml,
        Ok(_) | Err(_) => Media::Json,
    }
}

/// The version that we say we are.
pub(crate) fn version() -> Value {
    json!({
        "major": "1",
        "minor": "37",
        "gitVersion": concat!("v1.37.0+portolan.", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" },
    })
}
