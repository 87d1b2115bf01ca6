//! From what the agent asks for to an OCI runtime specification, with the defaults that pods get everywhere.
//!
//! Pure but for one look at the machine ([`Machine`]). The form is JSON because it goes to disk at once; field names are
//! those of the OCI runtime specification 1.2.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::user::User;
use super::{ContainerConfig, Mount, Propagation, Resources, SandboxConfig, Seccomp, Security};
use crate::Error;
use crate::images::ImageConfig;

/// What containerd gives a container that asks for nothing.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Every capability, by its number; see capabilities(7).
#[rustfmt::skip]
const ALL_CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
];

/// Without `no_new_privs`, seccomp(2) needs it.
const LOADS_FILTERS: &str = "CAP_SYS_ADMIN";

const MASKED_PATHS: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const CGROUPS: &str = "/sys/fs/cgroup";

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the specification depends on besides what was asked for.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// The kernel can keep a container from devices. Without it, making device files is not allowed at all.
    pub(super) controls_devices: bool,
    /// The capabilities that the daemon itself has and can therefore give, a bit each.
    pub(super) capabilities: u64,
    /// Device files of the node, for privileged containers.
    pub(super) devices: Vec<PathBuf>,
}

/// Everything that a specification is made from.
#[derive(Debug)]
pub(super) struct Ingredients<'a> {
    pub(super) sandbox: &'a SandboxConfig,
    pub(super) container: &'a ContainerConfig,
    pub(super) image: &'a ImageConfig,
    pub(super) user: &'a User,
    pub(super) rootfs: &'a Path,
    /// The pod's kept namespaces: `ipc`, `uts`, and `pid` if it has one.
    pub(super) namespaces: &'a Path,
    /// Another container's PID namespace, to be joined.
    pub(super) pid_namespace: Option<&'a Path>,
    pub(super) shm: &'a Path,
    pub(super) cgroup: &'a Path,
    /// Its folders there, where each controller has a hierarchy of its own (version 1).
    pub(super) cgroup_folders: &'a [(&'static str, PathBuf)],
    pub(super) machine: &'a Machine,
}

/// The specification as it is written to `config.json`.
pub(super) fn spec(of: &Ingredients<'_>) -> Result<Value, Error> {
    let security = &of.container.security;
    let masked: &[&str] = if security.privileged || security.unmasked_proc { &[] } else { &MASKED_PATHS };
    let readonly: &[&str] = if security.privileged || security.unmasked_proc { &[] } else { &READONLY_PATHS };
    let mut annotations = serde_json::Map::new();
    if let Some(score) = of.container.oom_score_adj {
        // Not the specification's own field: lowering it may be refused, and a container must start all the same.
        annotations.insert("oom_score_adj".to_owned(), score.to_string().into());
    }
    Ok(json!({
        "ociVersion": "1.2.0",
        "process": process(of)?,
        "root": { "path": of.rootfs, "readonly": security.readonly_rootfs },
        "mounts": mounts(of),
        "annotations": annotations,
        "linux": {
            "namespaces": namespaces(of),
            "resources": resources(&of.container.resources, security, of.machine),
            "cgroupsPath": Path::new("/").join(of.cgroup),
            "devices": devices(security, of.machine),
            "maskedPaths": masked,
            "readonlyPaths": readonly,
        },
    }))
}

