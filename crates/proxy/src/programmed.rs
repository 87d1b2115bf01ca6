//! What one Service has in the table: its pools, and from them every element.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use nft::{Bytes, Element, Verdict};
use service_model::{
    Backend, Empty, Family, Frontend, FrontendKey, Policy, PortView, ServicePortKey, ServiceView, Target,
};

use crate::layout::{Class, SetId, key, shard, slot_address};
use crate::pool::{Pool, Sticky, StickyHint};

/// Where pools got their numbers in a kernel's table, so that a new start goes on with them.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    pub orders: HashMap<Entrance, Vec<Backend>>,
    pub sticky: HashMap<Entrance, StickyHint>,
}

/// A frontend as clients anywhere see it, or as those inside the cluster do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Entrance {
    pub frontend: FrontendKey,
    pub inside: bool,
}

/// Gives each sticky pool its identity. It belongs to a Service port, a family and a policy, whatever comes and goes around it.
#[derive(Debug, Default)]
pub(crate) struct PoolIds {
    taken: BTreeMap<u16, (ServicePortKey, Family, Policy)>,
    last: u16,
}

impl PoolIds {
    fn take(&mut self, wanted: Option<u16>, owner: (ServicePortKey, Family, Policy)) -> Option<u16> {
        if let Some(id) = wanted.filter(|id| *id > 0 && !self.taken.contains_key(id)) {
            self.taken.insert(id, owner);
            return Some(id);
        }
        // Identities go round, so that a new Service does not meet the clients of one that just left.
        for _ in 0..u16::MAX {
            self.last = self.last.wrapping_add(1).max(1);
            if !self.taken.contains_key(&self.last) {
                self.taken.insert(self.last, owner);
                return Some(self.last);
            }
        }
        None
    }

    fn release(&mut self, id: u16) {
        self.taken.remove(&id);
    }
}

/// One Service as it stands in the table.
#[derive(Debug, Clone)]
pub(crate) struct Programmed {
    pub view: Arc<ServiceView>,
    /// As many as the view has ports, in that order.
    ports: Vec<Pools>,
}

#[derive(Debug, Clone, Default)]
struct Pools {
    cluster: Option<Pool>,
    local: Option<Pool>,
}

impl Pools {
    fn get(&self, policy: Policy) -> Option<&Pool> {
        match policy {
            Policy::Cluster => self.cluster.as_ref(),
            Policy::Local => self.local.as_ref(),
        }
    }
}

/// Receives what a Service needs in the table.
pub(crate) trait Sink {
    /// How many maps endpoints are spread over.
    fn shards(&self) -> u8;
    /// An element that only this Service has.
    fn own(&mut self, set: SetId, family: Family, key: Bytes, element: Element);
    /// An element that other Services may need as well.
    fn shared(&mut self, set: SetId, family: Family, key: Bytes);
    fn class(&mut self, class: Class);
}

impl Programmed {
    /// The state that follows `before` and does what `view` says.
    pub fn follow(before: Option<&Programmed>, view: &Arc<ServiceView>, hints: &Hints, ids: &mut PoolIds) -> Self {
        let mut old: HashMap<(&ServicePortKey, Family), &Pools> = HashMap::new();
        if let Some(before) = before {
            old.extend(before.view.ports.iter().map(|port| (&port.key, port.family)).zip(&before.ports));
        }
        let none = Pools::default();
        let ports = view
            .ports
            .iter()
            .map(|port| {
                let before = old.get(&(&port.key, port.family)).copied().unwrap_or(&none);
                let mut pools = Pools::default();
                for target in [Some(&port.internal), Some(&port.external), port.inside.as_ref()].into_iter().flatten() {
                    let slot = match target.policy {
                        Policy::Cluster => &mut pools.cluster,
                        Policy::Local => &mut pools.local,
                    };
                    if slot.is_none() && serves(port, target) {
                        *slot = Some(pool(before.get(target.policy), port, target, hints, ids));
                    }
                }
                pools
            })
            .collect();
        let after = Programmed { view: view.clone(), ports };
        if let Some(before) = before {
            before.release(&after, ids);
        }
        after
    }

