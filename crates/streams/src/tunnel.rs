//! A byte stream in a WebSocket: each binary message is the next bytes, as KEP-4006 tunnels SPDY.

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Bytes on their way, each direction.
const BUFFER: usize = 64 * 1024;

/// The far end of the stream in `socket`. It ends with either side.
pub(super) fn open(socket: WebSocket) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    tokio::spawn(carry(socket, ours));
    theirs
}

async fn carry(socket: WebSocket, stream: DuplexStream) {
    let (mut to_client, mut from_client) = socket.split();
    let (mut produced, mut consumed) = tokio::io::split(stream);
    let inward = async {
        while let Some(Ok(message)) = from_client.next().await {
            match message {
                Message::Binary(bytes) => {
                    if consumed.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) => {}
                Message::Close(_) => return,
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; BUFFER];
        while let Ok(length @ 1..) = produced.read(&mut buffer).await {
            if to_client.send(Message::Binary(buffer[..length].to_vec().into())).await.is_err() {
                return;
            }
        }
        let normal = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        let _ = to_client.send(Message::Close(Some(normal))).await;
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}
