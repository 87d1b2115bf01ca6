//! From flags, file and Node to what the proxy is started with.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use linux::NetNs;
use proxy::{Config, Local, NodePortAddresses, Settings, parse_bind_address};
use tracing::{info, warn};

use super::options::ProxyOptions;
use crate::host;

const NODE_WAIT: Duration = Duration::from_secs(1);

/// The file's settings, overridden by flags.
pub fn settings(options: &ProxyOptions) -> Result<Settings> {
    let mut settings = match &options.config {
        Some(path) => read(path).with_context(|| format!("cannot use configuration `{}`", path.display()))?,
        None => Settings::default(),
    };
    if let Some(path) = &options.kubeconfig {
        settings.kubeconfig = Some(path.to_string_lossy().into_owned());
    }
    if options.node_name.is_some() {
        settings.node_name.clone_from(&options.node_name);
    }
    if !options.cluster_cidr.is_empty() {
        settings.cluster_cidrs.clone_from(&options.cluster_cidr);
    }
    if !options.nodeport_addresses.is_empty() {
        settings.node_port_addresses = NodePortAddresses::Ranges(options.nodeport_addresses.clone());
    }
    settings.masquerade_all |= options.masquerade_all;
    if let Some(mode) = options.proxy_mode.as_deref().filter(|mode| *mode != "nftables") {
        settings.warnings.push(format!("`--proxy-mode {mode}` does not apply: rules are nftables, whatever the mode"));
    }
    if options.verbosity.is_some() {
        settings
            .warnings
            .push("`-v` does not apply: the environment variable PORTOLAN_LOG filters log lines".to_owned());
    }
    let address = |text: &Option<String>, port, otherwise| match text.as_deref() {
        None => Ok(otherwise),
        // As upstream has it: an empty address is none at all.
        Some("") => Ok(None),
        Some(text) => parse_bind_address(text, port)
            .map(Some)
            .with_context(|| format!("`{text}` is no address\n  hint: give ADDRESS:PORT")),
    };
    settings.health = address(&options.healthz_bind_address, 10256, settings.health)?;
    settings.metrics = address(&options.metrics_bind_address, 10249, settings.metrics)?;
    Ok(settings)
}

fn read(path: &Path) -> Result<Settings> {
    let text = fs::read_to_string(path)?;
    let document = serde_norway::from_str(&text).context("it is not YAML")?;
    Ok(Settings::parse(&document)?)
}

/// Sets what the file says of connection tracking. A parameter that cannot be set is a warning: rules work without.
pub fn tune(settings: &Settings, netns: &NetNs) {
    let mut parameters: Vec<(&str, u64)> = settings.sysctls.clone();
    if let Some(max) = settings.conntrack_max {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
        parameters.push(("net.netfilter.nf_conntrack_max", max.least.max(max.per_core.saturating_mul(cores))));
    }
    for (parameter, value) in parameters {
        if let Err(error) = netns.set_sysctl(parameter, &value.to_string()) {
            warn!(parameter, value, error = %telemetry::chain(&error), "cannot set a parameter of connection tracking");
        }
    }
}

/// What the proxy is started with.
pub async fn config(options: &ProxyOptions, settings: &Settings, client: &Client, netns: NetNs) -> Result<Config> {
    let name = match &settings.node_name {
        Some(name) => name.clone(),
        None => host::name().context("hint: give the Node's name with --node-name")?,
    };
    let mut config = Config::new(name.trim().to_lowercase(), netns);
    match &settings.local {
        Local::ClusterCidr => config.cluster_cidrs.clone_from(&settings.cluster_cidrs),
        Local::NodeCidr => config.cluster_cidrs = node_cidrs(client, &config.node_name).await,
        Local::Interface(interface) => config.pods_by = Some(interface.clone()),
    }
    config.service_cidrs.clone_from(&options.service_cidr);
    config.masquerade_all = settings.masquerade_all;
    config.count_connections = options.count_connections;
    config.node_port_addresses = settings.node_port_addresses.clone();
    config.health = settings.health;
    config.metrics = settings.metrics;
    Ok(config)
}

/// The pod ranges of this node, as soon as its Node has them.
async fn node_cidrs(client: &Client, name: &str) -> Vec<IpNet> {
    let nodes: Api<Node> = Api::all(client.clone());
    loop {
        let ranges: Vec<IpNet> = match nodes.get_opt(name).await {
            Ok(node) => {
                let spec = node.and_then(|node| node.spec).unwrap_or_default();
                spec.pod_cidrs.iter().flatten().filter_map(|range| range.parse().ok()).collect()
            }
            Err(error) => {
                warn!(node = name, %error, "cannot read the Node, trying again");
                Vec::new()
            }
        };
        if !ranges.is_empty() {
            return ranges;
        }
        info!(node = name, "waiting until the Node has pod ranges");
        tokio::time::sleep(NODE_WAIT).await;
    }
}
