//! The view of one kind that all controllers of the process share: objects by key, by label, by owner and by node.
//!
//! It is fed by `client::Watched` in a process that runs, and by hand in tests. A subscriber is called after the view already holds the
//! change, so whoever is woken by it sees at least that much. `shows` answers whether the view has caught up with a write of ours.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use client::{Change, Key, Object, Watched};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::write::Awaited;

type Subscriber<K> = Box<dyn Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync>;

/// How long a key waits at most for the view to show our own write; a write whose trace was lost in a relist must not block for ever.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);

/// The shared view of one kind.
pub struct Informer<K> {
    state: RwLock<State<K>>,
    subscribers: RwLock<Vec<Subscriber<K>>>,
    /// The newest revision that an object of this kind was seen with.
    seen: watch::Sender<u64>,
    synced: watch::Sender<bool>,
}

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    index: HashMap<Index, BTreeMap<Key, Arc<K>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Index {
    Label {
        namespace: String,
        key: String,
        value: String,
    },
    Owner {
        uid: String,
    },
    Node {
        name: String,
    },
    /// A Service by one pair of its selector: whatever it selects carries that pair.
    Selects {
        namespace: String,
        key: String,
        value: String,
    },
}

impl<K> Debug for Informer<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Informer").field("objects", &self.read().objects.len()).finish_non_exhaustive()
    }
}

impl<K> Informer<K> {
    // A poisoned lock means that a reader panicked while it held plain data: the data are whole.
    fn read(&self) -> RwLockReadGuard<'_, State<K>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<K>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Object> Informer<K> {
    fn new() -> Self {
        Informer {
            state: RwLock::new(State { objects: BTreeMap::new(), index: HashMap::new() }),
            subscribers: RwLock::new(Vec::new()),
            seen: watch::channel(0).0,
            synced: watch::channel(false).0,
        }
    }

