//! `bench pods`: how long pods take to run, what each weighs, how long an exec takes, and what many cost that do nothing.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use super::Figures;
use super::start::{cpu_seconds, until};
use crate::command::{cargo, output, program, run as execute, target};
use crate::{lab, tools};

const MANY: usize = 100;
const SETTLE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(20);
const API: &str = "https://127.0.0.1:6443/api/v1/namespaces/default/pods";
const IMAGE: &str = "localhost/busybox:bench";

pub fn run(runs: usize, binary: &str, json: bool, inside_lab: bool) -> Result<()> {
    tools::need_root("bench pods")?;
    if inside_lab {
        lab::begin()?;
        return measure(runs, binary, json);
    }
    tools::debian(&[
        ("unshare", "util-linux"),
        ("ip", "iproute2"),
        ("curl", "curl"),
        ("/bin/busybox", "busybox-static"),
    ])?;
    tools::kubectl(tools::KUBECTL_NEWEST)?;
    let profile: &[&str] = if binary == "release" { &["--release"] } else { &[] };
    execute(cargo().args(["build", "--package", "portolan"]).args(profile))?;
    let runs = runs.to_string();
    let mut arguments = vec!["bench", "pods", "--runs", &runs, "--binary", binary, "--inside-lab"];
    arguments.extend(json.then_some("--json"));
    lab::enter(&arguments)
}

fn measure(runs: usize, binary: &str, json: bool) -> Result<()> {
    let bench = Bench::prepare(binary)?;
    let measured = bench.all(runs);
    bench.down()?;
    measured.context("hint: the cluster's log is in target/bench/pods/data")?.print(json);
    Ok(())
}

struct Bench {
    portolan: PathBuf,
    kubectl: PathBuf,
    folder: PathBuf,
}

impl Bench {
    fn prepare(binary: &str) -> Result<Self> {
        let folder = target().join("bench/pods");
        let portolan = target().join(binary).join("portolan");
        let bench = Bench { portolan, kubectl: tools::kubectl(tools::KUBECTL_NEWEST)?, folder };
        bench.down()?;
        let root = bench.folder.join("busybox");
        fs::create_dir_all(root.join("bin"))?;
        fs::copy("/bin/busybox", root.join("bin/busybox"))?;
        output(bench.portolan(&["image", "import", "--name", IMAGE]).arg(root))?;
        output(&mut bench.portolan(&["up", "--detach", "--no-kubeconfig"]))?;
        bench.credentials()?;
        until(|| bench.kubectl(&["get", "serviceaccount", "default"]).is_ok())?;
        Ok(bench)
    }

    fn portolan(&self, arguments: &[&str]) -> Command {
        let mut command = program(&self.portolan, arguments);
        command.env("PORTOLAN_DATA_DIR", self.folder.join("data"));
        command
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        output(program(&self.kubectl, arguments).env("KUBECONFIG", self.folder.join("data/kubeconfig")))
    }

    fn down(&self) -> Result<()> {
        output(&mut self.portolan(&["down"])).map(drop)
    }

    /// What curl needs to be the administrator.
    fn credentials(&self) -> Result<()> {
        for (file, field) in [("client.crt", "client-certificate-data"), ("client.key", "client-key-data")] {
            let path = format!("jsonpath={{.users[0].user.{field}}}");
            let encoded = self.kubectl(&["config", "view", "--raw", "-o", &path])?;
            fs::write(self.folder.join("encoded"), encoded)?;
            let decoded = output(program("base64", &["-d"]).arg(self.folder.join("encoded")))?;
            fs::write(self.folder.join(file), decoded)?;
        }
        Ok(())
    }

    /// A request to the API server. Gives the seconds between its being sent and its being answered to the end.
    fn curl(&self, arguments: &[&str]) -> Result<f64> {
        let mut curl =
            program("curl", &["-skf", "--http1.1", "-o", "/dev/null", "-w", "%{time_pretransfer} %{time_total}"]);
        curl.arg("--cert").arg(self.folder.join("client.crt")).arg("--key").arg(self.folder.join("client.key"));
        let times = output(curl.args(arguments).stdin(Stdio::null()))?;
        let (sent, answered) = times.trim().split_once(' ').context("curl gave no times")?;
        Ok(answered.parse::<f64>()? - sent.parse::<f64>()?)
    }

