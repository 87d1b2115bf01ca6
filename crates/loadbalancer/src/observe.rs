//! observe: what the load balancer knows of the cluster, kept small, one copy for all that run in this process.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use client::Key;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, ObjectReference, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use service_model::Condition;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::lease::{self, Fact, ROLE, dies_at};
use crate::owner::{Demand, NodeFacts, Places};
use crate::pools::{Pool, Pools};
use crate::request::{self, Request};
use crate::table::{Step, Table, follow};

pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// A Service that is ours.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ours {
    pub request: Request,
    /// For its Events.
    pub reference: ObjectReference,
    /// The condition that says why it waits, as it is now: status, reason and message.
    pub condition: Option<(String, String, String)>,
}

/// Where the endpoints of one slice are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Slice {
    service: Key,
    places: Places,
}

/// A node, for the election and for what it has already.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KnownNode {
    facts: NodeFacts,
    addresses: Vec<IpAddr>,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub services: Table<Box<Ours>>,
    pub slices: Table<Slice>,
    pub nodes: Table<KnownNode>,
    /// Annotations of namespaces that have any.
    pub namespaces: Table<BTreeMap<String, String>>,
    pub pools: Table<BTreeMap<String, String>>,
    pub leases: Table<Fact>,
    flags: Vec<Pool>,
    reserved: BTreeSet<IpAddr>,
    /// The newest EndpointSlice that has been taken in.
    pub slice_revision: u64,
}

/// The world, shared. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    world: Arc<RwLock<World>>,
    changed: watch::Sender<u64>,
}

