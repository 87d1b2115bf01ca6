//! An API server alone, for tries with kubectl: `cargo run -p apiserver --example serve -- DIR PORT`, then
//! `kubectl --kubeconfig DIR/kubeconfig get ns`.
#![allow(clippy::print_stdout)]

use std::error::Error;

use apiserver::{ApiServer, Config};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: serve DIR PORT")?;
    let port: u16 = args.next().ok_or("usage: serve DIR PORT")?.parse()?;
    let begun = std::time::Instant::now();
    let server = ApiServer::open(Config { advertise_port: port, ..Config::new(&dir) }).await?;
    let credentials = server.credentials();
    let encode = |pem: &str| STANDARD.encode(pem);
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "portolan",
        "clusters": [{"name": "portolan", "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority-data": encode(&credentials.ca_pem),
        }}],
        "users": [{"name": "admin", "user": {
            "client-certificate-data": encode(&credentials.certificate_pem),
            "client-key-data": encode(&credentials.key_pem),
        }}],
        "contexts": [{"name": "portolan", "context": {"cluster": "portolan", "user": "admin"}}],
    });
    std::fs::write(format!("{dir}/kubeconfig"), kubeconfig.to_string())?;
    // Who reads that we are ready may connect at once.
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("ready after {:?}", begun.elapsed());
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    server.serve_tls(listener, shutdown).await?;
    Ok(())
}
