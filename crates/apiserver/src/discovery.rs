//! Discovery: which groups, versions, resources and verbs there are, in the old and in the aggregated form.

use http::HeaderMap;
use serde_json::{Map, Value, json};

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

/// `APIResourceList`, or nothing for a version that is not served.
pub(crate) fn resources(group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for kind in KINDS.iter().filter(|kind| kind.group == group && kind.version == version) {
        resources.push(resource(kind, verbs(kind)));
        resources.extend(parts::of(kind).iter().map(|part| subresource(kind, part)));
    }
    resources.extend(
        REVIEWS.iter().filter(|review| review.group == group && review.version == version).map(review_resource),
    );
    resources.extend(reported(group, version).map(|report| resource(&report.kind, reports::VERBS)));
    if resources.is_empty() {
        return None;
    }
    if group.is_empty() {
        resources.push(json!({
            "name": "bindings", "singularName": "binding", "namespaced": true, "kind": "Binding", "verbs": ["create"],
        }));
    }
    resources.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": resources,
    }))
}

fn reported(group: &str, version: &str) -> impl Iterator<Item = &'static Report> {
    REPORTS.iter().filter(move |report| report.kind.group == group && report.kind.version == version)
}

fn resource(kind: &Kind, verbs: &[&str]) -> Value {
    let mut resource = json!({
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.scope == Scope::Namespaced,
        "kind": kind.kind,
        "verbs": verbs,
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
    resource
}

fn subresource(kind: &Kind, part: &parts::Part) -> Value {
    let mut resource = json!({
        "name": format!("{}/{}", kind.plural, part.name),
        "singularName": "",
        "namespaced": kind.scope == Scope::Namespaced,
        "kind": part.kind,
        "verbs": part.verbs,
    });
    if let Some((group, version)) = part.group_version {
        resource["group"] = group.into();
        resource["version"] = version.into();
    }
    resource
}

fn review_resource(review: &Review) -> Value {
    json!({
        "name": review.plural,
        "singularName": review.singular,
        "namespaced": review.namespaced,
        "kind": review.kind,
        "verbs": ["create"],
    })
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

/// What a client of discovery may have: JSON only in the aggregated form, everything else in the old one.
pub(crate) fn media(headers: &HeaderMap) -> Media {
    crate::negotiate::Form::of(headers).map_or(Media::Json, |form| form.media)
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
