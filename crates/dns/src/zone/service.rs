//! The records of one Service: what its object and its EndpointSlices say, parsed once and kept small.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::wire::name::{self, WireName};

/// What a Service means to DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceRecords {
    /// Names its virtual addresses, whatever its endpoints; these have names below it.
    ClusterIp { addresses: Box<[IpAddr]>, ports: Box<[Port]>, endpoints: Endpoints },
    /// Names its endpoints.
    Headless(Endpoints),
    /// An alias for another name.
    External { target: WireName },
}

/// A named port, both words in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub name: Box<str>,
    pub protocol: Protocol,
    pub number: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    fn read(text: Option<&str>) -> Option<Self> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .into_iter()
            .find(|protocol| protocol.label().eq_ignore_ascii_case(text.unwrap_or("TCP")))
    }

    /// As it stands in names, behind its underscore.
    pub fn label(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// What stands behind a Service, each address and hostname once, sorted by hostname (none first) and address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Endpoints {
    list: Box<[Endpoint]>,
    /// The ports of the endpoints; nearly always one set for all.
    port_sets: Box<[Box<[Port]>]>,
    /// Whether some address is listed under two names.
    repeated: bool,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The pod's own hostname; without one the endpoint is called by its address.
    pub host: Option<Arc<str>>,
    pub address: IpAddr,
    ports: u32,
}

impl Endpoint {
    fn host_bytes(&self) -> Option<&[u8]> {
        self.host.as_deref().map(str::as_bytes)
    }

    /// Its label below the Service.
    pub fn label(&self) -> String {
        self.host.as_deref().map_or_else(|| name::address_label(self.address), str::to_owned)
    }
}

impl Endpoints {
    pub fn list(&self) -> &[Endpoint] {
        &self.list
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn ports(&self, endpoint: &Endpoint) -> &[Port] {
        usize::try_from(endpoint.ports).ok().and_then(|set| self.port_sets.get(set)).map_or(&[], |ports| ports)
    }

    /// Whether the endpoint at this place is the first with its address.
    pub fn is_first(&self, at: usize) -> bool {
        let endpoint = &self.list[at];
        !self.repeated || !self.list[..at].iter().any(|earlier| earlier.address == endpoint.address)
    }

    /// Those with this label below the Service: by hostname, and by address for those that have none.
    pub fn labelled(&self, label: &[u8]) -> [&[Endpoint]; 2] {
        let first = self.list.partition_point(|endpoint| endpoint.host_bytes() < Some(label));
        let named = &self.list[first..];
        let named = &named[..named.partition_point(|endpoint| endpoint.host_bytes() == Some(label))];
        let nameless = &self.list[..self.list.partition_point(|endpoint| endpoint.host.is_none())];
        let at = name::labelled_address(label).and_then(|address| {
            let at = nameless.binary_search_by_key(&address, |endpoint| endpoint.address).ok()?;
            // One address can be written in several ways; only one of them is its name.
            (name::address_label(address).as_bytes() == label).then_some(at)
        });
        [named, at.map_or(&[], |at| &nameless[at..=at])]
    }

    /// Whether some endpoint has a port of that protocol.
    pub fn have_protocol(&self, protocol: &[u8]) -> bool {
        self.sets().any(|ports| ports.iter().any(|port| port.protocol.label().as_bytes() == protocol))
    }

    /// The sets of ports that endpoints have; without endpoints there is none.
    pub fn sets(&self) -> impl Iterator<Item = &[Port]> {
        self.port_sets.iter().map(AsRef::as_ref)
    }

    /// Ready endpoints, or all of them, with the ports of every slice that lists them.
    fn read<'a>(slices: impl IntoIterator<Item = &'a SliceRecords>, all: bool) -> Self {
        let mut found: BTreeMap<(Option<Arc<str>>, IpAddr), Vec<Port>> = BTreeMap::new();
        for slice in slices {
            for listed in slice.endpoints.iter().filter(|listed| listed.ready || all) {
                let ports = found.entry((listed.host.clone(), listed.address)).or_default();
                ports.extend(slice.ports.iter().cloned());
            }
        }
        let mut sets: Vec<Box<[Port]>> = Vec::new();
        let mut list = Vec::with_capacity(found.len());
        for ((host, address), mut ports) in found {
            ports.sort();
            ports.dedup();
            let known = sets.iter().position(|set| **set == *ports);
            let set = known.unwrap_or_else(|| {
                sets.push(ports.into());
                sets.len() - 1
            });
            // There are not more sets than slices.
            list.push(Endpoint { host, address, ports: set as u32 });
        }
        let mut addresses: Vec<IpAddr> = list.iter().map(|endpoint| endpoint.address).collect();
        addresses.sort();
        let repeated = addresses.windows(2).any(|pair| pair[0] == pair[1]);
        Endpoints { list: list.into(), port_sets: sets.into(), repeated }
    }
}

