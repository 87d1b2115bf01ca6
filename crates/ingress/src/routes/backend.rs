//! A Service's port and its endpoints: whom a request may be sent to, and who gets the next one.
//!
//! Routes hold a [`ServicePort`]; a change of endpoints swaps the set inside it. Load is counted at the endpoint, over all Services and
//! workers, so that the least loaded one is known without asking anybody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use service_model::ObjectKey;
use sha2::{Digest, Sha256};

/// How many endpoints a request is sent to, one after the other, before it is given up.
pub const ATTEMPTS: usize = 3;
/// How many endpoints are compared for one request: enough to avoid the loaded ones, few enough for a Service with thousands.
const COMPARED: usize = 16;
/// What a recent failure to connect weighs, in requests.
const SUSPECT_WEIGHT: u32 = 1 << 16;

/// One address that serves.
#[derive(Debug)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// The value of affinity cookies: names the endpoint to us and tells others nothing.
    pub cookie: Box<str>,
    in_flight: AtomicU32,
    /// No Service has it any more: connections to it are not kept.
    retired: AtomicBool,
    /// Until when it is avoided, in milliseconds of the caller's clock.
    suspect_until: AtomicU64,
}

impl Endpoint {
    pub fn new(address: SocketAddr) -> Self {
        let digest = Sha256::digest(address.to_string().as_bytes());
        let cookie: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Endpoint {
            address,
            cookie: cookie.into(),
            in_flight: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            suspect_until: AtomicU64::new(0),
        }
    }

    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Avoids it until then, while there are others.
    pub fn suspect(&self, until: u64) {
        self.suspect_until.store(until, Ordering::Relaxed);
    }

    fn load(&self, now: u64) -> u32 {
        let suspect = self.suspect_until.load(Ordering::Relaxed) > now;
        self.in_flight.load(Ordering::Relaxed) + if suspect { SUSPECT_WEIGHT } else { 0 }
    }
}

/// One request on its way: counts as load for as long as it lives.
#[derive(Debug)]
pub struct Load {
    endpoint: Arc<Endpoint>,
    others: bool,
}

impl Load {
    fn on(endpoint: &Arc<Endpoint>, others: bool) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Load { endpoint: Arc::clone(endpoint), others }
    }

    /// Whether the request can be sent to another endpoint if this one does not take it.
    pub fn has_others(&self) -> bool {
        self.others
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a Service port is said to speak, by `appProtocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    #[default]
    Http,
    Https,
    /// HTTP/2 without TLS, with prior knowledge.
    H2c,
}

impl Protocol {
    /// KEP-3726 and the names registered with IANA.
    pub fn parse(app_protocol: Option<&str>) -> Self {
        match app_protocol {
            Some("kubernetes.io/h2c" | "grpc" | "h2c") => Protocol::H2c,
            Some("https" | "HTTPS" | "kubernetes.io/wss") => Protocol::Https,
            Some(_) | None => Protocol::Http,
        }
    }
}

/// Why a Service port has no endpoints at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    NoService,
    NoPort,
    /// The Service is an alias of a name that leads nowhere.
    ExternalName,
    /// The backend of the Ingress is no Service.
    NotAService,
}

/// The endpoints that count now: the ready ones, or when there are none, those that terminate but still serve.
#[derive(Debug, Default)]
pub struct EndpointSet {
    pub endpoints: Box<[Arc<Endpoint>]>,
    pub protocol: Protocol,
    pub unavailable: Option<Unavailable>,
    /// The name that the Service is an alias of, if it is one outside the cluster.
    pub host: Option<Box<str>>,
}

/// One port of one Service, shared by all routes that lead to it.
#[derive(Debug)]
pub struct ServicePort {
    pub service: ObjectKey,
    /// As the Ingress names it: a number or a name.
    pub port: Box<str>,
    set: ArcSwap<EndpointSet>,
    turn: AtomicUsize,
}

impl ServicePort {
    pub fn new(service: ObjectKey, port: &str, set: EndpointSet) -> Self {
        ServicePort { service, port: port.into(), set: ArcSwap::from_pointee(set), turn: AtomicUsize::new(0) }
    }

    pub fn set(&self) -> arc_swap::Guard<Arc<EndpointSet>> {
        self.set.load()
    }

    pub(super) fn swap(&self, set: EndpointSet) {
        self.set.store(Arc::new(set));
    }

    /// The least loaded endpoint that was not tried yet; among equals, each has its turn.
    pub fn pick(&self, now: u64, tried: &[SocketAddr]) -> Option<Load> {
        let set = self.set.load();
        let count = set.endpoints.len();
        if count == 0 {
            return None;
        }
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % count;
        let in_turn = set.endpoints[first..].iter().chain(&set.endpoints[..first]);
        let untried = in_turn.filter(|endpoint| !tried.contains(&endpoint.address));
        let least = untried.take(COMPARED).min_by_key(|endpoint| endpoint.load(now))?;
        Some(Load::on(least, tried.len() + 1 < count.min(ATTEMPTS)))
    }

    /// The endpoint that an affinity cookie names, if it still serves.
    pub fn named(&self, cookie: &str) -> Option<Load> {
        let set = self.set.load();
        let named = set.endpoints.iter().find(|endpoint| &*endpoint.cookie == cookie);
        named.map(|endpoint| Load::on(endpoint, set.endpoints.len() > 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(count: u8) -> ServicePort {
        let endpoints = (0..count).map(|n| Arc::new(Endpoint::new(SocketAddr::from(([10, 0, 0, n], 80))))).collect();
        let set = EndpointSet { endpoints, ..EndpointSet::default() };
        ServicePort::new(ObjectKey::new("default", "web"), "80", set)
    }

    #[test]
    fn equals_take_turns_and_the_loaded_wait() {
        let port = port(3);
        let firsts: Vec<u8> = (0..6)
            .filter_map(|_| port.pick(0, &[]))
            .map(|load| match load.endpoint().address.ip() {
                std::net::IpAddr::V4(ip) => ip.octets()[3],
                std::net::IpAddr::V6(_) => 255,
            })
            .collect();
        assert_eq!(firsts, [0, 1, 2, 0, 1, 2]);
        let held: Vec<Load> = (0..2).filter_map(|_| port.pick(0, &[])).collect();
        let busy: Vec<_> = held.iter().map(|load| load.endpoint().address).collect();
        for _ in 0..3 {
            let next = port.pick(0, &[]).unwrap();
            assert!(!busy.contains(&next.endpoint().address));
        }
    }

    #[test]
    fn the_tried_and_the_suspect_are_avoided() {
        let port = port(2);
        let first = port.pick(0, &[]).unwrap().endpoint().address;
        let other = port.pick(0, &[first]).unwrap();
        assert_ne!(other.endpoint().address, first);
        assert!(port.pick(0, &[first, other.endpoint().address]).is_none());
        other.endpoint().suspect(100);
        let suspect = other.endpoint().address;
        drop(other);
        assert!((0..4).all(|_| port.pick(50, &[]).unwrap().endpoint().address != suspect));
        assert!((0..4).any(|_| port.pick(100, &[]).unwrap().endpoint().address == suspect));
    }

    #[test]
    fn a_cookie_names_its_endpoint() {
        let port = port(3);
        let cookie = port.pick(0, &[]).unwrap().endpoint().cookie.clone();
        assert_eq!(port.named(&cookie).unwrap().endpoint().cookie, cookie);
        assert!(port.named("nobody").is_none());
    }
}
