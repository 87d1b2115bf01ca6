//! A node of one test: a network namespace, an API server with its controllers in this process, the agent and its runtime. Gone when the
//! test is; what a killed run left is swept away by the next.

#![allow(clippy::unwrap_used, reason = "a test's support fails by panicking, like the test")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use agent::{Agent, Config};
use apiserver::{ApiServer, User};
use axum::body::Body;
use axum::http::Request;
use containers::images::{ImageConfig, ImageStore, PullOptions, build};
use containers::runtime::{Libcontainer, Runtime};
use http_body_util::BodyExt;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Event, Pod, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use linux::cgroup::Cgroup;
use linux::{NetNs, mounts};
use netlink::links::Links;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub const IMAGE: &str = "portolan.test/agent:1";
pub const NODE: &str = "n1";

pub struct Lab {
    pub dir: PathBuf,
    pub client: Client,
    pub agent: Agent,
    pub runtime: Arc<Libcontainer>,
    /// The agent's own.
    pub images: ImageStore,
    pub netns: NetNs,
    cgroup: String,
    cidrs: Vec<IpNet>,
    server: ApiServer,
    everything: CancellationToken,
    daemon: CancellationToken,
    running: Option<JoinHandle<()>>,
}

static SERIAL: AtomicU32 = AtomicU32::new(0);
const PREFIX: &str = "portolan-agent-test-";

impl Lab {
    pub async fn new() -> Lab {
        Lab::with_pods_in(&["10.244.7.0/24"]).await
    }

