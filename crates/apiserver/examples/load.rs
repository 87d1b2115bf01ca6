//! The load of `cargo xtask bench api`: runs the example `serve` as a process of its own, writes to it, lists and watches through TLS, and
//! prints one JSON object. `load DIR SERVE PORT COUNT WATCHERS`: the folder for data, the program, its port, how many Services, how many
//! watchers.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const SYNCS: usize = 300;
const SINGLE: usize = 300;
const WRITERS: usize = 64;
const LISTS: usize = 9;
const CHANGES: usize = 40;

struct Options {
    dir: PathBuf,
    serve: PathBuf,
    port: u16,
    services: usize,
    watchers: usize,
}

fn options() -> Outcome<Options> {
    let usage = "usage: load DIR SERVE PORT SERVICES WATCHERS";
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [dir, serve, port, services, watchers] = words.as_slice() else { return Err(usage.into()) };
    Ok(Options {
        dir: dir.into(),
        serve: serve.into(),
        port: port.parse()?,
        services: services.parse()?,
        watchers: watchers.parse()?,
    })
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let options = options()?;
    fs::create_dir_all(&options.dir)?;
    let fsync = percentile(&mut syncs(&options.dir)?, 50);
    let (mut server, _) = start(&options)?;
    let measured = measure(&options, &server).await;
    // Not asked to stop: the next start is the one after a crash.
    server.kill()?;
    server.wait()?;
    let mut figures = measured?;
    let (mut server, restarted) = start(&options)?;
    server.kill()?;
    server.wait()?;
    figures["fsync_p50_ms"] = milliseconds(fsync).into();
    figures["restart_10000_s"] = restarted.as_secs_f64().into();
    println!("{figures}");
    Ok(())
}

/// What the disk itself needs to make 4 KiB at the end of a file durable.
fn syncs(dir: &Path) -> Outcome<Vec<Duration>> {
    let path = dir.join("sync");
    let mut file = fs::File::create(&path)?;
    let mut taken = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.write_all(&[1; 4096])?;
        file.sync_data()?;
        taken.push(begun.elapsed());
    }
    fs::remove_file(path)?;
    Ok(taken)
}

/// The server, and how long it took until it was ready to answer.
fn start(options: &Options) -> Outcome<(Child, Duration)> {
    let begun = Instant::now();
    let mut server = Command::new(&options.serve)
        .arg(options.dir.join("data"))
        .arg(options.port.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(server.stdout.take().ok_or("no output")?).lines();
    match lines.next() {
        Some(Ok(line)) if line.starts_with("ready") => Ok((server, begun.elapsed())),
        other => Err(format!("the server did not start: {other:?}").into()),
    }
}

async fn measure(options: &Options, server: &Child) -> Outcome<Value> {
    let client = Arc::new(Client::new(options)?);
    let mut single = client.connect().await?;
    let mut taken = Vec::with_capacity(SINGLE);
    for number in 0..SINGLE {
        let begun = Instant::now();
        create(&mut single, "services", &service(&format!("one-{number}"))).await?;
        taken.push(begun.elapsed());
    }
    let (p50, p99) = (percentile(&mut taken, 50), percentile(&mut taken, 99));
    let left = options.services.saturating_sub(SINGLE);
    let begun = Instant::now();
    together(&client, left, |number| ("services", service(&format!("many-{number}")))).await?;
    let rate = left as f64 / begun.elapsed().as_secs_f64();
    together(&client, options.services, |number| ("endpointslices", slice(number))).await?;
    let mut lists = Vec::with_capacity(LISTS);
    for _ in 0..LISTS {
        let begun = Instant::now();
        let (code, body) = call(&mut single, "GET", "/api/v1/services", None).await?;
        lists.push(begun.elapsed());
        if code != StatusCode::OK || body.len() < options.services * 100 {
            return Err(format!("the list has {} bytes", body.len()).into());
        }
    }
    let resident = resident_mb(server.id())?;
    let mut arrivals = watched(&client, options.watchers).await?;
    Ok(json!({
        "create_p50_ms": milliseconds(p50),
        "create_p99_ms": milliseconds(p99),
        "create_64_per_s": rate,
        "list_10000_ms": milliseconds(percentile(&mut lists, 50)),
        "watch_1000_p99_ms": milliseconds(percentile(&mut arrivals, 99)),
        "rss_10000_mb": resident,
    }))
}

/// Creates `count` objects with 64 writers, each on its own connection.
async fn together(
    client: &Arc<Client>,
    count: usize,
    object: impl Fn(usize) -> (&'static str, Value) + Copy + Send + Sync + 'static,
) -> Outcome<()> {
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut connection = client.connect().await?;
                for number in (writer..count).step_by(WRITERS) {
                    let (plural, object) = object(number);
                    create(&mut connection, plural, &object).await?;
                }
                Outcome::Ok(())
            })
        })
        .collect();
    for writer in writers {
        writer.await??;
    }
    Ok(())
}

