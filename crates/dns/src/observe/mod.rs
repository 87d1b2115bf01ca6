//! From watches to the zone: each change of an object swaps in the next zone at once; changes that wait together go in together.

mod views;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use client::{Change, Key, Watched};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::runtime::watcher;
use kube::{Api, Resource, ResourceExt};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::CurrentZone;
use crate::metrics::Metrics;
use crate::search::SearchList;
use crate::wire::name::{WireName, join, label, parse};
use crate::zone::{ObjectKey, ServiceRecords, Zone};
pub(crate) use views::SERVICE_NAME;
use views::{PodView, Policy, ServiceView, SliceView};

/// Changes that go into one zone. More at once would only make the first of them wait.
const TOGETHER: usize = 512;

/// What the observer is told beside the cluster's objects.
#[derive(Debug, Clone)]
pub(crate) struct Watching {
    /// Whether pods are followed, to search on their behalf, and which domains their nodes add.
    pub(crate) search: Option<Vec<WireName>>,
    pub(crate) metrics: Arc<Metrics>,
    /// Becomes true with the first whole zone.
    pub(crate) ready: watch::Sender<bool>,
    /// The slice revision up to which the zone is; 0 before the first whole one.
    pub(crate) applied: watch::Sender<u64>,
}

/// Follows the cluster until `shutdown`.
pub(crate) async fn follow(client: &kube::Client, zone: CurrentZone, watching: Watching, shutdown: CancellationToken) {
    let all = watcher::Config::default;
    let namespaces = Watched::<Namespace>::start(Api::all(client.clone()), all(), shutdown.clone());
    let services = Watched::<ServiceView>::start(Api::all(client.clone()), all(), shutdown.clone());
    let slices = Watched::<SliceView>::start(Api::all(client.clone()), all().labels(SERVICE_NAME), shutdown.clone());
    let pods = watching.search.is_some();
    let pods = pods.then(|| Watched::<PodView>::start(Api::all(client.clone()), all(), shutdown.clone()));
    let observer = Observer {
        zone,
        services: services.clone(),
        slices: HashMap::new(),
        pods: HashMap::new(),
        missing: 3 + u8::from(pods.is_some()),
        reached: 0,
        lists: HashMap::new(),
        watching,
    };
    let streams = Streams {
        namespaces: namespaces.changes(),
        services: services.changes(),
        slices: slices.changes(),
        pods: pods.as_ref().map(Watched::changes),
    };
    observer.run(streams, shutdown).await;
}

struct Streams {
    namespaces: UnboundedReceiver<Change<Namespace>>,
    services: UnboundedReceiver<Change<ServiceView>>,
    slices: UnboundedReceiver<Change<SliceView>>,
    pods: Option<UnboundedReceiver<Change<PodView>>>,
}

struct Observer {
    zone: CurrentZone,
    services: Watched<ServiceView>,
    /// Slices by the Service that their label names.
    slices: HashMap<ObjectKey, Vec<Arc<SliceView>>>,
    /// Pods whose addresses are in the zone.
    pods: HashMap<ObjectKey, Arc<PodView>>,
    /// Kinds whose first list has not arrived.
    missing: u8,
    /// The latest slice revision that was seen.
    reached: u64,
    /// Search lists that are in use, shared by all pods that have the same.
    lists: HashMap<(String, Policy), SearchList>,
    watching: Watching,
}

/// One step: what to do to the zone.
enum Step {
    Namespace(String, bool),
    Services(BTreeSet<ObjectKey>),
    Pod { pod: Arc<PodView>, gone: bool },
    Synced,
}

impl Observer {
    async fn run(mut self, mut streams: Streams, shutdown: CancellationToken) {
        loop {
            let step = tokio::select! {
                () = shutdown.cancelled() => return,
                step = self.next(&mut streams) => step,
            };
            let Some(step) = step else { return };
            let started = Instant::now();
            let mut steps = vec![step];
            while steps.len() < TOGETHER {
                let Some(step) = self.waiting(&mut streams) else { break };
                steps.push(step);
            }
            self.apply(steps, started);
        }
    }

