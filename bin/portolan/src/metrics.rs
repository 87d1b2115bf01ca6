//! `/metrics` and `/healthz` for components that register what they count and leave it to us to show it.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::Router;
use axum::routing::get;
use linux::NetNs;
use telemetry::Registry;
use tokio_util::sync::CancellationToken;

/// Serves at `address` of `namespace` until `shutdown`.
pub async fn serve(
    namespace: &NetNs,
    address: SocketAddr,
    registry: Registry,
    shutdown: CancellationToken,
) -> Result<()> {
    let listener = namespace.run(|| std::net::TcpListener::bind(address))?;
    let listener = listener.with_context(|| format!("cannot listen on {address} for metrics"))?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let scrape = move || {
        let scrape = registry.scrape();
        async move { ([("content-type", scrape.content_type)], scrape.body) }
    };
    let router = Router::new().route("/metrics", get(scrape)).route("/healthz", get(|| async { "ok" }));
    tokio::spawn(async move {
        let serving = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
        if let Err(error) = serving.await {
            tracing::error!(%error, "metrics are not served any more");
        }
    });
    Ok(())
}
