//! observe: follows Services, EndpointSlices and the node, and feeds the model.
//!
//! The watch is used bare rather than with a copy of all objects behind it: the model keeps the little that matters, and 100,000
//! endpoints as API objects would be most of the proxy's memory.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use client::Object;
use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use service_model::{Model, NodeView, ObjectKey, Slice};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How many observations may wait: bounds memory while a first list is taken in.
const WAITING: usize = 1024;
/// Which objects a proxy follows, as a label selector: not another proxy's Services, nor slices of headless ones.
pub const FOLLOWED: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

/// When the change happened that a slice tells of; the endpoints' controller writes it (KEP: network programming latency SLI).
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// One thing seen.
#[derive(Debug, Clone)]
pub(crate) enum Observation {
    Service(Event<Arc<Service>>),
    Slice(Event<Arc<EndpointSlice>>),
    Node(Event<Arc<Node>>),
}

/// Starts to watch; the watches end with `shutdown`.
pub(crate) fn observe(client: &Client, node: &str, shutdown: &CancellationToken) -> mpsc::Receiver<Observation> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let ours = watcher::Config::default().labels(FOLLOWED);
    let node = watcher::Config::default().fields(&format!("metadata.name={node}"));
    follow(Api::all(client.clone()), ours.clone(), Observation::Service, &sender, shutdown);
    follow(Api::all(client.clone()), ours, Observation::Slice, &sender, shutdown);
    follow(Api::all(client.clone()), node, Observation::Node, &sender, shutdown);
    receiver
}

fn follow<K: Object>(
    api: Api<K>,
    config: watcher::Config,
    wrap: fn(Event<Arc<K>>) -> Observation,
    sender: &mpsc::Sender<Observation>,
    shutdown: &CancellationToken,
) {
    let sender = sender.clone();
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(async move {
        let mut events = client::follow(api, config);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    if sender.send(wrap(event)).await.is_err() {
                        return;
                    }
                }
                Err(watcher::Error::WatchError(status)) if status.code == 410 => {
                    debug!(kind = %K::kind(&()), "watch is too old, listing again");
                }
                Err(error) => warn!(kind = %K::kind(&()), %error, "cannot watch, trying again"),
            }
        }
    }));
}

/// Takes observations into a model and knows when the first lists are complete.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    services: Listing,
    slices: Listing,
    node: Listing,
    /// Node ports answer on local addresses in these ranges, of which `present` are here.
    pub ranges: Option<Vec<IpNet>>,
    pub present: Vec<IpAddr>,
    /// The highest revision of a slice that the model has taken in.
    pub slices_at: u64,
    pub pending: Pending,
}

/// What was taken in since the kernel was last up to date.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub services: u64,
    pub slices: u64,
    pub since: Option<Instant>,
    /// When what slices tell of happened, in seconds since the epoch. Those of first lists are history and do not count.
    pub triggers: Vec<f64>,
    /// Events that told of a state older than the one known, and were left out.
    pub older: u64,
}

/// A list in progress, and whether one was ever complete.
#[derive(Debug, Default)]
struct Listing {
    seen: Option<HashSet<ObjectKey>>,
    complete: bool,
    revisions: Revisions,
}

impl Listing {
    /// A list tells the truth of its moment, also where that is an older one: a cluster may have been restored from a backup.
    fn begin(&mut self) {
        self.seen = Some(HashSet::new());
        self.revisions = Revisions::default();
    }

    fn saw(&mut self, key: ObjectKey, metadata: &ObjectMeta) {
        self.revisions.passes(&key, metadata);
        self.seen.get_or_insert_default().insert(key);
    }

    fn done(&mut self) -> HashSet<ObjectKey> {
        self.complete = true;
        self.seen.take().unwrap_or_default()
    }
}

/// The last revision of each object, so that a watch which repeats itself or tells of the past changes nothing. Revisions of one resource
/// can be compared as numbers (KEP-5504).
#[derive(Debug, Default)]
struct Revisions {
    present: HashMap<ObjectKey, u64>,
    /// Those of objects that were deleted, and of others before them: enough to outlive a watch's confusion, and bounded.
    gone: [HashMap<ObjectKey, u64>; 2],
}

/// So many deleted objects are remembered, at least.
const REMEMBERED: usize = 1024;

