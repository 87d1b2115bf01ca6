//! `portolan loadbalancer`: addresses for Services of type LoadBalancer on any cluster, in place of MetalLB's layer 2 mode.
//!
//! It runs on each node that announces. Whichever of them leads hands out the addresses.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use linux::NetNs;
use loadbalancer::{CONFIG_MAP, Config, Interfaces, NAMESPACE, Speaker};
use tokio_util::sync::CancellationToken;

use crate::acknowledge::AcknowledgeAs;
use crate::arguments::{PoolFlag, pool_flag};
use crate::{host, metrics};

#[derive(Debug, Clone, Args)]
pub struct LoadBalancerOptions {
    /// Cluster to serve [default: KUBECONFIG, ~/.kube/config, or the pod's ServiceAccount]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of the Node that this machine is [default: its host name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// Addresses to hand out, such as 192.168.1.240-192.168.1.250 or office=10.1.2.0/28; may be given again
    #[arg(long, value_name = "[NAME=]RANGES", value_parser = pool_flag)]
    pub pool: Vec<PoolFlag>,
    /// ConfigMap that names more pools, a pool a key
    #[arg(long, value_name = "NAME", default_value = CONFIG_MAP)]
    pub pools_config_map: String,
    /// Namespace of that ConfigMap and of the load balancer's Leases
    #[arg(long, value_name = "NAMESPACE", default_value = NAMESPACE)]
    pub namespace: String,
    /// Serve Services of this loadBalancerClass alone [default: those without a class]
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
    /// Announce on this link; may be given again [default: every link with an address of a network]
    #[arg(long, value_name = "LINK")]
    pub interface: Vec<String>,
    /// Where /metrics and /healthz answer
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7472")]
    pub metrics_address: SocketAddr,
    #[command(flatten)]
    pub acknowledge: AcknowledgeAs,
}

pub fn run(options: &LoadBalancerOptions) -> Result<()> {
    if !linux::process::is_root() {
        bail!("announcing addresses needs root, or CAP_NET_RAW\n  hint: run it with sudo");
    }
    telemetry::init_logs(telemetry::LogFormat::Text, "info", None);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("cannot start an async runtime")?.block_on(serve(options))
}

async fn serve(options: &LoadBalancerOptions) -> Result<()> {
    let client = client::from_kubeconfig(options.kubeconfig.as_deref(), None).await?;
    let shutdown = CancellationToken::new();
    let mut stop = crate::up::Stop::listen()?;
    let ending = shutdown.clone();
    tokio::spawn(async move {
        stop.asked().await;
        ending.cancel();
    });
    let config = config(options)?;
    let (here, registry) = (NetNs::current()?, config.registry.clone());
    let served = metrics::serve(&here, options.metrics_address, registry, shutdown.clone()).await;
    served.context("choose another address with --metrics-address")?;
    Ok(loadbalancer::run(config, client, shutdown).await?)
}

fn config(options: &LoadBalancerOptions) -> Result<Config> {
    let node = match &options.node_name {
        Some(name) => name.clone(),
        None => host::name()?,
    };
    let interfaces = match options.interface.as_slice() {
        [] => Interfaces::Networks,
        names => Interfaces::Named(names.to_vec()),
    };
    let mut config = Config::new(options.pool.iter().filter_map(|flag| flag.pool.clone()).collect());
    config.config_map = client::Key::new(&*options.namespace, &*options.pools_config_map);
    config.namespace.clone_from(&options.namespace);
    config.class.clone_from(&options.class);
    config.speakers = vec![Speaker { node: node.clone(), netns: NetNs::current()?, interfaces }];
    let name = options.acknowledge.name("loadbalancer", || Ok(node.clone()))?;
    config.acknowledger = name.map(|name| loadbalancer::acknowledger(name, Some(node.clone())));
    config.elect = Some(node);
    Ok(config)
}
