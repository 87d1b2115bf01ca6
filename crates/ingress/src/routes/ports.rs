//! Services' ports and their endpoints, from Services and EndpointSlices: one [`ServicePort`] for all routes that lead to it.
//!
//! A change of endpoints is one swap inside the port. An address is one [`Endpoint`] however many Services have it, and it is retired
//! when the last of them lets go, so that connections to it are not kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use service_model::{Condition, Family, ObjectKey, Slice, http_port};

use super::alias::{Alias, MAX_ALIASES, may_be_asked};
use super::backend::{Endpoint, EndpointSet, Protocol, ServicePort, Unavailable};
use super::parse::{PortKey, PortName, key_of};

#[derive(Debug)]
pub(super) struct Ports {
    /// The cluster's, below which names are Services.
    domain: Box<str>,
    services: HashMap<ObjectKey, ServiceView>,
    /// By Service, then by slice.
    slices: HashMap<ObjectKey, BTreeMap<ObjectKey, Slice>>,
    owners: HashMap<ObjectKey, ObjectKey>,
    known: HashMap<PortKey, Arc<ServicePort>>,
    by_service: HashMap<ObjectKey, BTreeSet<PortName>>,
    /// Each address with the number of ports that have it.
    endpoints: HashMap<SocketAddr, (Arc<Endpoint>, usize)>,
    /// Services that are aliases.
    aliases: BTreeSet<ObjectKey>,
    /// What names outside the cluster resolve to.
    resolved: HashMap<Box<str>, Vec<IpAddr>>,
}

/// What a route has to know of a Service.
#[derive(Debug, PartialEq, Eq)]
struct ServiceView {
    alias: Option<Alias>,
    ports: Vec<PortView>,
    families: Vec<Family>,
    http_port: Option<u16>,
}

#[derive(Debug, PartialEq, Eq)]
struct PortView {
    number: u16,
    name: Box<str>,
    protocol: Protocol,
    /// Where an alias has this port, if it says so.
    target: Option<u16>,
}

impl ServiceView {
    fn read(service: &Service, domain: &str) -> Self {
        let spec = service.spec.clone().unwrap_or_default();
        let tcp = spec.ports.iter().flatten().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
        let port = |port: &k8s_openapi::api::core::v1::ServicePort| {
            let target = match &port.target_port {
                Some(IntOrString::Int(number)) => u16::try_from(*number).ok().filter(|number| *number > 0),
                Some(IntOrString::String(_)) | None => None,
            };
            Some(PortView {
                number: u16::try_from(port.port).ok()?,
                name: port.name.as_deref().unwrap_or_default().into(),
                protocol: Protocol::parse(port.app_protocol.as_deref()),
                target,
            })
        };
        let external = spec.external_name.as_deref().filter(|_| spec.type_.as_deref() == Some("ExternalName"));
        ServiceView {
            alias: external.map(|name| Alias::parse(name, domain)),
            ports: tcp.filter_map(port).collect(),
            families: spec.ip_families.iter().flatten().filter_map(|family| Family::parse(family)).collect(),
            http_port: http_port(service),
        }
    }
}

impl Ports {
    pub fn new(domain: &str) -> Self {
        Ports {
            domain: domain.into(),
            services: HashMap::new(),
            slices: HashMap::new(),
            owners: HashMap::new(),
            known: HashMap::new(),
            by_service: HashMap::new(),
            endpoints: HashMap::new(),
            aliases: BTreeSet::new(),
            resolved: HashMap::new(),
        }
    }

    /// Takes a Service in; says which it was.
    pub fn apply_service(&mut self, service: &Service) -> ObjectKey {
        let key = key_of(&service.metadata);
        let view = ServiceView::read(service, &self.domain);
        if self.services.get(&key) != Some(&view) {
            if view.alias.is_some() {
                self.aliases.insert(key.clone());
            } else {
                self.aliases.remove(&key);
            }
            self.services.insert(key.clone(), view);
            self.refresh(&key);
        }
        key
    }

    /// Names outside the cluster that routes lead to.
    pub fn names(&self) -> BTreeSet<Box<str>> {
        let used = self.aliases.iter().filter(|key| self.by_service.contains_key(*key));
        used.filter_map(|key| match self.services.get(key)?.alias.as_ref()? {
            Alias::Name(name) => Some(name.clone()),
            Alias::Service(_) => None,
        })
        .collect()
    }

    /// Takes in what a name resolves to; gives back the Services that are aliases of it.
    pub fn resolve_name(&mut self, name: &str, addresses: Vec<IpAddr>) -> Vec<ObjectKey> {
        let addresses = addresses.into_iter().filter(may_be_asked).collect();
        if self.resolved.get(name) == Some(&addresses) {
            return Vec::new();
        }
        self.resolved.insert(name.into(), addresses);
        let is = |key: &&ObjectKey| {
            let alias = self.services.get(*key).and_then(|view| view.alias.as_ref());
            matches!(alias, Some(Alias::Name(known)) if **known == *name)
        };
        let touched: Vec<ObjectKey> = self.aliases.iter().filter(is).cloned().collect();
        touched.iter().for_each(|service| self.refresh(service));
        touched
    }