impl Revisions {
    fn known(&self, key: &ObjectKey) -> Option<u64> {
        [&self.present, &self.gone[0], &self.gone[1]].into_iter().find_map(|known| known.get(key)).copied()
    }

    /// Whether this is not older than what is known of the object, and if so remembers it.
    fn passes(&mut self, key: &ObjectKey, metadata: &ObjectMeta) -> bool {
        let Some(revision) = revision(metadata) else { return true };
        let passes = self.known(key).is_none_or(|known| revision >= known);
        if passes {
            self.present.insert(key.clone(), revision);
        } else {
            warn!(object = %key, revision, "the watch tells of an older state, left out");
        }
        passes
    }

    fn passes_away(&mut self, key: &ObjectKey, metadata: &ObjectMeta) -> bool {
        let passes = self.passes(key, metadata);
        if let Some(revision) = self.present.remove(key).filter(|_| passes) {
            self.gone[0].insert(key.clone(), revision);
            if self.gone[0].len() >= REMEMBERED {
                self.gone[1] = std::mem::take(&mut self.gone[0]);
            }
        }
        passes
    }
}

fn revision(metadata: &ObjectMeta) -> Option<u64> {
    metadata.resource_version.as_deref()?.parse().ok()
}

impl Pending {
    fn count(&mut self, observation: &Observation) {
        self.since.get_or_insert_with(Instant::now);
        match observation {
            Observation::Service(_) => self.services += 1,
            Observation::Slice(event) => {
                self.slices += 1;
                if let Event::Apply(slice) = event {
                    let told = slice.metadata.annotations.as_ref().and_then(|all| all.get(TRIGGER_TIME));
                    let time = told.and_then(|text| text.parse::<Timestamp>().ok());
                    self.triggers.extend(time.map(|time| time.as_millisecond() as f64 / 1000.0));
                }
            }
            Observation::Node(_) => {}
        }
    }
}

impl Feed {
    /// Whether everything that was there at the start has been seen. The node may be missing: it may not be registered yet.
    pub fn complete(&self) -> bool {
        self.services.complete && self.slices.complete && self.node.complete
    }

    pub fn take(&mut self, observation: Observation, model: &mut Model) {
        self.pending.count(&observation);
        match observation {
            Observation::Service(event) => self.service(event, model),
            Observation::Slice(event) => self.slice(event, model),
            Observation::Node(event) => self.node(event, model),
        }
    }

    /// The node's addresses are these now.
    pub fn present(&mut self, present: Vec<IpAddr>, model: &mut Model) {
        self.present = present;
        if let Some(ranges) = &self.ranges {
            model.set_node(model.node().clone().with_node_port_ranges(ranges, &self.present));
        }
    }

    fn service(&mut self, event: Event<Arc<Service>>, model: &mut Model) {
        let key = service_model::Service::key_of;
        match event {
            Event::Init => self.services.begin(),
            Event::InitApply(service) => {
                self.services.saw(key(&service), &service.metadata);
                model.apply_service(&service);
            }
            Event::InitDone => {
                let seen = self.services.done();
                let gone: Vec<ObjectKey> = model.service_keys().filter(|key| !seen.contains(key)).cloned().collect();
                gone.iter().for_each(|key| model.remove_service(key));
            }
            Event::Apply(service) if !self.services.revisions.passes(&key(&service), &service.metadata) => {
                self.pending.older += 1;
            }
            Event::Delete(service) if !self.services.revisions.passes_away(&key(&service), &service.metadata) => {
                self.pending.older += 1;
            }
            Event::Apply(service) => model.apply_service(&service),
            Event::Delete(service) => model.remove_service(&key(&service)),
        }
    }

    fn slice(&mut self, event: Event<Arc<EndpointSlice>>, model: &mut Model) {
        if let Event::InitApply(slice) | Event::Apply(slice) | Event::Delete(slice) = &event {
            self.slices_at = self.slices_at.max(revision(&slice.metadata).unwrap_or_default());
        }
        match event {
            Event::Init => self.slices.begin(),
            Event::InitApply(slice) => {
                self.slices.saw(Slice::key_of(&slice), &slice.metadata);
                model.apply_slice(&slice);
            }
            Event::InitDone => {
                let seen = self.slices.done();
                let gone: Vec<ObjectKey> = model.slice_keys().filter(|key| !seen.contains(key)).cloned().collect();
                gone.iter().for_each(|key| model.remove_slice(key));
            }
            Event::Apply(slice) if !self.slices.revisions.passes(&Slice::key_of(&slice), &slice.metadata) => {
                self.pending.older += 1;
            }
            Event::Delete(slice) if !self.slices.revisions.passes_away(&Slice::key_of(&slice), &slice.metadata) => {
                self.pending.older += 1;
            }
            Event::Apply(slice) => model.apply_slice(&slice),
            Event::Delete(slice) => model.remove_slice(&Slice::key_of(&slice)),
        }
    }

