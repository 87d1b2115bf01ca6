//! The load balancer, in place of MetalLB's layer 2 mode: addresses for Services of type LoadBalancer, announced on the link.
//!
//! `assign` is pure: pools and Services in, who gets which address and why not out. `owner` is pure: which node answers. `allot` writes the
//! statuses, `speak` holds the addresses' Leases on each node, `announce` answers ARP and NDP. The proxy does the rest: an address in a
//! Service's status is one more frontend to it.
#![forbid(unsafe_code)]

pub mod assign;
pub mod owner;
pub mod pools;
pub mod request;

mod pending;

mod lease;
mod metrics;
mod observe;
mod table;

mod allot;
mod lead;

mod announce;
mod speak;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use client::drain::{Acknowledger, End, acknowledge};
use client::events::Recorder;
use client::{Client, Key};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use announce::Interfaces;
pub use pending::{NoSharing, Pending};
pub use speak::Speaker;

use lease::Fact;
use observe::Shared;
use pools::Pool;

/// The ConfigMap that names pools, where no other is given.
pub const CONFIG_MAP: &str = "load-balancer-pools";
/// Where the Leases and the ConfigMap are, where no other namespace is given.
pub const NAMESPACE: &str = "kube-system";

/// What a load balancer is told at its start.
#[derive(Debug)]
pub struct Config {
    /// Given by flag; the ConfigMap's come on top.
    pub pools: Vec<Pool>,
    pub config_map: Key,
    /// Where the Leases are.
    pub namespace: String,
    /// Serve Services of this class alone; without it those of no class and of [`request::CLASS`].
    pub class: Option<String>,
    /// Addresses that are never handed out though they lie in a pool.
    pub reserved: BTreeSet<IpAddr>,
    /// The nodes that announce from this process.
    pub speakers: Vec<Speaker>,
    /// Whether other processes may allot too: then one is elected, by this name of ours.
    pub elect: Option<String>,
    /// Somebody beside us who leads packets to the addresses.
    pub guide: Option<Guide>,
    /// By what name it says up to which slice revision the addresses are where they should be.
    pub acknowledger: Option<Acknowledger>,
    pub registry: telemetry::Registry,
}

/// Who answers for which address.
pub type Owners = BTreeMap<IpAddr, String>;

/// One who leads packets to the addresses, as the machine of `portolan up` does: it is told where they are, and says when it leads there.
/// Until then somebody may still send to the old place, so nothing is acknowledged.
#[derive(Debug)]
pub struct Guide {
    pub owners: watch::Sender<Owners>,
    pub led: watch::Receiver<Owners>,
}

/// How a load balancer acknowledges slices: by `name`, for one node or for the cluster.
pub fn acknowledger(name: impl Into<String>, node: Option<String>) -> Acknowledger {
    Acknowledger { name: name.into(), follows: observe::SERVICE_NAME.to_owned(), node, end: End::RulesStay }
}

impl Config {
    pub fn new(pools: Vec<Pool>) -> Config {
        Config {
            pools,
            config_map: Key::new(NAMESPACE, CONFIG_MAP),
            namespace: NAMESPACE.to_owned(),
            class: None,
            reserved: BTreeSet::new(),
            speakers: Vec::new(),
            elect: None,
            guide: None,
            acknowledger: None,
            registry: telemetry::Registry::default(),
        }
    }
}

/// Why a load balancer did not start or cannot go on.
#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot announce addresses on node `{node}`")]
    Speak { node: String, source: netlink::Error },
}

