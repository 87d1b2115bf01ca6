//! What all workers of a node share.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use client::Watched;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::drain::Drain;
use crate::env::fields::Placement;
use crate::events::Recorder;
use crate::files::{DnsOfNode, ResolvConf};
use crate::podnet::PodNet;
use crate::probe::Asker;
use crate::spec;

/// Gives pods of the node but the one with this uid.
pub(crate) type Neighbours = Box<dyn Fn(&str) -> Vec<Arc<Pod>> + Send + Sync>;

/// One node, as its workers see it.
pub(crate) struct Context {
    pub config: Config,
    pub client: Client,
    pub services: Watched<Service>,
    pub recorder: Recorder,
    pub network: PodNet,
    pub asker: Asker,
    pub drain: Drain,
    pub allocatable: BTreeMap<String, Quantity>,
    /// The pods that take up room on the node beside the one with this uid.
    pub neighbours: Neighbours,
    /// Ends the workers, and with them every task of theirs; containers go on.
    pub shutdown: CancellationToken,
}

impl Context {
    /// The folder of a pod.
    pub fn folder(&self, uid: &str) -> PathBuf {
        self.config.pods_dir.join(uid)
    }

    pub fn volumes(&self, uid: &str) -> PathBuf {
        self.folder(uid).join("volumes")
    }

    /// The log of a container's run of that number.
    pub fn log(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.folder(uid).join("logs").join(container).join(format!("{attempt}.log"))
    }

    /// Where a run's termination message appears.
    pub fn termination_log(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.folder(uid).join("termination").join(format!("{container}.{attempt}"))
    }

    pub fn host_ips(&self) -> Vec<String> {
        self.config.node_ips.iter().map(ToString::to_string).collect()
    }

    /// What the pod is told about where it runs.
    pub fn placement(&self, pod: &Pod, ips: &[IpAddr]) -> Placement {
        let own: Vec<String> = ips.iter().map(ToString::to_string).collect();
        Placement {
            node_name: self.config.node_name.clone(),
            pod_ips: if spec::on_host_network(pod) { self.host_ips() } else { own },
            host_ips: self.host_ips(),
            allocatable: self.allocatable.clone(),
        }
    }

    /// How the node and the cluster resolve names, as of now.
    pub fn dns(&self) -> DnsOfNode {
        let host = fs::read_to_string(&self.config.resolv_conf).unwrap_or_default();
        DnsOfNode {
            cluster_dns: self.config.cluster_dns.iter().map(ToString::to_string).collect(),
            cluster_domain: self.config.cluster_domain.clone(),
            host: ResolvConf::parse(&host),
        }
    }

    /// Services that a pod of the namespace may be told of.
    pub fn services_for(&self, namespace: &str) -> Vec<Arc<Service>> {
        let mut all = self.services.list_in(namespace);
        if namespace != "default" {
            all.extend(self.services.list_in("default"));
        }
        all
    }
}
