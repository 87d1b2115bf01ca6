//! What the server knows of itself in the shape of kinds that can only be read: made anew for each request, never stored.
//!
//! Clients look for them before they do something else: kubectl asks which custom resources there are before it calls a kind unknown.

use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::Server;
use crate::fault::{Fault, Outcome};
use crate::handle::Answer;
use crate::kinds::common::table;
use crate::kinds::{Column, Kind};
use crate::negotiate::{Form, Media};
use crate::query::Query;
use crate::render::{ListMeta, Renderer};
use crate::route::Target;

/// A kind of report.
#[derive(Debug)]
pub(crate) struct Report {
    /// Names and columns; none of its rules is ever asked.
    pub(crate) kind: Kind,
    /// All of them, by name, without `kind` and `apiVersion`.
    objects: fn(&Server) -> Vec<Value>,
}

pub(crate) const VERBS: &[&str] = &["get", "list"];

/// All of them.
pub(crate) static REPORTS: &[Report] = &[
    Report {
        kind: Kind {
            kind: "ComponentStatus",
            plural: "componentstatuses",
            singular: "componentstatus",
            short_names: &["cs"],
            columns: &[
                Column::NAME,
                Column::text("Status", "Whether the component is healthy"),
                Column::text("Message", "What it says"),
                Column::text("Error", "Why it cannot be asked"),
            ],
            cells: component_cells,
            deprecation: Some("v1 ComponentStatus is deprecated in v1.19+"),
            ..Kind::CLUSTER
        },
        objects: components,
    },
    Report {
        kind: Kind {
            group: "apiextensions.k8s.io",
            kind: "CustomResourceDefinition",
            plural: "customresourcedefinitions",
            singular: "customresourcedefinition",
            short_names: &["crd", "crds"],
            categories: &["api-extensions"],
            columns: table::NAME_CREATED,
            cells: table::name_created,
            ..Kind::CLUSTER
        },
        // There are no custom resources yet, and a definition that nothing serves would be a lie.
        objects: |_| Vec::new(),
    },
    Report {
        kind: Kind {
            group: "apiregistration.k8s.io",
            kind: "APIService",
            plural: "apiservices",
            singular: "apiservice",
            categories: &["api-extensions"],
            columns: &[
                Column::NAME,
                Column::text("Service", "Who serves it"),
                Column::text("Available", "Whether it can be used"),
                Column::AGE,
            ],
            cells: |object, now| vec![table::name(object), "Local".into(), "True".into(), table::age(object, now)],
            ..Kind::CLUSTER
        },
        objects: |_| crate::discovery::group_versions().into_iter().map(api_service).collect(),
    },
];

pub(crate) fn report_at(group: &str, version: &str, plural: &str) -> Option<&'static Report> {
    REPORTS.iter().find(|one| one.kind.group == group && one.kind.version == version && one.kind.plural == plural)
}

/// Lists them, or shows one.
pub(crate) fn answer(
    server: &Server,
    report: &'static Report,
    target: &Target,
    parts: &Parts,
    query: &Query,
) -> Outcome<Answer> {
    let kind = &report.kind;
    if parts.method != Method::GET || target.subresource.is_some() || query.flag("watch") {
        return Err(Fault::method_not_allowed());
    }
    let mut form = Form::of(&parts.headers)?;
    if form.media == Media::Protobuf && api::schema::kind(kind.group, kind.version, kind.kind).is_none() {
        form = Form::JSON;
    }
    let renderer = Renderer::new(kind, form, query)?;
    let objects = (report.objects)(server).into_iter().map(|mut object| {
        crate::object::name_kind(kind, &mut object);
        object
    });
    let body: Bytes = match &target.name {
        None => {
            let selection = crate::selection::Selection::of(kind, query)?;
            let mut chosen = Vec::new();
            for object in objects {
                if selection.matches(kind, &crate::object::json_bytes(&object))? {
                    chosen.push(object);
                }
            }
            renderer.list_of(chosen, &ListMeta { revision: server.store.revision(), ..ListMeta::default() })?
        }
        Some(name) => {
            let mut objects = objects;
            let found = objects.find(|object| crate::object::name(object) == name);
            renderer.object(&found.ok_or_else(|| Fault::not_found(kind, name))?)?
        }
    };
    Ok(Answer::new(StatusCode::OK, form.media, body))
}

/// The store is the one component that this server can vouch for; the others have Leases to be known by.
fn components(server: &Server) -> Vec<Value> {
    let healthy = server.store.revision() > 0;
    let (status, message) = if healthy { ("True", "ok") } else { ("False", "nothing is stored yet") };
    vec![json!({
        "metadata": {"name": "etcd-0"},
        "conditions": [{"type": "Healthy", "status": status, "message": message}],
    })]
}

fn component_cells(object: &Value, _: i64) -> Vec<Value> {
    let condition = &object["conditions"][0];
    let status = match condition["status"].as_str() {
        Some("True") => "Healthy",
        Some("False") => "Unhealthy",
        _ => "Unknown",
    };
    let text = |field: &str| condition[field].as_str().unwrap_or_default().into();
    vec![table::name(object), status.into(), text("message"), text("error")]
}

fn api_service((group, version): (&str, &str)) -> Value {
    let mut service = json!({
        "metadata": {
            "name": format!("{version}.{group}"),
            "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"},
        },
        "spec": {"version": version, "groupPriorityMinimum": 17_000, "versionPriority": 15},
        "status": {"conditions": [{
            "type": "Available",
            "status": "True",
            "reason": "Local",
            "message": "Local APIServices are always available",
        }]},
    });
    if !group.is_empty() {
        service["spec"]["group"] = group.into();
    }
    service
}