/// What one EndpointSlice says, kept small.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SliceRecords {
    ports: Box<[Port]>,
    endpoints: Box<[Listed]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    host: Option<Arc<str>>,
    address: IpAddr,
    ready: bool,
}

impl SliceRecords {
    /// Reads a slice; what is malformed in it is left out.
    pub fn read(slice: &EndpointSlice) -> Self {
        let ports = slice.ports.iter().flatten();
        let ports = ports.filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), p.port?)).collect();
        let endpoints = slice.endpoints.iter().flatten().flat_map(|endpoint| {
            // The API reference: an unknown state counts as ready.
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false);
            let host = endpoint.hostname.as_deref().filter(|host| !host.is_empty() && host.len() < 64);
            let host: Option<Arc<str>> = host.map(|host| host.to_ascii_lowercase().into());
            let addresses = endpoint.addresses.iter().filter_map(|address| address.parse().ok());
            addresses.map(move |address| Listed { host: host.clone(), address, ready })
        });
        SliceRecords { ports, endpoints: endpoints.collect() }
    }
}

/// What a Service's own object says, kept small; endpoints are added from slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceSpec {
    ClusterIp {
        addresses: Box<[IpAddr]>,
        ports: Box<[Port]>,
    },
    Headless {
        publish_not_ready: bool,
    },
    External {
        target: WireName,
    },
    /// It gives no name: no address yet, or a malformed target.
    Nothing,
}

impl ServiceSpec {
    /// Reads a Service; what is malformed in it is left out.
    pub fn read(service: &Service) -> Self {
        let Some(spec) = service.spec.as_ref() else { return ServiceSpec::Nothing };
        if spec.type_.as_deref() == Some("ExternalName") {
            let target = spec.external_name.as_deref().filter(|target| !target.is_empty()).and_then(name::parse);
            return target.map_or(ServiceSpec::Nothing, |target| ServiceSpec::External { target });
        }
        let listed = spec.cluster_ips.as_deref().filter(|ips| !ips.is_empty());
        let listed: Vec<&str> = match listed {
            Some(listed) => listed.iter().map(String::as_str).collect(),
            None => spec.cluster_ip.as_deref().into_iter().collect(),
        };
        if listed.contains(&"None") {
            return ServiceSpec::Headless { publish_not_ready: spec.publish_not_ready_addresses == Some(true) };
        }
        let addresses: Box<[IpAddr]> = listed.iter().filter_map(|ip| ip.parse().ok()).collect();
        let ports = spec.ports.iter().flatten();
        let ports = ports.filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), p.port)).collect();
        if addresses.is_empty() { ServiceSpec::Nothing } else { ServiceSpec::ClusterIp { addresses, ports } }
    }
}

impl ServiceRecords {
    /// A Service together with its slices; none if it gives no name at all.
    pub fn read<'a>(spec: &ServiceSpec, slices: impl IntoIterator<Item = &'a SliceRecords>) -> Option<Self> {
        match spec {
            ServiceSpec::ClusterIp { addresses, ports } => Some(ServiceRecords::ClusterIp {
                addresses: addresses.clone(),
                ports: ports.clone(),
                endpoints: Endpoints::read(slices, false),
            }),
            ServiceSpec::Headless { publish_not_ready } => {
                Some(ServiceRecords::Headless(Endpoints::read(slices, *publish_not_ready)))
            }
            ServiceSpec::External { target } => Some(ServiceRecords::External { target: target.clone() }),
            ServiceSpec::Nothing => None,
        }
    }

    pub fn endpoints(&self) -> &[Endpoint] {
        match self {
            ServiceRecords::ClusterIp { endpoints, .. } | ServiceRecords::Headless(endpoints) => endpoints.list(),
            ServiceRecords::External { .. } => &[],
        }
    }
}

fn port(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<Port> {
    // Unnamed ports have no SRV record, says the specification.
    let name = name.filter(|name| !name.is_empty() && name.len() < 63)?.to_ascii_lowercase().into();
    Some(Port { name, protocol: Protocol::read(protocol)?, number: u16::try_from(number).ok()? })
}