    /// A node whose pods get an address of each of these ranges.
    pub async fn with_pods_in(cidrs: &[&str]) -> Lab {
        sweep();
        let cidrs: Vec<IpNet> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        let name = format!("{PREFIX}{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&dir).unwrap();
        let images = ImageStore::open(dir.join("images")).unwrap();
        image_tree(&dir.join("tree"));
        build::build(&images, IMAGE, &dir.join("tree"), &image_config()).await.unwrap();
        let netns = NetNs::create(dir.join("node-ns")).unwrap();
        let links = Links::open(&netns).unwrap();
        let loopback = links.link("lo").await.unwrap().index;
        links.set_up(loopback).await.unwrap();
        let server = ApiServer::open(apiserver::Config::new(dir.join("api"))).await.unwrap();
        let everything = CancellationToken::new();
        let admin = client::in_process(server.service(User::admin()));
        let config = controllers::Config { root_ca: Some("PEM".to_owned()), ..controllers::Config::default() };
        tokio::spawn(controllers::run(config, admin.clone(), everything.clone()));
        let (agent, runtime, images) = agent(&dir, &netns, &name, &cidrs);
        let daemon = everything.child_token();
        let (cgroup, client, running) = (name, admin, None);
        let mut lab =
            Lab { dir, client, agent, runtime, images, netns, cgroup, cidrs, server, everything, daemon, running };
        lab.start();
        eventually("the namespace is furnished", async || {
            let account: Api<ServiceAccount> = lab.api();
            account.get_opt("default").await.unwrap()
        })
        .await;
        lab
    }

    fn start(&mut self) {
        let (agent, shutdown) = (self.agent.clone(), self.daemon.clone());
        let client =
            client::in_process(self.server.service(User::new("system:node:n1", &["system:nodes", "system:masters"])));
        self.running = Some(tokio::spawn(async move { agent.run(client, shutdown).await.unwrap() }));
    }

    /// The daemon is gone; what it left is on disk and in the kernel.
    pub async fn stop(&mut self) {
        self.daemon.cancel();
        if let Some(running) = self.running.take() {
            running.await.unwrap();
        }
    }

    /// And another one begins.
    pub async fn restart(&mut self) {
        self.stop().await;
        (self.agent, self.runtime, self.images) = agent(&self.dir, &self.netns, &self.cgroup, &self.cidrs);
        self.daemon = self.everything.child_token();
        self.start();
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + serde::Serialize,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api().create(&PostParams::default(), &object).await.unwrap()
    }

    /// A pod bound to the node, with one container that runs `args`; `more` is merged into its spec.
    pub async fn pod(&self, name: &str, args: &[&str], more: Value) -> Pod {
        let container = json!({"name": "c", "image": IMAGE, "args": args});
        let mut spec = json!({"nodeName": NODE, "terminationGracePeriodSeconds": 1, "containers": [container]});
        merge(&mut spec, more);
        self.create(json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})).await
    }

    pub async fn get(&self, name: &str) -> Option<Pod> {
        self.api::<Pod>().get_opt(name).await.unwrap()
    }

    /// Waits until the pod is as `look` wants it.
    pub async fn when<T>(&self, what: &str, name: &str, look: impl Fn(&Pod) -> Option<T>) -> T {
        eventually(what, async || self.get(name).await.as_ref().and_then(&look)).await
    }

    pub async fn ready(&self, name: &str) -> Pod {
        self.when(&format!("{name} is ready"), name, |pod| (condition(pod, "Ready") == "True").then(|| pod.clone()))
            .await
    }

    pub async fn phase(&self, name: &str, phase: &str) -> Pod {
        let reached = |pod: &Pod| (pod.status.as_ref()?.phase.as_deref() == Some(phase)).then(|| pod.clone());
        self.when(&format!("{name} is {phase}"), name, reached).await
    }

    /// Deletes a pod and waits until it is gone from the API.
    pub async fn delete(&self, name: &str) {
        self.api::<Pod>().delete(name, &DeleteParams::default()).await.unwrap();
        eventually(&format!("{name} is gone"), async || self.get(name).await.is_none().then_some(())).await;
    }

    /// What `kubectl logs` would get.
    pub async fn log(&self, pod: &str, query: &str) -> String {
        self.log_of(pod, "c", query).await
    }

    pub async fn log_of(&self, pod: &str, container: &str, query: &str) -> String {
        let uri = format!("/containerLogs/default/{pod}/{container}?{query}");
        let request = Request::get(uri).body(Body::empty()).unwrap();
        let response = self.agent.kubelet_api().oneshot(request).await.unwrap();
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    pub async fn exec(&self, pod: &Pod, args: &[&str]) -> (String, i32) {
        let id = pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].container_id.clone().unwrap();
        let id = id.split_once('.').unwrap().1;
        let command = ["/program"].iter().chain(args).map(|a| (*a).to_owned()).collect();
        let uid = pod.metadata.uid.as_deref().unwrap();
        let output = self.runtime.exec_sync(uid, id, command, Duration::from_secs(30), 1 << 20).await.unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.exit_code)
    }

    /// Waits until an event about the pod begins like this, and gives it.
    pub async fn event(&self, pod: &str, begins: &str) -> String {
        let what = format!("an event of {pod} that begins with `{begins}`");
        eventually(&what, async || self.events(pod).await.into_iter().find(|event| event.starts_with(begins))).await
    }

    /// `Type Reason Message` of the events about a pod, sorted.
    pub async fn events(&self, pod: &str) -> BTreeSet<String> {
        let events = self.api::<Event>().list(&ListParams::default()).await.unwrap();
        let about = events.items.into_iter().filter(|e| e.involved_object.name.as_deref() == Some(pod));
        about.map(|e| format!("{} {} {}", e.type_.unwrap(), e.reason.unwrap(), e.message.unwrap())).collect()
    }

    /// Waits until nothing of any pod is left on the machine.
    pub async fn nothing_is_left(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.left().await;
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "this is left: {left:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Folders, mounts, links and processes of pods.
    async fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for folder in ["pods", "containers", "netns"] {
            let entries = std::fs::read_dir(self.dir.join(folder)).unwrap().flatten();
            left.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        let links = Links::open(&self.netns).unwrap().links().await.unwrap();
        left.extend(links.into_iter().filter(|link| link.kind == "veth").map(|link| format!("link {}", link.name)));
        let mounts = mounts::mounted_below(&self.dir.join("pods")).unwrap();
        left.extend(mounts.iter().map(|mount| format!("mount {}", mount.display())));
        let processes = Cgroup::at(&self.cgroup).unwrap().processes();
        left.extend(processes.iter().map(|pid| format!("process {pid}")));
        left
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.everything.cancel();
        self.server.shut_down();
        clear(&self.dir, &self.cgroup);
    }
}

