//! All Services of a cluster as one node sees them, kept up to date one object at a time.
//!
//! A change marks the Services that it concerns; [`Model::take_changes`] computes just those and says what was and what is. The result is
//! always the same as that of a new model fed with the same objects.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service as ApiService;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::claims::{Claim, Claims, FrontendKey};
use crate::decide;
use crate::fault::{Fault, Reason};
use crate::names::{Family, ObjectKey};
use crate::node::NodeView;
use crate::service::Service;
use crate::slice::Slice;
use crate::view::{FrontendKind, ServiceView};

/// How many faults of one object are told: who wrote one wrong address may have written thousands.
const FAULTS_TOLD: usize = 16;

/// See the module's description.
#[derive(Debug, Default)]
pub struct Model {
    node: NodeView,
    services: BTreeMap<ObjectKey, Entry>,
    /// Which Service each slice belongs to.
    slices: HashMap<ObjectKey, ObjectKey>,
    claims: Claims,
    dirty: BTreeSet<ObjectKey>,
    strings: HashSet<Arc<str>>,
    /// When there are so many strings, those that nobody uses any more are dropped.
    strings_full: usize,
}

/// One Service's objects. A slice may come before its Service and stay after it.
#[derive(Debug, Default)]
struct Entry {
    service: Option<Service>,
    service_faults: Vec<Fault>,
    slices: BTreeMap<ObjectKey, (Slice, Vec<Fault>)>,
    claimed: Vec<(FrontendKey, u8)>,
    created: i64,
    view: Option<Arc<ServiceView>>,
}

/// What became of one Service; `None` stands for "nothing on this node".
#[derive(Debug, Clone)]
pub struct Change {
    pub key: ObjectKey,
    pub old: Option<Arc<ServiceView>>,
    pub new: Option<Arc<ServiceView>>,
}

impl Model {
    /// An empty model for a node.
    pub fn new(node: NodeView) -> Self {
        Model { node, ..Model::default() }
    }

