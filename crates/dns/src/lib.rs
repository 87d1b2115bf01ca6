//! Cluster DNS, in place of CoreDNS: names of Services and pods by the Kubernetes DNS specification 1.1, everything else forwarded.
//!
//! `zone` is pure: objects in, an immutable indexed zone out, a question answered. `observe` swaps a new zone in for each change.
//! `respond` turns a message into a message, `serve` owns the sockets, `outside` asks the resolvers outside, `search` walks search lists on
//! behalf of pods.
#![forbid(unsafe_code)]

pub mod explain;
mod http;
pub mod keep;
mod metrics;
mod observe;
mod outside;
mod respond;
pub mod search;
mod serve;
pub mod wire;
pub mod zone;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use client::drain::{Acknowledger, End, acknowledge};
use linux::NetNs;
use telemetry::Registry;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use http::HttpAddresses;
pub use keep::Keep;
pub use outside::{Stub, UpstreamSource, parse_server, search_domains};
pub use respond::answer_message;
use wire::name::WireName;
use zone::Zone;

/// What a DNS server is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Such as `cluster.local`.
    pub cluster_domain: String,
    /// Where to listen, each address in the network namespace that has it. UDP and TCP.
    pub listen: Vec<(NetNs, SocketAddr)>,
    /// UDP sockets an address, each with a thread of its own.
    pub threads: usize,
    /// Resolvers for names that are not the cluster's, asked from the process's own namespace.
    pub upstream: UpstreamSource,
    /// Domains with resolvers of their own.
    pub stubs: Vec<Stub>,
    /// Time to live of the cluster's own records.
    pub ttl: Duration,
    /// The longest that an answer from outside is kept.
    pub cache: Duration,
    /// Search on behalf of pods; their nodes' own search domains come with it.
    pub search: Option<Vec<WireName>>,
    pub http: HttpAddresses,
    /// A log line for each question.
    pub log_queries: bool,
    /// Keeps the sockets over a restart.
    pub keep: Option<Keep>,
    /// By what name it says up to which slice revision its answers are.
    pub acknowledger: Option<Acknowledger>,
}

/// How a DNS server acknowledges slices.
pub fn acknowledger(name: impl Into<String>) -> Acknowledger {
    Acknowledger { name: name.into(), follows: observe::SERVICE_NAME.to_owned(), node: None, end: End::Silence }
}

impl Config {
    /// The specification's 5 seconds to live, the machine's own resolvers, and no more than names are asked for.
    pub fn new(cluster_domain: &str) -> Self {
        Config {
            cluster_domain: cluster_domain.to_owned(),
            listen: Vec::new(),
            threads: 1,
            upstream: UpstreamSource::File("/etc/resolv.conf".into()),
            stubs: Vec::new(),
            ttl: Duration::from_secs(5),
            cache: Duration::from_secs(30),
            search: None,
            http: HttpAddresses::default(),
            log_queries: false,
            keep: None,
            acknowledger: None,
        }
    }
}

