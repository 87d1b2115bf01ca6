//! What the agent knows of a pod: the values between what was observed and what is decided.
//!
//! One [`PodState`] belongs to one worker. It is kept in memory only; after a restart it is made again from what the runtime still has
//! and from the status that the API holds (`worker::adopt`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;

use crate::backoff::Backoff;

/// A pod on this node.
#[derive(Debug, Clone)]
pub struct PodState {
    /// When the agent first took notice: `status.startTime`.
    pub seen_at: Timestamp,
    pub volumes: Volumes,
    pub sandbox: Sandbox,
    pub containers: BTreeMap<String, ContainerState>,
    /// The pod was ended by the agent, with a reason and message for its status.
    pub failed: Option<(String, String)>,
    /// The pod has been deleted from the API: end it, and tell nobody.
    pub orphaned: bool,
    /// When the agent began to end the pod.
    pub ending_since: Option<Timestamp>,
    pub resize: Resize,
}

/// Whether running containers have what the spec gives them, which may change while they run.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Resize {
    /// They have, or nobody has looked yet.
    #[default]
    Settled,
    Underway,
    /// They will not get it, or not now: `reason` is the condition's. Looked at again after that time.
    Refused {
        reason: &'static str,
        message: String,
        retry_at: Timestamp,
    },
    /// The kernel did not take it.
    Failed {
        message: String,
        retry_at: Timestamp,
    },
}

impl PodState {
    pub fn new(seen_at: Timestamp) -> Self {
        PodState {
            seen_at,
            volumes: Volumes::Unmounted,
            sandbox: Sandbox::Absent,
            containers: BTreeMap::new(),
            failed: None,
            orphaned: false,
            ending_since: None,
            resize: Resize::Settled,
        }
    }

    pub fn container(&self, name: &str) -> &ContainerState {
        const FRESH: ContainerState = ContainerState::fresh();
        static NONE: ContainerState = FRESH;
        self.containers.get(name).unwrap_or(&NONE)
    }

    pub fn container_mut(&mut self, name: &str) -> &mut ContainerState {
        self.containers.entry(name.to_owned()).or_insert_with(ContainerState::fresh)
    }

    /// The pod's addresses while it has a sandbox.
    pub fn ips(&self) -> &[IpAddr] {
        match &self.sandbox {
            Sandbox::Ready { ips } | Sandbox::Removing { ips } => ips,
            Sandbox::Absent | Sandbox::Creating | Sandbox::Failed { .. } | Sandbox::Removed => &[],
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Volumes {
    Unmounted,
    Mounting,
    Mounted,
    /// To be tried again at that time.
    Failed {
        retry_at: Timestamp,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sandbox {
    Absent,
    Creating,
    Ready {
        ips: Vec<IpAddr>,
    },
    Failed {
        retry_at: Timestamp,
    },
    Removing {
        ips: Vec<IpAddr>,
    },
    /// Gone for good: its pod has ended.
    Removed,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ContainerState {
    pub image: Image,
    pub pull_backoff: Backoff,
    pub run: Run,
    /// How the run before this one ended.
    pub last: Option<Ended>,
    /// How often it has been started again; also the number of its current run.
    pub restarts: u32,
    pub backoff: Backoff,
    /// What the startup probe says; true without one once it runs.
    pub started: bool,
    /// What the readiness probe says; true without one once it is started.
    pub ready: bool,
}

impl ContainerState {
    const fn fresh() -> Self {
        ContainerState {
            image: Image::Unknown,
            pull_backoff: Backoff::new(),
            run: Run::Never,
            last: None,
            restarts: 0,
            backoff: Backoff::new(),
            started: false,
            ready: false,
        }
    }

    /// Whether a process of it may exist.
    pub fn is_live(&self) -> bool {
        match self.run {
            Run::Starting | Run::Running(_) | Run::Stopping(_) => true,
            Run::Never | Run::Refused { .. } | Run::Ended(_) => false,
        }
    }

    pub fn ended(&self) -> Option<&Ended> {
        match &self.run {
            Run::Ended(ended) => Some(ended),
            Run::Never | Run::Refused { .. } | Run::Starting | Run::Running(_) | Run::Stopping(_) => None,
        }
    }

    pub fn running(&self) -> Option<&Running> {
        match &self.run {
            Run::Running(running) | Run::Stopping(running) => Some(running),
            Run::Never | Run::Refused { .. } | Run::Starting | Run::Ended(_) => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// Not looked at for the next run.
    Unknown,
    Pulling,
    Present,
    /// `reason` as in the status (`ErrImagePull`, `InvalidImageName`, …).
    Failed {
        reason: String,
        message: String,
        at: Timestamp,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Run {
    /// Not started yet.
    Never,
    Starting,
    /// It could not be made or started, and no process ever ran; tried again soon.
    Refused {
        reason: String,
        message: String,
        retry_at: Timestamp,
    },
    Running(Running),
    /// Told to end.
    Stopping(Running),
    Ended(Ended),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Running {
    /// The runtime's id.
    pub id: String,
    pub image_id: String,
    pub started_at: Timestamp,
    /// What it may use now.
    pub resources: ResourceRequirements,
}

/// A run that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub id: String,
    pub image_id: String,
    pub code: i32,
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun`, …
    pub reason: String,
    pub message: Option<String>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
}

/// What to do next. The worker marks it as begun, does it, and reports what came of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    MountVolumes,
    CreateSandbox,
    /// Find the container's image, pulling it if its policy says so.
    Pull {
        container: String,
    },
    /// Make and start the container's run of that number.
    Start {
        container: String,
        attempt: u32,
    },
    Kill {
        container: String,
        grace: Duration,
        cause: Cause,
    },
    /// Give running containers what the spec gives them now.
    Resize,
    /// Stop and remove the sandbox, its network and its volumes.
    RemoveSandbox,
    /// End the pod as failed.
    Fail {
        reason: String,
        message: String,
    },
    /// All is gone: delete the pod's folder, and the object if the API still has it.
    Forget,
}

/// Why a container is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The pod ends.
    Pod,
    LivenessProbe,
    StartupProbe,
    /// Its image is another now.
    Changed,
    /// It gets other resources, and asked to be restarted for that.
    Resized,
}

/// What is to be done now, and when to look again if nothing happens before.
#[derive(Debug, Default)]
pub struct Decision {
    pub actions: Vec<Action>,
    pub wake_at: Option<Timestamp>,
}