    /// A model of all these objects, computed.
    pub fn build<'a>(
        services: impl IntoIterator<Item = &'a ApiService>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
        node: NodeView,
    ) -> Self {
        let mut model = Model::new(node);
        services.into_iter().for_each(|service| model.apply_service(service));
        slices.into_iter().for_each(|slice| model.apply_slice(slice));
        model.take_changes();
        model
    }

    pub fn node(&self) -> &NodeView {
        &self.node
    }

    /// Another view of the node concerns every Service.
    pub fn set_node(&mut self, node: NodeView) {
        if self.node == node {
            return;
        }
        let ports_move = self.node.node_port_addresses != node.node_port_addresses;
        self.node = node;
        let keys: Vec<ObjectKey> = self.services.keys().cloned().collect();
        for key in keys {
            if ports_move {
                self.claim(&key);
            }
            self.dirty.insert(key);
        }
    }

    /// A Service is new or different.
    pub fn apply_service(&mut self, service: &ApiService) {
        let mut faults = Vec::new();
        let service = Service::parse(service, &mut |text| intern(&mut self.strings, text), &mut faults);
        faults.truncate(FAULTS_TOLD);
        let key = service.key.clone();
        let entry = self.services.entry(key.clone()).or_default();
        if entry.service.as_ref() == Some(&service) && entry.service_faults == faults {
            return;
        }
        entry.service = Some(service);
        entry.service_faults = faults;
        self.claim(&key);
        self.dirty.insert(key);
    }

    pub fn remove_service(&mut self, key: &ObjectKey) {
        let Some(entry) = self.services.get_mut(key) else { return };
        entry.service = None;
        entry.service_faults.clear();
        self.claim(key);
        self.dirty.insert(key.clone());
    }

    /// A slice is new or different; a change of its label moves it to another Service.
    pub fn apply_slice(&mut self, slice: &EndpointSlice) {
        let key = Slice::key_of(slice);
        let mut faults = Vec::new();
        let Some(slice) = Slice::parse(slice, &mut |text| intern(&mut self.strings, text), &mut faults) else {
            return self.remove_slice(&key);
        };
        faults.truncate(FAULTS_TOLD);
        let before = self.slices.insert(key.clone(), slice.service.clone());
        if let Some(before) = before.filter(|before| *before != slice.service) {
            self.drop_slice(&before, &key);
        }
        let service = slice.service.clone();
        self.services.entry(service.clone()).or_default().slices.insert(key, (slice, faults));
        self.dirty.insert(service);
    }

    pub fn remove_slice(&mut self, key: &ObjectKey) {
        if let Some(service) = self.slices.remove(key) {
            self.drop_slice(&service, key);
        }
    }

    fn drop_slice(&mut self, service: &ObjectKey, slice: &ObjectKey) {
        if let Some(entry) = self.services.get_mut(service) {
            entry.slices.remove(slice);
            self.dirty.insert(service.clone());
        }
    }

    /// Computes what was marked. Services whose view is as before are not named.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for key in std::mem::take(&mut self.dirty) {
            let new = self.compute(&key).map(Arc::new);
            let Some(entry) = self.services.get_mut(&key) else { continue };
            let old = entry.view.take();
            if entry.service.is_none() && entry.slices.is_empty() {
                self.services.remove(&key);
            } else {
                // Equal views are one value, so that a reader may compare by pointer.
                entry.view = if old == new { old.clone() } else { new.clone() };
            }
            if old != new {
                changes.push(Change { key, old, new });
            }
        }
        self.forget_strings();
        changes
    }

    fn forget_strings(&mut self) {
        if self.strings.len() > self.strings_full {
            self.strings.retain(|string| Arc::strong_count(string) > 1);
            self.strings_full = (self.strings.len() * 2).max(1024);
        }
    }

    /// All Services that were applied and not removed.
    pub fn service_keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.services.iter().filter(|(_, entry)| entry.service.is_some()).map(|(key, _)| key)
    }

    /// All slices that were applied and not removed, those left out for their kind excepted.
    pub fn slice_keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.slices.keys()
    }

    /// Whether something is marked and not yet computed.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub fn view(&self, key: &ObjectKey) -> Option<&Arc<ServiceView>> {
        self.services.get(key)?.view.as_ref()
    }

    /// All views, in the order of their names.
    pub fn views(&self) -> impl Iterator<Item = &Arc<ServiceView>> {
        self.services.values().filter_map(|entry| entry.view.as_ref())
    }

    /// The parsed Service, headless and ExternalName ones too.
    pub fn service(&self, key: &ObjectKey) -> Option<&Service> {
        self.services.get(key)?.service.as_ref()
    }

    /// The parsed slices of a Service, in the order of their names.
    pub fn slices(&self, key: &ObjectKey) -> impl Iterator<Item = &Slice> {
        self.services.get(key).into_iter().flat_map(|entry| entry.slices.values().map(|(slice, _)| slice))
    }

    /// All faults, in the order of the Services that they concern.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.views().flat_map(|view| view.faults.iter())
    }

    fn compute(&self, key: &ObjectKey) -> Option<ServiceView> {
        let entry = self.services.get(key)?;
        let service = entry.service.as_ref().filter(|service| !service.cluster_ips.is_empty())?;
        let slices: Vec<&Slice> = entry.slices.values().map(|(slice, _)| slice).collect();
        let owns = |frontend: &FrontendKey| self.claims.owner(frontend) == Some(key);
        let mut view = decide::view(service, &slices, &self.node, &owns);
        let lost = entry.claimed.iter().filter_map(|(frontend, _)| {
            let by = self.claims.owner(frontend).filter(|owner| *owner != key)?.clone();
            Some(Fault::service(key, Reason::FrontendTaken { frontend: *frontend, by }))
        });
        view.faults = entry.service_faults.iter().cloned().chain(lost).collect();
        view.faults.extend(entry.slices.values().flat_map(|(_, faults)| faults.iter().cloned()));
        Some(view)
    }

    /// Brings the claims of a Service up to date and marks those Services whose frontends it took or gave back.
    fn claim(&mut self, key: &ObjectKey) {
        let Some(entry) = self.services.get_mut(key) else { return };
        let mut wanted = Vec::new();
        let mut created = 0;
        if let Some(service) = &entry.service {
            created = service.created;
            for port in &service.ports {
                for frontend in service
                    .cluster_ips
                    .iter()
                    .flat_map(|ip| decide::frontends(service, port, Family::of(*ip), &self.node))
                {
                    wanted.push((frontend.at, u8::from(frontend.kind != FrontendKind::ClusterIp)));
                }
            }
        }
        let old_created = std::mem::replace(&mut entry.created, created);
        let old = std::mem::replace(&mut entry.claimed, wanted.clone());
        let claim = |rank, created| Claim { rank, created, service: key.clone() };
        let same = |a: &[(FrontendKey, u8)], item| old_created == created && a.contains(item);
        for (frontend, rank) in old.iter().filter(|item| !same(&wanted, item)) {
            self.dirty.extend(self.claims.remove(*frontend, &claim(*rank, old_created)));
        }
        for (frontend, rank) in wanted.iter().filter(|item| !same(&old, item)) {
            self.dirty.extend(self.claims.add(*frontend, claim(*rank, created)));
        }
    }
}

fn intern(strings: &mut HashSet<Arc<str>>, text: &str) -> Arc<str> {
    if let Some(known) = strings.get(text) {
        return known.clone();
    }
    let new: Arc<str> = text.into();
    strings.insert(new.clone());
    new
}
