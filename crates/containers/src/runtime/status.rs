//! What the runtime tells the agent: states, exits, events.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ContainerConfig, SandboxConfig};

/// A sandbox and everything in it.
#[derive(Clone, Debug)]
pub struct Sandbox {
    pub config: SandboxConfig,
    pub created_at: Timestamp,
    /// The shim is dead. What still ran has been killed; the containers' last known states are kept.
    pub lost: bool,
    pub containers: Vec<ContainerStatus>,
}

#[derive(Clone, Debug)]
pub struct ContainerStatus {
    pub config: ContainerConfig,
    /// `sha256:…` of the image's configuration.
    pub image_id: String,
    pub created_at: Timestamp,
    pub state: ContainerState,
}

impl ContainerStatus {
    pub fn log_path(&self) -> &PathBuf {
        &self.config.log_path
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, and waiting for its start.
    Created,
    Running {
        pid: i32,
        started_at: Timestamp,
    },
    Exited(Exit),
}

impl ContainerState {
    pub fn name(&self) -> &'static str {
        match self {
            ContainerState::Created => "created",
            ContainerState::Running { .. } => "running",
            ContainerState::Exited(_) => "exited",
        }
    }
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// As a shell gives it: 128 + n after signal n.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed a process of the container because it met its memory limit.
    pub oom_killed: bool,
    /// None if its command never ran.
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
    /// Why, where it is not the command's own doing: its start failed, or its shim died.
    pub message: Option<String>,
}

#[derive(Clone, Debug)]
pub enum Event {
    ContainerExited {
        sandbox: String,
        container: String,
        exit: Exit,
    },
    /// The sandbox's shim died: what ran in it was killed.
    SandboxLost {
        sandbox: String,
    },
}

/// What a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time since the start, in nanoseconds.
    pub cpu_nanos: u64,
    /// Bytes charged to the container, caches included.
    pub memory_bytes: u64,
    /// Bytes that cannot be given back under pressure: charged, less inactive file pages.
    pub working_set_bytes: u64,
    pub pids: u64,
}
