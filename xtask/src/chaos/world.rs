//! The cluster that chaos falls upon: a machine of namespaces, its kubectl, clients that never stop asking, and what was promised so far.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use testkit::{Machine, Said, said};

use super::alone::{Alone, PARTS};
use super::clock::Clock;

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
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
          command: [sh, -c, "hostname > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  type: NodePort
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
"#;

/// Asks for ever; each failure is a line. It says how far the request came, and what the kernels of the machine and its nodes track of it: by its
/// port when it was connected, else what has had no answer yet.
const CLIENT: &str = r#"
while :; do
    told=$(curl -sf -o /dev/null --max-time 3 -w '%{local_port} %{time_connect} %{http_code}' "$URL")
    code=$?
    if [ $code -ne 0 ]; then
        set -- $told
        if [ "${1:-0}" -gt 0 ]; then flow="sport=$1 "; else flow='SYN_(SENT|RECV) .*dport=(80|8080|30080) '; fi
        tracked=$(
            grep -hE "$flow" /proc/net/nf_conntrack
            for node in "$NODES"/portolan*; do nsenter --net="$node" grep -hE "$flow" /proc/net/nf_conntrack; done
        )
        echo "$NAME: curl $code at $(date +%T), connected after $2 s, status $3; tracked:" $tracked
    fi
    sleep 0.02
done"#;

pub struct World {
    pub machine: Machine,
    kubectl: PathBuf,
    nodes: String,
    clients: Vec<Child>,
    pub alone: Alone,
    pub clock: Clock,
    /// ConfigMaps whose write was acknowledged, with their value.
    pub acknowledged: BTreeMap<String, String>,
    /// How many pods there shall be.
    pub replicas: usize,
    pub names: u32,
}

impl World {
    pub fn begin(nodes: u8, debug: bool, kubectl: PathBuf) -> Result<Self> {
        let profile = if debug { "debug" } else { "release" };
        let machine = Machine::of(crate::command::target().join(profile).join("portolan"))?;
        std::fs::create_dir_all(machine.data_dir())?;
        let mut mount = machine.command("mount");
        said(mount.args(["-t", "tmpfs", "-o", "size=96m", "tmpfs"]).arg(machine.data_dir()))?.ok()?;
        let clock = Clock::new(machine.folder())?;
        let mut world = World {
            machine,
            kubectl,
            nodes: nodes.to_string(),
            clients: Vec::new(),
            alone: Alone::default(),
            clock,
            acknowledged: BTreeMap::new(),
            replicas: 3,
            names: 0,
        };
        world.machine.busybox_image()?;
        world.up()?;
        for (name, _) in PARTS {
            world.start_alone(name)?;
        }
        let manifest = world.machine.file("web.yaml", WEB)?;
        world.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?.ok()?;
        world.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"])?.ok()?;
        // One by the rules of the machine, one by those of a node.
        let vip = world.vip()?;
        world.start_client("cluster ip", &format!("http://{vip}/"))?;
        let node = world.get(&["nodes"])?["items"][0]["status"]["addresses"][0]["address"].clone();
        let node = node.as_str().context("the node has no address")?;
        world.start_client("node port", &format!("http://{node}:30080/"))?;
        Ok(world)
    }

    /// Starts the daemon, or takes over.
    pub fn up(&self) -> Result<()> {
        let flags = ["--detach", "--no-kubeconfig", "--disable-controllers", "*", "--nodes", &self.nodes];
        said(self.portolan(&["up"]).args(flags))?.ok().map(drop)
    }

    fn portolan(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.machine.portolan(arguments);
        self.clock.rule(&mut command);
        command
    }

    /// Starts one of the parts that run alone.
    pub fn start_alone(&mut self, name: &'static str) -> Result<()> {
        let arguments = PARTS.iter().find(|(part, _)| *part == name).map(|(_, arguments)| *arguments);
        let command = self.portolan(arguments.context("no such part")?);
        self.alone.start(name, command, &self.machine.folder().join(format!("{name}.log")))
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Result<Said> {
        said(self.machine.command(&self.kubectl).args(arguments))
    }

    /// What `kubectl get … -o json` answers.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let words: Vec<&str> = ["get", "-o", "json"].iter().chain(arguments).copied().collect();
        serde_json::from_str(&self.kubectl(&words)?.ok()?.out).context("kubectl did not print JSON")
    }

    fn start_client(&mut self, name: &str, url: &str) -> Result<()> {
        let lost = std::fs::File::options().create(true).append(true).open(self.machine.folder().join("lost"))?;
        let mut client = self.machine.command("sh");
        client
            .args(["-c", CLIENT])
            .env("URL", url)
            .env("NAME", name)
            .env("NODES", self.machine.data_dir().join("run/netns"));
        client.stdout(Stdio::from(lost)).stderr(Stdio::null());
        self.clients.push(client.spawn()?);
        Ok(())
    }

    pub fn vip(&self) -> Result<String> {
        let service = self.get(&["service", "web"])?;
        Ok(service["spec"]["clusterIP"].as_str().context("the Service has no address")?.to_owned())
    }

    /// Requests that failed so far.
    pub fn lost(&self) -> Result<Vec<String>> {
        let lost = std::fs::read_to_string(self.machine.folder().join("lost"))?;
        Ok(lost.lines().map(str::to_owned).collect())
    }

    /// The daemon, as the machine numbers it.
    pub fn daemon(&self) -> Result<String> {
        let file = self.machine.data_dir().join("run/lock");
        Ok(said(self.machine.command("cat").arg(file))?.ok()?.out.trim().to_owned())
    }

    pub fn signal(&self, signal: &str, pid: &str) -> Result<()> {
        said(self.machine.command("kill").args([signal, pid]))?.ok().map(drop)
    }

    /// Processes on the machine: id, parent, command line.
    pub fn processes(&self) -> Result<Vec<(String, String, String)>> {
        let listed = said(self.machine.command("ps").args(["-e", "-o", "pid=,ppid=,args="]))?.ok()?.out;
        let row = |line: &str| {
            let (pid, rest) = line.trim().split_once(' ')?;
            let (parent, command) = rest.trim().split_once(' ')?;
            Some((pid.to_owned(), parent.to_owned(), command.trim().to_owned()))
        };
        Ok(listed.lines().filter_map(row).collect())
    }

    /// A program inside the namespace of a node.
    pub fn on_node(&self, node: &str, arguments: &[&str]) -> Result<Said> {
        let namespace = self.machine.data_dir().join("run/netns").join(node);
        let mut enter = self.machine.command("nsenter");
        said(enter.arg(format!("--net={}", namespace.display())).arg("--").args(arguments))
    }

    pub fn node_names(&self) -> Vec<String> {
        let number = self.nodes.parse().unwrap_or(1);
        (1..=number).map(|n: u8| if n == 1 { "portolan".to_owned() } else { format!("portolan-{n}") }).collect()
    }

    /// Writes a ConfigMap; keeps in mind what was acknowledged. Says whether it was.
    pub fn write(&mut self) -> Result<bool> {
        self.names += 1;
        let (name, value) = (format!("promise-{}", self.names), self.names.to_string());
        let answer = self.kubectl(&["create", "configmap", &name, &format!("--from-literal=value={value}")])?;
        if answer.code == Some(0) {
            self.acknowledged.insert(name, value);
        }
        Ok(answer.code == Some(0))
    }

    /// As [`World::write`], where nothing stands in the way.
    pub fn write_surely(&mut self) -> Result<()> {
        if self.write()? { Ok(()) } else { bail!("a write was refused without a fault") }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for client in &mut self.clients {
            let _ = client.kill();
            let _ = client.wait();
        }
    }
}
