//! Container logs: the CRI format on disk, given out as the program wrote it.
//!
//! A follower reads on through rotation and until the container has ended; it looks at the file again every 50 ms.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocketUpgrade, close_code};
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream;
use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::{Missing, Node, Parameters, Pods};

/// How a log goes over a WebSocket: as it is, or as text.
const PROTOCOLS: [&str; 2] = ["binary.k8s.io", "base64.binary.k8s.io"];
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// So much is sent at once.
const CHUNK: usize = 32 * 1024;
/// The runtime splits longer lines itself.
const LONGEST_LINE: u64 = 64 * 1024;

/// What the user asked of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wish {
    follow: bool,
    previous: bool,
    timestamps: bool,
    since: Option<Timestamp>,
    tail: Option<usize>,
    limit: Option<usize>,
}

impl Wish {
    fn read(parameters: &Parameters, now: Timestamp) -> Result<Self, String> {
        let number = |name: &str| match parameters.get(name).map(str::parse::<i64>) {
            None => Ok(None),
            Some(Ok(number)) if number >= 0 => Ok(Some(number)),
            Some(Ok(_) | Err(_)) => Err(format!("{name} must be a number that is not negative")),
        };
        let since = match (parameters.get("sinceTime"), number("sinceSeconds")?) {
            (Some(time), _) => Some(time.parse().map_err(|_| "sinceTime must be an RFC 3339 time".to_owned())?),
            (None, Some(seconds)) => now.checked_sub(jiff::SignedDuration::from_secs(seconds)).ok(),
            (None, None) => None,
        };
        let size = |number: Option<i64>| number.and_then(|number| usize::try_from(number).ok());
        Ok(Wish {
            follow: parameters.is_set(["follow", "follow"]),
            previous: parameters.is_set(["previous", "previous"]),
            timestamps: parameters.is_set(["timestamps", "timestamps"]),
            since,
            tail: size(number("tailLines")?),
            limit: size(number("limitBytes")?),
        })
    }
}

pub(super) async fn logs(
    State(node): State<Node>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let wish = match Wish::read(&Parameters::parse(query.as_deref()), Timestamp::now()) {
        Ok(wish) => wish,
        Err(said) => return (StatusCode::BAD_REQUEST, said).into_response(),
    };
    let located = match node.pods.locate(&namespace, &pod, &container) {
        Ok(located) => located,
        Err(missing) => return missing.into_response(),
    };
    let path = match (wish.previous, located.previous_log_path) {
        (false, _) => located.log_path,
        (true, Some(path)) => path,
        (true, None) => return Missing::Previous { pod, container }.into_response(),
    };
    let ended: Ended = {
        let (pods, instance) = (Arc::clone(&node.pods), located.container);
        Box::new(move || still_running(&*pods, &namespace, &pod, &container, &instance))
    };
    let mut reader = Reader::open(path, wish, ended).await;
    if let Ok(upgrade) = upgrade {
        return upgrade.protocols(PROTOCOLS).on_upgrade(async move |mut socket| {
            let encoded = socket.protocol().is_some_and(|protocol| protocol.as_bytes() == PROTOCOLS[1].as_bytes());
            while let Some(chunk) = reader.next().await {
                let message =
                    if encoded { Message::Text(STANDARD.encode(chunk).into()) } else { Message::Binary(chunk) };
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            let normal = CloseFrame { code: close_code::NORMAL, reason: "".into() };
            // A client that has gone needs no goodbye.
            let _ = socket.send(Message::Close(Some(normal))).await;
        });
    }
    let chunks =
        stream::unfold(reader, async |mut reader| Some((Ok::<_, std::io::Error>(reader.next().await?), reader)));
    ([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(chunks)).into_response()
}

/// Whether that very instance runs; a restarted container has another.
fn still_running(pods: &dyn Pods, namespace: &str, pod: &str, container: &str, instance: &str) -> bool {
    pods.locate(namespace, pod, container).is_ok_and(|now| now.running && now.container == instance)
}

type Ended = Box<dyn Fn() -> bool + Send + Sync>;

struct Reader {
    path: PathBuf,
    file: Option<BufReader<File>>,
    inode: u64,
    wish: Wish,
    running: Ended,
    /// What a tail kept of the past, to be sent first.
    kept: VecDeque<Vec<u8>>,
    /// The beginning of a line that is still being written.
    partial: Vec<u8>,
    sent: usize,
    done: bool,
}

impl Reader {
    async fn open(path: PathBuf, wish: Wish, running: Ended) -> Self {
        let (kept, partial) = (VecDeque::new(), Vec::new());
        let mut reader = Reader { path, file: None, inode: 0, wish, running, kept, partial, sent: 0, done: false };
        reader.reopen().await;
        if let Some(lines) = reader.wish.tail {
            while let Some(line) = reader.line().await {
                reader.kept.push_back(line);
                if reader.kept.len() > lines {
                    reader.kept.pop_front();
                }
            }
        }
        reader
    }

    async fn reopen(&mut self) {
        if let Ok(file) = File::open(&self.path).await {
            self.inode = file.metadata().await.map_or(0, |metadata| metadata.ino());
            self.file = Some(BufReader::new(file));
        }
    }

    /// The next bytes to send; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let mut chunk = Vec::new();
        while !self.done && chunk.len() < CHUNK {
            // Asked before the file is read: what was written before the end is then read for certain.
            let running = self.wish.follow && (self.running)();
            let line = match self.kept.pop_front() {
                Some(line) => Some(line),
                None => self.line().await,
            };
            match line {
                Some(line) => chunk.extend_from_slice(&line),
                None if self.rotated().await => self.reopen().await,
                None if !running => self.done = true,
                None if chunk.is_empty() => tokio::time::sleep(LOOK_AGAIN).await,
                None => break,
            }
        }
        if let Some(limit) = self.wish.limit {
            chunk.truncate(limit - self.sent.min(limit));
            self.sent += chunk.len();
            self.done |= self.sent >= limit;
        }
        (!chunk.is_empty()).then(|| chunk.into())
    }

    async fn rotated(&self) -> bool {
        self.wish.follow && tokio::fs::metadata(&self.path).await.is_ok_and(|now| now.ino() != self.inode)
    }

    /// The next whole line that the wish lets through, as the program wrote it.
    async fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            let file = self.file.as_mut()?;
            let room = LONGEST_LINE.saturating_sub(self.partial.len() as u64).max(1);
            file.take(room).read_until(b'\n', &mut self.partial).await.ok()?;
            if self.partial.last() != Some(&b'\n') && (self.partial.len() as u64) < LONGEST_LINE {
                return None;
            }
            let raw = std::mem::take(&mut self.partial);
            if let Some(text) = shown(&raw, &self.wish) {
                return Some(text);
            }
        }
    }
}

