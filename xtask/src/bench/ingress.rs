//! `bench ingress`: requests a second through `portolan ingress` beside nginx and haproxy as Debian has them, in the same run.
//!
//! One backend (nginx, a line of text) stands behind all three; `h2load` asks. The three take turns, so that a noisy machine is noisy
//! for each, and a figure is the ratio of one round.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Figures;
use super::ingress_peers::{backend, haproxy, nginx};
use crate::command::{cargo, output, program, run as execute, target};
use crate::{lab, tools};

const HOSTS: usize = 1000;
const PATHS: usize = 10;
const CHANGES: usize = 10;
const BACKEND: &str = "10.99.0.1";

pub fn run(runs: usize, seconds: usize, debug: bool, json: bool, inside_lab: bool) -> Result<()> {
    tools::need_root("bench ingress")?;
    if inside_lab {
        lab::begin()?;
        return measure(runs, seconds, debug, json);
    }
    tools::debian(&[
        ("unshare", "util-linux"),
        ("ip", "iproute2"),
        ("curl", "curl"),
        ("openssl", "openssl"),
        ("nginx", "nginx-light"),
        ("haproxy", "haproxy"),
        ("h2load", "nghttp2-client"),
    ])?;
    tools::kubectl(tools::KUBECTL_NEWEST)?;
    let build = ["build", "--package", "portolan", "--release"];
    execute(cargo().args(&build[..if debug { 3 } else { 4 }]))?;
    let (runs, seconds) = (runs.to_string(), seconds.to_string());
    let mut arguments = vec!["bench", "ingress", "--runs", &runs, "--seconds", &seconds, "--inside-lab"];
    arguments.extend(debug.then_some("--debug"));
    arguments.extend(json.then_some("--json"));
    lab::enter(&arguments)
}

fn measure(runs: usize, seconds: usize, debug: bool, json: bool) -> Result<()> {
    let mut figures = Figures::default();
    let bench = Bench::prepare(debug)?;
    bench.rounds(runs, seconds, &mut figures)?;
    bench.many_routes(runs, seconds)?;
    bench.changes(&mut figures)?;
    figures.add("rss_idle_mb", bench.idle_mb);
    drop(bench);
    figures.print(json);
    Ok(())
}

/// A program that ends with the benchmark.
pub(super) struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = execute(&mut program("kill", &["-TERM", &self.0.id().to_string()]));
        let _ = self.0.wait();
    }
}

struct Bench {
    kubectl: PathBuf,
    folder: PathBuf,
    idle_mb: f64,
    // Dropped in this order: the cluster last.
    _peers: Vec<Running>,
    _ingress: Running,
    _cluster: Running,
}

/// Ports of the three, plain and TLS.
const PEERS: [(&str, u16, u16); 3] = [("nginx", 8101, 8201), ("haproxy", 8102, 8202), ("portolan", 8103, 8203)];

/// What `h2load` is told for each kind of request.
const KINDS: [(&str, bool, &[&str]); 3] =
    [("ratio_h1", false, &["--h1"]), ("ratio_h1_tls", true, &["--h1"]), ("ratio_h2_tls", true, &[])];

impl Bench {
    fn prepare(debug: bool) -> Result<Self> {
        let folder = target().join("bench/ingress");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        output(&mut program("ip", &["address", "add", &format!("{BACKEND}/32"), "dev", "lo"]))?;
        let hosts = folder.join("hosts");
        fs::write(&hosts, "127.0.0.1 localhost bench.example h500.example\n")?;
        output(&mut program("mount", &["--bind", &hosts.to_string_lossy(), "/etc/hosts"]))?;
        certificate(&folder)?;
        let mut peers = vec![backend(&folder, BACKEND)?, nginx(&folder, BACKEND, 8101, 8201)?];
        peers.push(haproxy(&folder, BACKEND, 8102, 8202)?);
        let portolan = target().join(if debug { "debug/portolan" } else { "release/portolan" });
        let kubectl = tools::kubectl(tools::KUBECTL_NEWEST)?;
        let cluster = start_cluster(&portolan, &folder)?;
        let bench = |ingress, idle_mb| Bench {
            kubectl: kubectl.clone(),
            folder: folder.clone(),
            idle_mb,
            _peers: peers,
            _ingress: ingress,
            _cluster: cluster,
        };
        apply(&kubectl, &folder, &objects(&folder)?)?;
        let ingress = start_ingress(&portolan, &folder)?;
        let pid = ingress.0.id();
        for port in [8101, 8102, 8103] {
            until(&format!("200 on port {port}"), || status(port, "bench.example", "/") == Some(200))?;
        }
        std::thread::sleep(Duration::from_secs(3));
        Ok(bench(ingress, resident_mb(pid)?))
    }

