//! HTTP/1.1 towards backends: one request at a time on a connection that the request's own task drives, its bytes by [`super::codec`].
//!
//! hyper's client is a connection that is spawned and a handle that talks to it over a channel, with another channel for the body. Here who
//! waits for the response reads and writes the connection itself, so that a request costs no channel, no copy of its headers, and no
//! task switch. hyper is left what is rare: upgrades.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::backend::{Failure, Reason, Speaks, Upstream, connect};
use super::body::{Body, Progress, RequestBody, ResponseFault, Wait};
use super::codec::{Framing, Head, Malformed, Read, Reading, read_head, write_end, write_frame, write_head};
use super::timer::LazyTimer;
use super::worker::Worker;
use crate::routes::{Load, Route};

/// Read at a time, to begin with.
const READ: usize = 8 * 1024;
/// Read at a time when more keeps coming.
const READ_MOST: usize = 128 * 1024;

/// A connection that speaks HTTP/1.1.
#[derive(Debug)]
pub(crate) struct Http1 {
    stream: Upstream,
    read: BytesMut,
    /// How much is asked for at a time.
    wanted: usize,
    sending: Sending,
    timer: LazyTimer,
}

/// A request on its way out.
#[derive(Debug)]
struct Sending {
    out: Vec<u8>,
    /// How much of `out` has gone.
    gone: usize,
    /// Something has gone since the request began.
    begun: bool,
    /// What is still to come of the body.
    body: Option<RequestBody>,
    framing: Framing,
    /// The backend takes no more; it may have answered all the same.
    broken: bool,
}

enum Failed {
    /// Nothing of it was sent.
    Unsent,
    /// The connection ended before a response.
    Ended,
    /// What came was no response.
    Broken,
    Silent,
}

impl From<Malformed> for Failed {
    fn from(_: Malformed) -> Self {
        Failed::Broken
    }
}

impl Http1 {
    fn new(stream: Upstream) -> Self {
        let sending =
            Sending { out: Vec::new(), gone: 0, begun: false, body: None, framing: Framing::Nothing, broken: false };
        Http1 { stream, read: BytesMut::new(), wanted: READ, sending, timer: LazyTimer::default() }
    }

    /// Whether it is open, and nothing has come that nobody asked for.
    pub fn is_usable(&mut self) -> bool {
        self.read.is_empty() && self.fill(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Sends a request and waits for the head of its response. The body is taken out of the request, unless nothing could be sent.
    async fn exchange(
        &mut self,
        request: &mut Request<RequestBody>,
        route: &Route,
        progress: &Progress,
    ) -> Result<Head, Failed> {
        let to_head = *request.method() == Method::HEAD;
        self.wanted = READ;
        self.sending.begin(request);
        poll_fn(|cx| {
            if !self.sending.broken
                && let Poll::Ready(Err(_)) = self.sending.poll(&mut self.stream, cx)
            {
                if !self.sending.begun {
                    *request.body_mut() = self.sending.body.take().unwrap_or(RequestBody::Empty);
                    return Poll::Ready(Err(Failed::Unsent));
                }
                self.sending.broken = true;
            }
            if progress.fault.get().is_some() {
                return Poll::Ready(Err(Failed::Ended));
            }
            loop {
                if let Some(head) = read_head(&mut self.read, to_head)? {
                    return Poll::Ready(Ok(head));
                }
                match self.fill(cx) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(Ok(_)) if !self.read.is_empty() => return Poll::Ready(Err(Failed::Broken)),
                    Poll::Ready(Ok(_) | Err(_)) => return Poll::Ready(Err(Failed::Ended)),
                    Poll::Pending => break,
                }
            }
            if progress.on_client.get() {
                return Poll::Pending;
            }
            let deadline = progress.last.get() + route.options.read_timeout;
            self.timer.poll(cx, deadline).map(|()| Err(Failed::Silent))
        })
        .await
    }

    /// Reads more; 0 is the end.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read.capacity() - self.read.len() < self.wanted / 2 {
            // What was read before and has been let go of is used again.
            self.read.reserve(self.wanted);
        }
        let room = self.read.capacity() - self.read.len();
        let length = ready!(tokio_util::io::poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.read))?;
        if length == room {
            self.wanted = (self.wanted * 2).min(READ_MOST);
        }
        Poll::Ready(Ok(length))
    }

    /// The request has gone and its response was read: another may follow.
    fn is_between(&self, reading: Reading) -> bool {
        reading == Reading::Done && self.sending.is_done() && self.read.is_empty()
    }
}

