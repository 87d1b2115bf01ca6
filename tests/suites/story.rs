//! A cluster as its user meets it: up, a Deployment behind a Service, the daemon killed and started again, mistakes, down.

use anyhow::{Context, Result, ensure};
use testkit::{Machine, said, until};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: localhost/busybox:test
          command: [sh, -c, "echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]
          ports: [{name: http, containerPort: 8080}]
          readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
"#;

struct Cluster {
    machine: Machine,
}

impl Cluster {
    fn up() -> Result<Self> {
        let machine = Machine::new()?;
        machine.busybox_image()?;
        machine.up(&[])?;
        Ok(Cluster { machine })
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.machine.kubectl(arguments)?.ok()?.out)
    }

    fn with_web() -> Result<Self> {
        let cluster = Cluster::up()?;
        let manifest = cluster.machine.file("web.yaml", WEB)?;
        cluster.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
        cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
        Ok(cluster)
    }

    fn jsonpath(&self, what: &str, path: &str) -> Result<String> {
        self.kubectl(&["get", what, "-o", &format!("jsonpath={path}")])
    }

    fn answers(&self, url: &str) -> Result<()> {
        let answer = said(self.machine.command("curl").args(["-sf", "--max-time", "5", url]))?.ok()?.out;
        ensure!(answer == "hello\n", "{url} answers {answer:?}");
        Ok(())
    }

    fn daemon(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.machine.data_dir().join("run/lock"))?.trim().to_owned())
    }
}

#[test]
fn a_service_answers_and_outlives_the_daemon() -> Result<()> {
    let cluster = Cluster::with_web()?;
    let vip = format!("http://{}/", cluster.jsonpath("service/web", "{.spec.clusterIP}")?);
    let node = cluster.jsonpath("nodes", "{.items[0].status.addresses[0].address}")?;
    let port = cluster.jsonpath("service/web", "{.spec.ports[0].nodePort}")?;
    let node_port = format!("http://{node}:{port}/");
    cluster.answers(&vip)?;
    cluster.answers(&node_port)?;
    let urls = said(&mut cluster.machine.portolan(&["service", "web", "--url"]))?.ok()?.out;
    assert_eq!(urls.trim(), node_port.trim_end_matches('/'));

    let before = cluster.jsonpath("pods", "{.items[*].status.podIPs[0].ip} {.items[*].metadata.name}")?;
    said(cluster.machine.command("kill").args(["-9", &cluster.daemon()?]))?.ok()?;
    cluster.answers(&vip).context("the Service went with the daemon")?;
    cluster.machine.up(&[])?;
    cluster.answers(&vip)?;
    let after = cluster.jsonpath("pods", "{.items[*].status.podIPs[0].ip} {.items[*].metadata.name}")?;
    assert_eq!(after, before, "pods were not taken over");
    let restarts = cluster.jsonpath("pods", "{.items[*].status.containerStatuses[0].restartCount}")?;
    assert_eq!(restarts, "0 0");
    Ok(())
}

#[test]
fn endpoints_follow_scaling_and_a_service_without_any_refuses() -> Result<()> {
    let cluster = Cluster::with_web()?;
    cluster.kubectl(&["scale", "deployment/web", "--replicas=0"])?;
    until("no endpoint", || {
        let endpoints = cluster.jsonpath("endpointslices", "{.items[*].endpoints[*].addresses[0]}")?;
        ensure!(endpoints.split_whitespace().count() == 1, "endpoints are {endpoints}");
        Ok(())
    })?;
    let vip = cluster.jsonpath("service/web", "{.spec.clusterIP}")?;
    until("refused", || {
        let refused = said(cluster.machine.command("curl").args(["-s", "--max-time", "5", &format!("http://{vip}/")]))?;
        ensure!(refused.code == Some(7), "curl says {refused:?}");
        Ok(())
    })?;
    let told = said(&mut cluster.machine.portolan(&["service", "web"]))?;
    assert!(told.err.contains("it has no ready endpoint"), "{}", told.err);
    Ok(())
}

