//! The zone: everything that the cluster's objects say about names, immutable once made.
//!
//! A change makes the next zone from the last one and shares all shards that it does not touch, so that it costs the same at any size.
//! Answers follow the Kubernetes DNS specification 1.1.0; where it is silent they follow the RFCs named beside the code.

mod answer;
mod look_up;
mod service;
mod sharded;

use std::net::IpAddr;
use std::sync::Arc;

pub(crate) use answer::{Answered, Choice};
pub use look_up::Node;
pub use service::{Endpoint, Endpoints, Port, Protocol, ServiceRecords, ServiceSpec, SliceRecords};
use sharded::Sharded;

use crate::search::SearchList;
use crate::wire::name::{WireName, address_label, join, label};

/// What answers questions. Cheap to clone: shards are shared.
#[derive(Debug, Clone)]
pub struct Zone {
    domain: WireName,
    ttl: u32,
    /// Moves with every change; the SOA's serial.
    serial: u32,
    /// Whether all objects have been seen once. Before, the zone must not deny any name.
    complete: bool,
    namespaces: Sharded<Box<[u8]>, ()>,
    services: Sharded<Box<[u8]>, Arc<Entry>>,
    /// Names of each address, by the Service that gives them.
    reverse: Sharded<IpAddr, Names>,
    /// How pods search, by their addresses; pods that share one are all there.
    pods: Sharded<IpAddr, Arc<Vec<(ObjectKey, SearchList)>>>,
    /// The key of the Service that clients ask: `kube-system/kube-dns`.
    server: Box<[u8]>,
}

/// One Service in the zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `<service>.<namespace>.svc.<domain>`
    pub name: WireName,
    pub records: ServiceRecords,
}

/// One name of an address: a Service itself, or an endpoint of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReverseName {
    key: Arc<[u8]>,
    of: ReverseOf,
}

/// The names of one address, sorted; nearly always one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Names {
    One(ReverseName),
    Several(Arc<[ReverseName]>),
}

impl Names {
    fn of(mut names: Vec<ReverseName>) -> Option<Self> {
        match names.len() {
            0 => None,
            1 => names.pop().map(Names::One),
            _ => Some(Names::Several(names.into())),
        }
    }

