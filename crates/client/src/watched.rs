//! One kind, followed: a local copy of what the API server holds, and its changes in order.
//!
//! What is added here to [`follow`] is what a controller needs beside it: an object that vanished while the watch was down is reported as
//! deleted, and a late subscriber is told all that is there before it hears of changes.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures::StreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::follow::{Following, follow};

/// What [`Watched`] asks of a kind.
pub trait Object: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}
impl<K> Object for K where K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}

/// An object's namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Key { namespace: namespace.into(), name: name.into() }
    }

    pub fn of(object: &impl ResourceExt) -> Self {
        Key::new(object.namespace().unwrap_or_default(), object.name_any())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

impl Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One step of the world, in the order in which the server made it.
#[derive(Debug, Clone)]
pub enum Change<K> {
    /// An object is new or different; `previous` is what the local copy held before.
    Applied { object: Arc<K>, previous: Option<Arc<K>> },
    /// An object is gone; this was its last known state.
    Deleted(Arc<K>),
    /// Everything that was there at the start has been told. Sent once to each subscriber.
    Synced,
}

/// A local copy of one kind. Clones share it; the watch ends with the shutdown token.
pub struct Watched<K> {
    shared: Arc<Inner<K>>,
}

struct Inner<K> {
    state: RwLock<State<K>>,
    synced: watch::Sender<bool>,
}

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    subscribers: Vec<mpsc::UnboundedSender<Change<K>>>,
}

impl<K> Clone for Watched<K> {
    fn clone(&self) -> Self {
        Watched { shared: Arc::clone(&self.shared) }
    }
}

impl<K> Debug for Watched<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("objects", &self.shared.read().objects.len()).finish_non_exhaustive()
    }
}

impl<K> Inner<K> {
    // A poisoned lock means that a reader panicked while it held plain data: the data are whole.
    fn read(&self) -> RwLockReadGuard<'_, State<K>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<K>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Object> Watched<K> {
    /// Starts to follow what `api` and `config` select. Faults of the API server are ridden out for as long as they last.
    pub fn start(api: Api<K>, config: watcher::Config, shutdown: CancellationToken) -> Self {
        let (synced, _) = watch::channel(false);
        let state = RwLock::new(State { objects: BTreeMap::new(), subscribers: Vec::new() });
        let shared = Arc::new(Inner { state, synced });
        tokio::spawn(shutdown.run_until_cancelled_owned(take(follow(api, config), Arc::clone(&shared))));
        Watched { shared }
    }

    /// The object as last seen.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.shared.read().objects.get(key).cloned()
    }

    /// All objects as last seen, in the order of their keys.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.read().objects.values().cloned().collect()
    }

    /// All objects of one namespace as last seen, in the order of their names.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.shared.read();
        let from = Key::new(namespace, "");
        state.objects.range(from..).take_while(|(key, _)| key.namespace == namespace).map(|(_, o)| o.clone()).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.shared.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the first full list has arrived.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Waits for the first full list.
    pub async fn synced(&self) {
        let mut seen = self.shared.synced.subscribe();
        // The sender lives in `shared`, which `self` keeps alive: the wait ends only when the flag is up.
        let _ = seen.wait_for(|synced| *synced).await;
    }

    /// Every change from here on, beginning with all that is there now. The local copy already holds a change when it is received.
    ///
    /// The channel is unbounded: a subscriber that stops reading must drop it.
    pub fn changes(&self) -> mpsc::UnboundedReceiver<Change<K>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.shared.write();
        for object in state.objects.values() {
            let _ = sender.send(Change::Applied { object: Arc::clone(object), previous: None });
        }
        if self.is_synced() {
            let _ = sender.send(Change::Synced);
        }
        state.subscribers.push(sender);
        receiver
    }
}

async fn take<K: Object>(mut events: Following<K>, shared: Arc<Inner<K>>) {
    // While nothing is known, nothing can be missing from a list: it is told as it comes, and subscribers work while the rest is fetched.
    let mut listing: Option<BTreeMap<Key, Arc<K>>> = None;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listing = (!shared.read().objects.is_empty()).then(BTreeMap::new),
            Ok(Event::InitApply(object)) => match &mut listing {
                Some(listing) => drop(listing.insert(Key::of(&*object), object)),
                None => apply(&mut shared.write(), Key::of(&*object), object),
            },
            Ok(Event::InitDone) => listed(&shared, listing.take()),
            Ok(Event::Apply(object)) => apply(&mut shared.write(), Key::of(&*object), object),
            Ok(Event::Delete(object)) => delete(&mut shared.write(), &Key::of(&*object), Some(object)),
            Err(error) => log_fault::<K>(&error),
        }
    }
}

fn log_fault<K: Object>(error: &watcher::Error) {
    let kind = K::kind(&());
    match error {
        // A watch that ends because the server compacted or closed it is everyday; the list that follows repairs it.
        watcher::Error::WatchError(status) if status.code == 410 => debug!(%kind, "watch is too old, listing again"),
        watcher::Error::WatchFailed(kube::Error::SerdeError(error)) => {
            warn!(%kind, %error, "an object cannot be read, it is left out")
        }
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchError(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => warn!(%kind, %error, "cannot watch, trying again"),
    }
}

/// A list has come to its end, and what of it has not been told yet is told.
fn listed<K: Object>(shared: &Inner<K>, list: Option<BTreeMap<Key, Arc<K>>>) {
    let mut state = shared.write();
    if let Some(list) = list {
        replace(&mut state, list);
    }
    if !shared.synced.send_replace(true) {
        tell(&mut state, &Change::Synced);
    }
}

fn replace<K: Object>(state: &mut State<K>, list: BTreeMap<Key, Arc<K>>) {
    let gone: Vec<Key> = state.objects.keys().filter(|key| !list.contains_key(*key)).cloned().collect();
    for key in &gone {
        delete(state, key, None);
    }
    for (key, object) in list {
        let same = state.objects.get(&key).is_some_and(|old| old.resource_version() == object.resource_version());
        if !same {
            apply(state, key, object);
        }
    }
}

fn apply<K: Object>(state: &mut State<K>, key: Key, object: Arc<K>) {
    let previous = state.objects.insert(key, Arc::clone(&object));
    tell(state, &Change::Applied { object, previous });
}

fn delete<K: Object>(state: &mut State<K>, key: &Key, last: Option<Arc<K>>) {
    let known = state.objects.remove(key);
    if let Some(object) = last.or(known) {
        tell(state, &Change::Deleted(object));
    }
}

fn tell<K: Object>(state: &mut State<K>, change: &Change<K>) {
    state.subscribers.retain(|subscriber| subscriber.send(change.clone()).is_ok());
}