impl Sending {
    fn begin(&mut self, request: &mut Request<RequestBody>) {
        let body = std::mem::replace(request.body_mut(), RequestBody::Empty);
        self.framing = match (body.is_empty(), body.size_hint().exact()) {
            (true, _) => Framing::Nothing,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::Chunked,
        };
        (self.gone, self.begun, self.broken) = (0, false, false);
        self.out.clear();
        write_head(request, self.framing, &mut self.out);
        self.body = Some(body).filter(|body| !body.is_empty());
    }

    fn is_done(&self) -> bool {
        self.body.is_none() && self.out.is_empty() && !self.broken
    }

    /// Sends what there is. Ready when everything has gone.
    fn poll(&mut self, stream: &mut Upstream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.gone < self.out.len() {
                let length = ready!(Pin::new(&mut *stream).poll_write(cx, &self.out[self.gone..]))?;
                if length == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.gone += length;
                self.begun = true;
            }
            self.out.clear();
            let Some(body) = &mut self.body else {
                return Pin::new(stream).poll_flush(cx);
            };
            match Pin::new(body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if write_frame(frame, self.framing, &mut self.out) {
                        self.body = None;
                    }
                }
                Poll::Ready(None) => {
                    write_end(self.framing, &mut self.out);
                    self.body = None;
                }
                // The request breaks off; whoever waits for the response is told why by its progress.
                Poll::Ready(Some(Err(fault))) => return Poll::Ready(Err(io::Error::other(fault))),
                Poll::Pending => {
                    ready!(Pin::new(stream).poll_flush(cx))?;
                    return Poll::Pending;
                }
            }
            self.gone = 0;
        }
    }
}

/// Sends a request and waits for the head of its response.
pub(crate) async fn send(
    worker: &Rc<Worker>,
    route: &Route,
    load: Load,
    speaks: Speaks,
    mut request: Request<RequestBody>,
    progress: &Progress,
    fresh: bool,
) -> Result<Response<Body>, Box<Failure>> {
    let kept = if fresh { None } else { worker.pool.borrow_mut().take(&load, speaks.tls) };
    let reused = kept.is_some();
    let mut connection = match kept {
        Some(kept) => kept,
        // Boxed, since it is rare and large: a request's future is moved, and carries room for all that it may become.
        None => match Box::pin(connect(&load, route, speaks, &worker.shared.backend_tls)).await {
            Ok(stream) => Box::new(Http1::new(stream)),
            Err(reason) => return Err(Failure::new(reason, Some(request))),
        },
    };
    let may_repeat = repeatable(&request);
    progress.last.set(Instant::now());
    match connection.exchange(&mut request, route, progress).await {
        Ok(Head { response, body: reading, keeps }) => {
            let (worker, wait) = (Rc::clone(worker), Wait::new(route.options.read_timeout));
            let body = Http1Body { connection: Some(connection), reading, keeps, wait, worker, tls: speaks.tls, load };
            Ok(response.map(|()| Body::http1(body)))
        }
        Err(Failed::Unsent) => Err(Failure::new(if reused { Reason::Stale } else { Reason::Connect }, Some(request))),
        Err(Failed::Ended) if progress.fault.get().is_none() => {
            let reason = if reused && may_repeat { Reason::Stale } else { Reason::Broken };
            Err(Failure::new(reason, may_repeat.then_some(request)))
        }
        Err(Failed::Ended | Failed::Broken) => Err(Failure::new(Reason::Broken, None)),
        Err(Failed::Silent) => Err(Failure::new(Reason::Timeout, None)),
    }
}

