//! Bodies on their way: the request's towards the backend, the response's towards the client, frame by frame, trailers included.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;
use tokio::time::Instant;

use super::client::Active;
use super::codec::Malformed;
use super::http1::Http1Body;
use super::http2::Stream;
use super::timer::LazyTimer;
use crate::log::{AccessLog, Line};
use crate::routes::{Load, Place};

/// Why a request's body ends before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum RequestFault {
    #[error("the request body is larger than allowed")]
    TooLarge,
    #[error("the client did not send the rest of its request in time")]
    Silent,
    #[error("the client broke off its request")]
    BrokenOff,
}

/// What the one who waits for the response may know of the request's body.
#[derive(Debug)]
pub(crate) struct Progress {
    /// When the backend last had something to do.
    pub last: Cell<Instant>,
    /// It is the client that is waited for.
    pub on_client: Cell<bool>,
    pub fault: Cell<Option<RequestFault>>,
}

impl Progress {
    pub fn new(now: Instant) -> Rc<Self> {
        Rc::new(Progress { last: Cell::new(now), on_client: Cell::new(false), fault: Cell::new(None) })
    }
}

/// A request's body, towards the backend.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Empty,
    Streaming(Box<StreamingRequest>),
}

#[derive(Debug)]
pub(crate) struct StreamingRequest {
    incoming: Incoming,
    left: Option<u64>,
    patience: Duration,
    timer: LazyTimer,
    progress: Rc<Progress>,
}

impl RequestBody {
    pub fn new(incoming: Incoming, limit: Option<u64>, patience: Duration, progress: &Rc<Progress>) -> Self {
        if http_body::Body::is_end_stream(&incoming) {
            return RequestBody::Empty;
        }
        let (timer, progress) = (LazyTimer::default(), Rc::clone(progress));
        RequestBody::Streaming(Box::new(StreamingRequest { incoming, left: limit, patience, timer, progress }))
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, RequestBody::Empty)
    }
}