#[test]
fn exec_and_logs_reach_the_container() -> Result<()> {
    let cluster = Cluster::with_web()?;
    let variables = cluster.kubectl(&["exec", "deployment/web", "--", "env"])?;
    assert!(variables.contains("KUBERNETES_SERVICE_HOST=10.96.0.1"), "{variables}");
    let code = cluster.machine.kubectl(&["exec", "deployment/web", "--", "sh", "-c", "exit 3"])?;
    assert_eq!(code.code, Some(3), "{}", code.err);
    let named = cluster.kubectl(&["exec", "deployment/web", "--", "wget", "-qO-", "http://web/"])?;
    assert_eq!(named, "hello\n");
    cluster.kubectl(&["logs", "deployment/web"])?;
    Ok(())
}

#[test]
fn a_browser_is_opened_where_there_is_one() -> Result<()> {
    let cluster = Cluster::with_web()?;
    let program =
        cluster.machine.portolan(&[]).get_args().last().map(std::ffi::OsStr::to_owned).context("no binary")?;
    let open = |path: String| {
        let mut command = cluster.machine.command("env");
        said(command.arg(format!("PATH={path}")).arg(&program).args(["service", "web", "--open"]))
    };
    let folder = cluster.machine.folder().join("programs");
    std::fs::create_dir(&folder)?;
    let nothing = open(folder.display().to_string())?;
    assert_eq!(nothing.code, Some(1), "{nothing:?}");
    let hinted = nothing.err.lines().find_map(|line| line.trim().strip_prefix("hint: visit ")).map(str::to_owned);
    let url = hinted.with_context(|| nothing.err.clone())?;
    cluster.answers(&url)?;
    let (program, visited) = (folder.join("xdg-open"), cluster.machine.folder().join("visited"));
    std::fs::write(&program, format!("#!/bin/sh\necho \"$1\" > {}\n", visited.display()))?;
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    open(format!("{}:/usr/bin:/bin", folder.display()))?.ok()?;
    until("the browser", || {
        let page = std::fs::read_to_string(&visited)?;
        ensure!(page.trim() == url, "{page:?} was opened, not {url}");
        Ok(())
    })
}

#[test]
fn mistakes_are_told_with_a_hint() -> Result<()> {
    let cluster = Cluster::up()?;
    let again = said(&mut cluster.machine.portolan(&["up", "--no-kubeconfig", "--api-port", "7443"]))?;
    assert!(again.err.contains("a cluster already runs on") && again.err.contains("hint:"), "{}", again.err);
    let other = cluster.machine.folder().join("other").to_string_lossy().into_owned();
    let taken = said(&mut cluster.machine.portolan(&["up", "--no-kubeconfig", "--data-dir", &other]))?;
    assert!(taken.err.contains("cannot listen on 127.0.0.1:6443") && taken.err.contains("--api-port"), "{}", taken.err);
    let overlap = ["up", "--data-dir", &other, "--api-port", "7443", "--pod-cidr", "10.96.0.0/16"];
    let overlap = said(&mut cluster.machine.portolan(&overlap))?;
    assert!(overlap.err.contains("overlap"), "{}", overlap.err);
    let missing = said(&mut cluster.machine.portolan(&["service", "kubernets"]))?;
    assert!(missing.err.contains("did you mean `kubernetes`?"), "{}", missing.err);
    Ok(())
}

#[test]
fn down_leaves_nothing() -> Result<()> {
    let cluster = Cluster::with_web()?;
    said(&mut cluster.machine.portolan(&["down"]))?.ok()?;
    let links = said(cluster.machine.command("ip").args(["-br", "link"]))?.ok()?.out;
    assert_eq!(links.lines().count(), 1, "{links}");
    let rules = said(cluster.machine.command("nft").args(["list", "ruleset"]))?.ok()?.out;
    assert_eq!(rules, "");
    assert!(!cluster.machine.data_dir().exists());
    let processes = said(cluster.machine.command("ps").args(["-e", "-o", "comm"]))?.ok()?.out;
    assert!(!processes.lines().any(|name| name.contains("httpd") || name.contains("portolan")), "{processes}");
    Ok(())
}
