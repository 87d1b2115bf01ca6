//! From watches to the table: changes that are there together are taken in together, and one commit follows.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::events::{Draft, Recorder, Severity};
use client::{Change, Object, Watched};
use k8s_openapi::api::core::v1::{ObjectReference, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use service_model::ObjectKey;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::names::Names;
use crate::routes::{Culprit, Fault, Model};
use crate::serve::{Shared, Workers};
use crate::status::Status;
use crate::tls::{Cache, Resolver, read_certificates};

/// Changes that are taken in before a commit, so that a burst does not keep a change waiting.
const TOGETHER: usize = 4096;

/// Where it is told what was done.
pub(crate) struct Told {
    pub status: Status,
    /// Up to which revision of the slices requests go.
    pub applied: watch::Sender<u64>,
}

pub(crate) struct Observer {
    model: Model,
    shared: Arc<Shared>,
    resolver: Resolver,
    workers: Workers,
    status: Status,
    applied: watch::Sender<u64>,
    /// The newest revision of a slice that was taken in.
    reached: u64,
    recorder: Recorder,
    cache: Cache,
    told: BTreeSet<Fault>,
    ingresses: UnboundedReceiver<Change<Ingress>>,
    classes: UnboundedReceiver<Change<IngressClass>>,
    services: UnboundedReceiver<Change<Service>>,
    slices: UnboundedReceiver<Change<EndpointSlice>>,
    secrets: UnboundedReceiver<Change<Secret>>,
    names: Names,
    /// Kinds whose first list has not arrived.
    missing: usize,
    endpoints_changed: bool,
}

fn changes<K: Object>(client: &kube::Client, shutdown: &CancellationToken) -> UnboundedReceiver<Change<K>> {
    Watched::start(Api::<K>::all(client.clone()), watcher::Config::default(), shutdown.clone()).changes()
}

impl Observer {
    pub fn start(
        client: &kube::Client,
        model: Model,
        shared: &Arc<Shared>,
        resolver: Resolver,
        workers: Workers,
        told: Told,
        shutdown: &CancellationToken,
    ) -> Self {
        Observer {
            model,
            shared: Arc::clone(shared),
            resolver,
            workers,
            status: told.status,
            applied: told.applied,
            reached: 0,
            recorder: Recorder::start(client.clone(), "portolan-ingress", shutdown.clone()),
            cache: Cache::default(),
            told: BTreeSet::new(),
            ingresses: changes(client, shutdown),
            classes: changes(client, shutdown),
            services: changes(client, shutdown),
            slices: changes(client, shutdown),
            secrets: changes(client, shutdown),
            names: Names::start(shutdown),
            missing: 5,
            endpoints_changed: false,
        }
    }

    /// Waits for the first view of the whole cluster; false if the end comes first.
    pub async fn complete(&mut self, shutdown: &CancellationToken) -> bool {
        while self.missing > 0 {
            if !self.take(shutdown).await {
                return false;
            }
        }
        self.commit();
        true
    }

    /// Follows changes until `shutdown`.
    pub async fn follow(&mut self, shutdown: &CancellationToken) {
        while self.take(shutdown).await {
            self.commit();
        }
    }

    /// Takes in what there is, and at least one change.
    async fn take(&mut self, shutdown: &CancellationToken) -> bool {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return false,
            Some(change) = self.classes.recv() => self.class(change),
            Some(change) = self.secrets.recv() => self.secret(change),
            Some(change) = self.services.recv() => self.service(change),
            Some(change) = self.slices.recv() => self.slice(change),
            Some(change) = self.ingresses.recv() => self.ingress(change),
            Some((name, addresses)) = self.names.resolved.recv() => {
                self.endpoints_changed |= self.model.apply_name(&name, addresses);
            }
            else => return false,
        }
        for _ in 0..TOGETHER {
            if let Ok(change) = self.classes.try_recv() {
                self.class(change);
            } else if let Ok(change) = self.secrets.try_recv() {
                self.secret(change);
            } else if let Ok(change) = self.services.try_recv() {
                self.service(change);
            } else if let Ok(change) = self.slices.try_recv() {
                self.slice(change);
            } else if let Ok(change) = self.ingresses.try_recv() {
                self.ingress(change);
            } else {
                break;
            }
        }
        true
    }

    fn ingress(&mut self, change: Change<Ingress>) {
        match change {
            Change::Applied { object, .. } => {
                self.model.apply_ingress(&object);
                self.status.look_at(&object, self.model.is_ours(&key(&*object)));
            }
            Change::Deleted(object) => self.model.remove_ingress(&key(&*object)),
            Change::Synced => self.missing -= 1,
        }
    }

    fn class(&mut self, change: Change<IngressClass>) {
        let changed = match change {
            Change::Applied { object, .. } => self.model.apply_class(&object),
            Change::Deleted(object) => self.model.remove_class(&object.name_any()),
            Change::Synced => {
                self.missing -= 1;
                false
            }
        };
        if changed {
            self.model.ours().for_each(|ingress| self.status.look_at(ingress, true));
        }
    }

    fn service(&mut self, change: Change<Service>) {
        self.endpoints_changed = true;
        match change {
            Change::Applied { object, .. } => self.model.apply_service(&object),
            Change::Deleted(object) => self.model.remove_service(&key(&*object)),
            Change::Synced => self.missing -= 1,
        }
    }

    fn slice(&mut self, change: Change<EndpointSlice>) {
        self.endpoints_changed = true;
        match change {
            Change::Applied { object, .. } => {
                self.reach(&object);
                self.model.apply_slice(&object);
            }
            Change::Deleted(object) => {
                self.reach(&object);
                self.model.remove_slice(&key(&*object));
            }
            Change::Synced => self.missing -= 1,
        }
    }

    fn reach(&mut self, slice: &EndpointSlice) {
        let revision = slice.resource_version().and_then(|revision| revision.parse().ok());
        self.reached = self.reached.max(revision.unwrap_or(0));
    }

    fn secret(&mut self, change: Change<Secret>) {
        match change {
            Change::Applied { object, .. } => self.model.apply_secret(&object),
            Change::Deleted(object) => self.model.remove_secret(&key(&*object)),
            Change::Synced => self.missing -= 1,
        }
    }

    /// Swaps in what follows from the changes. Requests that are on their way go on by the table they began with.
    fn commit(&mut self) {
        let committed = self.model.commit();
        if let Some(plan) = committed.certificates {
            let (certificates, faults) = read_certificates(&plan, &mut self.cache);
            self.resolver.swap(certificates);
            let faults: BTreeSet<Fault> = faults.into_iter().collect();
            faults.difference(&self.told).for_each(|fault| self.tell(fault));
            self.told = faults;
        }
        if let Some(table) = committed.table {
            self.shared.table.store(Arc::new(table));
            self.shared.metrics.tables.inc();
            self.endpoints_changed = true;
            debug!("routes changed");
        }
        if std::mem::take(&mut self.endpoints_changed) {
            self.workers.sweep();
            self.names.want(self.model.external_names());
        }
        if self.missing == 0 && *self.applied.borrow() != self.reached {
            self.applied.send_replace(self.reached);
        }
        committed.faults.iter().for_each(|fault| self.tell(fault));
    }

    fn tell(&self, fault: &Fault) {
        let (api_version, kind, key) = match &fault.culprit {
            Culprit::Ingress(key) => ("networking.k8s.io/v1", "Ingress", key),
            Culprit::Secret(key) => ("v1", "Secret", key),
        };
        warn!(%kind, object = %key, reason = fault.reason.word(), "{}", fault.reason);
        let about = ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
            namespace: Some(key.namespace.to_string()),
            name: Some(key.name.to_string()),
            uid: self.model.uid(&fault.culprit),
            ..ObjectReference::default()
        };
        let (severity, reason) = (Severity::Warning, fault.reason.word().to_owned());
        self.recorder.record(Draft { about, severity, reason, message: fault.reason.to_string() });
    }
}

fn key(object: &impl ResourceExt) -> ObjectKey {
    ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any())
}
