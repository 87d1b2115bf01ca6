//! A Service, read for what it asks of the load balancer.
//!
//! MetalLB's annotations mean what they mean to MetalLB; each has a name of our own, which wins when both are there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use client::Key;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use kube::ResourceExt;
use service_model::{Family, Protocol};

use crate::pending::Pending;

/// The class by which a Service names this load balancer.
pub const CLASS: &str = "portolan.dev/loadbalancer";

const ADDRESSES: [&str; 3] =
    ["portolan.dev/load-balancer-ips", "metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"];
const POOL: [&str; 3] =
    ["portolan.dev/load-balancer-pool", "metallb.io/address-pool", "metallb.universe.tf/address-pool"];
const SHARING: [&str; 3] =
    ["portolan.dev/load-balancer-sharing-key", "metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"];

/// What one Service of type LoadBalancer wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub key: Key,
    /// Seconds since the epoch: the older Service keeps a contested address.
    pub created: i64,
    /// Wanted families, the primary one first.
    pub families: Vec<Family>,
    /// Whether it must have one address of each family, or takes what there is.
    pub all_families: bool,
    pub asked: Vec<IpAddr>,
    pub pool: Option<String>,
    pub sharing: Option<Sharing>,
    pub ports: BTreeSet<(Protocol, u16)>,
    /// `externalTrafficPolicy: Local`.
    pub local: bool,
    /// The addresses in its status now.
    pub current: Vec<IpAddr>,
    /// What it asks for cannot be understood.
    pub fault: Option<Pending>,
}

/// On which terms a Service shares its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharing {
    pub key: String,
    /// With policy Local only Services of the same pods can share, because one node answers for all of them; empty for policy Cluster.
    pub pods: String,
}

/// Whether a Service is this load balancer's: of its type, and of a class that is ours. With `only`, that class alone is.
pub fn is_ours(service: &Service, only: Option<&str>) -> bool {
    let Some(spec) = &service.spec else { return false };
    let class = spec.load_balancer_class.as_deref();
    let fits = match only {
        Some(only) => class == Some(only),
        None => class.is_none_or(|class| class == CLASS),
    };
    spec.type_.as_deref() == Some("LoadBalancer") && service.metadata.deletion_timestamp.is_none() && fits
}

impl Request {
    /// Reads a Service that is ours.
    pub fn read(service: &Service) -> Request {
        let spec = service.spec.clone().unwrap_or_default();
        let (asked, fault) = match asked(service, &spec) {
            Ok(asked) => (asked, None),
            Err(fault) => (Vec::new(), Some(fault)),
        };
        let pool = annotation(service.annotations(), POOL);
        let local = spec.external_traffic_policy.as_deref() == Some("Local");
        let pods = if local { selector(&spec) } else { String::new() };
        Request {
            key: Key::of(service),
            created: service.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            families: families(&spec),
            all_families: spec.ip_family_policy.as_deref() != Some("PreferDualStack"),
            asked,
            pool,
            sharing: annotation(service.annotations(), SHARING).map(|key| Sharing { key, pods }),
            ports: ports(&spec),
            local,
            current: current(service),
            fault,
        }
    }
}

/// The pool that a Namespace names for its Services.
pub fn namespace_pool(annotations: &BTreeMap<String, String>) -> Option<String> {
    annotation(annotations, POOL)
}

/// The addresses in a Service's status, by whomever they were put there.
pub fn current(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    ingress.iter().filter_map(|ingress| ingress.ip.as_deref()?.parse().ok()).collect()
}

fn annotation(annotations: &BTreeMap<String, String>, names: [&str; 3]) -> Option<String> {
    let mut said = names.into_iter().filter_map(|name| annotations.get(name));
    said.find(|text| !text.trim().is_empty()).map(|text| text.trim().to_owned())
}

/// By annotation or by the deprecated field; both must not contradict each other.
fn asked(service: &Service, spec: &ServiceSpec) -> Result<Vec<IpAddr>, Pending> {
    let parse =
        |text: &str| text.trim().parse::<IpAddr>().map_err(|_| Pending::NoAddress { text: text.trim().to_owned() });
    let field = spec.load_balancer_ip.as_deref().filter(|text| !text.is_empty()).map(parse).transpose()?;
    let Some(text) = annotation(service.annotations(), ADDRESSES) else { return Ok(field.into_iter().collect()) };
    let mut listed: Vec<IpAddr> = Vec::new();
    for address in text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(parse) {
        let address = address?;
        if let Some(other) = listed.iter().find(|known| known.is_ipv4() == address.is_ipv4() && **known != address) {
            return Err(Pending::TwoOfOneFamily { one: *other, other: address });
        }
        if !listed.contains(&address) {
            listed.push(address);
        }
    }
    match field {
        Some(field) if !listed.contains(&field) => Err(Pending::Contradiction { field, annotation: text }),
        Some(_) | None => Ok(listed),
    }
}

fn families(spec: &ServiceSpec) -> Vec<Family> {
    let parse = |text: &String| Family::parse(text);
    let said: Vec<Family> = spec.ip_families.iter().flatten().filter_map(parse).collect();
    if !said.is_empty() {
        return said;
    }
    // A server without dual stack says nothing: the cluster IP tells.
    let of_ip = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()).map(Family::of);
    vec![of_ip.unwrap_or(Family::V4)]
}

fn ports(spec: &ServiceSpec) -> BTreeSet<(Protocol, u16)> {
    let all = spec.ports.iter().flatten();
    all.filter_map(|port| Some((Protocol::parse(port.protocol.as_deref())?, u16::try_from(port.port).ok()?))).collect()
}

fn selector(spec: &ServiceSpec) -> String {
    let labels = spec.selector.iter().flatten();
    labels.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
