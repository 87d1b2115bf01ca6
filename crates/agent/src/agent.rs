//! The agent of one node: a worker for each pod that is bound to it, the Node itself, and who asks for logs and streams.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use client::{Change, Watched};
use containers::runtime::{ContainerState, Event, Runtime, Sandbox};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::watcher;
use kube::{Api, Client};
use linux::NetNs;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::context::Context;
use crate::drain::Drain;
use crate::events::{Kind, Recorder};
use crate::kubelet_api::{self, Located, Missing, Pods};
use crate::model::Run;
use crate::node::{self, Machine};
use crate::podnet::{self, PodNet};
use crate::probe::Asker;
use crate::worker::{self, Handle, Note, View, Worker, act, adopt};
use crate::{Error, admit, spec, volumes};

/// What could not be removed of a pod that is gone is tried again so soon.
const SWEEP_AGAIN: Duration = Duration::from_secs(2);

/// The agent of one node.
#[derive(Debug, Clone)]
pub struct Agent {
    config: Config,
    workers: Arc<Workers>,
}

/// Workers by pod uid, and what is needed to find a run's log.
#[derive(Debug)]
pub(crate) struct Workers {
    by_uid: Mutex<BTreeMap<String, Handle>>,
    pods_dir: PathBuf,
    namespaces_dir: PathBuf,
    node_network: NetNs,
}

impl Workers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Handle>> {
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something to a pod's worker; a worker that has ended is forgotten.
    fn tell(&self, uid: &str, note: Note) {
        let mut all = self.lock();
        let Some(handle) = all.get_mut(uid) else { return };
        handle.gone |= matches!(note, Note::Gone);
        if handle.notes.send(note).is_err() {
            all.remove(uid);
        }
    }
}

impl Agent {
    pub fn new(config: Config) -> Agent {
        let workers = Workers {
            by_uid: Mutex::default(),
            pods_dir: config.pods_dir.clone(),
            namespaces_dir: config.namespaces_dir.clone(),
            node_network: config.netns.clone(),
        };
        Agent { config, workers: Arc::new(workers) }
    }

    /// What the API server asks of the node; may be served before [`Agent::run`] and after it.
    pub fn kubelet_api(&self) -> Router {
        kubelet_api::router(Arc::clone(&self.workers) as Arc<dyn Pods>, Arc::clone(&self.config.runtime))
    }

    /// Runs the node until `shutdown`; containers go on after it, and the next run takes them over.
    ///
    /// # Errors
    /// When the node's folders, its network or its runtime cannot be used at all.
    pub async fn run(&self, client: Client, shutdown: CancellationToken) -> Result<(), Error> {
        let config = &self.config;
        let make = |path: PathBuf| fs::create_dir_all(&path).map_err(|source| Error::Folder { path, source });
        make(config.pods_dir.clone())?;
        make(config.namespaces_dir.clone())?;
        let machine = Machine::read(config.max_pods);
        // Before the first look at what runs, so that no exit falls between.
        let events = config.runtime.events();
        let found = config.runtime.adopt().await.map_err(Error::Adopt)?;
        let Some(registered) = node::register(config, &machine, &client, &shutdown).await else { return Ok(()) };
        let Some(cidrs) = self.pod_cidrs(&client, &registered, &shutdown).await else { return Ok(()) };
        let network =
            PodNet::open(config.netns.clone(), &cidrs, config.namespaces_dir.clone()).await.map_err(Error::Network)?;
        let context = Arc::new(Context {
            config: config.clone(),
            services: Watched::start(Api::all(client.clone()), watcher::Config::default(), shutdown.clone()),
            recorder: Recorder::start(client.clone(), config.node_name.clone(), shutdown.clone()),
            asker: Asker { node: config.netns.clone(), runtime: Arc::clone(&config.runtime) },
            drain: Drain::start(&client, config, &shutdown),
            network,
            allocatable: machine.allocatable.clone(),
            neighbours: {
                let workers = Arc::clone(&self.workers);
                Box::new(move |uid: &str| {
                    active(workers.lock().iter().filter(|(other, _)| *other != uid).map(|(_, h)| h))
                })
            },
            client,
            shutdown: shutdown.clone(),
        });
        let work = async {
            tokio::join!(node::keep(&context, &machine, registered), self.follow(&context, events, found));
        };
        shutdown.run_until_cancelled(work).await;
        Ok(())
    }

