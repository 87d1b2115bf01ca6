//! Ingress as a user meets it: a class from the start, an address in the status, names on the machine, a rolling update under load,
//! websockets of programs that no one here wrote.
//!
//! `PYTHON_CLIENT` and `JAVASCRIPT_CLIENT` say where those programs' packages are; `cargo xtask test` fetches them.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use testkit::{Machine, said, until};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: web}, annotations: {version: "1"}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - name: web
          image: localhost/busybox:test
          command: [sh, -c, "trap 'sleep 2; exit 0' TERM; echo hello > /tmp/index.html; httpd -f -p 8080 -h /tmp & wait"]
          ports: [{name: http, containerPort: 8080}]
          readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
    - host: web.example
      http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}
"#;

fn kubectl(machine: &Machine, arguments: &[&str]) -> Result<String> {
    Ok(machine.kubectl(arguments)?.ok()?.out)
}

fn answers(machine: &Machine, flags: &[&str]) -> Result<()> {
    let answer =
        said(machine.command("curl").args(["-sSf", "--max-time", "5", "--noproxy", "*"]).args(flags))?.ok()?.out;
    ensure!(answer == "hello\n", "{flags:?} answers {answer:?}");
    Ok(())
}

/// Asks again and again; each failure is a line.
fn load(machine: &Machine, url: &str) -> Result<Child> {
    let script = "while read -t 0.01 -r stop; test $? -gt 128; do \
        curl -sSf --max-time 5 --noproxy '*' -H 'Host: web.example' \"$0\" > /dev/null || echo failed; echo asked; done";
    let mut command = machine.command("bash");
    let command =
        command.args(["-c", script, url]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().context("no bash")
}

/// Where an Ingress is served, as its status says.
fn address(machine: &Machine, ingress: &str) -> Result<String> {
    until("an address", || {
        let address = kubectl(machine, &["get", ingress, "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}"])?;
        ensure!(!address.is_empty());
        Ok(address)
    })
}

#[test]
fn an_ingress_is_served_on_the_nodes_and_loses_nothing_in_a_rolling_update() -> Result<()> {
    let machine = Machine::new()?;
    machine.busybox_image()?;
    machine.up(&[])?;
    let manifest = machine.file("web.yaml", WEB)?;
    kubectl(&machine, &["apply", "-f", &manifest.to_string_lossy()])?;
    kubectl(&machine, &["rollout", "status", "deployment/web", "--timeout=90s"])?;
    let class = kubectl(&machine, &["get", "ingress/web", "-o", "jsonpath={.spec.ingressClassName}"])?;
    assert_eq!(class, "portolan");
    let address = address(&machine, "ingress/web")?;
    let url = format!("http://{address}/");
    until("served", || answers(&machine, &["-H", "Host: web.example", &url]))?;
    answers(&machine, &["-k", "--resolve", &format!("web.example:443:{address}"), "https://web.example/"])?;
    answers(&machine, &["--resolve", "web.default.localhost:8090:127.0.0.1", "http://web.default.localhost:8090/"])?;
    let told = said(&mut machine.portolan(&["service", "web"]))?.ok()?.out;
    assert!(told.contains("http://web.default.localhost:8090"), "{told}");

    let mut asking = load(&machine, &url)?;
    let loads = [("http", "--h1"), ("https", "--npn-list=h2"), ("https", "--h1")];
    let loads: Vec<Child> =
        loads.into_iter().map(|(scheme, flag)| h2load(&machine, &address, scheme, flag)).collect::<Result<_>>()?;
    kubectl(&machine, &["rollout", "restart", "deployment/web"])?;
    kubectl(&machine, &["rollout", "status", "deployment/web", "--timeout=90s"])?;
    until("the old pods gone", || {
        let pods = kubectl(&machine, &["get", "pods", "-o", "name"])?;
        ensure!(pods.lines().count() == 2, "{pods}");
        Ok(())
    })?;
    asking.stdin.take().context("no input")?.write_all(b"stop\n")?;
    let mut lines = String::new();
    asking.stdout.take().context("no output")?.read_to_string(&mut lines)?;
    asking.wait()?;
    let count = |text: &str| lines.lines().filter(|line| *line == text).count();
    assert_eq!(count("failed"), 0, "of {} requests", count("asked"));
    assert!(count("asked") > 20, "only {} requests", count("asked"));
    for load in loads {
        let told = String::from_utf8_lossy(&load.wait_with_output()?.stdout).into_owned();
        ensure!(told.contains(" 0 failed, 0 errored, 0 timeout"), "{told}");
        ensure!(told.contains(" 0 3xx, 0 4xx, 0 5xx"), "{told}");
    }
    Ok(())
}

/// Many requests on few connections, for longer than a rolling update takes.
fn h2load(machine: &Machine, address: &str, scheme: &str, flag: &str) -> Result<Child> {
    let port = if scheme == "https" { 443 } else { 80 };
    let mut command = machine.command("h2load");
    command.args(["-c", "4", "-t", "1", "-D", "15", "--rps=25", flag, &format!("--connect-to={address}:{port}")]);
    let command = command.arg(format!("{scheme}://web.example/")).stdout(Stdio::piped());
    command.spawn().context("no h2load (package nghttp2-client)")
}

#[test]
fn a_port_that_is_taken_is_told_and_the_cluster_starts() -> Result<()> {
    let machine = Machine::new()?;
    let listen = "import socket,time; s=socket.socket(); s.bind(('127.0.0.1',8090)); s.listen(); print('up',flush=True); time.sleep(600)";
    let mut taken = machine.command("python3").args(["-c", listen]).stdout(Stdio::piped()).spawn()?;
    let mut line = [0; 3];
    taken.stdout.take().context("no output")?.read_exact(&mut line)?;
    let told = machine.up(&[])?;
    assert!(told.err.contains("does not listen on 127.0.0.1:8090") && told.err.contains("hint:"), "{}", told.err);
    taken.kill()?;
    taken.wait()?;
    Ok(())
}

/// A Service of the machine itself, where a server of another language runs.
const ECHO: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {ports: [{name: ws, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: echo, labels: {kubernetes.io/service-name: echo}}
addressType: IPv4
ports: [{name: ws, port: PORT, protocol: TCP}]
endpoints: [{addresses: [ADDRESS], conditions: {ready: true}}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: echo}
spec:
  rules:
    - host: echo.example
      http: {paths: [{path: /chat, pathType: Prefix, backend: {service: {name: echo, port: {name: ws}}}}]}
"#;

fn fetched(variable: &str) -> Result<std::ffi::OsString> {
    std::env::var_os(variable).with_context(|| format!("{variable} is not set\n  hint: `cargo xtask test` fetches it"))
}

#[test]
fn websockets_of_foreign_clients_pass_through() -> Result<()> {
    let machine = Machine::new()?;
    machine.up(&[])?;
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    // Packages are found from the script's own place upwards, so they are put beside them.
    let modules = Path::new(&fetched("JAVASCRIPT_CLIENT")?).join("node_modules");
    std::os::unix::fs::symlink(modules, machine.folder().join("node_modules"))?;
    for script in ["websocket-server.mjs", "websocket-client.mjs"] {
        std::fs::copy(scripts.join(script), machine.folder().join(script))?;
    }
    let mut server = machine.command("node");
    let server = server.arg(machine.folder().join("websocket-server.mjs")).stdout(Stdio::piped());
    let mut server = server.spawn().context("cannot start node")?;
    let mut told = BufReader::new(server.stdout.take().context("no output")?).lines();
    let port = told.next().context("the server has gone")??;
    let own = "ip -4 -o address show dev portolan0 | grep -o 'inet [0-9.]*' | cut -d' ' -f2";
    let own = said(machine.command("sh").args(["-c", own]))?.ok()?.out;
    let manifest = ECHO.replace("PORT", &port).replace("ADDRESS", own.trim());
    let manifest = machine.file("echo.yaml", &manifest)?;
    kubectl(&machine, &["apply", "-f", &manifest.to_string_lossy()])?;
    let address = address(&machine, "ingress/echo")?;
    until("served", || {
        // `ws` says so to who asks for no upgrade.
        let ask = ["-s", "--noproxy", "*", "-H", "Host: echo.example", &format!("http://{address}/chat")];
        let answer = said(machine.command("curl").args(ask))?.ok()?.out;
        ensure!(answer == "Upgrade Required", "{answer}");
        Ok(())
    })?;
    for url in ["ws://echo.example/chat/room", "wss://echo.example/chat/room"] {
        let script = machine.folder().join("websocket-client.mjs");
        said(machine.command("node").arg(script).args([url, &address]))?.ok().with_context(|| format!("ws, {url}"))?;
        for expected in ["closed 4001 enough", "closed 4002 bye"] {
            assert_eq!(told.next().context("the server has gone")??, expected, "{url}");
        }
        let mut python = machine.command("python3");
        let python = python.arg(scripts.join("websocket-client.py")).args([url, &address]);
        let python = python.env("PYTHONPATH", fetched("PYTHON_CLIENT")?);
        said(python)?.ok().with_context(|| format!("websocket-client, {url}"))?;
        // This client answers every close by a normal one.
        assert_eq!(told.next().context("the server has gone")??, "closed 1000 ", "{url}");
    }
    server.kill()?;
    server.wait()?;
    Ok(())
}
