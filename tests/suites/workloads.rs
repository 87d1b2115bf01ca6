//! What runs to its end, what runs by the clock, what may be taken away, and controllers that are another program: with real containers.

use std::process::{Child, Stdio};

use anyhow::{Result, ensure};
use testkit::{Machine, said, until};

const IMAGE: &str = "--image=localhost/busybox:test";

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: localhost/busybox:test
          command: [sh, -c, "exec httpd -f -p 8080 -h /tmp"]
          readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: web
spec:
  maxUnavailable: 1
  selector: {matchLabels: {app: web}}
"#;

struct Cluster {
    machine: Machine,
}

impl Cluster {
    fn up(flags: &[&str]) -> Result<Self> {
        Ok(Cluster { machine: Machine::with_cluster(flags)? })
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.machine.kubectl(arguments)?.ok()?.out)
    }

    fn apply(&self, manifest: &str) -> Result<()> {
        let file = self.machine.file("manifest.yaml", manifest)?;
        self.kubectl(&["apply", "-f", &file.to_string_lossy()]).map(drop)
    }
}

#[test]
fn jobs_run_to_their_end_by_hand_and_by_the_clock() -> Result<()> {
    let cluster = Cluster::up(&[])?;
    cluster.kubectl(&["create", "job", "once", IMAGE, "--", "echo", "done"])?;
    cluster.kubectl(&["wait", "--for=condition=Complete", "job/once", "--timeout=60s"])?;
    ensure!(cluster.kubectl(&["logs", "job/once"])? == "done\n");
    until("told", || {
        let described = cluster.kubectl(&["describe", "job/once"])?;
        ensure!(described.contains("SuccessfulCreate") && described.contains("Job completed"), "{described}");
        Ok(())
    })?;
    cluster.kubectl(&["create", "job", "fails", IMAGE, "--", "sh", "-c", "exit 3"])?;
    cluster.kubectl(&["patch", "job/fails", "--type=merge", "-p", r#"{"spec":{"backoffLimit":0}}"#])?;
    cluster.kubectl(&["wait", "--for=condition=Failed", "job/fails", "--timeout=60s"])?;
    cluster.kubectl(&["create", "cronjob", "yearly", IMAGE, "--schedule=@yearly", "--", "echo", "a year is over"])?;
    cluster.kubectl(&["create", "job", "now", "--from=cronjob/yearly"])?;
    cluster.kubectl(&["wait", "--for=condition=Complete", "job/now", "--timeout=60s"])?;
    cluster.kubectl(&["delete", "cronjob/yearly", "job/once", "job/fails"])?;
    until("no pods", || {
        let pods = cluster.kubectl(&["get", "pods", "-o", "name"])?;
        ensure!(pods.is_empty(), "there are {pods}");
        Ok(())
    })
}

#[test]
fn drain_moves_pods_no_faster_than_the_budget_allows() -> Result<()> {
    let cluster = Cluster::up(&["--nodes", "2"])?;
    cluster.apply(WEB)?;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    let nodes = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])?;
    let (drained, kept) = nodes.split_once(' ').unwrap_or((&nodes, ""));
    let shown = cluster.kubectl(&["drain", drained, "--ignore-daemonsets", "--timeout=90s"])?;
    ensure!(shown.contains("evicting pod"), "{shown}");
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    let places = cluster.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"])?;
    ensure!(places == [kept; 3].join(" "), "pods are on {places}");
    Ok(())
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn controllers_and_scheduler_may_be_programs_of_their_own() -> Result<()> {
    let cluster = Cluster::up(&["--disable-controllers", "*"])?;
    cluster.apply(WEB)?;
    ensure!(cluster.kubectl(&["get", "replicasets", "-o", "name"])?.is_empty());
    let alone = |name: &str| cluster.machine.portolan(&[name]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let (_first, _second) = (Running(alone("controllers")?), Running(alone("controllers")?));
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    let holder = ["-n", "kube-system", "get", "lease/kube-controller-manager", "-o", "jsonpath={.spec.holderIdentity}"];
    ensure!(!cluster.kubectl(&holder)?.is_empty());
    let wrong = said(&mut cluster.machine.portolan(&["controllers", "--controllers", "nope"]))?;
    ensure!(wrong.err.contains("there is no controller `nope`") && wrong.err.contains("hint:"), "{}", wrong.err);
    Ok(())
}
