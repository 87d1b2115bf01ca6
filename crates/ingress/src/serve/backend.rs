//! The way to an endpoint: what is spoken with it, the connections that are kept, and the sending of one request over one of them.
//!
//! Connections belong to a worker and are never shared between threads. One that fails before the request was sent gives the request
//! back; so does one that broke before the first byte of the response, if the request may be sent twice (RFC 9110, 9.2.2).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use fnv::FnvHashMap;
use http::{Request, Response};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::body::{Body, Progress, RequestBody};
use super::http1::Http1;
use super::http2::Http2;
use crate::routes::{BackendProtocol, Endpoint, Load, Protocol, Route};

/// How long a connection is kept without a request.
const KEEP: Duration = Duration::from_secs(50);
/// Connections kept for one endpoint by one worker.
const KEPT: usize = 256;

/// What is spoken with a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Speaks {
    pub http2: bool,
    pub tls: bool,
}

impl Speaks {
    /// The annotation says so, or else the Service's port does.
    pub fn of(route: &Route) -> Self {
        let (http2, tls) = match (route.options.protocol, route.backend.set().protocol) {
            (Some(BackendProtocol::Http), _) | (None, Protocol::Http) => (false, false),
            (Some(BackendProtocol::Https), _) | (None, Protocol::Https) => (false, true),
            (Some(BackendProtocol::Grpc), _) | (None, Protocol::H2c) => (true, false),
            (Some(BackendProtocol::Grpcs), _) => (true, true),
        };
        Speaks { http2, tls }
    }
}

/// TLS towards backends, by what is to be agreed on.
#[derive(Debug, Clone)]
pub(crate) struct BackendTls {
    pub http1: Arc<ClientConfig>,
    pub http2: Arc<ClientConfig>,
}

/// Why there was no response.
#[derive(Debug)]
pub(crate) struct Failure {
    pub reason: Reason,
    /// The request, if it may be sent again.
    pub request: Option<Request<RequestBody>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// No connection could be made.
    Connect,
    ConnectTimeout,
    /// A connection that was kept had ended.
    Stale,
    /// The backend broke off or sent what is no response.
    Broken,
    /// The backend was silent for too long.
    Timeout,
}

impl Failure {
    pub fn new(reason: Reason, request: Option<Request<RequestBody>>) -> Box<Self> {
        Box::new(Failure { reason, request })
    }
}

/// A connection to an endpoint.
#[derive(Debug)]
pub(crate) enum Upstream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Within a cluster a connection is made within a few milliseconds or, because a pod or its node has gone without a word, not at all. Where
/// another endpoint can be asked, this one gets so much and not the whole of the route's time.
const PATIENCE: Duration = Duration::from_millis(300);

/// Connects to the endpoint of `load`.
pub(crate) async fn connect(load: &Load, route: &Route, speaks: Speaks, tls: &BackendTls) -> Result<Upstream, Reason> {
    let whole = route.options.connect_timeout;
    let patience = if load.has_others() { whole.min(PATIENCE) } else { whole };
    let connected = tokio::time::timeout(whole, async {
        let stream = tokio::time::timeout(patience, TcpStream::connect(load.endpoint().address)).await??;
        stream.set_nodelay(true)?;
        if !speaks.tls {
            return Ok::<_, io::Error>(Upstream::Plain(stream));
        }
        let config = if speaks.http2 { &tls.http2 } else { &tls.http1 };
        // The Service's name: what a certificate for use inside the cluster would be for. An alias has one of its own.
        let own = || format!("{}.{}.svc", route.backend.service.name, route.backend.service.namespace);
        let name = route.backend.set().host.as_deref().map_or_else(own, str::to_owned);
        let address = ServerName::IpAddress(load.endpoint().address.ip().into());
        let name = ServerName::try_from(name).unwrap_or(address);
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
        Ok(Upstream::Tls(Box::new(stream)))
    });
    match connected.await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() != io::ErrorKind::TimedOut => Err(Reason::Connect),
        Ok(Err(_)) | Err(_) => Err(Reason::ConnectTimeout),
    }
}

/// The connections that one worker keeps.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    // Addresses of endpoints come from the cluster, not from clients: no hash needs to withstand an attack.
    http1: FnvHashMap<(SocketAddr, bool), Vec<Kept<Box<Http1>>>>,
    http2: FnvHashMap<(SocketAddr, bool), Vec<Kept<Rc<Http2>>>>,
}

