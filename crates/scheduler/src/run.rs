//! The edge: watches keep the picture, pods that wait are decided one after the other, bindings go out in the background.
//!
//! One task owns the picture, so a decision always sees all decisions before it. A pod that fits nowhere waits until something changes
//! that could matter to it; there is no polling.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::events::{Draft, Recorder};
use client::{Change, Client, Key, Watched};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::cluster::{Cluster, PodState};
use crate::verdict::{Verdict, decide};
use crate::{Config, Error};

/// The first pause after a binding that failed; it doubles up to the last.
const FIRST_RETRY: std::time::Duration = std::time::Duration::from_millis(10);
const LAST_RETRY: std::time::Duration = std::time::Duration::from_secs(10);

/// Runs the scheduler until shutdown.
///
/// # Errors
/// None while it runs: faults of the API server are ridden out.
pub async fn run(config: Config, client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    let everything = watcher::Config::default;
    let nodes: Watched<Node> = Watched::start(Api::all(client.clone()), everything(), shutdown.clone());
    let pods: Watched<Pod> = Watched::start(Api::all(client.clone()), everything(), shutdown.clone());
    let namespaces: Watched<Namespace> = Watched::start(Api::all(client.clone()), everything(), shutdown.clone());
    let recorder = Recorder::start(client.clone(), &config.scheduler_name, shutdown.clone());
    let (outcomes, mut outcome) = mpsc::unbounded_channel();
    let mut scheduler = Scheduler::new(config, client, recorder, outcomes);
    let (mut node, mut pod, mut namespace) = (nodes.changes(), pods.changes(), namespaces.changes());
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            Some(done) = outcome.recv() => scheduler.bound(done),
            Some(change) = namespace.recv() => scheduler.namespace_changed(change),
            Some(change) = node.recv() => scheduler.node_changed(change),
            Some(change) = pod.recv() => scheduler.pod_changed(change),
            // All that is known has been taken in: decide.
            () = std::future::ready(()), if scheduler.has_work() => scheduler.schedule_next(),
        }
    }
}

/// How a binding ended, or that its pause is over.
#[derive(Debug)]
enum Outcome {
    Bound { uid: String },
    Failed { uid: String, error: Error },
    Retry { uid: String },
}

struct Scheduler {
    config: Config,
    client: Client,
    recorder: Recorder,
    outcomes: mpsc::UnboundedSender<Outcome>,
    cluster: Cluster,
    synced: BTreeSet<&'static str>,
    /// Pods that have no node yet, by UID.
    waiting: BTreeMap<String, Arc<PodState>>,
    /// Those of them that are to be decided, the most important and then the oldest first.
    queue: BTreeSet<Rank>,
    /// Those that fit nowhere as things stand.
    stuck: BTreeSet<String>,
    /// Those that are on their way to a node.
    binding: BTreeSet<String>,
    failures: BTreeMap<String, u32>,
}

/// The order of the queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    priority: std::cmp::Reverse<i32>,
    born: Option<Timestamp>,
    name: Key,
    uid: String,
}

impl Scheduler {
    fn new(config: Config, client: Client, recorder: Recorder, outcomes: mpsc::UnboundedSender<Outcome>) -> Self {
        Scheduler {
            config,
            client,
            recorder,
            outcomes,
            cluster: Cluster::default(),
            synced: BTreeSet::new(),
            waiting: BTreeMap::new(),
            queue: BTreeSet::new(),
            stuck: BTreeSet::new(),
            binding: BTreeSet::new(),
            failures: BTreeMap::new(),
        }
    }

    /// Nothing is decided before all three views are complete: a pod that we do not know yet may fill a node.
    fn has_work(&self) -> bool {
        self.synced.len() == 3 && !self.queue.is_empty() && self.binding.len() < self.config.bindings_at_once
    }

    fn namespace_changed(&mut self, change: Change<Namespace>) {
        match change {
            Change::Applied { object, .. } => {
                self.cluster.set_namespace(object.name_any(), object.labels().clone());
            }
            Change::Deleted(object) => self.cluster.remove_namespace(&object.name_any()),
            Change::Synced => drop(self.synced.insert("namespaces")),
        }
    }

