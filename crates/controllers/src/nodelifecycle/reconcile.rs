//! Wakes on nodes and pods, and when a heartbeat is due; remembers when each heartbeat was last seen to move.
//!
//! A heartbeat is the `renewTime` of the node's Lease. Only its changes count, measured by our own clock: a node whose clock is wrong is
//! not dead. How long it may stand still is what the Lease itself says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::Key;
use client::events::Draft;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::decide::{counts, decide};
use super::eviction;
use crate::Error;
use crate::mechanism::{Controller, Decision, Drive, Informer, Informers, Queue, drive};

/// The namespace of nodes' Leases.
const LEASES: &str = "kube-node-lease";
/// How long a node without a Lease may take to make one.
const NEWCOMER: Duration = Duration::from_secs(60);
/// What a Lease that does not say is taken to mean: upstream's default.
const DURATION: Duration = Duration::from_secs(40);
/// When we ourselves come so much too late to look, the whole machine stood still: nodes get a moment to be heard.
const LATE: Duration = Duration::from_millis(500);
const MOMENT: Duration = Duration::from_secs(1);
/// How long the API server may take to say what a Lease is now.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct NodeLifecycle {
    nodes: Arc<Informer<Node>>,
    pods: Arc<Informer<Pod>>,
    leases: Arc<Informer<Lease>>,
    heartbeats: Arc<Mutex<BTreeMap<String, Heartbeat>>>,
    /// Nodes that people were told of, by UID.
    known: Mutex<BTreeMap<String, Option<String>>>,
}

#[derive(Debug, Clone)]
struct Heartbeat {
    renewed: Option<MicroTime>,
    seen: Instant,
    /// The moment that the node has been given beyond its time.
    excused: Duration,
}

pub fn start(with: &Drive) -> JoinHandle<()> {
    let (lifecycle, queue) = NodeLifecycle::new(&with.informers);
    tokio::spawn(drive(Arc::new(Asking::new(lifecycle, &with.client)), queue, with.clone()))
}

impl NodeLifecycle {
    pub fn new(informers: &Informers) -> (Self, Queue<Key>) {
        let queue = Queue::default();
        let made = NodeLifecycle {
            nodes: informers.of(),
            pods: informers.of(),
            leases: informers.of(),
            heartbeats: Arc::default(),
            known: Mutex::default(),
        };
        let wake = queue.clone();
        made.nodes.subscribe(move |_, new| {
            if let Some(node) = new {
                wake.add(Key::of(node.as_ref()));
            }
        });
        let wake = queue.clone();
        made.pods.subscribe(move |_, new| {
            let node = new.and_then(|pod| pod.spec.as_ref()?.node_name.clone());
            if let Some(name) = node {
                wake.add(Key::new("", name));
            }
        });
        let (heartbeats, wake) = (Arc::clone(&made.heartbeats), queue.clone());
        made.leases.subscribe(move |_, new| {
            if let Some(lease) = new.filter(|lease| lease.namespace().as_deref() == Some(LEASES)) {
                // The first one, and the first after a silence, may change what is true; the others only put off what is due.
                if beat(&heartbeats, lease) {
                    wake.add(Key::new("", lease.name_any()));
                }
            }
        });
        (made, queue)
    }

    /// How long the node may still be silent; zero when it has been for too long.
    fn left(&self, name: &str) -> Duration {
        let lease = self.leases.get(&Key::new(LEASES, name));
        let said = lease.as_ref().and_then(|lease| lease.spec.as_ref()?.lease_duration_seconds);
        let said = said.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        let allowed = if lease.is_some() { said.unwrap_or(DURATION) } else { NEWCOMER };
        let mut heartbeats = self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let fresh = Heartbeat { renewed: None, seen: now, excused: Duration::ZERO };
        let last = heartbeats.entry(name.to_owned()).or_insert(fresh);
        let silence = now.duration_since(last.seen);
        if last.excused.is_zero() && silence >= allowed + LATE {
            last.excused = (silence - allowed) + MOMENT;
        }
        (allowed + last.excused).saturating_sub(silence)
    }

    /// What people are told of a node that is seen for the first time.
    fn welcome(&self, node: &Node) -> Option<Draft> {
        let name = node.name_any();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.insert(name.clone(), node.uid());
        let message = format!("Node {name} event: Registered Node {name} in Controller");
        (before != Some(node.uid())).then(|| Draft::normal(node, "RegisteredNode", message))
    }

    pub(super) fn decide(&self, key: &Key, now: Timestamp) -> Decision {
        let Some(node) = self.nodes.get(key) else {
            self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.name);
            self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.name);
            return Decision::default();
        };
        let pods: Vec<Arc<Pod>> = self.pods.on_node(&key.name).into_iter().filter(|pod| counts(pod)).collect();
        let left = self.left(&key.name);
        let mut decision = decide(&node, &pods, left.is_zero(), now);
        decision.events.extend(self.welcome(&node));
        let leaving = eviction::decide(&node, &pods, now);
        decision.writes.extend(leaving.writes);
        decision.events.extend(leaving.events);
        let due = (!left.is_zero()).then_some(left);
        decision.again = due.into_iter().chain(leaving.again).min();
        decision
    }
}

/// Notes a heartbeat. True when it may change what is known of the node.
fn beat(heartbeats: &Mutex<BTreeMap<String, Heartbeat>>, lease: &Lease) -> bool {
    let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
    let allowed = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
    let allowed = Duration::from_secs(u64::try_from(allowed).unwrap_or(0));
    let now = Instant::now();
    let mut heartbeats = heartbeats.lock().unwrap_or_else(PoisonError::into_inner);
    let known = heartbeats.get(&lease.name_any());
    if known.is_some_and(|known| known.renewed == renewed) {
        return false;
    }
    let news = known.is_none_or(|known| known.renewed.is_none() || now.duration_since(known.seen) >= allowed);
    heartbeats.insert(lease.name_any(), Heartbeat { renewed, seen: now, excused: Duration::ZERO });
    news
}

/// The controller with what it asks by: whether a heartbeat stands still is asked past the view, which may be what stands still when the API was
/// out of reach for a while.
pub(super) struct Asking {
    lifecycle: NodeLifecycle,
    leases: Api<Lease>,
}

impl Asking {
    pub fn new(lifecycle: NodeLifecycle, client: &Client) -> Self {
        Asking { lifecycle, leases: Api::namespaced(client.clone(), LEASES) }
    }

    /// False when there was no answer in time: then nothing is known.
    async fn look_again(&self, name: &str) -> Result<bool, Error> {
        let one = ListParams::default().fields(&format!("metadata.name={name}"));
        let Ok(found) = tokio::time::timeout(PATIENCE, self.leases.list(&one)).await else { return Ok(false) };
        let what = format!("the Lease of node {name}");
        let found = found.map_err(|source| Error::Read { what, source: Box::new(source) })?;
        found.iter().for_each(|lease| {
            beat(&self.lifecycle.heartbeats, lease);
        });
        Ok(true)
    }
}

impl Controller for Asking {
    type Key = Key;

    fn name(&self) -> &'static str {
        "node-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        let silent = self.lifecycle.nodes.get(key).is_some() && self.lifecycle.left(&key.name).is_zero();
        if silent && !self.look_again(&key.name).await? {
            return Ok(Decision { again: Some(Duration::ZERO), ..Decision::default() });
        }
        Ok(self.lifecycle.decide(key, Timestamp::now()))
    }
}
