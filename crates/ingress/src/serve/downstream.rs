//! The client's end of a connection: plain or TLS, with the clocks of a careful server.
//!
//! hyper frames messages; when to lose patience is decided here: with a client that does not finish a request's head (408), is silent
//! between requests, or does not take its response.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use super::backend::gather;
use super::head::Look;
use super::timer::LazyTimer;

/// How a client that speaks HTTP/2 without TLS begins (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const TIMED_OUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nserver: portolan\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// How long a client is read from after the last answer.
const LINGER: Duration = Duration::from_secs(1);

/// How patient the server is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For a whole request head.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// For the next bytes of a request's body, and for a client to take the next of a response.
    pub body: Duration,
    pub handshake: Duration,
}

/// Where an HTTP/1 connection is, told by those who know: reading begins a head, the service takes it, the response's end leaves idle.
#[derive(Debug, Default)]
pub(crate) struct Phase {
    now: AtomicU8,
    /// The head that came last can be read in two ways.
    twofold: AtomicBool,
}

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;
/// It was upgraded: bytes are somebody else's, no clock of ours runs.
const TUNNEL: u8 = 3;
/// HTTP/2: no clock of ours runs either; silence is judged by streams and pings.
const FRAMES: u8 = 4;

impl Phase {
    pub fn busy(&self) {
        self.turn(BUSY);
    }

    pub fn idle(&self) {
        self.turn(IDLE);
    }

    pub fn tunnel(&self) {
        self.now.store(TUNNEL, Ordering::Relaxed);
    }

    pub fn frames(&self) {
        self.now.store(FRAMES, Ordering::Relaxed);
    }

    fn turn(&self, to: u8) {
        if self.now() < TUNNEL {
            self.now.store(to, Ordering::Relaxed);
        }
    }

    fn now(&self) -> u8 {
        self.now.load(Ordering::Relaxed)
    }

    /// Whether the request that is being answered came with a head that can be read in two ways.
    pub fn is_twofold(&self) -> bool {
        self.twofold.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Downstream {
    stream: Stream,
    /// What was read to tell the protocol.
    sniffed: Sniffed,
    phase: Arc<Phase>,
    look: Look,
    /// The phase that `since` is about.
    seen: u8,
    since: Instant,
    blocked: Option<Instant>,
    /// Since when our side is closed and the client's is waited for.
    lingering: Option<Instant>,
    patience: Patience,
    reading: LazyTimer,
    writing: LazyTimer,
}

/// What HTTP a client begins with, and the bytes that told.
#[derive(Debug, Default)]
pub(crate) struct Sniffed {
    bytes: [u8; PREFACE.len()],
    read: usize,
    given: usize,
}

impl Sniffed {
    /// Reads as little as tells HTTP/2 from HTTP/1.
    pub async fn read(stream: &mut TcpStream, patience: &Patience) -> io::Result<Self> {
        let mut sniffed = Sniffed::default();
        let first = tokio::time::timeout(patience.idle, stream.read(&mut sniffed.bytes)).await;
        sniffed.read = first.unwrap_or(Ok(0))?;
        let deadline = Instant::now() + patience.head;
        while sniffed.read > 0 && sniffed.undecided() {
            let more = stream.read(&mut sniffed.bytes[sniffed.read..]);
            match tokio::time::timeout_at(deadline, more).await {
                Ok(Ok(0)) => break,
                Ok(Ok(more)) => sniffed.read += more,
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    // Best effort, to a client that would not speak.
                    let _ = stream.try_write(TIMED_OUT);
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
        Ok(sniffed)
    }

    fn undecided(&self) -> bool {
        self.read < PREFACE.len() && PREFACE.starts_with(&self.bytes[..self.read])
    }

    pub fn is_http2(&self) -> bool {
        self.bytes == *PREFACE && self.read == PREFACE.len()
    }

    /// The client went away without a word.
    pub fn is_nothing(&self) -> bool {
        self.read == 0
    }

    fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let left = &self.bytes[self.given..self.read];
        let length = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..length]);
        self.given += length;
        length > 0
    }
}

impl Downstream {
    pub fn plain(stream: TcpStream, sniffed: Sniffed, phase: Arc<Phase>, patience: Patience) -> Self {
        Downstream::new(Stream::Plain(stream), sniffed, phase, patience)
    }

