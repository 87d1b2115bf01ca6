//! Controllers and scheduler against an API server in this process, with a kubelet that only says "ready": how objects become endpoints.

#![allow(clippy::unwrap_used)] // a test file: helpers outside of #[test] functions fail the test the same way

mod support;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use support::{Cluster, PATIENCE, complete, deployment};

fn service() -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}})
}

fn ready(slices: &[EndpointSlice]) -> usize {
    let of_web = slices
        .iter()
        .filter(|slice| slice.labels().get("kubernetes.io/service-name").is_some_and(|name| name == "web"));
    let endpoints = of_web.flat_map(|slice| slice.endpoints.iter().flatten());
    endpoints.filter(|endpoint| endpoint.conditions.as_ref().unwrap().ready == Some(true)).count()
}

fn addresses(endpoints: &[Endpoints]) -> usize {
    let of_web = endpoints.iter().filter(|endpoints| endpoints.name_any() == "web");
    let subsets = of_web.flat_map(|endpoints| endpoints.subsets.iter().flatten());
    subsets.map(|subset| subset.addresses.as_ref().map_or(0, Vec::len)).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_becomes_endpoints_and_they_follow_it() {
    let cluster = Cluster::with_node().await;
    cluster.create::<Service>(service()).await;
    let started = std::time::Instant::now();
    cluster.create::<Deployment>(deployment(3)).await;
    cluster.until::<EndpointSlice>("three endpoints", |slices| ready(slices) == 3).await;
    println!("deployment to 3 endpoints: {:?}", started.elapsed());
    cluster.until::<Endpoints>("three addresses", |endpoints| addresses(endpoints) == 3).await;
    cluster.until::<Deployment>("a full rollout", |all| complete(all, 3)).await;
    let pods: Api<Pod> = cluster.api();
    let slices = cluster.until::<EndpointSlice>("a zone", |slices| ready(slices) == 3).await;
    let endpoint =
        slices.iter().find_map(|slice| slice.endpoints.as_ref()?.first().filter(|e| e.zone.is_some())).unwrap();
    assert_eq!((endpoint.zone.as_deref(), endpoint.node_name.as_deref()), (Some("z1"), Some("n1")));
    // Readiness moves one endpoint out and in again.
    let name = pods.list(&ListParams::default()).await.unwrap().items[0].name_any();
    for (status, count) in [("False", 2), ("True", 3)] {
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        cluster.until::<EndpointSlice>("readiness to tell", |slices| ready(slices) == count).await;
    }
    cluster.patch::<Deployment>("web", json!({"spec": {"replicas": 1}})).await;
    cluster.until::<EndpointSlice>("one endpoint", |slices| ready(slices) == 1).await;
    cluster.patch::<Deployment>("web", json!({"spec": {"replicas": 5}})).await;
    cluster.until::<EndpointSlice>("five endpoints", |slices| ready(slices) == 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_replaces_every_pod_and_an_undo_brings_the_old_back() {
    let cluster = Cluster::with_node().await;
    cluster.create::<Deployment>(deployment(3)).await;
    cluster.until::<Deployment>("a full rollout", |all| complete(all, 3)).await;
    for image in ["v2", "v1"] {
        let template = json!({"spec": {"containers": [{"name": "c", "image": image}]}});
        cluster.patch::<Deployment>("web", json!({"spec": {"template": template}})).await;
        cluster.until::<Deployment>("a full rollout", |all| complete(all, 3)).await;
        let images = |pods: &[Pod]| {
            pods.len() == 3
                && pods.iter().all(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(image))
        };
        cluster.until::<Pod>("new pods", images).await;
    }
    let sets = cluster.until::<ReplicaSet>("two sets", |sets| sets.len() == 2).await;
    let mut revisions: Vec<&String> =
        sets.iter().map(|set| &set.annotations()["deployment.kubernetes.io/revision"]).collect();
    revisions.sort();
    assert_eq!(revisions, ["2", "3"]);
    let told = |events: &[Event]| {
        let scaled = events.iter().filter(|event| event.reason.as_deref() == Some("ScalingReplicaSet"));
        scaled.filter_map(|event| event.message.as_deref()).any(|message| message.ends_with("from 0 to 3"))
    };
    cluster.until::<Event>("an event", told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_reach_what_was_owned() {
    let cluster = Cluster::with_node().await;
    for policy in [PropagationPolicy::Background, PropagationPolicy::Foreground] {
        cluster.create::<Service>(service()).await;
        cluster.create::<Deployment>(deployment(2)).await;
        cluster.until::<EndpointSlice>("two endpoints", |slices| ready(slices) == 2).await;
        let how = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
        cluster.api::<Deployment>().delete("web", &how).await.unwrap();
        cluster.until::<Pod>("no pods", <[Pod]>::is_empty).await;
        cluster.until::<ReplicaSet>("no sets", <[ReplicaSet]>::is_empty).await;
        cluster.until::<Deployment>("no deployment", <[Deployment]>::is_empty).await;
        cluster.api::<Service>().delete("web", &DeleteParams::default()).await.unwrap();
        let gone = |slices: &[EndpointSlice]| slices.iter().all(|slice| !slice.name_any().starts_with("web"));
        cluster.until::<EndpointSlice>("no slices", gone).await;
        cluster.until::<Endpoints>("no endpoints", |all| all.iter().all(|one| one.name_any() != "web")).await;
    }
    cluster.create::<Deployment>(deployment(1)).await;
    cluster.until::<Deployment>("a full rollout", |all| complete(all, 1)).await;
    let how = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    cluster.api::<Deployment>().delete("web", &how).await.unwrap();
    cluster.until::<Deployment>("no deployment", <[Deployment]>::is_empty).await;
    let free = |sets: &[ReplicaSet]| sets.len() == 1 && sets[0].owner_references().is_empty();
    cluster.until::<ReplicaSet>("an orphan", free).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_furnished_and_goes_with_all_that_is_in_it() {
    let cluster = Cluster::with_node().await;
    cluster.until::<ServiceAccount>("an account", |all| all.iter().any(|one| one.name_any() == "default")).await;
    cluster.until::<ConfigMap>("certificates", |all| all.iter().any(|one| one.name_any() == "kube-root-ca.crt")).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let made: Namespace = serde_json::from_value(json!({"metadata": {"name": "short"}})).unwrap();
    namespaces.create(&PostParams::default(), &made).await.unwrap();
    let there: Api<Deployment> = Api::namespaced(cluster.client.clone(), "short");
    let two: Deployment = serde_json::from_value(deployment(2)).unwrap();
    there.create(&PostParams::default(), &two).await.unwrap();
    namespaces.delete("short", &DeleteParams::default()).await.unwrap();
    let gone = kube::runtime::wait::await_condition(namespaces, "short", |found: Option<&Namespace>| found.is_none());
    tokio::time::timeout(PATIENCE, gone).await.expect("the namespace goes").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why_and_goes_when_it_fits() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>(deployment(1)).await;
    let waits = |pods: &[Pod]| {
        let conditions = pods.first().and_then(|pod| pod.status.as_ref()?.conditions.clone()).unwrap_or_default();
        conditions.iter().any(|condition| {
            condition.type_ == "PodScheduled"
                && condition.message.as_deref() == Some("no nodes available to schedule pods")
                && condition.reason.as_deref() == Some("Unschedulable")
        })
    };
    cluster.until::<Pod>("a reason", waits).await;
    let failed = |events: &[Event]| events.iter().any(|event| event.reason.as_deref() == Some("FailedScheduling"));
    cluster.until::<Event>("an event", failed).await;
    let node =
        json!({"metadata": {"name": "n1"}, "status": {"allocatable": {"cpu": "8", "memory": "8Gi", "pods": "110"}}});
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    cluster.until::<Deployment>("a full rollout", |all| complete(all, 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_endpoints_of_a_dead_node_stop_being_ready() {
    let cluster = Cluster::with_node().await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = json!({"metadata": {"name": "n2"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-node-lease");
    let lease =
        |renewed: &str| json!({"metadata": {"name": "n2"}, "spec": {"leaseDurationSeconds": 4, "renewTime": renewed}});
    let first = serde_json::from_value(lease("2026-01-02T03:04:05.000000Z")).unwrap();
    leases.create(&PostParams::default(), &first).await.unwrap();
    cluster.create::<Service>(service()).await;
    let spec = json!({"nodeName": "n2", "containers": [{"name": "c", "image": "v1"}]});
    let pod = json!({"metadata": {"name": "p", "labels": {"app": "web"}}, "spec": spec});
    cluster.create::<Pod>(pod).await;
    cluster.until::<EndpointSlice>("an endpoint", |slices| ready(slices) == 1).await;
    // The last heartbeat.
    let last = Patch::Merge(lease("2026-01-02T03:04:06.000000Z"));
    leases.patch("n2", &PatchParams::default(), &last).await.unwrap();
    let stopped = std::time::Instant::now();
    cluster.until::<EndpointSlice>("no endpoint", |slices| ready(slices) == 0).await;
    println!("endpoint of a dead node: {:?}", stopped.elapsed());
    let is = nodes.get("n2").await.unwrap().status.unwrap().conditions.unwrap();
    let told = is.iter().find(|one| one.type_ == "Ready").unwrap();
    assert_eq!((told.status.as_str(), told.reason.as_deref()), ("Unknown", Some("NodeStatusUnknown")));
    assert_eq!(told.message.as_deref(), Some("Kubelet stopped posting node status."));
    // It comes back: whoever is on it says so himself.
    let back = Patch::Merge(lease("2026-01-02T03:04:09.000000Z"));
    leases.patch("n2", &PatchParams::default(), &back).await.unwrap();
    let well = Patch::Merge(json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
    nodes.patch_status("n2", &PatchParams::default(), &well).await.unwrap();
    let untainted = async {
        while nodes.get("n2").await.unwrap().spec.is_some_and(|spec| spec.taints.is_some_and(|all| !all.is_empty())) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, untainted).await.expect("the taints go");
}