    /// Gives back the identities that `after` does not go on with.
    fn release(&self, after: &Programmed, ids: &mut PoolIds) {
        let kept: Vec<u16> = after.sticky_ids().collect();
        self.sticky_ids().filter(|id| !kept.contains(id)).for_each(|id| ids.release(id));
    }

    pub fn forget(&self, ids: &mut PoolIds) {
        self.sticky_ids().for_each(|id| ids.release(id));
    }

    fn sticky_ids(&self) -> impl Iterator<Item = u16> {
        let pools = self.ports.iter().flat_map(|p| p.cluster.iter().chain(&p.local));
        pools.filter_map(|pool| pool.sticky.as_ref().map(|sticky| sticky.id))
    }

    /// Everything that the Service needs in the table.
    pub fn emit(&self, sink: &mut dyn Sink) {
        for (port, pools) in self.view.ports.iter().zip(&self.ports) {
            let comment: Arc<str> = port.key.to_string().into();
            let emit = Emit { port, pools, comment };
            port.frontends.iter().for_each(|frontend| emit.frontend(frontend, sink));
            for pool in pools.cluster.iter().chain(&pools.local) {
                emit.sticky_pool(pool, sink);
            }
            for address in &port.hairpin {
                sink.shared(SetId::Hairpin, port.family, Bytes::new().ip(*address).ip(*address));
            }
        }
        for address in &self.view.cluster_ips {
            sink.shared(SetId::ClusterIps, Family::of(*address), Bytes::new().ip(*address));
        }
    }
}

/// Whether any packet can go to this target.
fn serves(port: &PortView, target: &Target) -> bool {
    !target.backends.is_empty()
        && port.frontends.iter().any(|f| {
            std::ptr::eq(port.target(f), target) || (!f.kind.is_internal() && port.inside.as_ref() == Some(target))
        })
}

fn pool(before: Option<&Pool>, port: &PortView, target: &Target, hints: &Hints, ids: &mut PoolIds) -> Pool {
    let anywhere = port.frontends.iter().filter(|f| port.target(f).policy == target.policy);
    let inside = port.frontends.iter().filter(|f| !f.kind.is_internal() && port.inside.as_ref() == Some(target));
    let entrances: Vec<Entrance> = anywhere
        .map(|f| Entrance { frontend: f.at, inside: false })
        .chain(inside.map(|f| Entrance { frontend: f.at, inside: true }))
        .collect();
    let hinted = entrances.iter().find_map(|entrance| hints.orders.get(entrance));
    let order = match before {
        Some(before) => Pool::follow(&before.order, &target.backends),
        None => Pool::follow(hinted.map_or(&[], |order| order), &target.backends),
    };
    let sticky = port.affinity.and_then(|_| match before {
        Some(Pool { order: old, sticky: Some(sticky) }) => Some(sticky.follow(old, &order)),
        Some(Pool { sticky: None, .. }) | None => {
            let hint = entrances.iter().find_map(|entrance| hints.sticky.get(entrance));
            let id = ids.take(hint.map(|h| h.id), (port.key.clone(), port.family, target.policy))?;
            Some(Sticky::new(id, &order, hint.filter(|hint| hint.id == id)))
        }
    });
    Pool { order, sticky }
}

/// Writes the elements of one port.
struct Emit<'a> {
    port: &'a PortView,
    pools: &'a Pools,
    comment: Arc<str>,
}

/// The maps that lead from a frontend to its endpoints, for clients anywhere or for those inside the cluster.
struct Path {
    frontends: SetId,
    sticky: SetId,
    inside: bool,
}

const USUAL: Path = Path { frontends: SetId::Frontends, sticky: SetId::Sticky, inside: false };
const GUARDED: Path = Path { frontends: SetId::Guarded, ..USUAL };
const INSIDE: Path = Path { frontends: SetId::Inside, sticky: SetId::InsideSticky, inside: true };

