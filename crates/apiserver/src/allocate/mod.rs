//! Addresses and node ports of Services, claimed in the same transaction as the Service and its IPAddress objects.
//!
//! The bitmaps in memory say what is free; a [`Claim`] holds what one write took until that write is durable. They are read from the
//! stored Services at open, so a crash neither leaks nor doubles anything.

mod bitmap;
pub(crate) mod cidrs;
mod ranges;
mod repair;
mod services;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use store::Transaction;

use crate::Config;
use crate::fault::{Fault, Outcome};
use crate::kinds::{Kind, find};
use crate::object;

use ranges::{AddressRange, PortRange};

/// What this server has handed out.
#[derive(Debug, Clone)]
pub(crate) struct Allocator {
    ranges: Arc<Mutex<Ranges>>,
    /// The families of the cluster, the default one first.
    families: Vec<&'static str>,
}

/// Volatile; read from the stored Services at open.
#[derive(Debug)]
struct Ranges {
    addresses: Vec<AddressRange>,
    ports: PortRange,
}

/// Addresses and ports set aside for one write. Dropped without [`Claim::keep`] what was taken goes back.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    ranges: Option<Arc<Mutex<Ranges>>>,
    taken_addresses: Vec<IpAddr>,
    taken_ports: Vec<i64>,
    /// Given back when the write is durable.
    released_addresses: Vec<IpAddr>,
    released_ports: Vec<i64>,
    /// Namespace and name of the Service.
    owner: (String, String),
}

impl Allocator {
    pub(crate) fn new(config: &Config) -> Self {
        let addresses: Vec<AddressRange> = config.service_cidrs.iter().map(|net| AddressRange::new(*net)).collect();
        let families = addresses.iter().map(AddressRange::family).collect();
        let ports = PortRange::new(config.node_ports.clone());
        Allocator { ranges: Arc::new(Mutex::new(Ranges { addresses, ports })), families }
    }

    fn claim(&self, service: &Value) -> Claim {
        let mut claim = Claim::none();
        claim.ranges = Some(self.ranges.clone());
        claim.owner = (object::namespace(service).to_owned(), object::name(service).to_owned());
        claim
    }

    /// Fills in what a new Service needs. Other kinds need nothing.
    pub(crate) fn create(&self, kind: &'static Kind, object: &mut Value) -> Outcome<Claim> {
        if !is_service(kind) {
            return Ok(Claim::none());
        }
        let mut claim = self.claim(object);
        services::create(&self.families, &mut claim, object).map_err(|refusal| refusal.into_fault(kind, object))?;
        Ok(claim)
    }

    /// Takes what the new form needs and did not have, and notes what it no longer needs.
    pub(crate) fn update(&self, kind: &'static Kind, new: &mut Value, old: &Value) -> Outcome<Claim> {
        if !is_service(kind) {
            return Ok(Claim::none());
        }
        let mut claim = self.claim(old);
        services::update(&self.families, &mut claim, new, old).map_err(|refusal| refusal.into_fault(kind, old))?;
        Ok(claim)
    }

    /// Notes what a Service held that goes.
    pub(crate) fn delete(&self, kind: &'static Kind, object: &Value) -> Claim {
        if !is_service(kind) {
            return Claim::none();
        }
        let mut claim = self.claim(object);
        services::release_all(&mut claim, object);
        claim
    }

    /// Someone made the IPAddress object of this key without us: its address is not free.
    pub(crate) fn note_taken(&self, key: &str) -> bool {
        let Some(address) = address_of_key(key) else { return false };
        // Already taken is what we want to reach; outside is none of ours.
        lock(&self.ranges).mark(address)
    }
}

fn is_service(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "services"
}

fn lock(ranges: &Mutex<Ranges>) -> MutexGuard<'_, Ranges> {
    ranges.lock().unwrap_or_else(PoisonError::into_inner)
}

fn address_kind() -> Option<&'static Kind> {
    find("networking.k8s.io", "v1", "ipaddresses")
}

fn address_of_key(key: &str) -> Option<IpAddr> {
    key.strip_prefix(&*object::prefix(address_kind()?, ""))?.parse().ok()
}

impl Claim {
    pub(crate) fn none() -> Claim {
        Claim::default()
    }

    fn with<T>(&self, act: impl FnOnce(&mut Ranges) -> T) -> Option<T> {
        self.ranges.as_ref().map(|ranges| act(&mut lock(ranges)))
    }

    /// Adds the IPAddress objects that come and go with the claim.
    pub(crate) fn add_to(&self, mut transaction: Transaction) -> Transaction {
        let Some(kind) = address_kind() else { return transaction };
        for address in &self.taken_addresses {
            let key = object::key(kind, "", &address.to_string());
            let body = object::encode(kind, &address_object(*address, &self.owner));
            transaction = transaction.absent(key.as_str()).put(key, body);
        }
        for address in &self.released_addresses {
            let key = object::key(kind, "", &address.to_string());
            let body = object::encode(kind, &address_object(*address, &self.owner));
            transaction = transaction.delete(key, body);
        }
        transaction
    }

    /// The write is durable: what was claimed is taken, what was released is free.
    pub(crate) fn keep(mut self) {
        self.taken_addresses.clear();
        self.taken_ports.clear();
        let (addresses, ports) =
            (std::mem::take(&mut self.released_addresses), std::mem::take(&mut self.released_ports));
        self.with(|ranges| ranges.give_back(&addresses, &ports));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.taken_addresses.is_empty() || !self.taken_ports.is_empty() {
            self.with(|ranges| ranges.give_back(&self.taken_addresses, &self.taken_ports));
        }
    }
}

impl Ranges {
    /// Takes an address in every range that has it; true when it was free in one.
    fn mark(&mut self, address: IpAddr) -> bool {
        let mut any = false;
        for range in self.addresses.iter_mut().filter(|range| range.net.contains(&address)) {
            any |= range.take(address).is_ok();
        }
        any
    }

    fn give_back(&mut self, addresses: &[IpAddr], ports: &[i64]) {
        for address in addresses {
            for range in self.addresses.iter_mut().filter(|range| range.net.contains(address)) {
                range.free(*address);
            }
        }
        ports.iter().for_each(|port| self.ports.free(*port));
    }
}

/// Why a claim could not be made.
#[derive(Debug)]
enum Refusal {
    /// The writer asked for what cannot be had.
    Invalid(Vec<api::field::FieldError>),
    /// Nothing is left to give.
    Full(String),
}

impl Refusal {
    fn into_fault(self, kind: &Kind, object: &Value) -> Fault {
        match self {
            Refusal::Invalid(errors) => Fault::invalid(kind, object::name(object), &errors),
            Refusal::Full(message) => Fault::internal(message),
        }
    }
}

/// The IPAddress object of one address.
fn address_object(address: IpAddr, (namespace, name): &(String, String)) -> Value {
    json!({
        "metadata": {
            "name": address.to_string(),
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": object::now(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": ranges::family(&address),
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": namespace, "name": name}},
    })
}
