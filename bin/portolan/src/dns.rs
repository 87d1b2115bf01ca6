//! `portolan dns`: cluster DNS alone, in place of CoreDNS on any cluster.

use std::ffi::OsString;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use ::dns::{HttpAddresses, Keep, Server, Stub, UpstreamSource};
use anyhow::{Context, Result};
use clap::Args;
use linux::NetNs;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::acknowledge::AcknowledgeAs;
use crate::host;

/// The flags; their defaults are what CoreDNS does with kubeadm's Corefile, but for the time to live, which is the specification's.
#[derive(Debug, Clone, Args)]
pub struct DnsOptions {
    /// Cluster to serve [default: KUBECONFIG, ~/.kube/config, or the ServiceAccount of the pod]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Address to answer on, UDP and TCP; may be given several times
    #[arg(long, value_name = "ADDRESS", default_values = ["0.0.0.0:53", "[::]:53"], value_parser = ::dns::parse_server)]
    listen: Vec<SocketAddr>,
    /// UDP sockets for each address, each with a thread [default: one for each CPU, four at most]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Domain of the cluster's names
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Seconds that the cluster's records live
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    ttl: u32,
    /// Resolver for names outside; may be given several times [default: those of --resolv-conf]
    #[arg(long, value_name = "ADDRESS", value_parser = ::dns::parse_server)]
    upstream: Vec<SocketAddr>,
    /// File that names the resolvers for names outside; followed when it changes
    #[arg(long, value_name = "FILE", default_value = ::dns::RESOLV_CONF)]
    resolv_conf: PathBuf,
    /// Domain with resolvers of its own, as DOMAIN=ADDRESS[,ADDRESS…]; may be given several times
    #[arg(long, value_name = "STUB")]
    stub: Vec<Stub>,
    /// Seconds that answers from outside are kept at most
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    cache: u64,
    /// Walk the search lists of pods for them, as CoreDNS' autopath does; the nodes' own search domains are taken from --resolv-conf
    #[arg(long)]
    search: bool,
    /// Address of `/health`, or `off`
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    health: String,
    /// Address of `/ready`, or `off`
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8181")]
    ready: String,
    /// Address of `/metrics`, or `off`
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9153")]
    metrics: String,
    /// Log every question
    #[arg(long)]
    log_queries: bool,
    /// Socket through which a restart takes over what its predecessor listened on, so that no question is lost; or `off`
    #[arg(long, value_name = "FILE", default_value = "/run/portolan-dns.sock")]
    handover: String,
    #[command(flatten)]
    acknowledge: AcknowledgeAs,
}

/// The word that makes this program a keeper of sockets. It is dispatched before anything else, because a keeper stays small.
pub const KEEPER: &str = "dns-keeper";

/// Runs the keeper.
pub fn keep_sockets(path: Option<OsString>) -> ExitCode {
    match path.map(|path| ::dns::keep::serve(path.as_ref())) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(_)) | None => ExitCode::FAILURE,
    }
}

/// A keeper at that path, run by this program.
pub fn keeper_at(path: PathBuf) -> Keep {
    Keep { path, command: vec!["/proc/self/exe".to_owned(), KEEPER.to_owned()] }
}

pub fn run(options: &DnsOptions) -> Result<()> {
    telemetry::init_logs(telemetry::LogFormat::Text, "info", None);
    // Questions are answered by threads of their own; the runtime only watches the cluster and asks outside.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("cannot start an async runtime")?.block_on(serve(options))
}

async fn serve(options: &DnsOptions) -> Result<()> {
    let server = Server::open(config(options)?)?;
    let client = client::from_kubeconfig(options.kubeconfig.as_deref(), options.context.as_deref()).await?;
    let shutdown = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
    });
    Ok(server.run(client, shutdown).await?)
}

fn config(options: &DnsOptions) -> Result<::dns::Config> {
    let here = NetNs::current()?;
    let mut config = ::dns::Config::new(&options.cluster_domain);
    // Every address of a family that this machine does not have is no address.
    let ipv6 = Path::new("/proc/net/if_inet6").exists();
    let listen = options.listen.iter().filter(|address| ipv6 || address.ip() != Ipv6Addr::UNSPECIFIED);
    config.listen = listen.map(|address| (here.clone(), *address)).collect();
    let all = || std::thread::available_parallelism().map_or(1, usize::from).min(4);
    config.threads = options.threads.unwrap_or_else(all);
    config.upstream = if options.upstream.is_empty() {
        UpstreamSource::File(options.resolv_conf.clone())
    } else {
        UpstreamSource::Servers(options.upstream.clone())
    };
    config.stubs = options.stub.clone();
    config.ttl = Duration::from_secs(options.ttl.into());
    config.cache = Duration::from_secs(options.cache);
    config.search = options.search.then(|| ::dns::machine_search_domains(&options.resolv_conf));
    config.log_queries = options.log_queries;
    config.keep = (options.handover != "off").then(|| keeper_at(options.handover.clone().into()));
    config.acknowledger = options.acknowledge.name("dns", host::name)?.map(::dns::acknowledger);
    config.http = HttpAddresses {
        namespace: None,
        health: http_address("--health", &options.health)?,
        ready: http_address("--ready", &options.ready)?,
        metrics: http_address("--metrics", &options.metrics)?,
    };
    Ok(config)
}

fn http_address(flag: &str, text: &str) -> Result<Option<SocketAddr>> {
    if text == "off" {
        return Ok(None);
    }
    // As CoreDNS writes it: a port alone means every address.
    let text = text.strip_prefix(':').map_or_else(|| text.to_owned(), |port| format!("0.0.0.0:{port}"));
    text.parse()
        .map(Some)
        .with_context(|| format!("`{text}` is no address for {flag}\n  hint: such as 127.0.0.1:9153, :9153 or off"))
}
