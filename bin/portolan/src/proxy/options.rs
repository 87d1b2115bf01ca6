//! The flags of `portolan proxy`, with kube-proxy's names where it has them.

use std::path::PathBuf;

use clap::Args;
use ipnet::IpNet;

use crate::acknowledge::AcknowledgeAs;
use crate::arguments::DataDir;

#[derive(Debug, Clone, Args)]
pub struct ProxyOptions {
    /// Cluster to serve [default: the configuration's, else KUBECONFIG, else the pod's ServiceAccount]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of this machine's Node [default: the configuration's, else the host's name]
    #[arg(long, value_name = "NAME", alias = "hostname-override")]
    pub node_name: Option<String>,
    /// A KubeProxyConfiguration; flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Ranges of the cluster's pods
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    /// Ranges of cluster IPs: packets to those without a Service are dropped and not let out
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub service_cidr: Vec<IpNet>,
    /// Ranges of this machine's addresses where node ports answer [default: the Node's primary addresses]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub nodeport_addresses: Vec<IpNet>,
    /// Masquerade all packets to cluster IPs
    #[arg(long)]
    pub masquerade_all: bool,
    /// Where /healthz and /livez answer [default: port 10256 of all addresses]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub healthz_bind_address: Option<String>,
    /// Where /metrics answers [default: 127.0.0.1:10249]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_bind_address: Option<String>,
    /// Have the kernel count connections by endpoint for /metrics; each scrape reads the whole table
    #[arg(long)]
    pub count_connections: bool,
    /// Take the rules away and end; open connections go on
    #[arg(long, conflicts_with = "dump")]
    pub cleanup: bool,
    /// Print the rules that the kernel has now and end
    #[arg(long)]
    pub dump: bool,
    /// kube-proxy's: said to have no effect unless it is `nftables`
    #[arg(long, value_name = "MODE", hide = true)]
    pub proxy_mode: Option<String>,
    /// kube-proxy's: PORTOLAN_LOG says what is logged
    #[arg(short = 'v', long = "v", value_name = "LEVEL", hide = true)]
    pub verbosity: Option<u8>,
    #[command(flatten)]
    pub acknowledge: AcknowledgeAs,
    #[command(flatten)]
    pub data: DataDir,
}