    pub fn remove_service(&mut self, key: &ObjectKey) {
        self.aliases.remove(key);
        if self.services.remove(key).is_some() {
            self.refresh(key);
        }
    }

    pub fn apply_slice(&mut self, slice: &EndpointSlice) {
        let key = key_of(&slice.metadata);
        // Faults in slices are told by the Service proxy, which reads the same ones.
        let parsed = Slice::parse(slice, &mut |text| text.into(), &mut Vec::new());
        let before = self.forget_slice(&key);
        let now = parsed.as_ref().map(|slice| slice.service.clone());
        if let Some(parsed) = parsed {
            self.owners.insert(key.clone(), parsed.service.clone());
            self.slices.entry(parsed.service.clone()).or_default().insert(key, parsed);
        }
        let touched: BTreeSet<ObjectKey> = before.into_iter().chain(now).collect();
        touched.iter().for_each(|service| self.refresh(service));
    }

    pub fn remove_slice(&mut self, key: &ObjectKey) {
        if let Some(service) = self.forget_slice(key) {
            self.refresh(&service);
        }
    }

    fn forget_slice(&mut self, key: &ObjectKey) -> Option<ObjectKey> {
        let service = self.owners.remove(key)?;
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(key);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        Some(service)
    }

    /// The port that a route leads to, whether it exists or not.
    pub fn port(&mut self, key: &PortKey) -> Arc<ServicePort> {
        if let Some(known) = self.known.get(key) {
            return Arc::clone(known);
        }
        let set = self.resolve(key, MAX_ALIASES);
        let set = self.acquire(set);
        let port = Arc::new(ServicePort::new(key.service.clone(), &key.port.to_string(), set));
        self.known.insert(key.clone(), Arc::clone(&port));
        self.by_service.entry(key.service.clone()).or_default().insert(key.port.clone());
        port
    }

    /// Why the port has no endpoints and cannot have any.
    pub fn unavailable(&self, key: &PortKey) -> Option<Unavailable> {
        match self.services.get(&key.service) {
            _ if key.port == PortName::Nothing => Some(Unavailable::NotAService),
            None => Some(Unavailable::NoService),
            Some(view) if view.port(&key.port).is_none() => Some(Unavailable::NoPort),
            Some(ServiceView { alias: Some(_), .. }) => {
                self.resolve(key, MAX_ALIASES).addresses.is_empty().then_some(Unavailable::ExternalName)
            }
            Some(_) => None,
        }
    }

    pub fn http_port(&self, service: &ObjectKey) -> Option<u16> {
        self.services.get(service)?.http_port
    }

    /// Lets go of ports that no route leads to any more.
    pub fn forget_unused(&mut self) {
        let unused: Vec<PortKey> =
            self.known.iter().filter(|(_, port)| Arc::strong_count(port) == 1).map(|(key, _)| key.clone()).collect();
        for key in unused {
            if let Some(port) = self.known.remove(&key) {
                self.release(&port.set().endpoints);
            }
            if let Some(ports) = self.by_service.get_mut(&key.service) {
                ports.remove(&key.port);
                if ports.is_empty() {
                    self.by_service.remove(&key.service);
                }
            }
        }
    }

    fn refresh(&mut self, service: &ObjectKey) {
        self.refresh_within(service, MAX_ALIASES);
    }

    /// Renews the ports of a Service, and of those that are aliases of it.
    fn refresh_within(&mut self, service: &ObjectKey, left: usize) {
        let leads_here = |key: &&ObjectKey| {
            let alias = self.services.get(*key).and_then(|view| view.alias.as_ref());
            matches!(alias, Some(Alias::Service(target)) if target == service)
        };
        let aliases: Vec<ObjectKey> = self.aliases.iter().filter(leads_here).filter(|_| left > 0).cloned().collect();
        for alias in aliases {
            self.refresh_within(&alias, left - 1);
        }
        for name in self.by_service.get(service).cloned().unwrap_or_default() {
            let key = PortKey { service: service.clone(), port: name };
            let Some(port) = self.known.get(&key).cloned() else { continue };
            let next = self.resolve(&key, MAX_ALIASES);
            let before = port.set();
            let addresses = || before.endpoints.iter().map(|endpoint| endpoint.address);
            let same = addresses().eq(next.addresses.iter().copied()) && before.host == next.host;
            if same && before.protocol == next.protocol && before.unavailable == next.unavailable {
                continue;
            }
            // The new ones first: an address that stays is never retired in between.
            let next = self.acquire(next);
            port.swap(next);
            self.release(&before.endpoints);
        }
    }

