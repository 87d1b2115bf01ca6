//! What an API server is told at its start.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::nodes::NodeDialer;

/// What an API server is told at its start. `Config::new` has the defaults of `portolan up`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Holds `store/` and `pki/`.
    pub data_dir: PathBuf,
    /// Ranges that ClusterIPs come from, the primary family first; one range a family.
    pub service_cidrs: Vec<IpNet>,
    pub node_ports: RangeInclusive<u16>,
    /// Addresses that clients reach the server at: names of the certificate, and the endpoints of Service `kubernetes`.
    pub advertise_addresses: Vec<IpAddr>,
    /// Further names for the server's certificate.
    pub server_names: Vec<String>,
    /// The port that `advertise_addresses` answer at.
    pub advertise_port: u16,
    pub cluster_domain: String,
    /// The way to a node's agent, for `logs`, `exec`, `attach` and `port-forward`.
    pub nodes: Arc<dyn NodeDialer>,
    /// Where the server's metrics go, and what `/metrics` shows.
    pub registry: telemetry::Registry,
    /// After so long without a change a watch that allows bookmarks gets one.
    pub bookmark_every: Duration,
    /// Largest request body, in bytes.
    pub max_body: usize,
    /// So many requests are worked on at once, watches and streams not counted; who comes then is asked to come again.
    pub max_in_flight: usize,
}

impl Config {
    /// The defaults, with data below `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Config {
            data_dir: data_dir.into(),
            service_cidrs: vec![IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 0)), 16)],
            node_ports: 30000..=32767,
            advertise_addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            server_names: Vec::new(),
            advertise_port: 6443,
            cluster_domain: "cluster.local".to_owned(),
            nodes: Arc::new(crate::nodes::NoNodes),
            registry: telemetry::Registry::default(),
            bookmark_every: Duration::from_secs(60),
            max_body: 3 << 20,
            max_in_flight: 600,
        }
    }
}
