//! `/health`, `/ready` and `/metrics`, each on an address of its own as CoreDNS has them.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use linux::NetNs;
use telemetry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::Error;
use crate::metrics::Metrics;
use crate::outside::Outside;

/// Where each of them listens; none where it is not wanted.
#[derive(Debug, Clone, Default)]
pub struct HttpAddresses {
    /// The network namespace that has them; none for the process's own.
    pub namespace: Option<NetNs>,
    pub health: Option<SocketAddr>,
    pub ready: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
}

/// What the endpoints tell about.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) registry: Registry,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) outside: Arc<Outside>,
    pub(crate) ready: watch::Receiver<bool>,
}

/// Starts those that are wanted.
pub(crate) async fn serve(addresses: &HttpAddresses, told: Told, shutdown: &CancellationToken) -> Result<(), Error> {
    let namespace = addresses.namespace.as_ref();
    if let Some(address) = addresses.health {
        start(namespace, address, Router::new().route("/health", get(|| async { "OK" })), shutdown).await?;
    }
    if let Some(address) = addresses.ready {
        let ready = told.ready.clone();
        let answer = move || {
            let ready = *ready.borrow();
            // CoreDNS names the plugins that are not ready.
            async move { if ready { (StatusCode::OK, "OK") } else { (StatusCode::SERVICE_UNAVAILABLE, "kubernetes") } }
        };
        start(namespace, address, Router::new().route("/ready", get(answer)), shutdown).await?;
    }
    if let Some(address) = addresses.metrics {
        let answer = move || {
            told.metrics.cache_holds(told.outside.cache_entries());
            let scrape = told.registry.scrape();
            async move { ([(header::CONTENT_TYPE, scrape.content_type)], scrape.body) }
        };
        start(namespace, address, Router::new().route("/metrics", get(answer)), shutdown).await?;
    }
    Ok(())
}

async fn start(
    namespace: Option<&NetNs>,
    address: SocketAddr,
    router: Router,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let bind = || TcpListener::bind(address);
    let bound = match namespace {
        Some(namespace) => namespace.run(bind)?,
        None => bind(),
    };
    let listener = bound.and_then(|listener| {
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    });
    let listener = listener.map_err(|source| Error::ListenHttp { address, source })?;
    let stop = shutdown.clone().cancelled_owned();
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
            error!(%address, %error, "stopped serving HTTP");
        }
    });
    Ok(())
}