    /// Calls `subscriber` with each object's state before and after every change from here on.
    pub fn subscribe(&self, subscriber: impl Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync + 'static) {
        self.subscribers.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(subscriber));
    }

    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    pub fn list(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.read();
        let from = Key::new(namespace, "");
        state.objects.range(from..).take_while(|(key, _)| key.namespace == namespace).map(|(_, o)| o.clone()).collect()
    }

    /// Objects that name `uid` as an owner.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.indexed(&Index::Owner { uid: uid.to_owned() })
    }

    /// Objects whose `spec.nodeName` is `name`.
    pub fn on_node(&self, name: &str) -> Vec<Arc<K>> {
        self.indexed(&Index::Node { name: name.to_owned() })
    }

    /// Objects of the namespace that carry all of `labels`, found by the rarest of them.
    pub fn labelled(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<Arc<K>> {
        if labels.is_empty() {
            return self.in_namespace(namespace);
        }
        let state = self.read();
        let with = labels.iter().map(|(key, value)| state.with(namespace, key, value));
        let Some(rarest) = with.min_by_key(|with| with.map_or(0, BTreeMap::len)).flatten() else {
            return Vec::new();
        };
        let carries = |object: &&Arc<K>| labels.iter().all(|(k, v)| object.labels().get(k) == Some(v));
        rarest.values().filter(carries).cloned().collect()
    }

    /// Objects of the namespace that `selector` selects: none for a selector that cannot be read, all for an empty one.
    pub fn selected(&self, namespace: &str, selector: &LabelSelector) -> Vec<Arc<K>> {
        let Ok(parsed) = Selector::try_from(selector.clone()) else { return Vec::new() };
        let candidates = match &selector.match_labels {
            Some(labels) => self.labelled(namespace, labels),
            None => self.in_namespace(namespace),
        };
        candidates.into_iter().filter(|object| parsed.matches(object.labels())).collect()
    }

    /// Services of the namespace that may select what carries `labels`: all that do are among them.
    pub fn may_select(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<Arc<K>> {
        let pairs = labels.iter().map(|(key, value)| Index::Selects {
            namespace: namespace.to_owned(),
            key: key.clone(),
            value: value.clone(),
        });
        pairs.flat_map(|index| self.indexed(&index)).collect()
    }

    fn indexed(&self, index: &Index) -> Vec<Arc<K>> {
        self.read().index.get(index).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    /// The server told of an object.
    pub fn applied(&self, object: Arc<K>) {
        let old = self.write().insert(Key::of(object.as_ref()), &object);
        self.tell(old.as_ref(), Some(&object), &object);
    }

    /// The server told that an object is gone; `last` is the state it had then.
    pub fn deleted(&self, last: &Arc<K>) {
        let old = self.write().remove(&Key::of(last.as_ref()));
        if let Some(old) = old {
            self.tell(Some(&old), None, last);
        }
    }

    /// The first full list has arrived.
    pub fn mark_synced(&self) {
        self.synced.send_replace(true);
    }

    fn tell(&self, old: Option<&Arc<K>>, new: Option<&Arc<K>>, event: &Arc<K>) {
        for subscriber in self.subscribers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            subscriber(old, new);
        }
        let revision = revision(event.as_ref());
        self.seen.send_modify(|seen| *seen = (*seen).max(revision));
    }

    async fn feed(self: Arc<Self>, watched: Watched<K>) {
        let mut changes = watched.changes();
        while let Some(change) = changes.recv().await {
            match change {
                Change::Applied { object, .. } => self.applied(object),
                Change::Deleted(object) => self.deleted(&object),
                Change::Synced => self.mark_synced(),
            }
        }
    }

    /// Whether the view, which has `seen` that revision, holds what is awaited. It is asked while `seen` is locked, and must not lock it
    /// again: with a writer waiting in between, both would wait for ever.
    fn shows(&self, awaited: &Awaited, seen: u64) -> bool {
        if !awaited.gone {
            return seen >= awaited.revision;
        }
        self.get(&awaited.key).is_none_or(|object| {
            object.meta().deletion_timestamp.is_some() || object.uid().as_deref() != Some(awaited.uid.as_str())
        })
    }
}

impl<K: Object> State<K> {
    /// The objects of the namespace that carry a label; nothing for none.
    fn with(&self, namespace: &str, key: &str, value: &str) -> Option<&BTreeMap<Key, Arc<K>>> {
        self.index.get(&Index::Label { namespace: namespace.to_owned(), key: key.to_owned(), value: value.to_owned() })
    }

    fn insert(&mut self, key: Key, object: &Arc<K>) -> Option<Arc<K>> {
        let old = self.remove(&key);
        for index in indices(object) {
            self.index.entry(index).or_default().insert(key.clone(), Arc::clone(object));
        }
        self.objects.insert(key, Arc::clone(object));
        old
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for index in indices(&old) {
            if let Some(with) = self.index.get_mut(&index) {
                with.remove(key);
                if with.is_empty() {
                    self.index.remove(&index);
                }
            }
        }
        Some(old)
    }
}

fn indices<K: Object>(object: &Arc<K>) -> Vec<Index> {
    let meta = object.meta();
    let namespace = meta.namespace.clone().unwrap_or_default();
    let labels = meta.labels.iter().flatten();
    let mut all: Vec<Index> =
        labels.map(|(k, v)| Index::Label { namespace: namespace.clone(), key: k.clone(), value: v.clone() }).collect();
    all.extend(meta.owner_references.iter().flatten().map(|owner| Index::Owner { uid: owner.uid.clone() }));
    let any: &dyn Any = object.as_ref();
    let selector = any.downcast_ref::<Service>().and_then(|service| service.spec.as_ref()?.selector.as_ref());
    if let Some((key, value)) = selector.and_then(BTreeMap::first_key_value) {
        all.push(Index::Selects { namespace: namespace.clone(), key: key.clone(), value: value.clone() });
    }
    let node = any.downcast_ref::<Pod>().and_then(|pod| pod.spec.as_ref());
    if let Some(name) = node.and_then(|spec| spec.node_name.clone()) {
        all.push(Index::Node { name });
    }
    all
}

/// `metadata.resourceVersion` as a number: comparable across objects of one kind since Kubernetes 1.35 says so (KEP-5504).
fn revision<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// What a driver asks of an informer of any kind.
#[async_trait::async_trait]
pub trait View: Send + Sync {
    fn start(self: Arc<Self>, client: Client, shutdown: CancellationToken);
    async fn synced(&self);
    async fn shown(&self, awaited: &Awaited);
}

#[async_trait::async_trait]
impl<K: Object> View for Informer<K> {
    fn start(self: Arc<Self>, client: Client, shutdown: CancellationToken) {
        let watched = Watched::start(Api::all(client), kube::runtime::watcher::Config::default(), shutdown.clone());
        tokio::spawn(shutdown.run_until_cancelled_owned(self.feed(watched)));
    }

    async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as `self`: the wait ends only when the flag is up.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    async fn shown(&self, awaited: &Awaited) {
        let mut seen = self.seen.subscribe();
        let _ = tokio::time::timeout(SHOWN_WITHIN, seen.wait_for(|seen| self.shows(awaited, *seen))).await;
    }
}

/// All views of the process, each made when a controller first asks for its kind.
#[derive(Default)]
pub struct Informers {
    of_type: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    of_kind: Mutex<BTreeMap<String, Arc<dyn View>>>,
}

impl Debug for Informers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(lock(&self.of_kind).keys()).finish()
    }
}

