//! Real containers, from image to exit, through the shim. Needs root and a kernel with namespaces, overlayfs, cgroups.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, like the test")]

mod support;

use std::time::Duration;

use containers::Error;
use containers::runtime::{
    ContainerConfig, ContainerState, Event, ExecConfig, Mount, Propagation, Resources, Runtime, SandboxConfig, Seccomp,
    Security,
};
use support::{Lab, SANDBOX, as_user, eventually, readonly};

#[tokio::test]
async fn a_container_runs_writes_its_log_and_ends() {
    let lab = Lab::new().await;
    lab.sandbox().await;
    let mut events = lab.runtime.events();
    lab.runtime.create_container(SANDBOX, lab.container_config("one", &["both"])).await.unwrap();
    assert_eq!(lab.state("one").await, ContainerState::Created);
    lab.runtime.start_container(SANDBOX, "one").await.unwrap();
    let exit = lab.exit("one").await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (0, None, false));
    let mut lines: Vec<_> = lab.log("one").lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["stderr F to stderr", "stdout F to stdout"]);
    match events.recv().await.unwrap() {
        Event::ContainerExited { sandbox, container, exit: told } => {
            assert_eq!((sandbox.as_str(), container.as_str(), &told), (SANDBOX, "one", &exit));
        }
        Event::SandboxLost { .. } => panic!("the sandbox is not lost"),
    }
    lab.runtime.remove_sandbox(SANDBOX).await.unwrap();
    lab.nothing_is_left();
}

