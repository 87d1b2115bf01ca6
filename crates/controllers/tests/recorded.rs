//! Commands of kubectl that were recorded against an upstream cluster, run against ours: API server over TLS, controllers and scheduler in
//! this process, and a kubelet that says of every pod what the recorded one said. `data/recorded/README.md` says what is compared.
#![allow(clippy::unwrap_used)] // a test file: helpers outside of #[test] functions fail the test the same way

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use apiserver::auth::User;
use apiserver::{ApiServer, Config};
use client::Client;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use testkit::session::{self, Step};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What decides a failure is this long a wait for something that never comes; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// Groups that upstream serves and we do not: what is in them would be stored and never done.
const NOT_SERVED: &[&str] = &[
    "admissionregistration.k8s.io/v1",
    "certificates.k8s.io/v1",
    "flowcontrol.apiserver.k8s.io/v1",
    "resource.k8s.io/v1",
];

/// The address at which the recorded API server said it is.
const ADVERTISED: [u8; 4] = [192, 0, 2, 1];

/// Letters and digits of generated names.
const ALPHABET: &str = "bcdfghjklmnpqrstvwxz2456789";

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/recorded")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_print_what_they_print_upstream() {
    let kubectl = session::kubectls().pop().expect("no kubectl: set KUBECTL_NEWEST, as `cargo xtask test` does");
    let lab = Lab::start(&kubectl).await;
    let text = std::fs::read_to_string(data().join("recorded.session")).unwrap();
    let mut differences = Vec::new();
    let mut compared = 0;
    for line in session::lines(&text) {
        let said = tokio::task::block_in_place(|| lab.run(line.step, line.command));
        if line.step != Step::Compared {
            continue;
        }
        compared += 1;
        let (expected, found) = (normal(&line.expected), normal(&lab.as_recorded(&said)));
        if expected != found {
            differences.push(format!("$ {}\nexpected:\n{expected}\nfound:\n{found}\n", line.command));
        }
    }
    assert_eq!(compared, 55);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// A cluster with one node, and a folder with kubectl, its configuration and an editor.
struct Lab {
    home: tempfile::TempDir,
    port: u16,
    server: ApiServer,
    shutdown: CancellationToken,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.server.shut_down();
    }
}

impl Lab {
    async fn start(kubectl: &Path) -> Lab {
        let home = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = Config {
            advertise_addresses: vec![ADVERTISED.into()],
            server_names: vec!["localhost".to_owned()],
            ..Config::new(home.path().join("data"))
        };
        let server = ApiServer::open(config).await.unwrap();
        configure(home.path(), &server, port);
        std::fs::create_dir(home.path().join("bin")).unwrap();
        std::os::unix::fs::symlink(kubectl, home.path().join("bin/kubectl")).unwrap();
        // The editor that kubectl takes when none is named.
        std::os::unix::fs::symlink(data().join("editor.sh"), home.path().join("bin/vi")).unwrap();
        let shutdown = CancellationToken::new();
        let of = |name: &str| client::in_process(server.service(User::new(name, &["system:masters"])));
        let config = controllers::Config { root_ca: Some("PEM".to_owned()), ..controllers::Config::default() };
        tokio::spawn(controllers::run(config, of("system:kube-controller-manager"), shutdown.clone()));
        tokio::spawn(scheduler::run(scheduler::Config::default(), of("system:kube-scheduler"), shutdown.clone()));
        let nodes: Api<Node> = Api::all(of("kubernetes-admin"));
        nodes.create(&PostParams::default(), &serde_json::from_value(node()).unwrap()).await.unwrap();
        // The recorded one had been ready for long: no pod waited for it.
        let is_open = |node: Option<&Node>| {
            node.and_then(|node| node.spec.as_ref()).is_some_and(|spec| spec.taints.as_ref().is_none_or(Vec::is_empty))
        };
        let open = await_condition(nodes, "anchor-node", is_open);
        tokio::time::timeout(PATIENCE, open).await.expect("the node stays closed to pods").unwrap();
        tokio::spawn(kubelet(of("system:node:anchor-node"), shutdown.clone()));
        let (served, stop) = (server.clone(), shutdown.clone());
        tokio::spawn(async move { served.serve_tls(listener, stop).await });
        Lab { home, port, server, shutdown }
    }

    fn run(&self, step: Step, command: &str) -> String {
        let start = Instant::now();
        loop {
            let output = session::run(command, &data(), self.home.path()).unwrap();
            match step {
                Step::Compared => {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let mut said = text(&output.stdout);
                    for line in text(&output.stderr).lines() {
                        said = format!("{}\n! {line}", said.trim_end());
                    }
                    if let Some(code) = output.status.code().filter(|code| *code != 0) {
                        said = format!("{}\nexit {code}", said.trim_end());
                    }
                    return said.trim_matches('\n').to_owned();
                }
                Step::Needed | Step::Awaited if output.status.success() => return String::new(),
                Step::Awaited if start.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(50)),
                Step::Needed | Step::Awaited => panic!("{command}: {output:?}"),
            }
        }
    }

    /// With the address that the recorded server had.
    fn as_recorded(&self, said: &str) -> String {
        said.replace(&format!("localhost:{}", self.port), "127.0.0.1:6443")
    }
}

/// Writes the administrator's configuration of kubectl.
fn configure(home: &Path, server: &ApiServer, port: u16) {
    let credentials = server.credentials();
    let file = |name: &str, text: &str| {
        std::fs::write(home.join(name), text).unwrap();
        home.join(name)
    };
    let cluster = json!({
        "server": format!("https://localhost:{port}"),
        "certificate-authority": file("ca.pem", &credentials.ca_pem),
    });
    let user = json!({
        "client-certificate": file("certificate.pem", &credentials.certificate_pem),
        "client-key": file("key.pem", &credentials.key_pem),
    });
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "admin", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
    });
    file("kubeconfig", &config.to_string());
}

