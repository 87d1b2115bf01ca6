//! From start to end: hooks, deadlines, back-off, last words, logs, readiness gates, and time that runs out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod, PodCondition};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use support::{Lab, condition, eventually, state};

fn with(container: Value) -> Value {
    json!({"containers": [container]})
}

fn last_end(pod: &Pod) -> Option<ContainerStateTerminated> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()?.last_state.as_ref()?.terminated.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_run_after_the_start_and_before_the_end() {
    let lab = Lab::new().await;
    let folder = lab.dir.join("host");
    std::fs::create_dir(&folder).unwrap();
    let volume = json!([{"name": "v", "hostPath": {"path": folder, "type": "Directory"}}]);
    let lifecycle = json!({"postStart": {"exec": {"command": ["/program", "write", "/v/started", "1"]}},
        "preStop": {"exec": {"command": ["/program", "write", "/v/stopping", "1"]}}});
    let mut spec = with(json!({"lifecycle": lifecycle, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    spec["volumes"] = volume;
    lab.pod("p", &["stubborn"], spec).await;
    lab.ready("p").await;
    assert!(folder.join("started").exists() && !folder.join("stopping").exists());
    lab.delete("p").await;
    assert!(folder.join("stopping").exists());

    // A start that its hook calls failed is none.
    let fails = json!({"lifecycle": {"postStart": {"exec": {"command": ["/program", "exit", "7"]}}}});
    lab.pod("q", &["polite"], with(fails)).await;
    lab.event("q", "Warning FailedPostStartHook PostStartHook failed").await;
    lab.when("it is started again", "q", |p| last_end(p).map(drop)).await;
    lab.delete("q").await;
    // A sleep is a hook too.
    lab.pod("r", &["polite"], with(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}))).await;
    lab.ready("r").await;
    lab.delete("r").await;
    // A pod that is to go does not wait for its start.
    let never_ends = json!({"lifecycle": {"postStart": {"exec": {"command": ["/program", "stubborn"]}}}});
    lab.pod("s", &["stubborn"], with(never_ends)).await;
    lab.event("s", "Normal Started").await;
    lab.delete("s").await;
    lab.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_has_a_deadline() {
    let lab = Lab::new().await;
    lab.pod("p", &["stubborn"], json!({"activeDeadlineSeconds": 1})).await;
    let status = lab.phase("p", "Failed").await.status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    assert_eq!(status.message.as_deref(), Some("Pod was active on the node longer than the specified deadline"));
}

#[tokio::test(flavor = "multi_thread")]
async fn last_words_come_from_the_file_or_the_log() {
    let lab = Lab::new().await;
    let never = |container: Value| {
        let mut spec = with(container);
        spec["restartPolicy"] = json!("Never");
        spec
    };
    let fallback = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    lab.pod("log", &["fail", "no luck"], never(fallback.clone())).await;
    lab.pod("well", &["say", "fine"], never(fallback.clone())).await;
    let elsewhere = json!({"terminationMessagePath": "/dev/last-words", "securityContext": {"runAsUser": 1000}});
    lab.pod("file", &["leave", "/dev/last-words", "told"], never(elsewhere)).await;
    lab.pod("long", &["leave", "/dev/termination-log", &"x".repeat(10_000)], never(json!({}))).await;
    let message = |pod: &Pod| {
        let status = pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].clone();
        status.state.unwrap().terminated.unwrap().message
    };
    assert_eq!(message(&lab.phase("log", "Failed").await).as_deref(), Some("no luck\n"));
    assert_eq!(message(&lab.phase("well", "Succeeded").await), None);
    assert_eq!(message(&lab.phase("file", "Succeeded").await).as_deref(), Some("told"));
    assert_eq!(message(&lab.phase("long", "Succeeded").await).unwrap().len(), 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_keeps_failing_is_given_time() {
    let lab = Lab::new().await;
    lab.pod("p", &["fail", "again"], json!({})).await;
    lab.when("it backs off", "p", |p| (state(p) == "waiting CrashLoopBackOff").then_some(())).await;
    let event = lab.event("p", "Warning BackOff").await;
    assert!(event.starts_with("Warning BackOff Back-off restarting failed container c in pod p_default("), "{event}");
    let pod = lab.get("p").await.unwrap();
    let waiting = pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].state.clone().unwrap().waiting;
    let said = waiting.unwrap().message.unwrap();
    assert!(said.starts_with("back-off 10s restarting failed container=c pod=p_default("), "{said}");
    assert_eq!(last_end(&pod).unwrap().exit_code, 4);
    assert_eq!((condition(&pod, "Ready"), condition(&pod, "Initialized")), ("False", "True"));
    // Its runs so far: this one's output, and that of the one before.
    assert_eq!(lab.log("p", "").await, "again\n");
    assert_eq!(lab.log("p", "previous=true").await, "again\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_given_less_time_ends_sooner() {
    let lab = Lab::new().await;
    lab.pod("p", &["stubborn"], json!({"terminationGracePeriodSeconds": 100_000})).await;
    lab.pod("q", &["stubborn"], json!({"terminationGracePeriodSeconds": 100_000})).await;
    for name in ["p", "q"] {
        lab.ready(name).await;
        lab.api::<Pod>().delete(name, &DeleteParams::default()).await.unwrap();
        lab.event(name, "Normal Killing Stopping container c").await;
    }
    lab.api::<Pod>().delete("p", &DeleteParams::default().grace_period(1)).await.unwrap();
    lab.api::<Pod>().delete("q", &DeleteParams::default().grace_period(0)).await.unwrap();
    eventually("p is gone", async || lab.get("p").await.is_none().then_some(())).await;
    lab.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_keeps_a_pod_from_being_ready() {
    let lab = Lab::new().await;
    let gate = "example.org/gate";
    lab.pod("p", &["stubborn"], json!({"readinessGates": [{"conditionType": gate}]})).await;
    let ready_of = |pod: &Pod| -> Option<PodCondition> {
        pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready").cloned()
    };
    let containers = |pod: &Pod| (condition(pod, "ContainersReady") == "True").then(|| ready_of(pod)).flatten();
    let ready = lab.when("its containers are ready", "p", containers).await;
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("ReadinessGatesNotReady")));
    let said = format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.");
    assert_eq!(ready.message, Some(said));
    let opened = json!({"status": {"conditions": [{"type": gate, "status": "True"}]}});
    lab.api::<Pod>().patch_status("p", &PatchParams::default(), &Patch::Strategic(opened)).await.unwrap();
    let pod = lab.ready("p").await;
    assert_eq!(condition(&pod, gate), "True", "the gate is not ours to touch");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_cut_as_asked() {
    let lab = Lab::new().await;
    lab.pod("p", &["count", "100"], json!({"restartPolicy": "Never"})).await;
    let followed = eventually("it has begun", async || {
        let text = lab.log("p", "follow=true").await;
        text.starts_with("line 0\n").then_some(text)
    })
    .await;
    assert!(followed.ends_with("line 99\n"), "a follower stays to the end: {followed}");
    lab.phase("p", "Succeeded").await;
    assert_eq!(lab.log("p", "tailLines=2").await, "line 98\nline 99\n");
    assert_eq!(lab.log("p", "tailLines=0").await, "");
    assert_eq!(lab.log("p", "limitBytes=9").await, "line 0\nli");
    assert_eq!(lab.log("p", "sinceSeconds=3600").await.lines().count(), 100);
    assert_eq!(lab.log("p", "sinceTime=2100-01-01T00:00:00Z").await, "");
    let stamped = lab.log("p", "timestamps=true&tailLines=1").await;
    let (time, text) = stamped.split_once(' ').unwrap();
    assert!(time.parse::<jiff::Timestamp>().is_ok() && text == "line 99\n", "{stamped}");
    let none = lab.log("p", "previous=true").await;
    assert_eq!(none, "previous terminated container \"c\" in pod \"p\" not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_image_is_a_new_container() {
    let lab = Lab::new().await;
    let tree = lab.dir.join("tree");
    let config = containers::images::ImageConfig { entrypoint: vec!["/program".to_owned()], ..Default::default() };
    let images = containers::images::ImageStore::open(lab.dir.join("images")).unwrap();
    containers::images::build::build(&images, "portolan.test/other:2", &tree, &config).await.unwrap();
    lab.pod("p", &["polite"], json!({})).await;
    lab.ready("p").await;
    let patch = json!({"spec": {"containers": [{"name": "c", "image": "portolan.test/other:2"}]}});
    lab.api::<Pod>().patch("p", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    lab.event("p", "Normal Killing Container c definition changed, will be restarted").await;
    lab.when("it runs anew", "p", |p| {
        let status = p.status.as_ref()?.container_statuses.as_ref()?.first()?.clone();
        (status.restart_count == 1 && status.ready && status.image.ends_with("other:2")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_half_made_is_made_anew() {
    let mut lab = Lab::new().await;
    lab.stop().await;
    let mut spec = with(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    spec["volumes"] = json!([{"name": "v", "emptyDir": {"medium": "Memory"}}]);
    let pod = lab.pod("p", &["stubborn"], spec).await;
    let uid = pod.metadata.uid.unwrap();
    // As if the daemon had ended between one step and the next: a volume's folder that is not mounted yet, an address that is noted and
    // a namespace that is kept, and no sandbox.
    let folder = lab.dir.join("pods").join(&uid);
    std::fs::create_dir_all(folder.join("volumes/v")).unwrap();
    let kept = lab.dir.join("netns").join(format!("pod-{uid}"));
    linux::NetNs::create(&kept).unwrap();
    let record = json!({"ips": ["10.244.7.2"], "link": "podleft", "namespace": kept});
    std::fs::write(folder.join("network.json"), record.to_string()).unwrap();
    lab.restart().await;
    let pod = lab.ready("p").await;
    let (mounted, _) = lab.exec(&pod, &["cat", "/proc/mounts"]).await;
    assert!(mounted.lines().any(|line| line.starts_with("tmpfs /v ")), "{mounted}");
    assert!(lab.exec(&pod, &["stat", "/v"]).await.0.starts_with("777 "));
    assert!(!lab.events("p").await.iter().any(|event| event.contains("FailedCreatePodSandBox")));
    lab.delete("p").await;
    lab.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_shim_dies_is_made_anew() {
    let lab = Lab::new().await;
    let mut spec = with(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    spec["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    let pod = lab.pod("p", &["stubborn"], spec).await;
    let running = lab.ready("p").await;
    assert_eq!(lab.exec(&running, &["write", "/v/kept", "here"]).await.0, "written\n");
    let record = lab.dir.join("containers").join(pod.metadata.uid.unwrap()).join("shim.json");
    let record: Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    let shim = linux::ProcessId::of(i32::try_from(record["pid"].as_i64().unwrap()).unwrap()).unwrap();
    assert!(shim.signal(9).unwrap());
    lab.event("p", "Normal SandboxChanged Pod sandbox changed, it will be killed and re-created.").await;
    let again = lab
        .when("it runs again", "p", |p| {
            let status = p.status.as_ref()?.container_statuses.as_ref()?.first()?.clone();
            (status.restart_count == 1 && status.ready).then(|| p.clone())
        })
        .await;
    let end = last_end(&again).unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref()), (137, Some("Error")));
    assert_eq!(lab.exec(&again, &["cat", "/v/kept"]).await.0, "here", "its volumes are its own");
    lab.delete("p").await;
    lab.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_while_nobody_looks_is_told_in_full() {
    let mut lab = Lab::new().await;
    let pod = lab.pod("p", &["wordy"], json!({"restartPolicy": "Never"})).await;
    lab.pod("q", &["say", "done"], json!({"restartPolicy": "Never"})).await;
    eventually("it listens", async || (lab.log("p", "").await == "here\n").then_some(())).await;
    let before = lab.phase("q", "Succeeded").await;
    lab.stop().await;
    let uid = pod.metadata.uid.unwrap();
    containers::runtime::Runtime::signal_container(&*lab.runtime, &uid, "c.0", 15).await.unwrap();
    lab.restart().await;
    let status = lab.phase("p", "Failed").await.status.unwrap().container_statuses.unwrap()[0].clone();
    let end = status.state.unwrap().terminated.unwrap();
    assert_eq!((end.exit_code, end.message.as_deref()), (5, Some("told to go")));
    // What had ended before stays as it was told, its image too.
    let statuses = |pod: &Pod| pod.status.as_ref().unwrap().container_statuses.clone().unwrap();
    assert_eq!(statuses(&before), statuses(&lab.get("q").await.unwrap()));
    assert!(statuses(&before)[0].image_id.starts_with("sha256:"));
    for name in ["p", "q"] {
        lab.delete(name).await;
    }
    lab.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_of_a_pod_that_had_ended_is_cleared_away() {
    let mut lab = Lab::new().await;
    let host = lab.dir.join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("kept"), "here").unwrap();
    let pod = lab.pod("p", &["say", "done"], json!({"restartPolicy": "Never"})).await;
    let ended = lab.phase("p", "Succeeded").await.status.unwrap();
    let uid = pod.metadata.uid.unwrap();
    let folder = lab.dir.join("pods").join(&uid);
    eventually("its volumes are gone", async || (!folder.join("volumes").exists()).then_some(())).await;
    lab.stop().await;
    // As if the daemon had ended after the sandbox was removed and before its network and what was mounted for it were.
    let kept = lab.dir.join("netns").join(format!("pod-{uid}"));
    linux::NetNs::create(&kept).unwrap();
    let record = json!({"ips": ["10.244.7.2"], "link": "podleft", "namespace": kept});
    std::fs::write(folder.join("network.json"), record.to_string()).unwrap();
    let subpath = folder.join("subpaths/c/0");
    std::fs::create_dir_all(&subpath).unwrap();
    linux::mounts::bind(&host, &subpath, false).unwrap();
    lab.restart().await;
    eventually("the namespace is gone", async || (!kept.exists()).then_some(())).await;
    assert_eq!(lab.get("p").await.unwrap().status.unwrap().pod_ips, ended.pod_ips, "it keeps the address that it had");
    lab.delete("p").await;
    lab.nothing_is_left().await;
    assert_eq!(std::fs::read_to_string(host.join("kept")).unwrap(), "here", "what was mounted was not the pod's");
}