#[tokio::test]
async fn exit_codes_and_commands_come_through() {
    let lab = Lab::new().await;
    lab.sandbox().await;
    lab.run("code", &["exit", "42"]).await;
    assert_eq!(lab.exit("code").await.code, 42);
    let by_image = ContainerConfig { args: Vec::new(), ..lab.container_config("image", &[]) };
    assert_eq!(lab.output(by_image).await, "hello");
    let command = ["/program", "say", "mine"].map(str::to_owned).to_vec();
    assert_eq!(lab.output(ContainerConfig { command, ..lab.container_config("command", &[]) }).await, "mine");
    for (id, command, words) in [
        ("none", "/none", "exec: \"/none\": stat /none: no such file or directory"),
        ("path", "none", "exec: \"none\": executable file not found in $PATH"),
        ("perm", "/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
    ] {
        let config = ContainerConfig { command: vec![command.to_owned()], ..lab.container_config(id, &[]) };
        lab.runtime.create_container(SANDBOX, config).await.unwrap();
        let error = lab.runtime.start_container(SANDBOX, id).await.unwrap_err();
        assert!(matches!(&error, Error::Start(text) if text == words), "{error}");
        let exit = lab.exit(id).await;
        assert_eq!((exit.code, exit.message.as_deref()), (128, Some(words)));
    }
}

#[tokio::test]
async fn a_container_is_what_it_was_asked_to_be() {
    let lab = Lab::new().await;
    lab.sandbox().await;
    let env = |config: ContainerConfig| ContainerConfig { env: vec![("MINE".to_owned(), "1".to_owned())], ..config };
    let text = lab.output(env(lab.container_config("env", &["env"]))).await;
    assert_eq!(text, "FROM_IMAGE=yes\nHOME=/root\nHOSTNAME=pod-one\nMINE=1\nPATH=/:/bin");
    assert_eq!(lab.output(lab.container_config("cwd", &["cwd"])).await, "/work");
    assert_eq!(lab.output(lab.container_config("host", &["hostname"])).await, "pod-one");
    let new_dir = ContainerConfig { working_dir: Some("/made/up".to_owned()), ..lab.container_config("dir", &["cwd"]) };
    assert_eq!(lab.output(new_dir).await, "/made/up");
    let readonly = ContainerConfig { security: readonly(), ..lab.container_config("ro", &["write", "/x", "y"]) };
    assert_eq!(lab.output(readonly).await, "Read-only file system (os error 30)");
    assert_eq!(lab.output(lab.container_config("rw", &["write", "/x", "y"])).await, "written");
    let user =
        ContainerConfig { identity: as_user(1000), ..lab.container_config("user", &["cat", "/proc/self/status"]) };
    let status = lab.output(user).await;
    for line in [
        "Uid:\t1000\t1000\t1000\t1000",
        "Gid:\t1001\t1001\t1001\t1001",
        "Groups:\t1001 1002",
        "CapEff:\t0000000000000000",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
    let root = lab.output(lab.container_config("root", &["cat", "/proc/self/status"])).await;
    assert!(root.contains("CapEff:\t00000000a80425fb"), "{root}");
    assert!(root.contains("Pid:\t1\n"), "{root}");
}

#[tokio::test]
async fn exec_runs_beside_the_program() {
    let lab = Lab::new().await;
    lab.sandbox().await;
    lab.run("main", &["sleep"]).await;
    assert_eq!(lab.exec("main", &["/program", "say", "from", "exec"]).await, ("from exec\n".to_owned(), 0));
    assert_eq!(lab.exec("main", &["program", "exit", "7"]).await.1, 7);
    assert_eq!(lab.exec("main", &["/program", "hostname"]).await.0, "pod-one\n");
    assert_eq!(lab.exec("main", &["/program", "write", "/seen", "by all"]).await.0, "written\n");
    assert_eq!(lab.exec("main", &["/program", "cat", "/seen"]).await.0, "by all");
    let no_such = ExecConfig { command: vec!["nope".to_owned()], stdout: true, ..ExecConfig::default() };
    let error = lab.runtime.exec(SANDBOX, "main", no_such).await.unwrap_err();
    assert!(error.to_string().ends_with("exec: \"nope\": executable file not found in $PATH"), "{error}");
    let slow = vec!["/program".to_owned(), "sleep".to_owned()];
    let output = lab.runtime.exec_sync(SANDBOX, "main", slow, Duration::from_millis(50), 100).await.unwrap();
    assert!(output.timed_out);
    eventually("the slow exec is killed", async || (lab.processes() == 1).then_some(())).await;
}

#[tokio::test]
async fn a_stop_is_polite_first() {
    let lab = Lab::new().await;
    lab.sandbox().await;
    // As process 1 of its namespace the program gets only signals that it handles, so SIGTERM does nothing here.
    lab.run("stubborn", &["children"]).await;
    eventually("children run", async || (lab.processes() == 4).then_some(())).await;
    lab.runtime.stop_container(SANDBOX, "stubborn", Duration::from_millis(30)).await.unwrap();
    let exit = lab.exit("stubborn").await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    assert_eq!(lab.processes(), 0);
    lab.runtime.stop_container(SANDBOX, "stubborn", Duration::ZERO).await.unwrap();
    lab.runtime.remove_container(SANDBOX, "stubborn").await.unwrap();
    lab.runtime.remove_container(SANDBOX, "stubborn").await.unwrap();
    assert!(lab.runtime.container_status(SANDBOX, "stubborn").await.unwrap_err().is_gone());
}

#[tokio::test]
async fn containers_outlive_the_daemon() {
    let mut lab = Lab::new().await;
    lab.sandbox().await;
    lab.run("goes-on", &["count"]).await;
    lab.run("ends", &["lines"]).await;
    let ContainerState::Running { pid, .. } = lab.state("goes-on").await else { panic!("it runs") };
    lab.restart().await;
    lab.exit("ends").await;
    let before = lab.log("goes-on").lines().count();
    eventually("the log goes on", async || (lab.log("goes-on").lines().count() > before).then_some(())).await;
    let adopted = lab.runtime.adopt().await.unwrap();
    assert_eq!(adopted.len(), 1);
    assert!(!adopted[0].lost);
    let states: Vec<_> = adopted[0].containers.iter().map(|c| (c.config.id.as_str(), c.state.name())).collect();
    assert_eq!(states, [("ends", "exited"), ("goes-on", "running")]);
    let ContainerState::Running { pid: same, .. } = lab.state("goes-on").await else { panic!("it runs") };
    assert_eq!(pid, same);
    let mut events = lab.runtime.events();
    lab.runtime.stop_container(SANDBOX, "goes-on", Duration::ZERO).await.unwrap();
    assert!(matches!(events.recv().await.unwrap(), Event::ContainerExited { container, .. } if container == "goes-on"));
    lab.runtime.remove_sandbox(SANDBOX).await.unwrap();
    lab.nothing_is_left();
}

#[tokio::test]
async fn memory_limits_kill_and_are_told() {
    let lab = Lab::new().await;
    lab.sandbox().await;
    let resources = Resources { memory: Some(32 << 20), pids: Some(50), cpu_shares: Some(100), ..Resources::default() };
    lab.create_and_start(ContainerConfig { resources, ..lab.container_config("main", &["eat"]) }).await;
    let exit = lab.exit("main").await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), true));
    lab.create_and_start(ContainerConfig { resources, ..lab.container_config("other", &["sleep"]) }).await;
    let stats = lab.runtime.container_stats(SANDBOX, "other").await.unwrap();
    assert_eq!(stats.pids, 1);
    assert!(stats.memory_bytes > 0 && stats.cpu_nanos > 0, "{stats:?}");
    lab.runtime.remove_sandbox(SANDBOX).await.unwrap();
    lab.nothing_is_left();
}