fn normal(said: &str) -> String {
    let lines = said.lines().filter(|line| !NOT_SERVED.contains(line) && !is_progress(line)).map(|line| {
        match line.strip_prefix("! ") {
            Some(complaint) => format!("! {}", chosen(&session::normal(complaint))),
            None => chosen(&session::normal(line)),
        }
    });
    lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

/// What `rollout status` tells while there is still something to wait for: how much of it there is, the moment decides.
fn is_progress(line: &str) -> bool {
    line.starts_with("Waiting for ") && line.ends_with("...")
}

/// Without what chance or the clock chose.
fn chosen(line: &str) -> String {
    for name in ["resourceVersion", "\"nodePort\""] {
        if let Some((head, _)) = line.split_once(name) {
            return format!("{head}{name}");
        }
    }
    let mut words: Vec<String> = line.split(' ').map(word).collect();
    while let Some(at) = words.windows(6).position(is_date) {
        words.splice(at..at + 6, ["<date>".to_owned()]);
    }
    words.join(" ")
}

/// `Mon, 23 Nov 2026 07:51:26 +0000`; what is no time stays as it is.
fn is_date(words: &[String]) -> bool {
    words[0].ends_with(',') && words[5] == "+0000" && words[3] != "0001"
}

fn word(word: &str) -> String {
    if let Some(name) = word.strip_suffix(':') {
        return self::word(name) + ":";
    }
    let addresses: Vec<String> =
        word.split(',').map(|part| if part.starts_with("10.244.") { address(part) } else { part.to_owned() }).collect();
    let word = addresses.join(",");
    let generated = |part: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&part.len()) && part.chars().all(|c| ALPHABET.contains(c))
    };
    let ending = word.rsplit('-').next().unwrap_or_default().to_owned();
    let mut parts: Vec<&str> = word.split('-').collect();
    if parts.len() > 1 && generated(&ending, 5..=5) {
        parts.pop();
        parts.push("<x>");
    }
    let is_hash = |part: &str| {
        part.len() >= 8 && part.len() <= 10 && part.chars().all(|c| ALPHABET.contains(c) || c.is_ascii_hexdigit())
    };
    let parts: Vec<String> = parts
        .iter()
        .map(|part| match part.rsplit_once('=') {
            Some((key, hash)) if is_hash(hash) => format!("{key}=<hash>"),
            None if is_hash(part) && word.contains('-') => "<hash>".to_owned(),
            _ => (*part).to_owned(),
        })
        .collect();
    parts.join("-")
}

/// A pod's address, with its port if it has one.
fn address(text: &str) -> String {
    match text.split_once(':') {
        Some((_, port)) => format!("<pod>:{port}"),
        None => "<pod>".to_owned(),
    }
}

/// The node as its kubelet described it.
fn node() -> Value {
    let amounts = json!({"cpu": "64", "memory": "256Gi", "pods": "5k"});
    json!({
        "metadata": {
            "name": "anchor-node",
            "labels": {"beta.kubernetes.io/os": "linux", "kubernetes.io/hostname": "anchor-node", "kubernetes.io/os": "linux"},
            "annotations": {"node.alpha.kubernetes.io/ttl": "0"},
        },
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "addresses": [
                {"type": "InternalIP", "address": "192.168.78.1"},
                {"type": "Hostname", "address": "anchor-node"},
            ],
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "Fake", "message": "fake", "lastHeartbeatTime": jiff::Timestamp::now().to_string(),
            }],
        },
    })
}

/// Says of each pod of the node that it runs, and ends those that are to go.
async fn kubelet(client: Client, shutdown: CancellationToken) {
    let pods: Api<Pod> = Api::all(client.clone());
    let mut changes = watcher(pods, watcher::Config::default()).default_backoff().applied_objects().boxed();
    let mut next = 2;
    while let Some(Some(Ok(pod))) = shutdown.run_until_cancelled(changes.next()).await {
        let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
        let spec = pod.spec.as_ref().unwrap();
        if spec.node_name.is_none() {
            continue;
        }
        if pod.metadata.deletion_timestamp.is_some() {
            let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            let _ = api.delete(&pod.name_any(), &now).await;
        } else if pod.status.as_ref().is_none_or(|status| status.pod_ip.is_none()) {
            let status = running(&format!("10.244.251.{next}"), spec);
            next += 1;
            let _ = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status)).await;
        }
    }
}

fn running(ip: &str, spec: &k8s_openapi::api::core::v1::PodSpec) -> Value {
    const CONDITIONS: &[&str] =
        &["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let now = jiff::Timestamp::now().to_string();
    let now = format!("{}Z", now.split(['.', 'Z']).next().unwrap_or_default());
    let condition = |kind: &&str| json!({"type": kind, "status": "True", "lastTransitionTime": now});
    let containers = spec.containers.iter().map(|container| {
        json!({
            "name": container.name, "image": container.image, "imageID": "fake", "containerID": "fake://1", "ready": true, "started": true,
            "restartCount": 0, "state": {"running": {"startedAt": now}},
        })
    });
    json!({"status": {
        "phase": "Running", "startTime": now, "hostIP": "192.168.78.1", "hostIPs": [{"ip": "192.168.78.1"}],
        "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": CONDITIONS.iter().map(condition).collect::<Vec<_>>(),
        "containerStatuses": containers.collect::<Vec<_>>(),
    }})
}
