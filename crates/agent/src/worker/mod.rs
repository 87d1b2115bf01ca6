//! A pod's worker: one task that takes notice of what happens, has `decide` say what is next, and sets it going.
//!
//! It never waits for what it began: each action runs in a task of its own and reports back as a [`Note`], so a slow pull or a long grace
//! period leaves the worker free to hear that the pod was deleted.

pub(crate) mod act;
pub(crate) mod adopt;
mod apply;
mod end;
mod follow;
mod mounts;
mod report;
mod resize;
mod start;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use containers::runtime::Exit;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::context::Context;
use crate::decide::decide;
use crate::model::{Action, Image, PodState, Run, Running, Sandbox, Volumes};
use crate::probe;
use crate::spec::ProbeKind;

use report::Reporter;

/// Mounted maps and tokens are looked at again so often.
const REFRESH: Duration = Duration::from_secs(60);
/// What failed in mounting or making the sandbox is tried again so soon.
const RETRY: jiff::SignedDuration = jiff::SignedDuration::from_secs(2);

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Note {
    /// The pod's object has changed.
    Pod(Arc<Pod>),
    /// The object is gone from the API.
    Gone,
    /// A run has ended, by the runtime's word.
    Exited {
        id: String,
        exit: Exit,
    },
    /// The pod's shim died.
    Lost,
    /// A config map or secret that is mounted has changed.
    MapsChanged,
    Mounted(Result<Option<Timestamp>, String>),
    Sandboxed(Result<Vec<IpAddr>, String>),
    Pulled {
        container: String,
        result: Result<(), Trouble>,
    },
    Started {
        container: String,
        attempt: u32,
        result: Result<Running, Trouble>,
    },
    Probed {
        container: String,
        id: String,
        kind: ProbeKind,
        report: probe::Report,
    },
    /// Other resources have been given, or not, to runs by their ids.
    Resized {
        given: Vec<(String, ResourceRequirements)>,
        result: Result<(), String>,
    },
    SandboxRemoved(Result<(), String>),
    Forgotten(Result<(), String>),
}

/// Why a container is waiting, as its status says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub reason: String,
    pub message: String,
    /// The run was made and its command could not be executed: it counts as a run that ended.
    pub ended: Option<(String, String)>,
}

/// What others may see of a pod while its worker lives.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub pod: Arc<Pod>,
    pub state: PodState,
}

/// Whether volumes are being written: two writers of one volume would undo each other's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mounting {
    Idle,
    Busy,
    /// Something changed meanwhile: once more after this.
    Again,
}

/// Where a worker is spoken to.
#[derive(Debug)]
pub(crate) struct Handle {
    pub notes: mpsc::UnboundedSender<Note>,
    pub view: Arc<RwLock<View>>,
    /// The API has the pod no more. What is left of it is on its way out, and keeps nobody from coming.
    pub gone: bool,
}