impl StreamingRequest {
    fn fail(&self, fault: RequestFault) -> Poll<Option<Result<Frame<Bytes>, RequestFault>>> {
        self.progress.fault.set(Some(fault));
        Poll::Ready(Some(Err(fault)))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestFault>>> {
        let frame = match Pin::new(&mut self.incoming).poll_frame_of(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(_))) => return self.fail(RequestFault::BrokenOff),
            Poll::Ready(None) => {
                self.progress.on_client.set(false);
                self.progress.last.set(Instant::now());
                return Poll::Ready(None);
            }
            Poll::Pending => {
                if !self.progress.on_client.replace(true) {
                    self.progress.last.set(Instant::now());
                }
                let deadline = self.progress.last.get() + self.patience;
                return match self.timer.poll(cx, deadline) {
                    Poll::Ready(()) => self.fail(RequestFault::Silent),
                    Poll::Pending => Poll::Pending,
                };
            }
        };
        self.progress.on_client.set(false);
        self.progress.last.set(Instant::now());
        if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
            match left.checked_sub(data.len() as u64) {
                Some(rest) => *left = rest,
                None => return self.fail(RequestFault::TooLarge),
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

/// `poll_frame` by its plain name, since two traits of that method are in reach.
trait PollFrame {
    fn poll_frame_of(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>>;
}

impl PollFrame for Incoming {
    fn poll_frame_of(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        http_body::Body::poll_frame(self, cx)
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = RequestFault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestFault>>> {
        match &mut *self {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Streaming(streaming) => streaming.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Streaming(streaming) => streaming.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Streaming(streaming) => streaming.incoming.size_hint(),
        }
    }
}

/// A wait for the backend that may not last longer than so; it begins when there is nothing to read, not when the client is slow.
#[derive(Debug)]
pub(crate) struct Wait {
    patience: Duration,
    since: Option<Instant>,
    timer: LazyTimer,
}

impl Wait {
    pub fn new(patience: Duration) -> Self {
        Wait { patience, since: None, timer: LazyTimer::default() }
    }

    pub fn over(&mut self) {
        self.since = None;
    }

    /// Ready when it has lasted too long.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.timer.poll(cx, since + self.patience)
    }
}

/// Why a response's body ends before its end.
#[derive(Debug, Error)]
pub(crate) enum ResponseFault {
    #[error("the backend broke off its response")]
    Backend(#[from] hyper::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the backend did not send the rest of its response in time")]
    Silent,
    #[error("the connection to the backend ended")]
    Ended,
}

/// A response's body, towards the client.
#[derive(Debug)]
pub(crate) struct Body {
    kind: Kind,
    /// The request counts as active until its response has gone.
    active: Option<Active>,
    /// It also counts among those of its client.
    place: Option<Place>,
    log: Option<Box<Logged>>,
}

#[derive(Debug)]
enum Kind {
    Text(Option<Bytes>),
    Http1(Http1Body),
    Streaming(Box<StreamingResponse>),
}

#[derive(Debug)]
struct Logged {
    log: AccessLog,
    line: Option<Line>,
}

/// A response over a connection that others drive: HTTP/2, or one that may be upgraded.
#[derive(Debug)]
pub(crate) struct StreamingResponse {
    pub incoming: Incoming,
    pub wait: Wait,
    pub load: Load,
    /// Its place on an HTTP/2 connection.
    pub _stream: Option<Stream>,
}

impl Body {
    pub fn text(text: String) -> Self {
        let bytes = Bytes::from(text);
        Body { kind: Kind::Text(Some(bytes).filter(|bytes| !bytes.is_empty())), active: None, place: None, log: None }
    }

    pub fn http1(body: Http1Body) -> Self {
        Body { kind: Kind::Http1(body), active: None, place: None, log: None }
    }

    pub fn streaming(incoming: Incoming, patience: Duration, load: Load, stream: Option<Stream>) -> Self {
        let streaming = StreamingResponse { incoming, wait: Wait::new(patience), load, _stream: stream };
        Body { kind: Kind::Streaming(Box::new(streaming)), active: None, place: None, log: None }
    }

    pub fn hold(&mut self, active: Active) {
        self.active = Some(active);
    }

    pub fn take_place(&mut self, place: Option<Place>) {
        self.place = place;
    }

    /// Writes the line when the body is done, with what was sent.
    pub fn logged(&mut self, log: &AccessLog, line: Line) {
        self.log = Some(Box::new(Logged { log: log.clone(), line: Some(line) }));
    }

    pub fn endpoint(&self) -> Option<std::net::SocketAddr> {
        match &self.kind {
            Kind::Text(_) => None,
            Kind::Http1(body) => Some(body.endpoint()),
            Kind::Streaming(streaming) => Some(streaming.load.endpoint().address),
        }
    }
}

impl StreamingResponse {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseFault>>> {
        match Pin::new(&mut self.incoming).poll_frame_of(cx) {
            Poll::Ready(frame) => {
                self.wait.over();
                Poll::Ready(frame.map(|frame| frame.map_err(ResponseFault::from)))
            }
            Poll::Pending => self.wait.poll(cx).map(|()| Some(Err(ResponseFault::Silent))),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = ResponseFault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseFault>>> {
        let this = &mut *self;
        let polled = match &mut this.kind {
            Kind::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Kind::Http1(body) => body.poll(cx),
            Kind::Streaming(streaming) => streaming.poll(cx),
        };
        if let (Some(logged), Poll::Ready(frame)) = (&mut this.log, &polled) {
            logged.saw(frame.as_ref());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Text(text) => text.is_none(),
            Kind::Http1(body) => body.is_end_stream(),
            Kind::Streaming(streaming) => streaming.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Kind::Http1(body) => body.size_hint(),
            Kind::Streaming(streaming) => streaming.incoming.size_hint(),
        }
    }
}

impl Logged {
    fn saw(&mut self, frame: Option<&Result<Frame<Bytes>, ResponseFault>>) {
        let Some(line) = &mut self.line else { return };
        match frame {
            Some(Ok(frame)) => line.sent += frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) => line.complete = false,
            None => {}
        }
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        if let Some(line) = self.line.take() {
            self.log.write(line);
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let ended = http_body::Body::is_end_stream(self);
        if let Some(logged) = &mut self.log
            && let Some(line) = &mut logged.line
        {
            line.complete &= ended || matches!(self.kind, Kind::Text(_));
        }
    }
}
