//! The figures of `cargo xtask bench controllers`: an API server, the controllers and the scheduler in one process, kubelets simulated.
//!
//! Every figure is what a client of the API sees. Prints a line `key value` for each; `docs/bench.md` says what is measured. Takes the size in
//! per cent of the full one, and the name of a measurement to make no other.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a program for developers: whatever fails ends it

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::{Duration, Instant};

use apiserver::ApiServer;
use apiserver::auth::User;
use client::{Change, Client, Watched};
use controllers::Name;
use futures::{StreamExt, stream};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const PODS_EACH: usize = 10;
/// Requests of the set-up on their way at once.
const AT_ONCE: usize = 128;

#[tokio::main]
async fn main() {
    let mut words = std::env::args().skip(1);
    let per_cent: usize = words.next().map_or(100, |text| text.parse().expect("per cent of the full size"));
    let only = words.next();
    let sized = |full: usize| (full * per_cent / 100).max(10);
    for measurement in ["latency", "recompute", "schedule"] {
        if only.as_deref().is_some_and(|only| only != measurement) {
            continue;
        }
        let cluster = Cluster::start().await;
        match measurement {
            "latency" => latency(&cluster, sized(1_000), sized(2_000)).await,
            "recompute" => recompute(&cluster, sized(10_000)).await,
            _ => schedule(&cluster, sized(1_000), sized(10_000)).await,
        }
    }
}

struct Cluster {
    server: ApiServer,
    client: Client,
    _data: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.server.shut_down();
    }
}

impl Cluster {
    async fn start() -> Cluster {
        let data = tempfile::tempdir().unwrap();
        let server = ApiServer::open(apiserver::Config::new(data.path())).await.unwrap();
        let client = client::in_process(server.service(User::admin()));
        let cluster = Cluster { server, client, _data: data };
        for name in ["kube-node-lease", "bench"] {
            let namespace = json!({"metadata": {"name": name}});
            let api: Api<Namespace> = Api::all(cluster.client.clone());
            let _ = api.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await;
        }
        // Pods need it, and not every measurement has the controller that makes it.
        let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        cluster.api::<ServiceAccount>().create(&PostParams::default(), &account).await.unwrap();
        cluster
    }

    /// A client of its own, as each component has.
    fn client(&self) -> Client {
        client::in_process(self.server.service(User::admin()))
    }

    fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), "bench")
    }

    async fn create<K>(&self, api: &Api<K>, objects: impl Iterator<Item = Value>)
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let post = PostParams::default();
        let made = stream::iter(objects).map(|object| {
            let post = &post;
            async move { api.create(post, &serde_json::from_value(object).unwrap()).await.unwrap() }
        });
        made.buffer_unordered(AT_ONCE).for_each(|_| async {}).await;
    }

    /// Nodes that are never silent for the time of a benchmark.
    async fn nodes(&self, count: usize) {
        let node = |number: usize| {
            let labels = json!({"kubernetes.io/hostname": node(number), "topology.kubernetes.io/zone": format!("z{}", number % 3)});
            let allocatable = json!({"cpu": "32", "memory": "64Gi", "pods": "1000"});
            let status = json!({"allocatable": allocatable, "conditions": [{"type": "Ready", "status": "True"}]});
            json!({"metadata": {"name": node(number), "labels": labels}, "status": status})
        };
        let nodes: Api<Node> = Api::all(self.client.clone());
        self.create::<Node>(&nodes, (0..count).map(node)).await;
        // The server keeps pods from new nodes until they are known to be ready, and not every measurement has the controller that says so.
        let opened = stream::iter(0..count).map(|number| {
            let (nodes, open) = (&nodes, Patch::Merge(json!({"spec": {"taints": null}})));
            async move { nodes.patch(&self::node(number), &PatchParams::default(), &open).await.unwrap() }
        });
        opened.buffer_unordered(AT_ONCE).for_each(|_| async {}).await;
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let lease =
            |number: usize| json!({"metadata": {"name": self::node(number)}, "spec": {"leaseDurationSeconds": 86_400}});
        self.create(&leases, (0..count).map(lease)).await;
    }

    /// Services and their ready pods.
    async fn services(&self, count: usize, nodes: usize) {
        let service = |number: usize| {
            let ports = json!([{"port": 80, "targetPort": 8080}]);
            json!({"metadata": {"name": app(number)}, "spec": {"selector": {"app": app(number)}, "ports": ports}})
        };
        self.create::<Service>(&self.api(), (0..count).map(service)).await;
        let pods: Api<Pod> = self.api();
        let made = stream::iter(0..count * PODS_EACH).map(|number| {
            let pods = &pods;
            async move {
                let spec = json!({"nodeName": node(number % nodes), "containers": [{"name": "c", "image": "i"}]});
                let labels = json!({"app": app(number / PODS_EACH)});
                let object = json!({"metadata": {"name": pod(number), "labels": labels}, "spec": spec});
                pods.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
                tell(pods, number, true).await;
            }
        });
        made.buffer_unordered(AT_ONCE).for_each(|()| async {}).await;
    }

    fn run_controllers(&self, enabled: BTreeSet<Name>) -> Running {
        let stop = CancellationToken::new();
        let config = controllers::Config { enabled, ..controllers::Config::default() };
        let running = controllers::run(config, self.client(), stop.clone());
        Running { task: tokio::spawn(async { drop(running.await) }), stop }
    }
}

