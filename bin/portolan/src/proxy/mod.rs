//! `portolan proxy`: the service proxy alone, in kube-proxy's place on a node of any cluster.

mod beside;
mod configure;
mod options;

use anyhow::{Context, Result};
use linux::NetNs;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use options::ProxyOptions;

use crate::instance::Layout;
use crate::{acknowledge, terminal};

pub fn run(options: &ProxyOptions) -> Result<()> {
    if options.dump {
        terminal::text(proxy::dump(&node_namespace(options.node_name.as_deref(), &options.data.data_dir)?)?);
        return Ok(());
    }
    if options.cleanup {
        return Ok(proxy::cleanup(&NetNs::current()?)?);
    }
    telemetry::init_logs(telemetry::LogFormat::Text, "info", None);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("cannot start an async runtime")?.block_on(serve(options))
}

async fn serve(options: &ProxyOptions) -> Result<()> {
    let settings = configure::settings(options)?;
    settings.warnings.iter().for_each(|warning| warn!("{warning}"));
    let netns = NetNs::current()?;
    for other in beside::others(&netns)? {
        warn!("{other}");
    }
    configure::tune(&settings, &netns);
    let client = client::from_kubeconfig(settings.kubeconfig.as_deref().map(AsRef::as_ref), None).await?;
    let config = configure::config(options, &settings, &client, netns).await?;
    let shutdown = CancellationToken::new();
    let ended = shutdown.clone();
    let mut signals = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = signals.0.recv() => {}
            _ = signals.1.recv() => {}
        }
        info!("asked to stop; rules and connections stay");
        ended.cancel();
    });
    let node = config.node_name.clone();
    if let Some(name) = options.acknowledge.name("proxy", || Ok(node))? {
        tokio::spawn(acknowledge::proxy(name, &config, client.clone(), shutdown.clone()));
    }
    Ok(proxy::run(config, client, shutdown).await?)
}

/// The namespace of a node that `portolan up` made here, else that of this process.
pub fn node_namespace(node: Option<&str>, data_dir: &std::path::Path) -> Result<NetNs> {
    let layout = Layout::new(data_dir)?;
    let record = layout.read().unwrap_or_default().filter(|record| record.uplink.is_some());
    let mut nodes = record.iter().flat_map(|record| &record.nodes);
    let found = nodes.find(|of_record| node.is_none_or(|node| node == of_record.name));
    match found {
        Some(node) => Ok(NetNs::open(layout.netns(&node.name))?),
        None => Ok(NetNs::current()?),
    }
}
