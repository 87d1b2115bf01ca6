//! Clients that are slow, silent, half gone or greedy: they get what they asked for or are let go, memory stays bounded, and nobody else
//! notices.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, Config, User};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Only a fault runs into the end of it.
const PATIENCE: Duration = Duration::from_secs(60);

struct Lab {
    server: ApiServer,
    port: u16,
    shutdown: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn lab() -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let server = ApiServer::open(Config::new(dir.path())).await.unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let shutdown = CancellationToken::new();
    let (serving, stop) = (server.clone(), shutdown.clone());
    tokio::spawn(async move { serving.serve_tls(listener, stop).await });
    Lab { server, port, shutdown, _dir: dir }
}

impl Lab {
    /// A connection without a word of HTTP yet. Nobody in particular: that is enough to be a burden.
    async fn connect(&self) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.server.ca_pem().as_bytes()).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await.unwrap()
    }

    async fn call(&self, method: &str, path: &str, body: impl Into<Bytes>) -> (StatusCode, Value) {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header("content-type", media);
        let response =
            self.server.service(User::admin()).oneshot(request.body(Full::new(body.into())).unwrap()).await.unwrap();
        let code = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
}

async fn read_some(stream: &mut TlsStream<TcpStream>) -> String {
    let mut buffer = vec![0; 4096];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap_or(0);
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

/// Resident memory of this process, which is the server's too, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_requests_keep_nobody_from_being_served() {
    let lab = lab().await;
    let mut halves = Vec::new();
    for number in 0..300 {
        // A third says nothing after TCP, a third stops within the head, a third within the body.
        if number % 3 == 0 {
            TcpStream::connect(("127.0.0.1", lab.port)).await.unwrap().write_all(b"\x16").await.unwrap();
            continue;
        }
        let mut stream = lab.connect().await;
        let begun: &[u8] = match number % 3 {
            1 => b"GET /livez HTTP/1.1\r\nhost: a\r\nx-long: ",
            _ => {
                b"POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n{\"a\":"
            }
        };
        stream.write_all(begun).await.unwrap();
        halves.push(stream);
    }
    let mut other = lab.connect().await;
    other.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let answer = read_some(&mut other).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert_eq!(lab.call("GET", "/api/v1/namespaces", "").await.0, StatusCode::OK);
    // One that finishes after all is answered.
    let mut late = halves.swap_remove(0);
    late.write_all(b"x\r\n\r\n").await.unwrap();
    assert!(read_some(&mut late).await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_said_all_it_will_say_is_still_answered() {
    let lab = lab().await;
    let mut stream = lab.connect().await;
    stream.write_all(b"GET /version HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    // Answered or closed, but not left hanging; and the next one is served.
    let first = read_some(&mut stream).await;
    assert!(first.is_empty() || first.starts_with("HTTP/1.1 200 OK"), "{first}");
    let mut other = lab.connect().await;
    other.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(read_some(&mut other).await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_never_read_cost_no_memory_and_are_told_that_they_are_late() {
    const SILENT: usize = 50;
    const CHANGES: usize = 600;
    let lab = lab().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let filling = "x".repeat(200 << 10);
    let object = json!({"metadata": {"name": "big"}, "data": {"a": filling, "n": "0"}});
    assert_eq!(lab.call("POST", path, object.to_string()).await.0, StatusCode::CREATED);
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        let request = Request::get(format!("{path}?watch=true")).body(Full::<Bytes>::default()).unwrap();
        let response = lab.server.service(User::admin()).oneshot(request).await.unwrap();
        silent.push(response.into_body());
    }
    let before = resident();
    for number in 1..=CHANGES {
        let change = json!({"data": {"n": number.to_string()}}).to_string();
        assert_eq!(lab.call("PATCH", &format!("{path}/big"), change).await.0, StatusCode::OK);
    }
    // Unread, all of that would be 6 GB: each watcher's 120 MB.
    let grown = resident().saturating_sub(before);
    println!("{SILENT} silent watchers, {CHANGES} changes of 200 KiB: {} MB more", grown / 1_000_000);
    assert!(grown < 400_000_000, "{grown} bytes");
    let mut late = silent.swap_remove(0);
    let last = loop {
        match tokio::time::timeout(PATIENCE, late.frame()).await.unwrap() {
            Some(frame) => {
                let data = frame.unwrap().into_data().unwrap();
                let event: Value = serde_json::from_slice(&data).unwrap();
                if event["type"] == "ERROR" {
                    break event;
                }
            }
            None => panic!("the watch ended without a word"),
        }
    };
    assert_eq!((&last["object"]["code"], &last["object"]["reason"]), (&json!(410), &json!("Expired")), "{last}");
    assert_eq!(lab.call("GET", &format!("{path}/big"), "").await.1["data"]["n"], CHANGES.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_watchers_all_hear_of_a_change() {
    let lab = lab().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let mut watchers = Vec::new();
    for _ in 0..1000 {
        let request = Request::get(format!("{path}?watch=true")).body(Full::<Bytes>::default()).unwrap();
        watchers.push(lab.server.service(User::admin()).oneshot(request).await.unwrap().into_body());
    }
    let object = json!({"metadata": {"name": "news"}});
    assert_eq!(lab.call("POST", path, object.to_string()).await.0, StatusCode::CREATED);
    for mut watcher in watchers {
        let frame = tokio::time::timeout(PATIENCE, watcher.frame()).await.unwrap().unwrap().unwrap();
        let event: Value = serde_json::from_slice(&frame.into_data().unwrap()).unwrap();
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("news")));
    }
}

#[tokio::test]
async fn what_is_too_much_is_refused_with_a_status() {
    let lab = lab().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let (code, answer) = lab.call("POST", path, vec![b' '; 4 << 20]).await;
    assert_eq!((code, &answer["reason"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("RequestEntityTooLarge")), "{answer}");
    let deep = format!("{{\"metadata\":{{\"annotations\":{}{}}}}}", "[".repeat(100_000), "]".repeat(100_000));
    let (code, answer) = lab.call("POST", path, deep.clone()).await;
    assert_eq!((code, &answer["kind"]), (StatusCode::BAD_REQUEST, &json!("Status")), "{answer}");
    let (code, answer) = lab.call("PATCH", &format!("{path}/x"), deep).await;
    assert!(code.is_client_error() && answer["kind"] == "Status", "{code} {answer}");
    let selector = format!("{path}?labelSelector={}", "a%3Db%2C".repeat(8_000));
    let (code, answer) = lab.call("GET", &selector, "").await;
    assert!(code == StatusCode::OK || (code.is_client_error() && answer["kind"] == "Status"), "{code} {answer}");
    assert_eq!(lab.call("GET", path, "").await.0, StatusCode::OK);
}
