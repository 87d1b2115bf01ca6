//! What a client and a process say to each other, whichever protocol carries it: channels in a WebSocket, or streams in SPDY.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::ws::WebSocket;
use serde_json::Value;
use streams::spdy::{Connection, Reader, Writer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::channels::{self, Said, Stream};

/// How long a client may take to open all of its streams.
const PATIENCE: Duration = Duration::from_secs(30);

/// Our half.
pub(super) enum Sender {
    Channels(channels::Sender),
    Spdy { outputs: BTreeMap<&'static str, Writer>, error: Writer },
}

/// The client's half.
pub(super) enum Receiver {
    Channels(channels::Receiver),
    Spdy { connection: Connection, stdin: Option<Reader>, resize: Option<Reader>, sizes: Vec<u8> },
}

pub(super) fn by_channels(socket: WebSocket) -> (Sender, Receiver) {
    let (sender, receiver) = channels::split(socket);
    (Sender::Channels(sender), Receiver::Channels(receiver))
}

/// Waits until the client has opened the streams of these types, `error` besides; none when it does not.
pub(super) async fn by_spdy<T>(transport: T, wanted: &[&'static str]) -> Option<(Sender, Receiver)>
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut connection = Connection::serve(transport);
    let mut opened = BTreeMap::new();
    let all = async {
        while wanted.iter().chain(&["error"]).any(|kind| !opened.contains_key(*kind)) {
            let mut stream = connection.accept().await?;
            match stream.headers.get("streamtype").cloned() {
                Some(kind) => drop(opened.insert(kind, stream)),
                None => stream.writer.reset().await,
            }
        }
        Some(())
    };
    tokio::time::timeout(PATIENCE, all).await.ok()??;
    let mut take = |kind: &str| opened.remove(kind);
    let outputs = ["stdout", "stderr"].into_iter().filter_map(|kind| Some((kind, take(kind)?.writer))).collect();
    let (stdin, resize) = (take("stdin").map(|s| s.reader), take("resize").map(|s| s.reader));
    let error = take("error")?.writer;
    Some((Sender::Spdy { outputs, error }, Receiver::Spdy { connection, stdin, resize, sizes: Vec::new() }))
}

impl Sender {
    /// Passes on what the process wrote; false when the client has gone.
    pub(super) async fn output(&mut self, stream: Stream, bytes: &[u8]) -> bool {
        match self {
            Sender::Channels(channels) => channels.output(stream, bytes).await.is_ok(),
            Sender::Spdy { outputs, .. } => match outputs.get_mut(stream.name()) {
                Some(writer) => writer.write(bytes).await.is_ok(),
                None => true,
            },
        }
    }

    /// Says how it ended, and ends the conversation.
    pub(super) async fn end(self, status: &Value) {
        match self {
            Sender::Channels(channels) => channels.end(status).await,
            Sender::Spdy { outputs, mut error } => {
                for (_, mut writer) in outputs {
                    writer.close().await;
                }
                // A client that has gone needs no goodbye.
                let _ = error.write(status.to_string().as_bytes()).await;
                error.close().await;
            }
        }
    }
}

impl Receiver {
    /// The next thing that the client says; none when it has gone.
    pub(super) async fn next(&mut self) -> Option<Said> {
        match self {
            Receiver::Channels(channels) => channels.next().await,
            Receiver::Spdy { connection, stdin, resize, sizes } => loop {
                if let Some(size) = next_size(sizes) {
                    return Some(size);
                }
                tokio::select! {
                    bytes = next_of(stdin) => {
                        return Some(bytes.map_or(Said::StdinClosed, Said::Stdin));
                    }
                    bytes = next_of(resize) => sizes.extend_from_slice(&bytes.unwrap_or_default()),
                    stream = connection.accept() => stream?.writer.reset().await,
                }
            },
        }
    }
}

/// What comes next on a stream, and once that it has ended; never again after that.
async fn next_of(stream: &mut Option<Reader>) -> Option<bytes::Bytes> {
    let Some(reader) = stream else { return std::future::pending().await };
    let next = reader.next().await;
    if next.is_none() {
        *stream = None;
    }
    next
}

/// Takes a whole size off the front of what has come; rubbish is dropped.
fn next_size(text: &mut Vec<u8>) -> Option<Said> {
    let mut sizes = serde_json::Deserializer::from_slice(text).into_iter::<channels::Size>();
    match sizes.next()? {
        Ok(size) => {
            let rest = sizes.byte_offset();
            text.drain(..rest);
            Some(size.into())
        }
        Err(error) => {
            if !error.is_eof() || text.len() > 1024 {
                text.clear();
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_one_by_one() {
        let mut text = b"{\"Width\":80,\"Height\":24}\n{\"Width\":100,\"Height\":30}{\"Wid".to_vec();
        assert_eq!(next_size(&mut text), Some(Said::Resize { columns: 80, rows: 24 }));
        assert_eq!(next_size(&mut text), Some(Said::Resize { columns: 100, rows: 30 }));
        assert_eq!(next_size(&mut text), None);
        text.extend_from_slice(b"th\":1,\"Height\":2}");
        assert_eq!(next_size(&mut text), Some(Said::Resize { columns: 1, rows: 2 }));
        text.extend_from_slice(b"rubbish");
        assert_eq!(next_size(&mut text), None);
        assert!(text.is_empty());
    }
}
