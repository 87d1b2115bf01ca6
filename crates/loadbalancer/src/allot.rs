//! allot: writes what [`assign`] decides into the Services' statuses, and says in Events and a condition why an address is pending.
//!
//! One allotter works for a cluster, or two could give the same address to two Services; see [`crate::lead`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use client::events::{Draft, Recorder, Severity};
use client::{Client, Key};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::assign::{Ground, Outcome, assign};
use crate::lease::{self, Fact};
use crate::observe::{Ours, Shared, World};
use crate::{Config, pools::PoolError};

/// The Service's condition, there only once an address has been pending.
pub(crate) const CONDITION: &str = "portolan.dev/AddressAssigned";
/// A write that failed is tried again after this.
const AGAIN: Duration = Duration::from_millis(500);

/// One write to one Service.
#[derive(Debug, Clone, PartialEq)]
struct Change {
    key: Key,
    patch: Value,
    drafts: Vec<Draft>,
}

/// What a look at the world asks for.
#[derive(Debug, Default, PartialEq)]
struct Work {
    changes: Vec<Change>,
    /// Addresses whose Leases nobody needs any more.
    released: Vec<IpAddr>,
    faults: Vec<PoolError>,
}

/// Keeps the statuses as they should be until `shutdown`.
pub(crate) async fn run(
    config: &Config,
    client: Client,
    shared: Shared,
    recorder: Recorder,
    shutdown: &CancellationToken,
) {
    let allotter = Allotter { config, client, recorder, before: BTreeMap::new(), told: BTreeSet::new() };
    shutdown.run_until_cancelled(allotter.allot(shared)).await;
}

struct Allotter<'a> {
    config: &'a Config,
    client: Client,
    recorder: Recorder,
    /// What was given to whom, also where a status does not say so at the moment.
    before: BTreeMap<Key, Vec<IpAddr>>,
    /// Faults of pools that have been told.
    told: BTreeSet<String>,
}

impl Allotter<'_> {
    async fn allot(mut self, shared: Shared) {
        let mut changes = shared.changes();
        loop {
            changes.borrow_and_update();
            let work = {
                let world = shared.read();
                world.is_complete().then(|| self.look(&world))
            };
            let failed = match work {
                Some(work) => self.carry_out(work).await,
                None => false,
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(AGAIN), if failed => {}
            }
        }
    }

    /// Decides; nothing is written yet.
    fn look(&mut self, world: &World) -> Work {
        let (pools, faults) = world.current_pools();
        let (requests, reserved) = (world.requests(), world.reserved());
        let config_map = self.config.config_map.to_string();
        let ground = Ground { pools: &pools, reserved: &reserved, before: &self.before, config_map: &config_map };
        let outcomes = assign(ground, &requests);
        let leased: BTreeMap<IpAddr, ()> = leased(world);
        let mut work = Work { faults, ..Work::default() };
        for (key, outcome) in &outcomes {
            if let Some(ours) = world.services.get(key) {
                work.changes.extend(change(key, ours, outcome, &|address| {
                    pools.holding(address).is_some() || leased.contains_key(&address)
                }));
            }
        }
        let given: BTreeSet<IpAddr> = outcomes.values().flat_map(|o| o.addresses().iter().copied()).collect();
        work.released = leased.into_keys().filter(|address| !given.contains(address)).collect();
        self.before = outcomes
            .into_iter()
            .filter(|(_, outcome)| !outcome.addresses().is_empty())
            .map(|(key, outcome)| (key, outcome.addresses().to_vec()))
            .collect();
        work
    }

    /// Says whether something failed and is to be tried again.
    async fn carry_out(&mut self, work: Work) -> bool {
        self.tell_faults(&work.faults);
        let mut failed = false;
        for change in work.changes {
            failed |= !self.write(change).await;
        }
        for address in work.released {
            let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.config.namespace);
            match api.delete(&lease::address_name(address), &DeleteParams::default()).await {
                Ok(_) => info!(%address, "released"),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    warn!(%address, error = %telemetry::chain(&error), "cannot release");
                    failed = true;
                }
            }
        }
        failed
    }

    async fn write(&self, change: Change) -> bool {
        let api: Api<Service> = Api::namespaced(self.client.clone(), &change.key.namespace);
        let patch = Patch::Strategic(&change.patch);
        match api.patch_status(&change.key.name, &PatchParams::default(), &patch).await {
            Ok(_) => {
                change.drafts.into_iter().for_each(|draft| self.recorder.record(draft));
                true
            }
            // Gone, or another by the same name: the watch tells.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => true,
            Err(error) => {
                warn!(service = %change.key, error = %telemetry::chain(&error), "cannot write the status");
                false
            }
        }
    }

    fn tell_faults(&mut self, faults: &[PoolError]) {
        let now: BTreeSet<String> = faults.iter().map(ToString::to_string).collect();
        for fault in now.difference(&self.told) {
            warn!(%fault, "pool left out");
            let about = ConfigMap {
                metadata: kube::core::ObjectMeta {
                    name: Some(self.config.config_map.name.clone()),
                    namespace: Some(self.config.config_map.namespace.clone()),
                    ..Default::default()
                },
                ..ConfigMap::default()
            };
            self.recorder.record(Draft::warning(&about, "PoolLeftOut", fault.replace("\n  hint", "; hint")));
        }
        self.told = now;
    }
}

