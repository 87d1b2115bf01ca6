//! `bench start`: how long a cluster takes to be useful, and what it weighs when nobody uses it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Figures;
use crate::command::{cargo, output, program, run as execute, target};
use crate::{lab, tools};

/// What is left alone before, and looked at during, the measurement of an idle cluster.
const SETTLE: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(10);

const IMAGE: &str = "localhost/busybox:bench";
const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bench"}, "spec": {"terminationGracePeriodSeconds": 0,
 "containers": [{"name": "c", "image": "localhost/busybox:bench", "imagePullPolicy": "Never", "command": ["/bin/busybox", "sleep", "1000"]}]}}"#;

pub fn run(runs: usize, json: bool, inside_lab: bool) -> Result<()> {
    tools::need_root("bench start")?;
    if inside_lab {
        lab::begin()?;
        return measure(runs, json);
    }
    tools::debian(&[
        ("unshare", "util-linux"),
        ("ip", "iproute2"),
        ("curl", "curl"),
        ("/bin/busybox", "busybox-static"),
    ])?;
    tools::kubectl(tools::KUBECTL_NEWEST)?;
    execute(cargo().args(["build", "--release", "--package", "portolan"]))?;
    let runs = runs.to_string();
    let mut arguments = vec!["bench", "start", "--runs", &runs, "--inside-lab"];
    arguments.extend(json.then_some("--json"));
    lab::enter(&arguments)
}

fn measure(runs: usize, json: bool) -> Result<()> {
    let mut figures = Figures::default();
    for run in 1..=runs {
        println!("run {run} of {runs}");
        let bench = Bench::prepare()?;
        bench.once(&mut figures).context("hint: the cluster's log is in target/bench/data")?;
        bench.down()?;
    }
    let binary = fs::metadata(target().join("release/portolan"))?.len();
    figures.add("binary_mb", binary as f64 / 1e6);
    figures.print(json);
    Ok(())
}

struct Bench {
    portolan: PathBuf,
    kubectl: PathBuf,
    data: PathBuf,
}

impl Bench {
    fn prepare() -> Result<Self> {
        let bench = Bench {
            portolan: target().join("release/portolan"),
            kubectl: tools::kubectl(tools::KUBECTL_NEWEST)?,
            data: target().join("bench/data"),
        };
        bench.down()?;
        let root = target().join("bench/busybox");
        fs::create_dir_all(root.join("bin"))?;
        fs::copy("/bin/busybox", root.join("bin/busybox"))?;
        output(bench.portolan(&["image", "import", "--name", IMAGE]).arg(root))?;
        Ok(bench)
    }

    fn portolan(&self, arguments: &[&str]) -> Command {
        let mut command = program(&self.portolan, arguments);
        command.env("PORTOLAN_DATA_DIR", &self.data);
        command
    }

    fn down(&self) -> Result<()> {
        output(&mut self.portolan(&["down"])).map(drop)
    }

    fn once(&self, figures: &mut Figures) -> Result<()> {
        let start = Instant::now();
        let mut up = self.portolan(&["up", "--no-kubeconfig"]);
        let mut up = up.stdout(Stdio::piped()).spawn().context("cannot start portolan up")?;
        let measured = self.follow(&mut up, start, figures);
        let _ = output(&mut program("kill", &["-TERM", &up.id().to_string()]));
        up.wait()?;
        measured
    }

    fn follow(&self, up: &mut Child, start: Instant, figures: &mut Figures) -> Result<()> {
        until(|| output(&mut program("curl", &["-skf", "https://127.0.0.1:6443/readyz"])).is_ok())?;
        figures.add("api_ready_s", start.elapsed().as_secs_f64());
        let out = up.stdout.take().context("no output")?;
        let mut lines = BufReader::new(out).lines();
        if !lines.by_ref().map_while(Result::ok).any(|line| line.starts_with("✓ node is Ready")) {
            bail!("portolan up ended before its node was ready");
        }
        figures.add("node_ready_s", start.elapsed().as_secs_f64());
        std::thread::spawn(move || lines.for_each(drop));
        self.pod(figures)?;
        std::thread::sleep(SETTLE);
        let before = cpu_seconds(up.id())?;
        std::thread::sleep(IDLE);
        figures.add("idle_cpu_pct", (cpu_seconds(up.id())? - before) / IDLE.as_secs_f64() * 100.0);
        figures.add("idle_rss_mb", resident_mb(up.id())?);
        Ok(())
    }

    /// From the start of `kubectl apply` to the return of `kubectl wait`: both programs' own time is in it.
    fn pod(&self, figures: &mut Figures) -> Result<()> {
        let manifest = target().join("bench/pod.json");
        fs::write(&manifest, POD)?;
        let kubectl = |arguments: &[&str]| {
            output(program(&self.kubectl, arguments).env("KUBECONFIG", self.data.join("kubeconfig")))
        };
        until(|| kubectl(&["get", "serviceaccount", "default"]).is_ok())?;
        let start = Instant::now();
        kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
        kubectl(&["wait", "--for=condition=Ready", "pod/bench", "--timeout=60s"])?;
        figures.add("pod_ready_s", start.elapsed().as_secs_f64());
        kubectl(&["delete", "pod", "bench"]).map(drop)
    }
}

pub(super) fn until(mut holds: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > Duration::from_secs(60) {
            bail!("not ready after a minute");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The process and all its descendants; shims are none any more, but there are no pods when this is asked.
fn tree(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let below = children.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(tree);
    std::iter::once(pid).chain(below).collect()
}

pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    let ticks = tree(pid).into_iter().map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields = stat.rsplit_once(") ").context("no fields")?.1;
        let field = |number: usize| fields.split(' ').nth(number).and_then(|text| text.parse::<f64>().ok());
        field(11).zip(field(12)).map(|(user, system)| user + system).context("no times")
    });
    // Linux counts in hundredths of a second for user space, whatever its own clock.
    ticks.sum::<Result<f64>>().map(|ticks| ticks / 100.0)
}

pub(super) fn resident_mb(pid: u32) -> Result<f64> {
    let sizes = tree(pid).into_iter().map(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        line.trim().trim_end_matches(" kB").parse::<f64>().context("VmRSS is no number")
    });
    sizes.sum::<Result<f64>>().map(|kib| kib * 1024.0 / 1e6)
}