    fn rounds(&self, runs: usize, seconds: usize, figures: &mut Figures) -> Result<()> {
        for round in 1..=runs {
            println!("round {round} of {runs}");
            for (key, tls, flags) in KINDS {
                let mut seen = Vec::new();
                for (name, plain, secure) in PEERS {
                    let url = if tls {
                        format!("https://bench.example:{secure}/")
                    } else {
                        format!("http://bench.example:{plain}/")
                    };
                    let load = self.load(&url, flags, seconds)?;
                    println!("  {key:<14} {name:<10} {:>10.0} requests/s, p99 {:>8.3} ms", load.rate, load.p99_ms);
                    seen.push(load);
                }
                let [nginx, haproxy, ours] = seen.as_slice() else { bail!("three were measured") };
                figures.add(key, ours.rate / nginx.rate.max(haproxy.rate));
                if key == "ratio_h1" {
                    figures.add("ratio_p99_h1", nginx.p99_ms.min(haproxy.p99_ms) / ours.p99_ms);
                }
            }
        }
        Ok(())
    }

    /// The same requests with ten thousand routes; told, since no slower is what is wanted.
    fn many_routes(&self, runs: usize, seconds: usize) -> Result<()> {
        let few = self.load("http://bench.example:8103/", &["--h1"], seconds)?.rate;
        apply(&self.kubectl, &self.folder, &many())?;
        until("the last of many routes", || status(8103, &format!("h{}.example", HOSTS - 1), "/p9/x") == Some(200))?;
        let mut ratios = Vec::new();
        for _ in 0..runs {
            ratios.push(self.load("http://h500.example:8103/p5/x", &["--h1"], seconds)?.rate / few);
        }
        println!("with {HOSTS} hosts × {PATHS} paths: {:.3} × the rate with one route", super::median(&ratios));
        Ok(())
    }

    /// From the write of a change to the API until a request goes the new way.
    fn changes(&self, figures: &mut Figures) -> Result<()> {
        let mut proxy = program(&self.kubectl, &["proxy", "--port=8104"]);
        let proxy = proxy.env("KUBECONFIG", self.folder.join("data/kubeconfig")).stdout(Stdio::null()).spawn()?;
        let _proxy = Running(proxy);
        until("kubectl proxy", || TcpStream::connect("127.0.0.1:8104").is_ok())?;
        for change in 0..CHANGES {
            let path = format!("/new{change}");
            let patch =
                json!([{"op": "replace", "path": "/spec/rules/0/http/paths/0/path", "value": path}]).to_string();
            let mut asking = Kept::connect(8103)?;
            let mut api = TcpStream::connect("127.0.0.1:8104")?;
            let request = format!(
                "PATCH /apis/networking.k8s.io/v1/namespaces/default/ingresses/h1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\
                 Content-Type: application/json-patch+json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{patch}",
                patch.len()
            );
            let start = Instant::now();
            api.write_all(request.as_bytes())?;
            while asking.status("h1.example", &path)? != 200 {
                if start.elapsed() > Duration::from_secs(30) {
                    bail!("change {change} was not seen");
                }
            }
            figures.add("route_change_ms", start.elapsed().as_secs_f64() * 1e3);
            let mut answer = String::new();
            let _ = api.read_to_string(&mut answer);
        }
        Ok(())
    }

    fn load(&self, url: &str, flags: &[&str], seconds: usize) -> Result<Load> {
        let log = self.folder.join("h2load.log");
        let _ = fs::remove_file(&log);
        let (duration, log_flag) = (seconds.to_string(), format!("--log-file={}", log.display()));
        let common = ["-c", "64", "-t", "1", "-D", &duration, "--warm-up-time=1", &log_flag];
        let said = output(program("h2load", &common).args(flags).arg(url))?;
        let failed = said.lines().find(|line| line.starts_with("requests:")).unwrap_or_default();
        if !failed.contains(" 0 failed, 0 errored, 0 timeout") {
            bail!("{url}: {failed}");
        }
        let rate = said.lines().find_map(|line| line.split(", ").nth(1)?.strip_suffix(" req/s")?.parse().ok());
        let rate = rate.with_context(|| format!("h2load told no rate\n{said}"))?;
        let text = fs::read_to_string(&log).unwrap_or_default();
        let mut micros: Vec<u64> = text.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).collect();
        micros.sort_unstable();
        let p99 = micros.get(micros.len() * 99 / 100).copied().unwrap_or(0);
        Ok(Load { rate, p99_ms: p99 as f64 / 1e3 })
    }
}

struct Load {
    rate: f64,
    p99_ms: f64,
}