    async fn next(&mut self, streams: &mut Streams) -> Option<Step> {
        let pods = async {
            match &mut streams.pods {
                Some(pods) => pods.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            change = streams.namespaces.recv() => change.map(namespace_step),
            change = streams.services.recv() => change.map(service_step),
            change = streams.slices.recv() => change.map(|change| self.slice_step(change)),
            change = pods => change.map(pod_step),
        }
    }

    fn waiting(&mut self, streams: &mut Streams) -> Option<Step> {
        if let Ok(change) = streams.namespaces.try_recv() {
            return Some(namespace_step(change));
        }
        if let Ok(change) = streams.services.try_recv() {
            return Some(service_step(change));
        }
        if let Ok(change) = streams.slices.try_recv() {
            return Some(self.slice_step(change));
        }
        streams.pods.as_mut()?.try_recv().ok().map(pod_step)
    }

    /// A slice that moves between Services by a changed label touches both.
    fn slice_step(&mut self, change: Change<SliceView>) -> Step {
        let (object, previous, gone) = match change {
            Change::Synced => return Step::Synced,
            Change::Applied { object, previous } => (object, previous, false),
            Change::Deleted(object) => (object, None, true),
        };
        let revision = object.resource_version().and_then(|revision| revision.parse().ok());
        self.reached = self.reached.max(revision.unwrap_or(0));
        let mut touched = BTreeSet::new();
        for of in [previous.as_deref().and_then(owner), owner(&object)].into_iter().flatten() {
            if let Some(slices) = self.slices.get_mut(&of) {
                slices.retain(|slice| slice.meta().name != object.meta().name);
                if slices.is_empty() {
                    self.slices.remove(&of);
                }
            }
            touched.insert(of);
        }
        if let Some(of) = owner(&object).filter(|_| !gone) {
            // Nearly always there is one.
            self.slices.entry(of).or_insert_with(|| Vec::with_capacity(1)).push(object);
        }
        Step::Services(touched)
    }

    fn apply(&mut self, steps: Vec<Step>, started: Instant) {
        let mut next = (**self.zone.load()).clone();
        let count = steps.len();
        let mut touched = BTreeSet::new();
        let mut complete = false;
        for step in steps {
            match step {
                Step::Namespace(name, exists) => next.set_namespace(&name, exists),
                Step::Services(keys) => touched.extend(keys),
                Step::Pod { pod, gone } => self.set_pod(&mut next, pod, gone),
                Step::Synced => {
                    self.missing = self.missing.saturating_sub(1);
                    complete |= self.missing == 0;
                }
            }
        }
        for key in touched {
            next.set_service(&key, self.records(&key));
        }
        if complete {
            next.set_complete();
        }
        let services = next.services();
        let whole = next.is_complete();
        self.zone.store(Arc::new(next));
        if whole && *self.watching.applied.borrow() != self.reached {
            self.watching.applied.send_replace(self.reached);
        }
        self.watching.metrics.swapped(services);
        debug!(changes = count, took = ?started.elapsed(), "zone swapped");
        if complete {
            info!(services, "zone is complete");
            self.watching.ready.send_replace(true);
            // The first lists as they came are many times what is kept of them.
            linux::process::release_free_memory();
        }
    }

    fn records(&self, key: &ObjectKey) -> Option<ServiceRecords> {
        let service = self.services.get(&Key::new(&key.namespace, &key.name))?;
        let slices = self.slices.get(key).into_iter().flatten();
        ServiceRecords::read(&service.spec, slices.map(|slice| &slice.records))
    }

    fn set_pod(&mut self, zone: &mut Zone, pod: Arc<PodView>, gone: bool) {
        let key = ObjectKey { namespace: pod.namespace().unwrap_or_default(), name: pod.name_any() };
        // What the zone holds is what we put there, whatever a pod's last words are.
        let before = self.pods.remove(&key);
        let same = |before: &Arc<PodView>| before.addresses == pod.addresses && before.policy == pod.policy;
        if gone || !before.as_ref().is_some_and(same) {
            let host = self.watching.search.as_deref().unwrap_or_default();
            let of = (key.namespace.clone(), pod.policy.clone());
            let list = self.lists.entry(of);
            let list = list.or_insert_with(|| search_list(&key.namespace, &pod.policy, zone.domain(), host)).clone();
            let old = before.as_ref().map_or(&[] as &[_], |before| &before.addresses);
            zone.set_pod(&key, old, if gone { &[] } else { &pod.addresses }, &list);
        }
        if !gone && !pod.addresses.is_empty() {
            self.pods.insert(key, pod);
        }
    }
}

/// How that pod's resolver searches.
pub(crate) fn search_list_of(pod: &Pod, domain: &[u8], host: &[WireName]) -> SearchList {
    let view = PodView::from(pod.clone());
    search_list(&view.namespace().unwrap_or_default(), &view.policy, domain, host)
}

/// The list that the kubelet writes into the pod's `resolv.conf`; empty if we do not know it for certain.
fn search_list(namespace: &str, policy: &Policy, domain: &[u8], host: &[WireName]) -> SearchList {
    let ndots = policy.ndots.unwrap_or(if policy.cluster { 5 } else { 1 });
    let mut domains: Vec<WireName> = Vec::new();
    let mut certain = true;
    if policy.cluster {
        let own = label(namespace.as_bytes()).and_then(|label| join(&[&label, b"\x03svc".as_slice()].concat(), domain));
        domains.extend(own);
        domains.extend(join(b"\x03svc", domain));
        domains.push(domain.into());
        domains.extend(host.iter().cloned());
    }
    for search in &policy.searches {
        match parse(search) {
            Some(search) => domains.push(search),
            None => certain = false,
        }
    }
    let mut seen = BTreeSet::new();
    domains.retain(|domain| seen.insert(domain.clone()));
    if !certain {
        domains.clear();
    }
    SearchList { domains: domains.into(), ndots }
}

fn namespace_step(change: Change<Namespace>) -> Step {
    match change {
        Change::Synced => Step::Synced,
        Change::Applied { object, .. } => Step::Namespace(object.name_any(), true),
        Change::Deleted(object) => Step::Namespace(object.name_any(), false),
    }
}

fn service_step(change: Change<ServiceView>) -> Step {
    match change {
        Change::Synced => Step::Synced,
        Change::Applied { object, .. } | Change::Deleted(object) => Step::Services(
            [ObjectKey { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }].into(),
        ),
    }
}

fn pod_step(change: Change<PodView>) -> Step {
    match change {
        Change::Synced => Step::Synced,
        Change::Applied { object, .. } => Step::Pod { pod: object, gone: false },
        Change::Deleted(object) => Step::Pod { pod: object, gone: true },
    }
}

fn owner(slice: &SliceView) -> Option<ObjectKey> {
    let name = slice.service.as_deref()?.to_owned();
    Some(ObjectKey { namespace: slice.namespace().unwrap_or_default(), name })
}
