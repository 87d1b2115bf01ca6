//! The channel protocol: several streams in one WebSocket, each message led by its channel's number.
//!
//! `v5.channel.k8s.io` adds one thing to v4: a message on channel 255 that says which stream the client has closed, without which the end
//! of stdin cannot be told. Source: KEP-4006.

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde::Deserialize;

/// Newest first: the first that the client offers too is spoken.
pub(super) const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

const STDIN: u8 = 0;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// A stream of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout = 1,
    Stderr = 2,
}

impl Stream {
    pub(super) fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Stdin(Bytes),
    StdinClosed,
    Resize { columns: u16, rows: u16 },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Size {
    width: u16,
    height: u16,
}

impl From<Size> for Said {
    fn from(size: Size) -> Said {
        Said::Resize { columns: size.width, rows: size.height }
    }
}

/// The client's half of the conversation.
pub(super) struct Receiver(SplitStream<WebSocket>);

/// Our half.
pub(super) struct Sender(SplitSink<WebSocket, Message>);

pub(super) fn split(socket: WebSocket) -> (Sender, Receiver) {
    let (sink, stream) = socket.split();
    (Sender(sink), Receiver(stream))
}

impl Receiver {
    /// The next thing that the client says; none when it has gone. What makes no sense is passed over, as upstream does.
    pub(super) async fn next(&mut self) -> Option<Said> {
        loop {
            match self.0.next().await? {
                Ok(Message::Binary(message)) => {
                    if let Some(said) = parse(message) {
                        return Some(said);
                    }
                }
                Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_)) => {}
                Ok(Message::Close(_)) | Err(_) => return None,
            }
        }
    }
}

fn parse(message: Bytes) -> Option<Said> {
    let (channel, rest) = message.split_first()?;
    match (*channel, rest) {
        (STDIN, _) => Some(Said::Stdin(message.slice(1..))),
        (RESIZE, size) => {
            let size: Size = serde_json::from_slice(size).ok()?;
            Some(size.into())
        }
        (CLOSE, [STDIN]) => Some(Said::StdinClosed),
        (_, _) => None,
    }
}

impl Sender {
    /// Passes on what the process wrote. An error means that the client has gone.
    pub(super) async fn output(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), axum::Error> {
        self.send(stream as u8, bytes).await
    }

    /// Says how it ended, and ends the conversation.
    pub(super) async fn end(mut self, status: &serde_json::Value) {
        // A client that has gone needs no goodbye.
        let _ = self.send(ERROR, status.to_string().as_bytes()).await;
        // Without a code, clients take the end for a fault.
        let normal = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        let _ = self.0.send(Message::Close(Some(normal))).await;
        let _ = self.0.close().await;
    }

    async fn send(&mut self, channel: u8, bytes: &[u8]) -> Result<(), axum::Error> {
        let mut message = Vec::with_capacity(bytes.len() + 1);
        message.push(channel);
        message.extend_from_slice(bytes);
        self.0.send(Message::Binary(message.into())).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_by_their_channel() {
        let said = |bytes: &'static [u8]| parse(Bytes::from_static(bytes));
        assert_eq!(said(b"\x00ls\n"), Some(Said::Stdin(Bytes::from_static(b"ls\n"))));
        assert_eq!(said(b"\xff\x00"), Some(Said::StdinClosed));
        assert_eq!(said(b"\x04{\"Width\":80,\"Height\":24}"), Some(Said::Resize { columns: 80, rows: 24 }));
        for nonsense in [&b""[..], b"\x04{", b"\x04{\"Width\":99999,\"Height\":1}", b"\xff\x01", b"\x07x"] {
            assert_eq!(said(nonsense), None, "{nonsense:?}");
        }
    }
}