/// The command line: the pod's command replaces the image's entrypoint and its arguments; the pod's arguments replace
/// the image's.
pub(super) fn command_line(container: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, Error> {
    let line = match (container.command.is_empty(), container.args.is_empty()) {
        (true, true) => [image.entrypoint.as_slice(), &image.cmd].concat(),
        (true, false) => [image.entrypoint.as_slice(), &container.args].concat(),
        (false, _) => [container.command.as_slice(), &container.args].concat(),
    };
    if line.is_empty() {
        return Err(Error::Invalid("no command specified".to_owned()));
    }
    Ok(line)
}

pub(super) fn working_dir(container: &ContainerConfig, image: &ImageConfig) -> String {
    let given = container.working_dir.clone().filter(|dir| !dir.is_empty());
    let dir = given.unwrap_or_else(|| image.working_dir.clone());
    if dir.starts_with('/') { dir } else { format!("/{dir}") }
}

fn process(of: &Ingredients<'_>) -> Result<Value, Error> {
    let security = &of.container.security;
    let bounding = capabilities(security, of.machine);
    let mut ours = bounding.clone();
    let filtered = !security.privileged && security.seccomp != Seccomp::Unconfined;
    if filtered && !security.no_new_privileges && !ours.contains(&LOADS_FILTERS) {
        // The filter is loaded as the last thing before the program is executed, when all else has been given up. The program
        // itself does not get this: execve(2) computes its capabilities anew, from the bounding set.
        ours.push(LOADS_FILTERS);
    }
    let rlimits: Vec<Value> = of.container.rlimits.iter().map(rlimit).collect();
    let mut process = json!({
        "terminal": of.container.tty,
        "user": { "uid": of.user.uid, "gid": of.user.gid, "additionalGids": of.user.groups, "umask": 0o022 },
        "args": command_line(of.container, of.image)?,
        "env": environment(of),
        "cwd": working_dir(of.container, of.image),
        "capabilities": { "bounding": bounding, "effective": ours, "permitted": ours },
        "rlimits": rlimits,
    });
    if security.no_new_privileges && !security.privileged {
        process["noNewPrivileges"] = true.into();
    }
    Ok(process)
}

fn rlimit(rlimit: &super::Rlimit) -> Value {
    json!({ "type": rlimit.name, "soft": rlimit.soft, "hard": rlimit.hard })
}

/// The image's environment, then the pod's; the last value of a name counts.
fn environment(of: &Ingredients<'_>) -> Vec<String> {
    let mut all = vec![DEFAULT_PATH.to_owned()];
    if let Some(hostname) = &of.sandbox.hostname {
        all.push(format!("HOSTNAME={hostname}"));
    }
    if of.container.tty {
        all.push("TERM=xterm".to_owned());
    }
    all.extend(of.image.env.iter().cloned());
    all.extend(of.container.env.iter().map(|(name, value)| format!("{name}={value}")));
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut seen = std::collections::BTreeSet::new();
    let mut kept: Vec<String> = all.into_iter().rev().filter(|entry| seen.insert(name(entry))).collect();
    kept.reverse();
    kept
}

pub(super) fn capabilities(security: &Security, machine: &Machine) -> Vec<&'static str> {
    let ours = |(n, _): &(usize, &&str)| machine.capabilities & (1 << n) != 0;
    let mut known = ALL_CAPABILITIES.iter().enumerate().filter(ours).map(|(_, name)| *name);
    if security.privileged {
        return known.collect();
    }
    let normal = |name: &String| {
        let upper = name.to_ascii_uppercase();
        if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
    };
    let added: Vec<String> = security.add_capabilities.iter().map(normal).collect();
    let dropped: Vec<String> = security.drop_capabilities.iter().map(normal).collect();
    let has = |list: &[String], capability: &str| list.iter().any(|c| c == capability);
    let by_default = |c: &str| {
        let allowed = c != "CAP_MKNOD" || machine.controls_devices;
        DEFAULT_CAPABILITIES.contains(&c) && allowed && !has(&dropped, "ALL")
    };
    let wanted = |c: &&str| {
        let all = has(&added, "ALL") || by_default(c);
        (all && !has(&dropped, c)) || has(&added, c)
    };
    known.by_ref().filter(wanted).collect()
}

fn namespaces(of: &Ingredients<'_>) -> Vec<Value> {
    let mut found = vec![json!({ "type": "mount" })];
    if !of.sandbox.host_pid {
        match (of.sandbox.share_pid, of.pid_namespace) {
            (true, _) => found.push(json!({ "type": "pid", "path": of.namespaces.join("pid") })),
            (false, Some(path)) => found.push(json!({ "type": "pid", "path": path })),
            (false, None) => found.push(json!({ "type": "pid" })),
        }
    }
    if !of.sandbox.host_ipc {
        found.push(json!({ "type": "ipc", "path": of.namespaces.join("ipc") }));
    }
    if of.sandbox.hostname.is_some() {
        found.push(json!({ "type": "uts", "path": of.namespaces.join("uts") }));
    }
    if of.cgroup_folders.is_empty() {
        // With version 2 a container sees its own group as the root, as everywhere.
        found.push(json!({ "type": "cgroup" }));
    }
    if let Some(network) = &of.sandbox.network {
        found.push(json!({ "type": "network", "path": network }));
    }
    found
}

