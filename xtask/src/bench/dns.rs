//! `bench dns`: questions a second of processor time, beside Knot DNS with the same names; waiting at half load; memory; how soon a change is
//! answered.

mod api;

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Figures;
use super::start::{cpu_seconds, resident_mb};
use crate::command::{cargo, output, program, run as execute, target};
use crate::{lab, tools};
use api::Api;

const PORT: u16 = 5301;
const YARDSTICK_PORT: u16 = 5302;
const ENDPOINTS: usize = 10;

pub struct Sizes {
    pub runs: usize,
    pub services: usize,
    pub seconds: u64,
    /// Measure the binary that is there, whatever its profile.
    pub debug: bool,
}

pub fn run(sizes: &Sizes, json: bool, inside_lab: bool) -> Result<()> {
    tools::need_root("bench dns")?;
    if inside_lab {
        lab::begin()?;
        return measure(sizes, json);
    }
    tools::debian(&[("unshare", "util-linux"), ("ip", "iproute2"), ("dnsperf", "dnsperf"), ("knotd", "knot")])?;
    if !sizes.debug {
        execute(cargo().args(["build", "--release", "--package", "portolan"]))?;
    }
    let [runs, services, seconds] = [sizes.runs, sizes.services, sizes.seconds as usize].map(|n| n.to_string());
    let mut arguments =
        vec!["bench", "dns", "--runs", &runs, "--services", &services, "--seconds", &seconds, "--inside-lab"];
    arguments.extend(sizes.debug.then_some("--debug"));
    arguments.extend(json.then_some("--json"));
    lab::enter(&arguments)
}

fn measure(sizes: &Sizes, json: bool) -> Result<()> {
    let folder = target().join("bench/dns");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let queries = folder.join("queries");
    // Every name once, in an order that no cache of the processor can foresee.
    let order = (0..sizes.services).map(|n| n * 7919 % sizes.services);
    fs::write(&queries, order.map(|n| format!("{}. A\n", name(n))).collect::<String>())?;
    let mut figures = Figures::default();
    for run in 1..=sizes.runs {
        println!("run {run} of {}", sizes.runs);
        ours(sizes, &folder, &queries, &mut figures)?;
        yardstick(sizes, &folder, &queries, &mut figures)?;
    }
    figures.print(json);
    Ok(())
}

fn name(n: usize) -> String {
    format!("service-{n}.bench.svc.cluster.local")
}

/// 10.96.0.0 and on; the addresses themselves are of no interest.
fn cluster_ip(n: usize) -> String {
    format!("10.{}.{}.{}", 96 + (n >> 16), n >> 8 & 255, n & 255)
}

fn ours(sizes: &Sizes, folder: &Path, queries: &Path, figures: &mut Figures) -> Result<()> {
    let api = Api::start(sizes.services)?;
    let kubeconfig = folder.join("kubeconfig");
    fs::write(&kubeconfig, api.kubeconfig())?;
    let binary = target().join(if sizes.debug { "debug/portolan" } else { "release/portolan" });
    let listen = format!("127.0.0.1:{PORT}");
    let kubeconfig = kubeconfig.to_string_lossy();
    let arguments =
        ["dns", "--kubeconfig", &kubeconfig, "--listen", &listen, "--upstream", "127.0.0.1:1", "--health", "off"];
    let mut command = program(binary, &arguments);
    command.args(["--ready", "off", "--metrics", "off", "--handover", "off"]);
    let server = Server::start(&mut command, folder, "portolan.log")?;
    until(|| first_address(PORT, &name(sizes.services - 1)).is_some())?;
    // What the first lists took is given back within this.
    std::thread::sleep(Duration::from_secs(2));
    figures.add("rss_10000_mb", resident_mb(server.pid())?);
    for round in 0..20 {
        figures.add("swap_ms", swap(&api, sizes.services + round)?);
    }
    let met = perf(&server, PORT, queries, sizes.seconds, None)?;
    figures.add("qps", met.per_cpu_second);
    let (half, p99) = half_load(&server, PORT, queries, sizes, met.per_second / 2.0)?;
    figures.add("errors", met.errors + half.errors);
    figures.add("p99_half_load_ms", p99);
    Ok(())
}

/// So many questions a second, and beside them the probe; its 99th percentile in milliseconds.
fn half_load(server: &Server, port: u16, queries: &Path, sizes: &Sizes, rate: f64) -> Result<(Met, f64)> {
    let (seconds, services) = (sizes.seconds, sizes.services);
    let waits = std::thread::spawn(move || waiting(port, seconds, services));
    let met = perf(server, port, queries, seconds, Some(rate))?;
    let mut waits = waits.join().map_err(|_| anyhow::anyhow!("the probe panicked"))??;
    waits.sort_by(f64::total_cmp);
    Ok((met, waits.get(waits.len() * 99 / 100).copied().unwrap_or(f64::NAN)))
}