    pub fn tls(stream: TlsStream<TcpStream>, phase: Arc<Phase>, patience: Patience) -> Self {
        Downstream::new(Stream::Tls(Box::new(stream)), Sniffed::default(), phase, patience)
    }

    fn new(stream: Stream, sniffed: Sniffed, phase: Arc<Phase>, patience: Patience) -> Self {
        Downstream {
            stream,
            sniffed,
            phase,
            look: Look::default(),
            seen: IDLE,
            since: Instant::now(),
            blocked: None,
            lingering: None,
            patience,
            reading: LazyTimer::default(),
            writing: LazyTimer::default(),
        }
    }

    /// Bytes came: between requests they begin the next head. One that came behind a request in the same bytes is not looked at: whatever
    /// it is, hyper reads it in the safe way.
    fn came(&mut self, bytes: &[u8]) {
        match self.phase.now() {
            IDLE => {
                self.phase.now.store(HEAD, Ordering::Relaxed);
                self.seen = HEAD;
                self.since = Instant::now();
                self.look = Look::default();
            }
            HEAD => {}
            _ => return,
        }
        self.look.at(bytes);
        self.phase.twofold.store(self.look.is_twofold(), Ordering::Relaxed);
    }

    fn nothing_came(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let phase = self.phase.now();
        if phase >= BUSY {
            self.seen = phase;
            return Poll::Pending;
        }
        if self.seen != phase {
            self.seen = phase;
            self.since = Instant::now();
        }
        let patience = if phase == HEAD { self.patience.head } else { self.patience.idle };
        ready!(self.reading.poll(cx, self.since + patience));
        if phase == IDLE {
            // Nothing is owed to it: as if it had closed.
            return Poll::Ready(Ok(()));
        }
        let _ = self.stream.write(cx, TIMED_OUT);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Bounds how long a client may leave its response lying.
    fn wrote<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.blocked = None;
            return polled;
        }
        let blocked = *self.blocked.get_or_insert_with(Instant::now);
        ready!(self.writing.poll(cx, blocked + self.patience.body));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Downstream {
    /// Reads on for a while after our side is closed: were a connection closed with bytes unread, the client would be reset and could
    /// lose the answer that told it why.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let since = self.lingering.unwrap_or_else(Instant::now);
        let mut scratch = [std::mem::MaybeUninit::uninit(); 4096];
        loop {
            let mut buffer = ReadBuf::uninit(&mut scratch);
            let polled = match &mut self.stream {
                Stream::Plain(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
                Stream::Tls(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            };
            match polled {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && since.elapsed() < LINGER => {}
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return self.reading.poll(cx, since + LINGER).map(Ok),
            }
        }
    }
}

impl Stream {
    fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(stream) => ready!(Pin::new(stream).poll_write(cx, bytes))?,
            Stream::Tls(stream) => {
                ready!(Pin::new(&mut *stream).poll_write(cx, bytes))?;
                ready!(Pin::new(stream).poll_flush(cx))?;
                0
            }
        };
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Downstream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if this.sniffed.give(buffer) {
            this.came(&buffer.filled()[before..]);
            return Poll::Ready(Ok(()));
        }
        let polled = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        match polled {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => this.came(&buffer.filled()[before..]),
            Poll::Ready(_) => {}
            Poll::Pending => return this.nothing_came(cx),
        }
        polled
    }
}

impl AsyncWrite for Downstream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        self.wrote(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let gathered = match &mut self.stream {
            Stream::Plain(stream) => gather(slices, |bytes| Pin::new(stream).poll_write(cx, bytes)),
            Stream::Tls(_) => None,
        };
        if let Some(polled) = gathered {
            return self.wrote(cx, polled);
        }
        let polled = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        self.wrote(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        self.wrote(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            let polled = match &mut this.stream {
                Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
                Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            };
            ready!(this.wrote(cx, polled))?;
            if this.phase.now() == TUNNEL {
                return Poll::Ready(Ok(()));
            }
            this.lingering = Some(Instant::now());
        }
        this.linger(cx)
    }
}
