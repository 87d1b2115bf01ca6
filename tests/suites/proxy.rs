//! The proxy as a command of its own, in kube-proxy's place: what it programs is what `render` says, and it leaves nothing behind.

use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use testkit::{Machine, said, until};

const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIP: 10.96.7.7
  sessionAffinity: ClientIP
  ports: [{name: http, port: 80, nodePort: 30777}]
---
apiVersion: v1
kind: Service
metadata: {name: dns}
spec:
  clusterIP: 10.96.7.8
  externalIPs: [203.0.113.9]
  ports: [{name: udp, port: 53, protocol: UDP}, {name: tcp, port: 53}]
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {clusterIP: 10.96.7.9, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.9.1]}, {addresses: [10.244.9.2]}, {addresses: [10.244.9.3], conditions: {ready: false}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: dns-1, labels: {kubernetes.io/service-name: dns}}
addressType: IPv4
ports: [{name: udp, port: 5353, protocol: UDP}, {name: tcp, port: 5353}]
endpoints: [{addresses: [10.244.9.4]}]
---
apiVersion: v1
kind: Node
metadata: {name: beside}
status: {addresses: [{type: InternalIP, address: 192.0.2.77}]}
"#;
const CONFIGURATION: &str = r#"
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: 10.244.0.0/16
hostnameOverride: beside
metricsBindAddress: 127.0.0.1:10249
"#;

/// A cluster, and beside its node a proxy of our own command on the machine itself.
struct Beside {
    machine: Machine,
    proxy: Child,
}

impl Beside {
    fn start() -> Result<Self> {
        let machine = Machine::new()?;
        machine.up(&[])?;
        let manifest = machine.file("services.yaml", SERVICES)?;
        machine.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?.ok()?;
        machine
            .kubectl(&[
                "patch",
                "node",
                "beside",
                "--subresource=status",
                "--type=merge",
                "-p",
                r#"{"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.77"}]}}"#,
            ])?
            .ok()?;
        let configuration = machine.file("kube-proxy.yaml", CONFIGURATION)?;
        let log = std::fs::File::create(machine.folder().join("proxy.log"))?;
        let mut proxy = machine.portolan(&["proxy", "--service-cidr", "10.96.0.0/16", "--config"]);
        let proxy = proxy.arg(configuration).stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(Beside { machine, proxy })
    }

    /// The rules of the machine's own kernel: `--data-dir` names no cluster.
    fn dump(&self) -> Result<String> {
        let nowhere = self.machine.folder().join("nowhere");
        let mut dump = self.machine.portolan(&["proxy", "--dump"]);
        Ok(said(dump.env("PORTOLAN_DATA_DIR", nowhere))?.ok()?.out)
    }

    fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.machine.folder().join("proxy.log"))?)
    }

    fn get(&self, url: &str) -> Result<String> {
        Ok(said(self.machine.command("curl").args(["-sf", "--max-time", "5", url]))?.ok()?.out)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}

#[test]
fn what_is_rendered_is_what_the_kernel_has() -> Result<()> {
    let beside = Beside::start()?;
    let machine = &beside.machine;
    until("rules", || {
        ensure!(beside.dump()?.contains("10.96.7.9 . tcp . 80"), "{}", beside.log()?);
        Ok(())
    })?;
    let objects = machine.kubectl(&["get", "services,endpointslices,nodes", "-A", "-o", "yaml"])?.ok()?.out;
    let objects = machine.file("objects.yaml", &objects)?;
    let mut render = machine.portolan(&["render", "--node", "beside", "--cluster-cidr", "10.244.0.0/16"]);
    let rendered = said(render.args(["--service-cidr", "10.96.0.0/16", "-f"]).arg(&objects))?.ok()?.out;
    let rules = rendered.find("table inet portolan").context("no table")?;
    let dumped = beside.dump()?;
    assert_eq!(rendered[rules..], dumped);
    assert!(dumped.contains("comment \"default/dns:udp\""), "{dumped}");
    assert!(rendered.contains("#   192.0.2.77:30777/TCP -> 10.244.9.1:8080, 10.244.9.2:8080"), "{rendered}");

    let health = beside.get("http://127.0.0.1:10256/healthz")?;
    assert!(health.contains("lastUpdated"), "{health}");
    let metrics = beside.get("http://127.0.0.1:10249/metrics")?;
    assert!(metrics.contains("kubeproxy_sync_proxy_rules_duration_seconds_count"), "{metrics}");
    assert!(beside.log()?.contains("`mode: iptables` does not apply"), "{}", beside.log()?);

    let mut trace = machine.portolan(&["trace", "--from", "10.244.0.9", "--to", "default/dns:udp", "--node", "beside"]);
    let told = said(&mut trace)?.ok()?.out;
    assert!(told.contains("sent to 10.244.9.4:5353\n") && told.ends_with("its source is kept\n"), "{told}");
    Ok(())
}

#[test]
fn a_stop_leaves_the_rules_and_a_cleanup_takes_them() -> Result<()> {
    let mut beside = Beside::start()?;
    until("rules", || {
        ensure!(beside.dump()?.contains("10.96.7.9 . tcp . 80"), "{}", beside.log()?);
        Ok(())
    })?;
    let pid = beside.proxy.id().to_string();
    // The signal goes to nsenter's child, which has the proxy's arguments.
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let target = children.split_whitespace().next().unwrap_or(&pid).to_owned();
    said(std::process::Command::new("kill").args(["-TERM", &target]))?.ok()?;
    beside.proxy.wait()?;
    assert!(!beside.dump()?.is_empty(), "a proxy that stops leaves its rules");
    said(&mut beside.machine.portolan(&["proxy", "--cleanup"]))?.ok()?;
    assert_eq!(beside.dump()?, "");
    Ok(())
}