impl Shared {
    pub fn read(&self) -> RwLockReadGuard<'_, World> {
        // A poisoned lock means that a reader panicked; writers leave whole values.
        self.world.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the world; those who wait are woken if `act` says that something is different.
    pub fn change(&self, act: impl FnOnce(&mut World) -> bool) {
        if act(&mut self.world.write().unwrap_or_else(PoisonError::into_inner)) {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// Starts to follow the cluster.
pub(crate) fn observe(config: &Config, client: &Client, shutdown: &CancellationToken) -> Shared {
    let world = World { flags: config.pools.clone(), reserved: config.reserved.clone(), ..World::default() };
    let shared = Shared { world: Arc::new(RwLock::new(world)), changed: watch::Sender::new(0) };
    let all = watcher::Config::default;
    let named = |name: &str| all().fields(&format!("metadata.name={name}"));
    let tell = |take: fn(&mut World, Took) -> bool| {
        let shared = shared.clone();
        move |took: Took| shared.change(|world| take(world, took))
    };
    let class = config.class.clone();
    let to = tell(World::take);
    follow(
        Api::all(client.clone()),
        all(),
        move |s| read_service(s, class.as_deref()),
        wrap(to.clone(), Took::Service),
        shutdown.clone(),
    );
    let slices = all().labels(SERVICE_NAME);
    // The revision is taken in with the step, so that it is never ahead of it.
    follow(
        Api::all(client.clone()),
        slices,
        |s| Some((revision(s), read_slice(s)?)),
        wrap(to.clone(), Took::Slice),
        shutdown.clone(),
    );
    follow(Api::all(client.clone()), all(), |n| Some(read_node(n)), wrap(to.clone(), Took::Node), shutdown.clone());
    follow(
        Api::<Namespace>::all(client.clone()),
        all(),
        read_namespace,
        wrap(to.clone(), Took::Namespace),
        shutdown.clone(),
    );
    let pools: Api<ConfigMap> = Api::namespaced(client.clone(), &config.config_map.namespace);
    let config_map = named(&config.config_map.name);
    follow(pools, config_map, |map| map.data.clone(), wrap(to.clone(), Took::Pools), shutdown.clone());
    let leases: Api<Lease> = Api::namespaced(client.clone(), &config.namespace);
    follow(leases, all().labels(ROLE), Fact::read, wrap(to, Took::Lease), shutdown.clone());
    shared
}

/// A step of one of the kinds.
enum Took {
    Service(Step<Box<Ours>>),
    Slice(Step<(u64, Slice)>),
    Node(Step<KnownNode>),
    Namespace(Step<BTreeMap<String, String>>),
    Pools(Step<BTreeMap<String, String>>),
    Lease(Step<Fact>),
}

fn wrap<V>(to: impl Fn(Took), kind: fn(Step<V>) -> Took) -> impl Fn(Step<V>) {
    move |step| to(kind(step))
}

impl World {
    fn take(&mut self, took: Took) -> bool {
        match took {
            Took::Service(step) => self.services.take(step),
            Took::Slice(step) => self.take_slice(step),
            Took::Node(step) => self.nodes.take(step),
            Took::Namespace(step) => self.namespaces.take(step),
            Took::Pools(step) => self.pools.take(step),
            Took::Lease(step) => self.leases.take(step),
        }
    }

    fn take_slice(&mut self, step: Step<(u64, Slice)>) -> bool {
        let mut seen = |item: Option<(u64, Slice)>| {
            let (revision, slice) = item?;
            self.slice_revision = self.slice_revision.max(revision);
            Some(slice)
        };
        let step = match step {
            Step::Began => Step::Began,
            Step::Listed(key, item) => Step::Listed(key, seen(item)),
            Step::ListComplete => Step::ListComplete,
            Step::Is(key, item) => Step::Is(key, seen(item)),
            Step::Gone(key) => Step::Gone(key),
        };
        // A new revision is news even when nothing that is kept has changed: someone may wait for it.
        let news = matches!(step, Step::Is(..));
        self.slices.take(step) || news
    }

    /// Whether everything that was there at the start has been seen.
    pub fn is_complete(&self) -> bool {
        self.services.is_complete()
            && self.slices.is_complete()
            && self.nodes.is_complete()
            && self.namespaces.is_complete()
            && self.pools.is_complete()
            && self.leases.is_complete()
    }

    /// The pools that there are now, and what was left out.
    pub fn current_pools(&self) -> (Pools, Vec<crate::pools::PoolError>) {
        let data = self.pools.values().next().cloned().unwrap_or_default();
        let (configured, mut faults) = Pools::read_config_map(&data);
        let (pools, clashes) = Pools::join(&self.flags, configured);
        faults.extend(clashes);
        (pools, faults)
    }

    /// Addresses that nobody may be given.
    pub fn reserved(&self) -> BTreeSet<IpAddr> {
        let of_nodes = self.nodes.values().flat_map(|node| node.addresses.iter().copied());
        self.reserved.iter().copied().chain(of_nodes).collect()
    }

    /// The requests of all our Services, with their namespaces' wishes.
    pub fn requests(&self) -> Vec<Request> {
        let read = |ours: &Ours| {
            let mut request = ours.request.clone();
            let namespace = self.namespaces.get(&Key::new("", &*request.key.namespace));
            request.pool = request.pool.or_else(|| request::namespace_pool(namespace?));
            request
        };
        self.services.values().map(|ours| read(ours)).collect()
    }

    /// The addresses that Services have, each with what they demand of the node that answers for it.
    pub fn addresses(&self) -> BTreeMap<IpAddr, Vec<Demand>> {
        let (pools, _) = self.current_pools();
        let mut addresses: BTreeMap<IpAddr, Vec<Demand>> = BTreeMap::new();
        for ours in self.services.values() {
            let held = ours.request.current.iter().filter(|address| pools.holding(**address).is_some());
            for address in held {
                addresses.entry(*address).or_default().push(self.demand(&ours.request));
            }
        }
        addresses
    }

    fn demand(&self, request: &Request) -> Demand {
        if !request.local {
            return Demand::Any;
        }
        let mut places = Places::default();
        // Slices lie in their Service's namespace: only that part of the table is walked.
        for slice in self.slices.in_namespace(&request.key.namespace).filter(|slice| slice.service == request.key) {
            places.ready.extend(slice.places.ready.iter().cloned());
            places.draining.extend(slice.places.draining.iter().cloned());
        }
        Demand::Local(places)
    }

    /// The speakers that are alive at `now`, and when the next of them would be dead.
    ///
    /// `siblings` speak from this process. They are alive while they have a Lease, however old: a renewal that is late says that the API
    /// server or we are slow, and to take an address for that would break its connections for nothing.
    pub fn speakers(&self, now: Instant, siblings: &BTreeSet<String>) -> (BTreeSet<String>, Option<Instant>) {
        let (mut live, mut next) = (BTreeSet::new(), None);
        for fact in self.leases.values() {
            let Fact::Speaker { node, promised, seen, .. } = fact else { continue };
            if siblings.contains(node) {
                live.insert(node.clone());
                continue;
            }
            let dies = dies_at(*promised, *seen);
            if dies > now {
                live.insert(node.clone());
                next = Some(next.map_or(dies, |known: Instant| known.min(dies)));
            }
        }
        (live, next)
    }

    /// Who holds an address, and the version of the Lease that says so.
    pub fn holder(&self, namespace: &str, address: IpAddr) -> Option<(Option<&str>, &str)> {
        match self.leases.get(&Key::new(namespace, lease::address_name(address)))? {
            Fact::Address { holder, version, .. } => Some((holder.as_deref(), version)),
            Fact::Speaker { .. } => None,
        }
    }

    pub fn node_facts(&self) -> BTreeMap<String, NodeFacts> {
        self.nodes.iter().map(|(key, node)| (key.name.clone(), node.facts)).collect()
    }
}

fn read_service(service: &Service, class: Option<&str>) -> Option<Box<Ours>> {
    if !request::is_ours(service, class) {
        return None;
    }
    let conditions = service.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ours = conditions.into_iter().find(|condition| condition.type_ == crate::allot::CONDITION);
    let condition = ours.map(|c| (c.status.clone(), c.reason.clone(), c.message.clone()));
    Some(Box::new(Ours { request: Request::read(service), reference: service.object_ref(&()), condition }))
}

fn read_slice(slice: &EndpointSlice) -> Option<Slice> {
    let mut faults = Vec::new();
    let mut places = Places::default();
    // Parsed as the proxy parses it, so that both take the same endpoint for ready. A headless Service has no balancer's address.
    let parsed = service_model::Slice::parse(slice, &mut |text| text.into(), &mut faults);
    for endpoint in parsed.iter().flat_map(|slice| slice.endpoints.iter()) {
        let Some(node) = &endpoint.node else { continue };
        match endpoint.condition {
            Condition::Ready => places.ready.insert(node.to_string()),
            Condition::Draining => places.draining.insert(node.to_string()),
            Condition::NotReady => false,
        };
    }
    let service = slice.labels().get(SERVICE_NAME)?;
    Some(Slice { service: Key::new(slice.namespace().unwrap_or_default(), service), places })
}

fn revision(slice: &EndpointSlice) -> u64 {
    slice.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn read_node(node: &Node) -> KnownNode {
    let status = node.status.clone().unwrap_or_default();
    let mut conditions = status.conditions.iter().flatten();
    let ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let excluded = node.labels().contains_key(EXCLUDE) || node.metadata.deletion_timestamp.is_some();
    let addresses = status.addresses.iter().flatten().filter_map(|address| address.address.parse().ok()).collect();
    KnownNode { facts: NodeFacts { ready, excluded }, addresses }
}

fn read_namespace(namespace: &Namespace) -> Option<BTreeMap<String, String>> {
    namespace.metadata.annotations.clone().filter(|annotations| !annotations.is_empty())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lease::Seen;

    #[test]
    fn a_late_renewal_is_no_death_among_those_of_one_process() {
        let (mut world, at) = (World::default(), Instant::now());
        for node in ["a", "b"] {
            let fact = Fact::Speaker { node: node.into(), promised: Duration::from_secs(1), seen: Seen(at) };
            world.leases.put(Key::new("kube-system", node), fact);
        }
        let later = at + Duration::from_secs(60);
        let live = |siblings: &[&str]| {
            let siblings = siblings.iter().map(|node| (*node).to_owned()).collect();
            world.speakers(later, &siblings).0.into_iter().collect::<Vec<_>>()
        };
        assert!(live(&[]).is_empty());
        assert_eq!(live(&["a", "c"]), ["a"]);
    }
}