    fn node_changed(&mut self, change: Change<Node>) {
        match change {
            Change::Applied { object, previous } => {
                let matters = previous.is_none_or(|previous| node_differs(&previous, &object));
                self.cluster.set_node(object);
                if matters {
                    self.wake_stuck();
                }
            }
            Change::Deleted(object) => {
                self.cluster.remove_node(&object.name_any());
                self.wake_stuck();
            }
            Change::Synced => drop(self.synced.insert("nodes")),
        }
    }

    fn pod_changed(&mut self, change: Change<Pod>) {
        match change {
            Change::Applied { object, previous } => self.pod_applied(&object, previous.as_deref()),
            Change::Deleted(object) => {
                let uid = object.uid().unwrap_or_default();
                self.forget(&uid);
                if self.cluster.remove(&uid) {
                    self.wake_stuck();
                }
            }
            Change::Synced => drop(self.synced.insert("pods")),
        }
    }

    fn pod_applied(&mut self, pod: &Arc<Pod>, previous: Option<&Pod>) {
        let uid = pod.uid().unwrap_or_default();
        let spec = pod.spec.as_ref();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            self.forget(&uid);
            if self.cluster.remove(&uid) {
                self.wake_stuck();
            }
            return;
        }
        if let Some(node) = spec.and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty()) {
            self.forget(&uid);
            let known = self.cluster.is_placed(&uid);
            let same = previous.is_some_and(|old| old.spec == pod.spec && old.labels() == pod.labels());
            if !(known && same) {
                self.cluster.place(Arc::new(PodState::new(Arc::clone(pod))), node);
                // A pod in place may be just the neighbour that another waits for.
                self.wake_stuck();
            }
            return;
        }
        let ours = spec.is_some_and(|spec| {
            let name = spec.scheduler_name.as_deref().unwrap_or("default-scheduler");
            name == self.config.scheduler_name && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
        });
        if !ours || pod.metadata.deletion_timestamp.is_some() {
            self.forget(&uid);
        } else if !self.binding.contains(&uid) {
            let same = previous.is_some_and(|old| old.spec == pod.spec && old.labels() == pod.labels());
            let fresh = self.waiting.insert(uid.clone(), Arc::new(PodState::new(Arc::clone(pod)))).is_none();
            if fresh || !same {
                self.enqueue(&uid);
            }
        }
    }

    fn forget(&mut self, uid: &str) {
        if let Some(pod) = self.waiting.remove(uid) {
            self.queue.remove(&rank(&pod));
        }
        self.stuck.remove(uid);
        self.failures.remove(uid);
    }

    fn enqueue(&mut self, uid: &str) {
        if let Some(pod) = self.waiting.get(uid)
            && !self.binding.contains(uid)
        {
            self.stuck.remove(uid);
            self.queue.insert(rank(pod));
        }
    }

    fn wake_stuck(&mut self) {
        for uid in std::mem::take(&mut self.stuck) {
            self.enqueue(&uid);
        }
    }

    fn schedule_next(&mut self) {
        let Some(next) = self.queue.pop_first() else { return };
        let Some(pod) = self.waiting.get(&next.uid).cloned() else { return };
        match decide(&pod, &self.cluster) {
            Verdict::Node(node) => self.bind(pod, node),
            nowhere @ Verdict::Nowhere { .. } => {
                self.stuck.insert(pod.uid.clone());
                self.report(&pod, nowhere.to_string());
            }
        }
    }

    /// Counts the pod against its node at once, and tells the server in the background.
    fn bind(&mut self, pod: Arc<PodState>, node: String) {
        self.cluster.place(Arc::clone(&pod), &node);
        self.binding.insert(pod.uid.clone());
        let (client, outcomes, recorder) = (self.client.clone(), self.outcomes.clone(), self.recorder.clone());
        tokio::spawn(async move {
            let uid = pod.uid.clone();
            let outcome = match write_binding(client, &pod.pod, &node).await {
                Ok(()) => {
                    let message = format!("Successfully assigned {} to {node}", Key::of(pod.pod.as_ref()));
                    recorder.record(Draft::normal(pod.pod.as_ref(), "Scheduled", message));
                    Outcome::Bound { uid }
                }
                Err(error) => Outcome::Failed { uid, error },
            };
            // The receiver is gone only after shutdown.
            let _ = outcomes.send(outcome);
        });
    }

    fn bound(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Bound { uid } => {
                self.binding.remove(&uid);
                self.forget(&uid);
            }
            Outcome::Failed { uid, error } => {
                self.binding.remove(&uid);
                self.cluster.remove(&uid);
                // A pod that went meanwhile is not there to be bound; its deletion has been or will be told.
                debug!(%error, "binding failed");
                let failures = self.failures.entry(uid.clone()).or_default();
                *failures += 1;
                let pause = FIRST_RETRY.saturating_mul(1 << (*failures).min(12)).min(LAST_RETRY);
                let outcomes = self.outcomes.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    let _ = outcomes.send(Outcome::Retry { uid });
                });
                self.wake_stuck();
            }
            Outcome::Retry { uid } => self.enqueue(&uid),
        }
    }

    /// Says why the pod waits, unless that has been said.
    fn report(&self, pod: &PodState, message: String) {
        let conditions = pod.pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let told = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
        if told.is_some_and(|told| told.status == "False" && told.message.as_deref() == Some(&message)) {
            return;
        }
        self.recorder.record(Draft::warning(pod.pod.as_ref(), "FailedScheduling", message.clone()));
        let (client, pod) = (self.client.clone(), Arc::clone(&pod.pod));
        tokio::spawn(async move {
            if let Err(error) = write_condition(client, &pod, conditions, message).await {
                // The pod's next change is decided anew, and says it again.
                warn!(%error, "cannot say why a pod waits");
            }
        });
    }
}