#[tokio::test]
async fn the_death_of_the_shim_is_seen_and_settled() {
    let mut lab = Lab::new().await;
    lab.sandbox().await;
    lab.run("runs", &["children"]).await;
    lab.run("done", &["exit", "3"]).await;
    lab.exit("done").await;
    let mut events = lab.runtime.events();
    lab.shim().signal(9).unwrap();
    let lost = eventually("it is told", async || match events.recv().await.unwrap() {
        Event::SandboxLost { sandbox } => Some(sandbox),
        Event::ContainerExited { .. } => None,
    });
    assert_eq!(lost.await, SANDBOX);
    assert_eq!(lab.exit("runs").await.code, 137);
    assert_eq!(lab.exit("done").await.code, 3);
    assert_eq!(lab.processes(), 0);
    let error = lab.runtime.start_container(SANDBOX, "runs").await.unwrap_err();
    assert!(error.is_gone(), "{error}");
    lab.runtime.remove_sandbox(SANDBOX).await.unwrap();
    lab.nothing_is_left();
    // The same while no daemon is there to see it.
    lab.sandbox().await;
    lab.run("runs", &["sleep"]).await;
    lab.restart().await;
    lab.shim().signal(9).unwrap();
    let adopted = lab.runtime.adopt().await.unwrap();
    assert!(adopted[0].lost);
    assert_eq!(adopted[0].containers[0].state.name(), "exited");
    lab.runtime.remove_sandbox(SANDBOX).await.unwrap();
    lab.nothing_is_left();
}

/// As a loss of power leaves them: files that were made shortly before have a name and no content.
#[tokio::test]
async fn what_a_loss_of_power_has_emptied_is_cleared_away() {
    for file in ["sandbox.json", "c/runs/container.json", "c/runs/state.json", "shim.json"] {
        let mut lab = Lab::new().await;
        lab.sandbox().await;
        lab.run("runs", &["sleep"]).await;
        lab.restart().await;
        lab.lose_processes();
        std::fs::write(lab.dir.join("containers").join(SANDBOX).join(file), "").unwrap();
        let adopted = lab.runtime.adopt().await.unwrap();
        if file == "shim.json" {
            // All else is known: it has lost its shim.
            assert!(adopted[0].lost, "{adopted:?}");
            lab.runtime.remove_sandbox(SANDBOX).await.unwrap();
        } else {
            assert!(adopted.is_empty(), "{file}: {adopted:?}");
        }
        lab.nothing_is_left();
    }
}

#[tokio::test]
async fn what_was_never_finished_is_cleared_away() {
    let mut lab = Lab::new().await;
    lab.sandbox().await;
    lab.run("runs", &["sleep"]).await;
    lab.runtime.create_container(SANDBOX, lab.container_config("half", &["sleep"])).await.unwrap();
    let half = lab.dir.join("containers").join(SANDBOX).join("c/half");
    std::fs::remove_file(half.join("container.json")).unwrap();
    std::fs::create_dir_all(lab.dir.join("containers/half-a-sandbox/shm")).unwrap();
    lab.restart().await;
    let adopted = lab.runtime.adopt().await.unwrap();
    assert_eq!(adopted.len(), 1);
    assert_eq!(adopted[0].containers.len(), 1);
    assert!(!lab.dir.join("containers/half-a-sandbox").exists());
    assert!(!half.exists());
    let no_image = ContainerConfig { image: "no/such:1".to_owned(), ..lab.container_config("bad", &[]) };
    assert!(lab.runtime.create_container(SANDBOX, no_image).await.is_err());
    let again = lab.runtime.run_sandbox(lab.sandbox_config()).await.unwrap_err();
    assert!(matches!(again, Error::AlreadyExists(_)), "{again}");
    let no_network = SandboxConfig { id: "x".to_owned(), cgroup: format!("{}/x", lab.cgroup), ..lab.sandbox_config() };
    let no_network = SandboxConfig { sysctls: [("net.ipv4.nope".into(), "1".into())].into(), ..no_network };
    lab.runtime.run_sandbox(no_network).await.unwrap_err();
    assert!(!lab.dir.join("containers/x").exists());
    lab.runtime.remove_sandbox(SANDBOX).await.unwrap();
    lab.runtime.remove_sandbox(SANDBOX).await.unwrap();
    lab.nothing_is_left();
}

