//! One EndpointSlice, parsed: its endpoints and ports without what nobody below asks for.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice};

use crate::fault::{Fault, Reason};
use crate::names::{Family, ObjectKey, Protocol};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// One EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    pub key: ObjectKey,
    pub service: ObjectKey,
    pub family: Family,
    pub ports: Box<[SlicePort]>,
    pub endpoints: Box<[Endpoint]>,
    pub resource_version: Box<str>,
}

/// A port of a slice; it serves the Service port of the same name and protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
}

/// One endpoint: only its first address counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub address: IpAddr,
    pub condition: Condition,
    pub node: Option<Arc<str>>,
    pub hostname: Option<Arc<str>>,
    pub hints: Option<Box<Hints>>,
}

/// Topology hints; empty lists are the same as none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hints {
    pub zones: Vec<Arc<str>>,
    pub nodes: Vec<Arc<str>>,
}

impl Endpoint {
    pub(crate) fn hinted_nodes(&self) -> &[Arc<str>] {
        self.hints.as_ref().map_or(&[], |hints| &hints.nodes)
    }

    pub(crate) fn hinted_zones(&self) -> &[Arc<str>] {
        self.hints.as_ref().map_or(&[], |hints| &hints.zones)
    }
}

/// Whether an endpoint is used. Better ones come first: when slices disagree, the better one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// `ready`, or not said: `ready` decides alone.
    Ready,
    /// Terminating but serving: used when nothing is ready.
    Draining,
    /// Gets nothing.
    NotReady,
}

impl Condition {
    fn of(endpoint: &ApiEndpoint) -> Self {
        let Some(said) = &endpoint.conditions else { return Condition::Ready };
        match (said.ready.unwrap_or(true), said.serving, said.terminating) {
            (true, _, _) => Condition::Ready,
            (false, Some(true), Some(true)) => Condition::Draining,
            (false, _, _) => Condition::NotReady,
        }
    }
}

impl Slice {
    /// The slice's own name.
    pub fn key_of(slice: &EndpointSlice) -> ObjectKey {
        let meta = &slice.metadata;
        ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }

    /// Reads a slice; `intern` shares the strings that many endpoints repeat. `None`: it belongs to no Service, is a headless Service's,
    /// or is not of an IP family.
    pub fn parse(
        slice: &EndpointSlice,
        intern: &mut dyn FnMut(&str) -> Arc<str>,
        faults: &mut Vec<Fault>,
    ) -> Option<Self> {
        let key = Slice::key_of(slice);
        let family = Family::parse(&slice.address_type)?;
        let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
        let service = ObjectKey { namespace: intern(&key.namespace), name: intern(name) };
        let mut seen = BTreeSet::new();
        let mut endpoints = Vec::new();
        for endpoint in slice.endpoints.as_deref().unwrap_or_default() {
            let address = match first_address(endpoint, family) {
                Ok(address) => address,
                Err(None) => continue,
                Err(Some(reason)) => {
                    faults.push(Fault::slice(&key, reason));
                    continue;
                }
            };
            if !seen.insert(address) {
                faults.push(Fault::slice(&key, Reason::DuplicateAddress(address)));
            }
            endpoints.push(Endpoint {
                address,
                condition: Condition::of(endpoint),
                node: endpoint.node_name.as_deref().map(&mut *intern),
                hostname: endpoint.hostname.as_deref().map(&mut *intern),
                hints: hints(endpoint, intern),
            });
        }
        let ports = ports(slice, &key, intern, faults).into();
        let resource_version = slice.metadata.resource_version.as_deref().unwrap_or_default().into();
        Some(Slice { key, service, family, ports, endpoints: endpoints.into(), resource_version })
    }
}

fn ports(
    slice: &EndpointSlice,
    key: &ObjectKey,
    intern: &mut dyn FnMut(&str) -> Arc<str>,
    faults: &mut Vec<Fault>,
) -> Vec<SlicePort> {
    let mut ports = Vec::new();
    for port in slice.ports.as_deref().unwrap_or_default() {
        // A port without a number means "all ports" to consumers that are not Service proxies.
        let Some(number) = port.port else { continue };
        let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else {
            let text = port.protocol.clone().unwrap_or_default();
            faults.push(Fault::slice(key, Reason::InvalidProtocol(text)));
            continue;
        };
        match u16::try_from(number) {
            Ok(number) if number > 0 => {
                ports.push(SlicePort {
                    name: intern(port.name.as_deref().unwrap_or_default()),
                    protocol,
                    port: number,
                });
            }
            Ok(_) | Err(_) => faults.push(Fault::slice(key, Reason::InvalidPort(number))),
        }
    }
    ports
}

fn first_address(endpoint: &ApiEndpoint, family: Family) -> Result<IpAddr, Option<Reason>> {
    let text = endpoint.addresses.first().ok_or(None)?;
    let address: IpAddr = text.parse().map_err(|_| Some(Reason::InvalidAddress(text.clone())))?;
    if Family::of(address) != family {
        return Err(Some(Reason::ForeignFamily { address, expected: family }));
    }
    if unusable(address) { Err(Some(Reason::UnusableAddress(address))) } else { Ok(address) }
}

/// Addresses that API validation refuses for endpoints, external IPs and cluster IPs; a server that let one through must not make us
/// open the node's loopback services.
pub(crate) fn unusable(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    link_local || address.is_unspecified() || address.is_loopback() || address.is_multicast()
}

fn hints(endpoint: &ApiEndpoint, intern: &mut dyn FnMut(&str) -> Arc<str>) -> Option<Box<Hints>> {
    let said = endpoint.hints.as_ref()?;
    let zones: Vec<_> = said.for_zones.iter().flatten().map(|zone| intern(&zone.name)).collect();
    let nodes: Vec<_> = said.for_nodes.iter().flatten().map(|node| intern(&node.name)).collect();
    let none = zones.is_empty() && nodes.is_empty();
    (!none).then(|| Box::new(Hints { zones, nodes }))
}