/// `<time> <stream> <F|P> <text>` as the user wants to see it; none if it is too old or no log line.
fn shown(raw: &[u8], wish: &Wish) -> Option<Vec<u8>> {
    let mut fields = raw.splitn(4, |byte| *byte == b' ');
    let (time, _stream, flag, text) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    if let Some(since) = wish.since {
        let written: Timestamp = std::str::from_utf8(time).ok()?.parse().ok()?;
        if written < since {
            return None;
        }
    }
    let mut out = Vec::with_capacity(raw.len());
    if wish.timestamps {
        out.extend_from_slice(time);
        out.push(b' ');
    }
    out.extend_from_slice(text.strip_suffix(b"\n").unwrap_or(text));
    if flag.starts_with(b"F") {
        out.push(b'\n');
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const LINES: &str =
        "2026-01-01T00:00:00.1Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n2026-01-01T00:00:02Z stdout F o\n";

    async fn read(wish: Wish, text: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all(text.as_bytes()).unwrap();
        let mut reader = Reader::open(file.path().to_owned(), wish, Box::new(|| false)).await;
        let mut all = Vec::new();
        while let Some(chunk) = reader.next().await {
            all.extend_from_slice(&chunk);
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn each_wish_is_granted() {
        assert_eq!(read(Wish::default(), LINES).await, "one\ntwo\n");
        assert_eq!(read(Wish { tail: Some(1), ..Wish::default() }, LINES).await, "o\n");
        assert_eq!(read(Wish { tail: Some(0), ..Wish::default() }, LINES).await, "");
        assert_eq!(read(Wish { limit: Some(5), ..Wish::default() }, LINES).await, "one\nt");
        let since = Some("2026-01-01T00:00:02Z".parse().unwrap());
        let stamped = Wish { since, timestamps: true, ..Wish::default() };
        assert_eq!(read(stamped, LINES).await, "2026-01-01T00:00:02Z o\n");
        assert_eq!(read(Wish::default(), "rubbish\n\n").await, "");
    }

    #[test]
    fn wishes_are_read_from_the_query() {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let wish = |query| Wish::read(&Parameters::parse(Some(query)), now);
        let since = Some("2026-01-01T00:00:30Z".parse().unwrap());
        let expected = Wish { follow: true, since, tail: Some(7), ..Wish::default() };
        assert_eq!(wish("follow=true&sinceSeconds=30&tailLines=7"), Ok(expected));
        assert!(wish("tailLines=-1").is_err() && wish("sinceTime=yesterday").is_err());
    }

    #[tokio::test]
    async fn a_follower_reads_through_rotation_to_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:00Z stdout F one\n").unwrap();
        let runs = Arc::new(AtomicBool::new(true));
        let running = Arc::clone(&runs);
        let wish = Wish { follow: true, ..Wish::default() };
        let mut reader = Reader::open(path.clone(), wish, Box::new(move || running.load(Ordering::SeqCst))).await;
        assert_eq!(reader.next().await.unwrap(), "one\n");
        std::fs::rename(&path, folder.path().join("0.log.1")).unwrap();
        std::fs::write(&path, "2026-01-01T00:00:01Z stdout F two\n").unwrap();
        assert_eq!(reader.next().await.unwrap(), "two\n");
        runs.store(false, Ordering::SeqCst);
        assert_eq!(reader.next().await, None);
    }
}
