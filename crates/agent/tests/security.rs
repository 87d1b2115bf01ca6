//! `securityContext` and what else decides what a container may do, as its processes find it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::{IMAGE, Lab, state};

fn with(container: Value) -> Value {
    json!({"containers": [container]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_security_context_is_what_the_processes_have() {
    let lab = Lab::new().await;
    let whole = json!({"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000, "supplementalGroups": [4000],
        "seccompProfile": {"type": "RuntimeDefault"}});
    let own =
        json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
    let mut spec = with(json!({"securityContext": own, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    spec["securityContext"] = whole;
    spec["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    lab.pod("strict", &["stubborn"], spec).await;
    let own =
        json!({"seccompProfile": {"type": "Unconfined"}, "capabilities": {"add": ["NET_ADMIN"], "drop": ["CHOWN"]}});
    lab.pod("loose", &["stubborn"], with(json!({"securityContext": own}))).await;

    let pod = lab.ready("strict").await;
    let (status, _) = lab.exec(&pod, &["cat", "/proc/1/status"]).await;
    for line in [
        "Uid:\t1000\t1000\t1000\t1000",
        "Gid:\t3000\t3000\t3000\t3000",
        "Groups:\t2000 3000 4000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "{line} is not in\n{status}");
    }
    assert_eq!(lab.exec(&pod, &["write", "/x", "1"]).await.0, "Read-only file system (os error 30)\n");
    assert_eq!(lab.exec(&pod, &["write", "/v/x", "1"]).await.0, "written\n");
    assert_eq!(
        lab.exec(&pod, &["stat", "/v", "/v/x"]).await.0.lines().next().unwrap().split(' ').take(3).collect::<Vec<_>>(),
        ["2777", "0", "2000"]
    );
    let (inside, _) = lab.exec(&pod, &["cat", "/proc/self/status"]).await;
    assert!(
        inside.contains("Seccomp:\t2") && inside.contains("Uid:\t1000"),
        "an exec is bound like the program: {inside}"
    );

    let pod = lab.ready("loose").await;
    let (status, _) = lab.exec(&pod, &["cat", "/proc/1/status"]).await;
    // The usual ones (a80425fb), without CHOWN (bit 0), with NET_ADMIN (bit 12); MKNOD (bit 27) only where devices can be kept away, which
    // version 2 of control groups does not do.
    let mknod = match linux::cgroup::Cgroup::at("any").unwrap().version() {
        linux::cgroup::Version::V1 => 1 << 27,
        linux::cgroup::Version::V2 => 0,
    };
    let capabilities = format!("CapEff:\t{:016x}", 0xa004_35fa_u32 | mknod);
    for line in [capabilities.as_str(), "Seccomp:\t0", "NoNewPrivs:\t0"] {
        assert!(status.contains(line), "{line} is not in\n{status}");
    }
    for name in ["strict", "loose"] {
        lab.delete(name).await;
    }
    lab.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_run_as_root_does_not() {
    let lab = Lab::new().await;
    let own = json!({"securityContext": {"runAsNonRoot": true}});
    lab.pod("image", &["stubborn"], with(own)).await;
    lab.when("it says so", "image", |p| (state(p) == "waiting CreateContainerConfigError").then_some(())).await;
    lab.event("image", "Warning Failed Error: container has runAsNonRoot and image will run as root").await;
    let own = json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 7}});
    lab.pod("user", &["stubborn"], with(own)).await;
    lab.ready("user").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sysctls_are_set_or_refused() {
    let lab = Lab::new().await;
    let sysctls = |name: &str, value: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": value}]}});
    lab.pod("safe", &["stubborn"], sysctls("kernel.shm_rmid_forced", "1")).await;
    lab.pod("net", &["stubborn"], sysctls("net.ipv4.ip_local_port_range", "30000 40000")).await;
    lab.pod("unsafe", &["stubborn"], sysctls("kernel.msgmax", "10000")).await;
    let pod = lab.ready("safe").await;
    assert_eq!(lab.exec(&pod, &["cat", "/proc/sys/kernel/shm_rmid_forced"]).await.0, "1\n");
    // Any user may listen on port 80, as with other runtimes.
    assert_eq!(lab.exec(&pod, &["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]).await.0, "0\n");
    let pod = lab.ready("net").await;
    assert_eq!(lab.exec(&pod, &["cat", "/proc/sys/net/ipv4/ip_local_port_range"]).await.0, "30000\t40000\n");
    let refused = lab.phase("unsafe", "Failed").await.status.unwrap();
    assert_eq!(refused.reason.as_deref(), Some("SysctlForbidden"));
    let said = "forbidden sysctl: \"kernel.msgmax\" not allowlisted";
    assert_eq!(refused.message.unwrap(), format!("Pod was rejected: {said}"));
    lab.event("unsafe", &format!("Warning SysctlForbidden {said}")).await;
    for name in ["safe", "net", "unsafe"] {
        lab.delete(name).await;
    }
    lab.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_shared_as_asked() {
    let lab = Lab::new().await;
    let two =
        json!([{"name": "c", "image": IMAGE, "args": ["stubborn"]}, {"name": "d", "image": IMAGE, "args": ["polite"]}]);
    let of = |more: Value| {
        let mut spec = more;
        spec["nodeName"] = json!("n1");
        spec["terminationGracePeriodSeconds"] = json!(1);
        spec["containers"] = two.clone();
        spec
    };
    for (name, spec) in [
        ("own", of(json!({}))),
        ("shared", of(json!({"shareProcessNamespace": true}))),
        ("host", of(json!({"hostPID": true, "hostIPC": true, "hostNetwork": true}))),
    ] {
        let _: k8s_openapi::api::core::v1::Pod = lab.create(json!({"metadata": {"name": name}, "spec": spec})).await;
    }
    let pod = lab.ready("own").await;
    assert_eq!(lab.exec(&pod, &["processes"]).await.0, "/program processes,/program stubborn\n");
    let pod = lab.ready("shared").await;
    let (seen, _) = lab.exec(&pod, &["processes"]).await;
    assert!(seen.contains("/program stubborn") && seen.contains("/program polite"), "{seen}");
    let pod = lab.ready("host").await;
    let status = pod.status.clone().unwrap();
    assert_eq!(status.pod_ip, status.host_ip);
    let (seen, _) = lab.exec(&pod, &["processes"]).await;
    assert!(seen.contains("portolan-") || seen.split(',').count() > 5, "{seen}");
    for name in ["own", "shared", "host"] {
        lab.delete(name).await;
    }
    lab.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_container_sees_the_processes_of_its_target() {
    let lab = Lab::new().await;
    let pod = lab.pod("p", &["stubborn"], json!({})).await;
    lab.ready("p").await;
    let debugger = json!({"name": "debugger", "image": IMAGE, "args": ["processes"], "targetContainerName": "c"});
    let patch = kube::api::Patch::Strategic(json!({"spec": {"ephemeralContainers": [debugger]}}));
    let api = lab.api::<k8s_openapi::api::core::v1::Pod>();
    api.patch_ephemeral_containers("p", &Default::default(), &patch).await.unwrap();
    let status = lab
        .when("it has ended", "p", |p| {
            let status = p.status.as_ref()?.ephemeral_container_statuses.as_ref()?.first()?.clone();
            status.state.as_ref()?.terminated.as_ref()?;
            Some(status)
        })
        .await;
    assert_eq!((status.name.as_str(), status.ready, status.restart_count), ("debugger", false, 0));
    assert_eq!(lab.log_of("p", "debugger", "").await, "/program processes,/program stubborn\n");
    let after = lab.get("p").await.unwrap();
    assert_eq!(support::condition(&after, "Ready"), "True", "a debugger that has ended is no fault of the pod's");
    assert_eq!(after.metadata.uid, pod.metadata.uid);
    lab.delete("p").await;
    lab.nothing_is_left().await;
}
