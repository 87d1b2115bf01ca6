//! One client's connection, from its first byte to its last: TLS, which HTTP, requests, and a polite end.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::client::{Client, Door};
use super::downstream::{Downstream, Sniffed};
use super::exchange;
use super::worker::{LocalExecutor, Worker};

/// A request's head may be so large; more is answered 431.
const HEAD: usize = 64 * 1024;
const STREAMS: u32 = 256;
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const PING: Duration = Duration::from_secs(30);

pub(crate) async fn serve(worker: &Rc<Worker>, mut stream: TcpStream, peer: SocketAddr, door: Arc<Door>) {
    let client = Rc::new(Client::new(peer, door));
    let (phase, patience) = (Arc::clone(&client.phase), worker.shared.patience);
    if !client.door.tls {
        let sniffed = tokio::select! {
            biased;
            sniffed = Sniffed::read(&mut stream, &patience) => sniffed,
            // It has asked for nothing yet.
            () = worker.draining.cancelled() => return,
        };
        return match sniffed {
            Ok(sniffed) if sniffed.is_nothing() => {}
            Ok(sniffed) => {
                let http2 = sniffed.is_http2();
                serve_http(worker, client, Downstream::plain(stream, sniffed, phase, patience), http2).await;
            }
            Err(error) => debug!(%peer, %error, "a client was given up before its first request"),
        };
    }
    let acceptor = TlsAcceptor::from(Arc::clone(&worker.shared.server_tls));
    match tokio::time::timeout(patience.handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            serve_http(worker, client, Downstream::tls(stream, phase, patience), http2).await;
        }
        Ok(Err(error)) => {
            worker.shared.metrics.handshake_failures.inc();
            debug!(%peer, %error, "a TLS handshake failed");
        }
        Err(_) => drop(worker.shared.metrics.handshake_failures.inc()),
    }
}

async fn serve_http(worker: &Rc<Worker>, client: Rc<Client>, stream: Downstream, http2: bool) {
    let peer = client.peer;
    let ended =
        if http2 { serve_http2(worker, client, stream).await } else { serve_http1(worker, client, stream).await };
    if let Err(error) = ended {
        debug!(%peer, error = %telemetry::chain(&error), "a connection broke");
    }
}

async fn serve_http1(worker: &Rc<Worker>, client: Rc<Client>, stream: Downstream) -> hyper::Result<()> {
    let shared = Rc::clone(worker);
    let service = service_fn(move |request: Request<Incoming>| {
        let (worker, client) = (Rc::clone(&shared), Rc::clone(&client));
        async move { Ok::<_, Infallible>(exchange::answer(&worker, &client, request).await) }
    });
    let mut builder = http1::Builder::new();
    // A client that has sent its request and closed its side still gets its response.
    builder.half_close(true).max_buf_size(HEAD);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let asked = || worker.shared.ending.load(Ordering::Relaxed);
    if let Some(ended) = until_asked(&worker.draining, asked, connection.as_mut()).await {
        return ended;
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection.as_mut() => ended,
        () = worker.drained.cancelled() => Ok(()),
    }
}

/// Serves until the connection ends, or none once the end was asked for. The token is asked only when it has something to say: it would
/// take a lock each time that the connection is polled.
async fn until_asked<F: Future>(
    token: &CancellationToken,
    asked: impl Fn() -> bool,
    mut connection: Pin<&mut F>,
) -> Option<F::Output> {
    let mut cancelled = pin!(token.cancelled());
    let mut registered = false;
    poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        // A task keeps its waker, so once is enough.
        if !registered || asked() {
            registered = true;
            return cancelled.as_mut().poll(cx).map(|()| None);
        }
        Poll::Pending
    })
    .await
}

async fn serve_http2(worker: &Rc<Worker>, client: Rc<Client>, stream: Downstream) -> hyper::Result<()> {
    let (shared, asked) = (Rc::clone(worker), Rc::clone(&client));
    let service = service_fn(move |request: Request<Incoming>| {
        let (worker, client) = (Rc::clone(&shared), Rc::clone(&asked));
        async move { Ok::<_, Infallible>(exchange::answer(&worker, &client, request).await) }
    });
    client.phase.frames();
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(HEAD).unwrap_or(u32::MAX))
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let end = worker.draining.child_token();
    let idle = worker.shared.patience.idle;
    let _watch =
        AbortOnDropHandle::new(tokio::task::spawn_local(end_when_quiet(Rc::clone(&client), idle, end.clone())));
    let asked = || client.was_quiet() || worker.shared.ending.load(Ordering::Relaxed);
    if let Some(ended) = until_asked(&end, asked, connection.as_mut()).await {
        return ended;
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection.as_mut() => ended,
        () = worker.drained.cancelled() => Ok(()),
    }
}

/// Asks for the connection's end when nothing was asked for so long. A task of its own: beside the connection it would be polled with each
/// of its frames.
async fn end_when_quiet(client: Rc<Client>, patience: Duration, end: CancellationToken) {
    loop {
        match client.quiet_since() {
            Some(since) if since.elapsed() >= patience => {
                client.call_quiet();
                return end.cancel();
            }
            Some(since) => tokio::time::sleep_until(since + patience).await,
            None => tokio::time::sleep(patience).await,
        }
    }
}