#[tokio::test]
async fn mounts_arrive_as_asked() {
    let lab = Lab::new().await;
    lab.sandbox().await;
    let source = lab.dir.join("volume");
    std::fs::create_dir_all(source.join("inner")).unwrap();
    std::fs::write(source.join("file"), "from the node").unwrap();
    let mount =
        |target: &str, from: &str| Mount { source: source.join(from), target: target.into(), ..Mount::default() };
    let mounts = vec![
        mount("/data/inner", "inner"),
        Mount { readonly: true, ..mount("/data", "") },
        mount("/etc/hosts", "file"),
        Mount { propagation: Propagation::HostToContainer, ..mount("/later", "") },
    ];
    lab.create_and_start(ContainerConfig { mounts, ..lab.container_config("main", &["sleep"]) }).await;
    assert_eq!(
        lab.exec("main", &["/program", "cat", "/data/file", "/etc/hosts"]).await.0,
        "from the nodefrom the node"
    );
    let refused = "Read-only file system (os error 30)\n";
    assert_eq!(lab.exec("main", &["/program", "write", "/data/new", "x"]).await.0, refused);
    assert_eq!(lab.exec("main", &["/program", "write", "/etc/hosts", "changed"]).await.0, "written\n");
    assert_eq!(std::fs::read_to_string(source.join("file")).unwrap(), "changed");
    assert_eq!(lab.exec("main", &["/program", "write", "/dev/shm/x", "shared"]).await.0, "written\n");
    lab.run("other", &["sleep"]).await;
    assert_eq!(lab.exec("other", &["/program", "cat", "/dev/shm/x"]).await.0, "shared");
}

#[tokio::test]
async fn privilege_is_given_and_withheld() {
    let lab = Lab::new().await;
    lab.sandbox().await;
    let with = |id: &str, security: Security, path: &str| ContainerConfig {
        security,
        ..lab.container_config(id, &["cat", path])
    };
    let status = "/proc/self/status";
    let add = Security {
        add_capabilities: vec!["NET_ADMIN".into()],
        drop_capabilities: vec!["ALL".into()],
        ..Security::default()
    };
    let text = lab.output(with("caps", add, status)).await;
    assert!(text.contains("CapEff:\t0000000000001000"), "{text}");
    let locked = Security { no_new_privileges: true, ..Security::default() };
    assert!(lab.output(with("locked", locked, status)).await.contains("NoNewPrivs:\t1"));
    let privileged = Security { privileged: true, ..Security::default() };
    let text = lab.output(with("all", privileged.clone(), status)).await;
    let own = std::fs::read_to_string(status).unwrap();
    let all = own.lines().find(|l| l.starts_with("CapBnd")).unwrap();
    assert!(text.contains(all), "{all} in {text}");
    let listed = |id: &str, security| ContainerConfig { security, ..lab.container_config(id, &["list", "/dev"]) };
    let few = lab.output(listed("few", Security::default())).await;
    assert_eq!(few, "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero");
    let many = lab.output(listed("many", privileged)).await;
    assert!(many.split(' ').count() > few.split(' ').count(), "{many}");
    let keys = lab.output(with("keys", Security::default(), "/proc/keys")).await;
    assert_eq!(keys, "");
}

