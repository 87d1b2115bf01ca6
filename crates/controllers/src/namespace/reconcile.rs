//! Wakes on namespaces and on what goes in them; before the end asks the server whether anything is left that the inventory has not seen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::{Client, Key};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Namespace};
use kube::api::{DeleteParams, ListParams};
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::{Api, ResourceExt};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::decide::{Step, decide, finalize};
use super::tell::tell;
use crate::Error;
use crate::mechanism::{Controller, Decision, Drive, Informer, Inventory, Item, Queue, drive};

/// How often a namespace tells at most what is left in it.
const TELL_EVERY: Duration = Duration::from_secs(1);

struct Namespaces {
    namespaces: Arc<Informer<Namespace>>,
    inventory: Arc<Inventory>,
    client: Client,
    /// When each namespace that goes last told, or was first seen to wait.
    told: Mutex<BTreeMap<Key, Instant>>,
}

pub fn start(with: &Drive) -> JoinHandle<()> {
    let queue = Queue::default();
    let namespaces: Arc<Informer<Namespace>> = with.informers.of();
    let wake = queue.clone();
    namespaces.subscribe(move |old, new| {
        let going = old.or(new).filter(|_| new.is_none_or(|new| new.metadata.deletion_timestamp.is_some()));
        if let Some(namespace) = going {
            wake.add(Key::of(namespace.as_ref()));
        }
    });
    let (of, wake) = (Arc::clone(&namespaces), queue.clone());
    with.inventory.subscribe(move |item: &Item| {
        let key = Key::new("", &item.key.namespace);
        if of.get(&key).is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
            wake.add(key);
        }
    });
    let made = Namespaces {
        namespaces,
        inventory: Arc::clone(&with.inventory),
        client: with.client.clone(),
        told: Mutex::default(),
    };
    let with = with.clone();
    tokio::spawn(async move {
        let Some(()) = with.shutdown.run_until_cancelled(with.inventory.synced()).await else { return };
        drive(Arc::new(made), queue, with).await;
    })
}

impl Namespaces {
    /// Says what is left, once it has been left for a moment: most of it goes before anyone could read that it is there.
    fn tell(&self, key: &Key, namespace: &Namespace, content: &[Arc<Item>]) -> Decision {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let last = told.entry(key.clone()).or_insert(now);
        let left = TELL_EVERY.saturating_sub(now.duration_since(*last));
        if !left.is_zero() {
            return Decision { again: Some(left), ..Decision::default() };
        }
        *last = now;
        tell(namespace, content, Timestamp::now()).into_iter().collect::<Vec<_>>().into()
    }

    /// Whether the server holds nothing in the namespace, whatever our views say. Events are deleted on the way.
    async fn is_empty(&self, name: &str) -> Result<bool, Error> {
        let fail = |what: &str, source| Error::Read { what: format!("{what} of {name}"), source: Box::new(source) };
        let events: Api<Event> = Api::namespaced(self.client.clone(), name);
        let cleared = events.delete_collection(&DeleteParams::default(), &ListParams::default()).await;
        cleared.map_err(|source| fail("events", source))?;
        for kind in self.inventory.namespaced_kinds() {
            let api: Api<PartialObjectMeta<DynamicObject>> =
                Api::namespaced_with(self.client.clone(), name, &kind.resource);
            let found = api.list(&ListParams::default().limit(1)).await;
            if !found.map_err(|source| fail(&kind.resource.plural, source))?.items.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Controller for Namespaces {
    type Key = Key;

    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        let Some(namespace) = self.namespaces.get(key) else {
            self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
            return Ok(Decision::default());
        };
        let content = self.inventory.in_namespace(&namespace.name_any());
        match decide(&namespace, &content) {
            Step::Nothing => Ok(Decision::default()),
            Step::Empty(writes) => Ok(writes.into()),
            Step::Wait => Ok(self.tell(key, &namespace, &content)),
            Step::Finish if self.is_empty(&key.name).await? => Ok(vec![finalize(&namespace)].into()),
            // What is left is on its way to the inventory, and wakes us.
            Step::Finish => Ok(Decision::default()),
        }
    }
}