impl Handle {
    pub fn view(&self) -> View {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(crate) use start::{id_of, image_id, last_words};

pub(crate) struct Worker {
    node: Arc<Context>,
    uid: String,
    pod: Arc<Pod>,
    state: PodState,
    notes: mpsc::UnboundedReceiver<Note>,
    to_self: mpsc::UnboundedSender<Note>,
    view: Arc<RwLock<View>>,
    tasks: JoinSet<()>,
    probes: BTreeMap<(String, ProbeKind), (String, AbortOnDropHandle<()>)>,
    reporter: Reporter,
    /// Watches of mounted config maps and secrets.
    follows: Option<Vec<AbortOnDropHandle<()>>>,
    /// Runs that are being ended, and where they are told that there is less time.
    kills: BTreeMap<String, watch::Sender<Duration>>,
    /// Cancels pulls and starts when the pod is deleted.
    life: CancellationToken,
    refresh_at: tokio::time::Instant,
    mounting: Mounting,
    /// Held by whoever writes the volumes or takes them away: nothing is mounted after they are gone.
    volumes: Arc<Mutex<()>>,
    /// The last step has begun, and is not begun twice.
    forgetting: bool,
    /// Messages that have been said as events since the last change for the better.
    said: BTreeMap<String, String>,
    /// How long what is begun next is held back, after a failure.
    delay: Duration,
}

impl Worker {
    /// Starts a worker on a pod whose state was found or is new.
    pub fn start(node: Arc<Context>, pod: Arc<Pod>, state: PodState) -> Handle {
        let (to_self, notes) = mpsc::unbounded_channel();
        let view = Arc::new(RwLock::new(View { pod: Arc::clone(&pod), state: state.clone() }));
        let handle = Handle { notes: to_self.clone(), view: Arc::clone(&view), gone: false };
        let reporter = Reporter::start(Arc::clone(&node), &pod);
        let (uid, life) = (crate::spec::uid(&pod).to_owned(), node.shutdown.child_token());
        let refresh_at = tokio::time::Instant::now() + REFRESH;
        let (tasks, probes, said, follows) = (JoinSet::new(), BTreeMap::new(), BTreeMap::new(), None);
        let (delay, mounting, kills) = (Duration::ZERO, Mounting::Idle, BTreeMap::new());
        let worker = Worker {
            node,
            uid,
            pod,
            state,
            notes,
            to_self,
            view,
            tasks,
            probes,
            reporter,
            follows,
            kills,
            life,
            refresh_at,
            mounting,
            volumes: Arc::default(),
            forgetting: false,
            said,
            delay,
        };
        let shutdown = worker.node.shutdown.clone();
        tokio::spawn(shutdown.run_until_cancelled_owned(worker.work()));
        handle
    }

    async fn work(mut self) {
        loop {
            let wake_at = self.settle();
            self.tend_probes();
            self.follow_maps();
            self.show();
            let refresh_at = self.refresh_at;
            let sleep = async {
                match wake_at {
                    Some(at) => tokio::time::sleep(until(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Notes first: a due timer changes nothing that a note could not.
                biased;
                note = self.notes.recv() => match note {
                    Some(Note::Forgotten(Ok(()))) | None => return,
                    Some(note) => self.apply(note),
                },
                () = sleep => {}
                () = tokio::time::sleep_until(refresh_at) => self.refresh(),
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
            }
        }
    }

    /// Begins everything that is to be done now; gives the time to look again.
    fn settle(&mut self) -> Option<Timestamp> {
        loop {
            let decision = decide(&self.pod, &self.state, Timestamp::now());
            if decision.actions.is_empty() {
                return decision.wake_at;
            }
            if decision.actions == [Action::Forget] {
                if !std::mem::replace(&mut self.forgetting, true) {
                    self.forget();
                }
                return None;
            }
            for action in decision.actions {
                self.begin(action);
            }
        }
    }

    /// Marks an action as begun and sets it going.
    fn begin(&mut self, action: Action) {
        match action {
            Action::MountVolumes => {
                self.state.volumes = Volumes::Mounting;
                self.mount_volumes();
            }
            Action::CreateSandbox => {
                self.state.sandbox = Sandbox::Creating;
                self.create_sandbox();
            }
            Action::Pull { container } => {
                self.state.container_mut(&container).image = Image::Pulling;
                self.pull(container);
            }
            Action::Start { container, attempt } => {
                let now = Timestamp::now();
                let state = self.state.container_mut(&container);
                if let Run::Ended(ended) = &state.run {
                    state.backoff.next(ended.finished_at, now);
                    state.last = Some(ended.clone());
                }
                (state.restarts, state.run) = (attempt, Run::Starting);
                (state.started, state.ready) = (false, false);
                self.start_container(container, attempt);
            }
            Action::Kill { container, grace, cause } => {
                let state = self.state.container_mut(&container);
                if let Run::Running(running) = state.run.clone() {
                    state.run = Run::Stopping(running.clone());
                    self.state.ending_since.get_or_insert_with(Timestamp::now);
                    self.kill(container, running.id, grace, cause);
                }
            }
            Action::Resize => self.resize(),
            Action::RemoveSandbox => {
                let ips = self.state.ips().to_vec();
                self.state.sandbox = Sandbox::Removing { ips };
                self.remove_sandbox();
            }
            Action::Fail { reason, message } => {
                self.node.recorder.pod(&self.pod, crate::events::Kind::Normal, &reason, message.clone());
                self.state.failed = Some((reason, message));
            }
            Action::Forget => {}
        }
    }

    /// Lets others see the pod as it is now, the API above all.
    fn show(&mut self) {
        let view = View { pod: Arc::clone(&self.pod), state: self.state.clone() };
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
        if !self.state.orphaned {
            self.reporter.report(&self.pod, &self.state, &self.node.host_ips());
        }
    }

    fn refresh(&mut self) {
        self.refresh_at = tokio::time::Instant::now() + REFRESH;
        if self.state.volumes == Volumes::Mounted && crate::decide::ending(&self.pod, &self.state).is_none() {
            self.mount_volumes();
        }
    }
}

fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
}