/// From the start of each write to each watcher's reading of it.
async fn watched(client: &Arc<Client>, watchers: usize) -> Outcome<Vec<Duration>> {
    let mut single = client.connect().await?;
    create(&mut single, "configmaps", &json!({"metadata": {"name": "bench"}, "data": {"n": "-"}})).await?;
    let (sender, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..watchers {
        let mut connection = client.connect().await?;
        let path = "/api/v1/namespaces/default/configmaps?watch=true&fieldSelector=metadata.name%3Dbench";
        let request = Request::get(path).header("host", "bench").body(Full::<Bytes>::default())?;
        let mut body = connection.send_request(request).await?.into_body();
        let sender = sender.clone();
        tokio::spawn(async move {
            // The connection lives as long as its watch.
            let _connection = connection;
            while let Some(Ok(frame)) = body.frame().await {
                let now = Instant::now();
                let seen = frame.into_data().ok().and_then(|data| serde_json::from_slice::<Value>(&data).ok());
                let number = seen.and_then(|event| event["object"]["data"]["n"].as_str()?.parse::<usize>().ok());
                if let Some(number) = number
                    && sender.send((number, now)).is_err()
                {
                    return;
                }
            }
        });
    }
    let mut taken = Vec::with_capacity(CHANGES * watchers);
    let path = "/api/v1/namespaces/default/configmaps/bench";
    for number in 0..CHANGES {
        let begun = Instant::now();
        let patch = json!({"data": {"n": number.to_string()}});
        let (code, body) = call(&mut single, "PATCH", path, Some(&patch)).await?;
        if code != StatusCode::OK {
            return Err(String::from_utf8_lossy(&body).into());
        }
        for _ in 0..watchers {
            let arrived = tokio::time::timeout(Duration::from_secs(30), arrivals.recv()).await?;
            let (seen, at) = arrived.ok_or("all watches ended")?;
            if seen != number {
                return Err(format!("a watcher saw change {seen} after change {number}").into());
            }
            taken.push(at.saturating_duration_since(begun));
        }
    }
    Ok(taken)
}

fn service(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

fn slice(number: usize) -> Value {
    let name = format!("many-{number}");
    let endpoint = |index: usize| {
        json!({
            "addresses": [format!("10.{}.{}.{}", 128 + number / 65_536, number / 256 % 256, 1 + number % 25 * 10 + index)],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": "node-1",
            "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("{name}-{index}")},
        })
    };
    json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": (0..10).map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

async fn create(connection: &mut SendRequest<Full<Bytes>>, plural: &str, object: &Value) -> Outcome<()> {
    let root = if plural == "endpointslices" { "/apis/discovery.k8s.io/v1" } else { "/api/v1" };
    let (code, body) = call(connection, "POST", &format!("{root}/namespaces/default/{plural}"), Some(object)).await?;
    if code == StatusCode::CREATED { Ok(()) } else { Err(String::from_utf8_lossy(&body).into()) }
}

async fn call(
    connection: &mut SendRequest<Full<Bytes>>,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Outcome<(StatusCode, Bytes)> {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    let request = Request::builder().method(method).uri(path).header("host", "bench").header("content-type", media);
    connection.ready().await?;
    let response = connection.send_request(request.body(Full::from(bytes))?).await?;
    let code = response.status();
    Ok((code, response.into_body().collect().await?.to_bytes()))
}

struct Client {
    tls: TlsConnector,
    port: u16,
}

impl Client {
    /// By the administrator's kubeconfig, which the server wrote.
    fn new(options: &Options) -> Outcome<Client> {
        let config: Value = serde_json::from_slice(&fs::read(options.dir.join("data/kubeconfig"))?)?;
        let pem = |pointer: &str| -> Outcome<Vec<u8>> {
            Ok(STANDARD.decode(config.pointer(pointer).and_then(Value::as_str).ok_or("no such entry")?)?)
        };
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem("/clusters/0/cluster/certificate-authority-data")?)?)?;
        let certificate = CertificateDer::from_pem_slice(&pem("/users/0/user/client-certificate-data")?)?;
        let key = PrivateKeyDer::from_pem_slice(&pem("/users/0/user/client-key-data")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        Ok(Client { tls: TlsConnector::from(Arc::new(config)), port: options.port })
    }

    async fn connect(&self) -> Outcome<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        let tls = self.tls.connect("localhost".try_into()?, stream).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

fn percentile(values: &mut [Duration], percent: usize) -> Duration {
    values.sort_unstable();
    let at = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(at).copied().unwrap_or_default()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn resident_mb(process: u32) -> Outcome<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0 / 1e6)
}