fn leased(world: &World) -> BTreeMap<IpAddr, ()> {
    let address = |fact: &Fact| match fact {
        Fact::Address { address, .. } => Some((*address, ())),
        Fact::Speaker { .. } => None,
    };
    world.leases.values().filter_map(address).collect()
}

/// What is to be written to a Service, if anything. `is_ours` says which addresses can have come from us: another's are left alone when we
/// have none to give.
fn change(key: &Key, ours: &Ours, outcome: &Outcome, is_ours: &dyn Fn(IpAddr) -> bool) -> Option<Change> {
    let current = &ours.request.current;
    let (wanted, condition) = match outcome {
        Outcome::Assigned { addresses, pool } => {
            let listed: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            // Only where one has said the contrary.
            let message = format!("{} of pool `{pool}`", listed.join(", "));
            (addresses.clone(), ours.condition.as_ref().map(|_| ("True", "Assigned", message)))
        }
        Outcome::Pending(why) => {
            let kept = current.iter().copied().filter(|address| !is_ours(*address)).collect();
            (kept, Some(("False", why.reason(), why.to_string())))
        }
    };
    let known =
        ours.condition.as_ref().map(|(status, reason, message)| (status.as_str(), reason.as_str(), message.clone()));
    let (moved, said) = (wanted != *current, condition != known && condition.is_some());
    if !moved && !said {
        return None;
    }
    let mut status = serde_json::Map::new();
    if moved {
        let ingress: Vec<Value> = wanted.iter().map(|ip| json!({"ip": ip.to_string(), "ipMode": "VIP"})).collect();
        status.insert("loadBalancer".into(), json!({"ingress": ingress}));
    }
    if let Some((state, reason, message)) = condition.filter(|_| said) {
        let same = known.is_some_and(|(known, ..)| known == state);
        let mut condition = json!({"type": CONDITION, "status": state, "reason": reason, "message": message});
        if !same {
            condition["lastTransitionTime"] =
                json!(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default().to_string());
        }
        status.insert("conditions".into(), json!([condition]));
    }
    // The uid makes sure that it is still the same Service.
    let uid = ours.reference.uid.clone();
    let patch = json!({"metadata": {"uid": uid}, "status": status});
    Some(Change { key: key.clone(), patch, drafts: drafts(ours, outcome, moved) })
}

fn drafts(ours: &Ours, outcome: &Outcome, moved: bool) -> Vec<Draft> {
    let (severity, reason, message) = match outcome {
        Outcome::Assigned { addresses, .. } if moved => {
            let listed: Vec<String> = addresses.iter().map(|address| format!("{:?}", address.to_string())).collect();
            (Severity::Normal, "IPAllocated", format!("Assigned IP [{}]", listed.join(" ")))
        }
        Outcome::Assigned { .. } => return Vec::new(),
        Outcome::Pending(why) => (Severity::Warning, "AllocationFailed", format!("no address yet: {why}")),
    };
    vec![Draft { about: ours.reference.clone(), severity, reason: reason.to_owned(), message }]
}
