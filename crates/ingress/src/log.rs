//! The access log: a line a request, in nginx's combined form with what a proxy adds, written by a thread of its own.
//!
//! Workers never wait for the disk: lines go through a bounded queue, and what it cannot take is counted and dropped.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use service_model::ObjectKey;
use telemetry::prometheus_client::metrics::counter::Counter;

use crate::Error;

const WAITING: usize = 8192;

/// Where lines go. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct AccessLog {
    lines: SyncSender<Line>,
    lost: Counter,
}

/// One request, complete when its response is.
#[derive(Debug)]
pub(crate) struct Line {
    pub client: IpAddr,
    pub method: Method,
    pub host: Box<str>,
    pub target: Box<str>,
    pub version: http::Version,
    pub status: StatusCode,
    pub sent: u64,
    pub referer: Option<http::HeaderValue>,
    pub agent: Option<http::HeaderValue>,
    pub started: Instant,
    pub took: Duration,
    pub ingress: Option<ObjectKey>,
    pub endpoint: Option<SocketAddr>,
    /// The body ended as it should.
    pub complete: bool,
}

impl AccessLog {
    /// Starts to write to `path`; `-` is the standard output.
    pub fn open(path: &Path, lost: Counter) -> Result<Self, Error> {
        let failed = |source| Error::AccessLog { path: path.to_owned(), source };
        let out: Box<dyn Write + Send> = match path.to_str() {
            Some("-") => Box::new(io::stdout()),
            Some(_) | None => Box::new(File::options().create(true).append(true).open(path).map_err(failed)?),
        };
        let (lines, received) = sync_channel(WAITING);
        let thread = std::thread::Builder::new().name("access-log".into());
        thread.spawn(move || write(&received, BufWriter::new(out))).map_err(failed)?;
        Ok(AccessLog { lines, lost })
    }

    pub fn write(&self, line: Line) {
        if self.lines.try_send(line).is_err() {
            self.lost.inc();
        }
    }
}

fn write(lines: &Receiver<Line>, mut out: BufWriter<Box<dyn Write + Send>>) {
    while let Ok(line) = lines.recv() {
        let mut next = Some(line);
        while let Some(line) = next {
            if writeln!(out, "{line}").is_err() {
                return;
            }
            next = lines.try_recv().ok();
        }
        // A full disk or a closed pipe: the log ends, requests go on.
        if out.flush().is_err() {
            return;
        }
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let now = jiff::Timestamp::now();
        let time = now.checked_sub(jiff::SignedDuration::try_from(self.started.elapsed()).unwrap_or_default());
        let time = time.unwrap_or(now).strftime("%d/%b/%Y:%H:%M:%S +0000");
        let header =
            |value: &Option<http::HeaderValue>| value.as_ref().map_or_else(|| "-".to_owned(), |v| quoted(v.as_bytes()));
        write!(
            f,
            "{} - - [{time}] \"{} {} {:?}\" {} {} \"{}\" \"{}\" host={} ingress={} endpoint={} took={:.6}{}",
            self.client,
            self.method,
            quoted(self.target.as_bytes()),
            self.version,
            self.status.as_u16(),
            self.sent,
            header(&self.referer),
            header(&self.agent),
            quoted(self.host.as_bytes()),
            self.ingress.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            self.endpoint.map_or_else(|| "-".to_owned(), |endpoint| endpoint.to_string()),
            self.took.as_secs_f64(),
            if self.complete { "" } else { " aborted" },
        )
    }
}

/// A client's text, so that it can neither end the line nor the quotes.
fn quoted(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(*byte)]),
            0x20..=0x7e => text.push(char::from(*byte)),
            other => text.push_str(&format!("\\x{other:02x}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_whatever_the_client_says() {
        let line = Line {
            client: IpAddr::from([192, 0, 2, 1]),
            method: Method::GET,
            host: "shop.example".into(),
            target: "/a?b=\"".into(),
            version: http::Version::HTTP_11,
            status: StatusCode::OK,
            sent: 12,
            referer: None,
            agent: Some(http::HeaderValue::from_bytes(b"x\"\\\xff").unwrap()),
            started: Instant::now(),
            took: Duration::from_micros(1500),
            ingress: Some(ObjectKey::new("default", "shop")),
            endpoint: Some(SocketAddr::from(([10, 0, 0, 1], 80))),
            complete: true,
        };
        let text = line.to_string();
        assert!(text.starts_with("192.0.2.1 - - ["), "{text}");
        let rest = "\"GET /a?b=\\\" HTTP/1.1\" 200 12 \"-\" \"x\\\"\\\\\\xff\" host=shop.example \
                    ingress=default/shop endpoint=10.0.0.1:80 took=0.001500";
        assert!(text.ends_with(rest), "{text}");
    }
}
