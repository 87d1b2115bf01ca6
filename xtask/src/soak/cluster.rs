//! The cluster under load: three nodes, the app behind a Service of each policy and an Ingress, and rolling restarts of it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::clients::{INGRESS, Kind, SERVICE, Target};
use crate::command::{output, program, root};
use crate::tools;

const IMAGE: &str = "localhost/soak:1";
/// Of the app at a time, two a node.
const REPLICAS: usize = 6;
const NODES: usize = 3;
/// What one rolling restart replaces: the Deployment, and the DaemonSet that is there so that each node has an endpoint at all times.
const ROUND: usize = REPLICAS + NODES;
const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: soak}
spec:
  type: LoadBalancer
  selector: {app: soak}
  ports:
    - {name: http, port: 80, targetPort: 8080, nodePort: 30080}
    - {name: echo, port: 80, targetPort: 8080, nodePort: 30080, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: soak-local}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: soak}
  ports:
    - {name: http, port: 80, targetPort: 8080}
    - {name: echo, port: 80, targetPort: 8080, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: soak-node}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: {app: soak-node}
  ports:
    - {name: http, port: 80, targetPort: 8080, nodePort: 30081}
    - {name: echo, port: 80, targetPort: 8080, nodePort: 30081, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: soak-grpc}
spec:
  selector: {app: soak}
  ports: [{name: grpc, port: 80, targetPort: 9090, appProtocol: kubernetes.io/h2c}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: soak}
spec:
  rules:
    - host: http.soak.example
      http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: soak, port: {name: http}}}}]}
    - host: grpc.soak.example
      http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: soak-grpc, port: {name: grpc}}}}]}
"#;

pub struct Cluster {
    portolan: PathBuf,
    pub kubectl: PathBuf,
    folder: PathBuf,
}

/// Makes the image's filesystem: the app as a static program, and its gRPC side with the libraries that it is linked against.
pub fn make_app(folder: &Path, grpc: &Path) -> Result<()> {
    let rootfs = folder.join("rootfs");
    fs::create_dir_all(&rootfs)?;
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut compile = program(rustc, &["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-o"]);
    let source = root().join("xtask/src/soak/app.rs");
    output(compile.arg(rootfs.join("app")).arg(source)).context("cannot compile the app")?;
    fs::copy(grpc, rootfs.join("grpc"))?;
    let libraries = output(program("ldd", &[]).arg(grpc))?;
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = rootfs.join(library.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("a library lies nowhere")?)?;
        fs::copy(library, to)?;
    }
    Ok(())
}

impl Cluster {
    /// Starts it, with the app's image and Services.
    pub fn up(portolan: PathBuf, folder: &Path) -> Result<Cluster> {
        let kubectl = tools::kubectl(tools::KUBECTL_NEWEST)?;
        let cluster = Cluster { portolan, kubectl, folder: folder.to_owned() };
        cluster.portolan(&["down"])?;
        cluster.image()?;
        let nodes = NODES.to_string();
        let started =
            cluster.command(&["up", "--nodes", &nodes, "--detach", "--no-kubeconfig"]).stdin(Stdio::null()).status()?;
        if !started.success() {
            bail!("the cluster did not start\n  hint: its log is {}", cluster.data().join("portolan.log").display());
        }
        cluster.apply(SERVICES)?;
        Ok(cluster)
    }