/// Why a DNS server did not start or cannot go on.
#[derive(Debug, Error)]
pub enum Error {
    #[error("cluster domain `{domain}` is not a DNS name")]
    Domain { domain: String },
    #[error("cannot listen for DNS on {address}\n  hint: `ss -lnup` shows who does")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot listen for HTTP on {address}\n  hint: `ss -lntp` shows who does")]
    ListenHttp { address: SocketAddr, source: std::io::Error },
    #[error("cannot start to serve DNS")]
    Start(#[source] std::io::Error),
    #[error(transparent)]
    Namespace(#[from] linux::Error),
}

/// The zone that answers now; a change swaps in the next one.
pub(crate) type CurrentZone = Arc<ArcSwap<Zone>>;

/// A server whose sockets are open.
#[derive(Debug)]
pub struct Server {
    config: Config,
    domain: WireName,
    sockets: Vec<serve::Sockets>,
    addresses: Vec<SocketAddr>,
    /// Some sockets were an earlier server's: questions may be waiting in them.
    taken_over: bool,
    held: Option<keep::Held>,
}

/// Questions that wait from before a restart are answered when the names are known again, and not much later in any case.
const WAIT_FOR_NAMES: Duration = Duration::from_secs(2);

impl Server {
    /// Opens the sockets. From here on questions wait in them, and none is lost.
    ///
    /// # Errors
    /// When the domain is no name or an address cannot be listened on.
    pub fn open(config: Config) -> Result<Self, Error> {
        let domain = wire::name::parse(&config.cluster_domain).filter(|domain| domain.len() > 1);
        let domain = domain.ok_or_else(|| Error::Domain { domain: config.cluster_domain.clone() })?;
        let mut left = config.keep.as_ref().map(Keep::take).unwrap_or_default();
        let (mut sockets, mut addresses, mut taken_over) = (Vec::new(), Vec::new(), false);
        for (number, (namespace, address)) in config.listen.iter().enumerate() {
            let adopted = serve::Sockets::adopt(&mut left, number, *address, config.threads);
            taken_over |= adopted.is_some();
            let open = match adopted {
                Some(open) => open,
                None => serve::open(namespace, *address, config.threads)?,
            };
            addresses.push(open.tcp.local_addr().map_err(Error::Start)?);
            sockets.push(open);
        }
        let labelled: Vec<_> = sockets.iter().enumerate().flat_map(|(number, open)| open.labelled(number)).collect();
        let held = config.keep.as_ref().and_then(|keep| keep::kept_or_not(keep.hold(&labelled)));
        drop(labelled);
        Ok(Server { config, domain, sockets, addresses, taken_over, held })
    }

    /// The addresses that are listened on, with the ports that they got.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `shutdown`. Until the first full view of the cluster, its names are answered SERVFAIL, never NXDOMAIN. Faults of the
    /// API server are ridden out with what was seen last.
    ///
    /// # Errors
    /// When an HTTP address cannot be listened on, or a thread cannot be started.
    pub async fn run(self, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
        let Server { config, domain, sockets, addresses, taken_over, held } = self;
        let ttl = u32::try_from(config.ttl.as_secs()).unwrap_or(5);
        let zone: CurrentZone = Arc::new(ArcSwap::from_pointee(Zone::new(domain, ttl, first_serial())));
        let server =
            config.listen.first().map_or_else(String::new, |(_, address)| format!("dns://:{}", address.port()));
        let metrics = Arc::new(metrics::Metrics::new(server));
        let registry = Registry::default();
        registry.register(|registry| registry.register_collector(Box::new(metrics::Scraped(Arc::clone(&metrics)))));
        let outside = Arc::new(outside::Outside::new(config.cache, Arc::clone(&metrics)));
        let (ready, is_ready) = watch::channel(false);
        let told =
            http::Told { registry, metrics: Arc::clone(&metrics), outside: Arc::clone(&outside), ready: is_ready };
        http::serve(&config.http, told, &shutdown).await?;
        let resolvers =
            Arc::clone(&outside).follow_resolvers(config.upstream, config.stubs, addresses, shutdown.clone());
        tokio::spawn(resolvers);
        let responder = respond::Responder::new(Arc::clone(&zone), outside, Arc::clone(&metrics));
        let service = serve::Service {
            responder: Arc::new(responder),
            metrics: Arc::clone(&metrics),
            log_queries: config.log_queries,
            shutdown: shutdown.clone(),
        };
        let (applied, is_applied) = watch::channel(0);
        // Its last word comes after the last answer.
        let answered = CancellationToken::new();
        let speaks = |who| acknowledge(who, client.clone(), is_applied, |revision| *revision, answered.clone());
        let acknowledging = config.acknowledger.map(|who| tokio::spawn(speaks(who)));
        let answered = answered.drop_guard();
        let watching = observe::Watching { search: config.search, metrics, ready: ready.clone(), applied };
        let following = tokio::spawn(async move { observe::follow(&client, zone, watching, shutdown).await });
        if taken_over {
            let _ = tokio::time::timeout(WAIT_FOR_NAMES, ready.subscribe().wait_for(|ready| *ready)).await;
        }
        let mut threads = Vec::new();
        for sockets in sockets {
            threads.extend(serve::serve(sockets, held.is_some(), &service).map_err(Error::Start)?);
        }
        // A panic there has been told of; there is nothing more to follow.
        let _ = following.await;
        // What had arrived is still answered; a thread that panicked has said so.
        let _ = tokio::task::spawn_blocking(|| threads.into_iter().for_each(|thread| drop(thread.join()))).await;
        drop(held);
        drop(answered);
        if let Some(acknowledging) = acknowledging {
            let _ = acknowledging.await;
        }
        Ok(())
    }
}

/// Opens the sockets and serves.
///
/// # Errors
/// As [`Server::open`] and [`Server::run`].
pub async fn run(config: Config, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
    Server::open(config)?.run(client, shutdown).await
}

/// Later than that of any earlier run, as secondaries would want it (RFC 1912, 2.2).
fn first_serial() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // RFC 1982: serials wrap.
    since.as_secs() as u32
}

/// Where the machine's own resolvers and search domains are written.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The machine's own search domains.
pub fn machine_search_domains(path: &PathBuf) -> Vec<WireName> {
    search_domains(&std::fs::read_to_string(path).unwrap_or_default())
}
