//! What kubectl does with a pod beside reading its logs: forward its ports, or a Service's, run commands in it, copy files.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};
use testkit::{Machine, Said, said, until};

const WEB: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: web
      image: localhost/busybox:test
      command: [sh, -c, "echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]
      ports: [{name: http, containerPort: 8080, hostPort: 8088}]
      readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
"#;

fn with_web() -> Result<Machine> {
    let machine = Machine::with_cluster(&[])?;
    let manifest = machine.file("web.yaml", WEB)?;
    machine.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?.ok()?;
    machine.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=90s"])?.ok()?;
    Ok(machine)
}

/// A `kubectl port-forward` that runs, and the port that it listens on.
struct Forwarded {
    kubectl: Child,
    port: String,
    /// It says more later, and ends if nobody listens.
    output: BufReader<ChildStdout>,
    complaints: PathBuf,
}

impl Forwarded {
    fn start(machine: &Machine, kubectl: &str, what: &str, port: &str, websockets: bool) -> Result<Self> {
        let kubectl = std::env::var_os(kubectl).unwrap_or_else(|| "kubectl".into());
        let complaints = machine.file("complaints", "")?;
        let mut kubectl = machine
            .command(kubectl)
            .args(["port-forward", what, port])
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets.to_string())
            .stdout(Stdio::piped())
            .stderr(File::create(&complaints)?)
            .spawn()?;
        let mut line = String::new();
        let mut output = BufReader::new(kubectl.stdout.take().context("no output")?);
        output.read_line(&mut line)?;
        // Forwarding from 127.0.0.1:40001 -> 8080
        let port = line.split(&[':', ' '][..]).nth(3).context(line.clone())?.to_owned();
        Ok(Forwarded { kubectl, port, output, complaints })
    }

    /// What a connection of its own brings.
    fn ask(&self, machine: &Machine) -> Result<Said> {
        let url = format!("http://127.0.0.1:{}/", self.port);
        said(machine.command("curl").args(["-sSf", "--max-time", "20", &url]))
    }

    fn must_run(&mut self) -> Result<()> {
        ensure!(self.kubectl.try_wait()?.is_none(), "kubectl has ended: {}", self.complaints()?);
        Ok(())
    }

    fn complaints(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.complaints)?)
    }

    fn must_end(&mut self) -> Result<Option<i32>> {
        self.output.read_to_string(&mut String::new())?;
        Ok(self.kubectl.wait()?.code())
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

#[test]
fn ports_of_pods_and_services_are_forwarded() -> Result<()> {
    let machine = with_web()?;
    for kubectl in ["KUBECTL_OLDEST", "KUBECTL_NEWEST"] {
        for (what, port, websockets) in [
            ("pod/web", ":8080", true),
            ("pod/web", ":8080", false),
            ("service/web", ":80", true),
            ("pod/web", ":http", true),
        ] {
            let forwarded = Forwarded::start(&machine, kubectl, what, port, websockets)?;
            let url = format!("http://127.0.0.1:{}/", forwarded.port);
            // More than once, and at the same time: each connection is a pair of streams in one tunnel.
            let answers =
                said(machine.command("curl").args(["-s", "--max-time", "10", "--parallel", &url, &url, &url]))?;
            ensure!(answers.out == "hello\nhello\nhello\n", "{kubectl} {what} {websockets}: {answers:?}");
        }
    }
    let forwarded = Forwarded::start(&machine, "KUBECTL_NEWEST", "pod/web", ":9999", true)?;
    let url = format!("http://127.0.0.1:{}/", forwarded.port);
    let refused = said(machine.command("curl").args(["-s", "--max-time", "10", &url]))?;
    assert_ne!(refused.code, Some(0), "nobody listens on that port: {refused:?}");
    Ok(())
}

const MANY: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: many}
spec:
  replicas: 2
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: many}}}
      containers:
        - name: web
          image: localhost/busybox:test
          command: [sh, -c, "hostname > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]
          ports: [{name: http, containerPort: 8080}]
          readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: many}
spec: {selector: {app: many}, ports: [{name: web, port: 80, targetPort: http}]}
"#;

/// A connection that says nothing and waits for its end.
const HOLD: &str = "import socket, sys\n\
    one = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n\
    one.send(b'GET /'); print('open', flush=True); one.settimeout(60)\n\
    try: one.recv(1)\n\
    except ConnectionError: pass\n";

fn scale(machine: &Machine, replicas: u32) -> Result<()> {
    machine.kubectl(&["scale", "deployment/many", &format!("--replicas={replicas}")])?.ok()?;
    until("scaled", || {
        let pods = machine.kubectl(&["get", "pods", "--selector=app=many", "-o", "name"])?.ok()?.out;
        ensure!(pods.lines().count() == replicas as usize, "{pods}");
        Ok(())
    })?;
    machine.kubectl(&["rollout", "status", "deployment/many", "--timeout=90s"])?.ok()?;
    Ok(())
}

