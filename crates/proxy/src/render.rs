//! The ruleset for people: what would be programmed for given objects, without a cluster, a kernel or root.

use std::fmt::Write;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use nft::Ruleset;
use serde_json::Value;
use service_model::{Backend, Empty, Frontend, Model, NodeView, ObjectKey, PortView, ServiceView, Target};
use thiserror::Error;

use crate::layout::table_id;
use crate::plan::{Ranges, plan};

/// Why objects could not be rendered.
#[derive(Debug, Error)]
pub enum RenderError {
    #[error("{kind} `{name}` is not valid")]
    Invalid { kind: String, name: String, source: serde_json::Error },
    #[error(
        "no Node `{name}` among the objects\n  hint: leave out --node to render for a node without addresses, or add the Node"
    )]
    NoNode { name: String },
}

/// The ruleset that a node would have for these objects, in nft's syntax, with each Service and what it leads to above it.
///
/// Objects of other kinds are passed over. Without a node name the first Node counts, or one without addresses and zone.
///
/// # Errors
/// When a Service, EndpointSlice or Node cannot be read, or no Node has the given name.
pub fn render(objects: &[Value], node: Option<&str>, ranges: &Ranges) -> Result<String, RenderError> {
    let (mut services, mut slices, mut nodes) = (Vec::new(), Vec::new(), Vec::new());
    for object in objects {
        match object["kind"].as_str() {
            Some("Service") => services.push(read::<Service>(object)?),
            Some("EndpointSlice") => slices.push(read::<EndpointSlice>(object)?),
            Some("Node") => nodes.push(read::<Node>(object)?),
            Some(_) | None => {}
        }
    }
    let mut views = nodes.iter().map(NodeView::parse);
    let view = match node {
        None => views.next().unwrap_or_default(),
        Some(name) => {
            let missing = || RenderError::NoNode { name: name.into() };
            views.find(|view| &*view.name == name).ok_or_else(missing)?
        }
    };
    let model = Model::build(&services, &slices, view);
    Ok(describe(&model, ranges))
}

fn read<T: serde::de::DeserializeOwned>(object: &Value) -> Result<T, RenderError> {
    let mut object = object.clone();
    let meta = &mut object["metadata"];
    if meta["namespace"].is_null() && meta.is_object() {
        meta["namespace"] = "default".into();
    }
    let named = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let (kind, name) = (named("kind"), object["metadata"]["name"].as_str().unwrap_or_default().to_owned());
    serde_json::from_value(object).map_err(|source| RenderError::Invalid { kind, name, source })
}

/// The ruleset of a model, under a summary of it. The lines of the summary are comments to nft.
pub fn describe(model: &Model, ranges: &Ranges) -> String {
    let mut text = String::new();
    let node = if model.node().name.is_empty() { "any node" } else { &model.node().name };
    line(&mut text, format_args!("# for {node}"));
    for key in model.service_keys() {
        match model.view(key) {
            Some(view) => summary(&mut text, view),
            None => line(&mut text, format_args!("# Service {key}: {}", without_view(model, key))),
        }
    }
    for fault in model.faults() {
        line(&mut text, format_args!("# left out: {fault}"));
    }
    text.push('\n');
    let ruleset = Ruleset { tables: [(table_id(), plan(model, ranges))].into() };
    text + &ruleset.to_string()
}

fn without_view(model: &Model, key: &ObjectKey) -> &'static str {
    match model.service(key).map(|service| service.kind) {
        Some(service_model::ServiceKind::Headless) => "headless, no rules",
        Some(service_model::ServiceKind::ExternalName) => "only a name, no rules",
        Some(service_model::ServiceKind::OtherProxy) => "another proxy's, no rules",
        Some(service_model::ServiceKind::Virtual) | None => "no cluster IP yet; an API server would assign one",
    }
}

fn summary(text: &mut String, view: &ServiceView) {
    let revision = if view.resource_version.is_empty() { "" } else { " revision " };
    line(text, format_args!("# Service {}{revision}{}", view.key, view.resource_version));
    for port in &view.ports {
        for frontend in &port.frontends {
            line(text, format_args!("#   {}{}", frontend.at, leads_to(port, frontend)));
        }
    }
}

fn leads_to(port: &PortView, frontend: &Frontend) -> String {
    let target = port.target(frontend);
    let mut text = format!(" -> {}", backends(target));
    if let Some(inside) = port.inside.as_ref().filter(|inside| !frontend.kind.is_internal() && *inside != target) {
        text += &format!("; for pods and this node {}", backends(inside));
    }
    if !frontend.source_ranges.is_empty() {
        let ranges: Vec<String> = frontend.source_ranges.iter().map(ToString::to_string).collect();
        text += &format!("; only from {}", ranges.join(", "));
    }
    if let Some(affinity) = port.affinity {
        text += &format!("; each client to one of them for {} s", affinity.0);
    }
    text
}

fn backends(target: &Target) -> String {
    let listed: Vec<String> = target.backends.iter().map(backend).collect();
    match (listed.is_empty(), target.empty) {
        (false, _) => listed.join(", "),
        (true, Empty::Reject) => "refused: no endpoint is ready".to_owned(),
        (true, Empty::Drop) => "dropped: no endpoint is ready on this node".to_owned(),
    }
}

fn backend(backend: &Backend) -> String {
    std::net::SocketAddr::new(backend.address, backend.port).to_string()
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = writeln!(text, "{arguments}");
}
