//! The rules: which endpoints a Service port uses on this node, and where it answers.
//!
//! Sources: the Service API reference (traffic policies), KEP-1669 (terminating endpoints), KEP-2433 and KEP-3015 (topology hints),
//! KEP-1860 (ipMode), and kube-proxy's recorded behaviour where these are silent.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::claims::FrontendKey;
use crate::names::{Family, ServicePortKey};
use crate::node::NodeView;
use crate::service::{Policy, Service, ServicePort};
use crate::slice::{Condition, Endpoint, Slice};
use crate::view::{Backend, Empty, Frontend, FrontendKind, HealthCheck, PortView, ServiceView, Target};

/// Every frontend that a Service asks for, whether or not it gets it.
pub(crate) fn frontends(service: &Service, port: &ServicePort, family: Family, node: &NodeView) -> Vec<Frontend> {
    let open: Arc<[IpNet]> = Arc::from([]);
    // Ranges of the other family only mean no filter.
    let ranges: Arc<[IpNet]> =
        service.source_ranges.iter().copied().filter(|r| Family::of(r.addr()) == family).collect();
    let mut frontends: Vec<Frontend> = Vec::new();
    let mut add = |address: IpAddr, number: u16, kind: FrontendKind| {
        let at = FrontendKey { address, protocol: port.protocol, port: number };
        if Family::of(address) == family && frontends.iter().all(|f| f.at != at) {
            let filtered = service.load_balancer.iter().any(|lb| lb.0 == address) && !kind.is_internal();
            let source_ranges = if filtered && kind != FrontendKind::NodePort { ranges.clone() } else { open.clone() };
            frontends.push(Frontend { at, kind, source_ranges });
        }
    };
    service.cluster_ips.iter().for_each(|ip| add(*ip, port.port, FrontendKind::ClusterIp));
    service.load_balancer.iter().for_each(|lb| add(lb.0, port.port, FrontendKind::LoadBalancer));
    service.external_ips.iter().for_each(|ip| add(*ip, port.port, FrontendKind::ExternalIp));
    if let Some(node_port) = port.node_port {
        node.node_port_addresses.iter().for_each(|ip| add(*ip, node_port.get(), FrontendKind::NodePort));
    }
    frontends
}

/// The view of one Service. `owns` says whether a frontend is this Service's.
pub(crate) fn view(
    service: &Service,
    slices: &[&Slice],
    node: &NodeView,
    owns: &dyn Fn(&FrontendKey) -> bool,
) -> ServiceView {
    let mut ports = Vec::new();
    let mut taken = BTreeSet::new();
    for ip in &service.cluster_ips {
        let family = Family::of(*ip);
        for port in &service.ports {
            let mut frontends = frontends(service, port, family, node);
            // Two ports of one Service with the same node port: the first has it.
            frontends.retain(|frontend| owns(&frontend.at) && taken.insert(frontend.at));
            ports.push(port_view(service, port, family, frontends, slices, node));
        }
    }
    ServiceView {
        key: service.key.clone(),
        resource_version: service.resource_version.clone(),
        ports,
        cluster_ips: service.cluster_ips.clone(),
        health_check: health_check(service, slices, node),
        faults: Vec::new(),
    }
}

fn port_view(
    service: &Service,
    port: &ServicePort,
    family: Family,
    frontends: Vec<Frontend>,
    slices: &[&Slice],
    node: &NodeView,
) -> PortView {
    let endpoints = Endpoints::of(port, family, slices, &node.name);
    let cluster = endpoints.cluster(node);
    let by_policy = |policy: Policy| match policy {
        Policy::Cluster => Target { policy: Policy::Cluster, backends: cluster.clone(), empty: Empty::Reject },
        Policy::Local => endpoints.local(&cluster),
    };
    let has_external = frontends.iter().any(|f| !f.kind.is_internal());
    let local_external = service.external_policy == Policy::Local;
    PortView {
        key: ServicePortKey { service: service.key.clone(), port: port.name.clone(), protocol: port.protocol },
        family,
        frontends,
        internal: by_policy(service.internal_policy),
        external: by_policy(if has_external { service.external_policy } else { Policy::Cluster }),
        inside: (local_external && has_external).then(|| Target {
            policy: Policy::Cluster,
            backends: cluster.clone(),
            empty: Empty::Reject,
        }),
        masquerade_external: !local_external,
        affinity: service.affinity,
        alive: endpoints.alive(&cluster),
        hairpin: endpoints.hairpin(local_external && has_external),
    }
}

/// The endpoints of one Service port in one family, each backend once, in order.
struct Endpoints<'a> {
    all: BTreeMap<Backend, Seen<'a>>,
}

struct Seen<'a> {
    endpoint: &'a Endpoint,
    local: bool,
}

