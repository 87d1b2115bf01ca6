//! A cluster for tests: API server, controllers and scheduler in this process, with a kubelet that only says how pods are.

#![allow(dead_code)] // each test program uses its part

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use apiserver::ApiServer;
use apiserver::auth::User;
use client::Client;
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// What decides a failure is this long a wait for something that never comes; nothing waits for it to pass.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Cluster {
    pub client: Client,
    shutdown: CancellationToken,
    server: ApiServer,
    _data: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.server.shut_down();
    }
}

fn user(name: &str) -> User {
    User {
        name: name.to_owned(),
        uid: String::new(),
        groups: vec!["system:masters".to_owned()],
        extra: BTreeMap::new(),
    }
}

impl Cluster {
    pub async fn start() -> Cluster {
        let data = tempfile::tempdir().unwrap();
        let server = ApiServer::open(apiserver::Config::new(data.path())).await.unwrap();
        let shutdown = CancellationToken::new();
        let of = |name: &str| client::in_process(server.service(user(name)));
        let config = controllers::Config { root_ca: Some("PEM".to_owned()), ..controllers::Config::default() };
        tokio::spawn(controllers::run(config, of("system:kube-controller-manager"), shutdown.clone()));
        let config = scheduler::Config::default();
        tokio::spawn(scheduler::run(config, of("system:kube-scheduler"), shutdown.clone()));
        tokio::spawn(kubelet(of("system:node:n1"), shutdown.clone()));
        let client = of("kubernetes-admin");
        Cluster { client, shutdown, server, _data: data }
    }

    pub async fn with_node() -> Cluster {
        let cluster = Cluster::start().await;
        let node = json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}},
            "status": {"allocatable": {"cpu": "8", "memory": "8Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True"}]}});
        let nodes: Api<Node> = Api::all(cluster.client.clone());
        let node: Node = serde_json::from_value(node).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
        cluster
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api().create(&PostParams::default(), &object).await.unwrap()
    }

    /// Waits until the objects of a kind are as `wanted` says, woken by their changes.
    pub async fn until<K>(&self, what: &str, wanted: impl Fn(&[K]) -> bool) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug
            + Send
            + 'static,
    {
        let api: Api<K> = self.api();
        let mut changes = watcher(api.clone(), watcher::Config::default()).default_backoff().boxed();
        let wait = async {
            while changes.next().await.is_some() {
                let all = api.list(&ListParams::default()).await.unwrap().items;
                if wanted(&all) {
                    return all;
                }
            }
            unreachable!("a watch does not end")
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(all) => all,
            Err(_) => panic!("{what} never came: {:#?}", api.list(&ListParams::default()).await.unwrap().items),
        }
    }

    pub async fn patch<K>(&self, name: &str, patch: Value)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }
}

/// Gives each pod that has a node an address and makes it ready; ends those that are to go.
async fn kubelet(client: Client, shutdown: CancellationToken) {
    let pods: Api<Pod> = Api::all(client.clone());
    let mut changes = watcher(pods, watcher::Config::default()).default_backoff().applied_objects().boxed();
    let mut next = 2;
    while let Some(Some(Ok(pod))) = shutdown.run_until_cancelled(changes.next()).await {
        let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
        if pod.spec.as_ref().unwrap().node_name.is_none() {
            continue;
        }
        if pod.metadata.deletion_timestamp.is_some() {
            let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            let _ = api.delete(&pod.name_any(), &now).await;
        } else if pod.status.as_ref().is_none_or(|status| status.pod_ip.is_none()) {
            let ip = format!("10.244.0.{next}");
            next += 1;
            let conditions = json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z"},
                {"type": "PodScheduled", "status": "True"}]);
            let mut status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions});
            if pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("ends") {
                status["phase"] = json!("Succeeded");
                status["conditions"][0]["status"] = json!("False");
            }
            let patch = json!({"status": status});
            let _ = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
        }
    }
}

pub fn deployment(replicas: i32) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}}}})
}

pub fn complete(deployments: &[Deployment], replicas: i32) -> bool {
    deployments.iter().all(|deployment| {
        let status = deployment.status.clone().unwrap_or_default();
        status.observed_generation == deployment.metadata.generation
            && status.updated_replicas == Some(replicas)
            && status.replicas == Some(replicas)
            && status.available_replicas == Some(replicas)
    })
}