struct Running {
    task: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn node(number: usize) -> String {
    format!("n{number:05}")
}

fn app(number: usize) -> String {
    format!("s{number:05}")
}

fn pod(number: usize) -> String {
    format!("p{number:06}")
}

/// A kubelet says how a pod is.
async fn tell(pods: &Api<Pod>, number: usize, ready: bool) {
    let ip = format!("10.{}.{}.{}", 64 + number / 65_536, number / 256 % 256, number % 256);
    let status = if ready { "True" } else { "False" };
    let conditions = json!([{"type": "Ready", "status": status, "lastTransitionTime": "2026-01-02T03:04:05Z"}]);
    let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions});
    let patch = Patch::Merge(json!({"status": status}));
    pods.patch_status(&pod(number), &PatchParams::default(), &patch).await.unwrap();
}

/// The ready pods, as the slices tell.
struct Slices {
    changes: mpsc::UnboundedReceiver<Change<EndpointSlice>>,
    ready: BTreeMap<String, BTreeSet<String>>,
    count: usize,
    _stop: tokio_util::sync::DropGuard,
}

impl Slices {
    fn follow(cluster: &Cluster) -> Slices {
        let stop = CancellationToken::new();
        let watched: Watched<EndpointSlice> = Watched::start(
            Api::namespaced(cluster.client(), "bench"),
            kube::runtime::watcher::Config::default(),
            stop.clone(),
        );
        Slices { changes: watched.changes(), ready: BTreeMap::new(), count: 0, _stop: stop.drop_guard() }
    }

    async fn next(&mut self) {
        let (name, ready) = match self.changes.recv().await.unwrap() {
            Change::Applied { object, .. } => (object.name_any(), ready(&object)),
            Change::Deleted(object) => (object.name_any(), BTreeSet::new()),
            Change::Synced => return,
        };
        self.count += ready.len();
        self.count -= self.ready.insert(name, ready).map_or(0, |before| before.len());
    }

    async fn until_count(&mut self, count: usize) {
        while self.count != count {
            self.next().await;
        }
    }

    fn has(&self, pod: &str) -> bool {
        self.ready.values().any(|ready| ready.contains(pod))
    }
}

fn ready(slice: &EndpointSlice) -> BTreeSet<String> {
    let ready = |endpoint: &&k8s_openapi::api::discovery::v1::Endpoint| {
        endpoint.conditions.as_ref().is_some_and(|is| is.ready == Some(true))
    };
    let endpoints = slice.endpoints.iter().flatten().filter(ready);
    endpoints.filter_map(|endpoint| endpoint.target_ref.as_ref()?.name.clone()).collect()
}

