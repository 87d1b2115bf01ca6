//! Ingress: HTTP from outside to Services, in place of an ingress controller.
//!
//! `routes` is pure: objects in, an immutable routing table out. `observe` swaps a new table in for each change; `serve` passes requests
//! on by the table that is there, on threads of its own; `tls` does the same for certificates. `status` writes back where an Ingress is
//! reached, and what of it is not served is told in Events.
#![forbid(unsafe_code)]

mod log;
mod metrics;
mod names;
mod observe;
pub mod routes;
mod serve;
mod status;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use client::drain::{Acknowledger, End, acknowledge};
use ipnet::IpNet;
use linux::NetNs;
use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use routes::{ClassRule, Model, Table};
use serve::{BackendTls, Bound, Door, Patience, Serves, Shared, Workers, bind};

/// The name that our IngressClass has, and that the old annotation may say.
pub const CLASS: &str = "portolan";
/// `spec.controller` of our IngressClass.
pub const CONTROLLER: &str = "portolan.dev/ingress";

/// What an ingress is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// IngressClasses of this controller are ours.
    pub controller: String,
    /// The class that the old annotation `kubernetes.io/ingress.class` means by this name is ours too.
    pub class: String,
    /// Below it names are Services, for ExternalName.
    pub cluster_domain: String,
    /// Where plain HTTP is served, each address in the network namespace that has it.
    pub http: Vec<(NetNs, SocketAddr)>,
    /// Where HTTPS is.
    pub https: Vec<(NetNs, SocketAddr)>,
    /// Where Services are served by their names, `<service>.<namespace>.localhost`; the machine's loopback.
    pub names: Vec<(NetNs, SocketAddr)>,
    /// What is written to the status of Ingresses.
    pub publish: Vec<IpAddr>,
    /// Proxies before us whose `X-Forwarded-*` are believed.
    pub trusted: Vec<IpNet>,
    /// `-` is the standard output.
    pub access_log: Option<PathBuf>,
    /// Threads that serve.
    pub workers: usize,
    pub max_connections: usize,
    /// For a whole request head.
    pub head_timeout: Duration,
    /// For a connection without a request.
    pub idle_timeout: Duration,
    /// For the next bytes from a client, or for it to take the next of ours.
    pub client_timeout: Duration,
    /// How long requests may go on after the end was asked for.
    pub drain: Duration,
    pub registry: telemetry::Registry,
    /// By what name it says up to which slice revision requests go.
    pub acknowledger: Option<Acknowledger>,
}

/// How an ingress acknowledges slices.
pub fn acknowledger(name: impl Into<String>) -> Acknowledger {
    Acknowledger { name: name.into(), follows: String::new(), node: None, end: End::Silence }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            controller: CONTROLLER.to_owned(),
            class: CLASS.to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            http: Vec::new(),
            https: Vec::new(),
            names: Vec::new(),
            publish: Vec::new(),
            trusted: Vec::new(),
            access_log: None,
            workers: std::thread::available_parallelism().map_or(2, usize::from),
            max_connections: 16_384,
            head_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            client_timeout: Duration::from_secs(60),
            drain: Duration::from_secs(3),
            registry: telemetry::Registry::default(),
            acknowledger: None,
        }
    }
}

