//! What a Service's Endpoints object should hold.
//!
//! Addresses that share their ports form a subset, ready ones apart from others. A thousand addresses are held at most, ready ones
//! first; an annotation says when that was not all.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::mechanism::Write;
use crate::membership::{self, Family, HEADLESS_LABEL, TRIGGER_TIME};

pub const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
pub const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
pub const MANAGED_BY: &str = "endpoint-controller";
/// Upstream's limit; whoever needs more reads EndpointSlices.
pub const MAX_ADDRESSES: usize = 1000;

#[derive(Debug)]
pub struct Observed<'a> {
    pub service: &'a Service,
    /// The pods that its selector selects.
    pub pods: &'a [Arc<Pod>],
    /// The object of the Service's name.
    pub endpoints: Option<&'a Endpoints>,
}

type Ports = Vec<(Option<String>, i32, Option<String>, Option<String>)>;

/// The one write that makes the object right; none when it is.
pub fn decide(observed: &Observed<'_>) -> Option<Write> {
    let service = observed.service;
    if !membership::is_selecting(service) || service.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let mut found = addresses(observed);
    let truncated = truncate(&mut found);
    let changed_at = found.iter().filter_map(|found| found.changed_at).max();
    let subsets = subsets(found);
    let labels = labels(service);
    let Some(old) = observed.endpoints else {
        let born = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let mut metadata =
            ObjectMeta { name: Some(service.name_any()), namespace: service.namespace(), ..ObjectMeta::default() };
        annotate(&mut metadata, changed_at.or(born), truncated);
        metadata.labels = Some(labels);
        return Some(Write::create(&Endpoints { metadata, subsets }));
    };
    let was_truncated = old.annotations().contains_key(OVER_CAPACITY);
    if old.subsets.as_deref().unwrap_or_default() == subsets.as_deref().unwrap_or_default()
        && old.metadata.labels.as_ref() == Some(&labels)
        && was_truncated == truncated
    {
        return None;
    }
    let mut revised = old.clone();
    annotate(&mut revised.metadata, changed_at, truncated);
    revised.metadata.labels = Some(labels);
    revised.subsets = subsets;
    Some(Write::replace(&revised))
}

struct Found {
    ports: Ports,
    ready: bool,
    address: EndpointAddress,
    changed_at: Option<Timestamp>,
}

fn addresses(observed: &Observed<'_>) -> Vec<Found> {
    let publishes = membership::publishes_not_ready(observed.service);
    let family = membership::families(observed.service).first().copied().unwrap_or(Family::V4);
    let there = observed.pods.iter().filter(|pod| {
        // Endpoints have no word for "terminating": such a pod is gone from them unless all are published anyway.
        !membership::is_finished(pod) && (publishes || !membership::is_terminating(pod))
    });
    there.filter_map(|pod| found(observed.service, pod, family, publishes)).collect()
}

fn found(service: &Service, pod: &Pod, family: Family, publishes: bool) -> Option<Found> {
    let address = EndpointAddress {
        ip: membership::address(pod, family)?.to_string(),
        hostname: membership::hostname(pod, service),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(membership::reference(pod)),
    };
    let mut ports: Ports = membership::service_ports(service)
        .iter()
        .filter_map(|port| {
            let number = membership::target_port(pod, port)?;
            let protocol = membership::protocol(port.protocol.as_deref()).to_owned();
            let name = port.name.clone().filter(|name| !name.is_empty());
            Some((name, number, Some(protocol), port.app_protocol.clone()))
        })
        .collect();
    // A pod without any of the ports is no address; only a headless Service may do without ports.
    if ports.is_empty() && !membership::service_ports(service).is_empty() {
        return None;
    }
    ports.sort();
    let ready = publishes || membership::is_ready(pod);
    Some(Found { ports, ready, address, changed_at: membership::changed_at(pod) })
}

fn truncate(found: &mut Vec<Found>) -> bool {
    found.sort_by(|a, b| (!a.ready, &a.address.ip).cmp(&(!b.ready, &b.address.ip)));
    let over = found.len() > MAX_ADDRESSES;
    found.truncate(MAX_ADDRESSES);
    over
}

fn subsets(found: Vec<Found>) -> Option<Vec<EndpointSubset>> {
    let mut by_ports: BTreeMap<Ports, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    for one in found {
        let (ready, not_ready) = by_ports.entry(one.ports).or_default();
        if one.ready { ready.push(one.address) } else { not_ready.push(one.address) }
    }
    let some = |addresses: Vec<EndpointAddress>| (!addresses.is_empty()).then_some(addresses);
    let subsets: Vec<EndpointSubset> = by_ports
        .into_iter()
        .map(|(ports, (ready, not_ready))| {
            let port = |(name, port, protocol, app_protocol)| EndpointPort { name, port, protocol, app_protocol };
            let ports: Vec<EndpointPort> = ports.into_iter().map(port).collect();
            let ports = (!ports.is_empty()).then_some(ports);
            EndpointSubset { addresses: some(ready), not_ready_addresses: some(not_ready), ports }
        })
        .collect();
    (!subsets.is_empty()).then_some(subsets)
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    if membership::is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS_LABEL);
    }
    labels
}

fn annotate(metadata: &mut ObjectMeta, changed_at: Option<Timestamp>, truncated: bool) {
    let annotations = metadata.annotations.get_or_insert_default();
    match changed_at {
        Some(time) => annotations.insert(TRIGGER_TIME.to_owned(), time.to_string()),
        None => annotations.remove(TRIGGER_TIME),
    };
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    if annotations.is_empty() {
        metadata.annotations = None;
    }
}