    fn all(&self, runs: usize) -> Result<Figures> {
        let mut figures = Figures::default();
        let node = self.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
        for run in 0..runs {
            figures.add("pod_start_ms", self.pod_start(&format!("start-{run}"), &node)?);
        }
        self.exec(runs, &mut figures)?;
        figures.add("pods_100_s", self.many()?);
        figures.add("shim_private_mb", shim_private_mb()?);
        let daemon: u32 = fs::read_to_string(self.folder.join("data/run/lock"))?.trim().parse()?;
        std::thread::sleep(SETTLE);
        let before = cpu_seconds(daemon)?;
        std::thread::sleep(IDLE);
        figures.add("idle_100_cpu_pct", (cpu_seconds(daemon)? - before) / IDLE.as_secs_f64() * 100.0);
        Ok(figures)
    }

    /// From the request that makes a pod which is bound already, to the time that the pod's program read itself.
    fn pod_start(&self, name: &str, node: &str) -> Result<f64> {
        let pod = format!(
            r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}"}}, "spec": {{"nodeName": "{node}",
             "terminationGracePeriodSeconds": 0, "containers": [{{"name": "c", "image": "{IMAGE}", "imagePullPolicy": "Never",
             "command": ["/bin/busybox", "sh", "-c", "echo; exec sleep 1000"]}}]}}}}"#
        );
        let file = self.folder.join("pod.json");
        fs::write(&file, pod)?;
        let data = format!("@{}", file.display());
        let took = self.curl(&["-X", "POST", "-H", "Content-Type: application/json", "--data-binary", &data, API])?;
        let sent = SystemTime::now() - Duration::from_secs_f64(took);
        let mut started = String::new();
        until(|| {
            started = self.kubectl(&["logs", name, "--timestamps"]).unwrap_or_default();
            !started.trim().is_empty()
        })?;
        let started = output(program("date", &["+%s.%N", "-d"]).arg(started.trim()))?;
        let sent = sent.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
        let milliseconds = (started.trim().parse::<f64>()? - sent) * 1000.0;
        self.kubectl(&["delete", "pod", name])?;
        Ok(milliseconds)
    }

    /// A command in a pod, from the request to the end of its streams.
    fn exec(&self, runs: usize, figures: &mut Figures) -> Result<()> {
        self.kubectl(&[
            "run",
            "exec",
            "--image",
            IMAGE,
            "--image-pull-policy=Never",
            "--command",
            "--",
            "/bin/busybox",
            "sleep",
            "10000",
        ])?;
        self.kubectl(&["wait", "--for=condition=Ready", "pod/exec", "--timeout=60s"])?;
        let url = format!("{API}/exec/exec?command=/bin/busybox&command=true&stdout=1&stderr=1");
        let headers = [
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Protocol: v5.channel.k8s.io",
        ];
        let mut arguments: Vec<&str> = headers.iter().flat_map(|header| ["-H", header]).collect();
        arguments.push(&url);
        for _ in 0..runs {
            figures.add("exec_ms", self.curl(&arguments)? * 1000.0);
        }
        self.kubectl(&["delete", "pod", "exec", "--grace-period=1"]).map(drop)
    }

    /// A hundred pods, from the creation of their ReplicaSet until the API says that all are ready.
    fn many(&self) -> Result<f64> {
        let manifest = format!(
            r#"{{"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {{"name": "many"}}, "spec": {{"replicas": {MANY},
             "selector": {{"matchLabels": {{"app": "many"}}}}, "template": {{"metadata": {{"labels": {{"app": "many"}}}}, "spec": {{
             "terminationGracePeriodSeconds": 0, "containers": [{{"name": "c", "image": "{IMAGE}", "imagePullPolicy": "Never",
             "command": ["/bin/busybox", "sleep", "10000"]}}]}}}}}}}}"#
        );
        let file = self.folder.join("many.json");
        fs::write(&file, manifest)?;
        let start = Instant::now();
        self.kubectl(&["create", "-f", &file.to_string_lossy()])?;
        loop {
            let ready = self.kubectl(&["get", "rs", "many", "-o", "jsonpath={.status.readyReplicas}"])?;
            if ready.trim().parse::<usize>().is_ok_and(|ready| ready == MANY) {
                return Ok(start.elapsed().as_secs_f64());
            }
            if start.elapsed() > Duration::from_secs(300) {
                bail!("{ready} of {MANY} pods are ready after five minutes");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Memory that belongs to one shim alone, on average: what would be free without it.
fn shim_private_mb() -> Result<f64> {
    let mut sizes = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if !name.starts_with("shim-") {
            continue;
        }
        let text = fs::read_to_string(entry.path().join("smaps_rollup")).unwrap_or_default();
        let private = text.lines().filter(|line| line.starts_with("Private_"));
        let kib = private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        sizes.push(kib.sum::<f64>() * 1024.0 / 1e6);
    }
    if sizes.is_empty() {
        bail!("no shim runs");
    }
    Ok(sizes.iter().sum::<f64>() / sizes.len() as f64)
}
