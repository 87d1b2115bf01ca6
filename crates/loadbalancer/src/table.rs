//! One kind, followed and kept as the little that matters of each object.
//!
//! [`client::Watched`] keeps whole objects; of slices and Services a load balancer needs a few words each, and there may be many.

use std::collections::BTreeMap;

use client::{Key, Object, Shared};
use futures::StreamExt;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// A step of a watch, read down to what is kept; `None`: an object that does not matter.
#[derive(Debug)]
pub(crate) enum Step<V> {
    Began,
    Listed(Key, Option<V>),
    ListComplete,
    Is(Key, Option<V>),
    Gone(Key),
}

/// What is kept of one kind.
#[derive(Debug)]
pub(crate) struct Table<V> {
    items: BTreeMap<Key, V>,
    listing: BTreeMap<Key, V>,
    complete: bool,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Table { items: BTreeMap::new(), listing: BTreeMap::new(), complete: false }
    }
}

impl<V: PartialEq> Table<V> {
    /// Takes a step; says whether anything that is kept is different now.
    pub fn take(&mut self, step: Step<V>) -> bool {
        match step {
            Step::Began => {
                self.listing.clear();
                false
            }
            Step::Listed(key, item) => {
                self.listing.extend(item.map(|item| (key, item)));
                false
            }
            Step::ListComplete => {
                let listed = std::mem::take(&mut self.listing);
                let first = !std::mem::replace(&mut self.complete, true);
                let different = listed != self.items;
                self.items = listed;
                first || different
            }
            Step::Is(key, Some(item)) => self.put(key, item),
            Step::Is(key, None) | Step::Gone(key) => self.items.remove(&key).is_some(),
        }
    }

    /// Also for what we wrote ourselves, before the watch tells it.
    pub fn put(&mut self, key: Key, item: V) -> bool {
        // What is equal may still be newer: a renewed Lease says nothing else, and lives on by it.
        let different = self.items.get(&key) != Some(&item);
        self.items.insert(key, item);
        different
    }
}

impl<V> Table<V> {
    /// Whether the first full list has been seen.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    pub fn get(&self, key: &Key) -> Option<&V> {
        self.items.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Key, &V)> {
        self.items.iter()
    }

    /// What is kept of one namespace.
    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &V> {
        let all = self.items.range(Key::new(namespace, "")..);
        all.take_while(move |(key, _)| key.namespace == namespace).map(|(_, item)| item)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.items.values()
    }
}

/// Follows what `api` and `config` select until `shutdown` and hands each step to `tell`.
pub(crate) fn follow<K, V>(
    api: Api<Shared<K>>,
    config: watcher::Config,
    read: impl Fn(&K) -> Option<V> + Send + 'static,
    tell: impl Fn(Step<V>) + Send + 'static,
    shutdown: CancellationToken,
) where
    K: Object,
    V: Send + 'static,
{
    tokio::spawn(shutdown.run_until_cancelled_owned(async move {
        let mut events = client::follow(api, config);
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => tell(Step::Began),
                Ok(Event::InitApply(object)) => tell(Step::Listed(Key::of(&object), read(&object))),
                Ok(Event::InitDone) => tell(Step::ListComplete),
                Ok(Event::Apply(object)) => tell(Step::Is(Key::of(&object), read(&object))),
                Ok(Event::Delete(object)) => tell(Step::Gone(Key::of(&object))),
                Err(watcher::Error::WatchError(status)) if status.code == 410 => {
                    debug!(kind = %K::kind(&()), "watch is too old, listing again");
                }
                Err(error) => warn!(kind = %K::kind(&()), %error, "cannot watch, trying again"),
            }
        }
    }));
}
