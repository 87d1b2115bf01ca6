//! One Service, parsed: what a proxy, a DNS server, an ingress or a load balancer has to know of it.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service as ApiService, ServicePort as ApiPort, ServiceSpec};

use crate::fault::{Fault, Reason};
use crate::names::{Family, ObjectKey, Protocol};
use crate::slice::unusable;

/// KEP-2447: a Service with this label is another proxy's.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The API's default for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: u32 = 10_800;

/// One Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub key: ObjectKey,
    pub kind: ServiceKind,
    pub ports: Box<[ServicePort]>,
    /// Empty for headless and ExternalName Services, and for those of another proxy.
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    pub load_balancer: Vec<LoadBalancerAddress>,
    /// Who may use the load-balancer addresses; empty: everyone.
    pub source_ranges: Vec<IpNet>,
    pub internal_policy: Policy,
    pub external_policy: Policy,
    pub affinity: Option<Affinity>,
    pub health_check_node_port: Option<NodePort>,
    /// Seconds since the epoch; the older Service keeps a contested address.
    pub created: i64,
    pub resource_version: Box<str>,
}

/// What sort of Service it is to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceKind {
    /// Has virtual addresses.
    Virtual,
    /// `clusterIP: None`: only names.
    Headless,
    /// A CNAME.
    ExternalName,
    /// Labelled as another proxy's.
    OtherProxy,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<NodePort>,
}

/// A port that every node opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodePort(pub NonZeroU16);

/// An ingress address in `status.loadBalancer` that this proxy answers (ipMode `VIP`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadBalancerAddress(pub IpAddr);

/// Which endpoints a kind of traffic may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    Cluster,
    Local,
}

/// `sessionAffinity: ClientIP` with its timeout in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Affinity(pub u32);

impl NodePort {
    fn parse(number: Option<i32>) -> Option<Self> {
        u16::try_from(number?).ok().and_then(NonZeroU16::new).map(NodePort)
    }

    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl Policy {
    fn parse(text: Option<&str>) -> Self {
        if text == Some("Local") { Policy::Local } else { Policy::Cluster }
    }
}

impl Service {
    /// The Service's own name.
    pub fn key_of(service: &ApiService) -> ObjectKey {
        let meta = &service.metadata;
        ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }

    /// Reads a Service; `intern` shares strings that many repeat.
    pub fn parse(service: &ApiService, intern: &mut dyn FnMut(&str) -> Arc<str>, faults: &mut Vec<Fault>) -> Self {
        let named = Service::key_of(service);
        let key = ObjectKey { namespace: intern(&named.namespace), name: intern(&named.name) };
        let default = ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&default);
        let kind = kind(service, spec);
        let mut read = Reader { key: &key, intern, faults };
        let ports = read.ports(spec);
        let cluster_ips = if kind == ServiceKind::Virtual { read.cluster_ips(spec) } else { Vec::new() };
        let families: Vec<Family> = cluster_ips.iter().map(|ip| Family::of(*ip)).collect();
        let external_ips = read.addresses(spec.external_ips.iter().flatten(), &families);
        let source_ranges = read.ranges(spec.load_balancer_source_ranges.iter().flatten());
        let load_balancer = read.load_balancer(service, spec, &families);
        Service {
            kind,
            ports,
            cluster_ips,
            external_ips,
            load_balancer,
            source_ranges,
            internal_policy: Policy::parse(spec.internal_traffic_policy.as_deref()),
            external_policy: Policy::parse(spec.external_traffic_policy.as_deref()),
            affinity: affinity(spec),
            health_check_node_port: health_check(spec),
            created: service.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
            resource_version: service.metadata.resource_version.as_deref().unwrap_or_default().into(),
            key,
        }
    }

    /// The cluster IP of a family.
    pub fn cluster_ip(&self, family: Family) -> Option<IpAddr> {
        self.cluster_ips.iter().copied().find(|ip| Family::of(*ip) == family)
    }
}

fn kind(service: &ApiService, spec: &ServiceSpec) -> ServiceKind {
    if service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(PROXY_NAME)) {
        return ServiceKind::OtherProxy;
    }
    match (spec.type_.as_deref(), spec.cluster_ip.as_deref()) {
        (Some("ExternalName"), _) => ServiceKind::ExternalName,
        (_, Some("None")) => ServiceKind::Headless,
        (_, _) => ServiceKind::Virtual,
    }
}