impl<'a> Endpoints<'a> {
    fn of(port: &ServicePort, family: Family, slices: &[&'a Slice], node: &str) -> Self {
        let mut all: BTreeMap<Backend, Seen<'a>> = BTreeMap::new();
        for slice in slices.iter().filter(|slice| slice.family == family) {
            let serves = |p: &&crate::slice::SlicePort| p.name == port.name && p.protocol == port.protocol;
            let Some(target) = slice.ports.iter().find(serves) else { continue };
            for endpoint in &slice.endpoints {
                let backend = Backend { address: endpoint.address, port: target.port };
                let local = endpoint.node.as_deref() == Some(node);
                let seen = Seen { endpoint, local };
                // The same backend in two slices: the better condition counts, then the local one.
                match all.entry(backend) {
                    Entry::Vacant(entry) => {
                        entry.insert(seen);
                    }
                    Entry::Occupied(mut entry) => {
                        let old = entry.get();
                        if (seen.endpoint.condition, !seen.local) < (old.endpoint.condition, !old.local) {
                            entry.insert(seen);
                        }
                    }
                }
            }
        }
        Endpoints { all }
    }

    /// Policy Cluster: ready ones that the topology hints allow; if nothing is ready, those that drain.
    fn cluster(&self, node: &NodeView) -> Arc<[Backend]> {
        let mut ready = self.with(Condition::Ready).peekable();
        if ready.peek().is_none() {
            return self.with(Condition::Draining).map(|(backend, _)| *backend).collect();
        }
        let hints = self.hints(node);
        ready.filter(|(_, seen)| hints.allow(seen.endpoint)).map(|(backend, _)| *backend).collect()
    }

    /// Policy Local: ready ones here; if none is ready here, those here that drain. Hints do not count.
    fn local(&self, cluster: &Arc<[Backend]>) -> Target {
        let here = |condition| self.with(condition).filter(|(_, seen)| seen.local).map(|(backend, _)| *backend);
        let mut backends: Arc<[Backend]> = here(Condition::Ready).collect();
        if backends.is_empty() {
            backends = here(Condition::Draining).collect();
        }
        if backends[..] == cluster[..] {
            backends = cluster.clone();
        }
        let elsewhere = self.all.values().any(|seen| seen.endpoint.condition != Condition::NotReady);
        Target { policy: Policy::Local, backends, empty: if elsewhere { Empty::Drop } else { Empty::Reject } }
    }

    fn alive(&self, cluster: &Arc<[Backend]>) -> Arc<[Backend]> {
        let alive =
            || self.all.iter().filter(|(_, seen)| seen.endpoint.condition != Condition::NotReady).map(|(b, _)| *b);
        if alive().eq(cluster.iter().copied()) { cluster.clone() } else { alive().collect() }
    }

    /// An endpoint whose node nobody told might be here as well. With `everywhere`, traffic of any pod passes unmasqueraded.
    fn hairpin(&self, everywhere: bool) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self
            .all
            .iter()
            .filter(|(_, seen)| seen.endpoint.condition != Condition::NotReady)
            .filter(|(_, seen)| everywhere || seen.local || seen.endpoint.node.is_none())
            .map(|(backend, _)| backend.address)
            .collect();
        addresses.dedup();
        addresses
    }

    fn with(&self, condition: Condition) -> impl Iterator<Item = (&Backend, &Seen<'a>)> {
        self.all.iter().filter(move |(_, seen)| seen.endpoint.condition == condition)
    }

    /// Hints count only if every ready endpoint has one and one of them is for us: first by node, then by zone, else not at all.
    fn hints(&self, node: &NodeView) -> Allowed {
        let usable = |wanted: &Arc<str>, of: fn(&Endpoint) -> &[Arc<str>]| {
            let mut ours = false;
            for (_, seen) in self.with(Condition::Ready) {
                let hinted = of(seen.endpoint);
                if hinted.is_empty() {
                    return false;
                }
                ours |= hinted.contains(wanted);
            }
            ours
        };
        if usable(&node.name, Endpoint::hinted_nodes) {
            return Allowed::Node(node.name.clone());
        }
        match &node.zone {
            Some(zone) if usable(zone, Endpoint::hinted_zones) => Allowed::Zone(zone.clone()),
            Some(_) | None => Allowed::All,
        }
    }
}

/// Which ready endpoints the hints leave.
enum Allowed {
    All,
    Node(Arc<str>),
    Zone(Arc<str>),
}

impl Allowed {
    fn allow(&self, endpoint: &Endpoint) -> bool {
        match self {
            Allowed::All => true,
            Allowed::Node(node) => endpoint.hinted_nodes().contains(node),
            Allowed::Zone(zone) => endpoint.hinted_zones().contains(zone),
        }
    }
}

fn health_check(service: &Service, slices: &[&Slice], node: &NodeView) -> Option<HealthCheck> {
    let port = service.health_check_node_port?;
    let mut local: Vec<IpAddr> = slices
        .iter()
        .flat_map(|slice| slice.endpoints.iter())
        .filter(|e| e.condition == Condition::Ready && e.node.as_deref() == Some(&*node.name))
        .map(|e| e.address)
        .collect();
    local.sort_unstable();
    local.dedup();
    let families = service.cluster_ips.iter().map(|ip| Family::of(*ip)).collect();
    Some(HealthCheck { port, families, local_endpoints: local.len() })
}