fn resources(wanted: &Resources, security: &Security, machine: &Machine) -> Value {
    let mut found = json!({});
    if let Some(limit) = wanted.memory {
        found["memory"] = json!({ "limit": limit });
    }
    if wanted.cpu_shares.is_some() || wanted.cpu_quota.is_some() {
        let mut cpu = json!({});
        if let Some(shares) = wanted.cpu_shares {
            cpu["shares"] = shares.into();
        }
        if let Some(quota) = wanted.cpu_quota {
            cpu["quota"] = quota.into();
            cpu["period"] = wanted.cpu_period.unwrap_or(100_000).into();
        }
        found["cpu"] = cpu;
    }
    if let Some(limit) = wanted.pids {
        found["pids"] = json!({ "limit": limit });
    }
    if machine.controls_devices {
        // All are forbidden but the usual ones, which the library adds; for a privileged container none.
        found["devices"] = json!([{ "allow": security.privileged, "access": "rwm" }]);
    }
    found
}

fn devices(security: &Security, machine: &Machine) -> Vec<Value> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let listed = machine.devices.iter().filter(|_| security.privileged);
    let device = |path: &PathBuf| {
        let metadata = std::fs::symlink_metadata(path).ok()?;
        let kind = metadata.file_type();
        let kind = match (kind.is_char_device(), kind.is_block_device()) {
            (true, _) => "c",
            (_, true) => "b",
            (false, false) => return None,
        };
        let (major, minor) = (nix::sys::stat::major(metadata.rdev()), nix::sys::stat::minor(metadata.rdev()));
        let (mode, uid, gid) = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
        Some(json!({
            "path": path, "type": kind, "major": major, "minor": minor, "fileMode": mode, "uid": uid, "gid": gid,
        }))
    };
    listed.filter_map(device).collect()
}

fn mounts(of: &Ingredients<'_>) -> Vec<Value> {
    let privileged = of.container.security.privileged;
    let access = if privileged { "rw" } else { "ro" };
    let mount = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    // A mount of the pod's on one of these places takes its place.
    let taken = |destination: &str| of.container.mounts.iter().any(|m| m.target == Path::new(destination));
    let mut all = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
    ];
    if !taken(CGROUPS) {
        all.extend(cgroups(of));
    }
    all.extend([
        json!({ "destination": "/dev/shm", "type": "bind", "source": of.shm, "options": ["rbind", "nosuid", "nodev", "noexec"] }),
    ]);
    all.retain(|m| !taken(m["destination"].as_str().unwrap_or_default()));
    // Outer before inner, whatever the order in which they were asked for.
    let mut asked: Vec<&Mount> = of.container.mounts.iter().collect();
    asked.sort_by_key(|m| m.target.components().count());
    all.extend(asked.into_iter().map(bind));
    all
}

/// The container's own control groups. Those of version 1 are mounted one by one: what the library does for a mount of type `cgroup` begins with a
/// process looked up in `/proc` by a number of another PID namespace, which fails or finds a stranger when a namespace is joined.
fn cgroups(of: &Ingredients<'_>) -> Vec<Value> {
    let access = if of.container.security.privileged { "rw" } else { "ro" };
    if of.cgroup_folders.is_empty() {
        let options = ["nosuid", "noexec", "nodev", "relatime", access];
        return vec![json!({ "destination": CGROUPS, "type": "cgroup", "source": "cgroup", "options": options })];
    }
    let frame = ["nosuid", "noexec", "nodev", "mode=755"];
    let frame = json!({ "destination": CGROUPS, "type": "tmpfs", "source": "tmpfs", "options": frame });
    let one = |(name, folder): &(&'static str, PathBuf)| {
        let options = ["rbind", "rprivate", "nosuid", "noexec", "nodev", access];
        json!({ "destination": format!("{CGROUPS}/{name}"), "type": "bind", "source": folder, "options": options })
    };
    [frame].into_iter().chain(of.cgroup_folders.iter().map(one)).collect()
}

fn bind(mount: &Mount) -> Value {
    let propagation = match mount.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = match (mount.readonly, mount.recursive_readonly) {
        (false, false) => "rw",
        (true, false) => "ro",
        (_, true) => "rro",
    };
    json!({
        "destination": mount.target, "type": "bind", "source": mount.source, "options": ["rbind", propagation, access],
    })
}