#[test]
fn a_forward_of_a_service_goes_on_when_its_pod_goes() -> Result<()> {
    let machine = Machine::with_cluster(&["--nodes", "2"])?;
    let manifest = machine.file("many.yaml", MANY)?;
    machine.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?.ok()?;
    for (kubectl, websockets) in [("KUBECTL_OLDEST", true), ("KUBECTL_NEWEST", true), ("KUBECTL_NEWEST", false)] {
        scale(&machine, 2)?;
        let mut forwarded = Forwarded::start(&machine, kubectl, "service/many", ":80", websockets)?;
        let first = forwarded.ask(&machine)?.ok()?.out;
        ensure!(forwarded.ask(&machine)?.ok()?.out == first, "it stays with its pod while that lives");
        let mut hold = machine.command("python3");
        let mut held = hold.args(["-c", HOLD, &forwarded.port]).stdout(Stdio::piped()).spawn()?;
        held.stdout.as_mut().context("no output")?.read_exact(&mut [0; 5])?;
        machine.kubectl(&["delete", "pod", first.trim()])?.ok()?;
        ensure!(held.wait()?.success(), "a connection to the pod ends with it");
        let second = forwarded.ask(&machine)?.ok()?.out;
        ensure!(second != first && second.starts_with("many-"), "{kubectl} {websockets}: {first} then {second}");
        ensure!(forwarded.ask(&machine)?.ok()?.out == second, "it stays with the next one");
        forwarded.must_run()?;

        scale(&machine, 0)?;
        let nobody = forwarded.ask(&machine)?;
        ensure!(nobody.code != Some(0), "{nobody:?}");
        let told = until("told", || {
            let told = forwarded.complaints()?;
            ensure!(told.contains("rror creating forwarding stream"), "{told}");
            Ok(told)
        })?;
        ensure!(!told.contains("lost connection"), "{told}");
        ensure!(forwarded.ask(&machine)?.code != Some(0));
        forwarded.must_run()?;
        scale(&machine, 1)?;
        let third = until("an endpoint", || Ok(forwarded.ask(&machine)?.ok()?.out))?;
        ensure!(third.starts_with("many-") && third != second, "{third}");
        forwarded.must_run()?;
        forwarded.kubectl.kill()?;
    }
    Ok(())
}

#[test]
fn a_forward_of_a_pod_ends_after_it() -> Result<()> {
    let machine = Machine::with_cluster(&[])?;
    let manifest = machine.file("many.yaml", MANY)?;
    machine.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?.ok()?;
    for kubectl in ["KUBECTL_OLDEST", "KUBECTL_NEWEST"] {
        scale(&machine, 2)?;
        let pods = machine.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].metadata.name}"])?.ok()?.out;
        let pod = pods.split(' ').next().context("no pod")?;
        let mut forwarded = Forwarded::start(&machine, kubectl, &format!("pod/{pod}"), ":8080", true)?;
        ensure!(forwarded.ask(&machine)?.ok()?.out.trim() == pod);
        machine.kubectl(&["delete", "pod", pod])?.ok()?;
        ensure!(forwarded.ask(&machine)?.code != Some(0));
        let code = forwarded.must_end()?;
        let told = forwarded.complaints()?;
        ensure!(code == Some(1) && told.contains("error: lost connection to pod"), "{code:?} {told}");
    }
    Ok(())
}

#[test]
fn a_large_download_comes_through_a_forwarded_port() -> Result<()> {
    let machine = with_web()?;
    let make = "dd if=/dev/urandom of=/tmp/large bs=1M count=20 2>/dev/null; sha256sum /tmp/large";
    let there = machine.kubectl(&["exec", "web", "--", "sh", "-c", make])?.ok()?.out;
    let forwarded = Forwarded::start(&machine, "KUBECTL_NEWEST", "pod/web", ":8080", true)?;
    let file = machine.folder().join("large");
    let url = format!("http://127.0.0.1:{}/large", forwarded.port);
    said(machine.command("curl").args(["-sf", "--max-time", "60", "-o", &file.to_string_lossy(), &url]))?.ok()?;
    let here = said(machine.command("sha256sum").arg(&file))?.ok()?.out;
    assert_eq!(here.split(' ').next(), there.split(' ').next());
    Ok(())
}

#[test]
fn a_shell_has_a_terminal() -> Result<()> {
    let machine = with_web()?;
    for kubectl in ["KUBECTL_OLDEST", "KUBECTL_NEWEST"] {
        let program = std::env::var(kubectl).unwrap_or_else(|_| "kubectl".to_owned());
        let shell = format!("{program} exec -it web -- /bin/sh");
        // script(1) is the terminal that kubectl wants to be started in.
        let mut terminal = machine.command("script");
        let terminal = terminal.args(["--quiet", "--return", "--command", &shell, "/dev/null"]);
        let mut terminal = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut typed = terminal.stdin.take().context("no input")?;
        typed.write_all(b"tty\nexit 7\n")?;
        let ended = terminal.wait_with_output()?;
        let seen = String::from_utf8_lossy(&ended.stdout);
        ensure!(ended.status.code() == Some(7) && seen.contains("/dev/pts/"), "{kubectl}: {} {seen}", ended.status);
        drop(typed);
    }
    Ok(())
}

