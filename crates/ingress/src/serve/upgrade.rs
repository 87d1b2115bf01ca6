//! Upgrades (websockets and others): agreed on by client and backend over HTTP/1.1, then bytes both ways until one side ends.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{HeaderMap, Request, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use tracing::debug;

use super::client::Active;
use super::worker::Worker;
use crate::routes::{Load, Place};

/// The protocol that an HTTP/1.1 request asks to go on with. HTTP/2 is not upgraded to (RFC 9113, 3.1): that would let a request past
/// the rules.
pub(crate) fn asked<B>(request: &Request<B>) -> Option<HeaderValue> {
    if request.version() != Version::HTTP_11 || !names_upgrade(request.headers()) {
        return None;
    }
    let protocol = request.headers().get(UPGRADE)?;
    let text = protocol.to_str().ok()?;
    let http2 = text.split(',').any(|one| one.trim().to_ascii_lowercase().starts_with("h2"));
    (!http2 && !text.is_empty()).then(|| protocol.clone())
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// What an upgraded connection holds for as long as it lasts.
pub(crate) struct Tunnel {
    pub load: Load,
    /// The client's connection is in use, however silent it is.
    pub active: Active,
    /// It counts among those of its client.
    pub place: Option<Place>,
    /// The longest silence of both sides.
    pub silence: Option<Duration>,
}

/// Carries bytes both ways once both sides have agreed.
pub(crate) fn join(worker: &Rc<Worker>, client: OnUpgrade, backend: OnUpgrade, tunnel: Tunnel) {
    let worker = Rc::clone(worker);
    let gauge = worker.shared.metrics.tunnels.clone();
    tokio::task::spawn_local(async move {
        let (client, backend) = match tokio::try_join!(client, backend) {
            Ok(both) => both,
            Err(error) => return debug!(%error, "an upgrade came to nothing"),
        };
        tunnel.active.tunnel();
        gauge.inc();
        let (client_read, client_write) = tokio::io::split(TokioIo::new(client));
        let (backend_read, backend_write) = tokio::io::split(TokioIo::new(backend));
        let last = Cell::new(Instant::now());
        let to_backend = carry(client_read, backend_write, &last);
        let to_client = carry(backend_read, client_write, &last);
        tokio::select! {
            // Each side may end its direction and still hear the other.
            _ = async { tokio::join!(to_backend, to_client) } => {}
            () = silent(&last, tunnel.silence) => {}
            () = worker.drained.cancelled() => {}
        }
        gauge.dec();
        drop((tunnel.load, tunnel.active, tunnel.place));
    });
}

/// Ends when nothing was carried either way for so long.
async fn silent(last: &Cell<Instant>, silence: Option<Duration>) {
    let Some(silence) = silence else { return std::future::pending().await };
    while last.get().elapsed() < silence {
        tokio::time::sleep_until(last.get() + silence).await;
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    last: &Cell<Instant>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        last.set(Instant::now());
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&str, &str)], expected: Option<&str>) {
        let mut request = Request::builder().uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let told = asked(&request.body(()).unwrap());
        assert_eq!(told.as_ref().and_then(|value| value.to_str().ok()), expected, "{headers:?}");
    }

    #[test]
    fn an_upgrade_is_asked_for_by_two_headers() {
        check(&[("connection", "Upgrade"), ("upgrade", "websocket")], Some("websocket"));
        check(&[("connection", "keep-alive, upgrade"), ("upgrade", "SPDY/3.1")], Some("SPDY/3.1"));
        check(&[("upgrade", "websocket")], None);
        check(&[("connection", "upgrade")], None);
        check(&[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")], None);
        check(&[("connection", "upgrade"), ("upgrade", "websocket, H2C")], None);
    }
}
