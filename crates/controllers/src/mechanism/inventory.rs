//! What there is, of every kind that the server serves, reduced to what ownership and namespaces need: identity, owners, finalizers.
//!
//! The garbage collector and the namespace controller share it. Kinds come from discovery, again whenever a CustomResourceDefinition
//! changes. Events are left out: nothing owns them and they are many.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use client::{Client, Key, Watched};
use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::discovery::{ApiResource, Discovery, Scope, verbs};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How long to wait before discovery is tried again after it failed.
const DISCOVER_AGAIN: Duration = Duration::from_millis(500);

/// A kind that the server serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedKind {
    pub resource: ApiResource,
    pub namespaced: bool,
}

impl ServedKind {
    /// The path of its collection.
    pub fn path(&self, namespace: &str) -> String {
        let namespace = (self.namespaced && !namespace.is_empty()).then_some(namespace);
        DynamicObject::url_path(&self.resource, namespace)
    }

    fn id(&self) -> KindId {
        (self.resource.group.clone(), self.resource.kind.clone())
    }
}

/// Group and kind: an owner reference may name any version.
type KindId = (String, String);

/// An object, as far as it matters here.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub kind: Arc<ServedKind>,
    pub key: Key,
    pub uid: String,
    pub revision: Option<String>,
    pub owners: Vec<OwnerReference>,
    pub deleting: bool,
    pub finalizers: Vec<String>,
}

type Subscriber = Box<dyn Fn(&Item) + Send + Sync>;

/// All objects of all kinds.
#[derive(Default)]
pub struct Inventory {
    state: RwLock<State>,
    kinds: RwLock<BTreeMap<KindId, (Arc<ServedKind>, CancellationToken)>>,
    subscribers: Mutex<Vec<Subscriber>>,
    /// How many kinds have been listed, of how many; none before discovery.
    listed: watch::Sender<Option<(usize, usize)>>,
}

#[derive(Default)]
struct State {
    items: BTreeMap<String, Arc<Item>>,
    dependents: BTreeMap<String, BTreeSet<String>>,
    namespaces: BTreeMap<String, BTreeSet<String>>,
}

impl Debug for Inventory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inventory").field("items", &self.read(|state| state.items.len())).finish_non_exhaustive()
    }
}

impl Inventory {
    fn read<T>(&self, of: impl FnOnce(&State) -> T) -> T {
        of(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Calls `subscriber` with every object that came, changed or went.
    pub fn subscribe(&self, subscriber: impl Fn(&Item) + Send + Sync + 'static) {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(subscriber));
    }

    pub fn get(&self, uid: &str) -> Option<Arc<Item>> {
        self.read(|state| state.items.get(uid).cloned())
    }

    /// The objects that name `uid` as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<Arc<Item>> {
        self.read(|state| {
            let uids = state.dependents.get(uid).into_iter().flatten();
            uids.filter_map(|uid| state.items.get(uid)).cloned().collect()
        })
    }

    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<Item>> {
        self.read(|state| {
            let uids = state.namespaces.get(namespace).into_iter().flatten();
            uids.filter_map(|uid| state.items.get(uid)).cloned().collect()
        })
    }

    /// The kind that an owner reference means.
    pub fn kind_of(&self, owner: &OwnerReference) -> Option<Arc<ServedKind>> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        kinds.get(&(group.to_owned(), owner.kind.clone())).map(|(kind, _)| Arc::clone(kind))
    }

