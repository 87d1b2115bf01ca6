//! Objects become endpoints, and stay right: the controllers of a cluster, each in a folder of its own.
//!
//! A folder has `decide.rs`, pure functions from what was observed to what is to be written, and `reconcile.rs`, the thin edge that reads
//! the views. Everything else (views, queues, writes, events) is `mechanism`, written once. All state comes through the Kubernetes API,
//! so that every controller runs against any API server and can be replaced by its upstream counterpart.
#![forbid(unsafe_code)]

mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod endpointslice;
mod error;
mod garbage;
mod job;
mod mechanism;
mod membership;
mod mirroring;
mod names;
mod namespace;
mod nodelifecycle;
mod podgc;
mod protection;
mod replicaset;
mod revisions;
mod selection;
mod serviceaccount;
#[cfg(test)]
mod sim;
mod slices;
mod statefulset;
mod ttl;
mod ttlafterfinished;
mod workload;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use client::Client;
use tokio_util::sync::CancellationToken;

pub use error::Error;
use mechanism::{Drive, Informers, Inventory};
pub use selection::{selected, without};

/// What runs and how.
#[derive(Debug, Clone)]
pub struct Config {
    /// The controllers to run.
    pub enabled: BTreeSet<Name>,
    /// How many endpoints an EndpointSlice holds at most.
    pub max_endpoints_per_slice: usize,
    /// PEM certificates that every namespace's `kube-root-ca.crt` gets; without them no such ConfigMap is made.
    pub root_ca: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config { enabled: Name::ALL.into_iter().collect(), max_endpoints_per_slice: 100, root_ca: None }
    }
}

macro_rules! names {
    ($($variant:ident = $text:literal),* $(,)?) => {
        /// The controllers, by upstream's names.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Name { $($variant),* }

        impl Name {
            pub const ALL: [Name; [$($text),*].len()] = [$(Name::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Name::$variant => $text),* }
            }
        }
    };
}

names! {
    CronJob = "cronjob-controller",
    DaemonSet = "daemonset-controller",
    Deployment = "deployment-controller",
    Disruption = "disruption-controller",
    Endpoints = "endpoints-controller",
    EndpointSlice = "endpointslice-controller",
    EndpointSliceMirroring = "endpointslice-mirroring-controller",
    GarbageCollector = "garbage-collector-controller",
    Job = "job-controller",
    Namespace = "namespace-controller",
    NodeLifecycle = "node-lifecycle-controller",
    VolumeProtection = "persistentvolume-protection-controller",
    ClaimProtection = "persistentvolumeclaim-protection-controller",
    PodGc = "pod-garbage-collector-controller",
    ReplicaSet = "replicaset-controller",
    ReplicationController = "replicationcontroller-controller",
    RootCa = "root-ca-certificate-publisher-controller",
    ServiceAccount = "serviceaccount-controller",
    StatefulSet = "statefulset-controller",
    Ttl = "ttl-controller",
    TtlAfterFinished = "ttl-after-finished-controller",
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Runs the enabled controllers until shutdown.
///
/// # Errors
/// None while it runs: faults of the API server are ridden out.
pub async fn run(config: Config, client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    let (informers, inventory) = (Arc::new(Informers::default()), Arc::new(Inventory::default()));
    let drive = Drive { client, informers: Arc::clone(&informers), inventory: Arc::clone(&inventory), shutdown };
    let running: Vec<_> = config.enabled.iter().filter_map(|name| start(*name, &config, &drive)).collect();
    // The views start only now, when every controller has said which changes it wants to hear of.
    informers.start(&drive.client, &drive.shutdown);
    if config.enabled.contains(&Name::GarbageCollector) || config.enabled.contains(&Name::Namespace) {
        inventory.start(drive.client.clone(), drive.shutdown.clone());
    }
    for controller in running {
        // A panic in one controller is logged by the runtime; the others go on.
        let _ = controller.await;
    }
    Ok(())
}

fn start(name: Name, config: &Config, drive: &Drive) -> Option<tokio::task::JoinHandle<()>> {
    Some(match name {
        Name::CronJob => cronjob::start(drive),
        Name::DaemonSet => daemonset::start(drive),
        Name::Deployment => deployment::start(drive),
        Name::Disruption => disruption::start(drive),
        Name::Endpoints => endpoints::start(drive),
        Name::EndpointSlice => endpointslice::start(config.max_endpoints_per_slice, drive),
        Name::EndpointSliceMirroring => mirroring::start(drive),
        Name::GarbageCollector => garbage::start(drive),
        Name::Job => job::start(drive),
        Name::Namespace => namespace::start(drive),
        Name::NodeLifecycle => nodelifecycle::start(drive),
        Name::PodGc => podgc::start(drive),
        Name::ClaimProtection => protection::start_claims(drive),
        Name::VolumeProtection => protection::start_volumes(drive),
        Name::ReplicaSet => replicaset::start_sets(drive),
        Name::ReplicationController => replicaset::start_controllers(drive),
        Name::RootCa => serviceaccount::start_roots(config.root_ca.clone()?, drive),
        Name::ServiceAccount => serviceaccount::start_accounts(drive),
        Name::StatefulSet => statefulset::start(drive),
        Name::Ttl => ttl::start(drive),
        Name::TtlAfterFinished => ttlafterfinished::start(drive),
    })
}
