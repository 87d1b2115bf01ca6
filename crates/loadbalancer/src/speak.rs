//! speak: one node's part. It shows that it lives, takes the addresses that fall to it, and has the announcer answer for what it holds.
//!
//! While the API server is away nothing is given up: nobody else can take over then either, and traffic goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::events::{Draft, Recorder, Severity};
use client::{Client, Key};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use linux::NetNs;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::announce::{Announcer, Conflict, Interfaces};
use crate::lease::{self, BRISK, BRISK_SECONDS, CALM, CALM_SECONDS, Fact};
use crate::observe::Shared;
use crate::owner::{Step, candidates, step};

/// A node that announces, in its network namespace.
#[derive(Debug, Clone)]
pub struct Speaker {
    pub node: String,
    pub netns: NetNs,
    pub interfaces: Interfaces,
}

/// What a speaker works with.
#[derive(Clone)]
pub(crate) struct Means {
    pub client: Client,
    pub shared: Shared,
    /// All nodes that speak from this process.
    pub siblings: Arc<BTreeSet<String>>,
    pub recorder: Recorder,
    /// Where the Leases are.
    pub namespace: String,
    /// Whether the speaker's Lease is given up at its end: others take over at once.
    pub yield_at_end: bool,
    /// Told after each look: up to which slice revision the addresses are where they should be.
    pub settled: mpsc::UnboundedSender<(String, u64)>,
}

/// How long a second owner on the link is watched before it counts: while an address moves, both may speak for a moment.
const DOUBT: Duration = Duration::from_millis(500);
/// Taking an address that failed is tried again after this.
const AGAIN: Duration = Duration::from_millis(250);
/// After an address has moved, hosts on the link hear of it and what is under way arrives; only then nobody sends to the old place.
const SETTLE: Duration = Duration::from_millis(100);

/// Speaks for one node until `shutdown`.
pub(crate) async fn run(speaker: Speaker, means: Means, shutdown: CancellationToken) -> Result<(), netlink::Error> {
    let (conflict, conflicts) = mpsc::channel(16);
    let announcer = Announcer::open(speaker.netns, speaker.interfaces, conflict)?;
    let (wanted, answers) = watch::channel(BTreeSet::new());
    let (able, mut health) = watch::channel(Some("its links have not been looked at".to_owned()));
    let alive = watch::Sender::new(Alive::default());
    let heart =
        Heart { node: speaker.node.clone(), means: means.clone(), able: able.subscribe(), alive: alive.clone() };
    health.mark_unchanged();
    let voice = Voice {
        node: speaker.node,
        means,
        able: health,
        alive: alive.subscribe(),
        wanted,
        conflicts,
        doubts: BTreeMap::new(),
        moved: None,
    };
    let announcing = shutdown.run_until_cancelled(announcer.run(answers, able));
    tokio::join!(announcing, shutdown.run_until_cancelled(voice.speak()), heart.beat(&shutdown));
    Ok(())
}

/// When the API server last took our renewal.
#[derive(Debug, Clone, Copy, Default)]
struct Alive {
    renewed: Option<Instant>,
}

/// Renews the speaker's Lease.
struct Heart {
    node: String,
    means: Means,
    able: watch::Receiver<Option<String>>,
    alive: watch::Sender<Alive>,
}