    fn as_slice(&self) -> &[ReverseName] {
        match self {
            Names::One(name) => std::slice::from_ref(name),
            Names::Several(names) => names,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum ReverseOf {
    Service,
    Endpoint(Option<Arc<str>>),
}

/// Which Service, or which pod: its namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    /// The two labels of its name, in wire form; none if they are none.
    fn labels(&self) -> Option<Box<[u8]>> {
        Some([label(self.name.as_bytes())?, label(self.namespace.as_bytes())?].concat().into())
    }
}

impl Zone {
    /// An empty zone that does not deny anything yet. A serial that grows over restarts starts at the time.
    pub fn new(domain: WireName, ttl: u32, serial: u32) -> Self {
        Zone {
            domain,
            ttl,
            serial,
            complete: false,
            namespaces: Sharded::default(),
            services: Sharded::default(),
            reverse: Sharded::default(),
            pods: Sharded::default(),
            server: b"\x08kube-dns\x0bkube-system".as_slice().into(),
        }
    }

    pub fn domain(&self) -> &[u8] {
        &self.domain
    }

    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Everything has been seen; from now on a name that is not here does not exist.
    pub fn set_complete(&mut self) {
        self.complete = true;
        self.serial = self.serial.wrapping_add(1);
    }

    pub fn set_namespace(&mut self, name: &str, exists: bool) {
        let key: Box<[u8]> = name.to_ascii_lowercase().into_bytes().into();
        if exists {
            self.namespaces.insert(key, ());
        } else {
            self.namespaces.remove(&key);
        }
        self.serial = self.serial.wrapping_add(1);
    }

    /// Puts a Service's records in place of those it had, or takes them away.
    pub fn set_service(&mut self, key: &ObjectKey, records: Option<ServiceRecords>) {
        let Some(key) = key.labels() else { return };
        let shared: Arc<[u8]> = Arc::from(&*key);
        let old = self.services.get(&key).map(|old| reverse_names(&shared, &old.records)).unwrap_or_default();
        let new = records.as_ref().map(|new| reverse_names(&shared, new)).unwrap_or_default();
        // Both lists are sorted.
        for (address, name) in old.iter().filter(|entry| new.binary_search(entry).is_err()) {
            self.rename(*address, |names| names.retain(|known| known != name));
        }
        for (address, name) in new.iter().filter(|entry| old.binary_search(entry).is_err()) {
            self.rename(*address, |names| names.push(name.clone()));
        }
        let name = join(&key, b"\x03svc").and_then(|name| join(&name, &self.domain));
        match (records, name) {
            (Some(records), Some(name)) => self.services.insert(key, Arc::new(Entry { name, records })),
            (Some(_) | None, _) => self.services.remove(&key),
        }
        self.serial = self.serial.wrapping_add(1);
    }

    fn rename(&mut self, address: IpAddr, change: impl FnOnce(&mut Vec<ReverseName>)) {
        let mut names = self.reverse.get(&address).map(|names| names.as_slice().to_vec()).unwrap_or_default();
        change(&mut names);
        names.sort();
        match Names::of(names) {
            Some(names) => self.reverse.insert(address, names),
            None => self.reverse.remove(&address),
        }
    }

    /// Says how the pod at these addresses searches, in place of what was said before about the pod (`old` addresses).
    pub fn set_pod(&mut self, pod: &ObjectKey, old: &[IpAddr], new: &[IpAddr], list: &SearchList) {
        for address in old {
            let mut pods = self.pods.get(address).map(|pods| pods.to_vec()).unwrap_or_default();
            pods.retain(|(known, _)| known != pod);
            if pods.is_empty() {
                self.pods.remove(address);
            } else {
                self.pods.insert(*address, Arc::new(pods));
            }
        }
        for address in new {
            let mut pods = self.pods.get(address).map(|pods| pods.to_vec()).unwrap_or_default();
            pods.push((pod.clone(), list.clone()));
            self.pods.insert(*address, Arc::new(pods));
        }
    }

    /// How the client at this address searches; none if no pod or more than one has it.
    pub fn search_list(&self, client: IpAddr) -> Option<&SearchList> {
        match self.pods.get(&client.to_canonical())?.as_slice() {
            [(_, list)] => Some(list),
            _ => None,
        }
    }

    /// Services that have names.
    pub fn services(&self) -> usize {
        self.services.len()
    }

    fn server_addresses(&self) -> &[IpAddr] {
        match self.services.get(&self.server).map(|entry| &entry.records) {
            Some(ServiceRecords::ClusterIp { addresses, .. }) => addresses,
            Some(ServiceRecords::Headless(_) | ServiceRecords::External { .. }) | None => &[],
        }
    }
}

impl ReverseName {
    /// The name in full; none if it is too long to be one.
    fn name(&self, address: IpAddr, domain: &[u8]) -> Option<WireName> {
        let own = match &self.of {
            ReverseOf::Service => Vec::new(),
            ReverseOf::Endpoint(Some(host)) => label(host.as_bytes())?,
            ReverseOf::Endpoint(None) => label(address_label(address).as_bytes())?,
        };
        join(&[&own, &*self.key, b"\x03svc".as_slice()].concat(), domain)
    }
}

/// PTR records, sorted: the cluster IP names the Service, an endpoint names itself.
fn reverse_names(key: &Arc<[u8]>, records: &ServiceRecords) -> Vec<(IpAddr, ReverseName)> {
    let named = |of| ReverseName { key: Arc::clone(key), of };
    let addresses = match records {
        ServiceRecords::ClusterIp { addresses, .. } => addresses.as_ref(),
        ServiceRecords::Headless(_) | ServiceRecords::External { .. } => &[],
    };
    let services = addresses.iter().map(|address| (*address, named(ReverseOf::Service)));
    let endpoints = records.endpoints().iter();
    let endpoints = endpoints.map(|e| (e.address, named(ReverseOf::Endpoint(e.host.clone()))));
    let mut names: Vec<_> = services.chain(endpoints).collect();
    names.sort();
    names.dedup();
    names
}