    /// Deploys the app, with pods that ask for this sort of drain, and waits until all of it is ready.
    pub fn deploy(&self, drain: &str) -> Result<()> {
        let spread = "topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, \
             labelSelector: {matchLabels: {app: soak}}}]";
        let deployment = format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: soak}}\nspec:\n  replicas: {REPLICAS}\n  \
             strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 3}}}}\n{}      {spread}\n",
            template("soak", drain)
        );
        let daemons = format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: soak-node}}\nspec:\n  \
             updateStrategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 3}}}}\n{}",
            template("soak-node", drain)
        );
        self.apply(&format!("{deployment}---\n{daemons}"))?;
        self.rolled_out()
    }

    /// Every way in, for HTTP and datagrams.
    pub fn targets(&self) -> Result<Vec<Target>> {
        let mut targets = vec![target("cluster ip", &self.address("soak", CLUSTER_IP)?, 80, "soak", SERVICE)?];
        targets.push(target("load balancer", &self.address("soak", EXTERNAL_IP)?, 80, "soak", SERVICE)?);
        let local = self.address("soak-local", EXTERNAL_IP)?;
        targets.push(target("load balancer, local", &local, 80, "soak", SERVICE)?);
        let nodes = self.node_addresses()?;
        for (port, words) in [(30080, "node port of"), (30081, "local node port of")] {
            for node in &nodes {
                targets.push(target(&format!("{words} {node}"), node, port, "soak", SERVICE)?);
            }
        }
        let first = nodes.first().context("no node")?;
        targets.push(target("ingress", first, 80, "http.soak.example", INGRESS)?);
        Ok(targets)
    }

    /// Every way in for gRPC.
    pub fn grpc_targets(&self) -> Result<Vec<Target>> {
        let none: &[Kind] = &[];
        let vip = self.address("soak-grpc", CLUSTER_IP)?;
        let nodes = self.node_addresses()?;
        let first = nodes.first().context("no node")?;
        Ok(vec![
            target("cluster ip, grpc", &vip, 80, "grpc.soak.example", none)?,
            target("ingress, grpc", first, 80, "grpc.soak.example", none)?,
        ])
    }

    fn address(&self, service: &str, path: &str) -> Result<String> {
        self.kubectl(&["get", "service", service, "-o", &format!("jsonpath={path}")])
    }

    fn node_addresses(&self) -> Result<Vec<String>> {
        let path = "jsonpath={.items[*].status.addresses[?(@.type==\"InternalIP\")].address}";
        Ok(self.kubectl(&["get", "nodes", "-o", path])?.split_whitespace().map(str::to_owned).collect())
    }

    /// The network namespaces of the nodes.
    pub fn namespaces(&self) -> Result<Vec<PathBuf>> {
        let nodes = self.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])?;
        Ok(nodes.split_whitespace().map(|node| self.data().join("run/netns").join(node)).collect())
    }

    /// Restarts the app until so many pods have been replaced or the time is over; says how many.
    pub fn replace(&self, wanted: usize, until: Option<Instant>) -> Result<usize> {
        let mut replaced = 0;
        let start = Instant::now();
        while replaced < wanted && until.is_none_or(|until| Instant::now() < until) {
            self.kubectl(&["rollout", "restart", "deployment/soak", "daemonset/soak-node"])?;
            self.rolled_out()?;
            replaced += ROUND;
            println!("{replaced} of {wanted} replaced after {:.0} s", start.elapsed().as_secs_f64());
        }
        Ok(replaced)
    }

    /// Waits until the new pods are ready and the old ones gone.
    fn rolled_out(&self) -> Result<()> {
        self.kubectl(&["rollout", "status", "deployment/soak", "--timeout=120s"])?;
        self.kubectl(&["rollout", "status", "daemonset/soak-node", "--timeout=120s"])?;
        let start = Instant::now();
        loop {
            let pods = self.kubectl(&["get", "pods", "-o", "name"])?;
            if pods.lines().count() == ROUND {
                return Ok(());
            }
            if start.elapsed() > Duration::from_secs(120) {
                bail!("old pods do not go:\n{pods}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A shell beside the app.
    fn image(&self) -> Result<()> {
        let rootfs = self.folder.join("rootfs");
        fs::create_dir_all(rootfs.join("bin"))?;
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).context("no /bin/busybox (package busybox-static)")?;
        let rootfs = rootfs.to_string_lossy().into_owned();
        self.portolan(&["image", "import", "--name", IMAGE, &rootfs])
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data().join("kubeconfig")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(&self.portolan, arguments);
        command.env("PORTOLAN_DATA_DIR", self.data());
        command
    }

    fn portolan(&self, arguments: &[&str]) -> Result<()> {
        output(&mut self.command(arguments)).map(drop)
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let said = output(program(&self.kubectl, arguments).env("KUBECONFIG", self.kubeconfig()))?;
        Ok(said.trim().to_owned())
    }

    fn apply(&self, text: &str) -> Result<()> {
        let manifest = self.folder.join("manifest.yaml");
        fs::write(&manifest, text)?;
        self.kubectl(&["apply", "-f", &manifest.to_string_lossy()]).map(drop)
    }
}

/// Waits for the gRPC server, in the app's shell: the app listens last, so that a pod that is ready answers both.
const LISTENS: &str = "until /bin/busybox grep -q ':2382 .* 0A ' /proc/net/tcp; do /bin/busybox sleep 0.02; done";
const CLUSTER_IP: &str = "{.spec.clusterIP}";
const EXTERNAL_IP: &str = "{.status.loadBalancer.ingress[0].ip}";

fn target(name: &str, host: &str, port: u16, authority: &str, kinds: &'static [Kind]) -> Result<Target> {
    let address: SocketAddr = format!("{host}:{port}").parse().with_context(|| format!("{name}: {host}:{port}"))?;
    Ok(Target { name: name.to_owned(), address, host: authority.to_owned(), kinds })
}

/// Selector and pods of a workload: they end at once when they are told to.
fn template(app: &str, drain: &str) -> String {
    format!(
        "  selector: {{matchLabels: {{app: {app}}}}}\n  \
         template:\n    metadata:\n      labels: {{app: {app}}}\n      annotations: {{portolan.dev/drain: {drain}}}\n    spec:\n      \
         containers:\n        - name: soak\n          image: {IMAGE}\n          imagePullPolicy: Never\n          \
         command: [/bin/busybox, sh, -c, \"trap 'exit 0' TERM; /grpc serve 0.0.0.0:9090 & {LISTENS}; /app & wait\"]\n          \
         readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}\n"
    )
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.portolan(&["down"]);
    }
}