/// From the answer to the kubelet's word to the slice's change in another client's watch.
async fn latency(cluster: &Cluster, services: usize, changes: usize) {
    let nodes = services / 10;
    cluster.nodes(nodes).await;
    let running = cluster.run_controllers(Name::ALL.into_iter().collect());
    let mut slices = Slices::follow(cluster);
    cluster.services(services, nodes).await;
    slices.until_count(services * PODS_EACH).await;
    let pods = cluster.api();
    let mut took: Vec<Duration> = Vec::new();
    for change in 0..changes {
        // Far apart, so that no two in a row belong to one Service.
        let number = change * 7_919 % (services * PODS_EACH);
        let name = pod(number);
        for wanted in [false, true] {
            tell(&pods, number, wanted).await;
            let told = Instant::now();
            while slices.has(&name) != wanted {
                slices.next().await;
            }
            if wanted {
                took.push(told.elapsed());
            }
        }
    }
    running.end().await;
    took.sort();
    let at = |share: f64| took[((took.len() as f64 * share) as usize).min(took.len() - 1)].as_secs_f64() * 1e3;
    println!("slice_p50_ms {:.4}", at(0.5));
    println!("slice_p99_ms {:.4}", at(0.99));
}

/// From the controllers' start until every Service has been looked at: one in a hundred lost its slice meanwhile, and has it again.
async fn recompute(cluster: &Cluster, services: usize) {
    let nodes = services / 10;
    cluster.nodes(nodes).await;
    cluster.services(services, nodes).await;
    let both = || BTreeSet::from([Name::EndpointSlice, Name::Endpoints]);
    let mut slices = Slices::follow(cluster);
    let begun = Instant::now();
    let running = cluster.run_controllers(both());
    slices.until_count(services * PODS_EACH).await;
    println!("write_{services}_s {:.4}", begun.elapsed().as_secs_f64());
    // Endpoints are still being written: only what stands still can be looked at again without a write.
    let kept: Api<k8s_openapi::api::core::v1::Endpoints> = cluster.api();
    while kept.list_metadata(&kube::api::ListParams::default()).await.unwrap().items.len() < services {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    running.end().await;
    let api: Api<EndpointSlice> = cluster.api();
    for number in (0..services).step_by(100) {
        let name = slices.ready.iter().find(|(_, pods)| pods.contains(&pod(number * PODS_EACH))).unwrap().0.clone();
        api.delete(&name, &DeleteParams::default()).await.unwrap();
    }
    let lost = services.div_ceil(100) * PODS_EACH;
    slices.until_count(services * PODS_EACH - lost).await;
    let begun = Instant::now();
    let running = cluster.run_controllers(both());
    slices.until_count(services * PODS_EACH).await;
    println!("recompute_{services}_s {:.4}", begun.elapsed().as_secs_f64());
    running.end().await;
}

/// From the scheduler's start until all pods that waited are bound.
async fn schedule(cluster: &Cluster, nodes: usize, count: usize) {
    cluster.nodes(nodes).await;
    let requests = json!({"requests": {"cpu": "100m", "memory": "100Mi"}});
    let object = |number: usize| {
        let spec = json!({"containers": [{"name": "c", "image": "i", "resources": requests}]});
        json!({"metadata": {"name": pod(number), "labels": {"app": "web"}}, "spec": spec})
    };
    let pods: Api<Pod> = cluster.api();
    cluster.create(&pods, (0..count).map(object)).await;
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let watched: Watched<Pod> = Watched::start(
        Api::namespaced(cluster.client(), "bench"),
        kube::runtime::watcher::Config::default(),
        stop.clone(),
    );
    let mut changes = watched.changes();
    watched.synced().await;
    let begun = Instant::now();
    let running = tokio::spawn(scheduler::run(scheduler::Config::default(), cluster.client(), stop.clone()));
    let mut bound = BTreeSet::new();
    while bound.len() < count {
        if let Change::Applied { object, .. } = changes.recv().await.unwrap()
            && object.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
        {
            bound.insert(object.name_any());
        }
    }
    println!("schedule_per_s {:.1}", count as f64 / begun.elapsed().as_secs_f64());
    stop.cancel();
    running.await.unwrap().unwrap();
}
