//! HTTP/2 towards backends (gRPC, h2c): many requests on a connection, which a task of its own drives.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response, Uri, Version};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;

use super::backend::{Failure, Reason, Speaks, connect};
use super::body::{Body, Progress, RequestBody};
use super::http1::{copy, repeatable};
use super::worker::{LocalExecutor, Worker};
use crate::routes::{Load, Route};

/// Streams on one connection before another is made; servers commonly allow 100 or more (RFC 9113, 6.5.2).
const STREAMS: u32 = 96;
const WINDOW: u32 = 1 << 20;
const PING: Duration = Duration::from_secs(30);

/// A connection that speaks HTTP/2.
#[derive(Debug)]
pub(crate) struct Http2 {
    sender: SendRequest<RequestBody>,
    streams: Cell<u32>,
    used: Cell<Instant>,
}

/// A stream on its way.
#[derive(Debug)]
pub(crate) struct Stream(Rc<Http2>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
        self.0.used.set(Instant::now());
    }
}

impl Http2 {
    fn stream(self: &Rc<Self>) -> Stream {
        self.streams.set(self.streams.get() + 1);
        Stream(Rc::clone(self))
    }

    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    pub fn has_room(&self) -> bool {
        self.streams.get() < STREAMS
    }

    pub fn streams(&self) -> u32 {
        self.streams.get()
    }

    pub fn is_idle_for(&self, time: Duration) -> bool {
        self.streams.get() == 0 && self.used.get().elapsed() > time
    }
}

async fn open(worker: &Rc<Worker>, route: &Route, load: &Load, speaks: Speaks) -> Result<Rc<Http2>, Reason> {
    let stream = connect(load, route, speaks, &worker.shared.backend_tls).await?;
    let mut builder = Builder::new(LocalExecutor);
    builder.initial_stream_window_size(WINDOW).initial_connection_window_size(4 * WINDOW);
    builder.timer(TokioTimer::new()).keep_alive_interval(PING);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|_| Reason::Connect)?;
    tokio::task::spawn_local(connection);
    let opened = Rc::new(Http2 { sender, streams: Cell::new(0), used: Cell::new(Instant::now()) });
    worker.pool.borrow_mut().add(load, speaks.tls, &opened);
    Ok(opened)
}

pub(crate) async fn send(
    worker: &Rc<Worker>,
    route: &Route,
    load: Load,
    speaks: Speaks,
    mut request: Request<RequestBody>,
    progress: &Progress,
    fresh: bool,
) -> Result<Response<Body>, Box<Failure>> {
    let shared = if fresh { None } else { worker.pool.borrow_mut().share(&load, speaks.tls) };
    let reused = shared.is_some();
    let connection = match shared {
        Some(shared) => shared,
        None => match open(worker, route, &load, speaks).await {
            Ok(opened) => opened,
            Err(reason) => return Err(Failure::new(reason, Some(request))),
        },
    };
    absolute_form(&mut request, speaks.tls);
    let again = repeatable(&request).then(|| copy(&request));
    let stream = connection.stream();
    let mut sender = connection.sender.clone();
    let mut sending = std::pin::pin!(sender.try_send_request(request));
    progress.last.set(Instant::now());
    let answered = loop {
        // While it is the client's turn, the request's body watches.
        let from = if progress.on_client.get() { Instant::now() } else { progress.last.get() };
        match tokio::time::timeout_at(from + route.options.read_timeout, sending.as_mut()).await {
            Ok(answered) => break answered,
            Err(_) if progress.on_client.get() || progress.last.get() > from => {}
            Err(_) => return Err(Failure::new(Reason::Timeout, None)),
        }
    };
    match answered {
        Ok(response) => {
            Ok(response.map(|incoming| Body::streaming(incoming, route.options.read_timeout, load, Some(stream))))
        }
        Err(mut error) => match error.take_message() {
            Some(request) => Err(Failure::new(if reused { Reason::Stale } else { Reason::Connect }, Some(request))),
            None if progress.fault.get().is_some() => Err(Failure::new(Reason::Broken, None)),
            None => Err(Failure::new(if reused && again.is_some() { Reason::Stale } else { Reason::Broken }, again)),
        },
    }
}

/// What HTTP/2 sends as `:scheme` and `:authority`.
fn absolute_form(request: &mut Request<RequestBody>, tls: bool) {
    *request.version_mut() = Version::HTTP_2;
    let host = request.headers_mut().remove(http::header::HOST);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if let Some(host) = host.and_then(|host| http::uri::Authority::try_from(host.as_bytes()).ok()) {
        parts.authority = Some(host);
    }
    if parts.authority.is_some() {
        parts.scheme = Some(if tls { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP });
    }
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
}
