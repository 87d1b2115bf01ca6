//! SPDY/3.1 as far as Kubernetes uses it: streams that the client opens, with headers, in one connection.
//!
//! kubectl forwards ports over it (inside a WebSocket since 1.31), older clients run commands over it. Nobody else speaks it any
//! more. Flow control is not used by any of Kubernetes' ends: a stream whose reader is slow holds up the connection, as upstream.

mod frame;
mod headers;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use frame::{Frame, Incoming};

/// What an upgrade names.
pub const SPDY: &str = "SPDY/3.1";
pub const PROTOCOL_HEADER: &str = "x-stream-protocol-version";

/// Chunks that may wait for the reader of a stream.
const WAITING: usize = 16;
/// Frames that may wait to be written.
const UNWRITTEN: usize = 16;
/// Streams that a client may have open at once.
const MOST_STREAMS: usize = 1024;
/// A chunk of data is sent in frames of at most this size.
const MOST_DATA: usize = 64 * 1024;

/// Names in lower case.
pub type Headers = BTreeMap<String, String>;

/// A connection: gives the streams that the client opens, in their order.
#[derive(Debug)]
pub struct Connection {
    opened: mpsc::Receiver<Stream>,
}

/// One stream, both ways.
#[derive(Debug)]
pub struct Stream {
    pub id: u32,
    pub headers: Headers,
    pub reader: Reader,
    pub writer: Writer,
}

/// What the other side sends on a stream.
#[derive(Debug)]
pub struct Reader(mpsc::Receiver<Bytes>);

/// What the other side is sent on a stream.
#[derive(Debug)]
pub struct Writer {
    id: u32,
    frames: mpsc::Sender<Frame>,
    end: End,
}

/// Our end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client waits to hear whether we take the stream.
    Offered,
    Open,
    Closed,
}

/// The client's side of a connection. Its streams end with it.
#[derive(Debug)]
pub struct Client {
    frames: mpsc::Sender<Frame>,
    readers: Readers,
    /// The number of the stream that is opened next: a client's are odd.
    next: u32,
    _reading: AbortOnDropHandle<()>,
}

/// Where the data of streams go whose other end is open.
type Readers = Arc<Mutex<HashMap<u32, mpsc::Sender<Bytes>>>>;

/// Answers a request for an upgrade to SPDY and to the first of `protocols` that the client names too. Gives the answer, and what
/// the connection becomes after it; none when it stays as it is.
pub fn upgrade(request: &mut Request, protocols: &[&'static str]) -> (Response, Option<OnUpgrade>) {
    let named = |name: &str, value: &str| {
        let given = request.headers().get_all(name).iter().filter_map(|v| v.to_str().ok());
        given.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case(value))
    };
    if !named(UPGRADE.as_str(), SPDY) {
        return ((StatusCode::BAD_REQUEST, "an upgrade to WebSocket or SPDY/3.1 is needed").into_response(), None);
    }
    let Some(protocol) = protocols.iter().find(|protocol| named(PROTOCOL_HEADER, protocol)) else {
        let text = format!("the stream protocol must be one of: {}", protocols.join(", "));
        return ((StatusCode::FORBIDDEN, text).into_response(), None);
    };
    let headers = [(CONNECTION.as_str(), "Upgrade"), (UPGRADE.as_str(), SPDY), (PROTOCOL_HEADER, *protocol)];
    ((StatusCode::SWITCHING_PROTOCOLS, headers).into_response(), Some(hyper::upgrade::on(request)))
}

impl Connection {
    /// Speaks SPDY over `transport` until it ends or the connection is dropped.
    pub fn serve<T>(transport: T) -> Connection
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (tell, opened) = mpsc::channel(WAITING);
        let (input, output) = tokio::io::split(transport);
        let frames = writing(output);
        tokio::spawn(read_all(input, Session { frames, tell, readers: Readers::default() }));
        Connection { opened }
    }

    /// The next stream that the client opens; none when the connection has ended.
    pub async fn accept(&mut self) -> Option<Stream> {
        let mut stream = self.offered().await?;
        stream.writer.accept().await;
        Some(stream)
    }

    /// The next stream that the client wants to open, which is still to be accepted or reset.
    pub async fn offered(&mut self) -> Option<Stream> {
        self.opened.recv().await
    }
}