/// Balances until `shutdown`. Faults of the API server are ridden out.
///
/// # Errors
/// When a node's links cannot be opened.
pub async fn run(mut config: Config, client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    let shared = observe::observe(&config, &client, &shutdown);
    metrics::register(&config.registry, &shared);
    let recorder = Recorder::start(client.clone(), "portolan-loadbalancer", shutdown.clone());
    let (settled, reports) = mpsc::unbounded_channel();
    let speakers = std::mem::take(&mut config.speakers);
    let names: BTreeSet<String> = speakers.iter().map(|speaker| speaker.node.clone()).collect();
    let means = speak::Means {
        client: client.clone(),
        shared: shared.clone(),
        siblings: Arc::new(names.clone()),
        recorder: recorder.clone(),
        namespace: config.namespace.clone(),
        yield_at_end: config.elect.is_some(),
        settled,
    };
    let mut tasks = JoinSet::new();
    for speaker in speakers {
        let (node, means, shutdown) = (speaker.node.clone(), means.clone(), shutdown.clone());
        tasks.spawn(async move {
            speak::run(speaker, means, shutdown).await.map_err(|source| Error::Speak { node, source })
        });
    }
    drop(means);
    let (reached, reachable) = watch::channel(0);
    let led = config.guide.as_ref().map(|guide| guide.led.clone());
    let gate = Gate { shared: shared.clone(), led };
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(collect(names, reports, gate, reached)));
    if let Some(who) = config.acknowledger.take() {
        tokio::spawn(acknowledge(who, client.clone(), reachable, |revision| *revision, shutdown.clone()));
    }
    if let Some(guide) = config.guide.take() {
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(tell_owners(shared.clone(), guide.owners)));
    }
    let allotting = async {
        let allot = || allot::run(&config, client.clone(), shared.clone(), recorder.clone(), &shutdown);
        match &config.elect {
            Some(me) => {
                let lead = lead::Lead::new(&client, &config.namespace, "portolan-loadbalancer", me);
                shutdown.run_until_cancelled(lead.with(allot)).await;
            }
            None => allot().await,
        }
    };
    let speaking = async {
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(ended) => ended?,
                // A panic there is ours; swallowed, it would leave a node that looks alive and answers nothing.
                Err(fault) if fault.is_panic() => std::panic::resume_unwind(fault.into_panic()),
                Err(_cancelled) => {}
            }
        }
        Ok(())
    };
    let ((), spoken) = tokio::join!(allotting, speaking);
    spoken
}

/// The least revision that all speakers of this process have reached, once everybody is led to where the addresses are.
async fn collect(
    names: BTreeSet<String>,
    mut reports: mpsc::UnboundedReceiver<(String, u64)>,
    mut gate: Gate,
    settled: watch::Sender<u64>,
) {
    let mut reached: BTreeMap<String, u64> = names.into_iter().map(|name| (name, 0)).collect();
    loop {
        let least = reached.values().copied().min().unwrap_or(0);
        if gate.is_open() {
            settled.send_if_modified(|old| std::mem::replace(old, least) != least);
        }
        tokio::select! {
            report = reports.recv() => {
                let Some((node, revision)) = report else { return };
                reached.insert(node, revision);
            }
            () = gate.moved() => {}
        }
    }
}

/// Whether those who lead to the addresses lead to their owners.
struct Gate {
    shared: Shared,
    led: Option<watch::Receiver<Owners>>,
}

impl Gate {
    fn is_open(&mut self) -> bool {
        match &mut self.led {
            Some(led) => *led.borrow_and_update() == owners(&self.shared),
            None => true,
        }
    }

    async fn moved(&mut self) {
        let moved = match &mut self.led {
            Some(led) => led.changed().await.is_ok(),
            None => false,
        };
        if !moved {
            // Nobody leads, or it has ended with everything else.
            std::future::pending().await
        }
    }
}

fn owners(shared: &Shared) -> Owners {
    let world = shared.read();
    let held = |fact: &Fact| match fact {
        Fact::Address { address, holder, .. } => Some((*address, holder.clone()?)),
        Fact::Speaker { .. } => None,
    };
    world.leases.values().filter_map(held).collect()
}

async fn tell_owners(shared: Shared, told: watch::Sender<Owners>) {
    let mut changes = shared.changes();
    loop {
        changes.borrow_and_update();
        let now = owners(&shared);
        told.send_if_modified(|old| std::mem::replace(old, now.clone()) != now);
        if changes.changed().await.is_err() {
            return;
        }
    }
}