fn agent(dir: &Path, netns: &NetNs, cgroup: &str, cidrs: &[IpNet]) -> (Agent, Arc<Libcontainer>, ImageStore) {
    let images = ImageStore::open(dir.join("images")).unwrap();
    let runtime = Arc::new(Libcontainer::with_shim(dir.join("containers"), images.clone(), shim()).unwrap());
    let resolv_conf = dir.join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver 192.0.2.53\nsearch lan\n").unwrap();
    let config = Config {
        node_name: NODE.to_owned(),
        labels: BTreeMap::new(),
        netns: netns.clone(),
        pods_dir: dir.join("pods"),
        namespaces_dir: dir.join("netns"),
        pod_cidrs: cidrs.to_vec(),
        node_ips: vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))],
        cluster_dns: vec![IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10))],
        cluster_domain: "cluster.local".to_owned(),
        resolv_conf,
        runtime: runtime.clone(),
        images: images.clone(),
        pull: PullOptions::default(),
        kubelet_port: 0,
        max_pods: 110,
        drain_bound: Duration::from_secs(2),
        cgroup: cgroup.to_owned(),
    };
    (Agent::new(config), runtime, images)
}

pub fn condition<'a>(pod: &'a Pod, name: &str) -> &'a str {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().find(|c| c.type_ == name).map_or("", |c| c.status.as_str())
}

/// The first container's state in a few words.
pub fn state(pod: &Pod) -> String {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    let Some(state) = statuses.and_then(|s| s.first()).and_then(|s| s.state.clone()) else { return String::new() };
    if let Some(waiting) = state.waiting {
        return format!("waiting {}", waiting.reason.unwrap_or_default());
    }
    match state.terminated {
        Some(t) => format!("terminated {} {}", t.reason.unwrap_or_default(), t.exit_code),
        None => "running".to_owned(),
    }
}

pub fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        // A list of one container gets what the case says of it.
        (Value::Array(into), Value::Array(more)) if into.len() == 1 && more.len() == 1 => {
            for value in more {
                merge(&mut into[0], value);
            }
        }
        (into, more) => *into = more,
    }
}

/// A bound only against hanging for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something that must happen.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: it did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn clear(dir: &Path, cgroup: &str) {
    let group = Cgroup::at(cgroup).unwrap();
    let _ = group.kill(Duration::from_secs(10));
    let _ = group.remove();
    let _ = mounts::unmount_all(dir);
    let _ = std::fs::remove_dir_all(dir);
}

/// Clears away what runs that were killed have left.
fn sweep() {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path());
    let places = hierarchies.chain([PathBuf::from("/sys/fs/cgroup"), std::env::temp_dir()]);
    let names = places.flat_map(|place| std::fs::read_dir(place).into_iter().flatten().flatten());
    let left: BTreeSet<String> =
        names.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|name| name.starts_with(PREFIX)).collect();
    for name in left {
        let pid = name[PREFIX.len()..].split('-').next().unwrap_or_default().to_owned();
        if !Path::new("/proc").join(pid).exists() {
            clear(&std::env::temp_dir().join(&name), &name);
        }
    }
}

fn image_tree(tree: &Path) {
    for dir in ["etc", "tmp"] {
        std::fs::create_dir_all(tree.join(dir)).unwrap();
    }
    std::fs::copy(program(), tree.join("program")).unwrap();
    std::fs::write(tree.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
}

fn image_config() -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["/program".to_owned()],
        env: vec!["FROM_IMAGE=yes".to_owned(), "PATH=/:/bin".to_owned()],
        ..ImageConfig::default()
    }
}

/// The test program, compiled once.
fn program() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/program.rs");
    let program = folder.join("agent-test-program");
    let time = |p: &Path| std::fs::metadata(p).and_then(|m| m.modified()).ok();
    if time(&program) >= time(&source) {
        return program;
    }
    std::fs::create_dir_all(&folder).unwrap();
    let partial = folder.join(format!("agent-test-program-{}", std::process::id()));
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let compiled = Command::new(rustc)
        .args(["--edition=2024", "-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"])
        .arg(&partial)
        .arg(&source)
        .status()
        .unwrap();
    assert!(compiled.success());
    std::fs::rename(&partial, &program).unwrap();
    program
}

/// The example `agent-shim`, which cargo builds along with the tests.
fn shim() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/agent-shim")
}
