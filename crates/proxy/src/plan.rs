//! From views to the table, and from a change to the few elements that it moves.
//!
//! A [`Planner`] knows what stands in the table for each Service. Fed with all Services it says the whole table; fed with one change it
//! says the delta, whose size and cost do not depend on the other Services.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use nft::{Batch, Bytes, Data, Element, Op, SetRef, Table, Verdict};
use service_model::{Backend, Change, Family, FrontendKey, Model, ObjectKey, Protocol};

use crate::layout::{
    Class, MOST_SHARDS, Masqueraded, PodInterface, SetId, Shape, parse_slot, shards, skeleton, table_id,
};
use crate::pool::StickyHint;
use crate::programmed::{Entrance, Hints, PoolIds, Programmed, Sink};

/// What rules know besides Services: address ranges, and what is done with them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges {
    /// Where pods are: other clients of a cluster IP are masqueraded, and pods take no part in external traffic policies.
    pub cluster: Vec<IpNet>,
    /// Pods of this node are those whose packets come in here, wherever their addresses are; then `cluster` does not count.
    pub pods_by: Option<PodInterface>,
    /// Where cluster IPs are: those without a Service are not answered.
    pub service: Vec<IpNet>,
    /// Pods' packets to cluster IPs are masqueraded as well.
    pub masquerade_all: bool,
    /// The kernel counts the connections to each endpoint.
    pub count_connections: bool,
}

impl Ranges {
    /// Whose packets to cluster IPs of a family get this node's address.
    fn masqueraded(&self, family: Family) -> Masqueraded {
        if self.masquerade_all {
            return Masqueraded::All;
        }
        let known = self.pods_by.is_some() || self.cluster.iter().any(|range| Family::of(range.addr()) == family);
        if known { Masqueraded::Outside } else { Masqueraded::None }
    }
}

type Place = (SetId, Family, Bytes);

/// What stands in the table.
#[derive(Debug)]
pub struct Planner {
    base: Table,
    shards: u8,
    services: BTreeMap<ObjectKey, Programmed>,
    shared: HashMap<Place, u32>,
    /// Elements that nobody needs any more and that still stand, because a packet that asked another map a moment ago asks for them
    /// later; those of before the last [`Planner::retire`] second.
    retired: [BTreeSet<Place>; 2],
    classes: BTreeMap<Class, u32>,
    ids: PoolIds,
    hints: Hints,
}

/// What one or more changes do to the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    pub new_classes: Vec<Class>,
    pub gone_classes: Vec<Class>,
    pub removed: BTreeMap<Place, Element>,
    pub added: BTreeMap<Place, Element>,
}

/// The whole table for a model, from nothing.
pub fn plan(model: &Model, ranges: &Ranges) -> Table {
    let mut planner = Planner::sharded(ranges, shards_of(model));
    for view in model.views() {
        planner.apply(&Change { key: view.key.clone(), old: None, new: Some(view.clone()) }, &mut Delta::default());
    }
    planner.table()
}

/// How many maps the endpoints of all these Services are spread over.
pub(crate) fn shards_of(model: &Model) -> u8 {
    let ports = model.views().flat_map(|view| &view.ports).filter(|port| port.affinity.is_none());
    let elements = ports.flat_map(|port| port.frontends.iter().map(|frontend| port.target(frontend).backends.len()));
    shards(elements.sum())
}

impl Planner {
    /// A planner for few endpoints.
    pub fn new(ranges: &Ranges) -> Self {
        Planner::sharded(ranges, shards(0))
    }

    pub(crate) fn sharded(ranges: &Ranges, shards: u8) -> Self {
        let mut base = skeleton(&Shape {
            masqueraded: Family::ALL.map(|family| ranges.masqueraded(family)),
            pods_by: ranges.pods_by.as_ref(),
            counted: ranges.count_connections,
            shards,
        });
        for (id, ranges) in [(SetId::ClusterCidrs, &ranges.cluster), (SetId::ServiceCidrs, &ranges.service)] {
            for family in Family::ALL {
                let of_family: Vec<IpNet> = ranges.iter().filter(|r| Family::of(r.addr()) == family).copied().collect();
                insert_ranges(&mut base, id, family, &of_family);
            }
        }
        Planner {
            base,
            shards,
            services: BTreeMap::new(),
            shared: HashMap::new(),
            retired: Default::default(),
            classes: BTreeMap::new(),
            ids: PoolIds::default(),
            hints: Hints::default(),
        }
    }

    /// A planner that goes on with the numbers that `actual` gave to endpoints, as far as they are still there.
    pub fn adopting(ranges: &Ranges, actual: &Table, model: &Model) -> Self {
        let mut planner = Planner::sharded(ranges, shards_of(model));
        planner.hints = read_hints(actual);
        planner
    }