#[tokio::test]
async fn system_calls_are_filtered_as_asked() {
    let lab = Lab::new().await;
    lab.sandbox().await;
    let status = &["cat", "/proc/self/status"];
    let with = |id: &str, seccomp: Seccomp, more: Security| {
        let security = Security { seccomp, ..more };
        ContainerConfig { security, ..lab.container_config(id, status) }
    };
    let plain = lab.output(with("plain", Seccomp::Unconfined, Security::default())).await;
    assert!(plain.contains("Seccomp:\t0"), "{plain}");
    // The filter is there, and what was needed to load it is gone: by capability, or by no_new_privs.
    let usual = lab.output(with("usual", Seccomp::RuntimeDefault, Security::default())).await;
    for line in ["Seccomp:\t2", "NoNewPrivs:\t0", "CapEff:\t00000000a80425fb", "CapPrm:\t00000000a80425fb"] {
        assert!(usual.contains(line), "{line} in {usual}");
    }
    let drop_all =
        Security { drop_capabilities: vec!["ALL".to_owned()], no_new_privileges: true, ..Security::default() };
    let strict = ContainerConfig { identity: as_user(1000), ..with("strict", Seccomp::RuntimeDefault, drop_all) };
    let strict = lab.output(strict).await;
    for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"] {
        assert!(strict.contains(line), "{line} in {strict}");
    }
    let user =
        ContainerConfig { identity: as_user(1000), ..with("user", Seccomp::RuntimeDefault, Security::default()) };
    let user = lab.output(user).await;
    assert!(user.contains("CapPrm:\t0000000000000000") && user.contains("Seccomp:\t2"), "{user}");
    let privileged = Security { privileged: true, ..Security::default() };
    let privileged = lab.output(with("privileged", Seccomp::RuntimeDefault, privileged)).await;
    assert!(privileged.contains("Seccomp:\t0"), "{privileged}");

    let profile = lab.dir.join("no-mkdir.json");
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#;
    std::fs::write(&profile, text).unwrap();
    let local = Security { seccomp: Seccomp::Localhost(profile), ..Security::default() };
    lab.create_and_start(ContainerConfig { security: local, ..lab.container_config("local", &["sleep"]) }).await;
    // An exec is filtered like the program.
    assert_eq!(lab.exec("local", &["/program", "mkdir", "/x"]).await.0, "Permission denied (os error 13)\n");
    assert!(lab.exec("local", &["/program", "cat", "/proc/self/status"]).await.0.contains("Seccomp:\t2"));
    let gone = with("gone", Seccomp::Localhost("/no/such.json".into()), Security::default());
    let error = lab.runtime.create_container(SANDBOX, gone).await.unwrap_err();
    assert!(error.to_string().contains("cannot load seccomp profile \"/no/such.json\""), "{error}");
}

#[tokio::test]
async fn what_cannot_be_made_is_explained() {
    let lab = Lab::new().await;
    lab.sandbox().await;
    let missing = Mount { source: "/no/such/volume".into(), target: "/data".into(), ..Mount::default() };
    let bad_mount = ContainerConfig { mounts: vec![missing], ..lab.container_config("mount", &["sleep"]) };
    let tiny = Resources { cpu_quota: Some(1), ..Resources::default() };
    let bad_limit = ContainerConfig { resources: tiny, ..lab.container_config("limit", &["sleep"]) };
    for (config, word) in [(bad_mount, "/no/such/volume"), (bad_limit, "cpu.")] {
        let id = config.id.clone();
        lab.runtime.create_container(SANDBOX, config).await.unwrap();
        let error = lab.runtime.start_container(SANDBOX, &id).await.unwrap_err();
        assert!(matches!(&error, Error::Create(text) if text.contains(word)), "{error}");
        assert_eq!(lab.exit(&id).await.code, 128);
    }
    assert_eq!(lab.processes(), 0);
    lab.runtime.remove_sandbox(SANDBOX).await.unwrap();
    lab.nothing_is_left();
}

#[tokio::test]
async fn containers_can_share_their_processes() {
    let lab = Lab::new().await;
    lab.runtime.run_sandbox(SandboxConfig { share_pid: true, ..lab.sandbox_config() }).await.unwrap();
    lab.run("one", &["children"]).await;
    lab.run("two", &["sleep"]).await;
    // The pause process, the first container with its children, the second, and who looks.
    let seen = async || {
        let names = lab.exec("two", &["/program", "list", "/proc"]).await.0;
        names.split_whitespace().filter(|name| name.parse::<u32>().is_ok()).count()
    };
    eventually("all are seen", async || (seen().await == 7).then_some(())).await;
    lab.runtime.stop_container(SANDBOX, "one", Duration::from_secs(5)).await.unwrap();
    assert_eq!(lab.exit("one").await.code, 143, "it is not process 1, so SIGTERM ends it");
    assert_eq!(seen().await, 3, "its children are gone too");
    lab.runtime.remove_sandbox(SANDBOX).await.unwrap();
    lab.nothing_is_left();
}
