//! Jobs, CronJobs and budgets against an API server in this process, with a kubelet that ends every pod of a Job at once.

#![allow(clippy::unwrap_used)] // a test file: helpers outside of #[test] functions fail the test the same way

mod support;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, PropagationPolicy};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use support::{Cluster, complete, deployment};

fn job(name: &str, spec: Value) -> Value {
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "ends"}]}});
    let mut job = json!({"metadata": {"name": name}, "spec": spec});
    job["spec"]["template"] = template;
    job
}

fn is(jobs: &[Job], name: &str, condition: &str) -> bool {
    let all = jobs.iter().filter(|job| job.name_any() == name);
    let mut conditions = all.flat_map(|job| job.status.iter().flat_map(|status| status.conditions.iter().flatten()));
    conditions.any(|one| one.type_ == condition && one.status == "True")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_completes_and_goes_when_its_time_is_over() {
    let cluster = Cluster::with_node().await;
    let spec = json!({"completions": 5, "parallelism": 2, "completionMode": "Indexed"});
    cluster.create::<Job>(job("five", spec)).await;
    let jobs = cluster.until::<Job>("an end", |jobs| is(jobs, "five", "Complete")).await;
    let status = jobs[0].status.clone().unwrap();
    assert_eq!((status.succeeded, status.completed_indexes.as_deref()), (Some(5), Some("0-4")));
    let pods =
        cluster.until::<Pod>("pods that are let go", |pods| pods.iter().all(|pod| pod.finalizers().is_empty())).await;
    assert_eq!(pods.len(), 5);
    let told = |events: &[Event]| events.iter().any(|event| event.reason.as_deref() == Some("Completed"));
    cluster.until::<Event>("a last word", told).await;
    cluster.patch::<Job>("five", json!({"spec": {"ttlSecondsAfterFinished": 0}})).await;
    cluster.until::<Job>("no job", <[Job]>::is_empty).await;
    cluster.until::<Pod>("no pods", <[Pod]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_deleted_takes_its_pods_along() {
    let cluster = Cluster::with_node().await;
    for policy in [PropagationPolicy::Background, PropagationPolicy::Foreground] {
        let mut runs = job("runs", json!({"completions": 2, "parallelism": 2}));
        runs["spec"]["template"]["spec"]["containers"][0]["image"] = json!("stays");
        cluster.create::<Job>(runs).await;
        let active = |jobs: &[Job]| jobs.iter().any(|job| job.status.as_ref().is_some_and(|s| s.ready == Some(2)));
        cluster.until::<Job>("two pods", active).await;
        let how = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
        cluster.api::<Job>().delete("runs", &how).await.unwrap();
        cluster.until::<Pod>("no pods", <[Pod]>::is_empty).await;
        cluster.until::<Job>("no job", <[Job]>::is_empty).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cron_job_starts_jobs_and_knows_them() {
    let cluster = Cluster::with_node().await;
    let template = job("x", json!({}))["spec"].clone();
    let spec = json!({"schedule": "@every 1s", "jobTemplate": {"spec": template}, "successfulJobsHistoryLimit": 2});
    cluster.create::<CronJob>(json!({"metadata": {"name": "ticks"}, "spec": spec})).await;
    // The names of jobs tell minutes, so a schedule of seconds makes one a minute; one is enough.
    cluster
        .until::<Job>("a job that completes", |jobs| {
            jobs.iter().any(|one| one.name_any().starts_with("ticks-") && is(jobs, &one.name_any(), "Complete"))
        })
        .await;
    let known =
        |crons: &[CronJob]| crons[0].status.as_ref().is_some_and(|status| status.last_successful_time.is_some());
    cluster.until::<CronJob>("a success", known).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_lets_so_many_pods_be_evicted_and_no_more() {
    let cluster = Cluster::with_node().await;
    cluster.create::<k8s_openapi::api::apps::v1::Deployment>(deployment(3)).await;
    let budget = json!({"metadata": {"name": "web"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.create::<PodDisruptionBudget>(budget).await;
    let allows = |count: i32| {
        move |all: &[PodDisruptionBudget]| all[0].status.as_ref().is_some_and(|s| s.disruptions_allowed == Some(count))
    };
    cluster.until::<PodDisruptionBudget>("one to go", allows(1)).await;
    // Nothing takes the evicted pod's place as long as no node takes new ones.
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    nodes.patch("n1", &PatchParams::default(), &cordon).await.unwrap();
    let pods: Api<Pod> = cluster.api();
    let names: Vec<String> =
        pods.list(&ListParams::default()).await.unwrap().iter().map(|pod| pod.name_any()).collect();
    pods.evict(&names[0], &EvictParams::default()).await.unwrap();
    let refused = pods.evict(&names[1], &EvictParams::default()).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 429), "{refused}");
    let open = Patch::Merge(json!({"spec": {"unschedulable": false}}));
    nodes.patch("n1", &PatchParams::default(), &open).await.unwrap();
    cluster.until::<k8s_openapi::api::apps::v1::Deployment>("all again", |all| complete(all, 3)).await;
    cluster.until::<PodDisruptionBudget>("one to go", allows(1)).await;
    pods.evict(&names[1], &EvictParams::default()).await.unwrap();
}