impl Client {
    /// Speaks SPDY over `transport`, which has changed to it, until it ends or this is dropped.
    pub fn new<T>(transport: T) -> Client
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (input, output) = tokio::io::split(transport);
        let frames = writing(output);
        let readers = Readers::default();
        // A server opens no streams.
        let (tell, _) = mpsc::channel(1);
        let session = Session { frames: frames.clone(), tell, readers: readers.clone() };
        let reading = AbortOnDropHandle::new(tokio::spawn(read_all(input, session)));
        Client { frames, readers, next: 1, _reading: reading }
    }

    /// Opens a stream. Whether the server takes it, its first bytes or its end will tell.
    ///
    /// # Errors
    /// When the server has gone.
    pub async fn open(&mut self, headers: Headers) -> io::Result<Stream> {
        let id = self.next;
        self.next += 2;
        let (reader, chunks) = mpsc::channel(WAITING);
        of(&self.readers).insert(id, reader);
        let writer = Writer { id, frames: self.frames.clone(), end: End::Open };
        writer.send(Frame::Open { stream: id, headers: headers.clone() }).await?;
        Ok(Stream { id, headers, reader: Reader(chunks), writer })
    }
}

fn of(readers: &Readers) -> MutexGuard<'_, HashMap<u32, mpsc::Sender<Bytes>>> {
    readers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reader {
    /// The next bytes; none when the other side has closed its end, or has gone.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}

impl Writer {
    /// Tells the client that its stream is taken, unless it has been told.
    pub async fn accept(&mut self) {
        if self.end == End::Offered {
            self.end = End::Open;
            // Whoever has gone need not be told.
            let _ = self.send(Frame::Reply { stream: self.id }).await;
        }
    }

    /// Sends bytes; an error means that the other side has gone.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.accept().await;
        for part in bytes.chunks(MOST_DATA) {
            self.send(Frame::Data { stream: self.id, bytes: Bytes::copy_from_slice(part), last: false }).await?;
        }
        Ok(())
    }

    /// Closes our end.
    pub async fn close(&mut self) {
        self.accept().await;
        if std::mem::replace(&mut self.end, End::Closed) == End::Open {
            // Whoever has gone needs no goodbye.
            let _ = self.send(Frame::Data { stream: self.id, bytes: Bytes::new(), last: true }).await;
        }
    }

    /// Breaks the stream off, both ways; one that was only offered is refused.
    pub async fn reset(&mut self) {
        if std::mem::replace(&mut self.end, End::Closed) != End::Closed {
            let _ = self.send(Frame::Reset { stream: self.id }).await;
        }
    }

    async fn send(&self, frame: Frame) -> io::Result<()> {
        self.frames.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

struct Session {
    frames: mpsc::Sender<Frame>,
    tell: mpsc::Sender<Stream>,
    readers: Readers,
}

impl Drop for Session {
    /// Whoever reads learns that no more comes.
    fn drop(&mut self) {
        of(&self.readers).clear();
    }
}

impl Session {
    /// Does what a frame asks for; none when there is nobody any more to do it for.
    async fn take(&mut self, frame: Incoming) -> Option<()> {
        match frame {
            Incoming::Open { stream, headers, last } => self.open(stream, headers, last).await,
            Incoming::Data { stream, bytes, last } => {
                // A stream whose reader has left is drained.
                let reader = of(&self.readers).get(&stream).cloned();
                if let Some(reader) = reader.filter(|_| !bytes.is_empty()) {
                    let _ = reader.send(bytes).await;
                }
                if last {
                    of(&self.readers).remove(&stream);
                }
                Some(())
            }
            Incoming::Reset { stream } => {
                of(&self.readers).remove(&stream);
                Some(())
            }
            Incoming::Ping { id } => self.frames.send(Frame::Ping { id }).await.ok(),
            Incoming::GoAway | Incoming::Other => Some(()),
        }
    }

    async fn open(&mut self, id: u32, headers: Headers, last: bool) -> Option<()> {
        let refused = {
            let readers = of(&self.readers);
            id.is_multiple_of(2) || readers.contains_key(&id) || readers.len() >= MOST_STREAMS
        };
        if refused {
            return self.frames.send(Frame::Reset { stream: id }).await.ok();
        }
        let (reader, chunks) = mpsc::channel(WAITING);
        if !last {
            of(&self.readers).insert(id, reader);
        }
        let writer = Writer { id, frames: self.frames.clone(), end: End::Offered };
        self.tell.send(Stream { id, headers, reader: Reader(chunks), writer }).await.ok()
    }
}

/// Where the frames go that are to be written.
fn writing(output: impl AsyncWrite + Send + 'static) -> mpsc::Sender<Frame> {
    let (frames, unwritten) = mpsc::channel(UNWRITTEN);
    tokio::spawn(async move {
        if let Err(error) = write_all(output, unwritten).await {
            tracing::debug!(%error, "SPDY connection ended");
        }
    });
    frames
}

async fn read_all(input: impl AsyncRead + Unpin, mut session: Session) {
    let mut input = frame::Input::new(input);
    loop {
        match input.next().await {
            Ok(Some(frame)) => {
                if session.take(frame).await.is_none() {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "SPDY connection ended");
                let _ = session.frames.send(Frame::GoAway { protocol_error: true }).await;
                return;
            }
        }
    }
}

async fn write_all(output: impl AsyncWrite, mut frames: mpsc::Receiver<Frame>) -> io::Result<()> {
    let mut output = std::pin::pin!(output);
    let mut encoder = headers::Encoder::new()?;
    while let Some(frame) = frames.recv().await {
        output.write_all(&frame.encode(&mut encoder)?).await?;
        if frames.is_empty() {
            output.flush().await?;
        }
    }
    output.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    fn open(encoder: &mut headers::Encoder, id: u32, name: &str, value: &str) -> Vec<u8> {
        let block = encoder.encode(&[(name.to_owned(), value.to_owned())].into()).unwrap();
        let mut frame = vec![0x80, 3, 0, 1, 0];
        frame.extend_from_slice(&((block.len() + 10) as u32).to_be_bytes()[1..]);
        frame.extend_from_slice(&id.to_be_bytes());
        frame.extend_from_slice(&[0; 6]);
        frame.extend(block);
        frame
    }

    #[tokio::test]
    async fn streams_are_opened_answered_and_closed() {
        let (client, server) = tokio::io::duplex(1 << 16);
        let mut connection = Connection::serve(server);
        let (mut from, mut to) = tokio::io::split(client);
        let mut encoder = headers::Encoder::new().unwrap();
        to.write_all(&open(&mut encoder, 1, "streamtype", "error")).await.unwrap();
        to.write_all(&open(&mut encoder, 3, "streamtype", "data")).await.unwrap();
        to.write_all(&[0, 0, 0, 3, 0, 0, 0, 2, b'h', b'i']).await.unwrap();
        to.write_all(&[0, 0, 0, 3, 1, 0, 0, 0]).await.unwrap();
        to.write_all(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]).await.unwrap();
        let first = connection.accept().await.unwrap();
        assert_eq!((first.id, first.headers["streamtype"].as_str()), (1, "error"));
        let mut second = connection.accept().await.unwrap();
        assert_eq!(second.headers["streamtype"], "data");
        assert_eq!(second.reader.next().await.unwrap(), "hi");
        assert_eq!(second.reader.next().await, None);
        second.writer.write(b"ho").await.unwrap();
        second.writer.close().await;
        let mut kinds = Vec::new();
        for _ in 0..5 {
            let mut head = [0; 8];
            from.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[5], head[6], head[7]]);
            let mut body = vec![0; length as usize];
            from.read_exact(&mut body).await.unwrap();
            kinds.push(match head[0] {
                0x80 => format!("control {}", head[3]),
                _ => format!("data {} {} {}", head[3], head[4], String::from_utf8(body).unwrap()),
            });
        }
        kinds.sort();
        assert_eq!(kinds, ["control 2", "control 2", "control 6", "data 3 0 ho", "data 3 1 "]);
        drop(to);
        drop(from);
        assert!(connection.accept().await.is_none());
    }

    #[tokio::test]
    async fn nonsense_ends_the_connection() {
        for bytes in [
            &[0x80, 2, 0, 1, 0, 0, 0, 0][..],
            &[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff],
            &[0x80, 3, 0, 1, 0, 0, 0, 3, 1, 2, 3],
        ] {
            let (mut client, server) = tokio::io::duplex(1 << 16);
            let mut connection = Connection::serve(server);
            client.write_all(bytes).await.unwrap();
            assert!(connection.accept().await.is_none(), "{bytes:?}");
        }
    }
}
