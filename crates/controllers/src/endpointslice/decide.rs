//! Which slices a Service should have, and the fewest writes that get there.
//!
//! Pods are grouped by address family and by the ports that the Service's target ports mean in them, and laid into slices. A slice
//! belongs to a Service by the UID in its owner reference, never by name alone, so one left by an earlier Service of the same name is
//! only ever deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use kube::ResourceExt;

use crate::mechanism::{Write, is_controlled_by, owner_reference};
use crate::membership::{self, Family, HEADLESS_LABEL};
use crate::slices::{Group, MANAGED_BY_LABEL, Ports, SERVICE_NAME_LABEL, Steps, Template, Wanted, identity, lay};

pub const MANAGED_BY: &str = "endpointslice-controller.k8s.io";

/// What is known about one Service.
#[derive(Debug)]
pub struct Observed<'a> {
    pub service: &'a Service,
    /// The pods that its selector selects.
    pub pods: &'a [Arc<Pod>],
    /// The zones of nodes; a node that is not known, or has no zone, is not in it.
    pub zones: &'a BTreeMap<String, String>,
    /// The slices that carry its name and are managed by this controller.
    pub slices: &'a [Arc<EndpointSlice>],
    pub max_endpoints: usize,
}

/// The writes that make the slices of a Service right: none when they are.
pub fn decide(observed: &Observed<'_>) -> Vec<Write> {
    let service = observed.service;
    if membership::is_external(service) {
        return observed.slices.iter().map(|slice| Write::delete(slice.as_ref())).collect();
    }
    if !membership::is_selecting(service) || service.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let uid = service.uid().unwrap_or_default();
    let (ours, strays): (Vec<_>, Vec<_>) =
        observed.slices.iter().cloned().partition(|slice| is_controlled_by(slice.as_ref(), &uid));
    let ours: Vec<_> = ours.into_iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()).collect();
    let families = membership::families(service);
    let mut taken: BTreeSet<String> = observed.slices.iter().map(|slice| slice.name_any()).collect();
    let mut steps = Steps::default();
    let template = template(service, observed.max_endpoints);
    for family in &families {
        let of_family = ours.iter().filter(|slice| slice.address_type == family.as_str()).cloned().collect();
        let mut groups = wanted(observed, *family);
        if groups.is_empty() {
            // A Service without endpoints keeps one empty slice, by which readers know that we have looked at it.
            groups.insert(Ports::of(&[]), Group::new());
        }
        lay(&template, *family, groups, of_family, &mut taken, &mut steps);
    }
    let served: Vec<&str> = families.iter().map(|family| family.as_str()).collect();
    let unserved = ours.iter().filter(|slice| !served.contains(&slice.address_type.as_str()));
    steps.deletes.extend(strays.iter().chain(unserved).map(|slice| Write::delete(slice.as_ref())));
    steps.in_order()
}

fn template(service: &Service, max_endpoints: usize) -> Template {
    Template {
        namespace: service.namespace(),
        base_name: service.name_any(),
        owner: owner_reference(service),
        labels: labels(service),
        annotations: None,
        born: service.metadata.creation_timestamp.as_ref().map(|time| time.0),
        max_endpoints,
    }
}

/// The endpoints of one family that the Service should have.
fn wanted(observed: &Observed<'_>, family: Family) -> BTreeMap<Ports, Group> {
    let mut groups: BTreeMap<Ports, Group> = BTreeMap::new();
    for pod in observed.pods {
        if membership::is_finished(pod) {
            continue;
        }
        let Some(address) = membership::address(pod, family) else { continue };
        let ports = Ports::of(&ports_in(pod, observed.service));
        let endpoint = endpoint(pod, &address.to_string(), observed);
        let wanted = Wanted { endpoint, changed_at: membership::changed_at(pod) };
        groups.entry(ports).or_default().insert(identity(&wanted.endpoint), wanted);
    }
    groups
}

fn ports_in(pod: &Pod, service: &Service) -> Vec<EndpointPort> {
    let resolved = membership::service_ports(service).iter().filter_map(|port| {
        let number = membership::target_port(pod, port)?;
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(number),
            protocol: Some(membership::protocol(port.protocol.as_deref()).to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

fn endpoint(pod: &Pod, address: &str, observed: &Observed<'_>) -> Endpoint {
    let serving = membership::is_ready(pod);
    let terminating = membership::is_terminating(pod);
    let ready = membership::publishes_not_ready(observed.service) || (serving && !terminating);
    let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty());
    let zone = node_name.as_ref().and_then(|name| observed.zones.get(name)).cloned();
    let hints = if ready { hints(observed.service, node_name.as_deref(), zone.as_deref()) } else { None };
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: membership::hostname(pod, observed.service),
        target_ref: Some(membership::reference(pod)),
        node_name,
        zone,
        hints,
        deprecated_topology: None,
    }
}

/// Where `trafficDistribution` would rather have an endpoint's traffic come from.
fn hints(service: &Service, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let preference = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let by_node = match preference {
        "PreferClose" | "PreferSameZone" => false,
        "PreferSameNode" => true,
        _ => return None,
    };
    let for_zones = zone.map(|name| vec![ForZone { name: name.to_owned() }]);
    let for_nodes = node.filter(|_| by_node).map(|name| vec![ForNode { name: name.to_owned() }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_nodes, for_zones })
}

/// A slice carries the labels of its Service and those by which it is found.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.remove(HEADLESS_LABEL);
    if membership::is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME_LABEL.to_owned(), service.name_any());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels
}