    /// The endpoints of a port, over so many aliases at most.
    fn resolve(&self, key: &PortKey, left: usize) -> Resolved {
        let found = self.services.get(&key.service).and_then(|view| Some((view, view.port(&key.port)?)));
        let Some((view, port)) = found else {
            return Resolved { unavailable: self.unavailable(key), ..Resolved::default() };
        };
        let addresses = match &view.alias {
            None => self.endpoints_of(&key.service, view, &port.name),
            Some(Alias::Service(target)) if left > 0 => {
                let target = PortKey { service: target.clone(), port: PortName::Number(port.number) };
                let resolved = self.resolve(&target, left - 1);
                return Resolved { unavailable: view.unresolved(&resolved.addresses), ..resolved };
            }
            Some(Alias::Service(_)) => Vec::new(),
            Some(Alias::Name(name)) => {
                let at = self.resolved.get(name).into_iter().flatten();
                at.map(|ip| SocketAddr::new(*ip, port.number)).collect()
            }
        };
        let host = match &view.alias {
            Some(Alias::Name(name)) => Some(name.clone()),
            Some(Alias::Service(_)) | None => None,
        };
        Resolved { unavailable: view.unresolved(&addresses), addresses, protocol: port.protocol, host }
    }

    fn endpoints_of(&self, service: &ObjectKey, view: &ServiceView, port: &str) -> Vec<SocketAddr> {
        let slices = || self.slices.get(service).into_iter().flat_map(BTreeMap::values);
        let families = view.families.iter().copied().chain(Family::ALL);
        let of_family = |family: Family| {
            let slices: Vec<&Slice> = slices().filter(|slice| slice.family == family).collect();
            let ready = addresses(&slices, port, Condition::Ready);
            if ready.is_empty() { addresses(&slices, port, Condition::Draining) } else { ready }
        };
        families.map(of_family).find(|found| !found.is_empty()).unwrap_or_default()
    }

    fn acquire(&mut self, resolved: Resolved) -> EndpointSet {
        let endpoint = |address: SocketAddr| {
            let new = || (Arc::new(Endpoint::new(address)), 0);
            let (endpoint, users) = self.endpoints.entry(address).or_insert_with(new);
            *users += 1;
            Arc::clone(endpoint)
        };
        let endpoints = resolved.addresses.into_iter().map(endpoint).collect();
        let Resolved { protocol, unavailable, host, .. } = resolved;
        EndpointSet { endpoints, protocol, unavailable, host }
    }

    fn release(&mut self, endpoints: &[Arc<Endpoint>]) {
        for endpoint in endpoints {
            let Some((_, users)) = self.endpoints.get_mut(&endpoint.address) else { continue };
            *users -= 1;
            if *users == 0 {
                endpoint.retire();
                self.endpoints.remove(&endpoint.address);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Resolved {
    addresses: Vec<SocketAddr>,
    protocol: Protocol,
    unavailable: Option<Unavailable>,
    host: Option<Box<str>>,
}

/// The port of a Service that a route leads to.
#[derive(Debug)]
struct Found {
    /// As the Service has it, and slices call it.
    name: Box<str>,
    /// Where an alias is asked.
    number: u16,
    protocol: Protocol,
}

impl ServiceView {
    fn port(&self, name: &PortName) -> Option<Found> {
        let listed = self.ports.iter().find(|port| match name {
            PortName::Number(wanted) => port.number == *wanted,
            PortName::Name(wanted) => !wanted.is_empty() && port.name == *wanted,
            PortName::First => true,
            PortName::Nothing => false,
        });
        let found = |port: &PortView| Found {
            name: port.name.clone(),
            number: port.target.unwrap_or(port.number),
            protocol: port.protocol,
        };
        match (listed, name, &self.alias) {
            (Some(port), ..) => Some(found(port)),
            // An alias need not list its ports.
            (None, PortName::Number(number), Some(_)) => {
                Some(Found { name: Box::default(), number: *number, protocol: Protocol::Http })
            }
            (None, ..) => None,
        }
    }

    fn unresolved(&self, addresses: &[SocketAddr]) -> Option<Unavailable> {
        (self.alias.is_some() && addresses.is_empty()).then_some(Unavailable::ExternalName)
    }
}

/// The addresses of endpoints in that condition behind the slices' port of that name, in order.
fn addresses(slices: &[&Slice], port: &str, condition: Condition) -> Vec<SocketAddr> {
    let mut found = BTreeSet::new();
    for slice in slices {
        let ports = slice.ports.iter().filter(|p| &*p.name == port && p.protocol == service_model::Protocol::Tcp);
        for port in ports {
            let in_condition = slice.endpoints.iter().filter(|endpoint| endpoint.condition == condition);
            found.extend(in_condition.map(|endpoint| SocketAddr::new(endpoint.address, port.port)));
        }
    }
    found.into_iter().collect()
}