/// The same names from a static zone.
fn yardstick(sizes: &Sizes, folder: &Path, queries: &Path, figures: &mut Figures) -> Result<()> {
    let soa = "cluster.local. 30 SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 30\n\
               cluster.local. 30 NS ns.dns.cluster.local.\nns.dns.cluster.local. 30 A 10.96.0.10\n";
    let records = (0..sizes.services).map(|n| format!("{}. 30 A {}\n", name(n), cluster_ip(n)));
    fs::write(folder.join("cluster.local.zone"), soa.to_owned() + &records.collect::<String>())?;
    let folder_text = folder.display();
    let config = format!(
        "server:\n  rundir: {folder_text}\n  listen: 127.0.0.1@{YARDSTICK_PORT}\n  udp-workers: 2\ndatabase:\n  storage: {folder_text}\n\
         zone:\n  - domain: cluster.local\n    storage: {folder_text}\n    file: cluster.local.zone\n    zonefile-sync: -1\n    \
         journal-content: none\n"
    );
    let path = folder.join("knot.conf");
    fs::write(&path, config)?;
    let mut command = program("knotd", &["--config", &path.to_string_lossy()]);
    let server = Server::start(&mut command, folder, "knot.log")?;
    until(|| first_address(YARDSTICK_PORT, &name(sizes.services - 1)).is_some())?;
    let met = perf(&server, YARDSTICK_PORT, queries, sizes.seconds, None)?;
    figures.add("yardstick_qps", met.per_cpu_second);
    let (_, p99) = half_load(&server, YARDSTICK_PORT, queries, sizes, met.per_second / 2.0)?;
    figures.add("yardstick_p99_half_load_ms", p99);
    Ok(())
}

/// A server that ends with its measurement.
struct Server(Child);

impl Server {
    fn start(command: &mut Command, folder: &Path, log: &str) -> Result<Self> {
        let log: PathBuf = folder.join(log);
        let file = fs::File::create(&log)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        Ok(Server(child.with_context(|| format!("cannot start a server\n  hint: see {}", log.display()))?))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Met {
    per_cpu_second: f64,
    per_second: f64,
    errors: f64,
}

/// dnsperf for so many seconds, as fast as answers come or at a rate.
fn perf(server: &Server, port: u16, queries: &Path, seconds: u64, rate: Option<f64>) -> Result<Met> {
    let (port, seconds) = (port.to_string(), seconds.to_string());
    let queries = queries.to_string_lossy();
    let mut command =
        program("dnsperf", &["-s", "127.0.0.1", "-p", &port, "-d", &queries, "-l", &seconds, "-c", "16", "-q", "200"]);
    if let Some(rate) = rate {
        command.args(["-Q", &format!("{rate:.0}")]);
    }
    let before = cpu_seconds(server.pid())?;
    let said = output(&mut command)?;
    let spent = cpu_seconds(server.pid())? - before;
    let number = |label: &str| {
        let line = said
            .lines()
            .find_map(|line| line.trim().strip_prefix(label))
            .with_context(|| format!("no `{label}` in:\n{said}"));
        line.and_then(|rest| rest.split_whitespace().next().context("empty")?.parse::<f64>().context("no number"))
    };
    let (sent, completed) = (number("Queries sent:")?, number("Queries completed:")?);
    let codes = said.lines().find_map(|line| line.trim().strip_prefix("Response codes:")).unwrap_or_default();
    let good = codes.trim().strip_prefix("NOERROR ").and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    if spent <= 0.0 {
        bail!("the server used no processor time\n{said}");
    }
    Ok(Met {
        per_cpu_second: completed / spent,
        per_second: number("Queries per second:")?,
        errors: (sent - completed) + (completed - good.unwrap_or(0.0)),
    })
}

/// From the event on the watch until the answer, as a client polls that has nothing else to do.
fn swap(api: &Api, n: usize) -> Result<f64> {
    let start = Instant::now();
    api.add_service(n);
    while first_address(PORT, &name(n)).is_none() {
        if start.elapsed() > Duration::from_secs(10) {
            bail!("the change is not answered after ten seconds");
        }
    }
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// A thousand questions a second beside the load, and how long each answer took in milliseconds.
fn waiting(port: u16, seconds: u64, services: usize) -> Result<Vec<f64>> {
    let start = Instant::now();
    let mut waits = Vec::new();
    while start.elapsed() < Duration::from_secs(seconds) {
        let asked = Instant::now();
        first_address(port, &name(waits.len() * 7919 % services)).context("no answer under load")?;
        waits.push(asked.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(waits)
}

/// Asks once; the address of the first answer, none without one.
fn first_address(port: u16, name: &str) -> Option<[u8; 4]> {
    let mut question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).ok()?);
        question.extend(label.bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    socket.send_to(&question, ("127.0.0.1", port)).ok()?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).ok()?;
    let answered = answer[7] > 0 && answer[3] & 0x0f == 0;
    answered.then(|| answer[length - 4..length].try_into().ok()).flatten()
}

fn until(mut holds: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > Duration::from_secs(60) {
            bail!("not ready after a minute\n  hint: see target/bench/dns/*.log");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