fn affinity(spec: &ServiceSpec) -> Option<Affinity> {
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).and_then(|s| u32::try_from(s).ok()).filter(|s| *s > 0);
    (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| Affinity(seconds.unwrap_or(AFFINITY_SECONDS)))
}

fn health_check(spec: &ServiceSpec) -> Option<NodePort> {
    let wanted =
        spec.type_.as_deref() == Some("LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local");
    if wanted { NodePort::parse(spec.health_check_node_port) } else { None }
}

/// Reads fields of one Service and blames it for what cannot be read.
struct Reader<'a> {
    key: &'a ObjectKey,
    intern: &'a mut dyn FnMut(&str) -> Arc<str>,
    faults: &'a mut Vec<Fault>,
}

impl Reader<'_> {
    fn blame(&mut self, reason: Reason) {
        self.faults.push(Fault::service(self.key, reason));
    }

    fn ports(&mut self, spec: &ServiceSpec) -> Box<[ServicePort]> {
        let mut ports: Vec<ServicePort> = Vec::new();
        for api in spec.ports.as_deref().unwrap_or_default() {
            let Some(port) = self.port(spec, api) else { continue };
            if ports.iter().any(|p| p.port == port.port && p.protocol == port.protocol) {
                self.blame(Reason::DuplicatePort { port: port.port, protocol: port.protocol });
                continue;
            }
            ports.push(port);
        }
        ports.into()
    }

    fn port(&mut self, spec: &ServiceSpec, api: &ApiPort) -> Option<ServicePort> {
        let Some(protocol) = Protocol::parse(api.protocol.as_deref()) else {
            self.blame(Reason::InvalidProtocol(api.protocol.clone().unwrap_or_default()));
            return None;
        };
        let Some(port) = u16::try_from(api.port).ok().filter(|port| *port > 0) else {
            self.blame(Reason::InvalidPort(api.port));
            return None;
        };
        let opens = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
        let node_port = if opens { NodePort::parse(api.node_port) } else { None };
        Some(ServicePort { name: (self.intern)(api.name.as_deref().unwrap_or_default()), protocol, port, node_port })
    }

    fn cluster_ips(&mut self, spec: &ServiceSpec) -> Vec<IpAddr> {
        let listed = spec.cluster_ips.as_deref().unwrap_or_default();
        let all: Vec<&String> =
            if listed.is_empty() { spec.cluster_ip.iter().collect() } else { listed.iter().collect() };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in self.addresses(all.into_iter().filter(|text| !text.is_empty()), &Family::ALL) {
            // One of each family: the first counts.
            if addresses.iter().all(|a| Family::of(*a) != Family::of(address)) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// The usable addresses of the Service's families. Those of another family are left alone without blame: a dual-stack cluster may
    /// list both for a single-stack Service.
    fn addresses<'s>(&mut self, texts: impl Iterator<Item = &'s String>, families: &[Family]) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for text in texts {
            match text.parse::<IpAddr>() {
                Err(_) => self.blame(Reason::InvalidAddress(text.clone())),
                Ok(address) if unusable(address) => self.blame(Reason::UnusableAddress(address)),
                Ok(address) if families.contains(&Family::of(address)) && !addresses.contains(&address) => {
                    addresses.push(address)
                }
                Ok(_) => {}
            }
        }
        addresses
    }

    fn ranges<'s>(&mut self, texts: impl Iterator<Item = &'s String>) -> Vec<IpNet> {
        let mut ranges = Vec::new();
        for text in texts {
            match text.trim().parse::<IpNet>() {
                Ok(range) => ranges.push(range.trunc()),
                Err(_) => self.blame(Reason::InvalidRange(text.clone())),
            }
        }
        ranges.sort_unstable();
        ranges.dedup();
        ranges
    }

    fn load_balancer(
        &mut self,
        service: &ApiService,
        spec: &ServiceSpec,
        families: &[Family],
    ) -> Vec<LoadBalancerAddress> {
        if spec.type_.as_deref() != Some("LoadBalancer") {
            return Vec::new();
        }
        let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
        let ingress = status.and_then(|s| s.ingress.as_deref()).unwrap_or_default();
        // KEP-1860: ipMode `Proxy` asks that the address is left to the balancer.
        let vips = ingress.iter().filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.as_ref());
        self.addresses(vips, families).into_iter().map(LoadBalancerAddress).collect()
    }
}