    async fn pod_cidrs(&self, client: &Client, node: &Node, shutdown: &CancellationToken) -> Option<Vec<IpNet>> {
        if !self.config.pod_cidrs.is_empty() {
            return Some(self.config.pod_cidrs.clone());
        }
        let mut current = node.clone();
        let api: Api<Node> = Api::all(client.clone());
        loop {
            let cidrs = cidrs_of(&current);
            if !cidrs.is_empty() {
                return Some(cidrs);
            }
            info!(node = %self.config.node_name, "waiting for the node's podCIDR");
            shutdown.run_until_cancelled(tokio::time::sleep(Duration::from_millis(300))).await?;
            if let Ok(Some(newer)) = api.get_opt(&self.config.node_name).await {
                current = newer;
            }
        }
    }

    /// Follows the node's pods and the runtime's events.
    async fn follow(
        &self,
        context: &Arc<Context>,
        mut events: tokio::sync::broadcast::Receiver<Event>,
        found: Vec<Sandbox>,
    ) {
        let of_node = watcher::Config::default().fields(&format!("spec.nodeName={}", self.config.node_name));
        let pods: Watched<Pod> = Watched::start(Api::all(context.client.clone()), of_node, context.shutdown.clone());
        let mut found: BTreeMap<String, Sandbox> = found.into_iter().map(|s| (s.config.id.clone(), s)).collect();
        // Addresses of every pod that an earlier run knew are taken, before any new one is given.
        let remembered = remember(context);
        if let Err(error) = context.network.settle_host_ports() {
            warn!(%error, "host ports of an earlier run are not settled");
        }
        pods.synced().await;
        let mut changes: mpsc::UnboundedReceiver<Change<Pod>> = pods.changes();
        loop {
            tokio::select! {
                change = changes.recv() => match change {
                    Some(Change::Applied { object, previous }) => {
                        // While the watch was down a pod may have gone and another of its name come.
                        if let Some(gone) = previous.filter(|before| spec::uid(before) != spec::uid(&object)) {
                            self.workers.tell(spec::uid(&gone), Note::Gone);
                        }
                        self.applied(context, object, &mut found, &remembered);
                    }
                    Some(Change::Deleted(pod)) => self.workers.tell(spec::uid(&pod), Note::Gone),
                    Some(Change::Synced) => {
                        let left_over = std::mem::take(&mut found);
                        let known: Vec<String> = pods.list().iter().map(|p| spec::uid(p).to_owned()).collect();
                        let swept = sweep(Arc::clone(context), left_over, known);
                        tokio::spawn(context.shutdown.clone().run_until_cancelled_owned(swept));
                    }
                    None => return,
                },
                event = events.recv() => match event {
                    Ok(event) => self.happened(event, &mut found),
                    Err(RecvError::Lagged(_)) => self.look_at_all(&*context.config.runtime, &mut found).await,
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    fn applied(
        &self,
        context: &Arc<Context>,
        pod: Arc<Pod>,
        found: &mut BTreeMap<String, Sandbox>,
        remembered: &BTreeMap<String, Vec<IpAddr>>,
    ) {
        let uid = spec::uid(&pod).to_owned();
        let mut all = self.workers.lock();
        if let Some(handle) = all.get(&uid) {
            if handle.notes.send(Note::Pod(Arc::clone(&pod))).is_ok() {
                return;
            }
            // The worker is done with this pod; what comes late is about its last breath.
            if pod.metadata.deletion_timestamp.is_some() {
                return;
            }
        }
        let sandbox = found.remove(&uid);
        let ips = if spec::on_host_network(&pod) { Some(&context.config.node_ips) } else { remembered.get(&uid) };
        let ips = ips.map(Vec::as_slice).unwrap_or_default();
        let look = adopt::Lookup {
            image_id: &|id| worker::image_id(context, id),
            last_words: &|member, attempt, exit| worker::last_words(context, &pod, member, attempt, exit),
        };
        let mut state = adopt::adopt(&pod, sandbox.as_ref(), ips, &look, Timestamp::now());
        if sandbox.is_none() && is_new(&pod) {
            state.failed = refusal(context, &pod, all.values());
        }
        all.insert(uid, Worker::start(Arc::clone(context), pod, state));
    }

    /// Tells the pod's worker; of what was found and has none yet it is known when it gets one.
    fn happened(&self, event: Event, found: &mut BTreeMap<String, Sandbox>) {
        match adopt::note(found, event) {
            Some(Event::ContainerExited { sandbox, container, exit }) => {
                self.workers.tell(&sandbox, Note::Exited { id: container, exit });
            }
            Some(Event::SandboxLost { sandbox }) => self.workers.tell(&sandbox, Note::Lost),
            None => {}
        }
    }

    /// After events were missed: what has ended is told again, and a worker that knows does nothing.
    async fn look_at_all(&self, runtime: &dyn Runtime, found: &mut BTreeMap<String, Sandbox>) {
        let Ok(all) = runtime.list().await else { return };
        for sandbox in all {
            let id = sandbox.config.id;
            if sandbox.lost {
                self.happened(Event::SandboxLost { sandbox: id.clone() }, found);
            }
            for container in sandbox.containers {
                if let ContainerState::Exited(exit) = container.state {
                    let (sandbox, container) = (id.clone(), container.config.id);
                    self.happened(Event::ContainerExited { sandbox, container, exit }, found);
                }
            }
        }
    }
}

/// Nobody has run it yet, here or in an earlier life of the node.
fn is_new(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let pending = status.is_none_or(|s| s.phase.as_deref().is_none_or(|phase| phase == "Pending"));
    pending && status.is_none_or(|s| s.start_time.is_none()) && pod.metadata.deletion_timestamp.is_none()
}

/// Why the node does not take the pod, as its status will say it; said as an event too.
fn refusal<'a>(context: &Context, pod: &Pod, others: impl Iterator<Item = &'a Handle>) -> Option<(String, String)> {
    let others = active(others);
    let others: Vec<&Pod> = others.iter().map(|pod| &**pod).collect();
    let refused = admit::admit(pod, &others, &context.allocatable).err()?;
    context.recorder.pod(pod, Kind::Warning, &refused.reason, refused.message.clone());
    Some((refused.reason, format!("Pod was rejected: {}", refused.message)))
}

/// The pods of those workers that have not ended, and that the API still has: as with the kubelet, who is gone takes no room from who comes.
fn active<'a>(workers: impl Iterator<Item = &'a Handle>) -> Vec<Arc<Pod>> {
    let views = workers.filter(|handle| !handle.gone && !handle.notes.is_closed()).map(Handle::view);
    let active = |view: &View| crate::decide::outcome(&view.pod, &view.state).is_none() && view.state.failed.is_none();
    views.filter(active).map(|view| view.pod).collect()
}

fn cidrs_of(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.clone().unwrap_or_default();
    let all = spec.pod_cidrs.unwrap_or_default().into_iter().chain(spec.pod_cidr);
    let mut cidrs: Vec<IpNet> = all.filter_map(|text| text.parse().ok()).collect();
    cidrs.dedup();
    cidrs
}

/// Takes note of what pods of an earlier run have: gives their addresses, by uid.
fn remember(context: &Context) -> BTreeMap<String, Vec<IpAddr>> {
    let folders = fs::read_dir(context.config.pods_dir.clone()).into_iter().flatten().flatten();
    folders
        .filter_map(|entry| {
            volumes::image::hold_all(&context.config.images, &entry.path().join("volumes"));
            let attachment = context.network.remember(&entry.path())?;
            Some((entry.file_name().into_string().ok()?, attachment.ips))
        })
        .collect()
}

/// Removes what belongs to pods that are no longer bound here: sandboxes, networks, folders. Tries until all is gone.
async fn sweep(context: Arc<Context>, sandboxes: BTreeMap<String, Sandbox>, known: Vec<String>) {
    let folders = fs::read_dir(context.config.pods_dir.clone()).into_iter().flatten().flatten();
    let folders = folders.filter_map(|entry| entry.file_name().into_string().ok());
    let mut left: BTreeSet<String> = sandboxes.into_keys().chain(folders).filter(|uid| !known.contains(uid)).collect();
    loop {
        for uid in left.clone() {
            info!(pod = %uid, "removing a pod that is bound here no more");
            match act::remove(&context, &uid).await.and_then(|()| act::erase(&context, &uid)) {
                Ok(()) => drop(left.remove(&uid)),
                Err(error) => warn!(pod = %uid, %error, "pod not removed, trying again"),
            }
        }
        if left.is_empty() {
            return;
        }
        tokio::time::sleep(SWEEP_AGAIN).await;
    }
}

impl Workers {
    /// Of two pods of one name, one that is deleted and its successor, the newer is meant.
    fn view(&self, namespace: &str, pod: &str) -> Result<View, Missing> {
        let views = self.lock().values().map(Handle::view).collect::<Vec<_>>();
        let named =
            |p: &Pod| p.metadata.name.as_deref() == Some(pod) && p.metadata.namespace.as_deref() == Some(namespace);
        let newest = views.into_iter().filter(|v| named(&v.pod)).max_by_key(|v| v.state.seen_at);
        newest.ok_or_else(|| Missing::Pod(pod.to_owned()))
    }
}

impl Pods for Workers {
    fn network(&self, namespace: &str, pod: &str) -> Result<NetNs, Missing> {
        let view = self.view(namespace, pod)?;
        let phase = || {
            let status = crate::status::status(&view.pod, &view.state, &[], Timestamp::now());
            Missing::NotRunning { phase: status.phase.unwrap_or_default() }
        };
        if !matches!(view.state.sandbox, crate::model::Sandbox::Ready { .. }) {
            return Err(phase());
        }
        if spec::on_host_network(&view.pod) {
            return Ok(self.node_network.clone());
        }
        let kept = podnet::namespace_of(&self.namespaces_dir, spec::uid(&view.pod));
        NetNs::open(kept).map_err(|_| phase())
    }

    fn locate(&self, namespace: &str, pod: &str, container: &str) -> Result<Located, Missing> {
        let view = self.view(namespace, pod)?;
        let wrong = || Missing::Container { pod: pod.to_owned(), container: container.to_owned() };
        let member = spec::member(&view.pod, container).ok_or_else(wrong)?;
        let state = view.state.container(container);
        let attempt = match (&state.run, &state.last) {
            (Run::Running(_) | Run::Stopping(_) | Run::Ended(_), _) => state.restarts,
            // A crash loop's last output is what people look for.
            (Run::Never | Run::Starting | Run::Refused { .. }, Some(_)) => state.restarts.saturating_sub(1),
            (Run::Never | Run::Starting | Run::Refused { .. }, None) => {
                let status = crate::status::status(&view.pod, &view.state, &[], Timestamp::now());
                let reason = waiting_reason(&status, container).unwrap_or_else(|| "ContainerCreating".to_owned());
                return Err(Missing::Waiting { pod: pod.to_owned(), container: container.to_owned(), reason });
            }
        };
        let uid = spec::uid(&view.pod);
        let log = |n: u32| self.pods_dir.join(uid).join("logs").join(container).join(format!("{n}.log"));
        Ok(Located {
            sandbox: uid.to_owned(),
            container: worker::id_of(container, attempt),
            log_path: log(attempt),
            previous_log_path: attempt.checked_sub(1).map(log).filter(|path| path.exists()),
            running: state.running().is_some(),
            tty: member.container.tty.unwrap_or(false),
            stdin: member.container.stdin.unwrap_or(false),
        })
    }
}

fn waiting_reason(status: &k8s_openapi::api::core::v1::PodStatus, container: &str) -> Option<String> {
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let all = all.chain(status.ephemeral_container_statuses.iter().flatten());
    all.filter(|s| s.name == container).find_map(|s| s.state.as_ref()?.waiting.as_ref()?.reason.clone())
}