fn certificate(folder: &Path) -> Result<()> {
    let (key, crt) = (folder.join("tls.key"), folder.join("tls.crt"));
    let (key, crt) = (key.to_string_lossy(), crt.to_string_lossy());
    let flags = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let names = ["-subj", "/CN=bench.example", "-addext", "subjectAltName=DNS:bench.example"];
    output(program("openssl", &flags).args(names).args(["-keyout", &key, "-out", &crt]))?;
    // haproxy wants both in one file.
    fs::write(folder.join("tls.pem"), format!("{}{}", fs::read_to_string(&*crt)?, fs::read_to_string(&*key)?))?;
    Ok(())
}

fn start_cluster(portolan: &Path, folder: &Path) -> Result<Running> {
    let data = folder.join("data");
    let data = data.to_string_lossy();
    let mut up = program(portolan, &["up", "--no-kubeconfig", "--no-ingress", "--data-dir", &data]);
    let mut up = Running(up.stdout(Stdio::piped()).spawn().context("cannot start portolan")?);
    let mut lines = BufReader::new(up.0.stdout.take().context("no output")?).lines();
    if !lines.by_ref().map_while(Result::ok).any(|line| line.starts_with("✓ node is Ready")) {
        bail!("portolan up ended before its node was ready");
    }
    std::thread::spawn(move || lines.for_each(drop));
    Ok(up)
}

fn start_ingress(portolan: &Path, folder: &Path) -> Result<Running> {
    let kubeconfig = folder.join("data/kubeconfig");
    let kubeconfig = kubeconfig.to_string_lossy();
    let flags = [
        "ingress",
        "--kubeconfig",
        &kubeconfig,
        "--listen",
        "127.0.0.1",
        "--http-port",
        "8103",
        "--https-port",
        "8203",
    ];
    let more = ["--publish-address", "127.0.0.1", "--metrics-address", "127.0.0.1:8303"];
    let started =
        program(portolan, &flags).args(more).stdout(Stdio::null()).spawn().context("cannot start portolan")?;
    Ok(Running(started))
}

/// A Service with the backend as its endpoint, an Ingress with TLS for it.
fn objects(folder: &Path) -> Result<Vec<Value>> {
    let data = json!({"tls.crt": fs::read_to_string(folder.join("tls.crt"))?, "tls.key": fs::read_to_string(folder.join("tls.key"))?});
    let mut ingress = ingress("bench", "bench.example", 1);
    ingress["spec"]["tls"] = json!([{"hosts": ["bench.example"], "secretName": "tls"}]);
    ingress["spec"]["rules"][0]["http"]["paths"][0]["path"] = json!("/");
    Ok(vec![
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "portolan"},
               "spec": {"controller": "portolan.dev/ingress"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "tls"}, "stringData": data}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80, "targetPort": 9000}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
               "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
               "ports": [{"port": 9000, "protocol": "TCP"}],
               "endpoints": [{"addresses": [BACKEND], "conditions": {"ready": true}}]}),
        ingress,
    ])
}

fn ingress(name: &str, host: &str, paths: usize) -> Value {
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let path = |n: usize| json!({"path": format!("/p{n}"), "pathType": "Prefix", "backend": backend});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name},
           "spec": {"ingressClassName": "portolan", "rules": [{"host": host, "http": {"paths": (0..paths).map(path).collect::<Vec<_>>()}}]}})
}

fn many() -> Vec<Value> {
    (0..HOSTS).map(|n| ingress(&format!("h{n}"), &format!("h{n}.example"), PATHS)).collect()
}

fn apply(kubectl: &Path, folder: &Path, objects: &[Value]) -> Result<()> {
    let file = folder.join("objects.json");
    fs::write(&file, json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
    let file = file.to_string_lossy();
    let mut command = program(kubectl, &["create", "--validate=false", "-f", &file]);
    output(command.env("KUBECONFIG", folder.join("data/kubeconfig"))).map(drop)
}

/// A connection that is kept for many requests.
struct Kept(BufReader<TcpStream>);

impl Kept {
    fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Ok(Kept(BufReader::new(stream)))
    }

    fn status(&mut self, host: &str, path: &str) -> Result<u16> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes())?;
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                bail!("the connection ended");
            }
            let lower = line.trim().to_ascii_lowercase();
            if status == 0 {
                status = lower.split(' ').nth(1).and_then(|text| text.parse().ok()).context("no status")?;
            } else if let Some(text) = lower.strip_prefix("content-length:") {
                length = text.trim().parse()?;
            } else if lower.is_empty() {
                break;
            }
        }
        std::io::copy(&mut self.0.by_ref().take(length), &mut std::io::sink())?;
        Ok(status)
    }
}

fn status(port: u16, host: &str, path: &str) -> Option<u16> {
    Kept::connect(port).ok()?.status(host, path).ok()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > Duration::from_secs(120) {
            bail!("never {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn resident_mb(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")?;
    Ok(kib * 1024.0 / 1e6)
}
