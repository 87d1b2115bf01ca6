//! `port-forward` as kubectl speaks it: a pair of streams (`error`, `data`) for each connection, in one tunnel.
//!
//! kubectl since 1.31 sends SPDY inside a WebSocket, older clients SPDY alone.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::Request;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::HeaderMap;
use axum::http::header::SEC_WEBSOCKET_PROTOCOL;
use axum::response::Response;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::spdy::{self, Connection, Headers, Stream};
use crate::tunnel;

/// The stream protocol itself, as SPDY's upgrade names it.
pub const PROTOCOL: &str = "portforward.k8s.io";
/// The same inside a WebSocket.
const TUNNELS: [&str; 2] = ["SPDY/3.1+portforward.k8s.io", "v2.portforward.k8s.io"];
/// How long one stream of a pair waits for the other.
const PAIRING: Duration = Duration::from_secs(30);

/// Whether a WebSocket is asked for that carries SPDY.
pub fn is_tunnel(headers: &HeaderMap) -> bool {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    offered.flat_map(|value| value.split(',')).any(|one| TUNNELS.contains(&one.trim()))
}

/// Takes the upgrade of kubectl since 1.31; `serve` has the pairs.
pub fn by_websocket<F, Done>(upgrade: WebSocketUpgrade, serve: F) -> Response
where
    F: FnOnce(Pairs) -> Done + Send + 'static,
    Done: Future<Output = ()> + Send,
{
    upgrade.protocols(TUNNELS).on_upgrade(async move |socket| serve(Pairs::of(tunnel::open(socket))).await)
}

/// Takes the upgrade of clients before that, or says what is wrong with it.
pub fn by_spdy<F, Done>(mut request: Request, serve: F) -> Response
where
    F: FnOnce(Pairs) -> Done + Send + 'static,
    Done: Future<Output = ()> + Send,
{
    let (response, upgraded) = spdy::upgrade(&mut request, &[PROTOCOL]);
    let Some(upgraded) = upgraded else { return response };
    tokio::spawn(async move {
        match upgraded.await {
            Ok(upgraded) => serve(Pairs::of(TokioIo::new(upgraded))).await,
            Err(error) => tracing::debug!(%error, "the protocol did not change"),
        }
    });
    response
}

/// The connections that a client opens.
#[derive(Debug)]
pub struct Pairs {
    connection: Connection,
    waiting: BTreeMap<String, (Instant, Half)>,
}

/// One connection of a client. The client waits for its data stream to be accepted before it sends.
#[derive(Debug)]
pub struct Pair {
    /// As the client wrote it.
    pub port: String,
    pub data: Stream,
    pub error: Stream,
}

#[derive(Debug, Default)]
struct Half {
    data: Option<Stream>,
    error: Option<Stream>,
}

impl Pairs {
    fn of<T>(transport: T) -> Pairs
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        Pairs { connection: Connection::serve(transport), waiting: BTreeMap::new() }
    }

    /// The next connection; none when the client has gone.
    pub async fn next(&mut self) -> Option<Pair> {
        loop {
            let mut stream = self.connection.offered().await?;
            self.waiting.retain(|_, (since, _)| since.elapsed() < PAIRING);
            let kind = stream.headers.get("streamtype").cloned().unwrap_or_default();
            if !matches!(kind.as_str(), "error" | "data") {
                stream.writer.reset().await;
                continue;
            }
            let request = request_of(&stream, &kind);
            let (_, half) = self.waiting.entry(request.clone()).or_insert_with(|| (Instant::now(), Half::default()));
            if kind == "error" {
                // The client opens the other one only then.
                stream.writer.accept().await;
                half.error = Some(stream);
            } else {
                half.data = Some(stream);
            }
            let whole = half.data.is_some() && half.error.is_some();
            if whole && let Some((_, Half { data: Some(data), error: Some(error) })) = self.waiting.remove(&request) {
                return Some(Pair { port: data.headers.get("port").cloned().unwrap_or_default(), data, error });
            }
        }
    }
}

/// What makes two streams a pair. Old clients number no requests: their data stream follows its error stream.
fn request_of(stream: &Stream, kind: &str) -> String {
    match stream.headers.get("requestid") {
        Some(request) => request.clone(),
        None if kind == "error" => format!("stream {}", stream.id),
        None => format!("stream {}", stream.id.wrapping_sub(2)),
    }
}

/// The client's side of a tunnel, over a transport that has changed to SPDY.
#[derive(Debug)]
pub struct Client {
    spdy: spdy::Client,
    next: u32,
}

impl Client {
    pub fn new<T>(transport: T) -> Client
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        Client { spdy: spdy::Client::new(transport), next: 0 }
    }

    /// A connection to a port of the pod, which ends with the client.
    ///
    /// # Errors
    /// When the other side has gone.
    pub async fn connect(&mut self, port: u16) -> std::io::Result<Pair> {
        let (port, request) = (port.to_string(), self.next.to_string());
        self.next += 1;
        let headers = |kind: &str| -> Headers {
            let all = [("streamtype", kind), ("port", &port), ("requestid", &request)];
            all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let error = self.spdy.open(headers("error")).await?;
        let data = self.spdy.open(headers("data")).await?;
        Ok(Pair { port, data, error })
    }
}