    /// Forgets what [`Planner::adopting`] read; what Services took from it stays.
    pub fn settle(&mut self) {
        self.hints = Hints::default();
    }

    /// Takes one Service's change in and adds what it moves to `delta`.
    pub fn apply(&mut self, change: &Change, delta: &mut Delta) {
        let before = self.services.remove(&change.key);
        let after =
            change.new.as_ref().map(|view| Programmed::follow(before.as_ref(), view, &self.hints, &mut self.ids));
        if let (Some(before), None) = (&before, &after) {
            before.forget(&mut self.ids);
        }
        let (mut old, mut new) = (Collected::new(self.shards), Collected::new(self.shards));
        if let Some(before) = &before {
            before.emit(&mut old);
        }
        if let Some(after) = &after {
            after.emit(&mut new);
        }
        self.count(&old, &new, delta);
        for (place, element) in old.own {
            match new.own.get(&place) {
                Some(same) if *same == element => {
                    new.own.remove(&place);
                }
                Some(_) | None => delta.remove(place, element),
            }
        }
        new.own.into_iter().for_each(|(place, element)| delta.add(place, element));
        if let Some(after) = after {
            self.services.insert(change.key.clone(), after);
        }
    }

    /// Keeps count of what several Services need. New needs first, so that nothing goes and comes.
    fn count(&mut self, old: &Collected, new: &Collected, delta: &mut Delta) {
        for place in &new.shared {
            let count = self.shared.entry(place.clone()).or_default();
            *count += 1;
            let stands = self.retired.iter_mut().any(|retired| retired.remove(place));
            if *count == 1 && !stands {
                delta.add(place.clone(), Element::member());
            }
        }
        for class in &new.classes {
            let count = self.classes.entry(*class).or_default();
            *count += 1;
            if *count == 1 {
                delta.class_comes(*class);
            }
        }
        for place in &old.shared {
            if last(&mut self.shared, place) {
                self.shared.remove(place);
                if matches!(place.0, SetId::Hairpin | SetId::Special) {
                    self.retired[0].insert(place.clone());
                } else {
                    delta.remove(place.clone(), Element::member());
                }
            }
        }
        for class in &old.classes {
            let Some(count) = self.classes.get_mut(class) else { continue };
            *count -= 1;
            if *count == 0 {
                self.classes.remove(class);
                delta.class_goes(*class);
            }
        }
    }

    /// Whether there are elements that nobody needs any more.
    pub fn has_retired(&self) -> bool {
        self.retired.iter().any(|retired| !retired.is_empty())
    }

    /// Takes away what nobody has needed since the last time. It is for the caller to let a time pass between that is long for a packet.
    pub fn retire(&mut self, delta: &mut Delta) {
        let [recent, before] = std::mem::take(&mut self.retired);
        before.into_iter().for_each(|place| delta.remove(place, Element::member()));
        self.retired[1] = recent;
    }

    /// The whole table as it should stand now.
    pub fn table(&self) -> Table {
        let mut table = self.base.clone();
        for class in self.classes.keys() {
            table.chain(&class.chain()).rules = class.rules();
            if let Some((place, element)) = dispatch(*class) {
                put(&mut table, place, element);
            }
        }
        let mut all = Collected::new(self.shards);
        for service in self.services.values() {
            service.emit(&mut all);
            all.own.drain().for_each(|(place, element)| put(&mut table, place, element));
            all.shared.drain(..).for_each(|place| put(&mut table, place, Element::member()));
            all.classes.clear();
        }
        self.retired.iter().flatten().for_each(|place| put(&mut table, place.clone(), Element::member()));
        table
    }

    /// How many Services stand in the table.
    pub fn services(&self) -> usize {
        self.services.len()
    }
}

fn last(counts: &mut HashMap<Place, u32>, place: &Place) -> bool {
    let Some(count) = counts.get_mut(place) else { return false };
    *count -= 1;
    *count == 0
}

fn put(table: &mut Table, (set, family, key): Place, element: Element) {
    if let Some(set) = table.sets.get_mut(set.name(family)) {
        set.insert(key, element);
    }
}

/// The element that leads to a class's chain. Sticky classes are reached by pools, which bring their own.
fn dispatch(class: Class) -> Option<(Place, Element)> {
    match class {
        Class::Mod { family, .. } | Class::Inside { family, .. } => {
            let place = (SetId::Classes, family, Bytes::new().ip(class.mark()));
            Some((place, Element::verdict(Verdict::Jump(class.chain().into()))))
        }
        Class::Sticky { .. } => None,
    }
}