fn rank(pod: &PodState) -> Rank {
    let priority = pod.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
    Rank {
        priority: std::cmp::Reverse(priority),
        born: pod.pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
        name: Key::of(pod.pod.as_ref()),
        uid: pod.uid.clone(),
    }
}

/// Whether a node changed in anything that a decision looks at; a heartbeat does not.
fn node_differs(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    old.spec != new.spec || old.labels() != new.labels() || allocatable(old) != allocatable(new)
}

async fn write_binding(client: Client, pod: &Pod, node: &str) -> Result<(), Error> {
    let namespace = pod.namespace().unwrap_or_default();
    let binding = Binding {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: Some(namespace.clone()),
            uid: pod.uid(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let fail = |source| Error::Bind { pod: Key::of(pod).to_string(), node: node.to_owned(), source: Box::new(source) };
    let api: Api<Pod> = Api::namespaced(client, &namespace);
    let name = pod.name_any();
    let answer = api.create_subresource("binding", &name, &PostParams::default(), &binding).await;
    answer.map(|_: serde_json::Value| ()).map_err(fail)
}

async fn write_condition(
    client: Client,
    pod: &Pod,
    mut conditions: Vec<PodCondition>,
    message: String,
) -> Result<(), Error> {
    let since = conditions.iter().find(|old| old.type_ == "PodScheduled" && old.status == "False");
    let since = since.and_then(|old| old.last_transition_time.clone()).unwrap_or_else(|| Time(Timestamp::now()));
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    conditions.push(PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        message: Some(message),
        last_transition_time: Some(since),
        ..PodCondition::default()
    });
    let meta = json!({"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version});
    let patch = json!({"metadata": meta, "status": {"conditions": conditions}});
    let api: Api<Pod> = Api::namespaced(client, &pod.namespace().unwrap_or_default());
    let written = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
    match written {
        // Changed or gone since: it will be decided again, or need no word.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(source) => Err(Error::Condition { pod: Key::of(pod).to_string(), source: Box::new(source) }),
        Ok(_) => Ok(()),
    }
}
