//! What the agent is told at its start.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use containers::images::{ImageStore, PullOptions};
use containers::runtime::Runtime;
use ipnet::IpNet;
use linux::NetNs;

/// One node. Everything else comes through the API.
#[derive(Clone)]
pub struct Config {
    pub node_name: String,
    /// Besides those that every node has (`kubernetes.io/hostname`, …).
    pub labels: BTreeMap<String, String>,
    /// The node's network namespace.
    pub netns: NetNs,
    /// Where pods' volumes, logs and records are kept; the node's own, and the same over restarts.
    pub pods_dir: PathBuf,
    /// Where pods' network namespaces are mounted; the same over restarts.
    pub namespaces_dir: PathBuf,
    /// The range of pods' addresses, one for each family; empty takes `spec.podCIDRs` of the Node, and waits for it.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses of the node, the primary first.
    pub node_ips: Vec<IpAddr>,
    /// The DNS Service that pods ask; empty gives them the node's own resolvers.
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// The node's resolver configuration.
    pub resolv_conf: PathBuf,
    pub runtime: Arc<dyn Runtime>,
    pub images: ImageStore,
    pub pull: PullOptions,
    /// Where the kubelet API is served on the node's addresses, for `status.daemonEndpoints`; 0 if only in this process.
    pub kubelet_port: u16,
    /// Pods that the node takes at most, as the kubelet's `maxPods`.
    pub max_pods: u16,
    /// How long a pod that ends is held for the mark of its endpoint, and then for the acknowledgements of who sends to it.
    pub drain_bound: Duration,
    /// Above the pods' cgroups in every hierarchy.
    pub cgroup: String,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("node_name", &self.node_name)
            .field("pods_dir", &self.pods_dir)
            .field("pod_cidrs", &self.pod_cidrs)
            .field("node_ips", &self.node_ips)
            .finish_non_exhaustive()
    }
}
