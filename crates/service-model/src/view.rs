//! The answer: for each Service, who may send where on this node.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::claims::FrontendKey;
use crate::fault::Fault;
use crate::names::{Family, ObjectKey, ServicePortKey};
use crate::service::{Affinity, NodePort, Policy};

/// What this node does for one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceView {
    pub key: ObjectKey,
    /// The revision of the Service that this was made from.
    pub resource_version: Box<str>,
    /// One for each port and family, in the order of the Service's ports.
    pub ports: Vec<PortView>,
    /// Cluster IPs: unused ports of them are refused.
    pub cluster_ips: Vec<IpAddr>,
    pub health_check: Option<HealthCheck>,
    pub faults: Vec<Fault>,
}

/// One port of a Service in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortView {
    pub key: ServicePortKey,
    pub family: Family,
    pub frontends: Vec<Frontend>,
    /// For packets to the cluster IP.
    pub internal: Target,
    /// For packets to any other frontend.
    pub external: Target,
    /// With `externalTrafficPolicy: Local`: for packets of the cluster's own pods and of this node to the external frontends.
    pub inside: Option<Target>,
    /// Whether packets from elsewhere get this node's address as their source (policy Cluster).
    pub masquerade_external: bool,
    pub affinity: Option<Affinity>,
    /// Every endpoint that may still hold flows: ready, or terminating and serving, on any node. Sorted.
    pub alive: Arc<[Backend]>,
    /// Addresses that could meet themselves here and then need masquerading.
    pub hairpin: Vec<IpAddr>,
}

/// An address and port that packets are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    pub address: IpAddr,
    pub port: u16,
}

/// An address and port at which the Service answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    pub at: FrontendKey,
    pub kind: FrontendKind,
    /// Only these may use it, if there are any; sorted.
    pub source_ranges: Arc<[IpNet]>,
}

/// Where a frontend comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    ClusterIp,
    ExternalIp,
    LoadBalancer,
    NodePort,
}

/// The endpoints for one kind of traffic, sorted, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Targets of one port with the same policy have the same endpoints.
    pub policy: Policy,
    pub backends: Arc<[Backend]>,
    /// What to do when there are none.
    pub empty: Empty,
}

/// What a packet meets when there is no endpoint for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Empty {
    /// There is no endpoint anywhere: refused.
    Reject,
    /// Another node has one, and the policy forbids to send it there: dropped, so that the client tries again elsewhere.
    Drop,
}

/// `healthCheckNodePort`: the port and how many ready endpoints are on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub port: NodePort,
    pub families: Vec<Family>,
    pub local_endpoints: usize,
}

impl FrontendKind {
    /// Whether `internalTrafficPolicy` governs it; otherwise `externalTrafficPolicy` does.
    pub fn is_internal(self) -> bool {
        match self {
            FrontendKind::ClusterIp => true,
            FrontendKind::ExternalIp | FrontendKind::LoadBalancer | FrontendKind::NodePort => false,
        }
    }
}

impl PortView {
    /// The endpoints for packets to `frontend`; those of the cluster's own pods may have another target, see [`PortView::inside`].
    pub fn target(&self, frontend: &Frontend) -> &Target {
        if frontend.kind.is_internal() { &self.internal } else { &self.external }
    }
}
