//! Status tables: (spec, state) → the lines that `kubectl` shows.

use std::net::{IpAddr, Ipv4Addr};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use super::status;
use crate::model::{Ended, Image, PodState, Run, Running, Sandbox, Volumes};

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn pod(spec: serde_json::Value) -> Pod {
    let meta = serde_json::json!({"name": "web-1", "namespace": "shop", "uid": "u1"});
    serde_json::from_value(serde_json::json!({"metadata": meta, "spec": spec})).unwrap()
}

fn one() -> Pod {
    pod(serde_json::json!({"containers": [{"name": "a", "image": "img"}]}))
}

fn with_sandbox() -> PodState {
    let mut state = PodState::new(now());
    (state.volumes, state.sandbox) =
        (Volumes::Mounted, Sandbox::Ready { ips: vec![IpAddr::V4(Ipv4Addr::new(10, 244, 0, 5))] });
    state
}

fn running() -> Run {
    Run::Running(Running {
        id: "a.0".into(),
        image_id: "sha256:1".into(),
        started_at: now(),
        resources: Default::default(),
    })
}

fn ended(code: i32, reason: &str) -> Ended {
    Ended {
        id: "a.0".into(),
        image_id: "sha256:1".into(),
        code,
        signal: None,
        reason: reason.into(),
        message: None,
        started_at: Some(now()),
        finished_at: now(),
    }
}

/// Phase, conditions, and each container's state: what a case compares.
fn shown(status: &PodStatus) -> String {
    let conditions = status.conditions.iter().flatten();
    let mut lines = vec![
        status.phase.clone().unwrap(),
        conditions.filter(|c| c.status == "True").map(|c| c.type_.as_str()).collect::<Vec<_>>().join(" "),
    ];
    let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    lines.extend(all.map(container));
    lines.join("\n")
}

fn container(c: &ContainerStatus) -> String {
    let state = c.state.as_ref().unwrap();
    let text = if state.running.is_some() {
        "running".to_owned()
    } else if let Some(t) = &state.terminated {
        format!("terminated {} {}", t.reason.as_deref().unwrap(), t.exit_code)
    } else {
        let w = state.waiting.as_ref().unwrap();
        format!("waiting {} {}", w.reason.as_deref().unwrap(), w.message.as_deref().unwrap_or("-"))
    };
    let last = c.last_state.as_ref().and_then(|s| s.terminated.as_ref());
    let last = last.map(|t| format!(" last {}", t.exit_code)).unwrap_or_default();
    format!("{} ready={} restarts={} {text}{last}", c.name, c.ready, c.restart_count)
}

#[track_caller]
fn check(pod: &Pod, state: &PodState, at: Timestamp, expected: &[&str]) {
    assert_eq!(shown(&status(pod, state, &["192.168.0.2".into()], at)), expected.join("\n"));
}

#[test]
fn from_nothing_to_ready() {
    let mut state = PodState::new(now());
    let waiting = "a ready=false restarts=0 waiting ContainerCreating -";
    check(&one(), &state, now(), &["Pending", "Initialized PodScheduled", waiting]);
    state = with_sandbox();
    let conditions = "PodReadyToStartContainers Initialized PodScheduled";
    check(&one(), &state, now(), &["Pending", conditions, waiting]);
    state.container_mut("a").run = running();
    check(&one(), &state, now(), &["Running", conditions, "a ready=false restarts=0 running"]);
    let c = state.container_mut("a");
    (c.started, c.ready) = (true, true);
    let all = "PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled";
    check(&one(), &state, now(), &["Running", all, "a ready=true restarts=0 running"]);
    let full = status(&one(), &state, &["192.168.0.2".into()], now());
    assert_eq!(full.pod_ip.as_deref(), Some("10.244.0.5"));
    assert_eq!(full.container_statuses.unwrap()[0].container_id.as_deref(), Some("portolan://u1.a.0"));
}

#[test]
fn a_crash_loop_is_said_as_upstream_says_it() {
    let mut state = with_sandbox();
    let c = state.container_mut("a");
    c.run = Run::Ended(ended(1, "Error"));
    c.backoff.next(now(), now());
    c.restarts = 1;
    let waiting = "a ready=false restarts=1 waiting CrashLoopBackOff back-off 10s restarting failed container=a \
                   pod=web-1_shop(u1) last 1";
    let conditions = "PodReadyToStartContainers Initialized PodScheduled";
    check(&one(), &state, now(), &["Running", conditions, waiting]);
}

#[test]
fn a_failed_pull_is_an_error_first_and_a_wait_then() {
    let mut state = with_sandbox();
    let at = now();
    state.container_mut("a").image =
        Image::Failed { reason: "ErrImagePull".into(), message: "no such host".into(), at };
    let conditions = "PodReadyToStartContainers Initialized PodScheduled";
    check(
        &one(),
        &state,
        now(),
        &["Pending", conditions, "a ready=false restarts=0 waiting ErrImagePull no such host"],
    );
    let later =
        "a ready=false restarts=0 waiting ImagePullBackOff Back-off pulling image \"img\": ErrImagePull: no such host";
    check(&one(), &state, now() + SignedDuration::from_secs(5), &["Pending", conditions, later]);
}

#[test]
fn finished_pods() {
    for (code, reason, phase) in [(0, "Completed", "Succeeded"), (137, "OOMKilled", "Failed")] {
        let pod = pod(serde_json::json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
        let mut state = with_sandbox();
        state.container_mut("a").run = Run::Ended(ended(code, reason));
        state.sandbox = Sandbox::Removed;
        let line = format!("a ready=false restarts=0 terminated {reason} {code}");
        check(&pod, &state, now(), &[phase, "Initialized PodScheduled", &line]);
    }
}

#[test]
fn init_containers_first() {
    let pod = pod(serde_json::json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}]}));
    let mut state = with_sandbox();
    state.container_mut("i").run = running();
    check(
        &pod,
        &state,
        now(),
        &[
            "Pending",
            "PodReadyToStartContainers PodScheduled",
            "i ready=false restarts=0 running",
            "s ready=false restarts=0 waiting PodInitializing -",
            "a ready=false restarts=0 waiting PodInitializing -",
        ],
    );
    let conditions = status(&pod, &state, &[], now()).conditions.unwrap();
    let initialized = conditions.iter().find(|c| c.type_ == "Initialized").unwrap();
    assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [i s]"));
}

#[test]
fn a_readiness_gate_holds_ready_back() {
    let mut pod = pod(serde_json::json!({"readinessGates": [{"conditionType": "x/y"}], "containers": [{"name": "a"}]}));
    let mut state = with_sandbox();
    let c = state.container_mut("a");
    (c.run, c.started, c.ready) = (running(), true, true);
    let ready = |pod: &Pod| {
        let conditions = status(pod, &state, &[], now()).conditions.unwrap();
        conditions.into_iter().find(|c| c.type_ == "Ready").unwrap()
    };
    assert_eq!(ready(&pod).reason.as_deref(), Some("ReadinessGatesNotReady"));
    pod.status = serde_json::from_value(serde_json::json!({"conditions": [{"type": "x/y", "status": "True"}]})).ok();
    assert_eq!(ready(&pod).status, "True");
}