fn insert_ranges(table: &mut Table, id: SetId, family: Family, ranges: &[IpNet]) {
    for range in ranges.iter().map(IpNet::trunc) {
        let inside_another = ranges.iter().any(|other| other.trunc() != range && other.contains(&range));
        if !inside_another {
            let (first, last) = (Bytes::new().ip(range.network()), Bytes::new().ip(range.broadcast()));
            let element = if first == last { Element::member() } else { Element::member().to(last) };
            put(table, (id, family, first), element);
        }
    }
}

/// One Service's needs, to be compared.
#[derive(Debug)]
struct Collected {
    shards: u8,
    own: HashMap<Place, Element>,
    shared: Vec<Place>,
    classes: Vec<Class>,
}

impl Collected {
    fn new(shards: u8) -> Self {
        Collected { shards, own: HashMap::new(), shared: Vec::new(), classes: Vec::new() }
    }
}

impl Sink for Collected {
    fn shards(&self) -> u8 {
        self.shards
    }

    fn own(&mut self, set: SetId, family: Family, key: Bytes, element: Element) {
        self.own.insert((set, family, key), element);
    }

    fn shared(&mut self, set: SetId, family: Family, key: Bytes) {
        self.shared.push((set, family, key));
    }

    fn class(&mut self, class: Class) {
        self.classes.push(class);
    }
}

impl Delta {
    pub fn is_empty(&self) -> bool {
        self.new_classes.is_empty() && self.gone_classes.is_empty() && self.removed.is_empty() && self.added.is_empty()
    }

    // Several changes may meet in one delta: what one removes another may add again.
    fn add(&mut self, place: Place, element: Element) {
        if self.removed.get(&place) == Some(&element) {
            self.removed.remove(&place);
        } else {
            self.added.insert(place, element);
        }
    }

    // The Service that takes a frontend over may be told before the one that loses it: only what is equal cancels out.
    fn remove(&mut self, place: Place, element: Element) {
        if self.added.get(&place) == Some(&element) {
            self.added.remove(&place);
        } else {
            self.removed.insert(place, element);
        }
    }

    fn class_comes(&mut self, class: Class) {
        match self.gone_classes.iter().position(|gone| *gone == class) {
            Some(at) => drop(self.gone_classes.swap_remove(at)),
            None => self.new_classes.push(class),
        }
        if let Some((place, element)) = dispatch(class) {
            self.add(place, element);
        }
    }

    fn class_goes(&mut self, class: Class) {
        match self.new_classes.iter().position(|new| *new == class) {
            Some(at) => drop(self.new_classes.swap_remove(at)),
            None => self.gone_classes.push(class),
        }
        if let Some((place, element)) = dispatch(class) {
            self.remove(place, element);
        }
    }

    /// The operations, in an order that the kernel takes: chains before what leads to them, old elements before new ones of the same key.
    pub fn batch(&self, skeleton: &Table) -> Batch {
        let table = table_id();
        let mut batch = Batch::new();
        for class in &self.new_classes {
            let chain: std::sync::Arc<str> = class.chain().into();
            batch.push(Op::AddChain { table: table.clone(), chain: chain.clone(), base: None, comment: None });
            for rule in class.rules() {
                batch.push(Op::AddRule { table: table.clone(), chain: chain.clone(), at: nft::Position::End, rule });
            }
        }
        for (set, elements) in by_set(&self.removed, skeleton) {
            batch.push(Op::DeleteElements { set, elements });
        }
        for (set, elements) in by_set(&self.added, skeleton) {
            batch.push(Op::AddElements { set, elements });
        }
        for class in &self.gone_classes {
            let chain: std::sync::Arc<str> = class.chain().into();
            batch.push(Op::FlushChain { table: table.clone(), chain: chain.clone() });
            batch.push(Op::DeleteChain { table: table.clone(), chain });
        }
        batch
    }
}

fn by_set(elements: &BTreeMap<Place, Element>, skeleton: &Table) -> Vec<(SetRef, Vec<(Bytes, Element)>)> {
    let mut sets: Vec<(SetRef, Vec<(Bytes, Element)>)> = Vec::new();
    for ((id, family, key), element) in elements {
        let name = id.name(*family);
        let item = (key.clone(), element.clone());
        match sets.last_mut() {
            Some((set, elements)) if &*set.name == name => elements.push(item),
            Some(_) | None => {
                if let Some(set) = skeleton.sets.get(name) {
                    let set = SetRef { table: table_id(), name: name.into(), spec: set.spec.clone() };
                    sets.push((set, vec![item]));
                }
            }
        }
    }
    sets
}

