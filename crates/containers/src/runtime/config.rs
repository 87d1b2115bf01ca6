//! What the agent tells the runtime about a sandbox, a container, an exec. Plain values that are also written to disk.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A pod, as far as the kernel is concerned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// Names the sandbox and its folder; the pod's UID. Letters, digits, `-`, `_` and `.` only.
    pub id: String,
    /// Set in a UTS namespace of the pod's own; none shares the node's (`hostNetwork`).
    pub hostname: Option<String>,
    /// The network namespace, made by the caller; none shares the one that the daemon runs in.
    pub network: Option<PathBuf>,
    pub host_pid: bool,
    pub host_ipc: bool,
    /// One PID namespace for all containers of the pod.
    pub share_pid: bool,
    /// Path of the pod's cgroup below every hierarchy, such as `portolan/burstable/pod123`.
    pub cgroup: String,
    /// Limits of the pod as a whole.
    pub resources: Resources,
    /// Applied in the pod's namespaces before any container starts.
    pub sysctls: BTreeMap<String, String>,
    /// Not read by the runtime; given back by `list` and `adopt`.
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Unique in its sandbox, same letters as a sandbox's; a restart is a new container with a new id.
    pub id: String,
    /// An image of the store, by id (`sha256:…`) or any of its names.
    pub image: String,
    /// Replaces the image's entrypoint; empty keeps it. With a command given, the image's `cmd` is not used.
    pub command: Vec<String>,
    /// Replaces the image's `cmd`; empty keeps it.
    pub args: Vec<String>,
    /// Added to the image's environment, later entries win.
    pub env: Vec<(String, String)>,
    /// None keeps the image's, which is `/` if it has none.
    pub working_dir: Option<String>,
    pub identity: Identity,
    pub mounts: Vec<Mount>,
    pub security: Security,
    pub resources: Resources,
    /// Best effort: lowering it needs a privilege that the daemon may lack.
    pub oom_score_adj: Option<i32>,
    pub rlimits: Vec<Rlimit>,
    pub tty: bool,
    /// Keep a stdin open that `attach` can write to; otherwise it reads as empty.
    pub stdin: bool,
    /// A running container of the same sandbox whose processes it sees: it joins that one's PID namespace.
    #[serde(default)]
    pub pid_of: Option<String>,
    /// Close stdin when the first client that attached to it leaves.
    pub stdin_once: bool,
    /// Where the log goes, in the CRI format. Missing folders are made.
    pub log_path: PathBuf,
    /// The log is rotated at this size in bytes (default 10 MiB) …
    pub log_max_bytes: Option<u64>,
    /// … and so many files are kept, the current one included (default 5).
    pub log_max_files: Option<u32>,
    /// A signal's name or number; none takes the image's, and TERM if it has none.
    pub stop_signal: Option<String>,
    /// Not read by the runtime; given back in the status.
    pub labels: BTreeMap<String, String>,
}

/// As whom the container runs. What is not given comes from the image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Besides those that the image's `/etc/group` gives the user.
    pub groups: Vec<u32>,
    /// Leave out those that the image's `/etc/group` gives the user (`supplementalGroupsPolicy: Strict`).
    #[serde(default)]
    pub strict_groups: bool,
    /// Refuse to run as uid 0, or as a name whose uid is not known to be another (`runAsNonRoot`).
    pub must_not_be_root: bool,
}

/// A bind mount from the node into the container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    pub source: PathBuf,
    pub target: PathBuf,
    pub readonly: bool,
    /// Read-only also for what is mounted below.
    pub recursive_readonly: bool,
    pub propagation: Propagation,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Later mounts are seen on neither side.
    #[default]
    Private,
    /// The container sees the node's later mounts.
    HostToContainer,
    /// Each sees the other's.
    Bidirectional,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Security {
    pub privileged: bool,
    /// Names with or without `CAP_`; `ALL` is every one.
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub readonly_rootfs: bool,
    /// `allowPrivilegeEscalation: false`
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    /// `procMount: Unmasked`: `/proc` without masked and read-only paths.
    pub unmasked_proc: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    #[default]
    Unconfined,
    /// The usual profile of container runtimes.
    RuntimeDefault,
    /// A profile in the OCI JSON form.
    Localhost(PathBuf),
}

/// Limits. None is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes.
    pub memory: Option<i64>,
    /// Relative weight, 2 to 262144; 1024 is one core's request.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time in each period.
    pub cpu_quota: Option<i64>,
    /// Microseconds; 100000 if only a quota is given.
    pub cpu_period: Option<u64>,
    /// Processes and threads.
    pub pids: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` and the like.
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExecConfig {
    pub command: Vec<String>,
    /// One terminal instead of the three streams.
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}
