//! Wakes on every object that has owners, is one, or waits; asks the server about owners that the inventory does not know; decides.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use client::Client;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::core::{DynamicObject, PartialObjectMeta};
use tokio::task::JoinHandle;

use super::decide::{FOREGROUND, ORPHAN, Owner, decide};
use crate::Error;
use crate::mechanism::{Controller, Decision, Drive, Inventory, Item, Queue, drive};

/// How many owners that are gone are remembered, so that their many dependents ask once.
const REMEMBERED: usize = 10_000;

#[derive(Debug)]
pub struct Garbage {
    inventory: Arc<Inventory>,
    client: DebugClient,
    /// Owners that are gone. A UID never comes back.
    absent: Mutex<BTreeSet<String>>,
}

struct DebugClient(Client);

impl std::fmt::Debug for DebugClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

pub fn start(with: &Drive) -> JoinHandle<()> {
    let queue = Queue::default();
    follow(&with.inventory, &queue);
    let client = DebugClient(with.client.clone());
    let made = Garbage { inventory: Arc::clone(&with.inventory), client, absent: Mutex::default() };
    let with = with.clone();
    tokio::spawn(async move {
        let Some(()) = with.shutdown.run_until_cancelled(with.inventory.synced()).await else { return };
        drive(Arc::new(made), queue, with).await;
    })
}

/// Wakes an object when it, one of its owners, or what it owns changes.
pub fn follow(inventory: &Arc<Inventory>, queue: &Queue<String>) {
    let (of, wake) = (Arc::downgrade(inventory), queue.clone());
    inventory.subscribe(move |item: &Item| {
        let Some(inventory) = of.upgrade() else { return };
        let there = inventory.get(&item.uid).is_some();
        let waits = item.finalizers.iter().any(|finalizer| finalizer == FOREGROUND || finalizer == ORPHAN);
        if there && (!item.owners.is_empty() || item.deleting && waits) {
            wake.add(item.uid.clone());
        }
        if !there || item.deleting {
            inventory.dependents(&item.uid).iter().for_each(|dependent| wake.add(dependent.uid.clone()));
        }
        // An owner that waits may have waited for this one.
        let owners = item.owners.iter().filter_map(|owner| inventory.get(&owner.uid));
        owners.filter(|owner| owner.deleting).for_each(|owner| wake.add(owner.uid.clone()));
    });
}

impl Garbage {
    async fn state(&self, item: &Item, owner: &OwnerReference) -> Result<Owner, Error> {
        if let Some(known) = self.inventory.get(&owner.uid) {
            // A reference across namespaces means nothing: the owner that it names is not there.
            if known.key.namespace.is_empty() || known.key.namespace == item.key.namespace {
                let waits = known.deleting && known.finalizers.iter().any(|finalizer| finalizer == FOREGROUND);
                return Ok(if waits { Owner::Waiting } else { Owner::Solid });
            }
        }
        if self.absent.lock().unwrap_or_else(PoisonError::into_inner).contains(&owner.uid) {
            return Ok(Owner::Absent);
        }
        if self.is_there(item, owner).await? {
            return Ok(Owner::Solid);
        }
        let mut absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        if absent.len() >= REMEMBERED {
            absent.clear();
        }
        absent.insert(owner.uid.clone());
        Ok(Owner::Absent)
    }

    /// Asks the server itself: the views of two kinds may be apart by moments.
    async fn is_there(&self, item: &Item, owner: &OwnerReference) -> Result<bool, Error> {
        let Some(kind) = self.inventory.kind_of(owner) else {
            // Nobody serves such a kind now; to delete for that reason could not be taken back.
            return Ok(true);
        };
        let client = self.client.0.clone();
        let api: Api<PartialObjectMeta<DynamicObject>> = if kind.namespaced {
            Api::namespaced_with(client, &item.key.namespace, &kind.resource)
        } else {
            Api::all_with(client, &kind.resource)
        };
        let what = || format!("owner {} `{}` of {}", owner.kind, owner.name, item.key);
        let found = api.get_opt(&owner.name).await;
        let found = found.map_err(|source| Error::Read { what: what(), source: Box::new(source) })?;
        Ok(found.is_some_and(|found| found.metadata.uid.as_deref() == Some(&owner.uid)))
    }
}

impl Controller for Garbage {
    type Key = String;

    fn name(&self) -> &'static str {
        "garbage-collector-controller"
    }

    async fn reconcile(&self, uid: &String) -> Result<Decision, Error> {
        let Some(item) = self.inventory.get(uid) else { return Ok(Decision::default()) };
        let mut owners = Vec::new();
        if !item.deleting {
            for owner in &item.owners {
                owners.push((owner.clone(), self.state(&item, owner).await?));
            }
        }
        let dependents = self.inventory.dependents(uid);
        Ok(decide(&item, &owners, &dependents).into())
    }
}