#[test]
fn commands_run_over_websockets_and_over_spdy() -> Result<()> {
    let machine = with_web()?;
    for kubectl in ["KUBECTL_OLDEST", "KUBECTL_NEWEST"] {
        let kubectl = std::env::var(kubectl).unwrap_or_else(|_| "kubectl".to_owned());
        for websockets in ["true", "false"] {
            let with = |program: &str, arguments: &[&str]| {
                said(machine.command(program).args(arguments).env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets))
            };
            let ended = with(&kubectl, &["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 5"])?;
            ensure!(ended.code == Some(5) && ended.out == "out\n" && ended.err.starts_with("err\n"), "{ended:?}");
            let piped = format!("printf through | {kubectl} exec -i web -- cat");
            ensure!(with("sh", &["-c", &piped])?.ok()?.out == "through", "{kubectl} {websockets}");
            let large = format!("{kubectl} exec web -- dd if=/dev/zero bs=1M count=8 2>/dev/null | wc -c");
            ensure!(with("sh", &["-c", &large])?.ok()?.out == "8388608\n", "{kubectl} {websockets}");
        }
    }
    Ok(())
}

const SHARED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: shared}
spec:
  terminationGracePeriodSeconds: 1
  shareProcessNamespace: true
  containers:
    - {name: one, image: "localhost/busybox:test", command: [sleep, "12345"]}
    - {name: two, image: "localhost/busybox:test", command: [sleep, "1000"]}
"#;

#[test]
fn a_debugger_sees_the_processes_of_its_target_and_neighbours_each_other() -> Result<()> {
    let machine = with_web()?;
    let debugger = ["debug", "web", "--image=localhost/busybox:test", "--target=web", "--container=looker", "--", "ps"];
    machine.kubectl(&debugger)?.ok()?;
    let ended = "--for=jsonpath={.status.ephemeralContainerStatuses[0].state.terminated.reason}=Completed";
    machine.kubectl(&["wait", ended, "pod/web", "--timeout=60s"])?.ok()?;
    let seen = machine.kubectl(&["logs", "web", "--container", "looker"])?.ok()?.out;
    ensure!(seen.contains("httpd -f -p 8080") && seen.contains(" ps\n"), "{seen}");
    let manifest = machine.file("shared.yaml", SHARED)?;
    machine.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?.ok()?;
    machine.kubectl(&["wait", "--for=condition=Ready", "pod/shared", "--timeout=60s"])?.ok()?;
    let seen = machine.kubectl(&["exec", "shared", "--container", "two", "--", "ps"])?.ok()?.out;
    ensure!(seen.contains("sleep 12345"), "{seen}");
    // Its control groups are its own, and not for it to change.
    let change = "cd /sys/fs/cgroup && for f in pids/cgroup.procs cgroup.procs; do ! test -e $f || ! echo 1 > $f || exit 1; done";
    machine.kubectl(&["exec", "web", "--", "sh", "-c", change])?.ok()?;
    Ok(())
}

#[test]
fn files_are_copied_both_ways() -> Result<()> {
    let machine = with_web()?;
    let file = machine.file("note", "from the machine")?;
    machine.kubectl(&["cp", &file.to_string_lossy(), "web:/tmp/note"])?.ok()?;
    assert_eq!(machine.kubectl(&["exec", "web", "--", "cat", "/tmp/note"])?.ok()?.out, "from the machine");
    let back = machine.folder().join("back");
    machine.kubectl(&["cp", "web:/tmp/index.html", &back.to_string_lossy()])?.ok()?;
    assert_eq!(std::fs::read_to_string(back)?, "hello\n");
    Ok(())
}

#[test]
fn a_host_port_answers_on_the_node() -> Result<()> {
    let machine = with_web()?;
    let node = machine.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].status.addresses[0].address}"])?.ok()?.out;
    let answer =
        said(machine.command("curl").args(["-sf", "--max-time", "5", &format!("http://{node}:8088/")]))?.ok()?;
    assert_eq!(answer.out, "hello\n");
    // Restarted, the daemon finds it as it was; deleted, the pod takes it along.
    machine.kubectl(&["delete", "pod", "web"])?.ok()?;
    let gone = said(machine.command("curl").args(["-s", "--max-time", "5", &format!("http://{node}:8088/")]))?;
    assert_ne!(gone.code, Some(0), "{gone:?}");
    Ok(())
}