impl Heart {
    async fn beat(mut self, shutdown: &CancellationToken) {
        let mut changes = self.means.shared.changes();
        let mut last: Option<(i32, Instant)> = None;
        loop {
            let able = self.able.borrow_and_update().is_none();
            let pace = if able { Some(self.pace()) } else { None };
            let due = match (pace, last) {
                (None, None) => None,
                // It cannot answer: the others must know at once.
                (None, Some(_)) => {
                    self.give_up().await;
                    last = None;
                    None
                }
                (Some((seconds, every)), Some((known, at))) if known == seconds => Some(at + every),
                (Some(_), _) => Some(Instant::now()),
            };
            if let Some((seconds, _)) = pace
                && due.is_some_and(|due| due <= Instant::now())
            {
                let began = Instant::now();
                if self.renew(seconds).await {
                    last = Some((seconds, began));
                    continue;
                }
            }
            let wait = due.map(|due| due.max(Instant::now() + Duration::from_millis(50)));
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = sleep_until(wait) => {}
                changed = self.able.changed() => if changed.is_err() { break },
                changed = changes.changed() => if changed.is_err() { break },
            }
        }
        if self.means.yield_at_end && last.is_some() {
            // The API server may be gone as well; then the Lease runs out.
            let _ = tokio::time::timeout(Duration::from_secs(1), self.give_up()).await;
        }
    }

    /// Brisk only while there is something to lose and somebody to take it over.
    fn pace(&self) -> (i32, Duration) {
        let world = self.means.shared.read();
        let others = world.leases.values().any(|fact| matches!(fact, Fact::Speaker { node, .. } if *node != self.node));
        let held = world.leases.values().any(|fact| matches!(fact, Fact::Address { .. }));
        if others && held { (BRISK_SECONDS, BRISK) } else { (CALM_SECONDS, CALM) }
    }

    async fn renew(&self, seconds: i32) -> bool {
        let lease = lease::of_speaker(&self.means.namespace, &self.node, seconds);
        let api: Api<Lease> = Api::namespaced(self.means.client.clone(), &self.means.namespace);
        // Applied, so that it is made if it is missing, in one request.
        let params = PatchParams::apply("portolan-loadbalancer").force();
        let name = lease::speaker_name(&self.node);
        match tokio::time::timeout(Duration::from_secs(1), api.patch(&name, &params, &Patch::Apply(&lease))).await {
            Ok(Ok(_)) => {
                self.alive.send_replace(Alive { renewed: Some(Instant::now()) });
                true
            }
            Ok(Err(error)) => {
                warn!(node = %self.node, error = %telemetry::chain(&error), "cannot renew the speaker's Lease");
                false
            }
            Err(_) => false,
        }
    }

    async fn give_up(&self) {
        let api: Api<Lease> = Api::namespaced(self.means.client.clone(), &self.means.namespace);
        let _ = api.delete(&lease::speaker_name(&self.node), &DeleteParams::default()).await;
    }
}

/// Decides which addresses are answered here.
struct Voice {
    node: String,
    means: Means,
    able: watch::Receiver<Option<String>>,
    alive: watch::Receiver<Alive>,
    wanted: watch::Sender<BTreeSet<IpAddr>>,
    conflicts: mpsc::Receiver<Conflict>,
    /// Addresses that another on the link claims, when that was first heard, and whether it has been dealt with.
    doubts: BTreeMap<IpAddr, (Conflict, Instant, bool)>,
    /// When an address last came here or went.
    moved: Option<Instant>,
}

/// What one look says.
struct Look {
    answer: BTreeSet<IpAddr>,
    /// With the version of the Lease that is replaced.
    take: Vec<(IpAddr, Option<String>)>,
    /// When somebody's silence would change the outcome.
    next: Option<Instant>,
    revision: u64,
}

impl Voice {
    async fn speak(mut self) {
        let mut changes = self.means.shared.changes();
        loop {
            changes.borrow_and_update();
            let unable = self.able.borrow_and_update().clone();
            let Some(look) = self.look(unable.is_some()) else {
                if changes.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let answer = self.without_doubtful(&look.answer);
            if self.wanted.send_if_modified(|old| std::mem::replace(old, answer.clone()) != answer) {
                self.moved = Some(Instant::now());
            }
            let mut failed = false;
            for (address, version) in &look.take {
                failed |= !self.take(*address, version.as_deref()).await;
            }
            let settles = self.moved.map(|at| at + SETTLE).filter(|at| *at > Instant::now());
            if look.take.is_empty() && settles.is_none() {
                let _ = self.means.settled.send((self.node.clone(), look.revision));
            }
            let again = failed.then(|| Instant::now() + AGAIN);
            let next = [look.next, again, settles, self.next_doubt()].into_iter().flatten().min();
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                changed = self.able.changed() => if changed.is_err() { return },
                Some(conflict) = self.conflicts.recv() => {
                    self.doubts.entry(conflict.address).or_insert((conflict, Instant::now(), false));
                }
                () = sleep_until(next) => {}
            }
        }
    }