/// Why an ingress did not start.
#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot open the access log `{path}`")]
    AccessLog { path: PathBuf, source: std::io::Error },
    #[error("cannot start the threads that serve")]
    Start(#[source] std::io::Error),
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    #[error("cannot make the default certificate")]
    SelfSigned(#[source] rcgen::Error),
    #[error("cannot use the default certificate's key")]
    SelfSignedKey,
    #[error(transparent)]
    Namespace(#[from] linux::Error),
}

/// An ingress whose sockets are open.
#[derive(Debug)]
pub struct Ingress {
    config: Config,
    bound: Vec<Bound>,
    shared: Arc<Shared>,
    resolver: tls::Resolver,
    refused: Vec<Error>,
}

impl Ingress {
    /// Opens all sockets. One that cannot be opened is told by [`Ingress::refused`] and is no reason to do without the others.
    ///
    /// # Errors
    /// When TLS, the access log or a namespace cannot be used.
    pub fn open(config: Config) -> Result<Self, Error> {
        let (mut bound, mut refused) = (Vec::new(), Vec::new());
        let doors = [
            (&config.http, Serves::Routes, false),
            (&config.https, Serves::Routes, true),
            (&config.names, Serves::Names, false),
        ];
        for (addresses, serves, tls) in doors {
            for (namespace, address) in addresses {
                match bind(namespace, *address, Door { serves, tls, port: address.port() }) {
                    Ok(open) => bound.push(open),
                    Err(error) => refused.push(error),
                }
            }
        }
        let table: Arc<ArcSwap<Table>> = Arc::default();
        let metrics = metrics::Metrics::register(&config.registry, &table);
        let log = config.access_log.as_ref().map(|path| log::AccessLog::open(path, metrics.log_lines_lost.clone()));
        let resolver = tls::Resolver::new()?;
        let shared = Arc::new(Shared {
            table,
            server_tls: tls::server_config(resolver.clone())?,
            backend_tls: BackendTls { http1: tls::backend_config(b"http/1.1")?, http2: tls::backend_config(b"h2")? },
            metrics,
            log: log.transpose()?,
            patience: Patience {
                head: config.head_timeout,
                idle: config.idle_timeout,
                body: config.client_timeout,
                handshake: config.head_timeout.min(Duration::from_secs(10)),
            },
            trusted: config.trusted.clone(),
            https_port: bound.iter().find(|bound| bound.is_tls()).map_or(443, |bound| bound.address.port()),
            max_connections: config.max_connections,
            started: Instant::now(),
            ending: AtomicBool::new(false),
            draining: CancellationToken::new(),
            drained: CancellationToken::new(),
        });
        Ok(Ingress { config, bound, shared, resolver, refused })
    }

    /// Sockets that could not be opened.
    pub fn refused(&self) -> &[Error] {
        &self.refused
    }

    /// Where it listens, in the order of the configuration: HTTP, HTTPS, names.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bound.iter().map(|bound| bound.address).collect()
    }

    /// Serves until `shutdown`. Connections that are made before the cluster is known wait in the kernel until it is.
    ///
    /// # Errors
    /// When threads cannot be started. Faults of the API server are ridden out.
    pub async fn run(self, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
        let Ingress { config, bound, shared, resolver, .. } = self;
        let (workers, threads) = Workers::start(config.workers, &shared).map_err(Error::Start)?;
        let rule = ClassRule { controller: config.controller.clone(), name: config.class.clone() };
        let model = Model::new(rule, !config.names.is_empty(), &config.cluster_domain);
        let status = status::Status::new(client.clone(), config.publish.clone());
        let (applied, is_applied) = tokio::sync::watch::channel(0);
        // Its last word comes after the last request.
        let served = CancellationToken::new();
        let speaks = |who| acknowledge(who, client.clone(), is_applied, |revision| *revision, served.clone());
        let acknowledging = config.acknowledger.map(|who| tokio::spawn(speaks(who)));
        let served = served.drop_guard();
        let status = observe::Told { status, applied };
        let mut observer =
            observe::Observer::start(&client, model, &shared, resolver, workers.clone(), status, &shutdown);
        if observer.complete(&shutdown).await {
            info!(listeners = bound.len(), "serving");
            for bound in bound {
                let (address, accepting) = (bound.address, bound.accept(workers.clone(), shutdown.clone()));
                tokio::spawn(async move {
                    if let Err(error) = accepting.await {
                        error!(%address, %error, "stopped accepting");
                    }
                });
            }
            observer.follow(&shutdown).await;
        }
        drain(&shared, config.drain, threads).await;
        drop(served);
        if let Some(acknowledging) = acknowledging {
            let _ = acknowledging.await;
        }
        Ok(())
    }
}

/// Lets requests end, but not for ever.
async fn drain(shared: &Shared, patience: Duration, threads: Vec<std::thread::JoinHandle<()>>) {
    shared.ending.store(true, Ordering::SeqCst);
    shared.draining.cancel();
    let ended = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
    let drained = shared.drained.clone();
    let bound = tokio::spawn(async move {
        tokio::time::sleep(patience).await;
        drained.cancel();
    });
    let _ = ended.await;
    bound.abort();
}