/// Idempotent and without a body: a server may get it twice (RFC 9110, 9.2.2).
pub(crate) fn repeatable(request: &Request<RequestBody>) -> bool {
    let idempotent = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE]
        .contains(request.method());
    idempotent && request.body().is_empty()
}

pub(crate) fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Sends a request that asks for an upgrade, on a connection of its own that outlives the response.
pub(crate) async fn send_upgrade(
    worker: &Rc<Worker>,
    route: &Route,
    load: Load,
    request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Load), Box<Failure>> {
    let speaks = Speaks { http2: false, ..Speaks::of(route) };
    let stream = match connect(&load, route, speaks, &worker.shared.backend_tls).await {
        Ok(stream) => stream,
        Err(reason) => return Err(Failure::new(reason, Some(request))),
    };
    let handshake = Builder::new().max_buf_size(READ_MOST).handshake(TokioIo::new(stream)).await;
    let Ok((mut sender, connection)) = handshake else { return Err(Failure::new(Reason::Connect, Some(request))) };
    tokio::task::spawn_local(connection.with_upgrades());
    match tokio::time::timeout(route.options.read_timeout, sender.send_request(request)).await {
        Ok(Ok(response)) => Ok((response, load)),
        Ok(Err(_)) => Err(Failure::new(Reason::Broken, None)),
        Err(_) => Err(Failure::new(Reason::Timeout, None)),
    }
}

/// A response's body; drives its connection, and keeps that for the next request when both are done.
#[derive(Debug)]
pub(crate) struct Http1Body {
    connection: Option<Box<Http1>>,
    reading: Reading,
    keeps: bool,
    wait: Wait,
    worker: Rc<Worker>,
    tls: bool,
    load: Load,
}

impl Http1Body {
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseFault>>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        // The answer may begin before the request has ended.
        if !connection.sending.is_done()
            && !connection.sending.broken
            && let Poll::Ready(Err(_)) = connection.sending.poll(&mut connection.stream, cx)
        {
            connection.sending.broken = true;
        }
        loop {
            match self.reading.next(&mut connection.read) {
                Ok(Read::Frame(frame)) => {
                    self.wait.over();
                    return Poll::Ready(Some(Ok(frame)));
                }
                Ok(Read::Done) => return Poll::Ready(None),
                Ok(Read::More) => {}
                Err(malformed) => return Poll::Ready(Some(Err(malformed.into()))),
            }
            match connection.fill(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(_)) if !self.reading.is_delimited() => {
                    self.reading = Reading::Done;
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(_) | Err(_)) => return Poll::Ready(Some(Err(ResponseFault::Ended))),
                Poll::Pending => return self.wait.poll(cx).map(|()| Some(Err(ResponseFault::Silent))),
            }
        }
    }

    pub fn is_end_stream(&self) -> bool {
        self.reading == Reading::Done
    }

    pub fn size_hint(&self) -> SizeHint {
        match self.reading {
            Reading::Done => SizeHint::with_exact(0),
            Reading::Length(left) => SizeHint::with_exact(left),
            Reading::Chunked(_) | Reading::UntilEnd => SizeHint::default(),
        }
    }

    pub fn endpoint(&self) -> std::net::SocketAddr {
        self.load.endpoint().address
    }
}

impl Drop for Http1Body {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        // A body that was left unread cannot be skipped: its connection goes with it.
        if self.keeps && connection.is_between(self.reading) {
            self.worker.pool.borrow_mut().keep(&self.load, self.tls, connection);
        }
    }
}

/// What is sent to an HTTP/1.1 backend: the path alone, in that version.
pub(crate) fn origin_form(request: &mut Request<RequestBody>) {
    *request.version_mut() = Version::HTTP_11;
    if request.uri().authority().is_some() {
        let path = request.uri().path_and_query().cloned();
        let uri = path.map_or_else(|| http::Uri::from_static("/"), http::Uri::from);
        *request.uri_mut() = uri;
    }
}