#[derive(Debug)]
struct Kept<C> {
    connection: C,
    endpoint: Arc<Endpoint>,
    since: Instant,
}

impl<C> Kept<C> {
    fn new(connection: C, load: &Load) -> Self {
        Kept { connection, endpoint: Arc::clone(load.endpoint()), since: Instant::now() }
    }
}

impl Pool {
    /// The connection that was used last and is still open.
    pub fn take(&mut self, load: &Load, tls: bool) -> Option<Box<Http1>> {
        let kept = self.http1.get_mut(&(load.endpoint().address, tls))?;
        while let Some(mut last) = kept.pop() {
            if last.connection.is_usable() {
                return Some(last.connection);
            }
        }
        None
    }

    pub fn keep(&mut self, load: &Load, tls: bool, connection: Box<Http1>) {
        if load.endpoint().is_retired() {
            return;
        }
        let kept = self.http1.entry((load.endpoint().address, tls)).or_default();
        if kept.len() < KEPT {
            kept.push(Kept::new(connection, load));
        }
    }

    /// The HTTP/2 connection with the most room.
    pub fn share(&mut self, load: &Load, tls: bool) -> Option<Rc<Http2>> {
        let shared = self.http2.get_mut(&(load.endpoint().address, tls))?;
        shared.retain(|kept| kept.connection.is_open());
        let with_room = shared.iter().map(|kept| &kept.connection).filter(|connection| connection.has_room());
        with_room.min_by_key(|connection| connection.streams()).cloned()
    }

    pub fn add(&mut self, load: &Load, tls: bool, connection: &Rc<Http2>) {
        let kept = Kept::new(Rc::clone(connection), load);
        self.http2.entry((load.endpoint().address, tls)).or_default().push(kept);
    }

    /// Lets go of what is idle for too long, has ended, or leads to an endpoint that has left.
    pub fn sweep(&mut self) {
        let now = Instant::now();
        self.http1.retain(|_, kept| {
            kept.retain_mut(|kept| {
                !kept.endpoint.is_retired() && now - kept.since < KEEP && kept.connection.is_usable()
            });
            !kept.is_empty()
        });
        self.http2.retain(|_, shared| {
            // Streams that are on their way keep their connection; it is only not found for new ones.
            shared.retain(|kept| {
                kept.connection.is_open() && !kept.endpoint.is_retired() && !kept.connection.is_idle_for(KEEP)
            });
            !shared.is_empty()
        });
    }
}

/// Sends a request to the endpoint of `load`, over a kept connection unless `fresh`.
pub(crate) async fn send(
    worker: &Rc<super::worker::Worker>,
    route: &Route,
    load: Load,
    request: Request<RequestBody>,
    progress: &Progress,
    fresh: bool,
) -> Result<Response<Body>, Box<Failure>> {
    let speaks = Speaks::of(route);
    if speaks.http2 {
        return Box::pin(super::http2::send(worker, route, load, speaks, request, progress, fresh)).await;
    }
    super::http1::send(worker, route, load, speaks, request, progress, fresh).await
}

impl AsyncRead for Upstream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Upstream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Upstream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

/// Writes that are no longer than this are put together and sent as one: cheaper than to have the kernel gather them.
const GATHERED: usize = 2048;

/// Several slices as one write, if they are short; `write` gets the bytes.
pub(super) fn gather<T>(slices: &[io::IoSlice<'_>], write: impl FnOnce(&[u8]) -> T) -> Option<T> {
    if let [one] = slices {
        return Some(write(one));
    }
    let mut gathered = [0; GATHERED];
    let mut length = 0;
    for slice in slices {
        gathered.get_mut(length..length + slice.len())?.copy_from_slice(slice);
        length += slice.len();
    }
    Some(write(&gathered[..length]))
}

impl AsyncWrite for Upstream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Upstream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Upstream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Upstream::Plain(stream) = &mut *self
            && let Some(written) = gather(slices, |bytes| Pin::new(stream).poll_write(cx, bytes))
        {
            return written;
        }
        match &mut *self {
            Upstream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Upstream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Upstream::Plain(stream) => stream.is_write_vectored(),
            Upstream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Upstream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Upstream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Upstream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Upstream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