impl Emit<'_> {
    fn frontend(&self, frontend: &Frontend, sink: &mut dyn Sink) {
        let family = self.port.family;
        let key = key(&frontend.at);
        let named = || Element::member().comment(self.comment.clone());
        let target = self.port.target(frontend);
        let inside =
            self.port.inside.as_ref().filter(|inside| !frontend.kind.is_internal() && !inside.backends.is_empty());
        let guarded = inside.is_some() || !frontend.source_ranges.is_empty();
        if guarded || target.backends.is_empty() || self.port.affinity.is_some() {
            sink.shared(SetId::Special, family, key.clone());
        }
        if target.backends.is_empty() {
            let set = match target.empty {
                Empty::Reject => SetId::Refused,
                Empty::Drop => SetId::Dropped,
            };
            sink.own(set, family, key.clone(), named());
        } else {
            self.path(if guarded { &GUARDED } else { &USUAL }, &key, target, sink);
        }
        if let Some(inside) = inside {
            self.path(&INSIDE, &key, inside, sink);
        }
        if frontend.kind.is_internal() {
            return;
        }
        if self.port.masquerade_external {
            sink.own(SetId::Masquerade, family, key.clone(), named());
        }
        if !frontend.source_ranges.is_empty() {
            sink.own(SetId::Firewalled, family, key.clone(), named());
        }
        for range in disjoint(&frontend.source_ranges) {
            let (first, last) = (key.clone().ip(range.network()), key.clone().ip(range.broadcast()));
            // A range of one address reads back as a plain key.
            let element = if first == last { named() } else { named().to(last) };
            sink.own(SetId::Allowed, family, first, element);
        }
    }

    fn path(&self, path: &Path, key: &Bytes, target: &Target, sink: &mut dyn Sink) {
        let family = self.port.family;
        let Some(pool) = self.pools.get(target.policy) else { return };
        let named = |value: IpAddr| Element::value(Bytes::new().ip(value)).comment(self.comment.clone());
        if let Some(sticky) = &pool.sticky {
            sink.own(path.sticky, family, key.clone(), named(slot_address(family, sticky.id, 0)));
            return;
        }
        let (class, endpoints) = if path.inside {
            (Class::Inside { family, n: pool.len() }, SetId::InsideEndpoints)
        } else {
            let shard = shard(key, sink.shards());
            (Class::Mod { family, n: pool.len(), shard }, SetId::Endpoints(shard))
        };
        sink.class(class);
        sink.own(path.frontends, family, key.clone(), named(class.mark()));
        for (number, backend) in (0..).zip(&pool.order) {
            sink.own(endpoints, family, key.clone().number(number), Element::value(backend_value(backend)));
        }
    }

    fn sticky_pool(&self, pool: &Pool, sink: &mut dyn Sink) {
        let (Some(sticky), Some(timeout)) = (&pool.sticky, self.port.affinity) else { return };
        let family = self.port.family;
        let address = |slot| Bytes::new().ip(slot_address(family, sticky.id, slot));
        let class = Class::Sticky { family, n: pool.len(), timeout };
        sink.class(class);
        let jump = Element::verdict(Verdict::Jump(class.chain().into())).comment(self.comment.clone());
        sink.own(SetId::StickyClasses, family, address(0), jump);
        for (number, (backend, slot)) in (0..).zip(pool.order.iter().zip(&sticky.slots)) {
            sink.own(SetId::Choices, family, address(0).number(number), Element::value(address(*slot)));
            let protocol = self.port.key.protocol.number();
            sink.own(SetId::Slots, family, address(*slot).proto(protocol), Element::value(backend_value(backend)));
        }
    }
}

fn backend_value(backend: &Backend) -> Bytes {
    Bytes::new().ip(backend.address).port(backend.port)
}

/// Ranges without those that lie in another one: the kernel refuses overlaps. CIDRs overlap only by inclusion.
fn disjoint(ranges: &[IpNet]) -> Vec<IpNet> {
    ranges.iter().copied().filter(|r| !ranges.iter().any(|other| other != r && other.contains(r))).collect()
}