/// All frontends that a table knows.
pub(crate) fn frontends_in(table: &Table) -> HashSet<FrontendKey> {
    let mut frontends = HashSet::new();
    for family in Family::ALL {
        for id in [SetId::Frontends, SetId::Special] {
            let keys = table.sets.get(id.name(family)).into_iter().flat_map(|set| set.elements.keys());
            frontends.extend(keys.filter_map(|key| read_frontend(family, key.as_slice())));
        }
    }
    frontends
}

/// Reads the numbers of endpoints and the slots of sticky pools out of a table.
fn read_hints(actual: &Table) -> Hints {
    let mut hints = Hints::default();
    for family in Family::ALL {
        let maps = (0..MOST_SHARDS).map(|shard| (SetId::Endpoints(shard), false));
        for (id, inside) in maps.chain([(SetId::InsideEndpoints, true)]) {
            let mut numbered: BTreeMap<(FrontendKey, u32), Backend> = BTreeMap::new();
            for (key, value) in values(actual, id, family) {
                if let (Some(frontend), Some(number), Some(backend)) =
                    (read_frontend(family, key), read_number(key), read_backend(family, value))
                {
                    numbered.insert((frontend, number), backend);
                }
            }
            for ((frontend, _), backend) in numbered {
                hints.orders.entry(Entrance { frontend, inside }).or_default().push(backend);
            }
        }
        read_sticky(actual, family, &mut hints);
    }
    hints
}

fn read_sticky(actual: &Table, family: Family, hints: &mut Hints) {
    let mut pools: HashMap<u16, StickyHint> = HashMap::new();
    let mut by_slot: HashMap<(u16, u16), Backend> = HashMap::new();
    for (key, value) in values(actual, SetId::Slots, family) {
        let slot = read_address(family, key).and_then(|(address, _)| parse_slot(address));
        if let (Some((pool, slot)), Some(backend)) = (slot, read_backend(family, value)) {
            let hint = pools.entry(pool).or_insert_with(|| StickyHint { id: pool, slots: BTreeMap::new() });
            hint.slots.insert(backend, slot);
            by_slot.insert((pool, slot), backend);
        }
    }
    let mut orders: BTreeMap<(u16, u32), Backend> = BTreeMap::new();
    for (key, value) in values(actual, SetId::Choices, family) {
        let slot = read_address(family, value).and_then(|(address, _)| parse_slot(address));
        let Some((pool, backend)) = slot.and_then(|slot| Some((slot.0, *by_slot.get(&slot)?))) else { continue };
        if let Some(number) = read_number(key) {
            orders.insert((pool, number), backend);
        }
    }
    for (id, inside) in [(SetId::Sticky, false), (SetId::InsideSticky, true)] {
        for (key, value) in values(actual, id, family) {
            let pool = read_address(family, value).and_then(|(address, _)| parse_slot(address)).map(|(pool, _)| pool);
            let (Some(frontend), Some(pool)) = (read_frontend(family, key), pool) else { continue };
            let entrance = Entrance { frontend, inside };
            if let Some(hint) = pools.get(&pool) {
                hints.sticky.entry(entrance).or_insert_with(|| hint.clone());
                let order = orders.range((pool, 0)..=(pool, u32::MAX)).map(|(_, backend)| *backend).collect();
                hints.orders.entry(entrance).or_insert(order);
            }
        }
    }
}

fn values(table: &Table, id: SetId, family: Family) -> impl Iterator<Item = (&[u8], &[u8])> {
    let elements = table.sets.get(id.name(family)).into_iter().flat_map(|set| &set.elements);
    elements.filter_map(|(key, element)| match &element.data {
        Data::Value(value) => Some((key.as_slice(), value.as_slice())),
        Data::None | Data::Verdict(_) => None,
    })
}

pub(crate) fn read_address(family: Family, bytes: &[u8]) -> Option<(IpAddr, &[u8])> {
    match family {
        Family::V4 => bytes.split_first_chunk::<4>().map(|(address, rest)| (IpAddr::from(*address), rest)),
        Family::V6 => bytes.split_first_chunk::<16>().map(|(address, rest)| (IpAddr::from(*address), rest)),
    }
}

pub(crate) fn read_frontend(family: Family, bytes: &[u8]) -> Option<FrontendKey> {
    let (address, rest) = read_address(family, bytes)?;
    let protocol =
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|p| Some(&p.number()) == rest.first())?;
    let port = u16::from_be_bytes(*rest.get(4..)?.first_chunk()?);
    Some(FrontendKey { address, protocol, port })
}

pub(crate) fn read_backend(family: Family, bytes: &[u8]) -> Option<Backend> {
    let (address, rest) = read_address(family, bytes)?;
    Some(Backend { address, port: u16::from_be_bytes(*rest.first_chunk()?) })
}

fn read_number(key: &[u8]) -> Option<u32> {
    key.last_chunk().map(|number| u32::from_ne_bytes(*number))
}
