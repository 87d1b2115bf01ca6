//! Real kubectl, the oldest and the newest that we promise to serve, against the server over TLS: sessions of commands with what they print.
//!
//! A session is a text file below `data/kubectl` in the form of `testkit::session`. With `UPDATE_GOLDENS=1` the files are written anew, to
//! be read like code.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use apiserver::{ApiServer, Config};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use testkit::session;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A server with a kubeconfig for it, and a folder that has `kubectl` in it.
struct Lab {
    dir: tempfile::TempDir,
    shutdown: CancellationToken,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn lab(kubectl: &Path) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = Config { advertise_port: port, ..Config::new(dir.path().join("data")) };
    let server = ApiServer::open(config).await.unwrap();
    let credentials = server.credentials();
    let encode = |pem: &str| STANDARD.encode(pem);
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority-data": encode(&credentials.ca_pem),
        }}],
        "users": [{"name": "admin", "user": {
            "client-certificate-data": encode(&credentials.certificate_pem),
            "client-key-data": encode(&credentials.key_pem),
        }}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
    });
    std::fs::write(dir.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
    std::fs::create_dir(dir.path().join("bin")).unwrap();
    std::os::unix::fs::symlink(kubectl, dir.path().join("bin/kubectl")).unwrap();
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move { server.serve_tls(listener, stop).await });
    Lab { dir, shutdown }
}

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/kubectl")
}

async fn replay(name: &str) {
    let file = data().join(format!("{name}.session"));
    let text = std::fs::read_to_string(&file).unwrap();
    let kubectls = session::kubectls();
    assert!(!kubectls.is_empty(), "no kubectl: set KUBECTL_NEWEST, as `cargo xtask test` does");
    let update = std::env::var_os("UPDATE_GOLDENS").is_some();
    for kubectl in kubectls {
        let lab = lab(&kubectl).await;
        let mut written: Vec<String> =
            text.lines().take_while(|line| !line.starts_with("$ ")).map(str::to_owned).collect();
        let mut differences = Vec::new();
        for session::Line { command, expected, .. } in session::lines(&text) {
            // Commands wait for each other and for the server, which shares our threads.
            let home = lab.dir.path();
            let output = tokio::task::block_in_place(|| session::run(command, &data().join("files"), home)).unwrap();
            let said = session::said(&output);
            if said != expected {
                differences.push(format!("$ {command}\nexpected:\n{expected}\nfound:\n{said}\n"));
            }
            written.push(format!("$ {command}"));
            written.extend((!said.is_empty()).then_some(said));
        }
        if update {
            std::fs::write(&file, written.join("\n") + "\n").unwrap();
        } else {
            assert!(differences.is_empty(), "{} of {name}:\n{}", kubectl.display(), differences.join("\n"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services() {
    replay("services").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads() {
    replay("workloads").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration() {
    replay("configuration").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods() {
    replay("pods").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn applying() {
    replay("applying").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights() {
    replay("rights").await;
}
