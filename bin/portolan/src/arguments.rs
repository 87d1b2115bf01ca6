//! The command line: every command and flag, with the words that `--help` prints.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ipnet::Ipv4Net;
use loadbalancer::pools::Pool;

use crate::alone;
use crate::proxy::ProxyOptions;
use crate::ranges::Ranges;
use crate::registries::RegistryOptions;
use crate::render::RenderOptions;
use crate::trace::TraceOptions;

#[derive(Debug, Parser)]
#[command(
    name = "portolan",
    version,
    about = "Kubernetes Services, complete, in one binary",
    arg_required_else_help = true
)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a cluster on this machine, or take over the one that is here
    Up(UpOptions),
    /// Stop the cluster and remove every trace of it
    Down(DownOptions),
    /// Write everything that the API server keeps to one file
    Backup(BackupOptions),
    /// Make a cluster's data of a backup
    Restore(RestoreOptions),
    /// Say what runs: addresses, versions, memory
    Status(StatusOptions),
    /// Run the controllers alone, for any cluster
    Controllers(alone::ControllersOptions),
    /// Run the scheduler alone, for any cluster
    Scheduler(alone::SchedulerOptions),
    /// Print the URLs of a Service
    Service(ServiceOptions),
    /// List, pull, load, import and remove images
    Image(ImageOptions),
    /// Give addresses to Services of type LoadBalancer on any cluster, and announce them on the link
    #[command(name = "loadbalancer")]
    LoadBalancer(crate::loadbalancer::LoadBalancerOptions),
    /// Serve a cluster's DNS, in place of CoreDNS
    Dns(crate::dns::DnsOptions),
    /// Ask for a name, and say which object each record comes from
    Dig(crate::dig::DigOptions),
    /// Be the service proxy of a node, in kube-proxy's place
    Proxy(ProxyOptions),
    /// Print the rules that a node would have for the Services of some manifests
    Render(RenderOptions),
    /// Say where a packet to a Service goes, and which elements decide
    Trace(TraceOptions),
    /// Serve the Ingresses of any cluster, in place of an ingress controller
    Ingress(crate::ingress::IngressOptions),
}

/// Where an instance lives; every command that means one takes it.
#[derive(Debug, Clone, Args)]
pub struct DataDir {
    /// Folder of the cluster's data
    #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan", env = "PORTOLAN_DATA_DIR")]
    pub data_dir: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub struct UpOptions {
    #[command(flatten)]
    pub data: DataDir,
    /// Range of the Services' virtual addresses; with IPv6 two, such as 10.96.0.0/16,fd00:10:96::/112
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/16")]
    pub service_cidr: Ranges,
    /// Range of the pods' addresses; each node takes a /24 of it, and a /64 of one of IPv6
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16")]
    pub pod_cidr: Ranges,
    /// Range of the nodes' own addresses [default: the first of 192.168.94.0/24 … 192.168.103.0/24 that is free]
    #[arg(long, value_name = "CIDR")]
    pub node_cidr: Option<Ipv4Net>,
    /// Ports that NodePort Services get
    #[arg(long, value_name = "FROM-TO", default_value = "30000-32767", value_parser = port_range)]
    pub service_node_port_range: PortRange,
    /// Nodes to make, each a network namespace of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub nodes: u8,
    /// Pods that a node takes at most; its range has addresses for 250
    #[arg(long, value_name = "N", default_value_t = 110, value_parser = clap::value_parser!(u16).range(1..=250))]
    pub max_pods: u16,
    /// Addresses for Services of type LoadBalancer, such as 192.168.94.200-192.168.94.250 or office=10.1.2.0/28, or `none`; may be
    /// given again [default: the upper end of the nodes' own range]
    #[arg(long, value_name = "[NAME=]RANGES", value_parser = pool_flag)]
    pub load_balancer_pool: Vec<PoolFlag>,
    /// Domain of the cluster's names
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Port of the API server on this machine
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub api_port: u16,
    #[command(flatten)]
    pub registries: RegistryOptions,
    /// Use the machine's own network instead of a namespace for the node
    #[arg(long, conflicts_with = "node_cidr")]
    pub host_network: bool,
    /// Controllers to leave out, by upstream's names, or `*` for all: others take their place
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub disable_controllers: Vec<String>,
    /// Seconds for which a pod that ends is held at most until its endpoint is marked, and then until nothing is sent to it
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=60))]
    pub drain_bound: u64,
    #[command(flatten)]
    pub ingress: crate::ingress::UpFlags,
    /// Leave the user's kubeconfig alone; the cluster's own is written all the same
    #[arg(long)]
    pub no_kubeconfig: bool,
    /// Go on in the background once the cluster is ready
    #[arg(long)]
    pub detach: bool,
    /// Set for the process that `--detach` leaves behind
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// A pool of the load balancer as a flag gives it; without one the flag said `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolFlag {
    pub text: String,
    pub pool: Option<Pool>,
}

