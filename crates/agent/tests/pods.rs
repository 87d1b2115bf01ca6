//! Pods of the API, run for real: what the kubelet's users rely on. Needs root and a kernel with namespaces, overlayfs, cgroups.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use support::{IMAGE, Lab, condition, eventually, state};

fn with(container: Value) -> Value {
    json!({"containers": [container]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_is_found_and_leaves_nothing() {
    let lab = Lab::new().await;
    let service = json!({"metadata": {"name": "news-service"}, "spec": {"ports": [{"name": "web", "port": 80}]}});
    let service: Service = lab.create(service).await;
    let vip = service.spec.unwrap().cluster_ip.unwrap();
    let _: ConfigMap = lab.create(json!({"metadata": {"name": "map"}, "data": {"key": "value"}})).await;
    let _: Secret = lab.create(json!({"metadata": {"name": "sec"}, "stringData": {"pw": "hush"}})).await;
    let container = json!({
        "env": [{"name": "URL", "value": "http://$(NEWS_SERVICE_SERVICE_HOST):$(NEWS_SERVICE_SERVICE_PORT_WEB)/"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "pw"}}}],
        "readinessProbe": {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1},
        "volumeMounts": [{"name": "map", "mountPath": "/map"}, {"name": "flags", "mountPath": "/flags"}],
    });
    let mut spec = with(container);
    spec["volumes"] = json!([{"name": "map", "configMap": {"name": "map"}}, {"name": "flags", "emptyDir": {}}]);
    lab.pod("web", &["serve", "8080"], spec).await;
    let pod = lab.ready("web").await;
    let status = pod.status.clone().unwrap();
    assert_eq!((status.phase.as_deref(), status.host_ip.as_deref()), (Some("Running"), Some("192.0.2.7")));
    let ip = status.pod_ip.unwrap();
    assert!(ip.starts_with("10.244.7."), "{ip}");

    let (env, _) = lab.exec(&pod, &["env"]).await;
    for line in [format!("URL=http://{vip}:80/"), format!("IP={ip}"), "PW=hush".into(), "FROM_IMAGE=yes".into()] {
        assert!(env.lines().any(|l| l == line), "{line} is not in\n{env}");
    }
    let (files, _) = lab.exec(&pod, &["cat", "/etc/resolv.conf", "/map/key", "/etc/hostname"]).await;
    assert_eq!(
        files,
        "search default.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.96.0.10\noptions ndots:5\nvalueweb\n"
    );
    let (hosts, _) = lab.exec(&pod, &["cat", "/etc/hosts"]).await;
    assert!(hosts.ends_with(&format!("{ip}\tweb\n")), "{hosts}");
    let (token, code) = lab.exec(&pod, &["cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"]).await;
    assert!(code == 0 && token.split('.').count() == 3, "{token}");

    let events = lab.events("web").await;
    let pulled =
        format!("Normal Pulled Container image \"{IMAGE}\" already present on machine and can be accessed by the pod");
    for event in [pulled.as_str(), "Normal Created Container created", "Normal Started Container started"] {
        assert!(events.contains(event), "{event} is not among {events:?}");
    }
    lab.delete("web").await;
    lab.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_probe() {
    let lab = Lab::new().await;
    let probe =
        json!({"exec": {"command": ["/program", "exists", "/flags/ready"]}, "periodSeconds": 1, "failureThreshold": 1});
    let container = json!({"readinessProbe": probe, "volumeMounts": [{"name": "flags", "mountPath": "/flags"}]});
    let mut spec = with(container);
    spec["volumes"] = json!([{"name": "flags", "emptyDir": {"medium": "Memory"}}]);
    let pod = lab.pod("p", &["stubborn"], spec).await;
    let pod = lab
        .when("it runs", "p", |p| (state(p) == "running").then(|| p.clone()))
        .await
        .metadata
        .uid
        .map(|_| pod)
        .unwrap();
    let running = lab.phase("p", "Running").await;
    assert_eq!(condition(&running, "Ready"), "False");
    let flag = lab.dir.join("pods").join(pod.metadata.uid.unwrap()).join("volumes/flags/ready");
    std::fs::write(&flag, "").unwrap();
    lab.ready("p").await;
    std::fs::remove_file(&flag).unwrap();
    lab.when("it is unready", "p", |p| (condition(p, "Ready") == "False").then_some(())).await;
    let unhealthy = eventually("the event", async || {
        lab.events("p").await.into_iter().find(|e| e.starts_with("Warning Unhealthy Readiness probe failed"))
    });
    unhealthy.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_fails_its_liveness_probe_is_started_again() {
    let lab = Lab::new().await;
    let probe = json!({"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 1});
    lab.pod("p", &["stubborn"], with(json!({"livenessProbe": probe}))).await;
    let restarted = |p: &Pod| {
        let status = p.status.as_ref()?.container_statuses.as_ref()?[0].clone();
        (status.restart_count >= 1).then(|| status.last_state.unwrap().terminated.unwrap())
    };
    let last = lab.when("it is started again", "p", restarted).await;
    assert_eq!((last.exit_code, last.reason.as_deref()), (137, Some("Error")));
    let events = lab.events("p").await;
    assert!(events.contains("Normal Killing Container c failed liveness probe, will be restarted"), "{events:?}");
    let refused = events.iter().any(|e| {
        e.contains("Liveness probe failed: dial tcp 10.244.7.") && e.ends_with(":1: connect: connection refused")
    });
    assert!(refused, "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_are_told_as_they_were() {
    let lab = Lab::new().await;
    let never = |more: Value| {
        let mut spec = more;
        spec["restartPolicy"] = json!("Never");
        spec
    };
    lab.pod("done", &["say", "hello"], never(json!({}))).await;
    lab.pod("sorry", &["die", "no luck"], never(json!({}))).await;
    let limits = json!({"resources": {"limits": {"memory": "20Mi"}}});
    lab.pod("greedy", &["eat"], never(with(limits))).await;
    lab.pod("none", &[], never(with(json!({"command": ["/none"]})))).await;
    let done = lab.phase("done", "Succeeded").await;
    assert_eq!(state(&done), "terminated Completed 0");
    assert!(done.status.unwrap().pod_ip.is_some(), "an ended pod keeps its address");
    assert_eq!(lab.log("done", "").await, "hello\n");
    let sorry = lab.phase("sorry", "Failed").await;
    assert_eq!(state(&sorry), "terminated Error 3");
    let ended = sorry.status.unwrap().container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
    assert_eq!(ended.message.as_deref(), Some("no luck"));
    assert_eq!(state(&lab.phase("greedy", "Failed").await), "terminated OOMKilled 137");
    assert_eq!(state(&lab.phase("none", "Failed").await), "terminated StartError 128");
    for name in ["done", "sorry", "greedy", "none"] {
        lab.delete(name).await;
    }
    lab.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_said_and_waited_for() {
    let lab = Lab::new().await;
    let env = json!({"env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "k"}}}]});
    lab.pod("env", &["stubborn"], with(env)).await;
    lab.when("it says so", "env", |p| (state(p) == "waiting CreateContainerConfigError").then_some(())).await;
    lab.pod("image", &["stubborn"], with(json!({"image": "portolan.test/none:1", "imagePullPolicy": "Never"}))).await;
    lab.when("it says so", "image", |p| (state(p) == "waiting ErrImageNeverPull").then_some(())).await;
    let mut volume = with(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    volume["volumes"] = json!([{"name": "v", "configMap": {"name": "later"}}]);
    lab.pod("volume", &["stubborn"], volume).await;
    eventually("the event", async || {
        let said = "Warning FailedMount MountVolume.SetUp failed for volume \"v\" : configmap \"later\" not found";
        lab.events("volume").await.contains(said).then_some(())
    })
    .await;
    let _: ConfigMap = lab.create(json!({"metadata": {"name": "later"}, "data": {"k": "v"}})).await;
    lab.ready("volume").await;
    lab.ready("env").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_sidecars_and_the_order_of_the_end() {
    let lab = Lab::new().await;
    let mount = json!([{"name": "v", "mountPath": "/v"}]);
    let spec = json!({
        "volumes": [{"name": "v", "emptyDir": {}}],
        "initContainers": [
            {"name": "first", "image": IMAGE, "args": ["once", "/v/tried"], "volumeMounts": mount, "restartPolicy": "Always",
                "startupProbe": {"exec": {"command": ["/program", "exists", "/v/tried"]}, "periodSeconds": 1}},
            {"name": "second", "image": IMAGE, "args": ["say", "ready"]}]
    });
    lab.pod("p", &["polite"], spec).await;
    let pod = lab.ready("p").await;
    let init = pod.status.unwrap().init_container_statuses.unwrap();
    assert_eq!((init[0].restart_count, init[0].started, init[0].ready), (1, Some(true), true));
    let second = init[1].state.clone().unwrap().terminated.unwrap();
    assert_eq!((second.reason.as_deref(), init[1].ready), (Some("Completed"), true));
    lab.delete("p").await;
    lab.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounted_maps_follow_their_object() {
    let lab = Lab::new().await;
    let _: ConfigMap = lab.create(json!({"metadata": {"name": "m"}, "data": {"a": "1"}})).await;
    let mut spec = with(json!({"volumeMounts": [{"name": "m", "mountPath": "/m"}]}));
    spec["volumes"] = json!([{"name": "m", "configMap": {"name": "m"}}]);
    lab.pod("p", &["stubborn"], spec).await;
    let pod = lab.ready("p").await;
    let patch = Patch::Merge(json!({"data": {"a": null, "b": "2"}}));
    lab.api::<ConfigMap>().patch("m", &PatchParams::default(), &patch).await.unwrap();
    eventually("the new file is there", async || (lab.exec(&pod, &["cat", "/m/b"]).await.0 == "2").then_some(())).await;
    assert_eq!(lab.exec(&pod, &["exists", "/m/a"]).await.1, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_restart_is_nothing_to_a_pod() {
    let mut lab = Lab::new().await;
    lab.pod("web", &["serve", "80"], with(json!({"readinessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1}})))
        .await;
    lab.pod("gone", &["stubborn"], json!({})).await;
    lab.pod("dies", &["polite"], json!({"restartPolicy": "Never"})).await;
    let before = lab.ready("web").await;
    lab.ready("gone").await;
    let dies = lab.ready("dies").await;
    lab.stop().await;
    // What happens while nobody looks: one is deleted, one ends.
    lab.api::<Pod>().delete("gone", &DeleteParams::default()).await.unwrap();
    let uid = dies.metadata.uid.as_deref().unwrap();
    containers::runtime::Runtime::signal_container(&*lab.runtime, uid, "c.0", 15).await.unwrap();
    lab.restart().await;
    eventually("the deleted one is gone", async || lab.get("gone").await.is_none().then_some(())).await;
    assert_eq!(state(&lab.phase("dies", "Succeeded").await), "terminated Completed 0");
    assert_eq!(lab.log("dies", "").await, "here\nleaving\n");
    let after = lab.get("web").await.unwrap();
    assert_eq!(before.status.as_ref().unwrap().container_statuses, after.status.as_ref().unwrap().container_statuses);
    assert_eq!(before.status.unwrap().pod_ip, after.status.unwrap().pod_ip);
    // A new pod gets an address that nobody has.
    lab.pod("new", &["stubborn"], json!({})).await;
    let new = lab.ready("new").await;
    assert_ne!(new.status.unwrap().pod_ip, lab.get("web").await.unwrap().status.unwrap().pod_ip);
    for name in ["web", "dies", "new"] {
        lab.delete(name).await;
    }
    lab.nothing_is_left().await;
}
