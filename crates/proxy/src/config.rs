//! What one proxy is told at its start.

use std::net::SocketAddr;

use ipnet::IpNet;
use linux::NetNs;
use telemetry::Registry;
use tokio::sync::watch;

use crate::layout::PodInterface;

/// A proxy's configuration: one node, in one network namespace.
#[derive(Debug, Clone)]
pub struct Config {
    pub node_name: String,
    /// Where the node's packets are.
    pub netns: NetNs,
    /// Where pods are, in all of the cluster. None of a family: nobody is known to be inside, and its cluster IPs are not masqueraded.
    pub cluster_cidrs: Vec<IpNet>,
    /// This node's pods are those behind these interfaces; `cluster_cidrs` do not count then.
    pub pods_by: Option<PodInterface>,
    /// Masquerade all that goes to cluster IPs, also what pods send.
    pub masquerade_all: bool,
    /// Where cluster IPs are: packets to those without a Service are dropped rather than let out.
    pub service_cidrs: Vec<IpNet>,
    pub node_port_addresses: NodePortAddresses,
    /// `/healthz` and `/livez`, usually port 10256 on all addresses; opened in the node's namespace.
    pub health: Option<SocketAddr>,
    /// `/metrics`, usually `127.0.0.1:10249`; opened in the node's namespace.
    pub metrics: Option<SocketAddr>,
    /// The kernel counts the connections to each endpoint, and `/metrics` reads all of them each time: for few thousand endpoints.
    pub count_connections: bool,
    /// Where the proxy's metrics go.
    pub registry: Registry,
    /// Hears which changes of EndpointSlices are in the kernel.
    pub applied: watch::Sender<Applied>,
}

/// How far the kernel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Applied {
    /// The highest `resourceVersion` of an EndpointSlice whose change, or that was deleted by one, is committed together with all before
    /// it; 0 before the first commit. Revisions of one resource can be compared as numbers (KEP-5504).
    pub slices: u64,
}

/// On which of the node's addresses node ports answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NodePortAddresses {
    /// The first address of each family that the Node object lists.
    #[default]
    Primary,
    /// Every local address in one of these ranges.
    Ranges(Vec<IpNet>),
}

impl Config {
    /// The usual configuration of a node: health on port 10256 of all its addresses, no metrics listener.
    pub fn new(node_name: impl Into<String>, netns: NetNs) -> Self {
        Config {
            node_name: node_name.into(),
            netns,
            cluster_cidrs: Vec::new(),
            pods_by: None,
            masquerade_all: false,
            service_cidrs: Vec::new(),
            node_port_addresses: NodePortAddresses::Primary,
            health: Some(SocketAddr::from(([0u16; 8], 10256))),
            metrics: None,
            count_connections: false,
            registry: Registry::default(),
            applied: watch::Sender::default(),
        }
    }
}