    /// None before the first full view: what was held before is kept until then, and nothing is taken.
    fn look(&self, unable: bool) -> Option<Look> {
        let world = self.means.shared.read();
        if !world.is_complete() {
            return None;
        }
        let (mut live, next) = world.speakers(Instant::now(), &self.means.siblings);
        // We know of ourselves, whatever has come back through the API.
        if unable {
            live.remove(&self.node);
        } else {
            live.insert(self.node.clone());
        }
        let mut look = Look { answer: BTreeSet::new(), take: Vec::new(), next, revision: world.slice_revision };
        let nodes = world.node_facts();
        for (address, demands) in world.addresses() {
            let held = world.holder(&self.means.namespace, address);
            let holder = held.and_then(|(holder, _)| holder);
            match step(&self.node, holder, &candidates(address, &demands, &nodes, &live)) {
                Step::Answer => drop(look.answer.insert(address)),
                Step::Take => look.take.push((address, held.map(|(_, version)| version.to_owned()))),
                Step::Silent => {}
            }
        }
        Some(look)
    }

    /// Takes an address's Lease; another that was quicker is no failure.
    async fn take(&self, address: IpAddr, version: Option<&str>) -> bool {
        let api: Api<Lease> = Api::namespaced(self.means.client.clone(), &self.means.namespace);
        let lease = lease::of_address(&self.means.namespace, address, &self.node, version);
        let name = lease::address_name(address);
        let written = match version {
            Some(_) => api.replace(&name, &PostParams::default(), &lease).await,
            None => api.create(&PostParams::default(), &lease).await,
        };
        match written {
            Ok(written) => {
                info!(%address, node = %self.node, "announcing");
                self.tell_owner(address);
                // Ours is known now; no need to wait for the watch to say so.
                let key = Key::new(&*self.means.namespace, name);
                self.means.shared.change(|world| Fact::read(&written).is_some_and(|fact| world.leases.put(key, fact)));
                true
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => true,
            Err(error) => {
                warn!(%address, error = %telemetry::chain(&error), "cannot take the address");
                false
            }
        }
    }

    fn tell_owner(&self, address: IpAddr) {
        let message = format!("announcing {address} from node {:?}", self.node);
        self.tell(address, Severity::Normal, "nodeAssigned", &message);
    }

    fn tell(&self, address: IpAddr, severity: Severity, reason: &str, message: &str) {
        let world = self.means.shared.read();
        for ours in world.services.values().filter(|ours| ours.request.current.contains(&address)) {
            let (reason, message) = (reason.to_owned(), message.to_owned());
            self.means.recorder.record(Draft { about: ours.reference.clone(), severity, reason, message });
        }
    }

    fn next_doubt(&self) -> Option<Instant> {
        self.doubts.values().filter(|(_, _, settled)| !settled).map(|(_, since, _)| *since + DOUBT).min()
    }

    /// Leaves out what another on the link has taken over while we could not know: it asked the API server, we cannot.
    fn without_doubtful(&mut self, answer: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let reachable = self.alive.borrow().renewed.is_some_and(|at| at.elapsed() < CALM * 2);
        self.doubts.retain(|address, (_, since, settled)| {
            let fresh = since.elapsed() < CALM * 3;
            answer.contains(address) && (fresh || *settled && !reachable)
        });
        let ripe = |(_, since, settled): &(Conflict, Instant, bool)| !settled && since.elapsed() >= DOUBT;
        let ripe: Vec<IpAddr> =
            self.doubts.iter().filter(|(_, doubt)| ripe(doubt)).map(|(address, _)| *address).collect();
        for address in ripe {
            let Some((conflict, _, settled)) = self.doubts.get_mut(&address) else { continue };
            *settled = true;
            let mac = conflict.mac;
            warn!(%address, %mac, "another on the link answers for an address of ours");
            let message = format!(
                "{mac} on the link of node {:?} answers for {address} as well; hint: find that machine, or take the address out of the pool",
                self.node
            );
            self.tell(address, Severity::Warning, "AddressConflict", &message);
        }
        if reachable {
            return answer.clone();
        }
        answer.iter().copied().filter(|address| !self.doubts.get(address).is_some_and(|doubt| doubt.2)).collect()
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