    fn node(&mut self, event: Event<Arc<Node>>, model: &mut Model) {
        match event {
            Event::Init => {}
            // The watch selects one name; a server that does not select must not make us another node.
            Event::InitApply(node) | Event::Apply(node)
                if node.metadata.name.as_deref() != Some(&*model.node().name) => {}
            Event::InitApply(node) | Event::Apply(node) => {
                let mut view = NodeView::parse(&node);
                if let Some(ranges) = &self.ranges {
                    view = view.with_node_port_ranges(ranges, &self.present);
                }
                model.set_node(view);
            }
            Event::InitDone => self.node.complete = true,
            // The machine is still there and still serves; only its health says that the node goes.
            Event::Delete(node) if node.metadata.name.as_deref() != Some(&*model.node().name) => {}
            Event::Delete(_) => {
                let mut view = model.node().clone();
                view.deleting = true;
                model.set_node(view);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(revision: u64, port: u16) -> Arc<Service> {
        let spec = json!({"clusterIP": "10.96.0.10", "ports": [{"port": port}]});
        let metadata = json!({"name": "web", "namespace": "ns", "resourceVersion": revision.to_string()});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
    }

    fn slice(revision: u64, addresses: &[&str]) -> Arc<EndpointSlice> {
        let labels = json!({"kubernetes.io/service-name": "web"});
        let metadata =
            json!({"name": "web-1", "namespace": "ns", "resourceVersion": revision.to_string(), "labels": labels});
        let endpoints: Vec<Value> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
        let ports = json!([{"port": 8080}]);
        let slice = json!({"metadata": metadata, "addressType": "IPv4", "ports": ports, "endpoints": endpoints});
        Arc::new(serde_json::from_value(slice).unwrap())
    }

    /// What the model says after these events: each Service's ports and endpoints.
    fn check(events: Vec<Observation>, expected: &[(u16, usize)]) -> Feed {
        let (mut feed, mut model) = (Feed::default(), Model::new(NodeView::default()));
        events.into_iter().for_each(|event| feed.take(event, &mut model));
        model.take_changes();
        let ports = model.views().flat_map(|view| &view.ports);
        let found: Vec<_> = ports.map(|port| (port.frontends[0].at.port, port.internal.backends.len())).collect();
        assert_eq!(found, expected);
        feed
    }

    fn services(event: Event<Arc<Service>>) -> Observation {
        Observation::Service(event)
    }

    fn slices(event: Event<Arc<EndpointSlice>>) -> Observation {
        Observation::Slice(event)
    }

    #[test]
    fn a_watch_that_repeats_itself_or_tells_of_the_past_changes_nothing() {
        let mut events = vec![
            services(Event::Apply(service(5, 80))),
            services(Event::Apply(service(5, 80))),
            services(Event::Apply(service(4, 79))),
            slices(Event::Apply(slice(7, &["10.0.0.1", "10.0.0.2"]))),
            slices(Event::Apply(slice(6, &["10.0.0.1"]))),
            slices(Event::Delete(slice(3, &["10.0.0.1"]))),
            services(Event::Delete(service(2, 80))),
        ];
        let feed = check(events.clone(), &[(80, 2)]);
        assert_eq!(feed.pending.older, 4);
        // What is deleted stays so, until somebody makes it again.
        events.push(services(Event::Delete(service(8, 80))));
        events.push(services(Event::Apply(service(5, 80))));
        check(events.clone(), &[]);
        events.push(services(Event::Apply(service(9, 81))));
        check(events, &[(81, 2)]);
    }

    #[test]
    fn a_list_counts_also_where_its_revisions_went_back() {
        let events = vec![
            services(Event::Apply(service(500, 80))),
            services(Event::Init),
            services(Event::InitApply(service(5, 81))),
            services(Event::InitDone),
            services(Event::Apply(service(6, 82))),
        ];
        check(events, &[(82, 0)]);
    }
}