impl Informers {
    pub fn of<K: Object>(&self) -> Arc<Informer<K>> {
        let mut of_type = lock(&self.of_type);
        if let Some(known) = of_type.get(&TypeId::of::<K>()).cloned().and_then(|any| any.downcast().ok()) {
            return known;
        }
        let made = Arc::new(Informer::<K>::new());
        of_type.insert(TypeId::of::<K>(), Arc::<Informer<K>>::clone(&made));
        lock(&self.of_kind).insert(K::kind(&()).into_owned(), Arc::<Informer<K>>::clone(&made));
        made
    }

    /// Begins to follow the API server with every view that was asked for.
    pub fn start(&self, client: &Client, shutdown: &CancellationToken) {
        for view in lock(&self.of_kind).values() {
            Arc::clone(view).start(client.clone(), shutdown.clone());
        }
    }

    /// Waits until every view holds its first full list.
    pub async fn synced(&self) {
        let views: Vec<_> = lock(&self.of_kind).values().cloned().collect();
        for view in views {
            view.synced().await;
        }
    }

    /// Waits until the views show what was written. Kinds that no controller follows are not waited for.
    pub async fn shown(&self, written: &[Awaited]) {
        for awaited in written {
            let view = lock(&self.of_kind).get(&awaited.kind).cloned();
            if let Some(view) = view {
                view.shown(awaited).await;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    /// Whoever waits for a view must not stop who fills it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn waiting_and_filling_do_not_block_each_other() {
        const LAST: u64 = 20_000;
        let informer = Arc::new(Informer::<ConfigMap>::new());
        let mut object = ConfigMap::default();
        object.metadata.name = Some("one".to_owned());
        let filling = Arc::clone(&informer);
        let filler = tokio::task::spawn_blocking(move || {
            for revision in 1..=LAST {
                object.metadata.resource_version = Some(revision.to_string());
                filling.applied(Arc::new(object.clone()));
            }
        });
        let waiters = (0..3).map(|_| {
            let informer = Arc::clone(&informer);
            tokio::spawn(async move {
                for revision in 1..=LAST {
                    let (kind, key) = ("ConfigMap".to_owned(), Key::new("", "one"));
                    informer.shown(&Awaited { kind, key, uid: String::new(), revision, gone: false }).await;
                }
            })
        });
        for waiter in waiters.collect::<Vec<_>>() {
            waiter.await.unwrap();
        }
        filler.await.unwrap();
    }
}