    pub fn namespaced_kinds(&self) -> Vec<Arc<ServedKind>> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        kinds.values().filter(|(kind, _)| kind.namespaced).map(|(kind, _)| Arc::clone(kind)).collect()
    }

    pub fn applied(&self, item: Item) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.remove(&item.uid);
        state.insert(Arc::new(item.clone()));
        drop(state);
        self.tell(&item);
    }

    pub fn deleted(&self, uid: &str) {
        let gone = self.state.write().unwrap_or_else(PoisonError::into_inner).remove(uid);
        if let Some(item) = gone {
            self.tell(&item);
        }
    }

    fn tell(&self, item: &Item) {
        for subscriber in self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            subscriber(item);
        }
    }

    /// Waits until every kind has been listed once.
    pub async fn synced(&self) {
        let mut listed = self.listed.subscribe();
        // The sender lives as long as `self`.
        let _ = listed.wait_for(|listed| listed.is_some_and(|(done, all)| done >= all)).await;
    }

    /// Begins to follow the API server.
    pub fn start(self: &Arc<Self>, client: Client, shutdown: CancellationToken) {
        let inventory = Arc::clone(self);
        let token = shutdown.clone();
        tokio::spawn(shutdown.run_until_cancelled_owned(async move {
            let kinds = inventory.discover_until_known(&client).await;
            let extensible = kinds.iter().any(|kind| kind.resource.kind == "CustomResourceDefinition");
            inventory.follow_kinds(kinds, &client, &token);
            if extensible {
                inventory.follow_definitions(client, token).await;
            }
        }));
    }

    async fn follow_definitions(self: Arc<Self>, client: Client, shutdown: CancellationToken) {
        let everything = watcher::Config::default();
        let definitions: Watched<CustomResourceDefinition> =
            Watched::start(Api::all(client.clone()), everything, shutdown.clone());
        let mut changes = definitions.changes();
        while changes.recv().await.is_some() {
            while changes.try_recv().is_ok() {}
            let kinds = self.discover_until_known(&client).await;
            self.follow_kinds(kinds, &client, &shutdown);
        }
    }

    async fn discover_until_known(&self, client: &Client) -> Vec<ServedKind> {
        loop {
            match Discovery::new(client.clone()).run().await {
                Ok(discovery) => return kinds_of(&discovery),
                Err(error) => warn!(%error, "cannot discover what the server serves, trying again"),
            }
            tokio::time::sleep(DISCOVER_AGAIN).await;
        }
    }

    /// Follows kinds that are new and lets go of those that are not served any more.
    fn follow_kinds(self: &Arc<Self>, served: Vec<ServedKind>, client: &Client, shutdown: &CancellationToken) {
        let mut kinds = self.kinds.write().unwrap_or_else(PoisonError::into_inner);
        let ids: BTreeSet<KindId> = served.iter().map(ServedKind::id).collect();
        kinds.retain(|id, (_, token)| {
            let stays = ids.contains(id);
            if !stays {
                token.cancel();
            }
            stays
        });
        let fresh: Vec<ServedKind> = served.into_iter().filter(|kind| !kinds.contains_key(&kind.id())).collect();
        self.listed.send_modify(|listed| {
            let (done, all) = listed.unwrap_or((0, 0));
            *listed = Some((done, all + fresh.len()));
        });
        for kind in fresh {
            let kind = Arc::new(kind);
            let token = shutdown.child_token();
            kinds.insert(kind.id(), (Arc::clone(&kind), token.clone()));
            let feed = Arc::clone(self).feed(kind, client.clone());
            tokio::spawn(token.run_until_cancelled_owned(feed));
        }
    }

    async fn feed(self: Arc<Self>, kind: Arc<ServedKind>, client: Client) {
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &kind.resource);
        let mut events = watcher::watcher(api, watcher::Config::default()).default_backoff().boxed();
        let mut known: BTreeSet<String> = BTreeSet::new();
        let mut listing: Option<BTreeSet<String>> = None;
        let mut first = true;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listing = Some(BTreeSet::new()),
                Ok(Event::InitApply(object)) => {
                    let item = item(&kind, &object);
                    listing.get_or_insert_default().insert(item.uid.clone());
                    known.insert(item.uid.clone());
                    self.applied(item);
                }
                Ok(Event::InitDone) => {
                    let listed = listing.take().unwrap_or_default();
                    known.difference(&listed).for_each(|uid| self.deleted(uid));
                    known = listed;
                    if std::mem::take(&mut first) {
                        self.listed.send_modify(|listed| *listed = listed.map(|(done, all)| (done + 1, all)));
                    }
                }
                Ok(Event::Apply(object)) => {
                    let item = item(&kind, &object);
                    known.insert(item.uid.clone());
                    self.applied(item);
                }
                Ok(Event::Delete(object)) => {
                    let uid = object.uid().unwrap_or_default();
                    known.remove(&uid);
                    self.deleted(&uid);
                }
                Err(error) => debug!(kind = %kind.resource.kind, %error, "cannot watch, trying again"),
            }
        }
    }
}

impl State {
    fn insert(&mut self, item: Arc<Item>) {
        for owner in &item.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(item.uid.clone());
        }
        if !item.key.namespace.is_empty() {
            self.namespaces.entry(item.key.namespace.clone()).or_default().insert(item.uid.clone());
        }
        self.items.insert(item.uid.clone(), item);
    }

    fn remove(&mut self, uid: &str) -> Option<Arc<Item>> {
        let item = self.items.remove(uid)?;
        for owner in &item.owners {
            take(&mut self.dependents, &owner.uid, uid);
        }
        take(&mut self.namespaces, &item.key.namespace, uid);
        Some(item)
    }
}

fn take(index: &mut BTreeMap<String, BTreeSet<String>>, key: &str, uid: &str) {
    if let Some(uids) = index.get_mut(key) {
        uids.remove(uid);
        if uids.is_empty() {
            index.remove(key);
        }
    }
}

fn kinds_of(discovery: &Discovery) -> Vec<ServedKind> {
    let resources = discovery.groups().flat_map(|group| group.recommended_resources());
    resources
        .filter(|(resource, abilities)| {
            let can = |verb| abilities.supports_operation(verb);
            resource.kind != "Event" && can(verbs::LIST) && can(verbs::WATCH) && can(verbs::DELETE)
        })
        .map(|(resource, abilities)| ServedKind { resource, namespaced: abilities.scope == Scope::Namespaced })
        .collect()
}

fn item(kind: &Arc<ServedKind>, object: &PartialObjectMeta<DynamicObject>) -> Item {
    let meta = &object.metadata;
    Item {
        kind: Arc::clone(kind),
        key: Key::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default()),
        uid: meta.uid.clone().unwrap_or_default(),
        revision: meta.resource_version.clone(),
        owners: meta.owner_references.clone().unwrap_or_default(),
        deleting: meta.deletion_timestamp.is_some(),
        finalizers: meta.finalizers.clone().unwrap_or_default(),
    }
}
