//! Volumes as containers see them: modes, owners, parts of volumes, and what changes while they are mounted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use support::{IMAGE, Lab, eventually, state};

fn with(mounts: Value, volumes: Value) -> Value {
    json!({"containers": [{"volumeMounts": mounts}], "volumes": volumes})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_volume_can_be_mounted() {
    let lab = Lab::new().await;
    let _: ConfigMap =
        lab.create(json!({"metadata": {"name": "map"}, "data": {"file": "content", "other": "x"}})).await;
    let mounts = json!([
        {"name": "map", "mountPath": "/etc/one", "subPath": "file"},
        {"name": "v", "mountPath": "/a", "subPath": "deep/a"},
        {"name": "v", "mountPath": "/all"},
        {"name": "v", "mountPath": "/mine", "subPathExpr": "pods/$(POD)"}]);
    let mut spec = with(mounts, json!([{"name": "map", "configMap": {"name": "map"}}, {"name": "v", "emptyDir": {}}]));
    spec["containers"][0]["env"] = json!([{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    lab.pod("p", &["stubborn"], spec).await;
    let pod = lab.ready("p").await;
    assert_eq!(lab.exec(&pod, &["cat", "/etc/one"]).await.0, "content");
    assert_eq!(lab.exec(&pod, &["write", "/a/x", "1"]).await.0, "written\n");
    assert_eq!(lab.exec(&pod, &["cat", "/all/deep/a/x"]).await.0, "1");
    assert_eq!(lab.exec(&pod, &["ls", "/all/pods"]).await.0, "p\n");
    // Made like the volume itself, so that any user may write there.
    assert!(lab.exec(&pod, &["stat", "/a", "/mine"]).await.0.lines().all(|l| l.starts_with("777 ")));
    lab.delete("p").await;
    lab.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_part_of_a_volume_leads_out_of_it() {
    let lab = Lab::new().await;
    let volumes = json!([{"name": "v", "emptyDir": {}}]);
    let mount = json!([{"name": "v", "mountPath": "/v"}]);
    let init = json!([{"name": "trap", "image": IMAGE, "args": ["link", "/", "/v/out"], "volumeMounts": mount}]);
    let mut spec = with(json!([{"name": "v", "mountPath": "/in", "subPath": "out/etc"}]), volumes.clone());
    spec["initContainers"] = init;
    lab.pod("link", &["stubborn"], spec).await;
    let waits = |p: &Pod| (state(p) == "waiting CreateContainerConfigError").then_some(());
    lab.when("it is refused", "link", waits).await;
    lab.event("link", "Warning Failed Error: subPath \"out/etc\" of volumeMount \"v\" leads out of the volume").await;
    let mut spec = with(json!([{"name": "v", "mountPath": "/in", "subPathExpr": "$(NONE)"}]), volumes);
    spec["containers"][0]["env"] = json!([]);
    lab.pod("unknown", &["stubborn"], spec).await;
    lab.when("it is refused", "unknown", waits).await;
    lab.event("unknown", "Warning Failed Error: missing value for \"NONE\"").await;
    for name in ["link", "unknown"] {
        lab.delete(name).await;
    }
    lab.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_volume_holds_what_many_sources_give() {
    let lab = Lab::new().await;
    let _: ConfigMap = lab.create(json!({"metadata": {"name": "map"}, "data": {"a": "1", "b": "2"}})).await;
    let _: Secret = lab.create(json!({"metadata": {"name": "sec"}, "stringData": {"pw": "hush"}})).await;
    let sources = json!([
        {"configMap": {"name": "map", "items": [{"key": "a", "path": "from/map", "mode": 0o400}]}},
        {"secret": {"name": "sec"}},
        {"downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu", "divisor": "1m"}}]}},
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 600, "audience": "somebody"}},
        {"configMap": {"name": "absent", "optional": true}}]);
    let mut spec = with(
        json!([{"name": "all", "mountPath": "/all"}]),
        json!([{"name": "all", "projected": {"sources": sources, "defaultMode": 0o440}}]),
    );
    spec["containers"][0]["resources"] = json!({"limits": {"cpu": "500m", "memory": "64Mi"}});
    lab.pod("p", &["stubborn"], spec).await;
    let pod = lab.ready("p").await;
    let (text, _) = lab.exec(&pod, &["cat", "/all/from/map", "/all/pw", "/all/labels", "/all/cpu"]).await;
    assert_eq!(text, "1hushapp=\"p\"500");
    let (modes, _) = lab.exec(&pod, &["stat", "/all/from/map", "/all/pw"]).await;
    assert_eq!(modes, "400 0 0 1\n440 0 0 4\n");
    assert_eq!(lab.exec(&pod, &["cat", "/all/token"]).await.0.split('.').count(), 3);
    assert_eq!(lab.exec(&pod, &["write", "/all/pw", "x"]).await.0, "Read-only file system (os error 30)\n");
    // What the pod says of itself follows it.
    let patch = Patch::Merge(json!({"metadata": {"labels": {"tier": "back"}}}));
    lab.api::<Pod>().patch("p", &PatchParams::default(), &patch).await.unwrap();
    eventually("the labels are there", async || {
        (lab.exec(&pod, &["cat", "/all/labels"]).await.0 == "app=\"p\"\ntier=\"back\"").then_some(())
    })
    .await;
    let _: ConfigMap = lab.create(json!({"metadata": {"name": "absent"}, "data": {"late": "here"}})).await;
    eventually("what was optional arrives", async || {
        (lab.exec(&pod, &["cat", "/all/late"]).await.0 == "here").then_some(())
    })
    .await;
    lab.delete("p").await;
    lab.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_folders_and_folders_of_the_node() {
    let lab = Lab::new().await;
    let host = lab.dir.join("host");
    let mounts = json!([{"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"},
        {"name": "host", "mountPath": "/host"}, {"name": "file", "mountPath": "/file", "readOnly": true}]);
    let volumes = json!([{"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "host", "hostPath": {"path": host, "type": "DirectoryOrCreate"}},
        {"name": "file", "hostPath": {"path": lab.dir.join("file"), "type": "FileOrCreate"}}]);
    let mut spec = with(mounts, volumes);
    spec["containers"][0]["securityContext"] = json!({"runAsUser": 1000});
    lab.pod("p", &["stubborn"], spec).await;
    let pod = lab.ready("p").await;
    let (modes, _) = lab.exec(&pod, &["stat", "/disk", "/memory"]).await;
    assert!(modes.lines().all(|line| line.starts_with("777 0 0 ")), "{modes}");
    let (mounted, _) = lab.exec(&pod, &["cat", "/proc/mounts"]).await;
    let memory = mounted.lines().find(|line| line.contains(" /memory ")).unwrap();
    assert!(memory.starts_with("tmpfs ") && memory.contains("size=1024k"), "{memory}");
    assert_eq!(lab.exec(&pod, &["write", "/disk/x", "1"]).await.0, "written\n");
    assert_eq!(lab.exec(&pod, &["write", "/file", "1"]).await.0, "Read-only file system (os error 30)\n");
    let missing = json!([{"name": "host", "hostPath": {"path": lab.dir.join("none"), "type": "Directory"}}]);
    lab.pod("q", &["stubborn"], with(json!([{"name": "host", "mountPath": "/host"}]), missing)).await;
    lab.event("q", "Warning FailedMount MountVolume.SetUp failed for volume \"host\" : hostPath type check failed")
        .await;
    for name in ["p", "q"] {
        lab.delete(name).await;
    }
    assert!(host.is_dir(), "what is the node's stays");
    lab.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_can_be_a_volume() {
    let mut lab = Lab::new().await;
    let tree = lab.dir.join("data");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("model"), "weights").unwrap();
    let images = containers::images::ImageStore::open(lab.dir.join("images")).unwrap();
    let config = containers::images::ImageConfig::default();
    containers::images::build::build(&images, "portolan.test/data:1", &tree, &config).await.unwrap();
    let volumes = json!([{"name": "v", "image": {"reference": "portolan.test/data:1", "pullPolicy": "Never"}}]);
    lab.pod("p", &["stubborn"], with(json!([{"name": "v", "mountPath": "/v"}]), volumes)).await;
    let pod = lab.ready("p").await;
    assert_eq!(lab.exec(&pod, &["cat", "/v/model"]).await.0, "weights");
    assert_eq!(lab.exec(&pod, &["write", "/v/model", "1"]).await.0, "Read-only file system (os error 30)\n");
    // In use, it is kept, by the next daemon too.
    lab.restart().await;
    lab.ready("p").await;
    lab.images.prune(|_| false).unwrap();
    assert_eq!(lab.exec(&pod, &["cat", "/v/model"]).await.0, "weights");
    let absent = json!([{"name": "v", "image": {"reference": "portolan.test/absent:1", "pullPolicy": "Never"}}]);
    lab.pod("q", &["stubborn"], with(json!([{"name": "v", "mountPath": "/v"}]), absent)).await;
    let said = "Warning FailedMount MountVolume.SetUp failed for volume \"v\" : ErrImageNeverPull";
    lab.event("q", said).await;
    for name in ["p", "q"] {
        lab.delete(name).await;
    }
    lab.nothing_is_left().await;
}
