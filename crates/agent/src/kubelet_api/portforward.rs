//! `port-forward`: connections of a user's machine, continued inside a pod's network to its own localhost.
//!
//! Three ways to ask, one to answer. kubectl since 1.31 sends SPDY inside a WebSocket, older clients SPDY alone; both open a pair
//! of streams (`error`, `data`) for each connection. Libraries that know WebSockets only name the ports in the query and get two
//! channels for each of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::stream::SplitSink;
use futures::{SinkExt, StreamExt};
use linux::NetNs;
use streams::portforward::{self, Pair, Pairs};
use streams::spdy::{Reader, Stream, Writer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;

use super::{Node, Parameters, channels};

const BUFFER: usize = 32 * 1024;

pub(super) async fn port_forward(
    State(node): State<Node>,
    Path((namespace, pod)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    request: Request,
) -> Response {
    let target = match node.pods.network(&namespace, &pod) {
        Ok(network) => Target { network, pod: format!("{pod}_{namespace}") },
        Err(missing) => return missing.into_response(),
    };
    let by_pairs = target.clone();
    let serve = |pairs| serve(pairs, by_pairs);
    let Ok(upgrade) = upgrade else { return portforward::by_spdy(request, serve) };
    if portforward::is_tunnel(request.headers()) {
        return portforward::by_websocket(upgrade, serve);
    }
    let ports: Result<Vec<u16>, _> =
        Parameters::parse(query.as_deref()).all("ports").iter().flat_map(|p| p.split(',')).map(str::parse).collect();
    match ports {
        Ok(ports) if !ports.is_empty() && ports.len() < 128 => upgrade
            .protocols(channels::PROTOCOLS)
            .on_upgrade(async move |socket| by_channels(socket, ports, target).await),
        Ok(_) | Err(_) => (StatusCode::BAD_REQUEST, "query parameter \"ports\" is required").into_response(),
    }
}

/// Where connections go.
#[derive(Debug, Clone)]
struct Target {
    network: NetNs,
    /// For messages.
    pod: String,
}

impl Target {
    /// A connection to the port on the pod's localhost, whichever family listens.
    async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let open = async |ip: IpAddr| -> io::Result<TcpStream> {
            let make = || if ip.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
            self.network.run(make).map_err(io::Error::other)??.connect(SocketAddr::new(ip, port)).await
        };
        let first = match open(Ipv4Addr::LOCALHOST.into()).await {
            Ok(connected) => return Ok(connected),
            Err(error) => error,
        };
        open(Ipv6Addr::LOCALHOST.into()).await.map_err(|second| {
            format!(
                "error forwarding port {port} to pod {}: failed to connect to localhost:{port} inside namespace, \
                 IPv4: {} IPv6: {}",
                self.pod,
                crate::probe::ask::dial_error("127.0.0.1", port, &first),
                crate::probe::ask::dial_error("::1", port, &second)
            )
        })
    }
}

/// Continues each connection that a client opens.
async fn serve(mut pairs: Pairs, target: Target) {
    while let Some(pair) = pairs.next().await {
        tokio::spawn(forward(pair, target.clone()));
    }
}

async fn forward(pair: Pair, target: Target) {
    let Pair { port, data: Stream { reader, mut writer, .. }, error } = pair;
    let mut said = error.writer;
    // Whether the pod takes the connection is told by the other stream.
    writer.accept().await;
    let connected = match port.parse() {
        Ok(port @ 1..) => target.connect(port).await,
        Ok(0) | Err(_) => Err(format!("\"{port}\" is not a port")),
    };
    match connected {
        Ok(connection) => {
            let (from_pod, to_pod) = connection.into_split();
            // Each direction ends by itself: a client that has said all still wants the answer.
            tokio::join!(outward(from_pod, &mut writer), inward(reader, to_pod));
        }
        Err(message) => {
            let _ = said.write(message.as_bytes()).await;
            writer.close().await;
        }
    }
    said.close().await;
}

async fn outward(mut from_pod: OwnedReadHalf, to_client: &mut Writer) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(length @ 1..) = from_pod.read(&mut buffer).await {
        if to_client.write(&buffer[..length]).await.is_err() {
            return;
        }
    }
    to_client.close().await;
}

async fn inward(mut from_client: Reader, mut to_pod: OwnedWriteHalf) {
    while let Some(bytes) = from_client.next().await {
        if to_pod.write_all(&bytes).await.is_err() {
            return;
        }
    }
    // The pod's side learns that no more comes. It may be gone already.
    let _ = to_pod.shutdown().await;
}

/// Two channels for each port: `2n` its data, `2n + 1` what went wrong. Each begins with the port's number, so that the client
/// knows which is which.
async fn by_channels(socket: WebSocket, ports: Vec<u16>, target: Target) {
    let (mut to_client, mut from_client) = socket.split();
    let (frames, mut produced) = mpsc::channel::<Vec<u8>>(16);
    let mut inputs = Vec::new();
    for (n, port) in ports.into_iter().enumerate() {
        let channel = (n * 2) as u8;
        let (input, chunks) = mpsc::channel(16);
        inputs.push(input);
        tokio::spawn(channel_pair(channel, port, chunks, frames.clone(), target.clone()));
    }
    drop(frames);
    let listening = tokio::spawn(async move {
        while let Some(Ok(message)) = from_client.next().await {
            let Message::Binary(message) = message else { continue };
            let Some((channel, _)) = message.split_first() else { continue };
            if let Some(input) = inputs.get(usize::from(*channel / 2)).filter(|_| channel % 2 == 0) {
                // A connection that has ended takes no more.
                let _ = input.send(message.slice(1..)).await;
            }
        }
    });
    while let Some(frame) = produced.recv().await {
        if to_client.send(Message::Binary(frame.into())).await.is_err() {
            break;
        }
    }
    listening.abort();
    end(to_client).await;
}

async fn end(mut to_client: SplitSink<WebSocket, Message>) {
    let normal = CloseFrame { code: close_code::NORMAL, reason: "".into() };
    let _ = to_client.send(Message::Close(Some(normal))).await;
    let _ = to_client.close().await;
}

async fn channel_pair(
    channel: u8,
    port: u16,
    mut from_client: mpsc::Receiver<bytes::Bytes>,
    frames: mpsc::Sender<Vec<u8>>,
    target: Target,
) {
    let frame = |channel: u8, bytes: &[u8]| [&[channel], bytes].concat();
    for both in [channel, channel + 1] {
        if frames.send(frame(both, &port.to_le_bytes())).await.is_err() {
            return;
        }
    }
    let connection = match target.connect(port).await {
        Ok(connection) => connection,
        Err(message) => return drop(frames.send(frame(channel + 1, message.as_bytes())).await),
    };
    let (mut from_pod, mut to_pod) = connection.into_split();
    let inward = async {
        while let Some(bytes) = from_client.recv().await {
            if to_pod.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; BUFFER];
        while let Ok(length @ 1..) = from_pod.read(&mut buffer).await {
            if frames.send(frame(channel, &buffer[..length])).await.is_err() {
                return;
            }
        }
    };
    // These clients cannot close one direction: the connection ends with either.
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}