pub fn pool_flag(text: &str) -> Result<PoolFlag, String> {
    let pool =
        if text == "none" { None } else { Some(text.parse::<Pool>().map_err(|fault| telemetry::chain(&fault))?) };
    Ok(PoolFlag { text: text.to_owned(), pool })
}

/// First and last port, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

fn port_range(text: &str) -> Result<PortRange, String> {
    let wanted = || "give it as FROM-TO, such as 30000-32767".to_owned();
    let (first, last) = text.split_once('-').ok_or_else(wanted)?;
    let range = PortRange { first: first.parse().map_err(|_| wanted())?, last: last.parse().map_err(|_| wanted())? };
    if range.first == 0 || range.first > range.last { Err(wanted()) } else { Ok(range) }
}

#[derive(Debug, Clone, Args)]
pub struct DownOptions {
    #[command(flatten)]
    pub data: DataDir,
    /// Keep what is stored (objects, images), remove only what runs
    #[arg(long)]
    pub keep_data: bool,
}

#[derive(Debug, Clone, Args)]
pub struct BackupOptions {
    #[command(flatten)]
    pub data: DataDir,
    /// The file to write; it will hold private keys
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Save what can be read of a damaged store
    #[arg(long)]
    pub salvage: bool,
}

#[derive(Debug, Clone, Args)]
pub struct RestoreOptions {
    #[command(flatten)]
    pub data: DataDir,
    /// A file that `portolan backup` wrote
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub struct StatusOptions {
    #[command(flatten)]
    pub data: DataDir,
}

#[derive(Debug, Clone, Args)]
pub struct ServiceOptions {
    /// Name of the Service
    pub name: String,
    /// Namespace of the Service
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Print the URLs alone, a line each
    #[arg(long)]
    pub url: bool,
    /// Open the first URL in the browser
    #[arg(long)]
    pub open: bool,
    /// Cluster to ask [default: that of --data-dir if it runs here, else the current context]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    pub data: DataDir,
}

#[derive(Debug, Clone, Args)]
pub struct ImageOptions {
    #[command(subcommand)]
    pub action: ImageAction,
    #[command(flatten)]
    pub data: GlobalDataDir,
}

/// As [`DataDir`], accepted behind a subcommand's own arguments too.
#[derive(Debug, Clone, Args)]
pub struct GlobalDataDir {
    /// Folder of the cluster's data
    #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan", env = "PORTOLAN_DATA_DIR", global = true)]
    pub data_dir: PathBuf,
}

#[derive(Debug, Clone, Subcommand)]
pub enum ImageAction {
    /// List the images that are here
    Ls,
    /// Fetch an image from its registry
    Pull {
        /// Such as `nginx:1.27` or `registry.example:5000/app@sha256:…`
        name: String,
        /// Speak plain HTTP to the registry
        #[arg(long)]
        insecure: bool,
        #[command(flatten)]
        registries: RegistryOptions,
    },
    /// Take images from an archive of `docker save`, or an OCI layout
    Load {
        /// Archive or folder
        archive: PathBuf,
    },
    /// Make an image of a root filesystem
    Import {
        /// Folder that holds the filesystem
        folder: PathBuf,
        /// Name to give it
        #[arg(long)]
        name: String,
        /// Program that its containers run
        #[arg(long)]
        entrypoint: Vec<String>,
        /// User that its containers run as
        #[arg(long)]
        user: Option<String>,
    },
    /// Remove an image
    Rm { name: String },
    /// Remove what no image refers to any more
    Prune,
}

/// The addresses of the cluster's DNS server, IPv4 first: the tenth of each range of Services, as kubeadm has it.
pub fn cluster_dns(service_cidr: Ranges) -> Vec<IpAddr> {
    let v4 = Ipv4Addr::from(u32::from(service_cidr.v4.network()).saturating_add(10));
    let v6 = service_cidr.v6.map(|range| Ipv6Addr::from(u128::from(range.network()).saturating_add(10)));
    [IpAddr::V4(v4)].into_iter().chain(v6.map(IpAddr::V6)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn port_ranges_are_read() {
        assert_eq!(port_range("30000-32767"), Ok(PortRange { first: 30000, last: 32767 }));
        for bad in ["", "1", "0-9", "9-1", "1-70000", "a-b"] {
            assert!(port_range(bad).is_err(), "{bad}");
        }
    }
}
