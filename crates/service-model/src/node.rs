//! The node from which the model looks at the cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

use crate::names::Family;

/// What of a Node matters to Services.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeView {
    pub name: Arc<str>,
    pub zone: Option<Arc<str>>,
    /// Its own addresses as the Node object lists them, in order; the first of each family is the primary one.
    pub addresses: Vec<IpAddr>,
    /// Where node ports answer.
    pub node_port_addresses: Vec<IpAddr>,
    /// The node is going away: health endpoints say so.
    pub deleting: bool,
}

impl NodeView {
    /// Reads a Node. Node ports answer on its primary address of each family.
    pub fn parse(node: &Node) -> Self {
        let mut addresses: Vec<IpAddr> = Vec::new();
        let listed = node.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
        // InternalIP first, then ExternalIP, as upstream's `GetNodeHostIPs` ranks them.
        for kind in ["InternalIP", "ExternalIP"] {
            for address in listed.iter().filter(|a| a.type_ == kind) {
                if let Ok(address) = address.address.parse::<IpAddr>()
                    && !addresses.contains(&address)
                {
                    addresses.push(address);
                }
            }
        }
        let empty = BTreeMap::new();
        let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
        let mut view = NodeView {
            name: node.metadata.name.as_deref().unwrap_or_default().into(),
            zone: labels.get("topology.kubernetes.io/zone").map(|z| z.as_str().into()),
            addresses,
            node_port_addresses: Vec::new(),
            deleting: node.metadata.deletion_timestamp.is_some(),
        };
        view.node_port_addresses = Family::ALL.iter().filter_map(|family| view.primary(*family)).collect();
        view
    }

    /// The node's first address of a family.
    pub fn primary(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }

    /// Node ports on every one of `present` that lies in `ranges`, rather than on the primary addresses.
    pub fn with_node_port_ranges(mut self, ranges: &[IpNet], present: &[IpAddr]) -> Self {
        let mut chosen: Vec<IpAddr> =
            present.iter().copied().filter(|a| ranges.iter().any(|r| r.contains(a))).collect();
        chosen.sort_unstable();
        chosen.dedup();
        self.node_port_addresses = chosen;
        self
    }
}
