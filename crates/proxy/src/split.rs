//! One transaction as several, for a kernel that is short of memory for all of it at once.
//!
//! After each part every frontend does what it did before or what it will do: never half of it. What nothing leads to yet comes first, then
//! frontends, each with its endpoints in the same part, and last goes what nothing leads to any more. A frontend's own elements are taken
//! apart only where it is quite new or quite gone, and then its endpoints come before it or go after it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use nft::{Batch, Bytes, Element, Op, SetRef};
use service_model::Family;

use crate::layout::{MOST_SHARDS, SetId, parse_slot};
use crate::plan::read_address;

/// What has to change in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    /// What chains and ranges are reached by: with the chains.
    Structure,
    /// All that is said of a frontend.
    Frontend(Family, Bytes),
    /// The endpoints that clients stick to.
    Pool(Family, u16),
    /// An element that others ask for.
    Alone(SetId, Family, Bytes),
}

#[derive(Debug, Clone, Copy)]
struct Change<'a> {
    set: &'a SetRef,
    id: SetId,
    adds: bool,
    key: &'a Bytes,
    element: &'a Element,
}

impl Change<'_> {
    /// Whether packets find it only by another element, which comes later or went before.
    fn is_found_by_another(&self) -> bool {
        matches!(self.id, SetId::Endpoints(_) | SetId::InsideEndpoints)
    }
}

/// Parts of at most so many elements, where that is possible; `None` when the batch makes sets anew, which cannot be done in parts.
pub fn split(batch: &Batch, at_most: usize) -> Option<Vec<Batch>> {
    let sets = sets();
    let (mut first, mut last) = (Batch::new(), Batch::new());
    let going = going(batch)?;
    let mut groups: BTreeMap<Group, Vec<Change<'_>>> = BTreeMap::new();
    for op in &batch.ops {
        let (set, elements, adds) = match op {
            Op::AddElements { set, elements } => (set, elements, true),
            Op::DeleteElements { set, elements } => (set, elements, false),
            Op::FlushChain { chain, .. } if going.contains(chain) => {
                last.push(op.clone());
                continue;
            }
            Op::DeleteChain { .. } | Op::DeleteSet { .. } => {
                last.push(op.clone());
                continue;
            }
            structure => {
                first.push(structure.clone());
                continue;
            }
        };
        let (id, family) = *sets.get(&set.name)?;
        let mut structure = Vec::new();
        for (key, element) in elements {
            match group(id, family, key)? {
                Group::Structure => structure.push((key.clone(), element.clone())),
                group => groups.entry(group).or_default().push(Change { set, id, adds, key, element }),
            }
        }
        let to = if adds || id != SetId::Classes { &mut first } else { &mut last };
        push(to, set, adds, structure);
    }
    let mut order = Order { at_most: at_most.max(1), before: Vec::new(), middle: Vec::new(), after: Vec::new() };
    groups.into_iter().for_each(|(group, changes)| order.add(&group, changes));
    // Elements that lead to chains go before these.
    let parts = [vec![first], order.parts(), vec![last]].concat();
    Some(parts.into_iter().filter(|part| !part.is_empty()).collect())
}

fn sets() -> HashMap<Arc<str>, (SetId, Family)> {
    let all = Family::ALL.into_iter().flat_map(|family| SetId::all(MOST_SHARDS).map(move |id| (id, family)));
    all.map(|(id, family)| (id.name(family).into(), (id, family))).collect()
}

/// The chains that are deleted; `None` where something is deleted to be made anew.
fn going(batch: &Batch) -> Option<BTreeSet<&Arc<str>>> {
    let mut going = BTreeSet::new();
    let mut coming = BTreeSet::new();
    for op in &batch.ops {
        match op {
            Op::DeleteTable { .. } | Op::FlushSet { .. } => return None,
            Op::DeleteChain { chain, .. } => drop(going.insert(chain)),
            Op::DeleteSet { set } => drop(going.insert(&set.name)),
            Op::AddChain { chain, .. } => drop(coming.insert(chain)),
            Op::AddSet { set } => drop(coming.insert(&set.name)),
            Op::AddTable { .. }
            | Op::FlushChain { .. }
            | Op::AddRule { .. }
            | Op::DeleteRule { .. }
            | Op::AddElements { .. }
            | Op::DeleteElements { .. } => {}
        }
    }
    going.is_disjoint(&coming).then_some(going)
}

fn group(id: SetId, family: Family, key: &Bytes) -> Option<Group> {
    let width = match family {
        Family::V4 => 4,
        Family::V6 => 16,
    };
    Some(match id {
        SetId::Frontends
        | SetId::Special
        | SetId::Guarded
        | SetId::Inside
        | SetId::Endpoints(_)
        | SetId::InsideEndpoints
        | SetId::Sticky
        | SetId::InsideSticky
        | SetId::Refused
        | SetId::Dropped
        | SetId::Firewalled
        | SetId::Allowed
        | SetId::Masquerade => Group::Frontend(family, Bytes::from_slice(key.as_slice().get(..width + 8)?)),
        SetId::StickyClasses | SetId::Choices | SetId::Slots => {
            Group::Pool(family, parse_slot(read_address(family, key.as_slice())?.0)?.0)
        }
        SetId::Classes | SetId::ClusterCidrs | SetId::ServiceCidrs => Group::Structure,
        SetId::Affinity | SetId::ClusterIps | SetId::Hairpin => Group::Alone(id, family, key.clone()),
    })
}

/// Whole groups, in the order in which they may be committed.
struct Order<'a> {
    at_most: usize,
    before: Vec<Vec<Change<'a>>>,
    middle: Vec<Vec<Change<'a>>>,
    after: Vec<Vec<Change<'a>>>,
}

impl<'a> Order<'a> {
    fn add(&mut self, group: &Group, changes: Vec<Change<'a>>) {
        let (comes, goes) = (changes.iter().all(|c| c.adds), changes.iter().all(|c| !c.adds));
        match group {
            Group::Pool(..) | Group::Alone(..) if comes => self.before.push(changes),
            Group::Pool(..) | Group::Alone(..) if goes => self.after.push(changes),
            Group::Frontend(..) if changes.len() > self.at_most && (comes || goes) => {
                let (found, own): (Vec<_>, Vec<_>) = changes.into_iter().partition(Change::is_found_by_another);
                let there = if comes { &mut self.before } else { &mut self.after };
                there.extend(found.chunks(self.at_most).map(<[_]>::to_vec));
                self.middle.push(own);
            }
            Group::Structure | Group::Frontend(..) | Group::Pool(..) | Group::Alone(..) => self.middle.push(changes),
        }
    }

    fn parts(self) -> Vec<Batch> {
        [self.before, self.middle, self.after].into_iter().flat_map(|groups| pack(groups, self.at_most)).collect()
    }
}

/// As few batches as hold these groups.
fn pack(groups: Vec<Vec<Change<'_>>>, at_most: usize) -> Vec<Batch> {
    let mut parts: Vec<Vec<Change<'_>>> = Vec::new();
    for group in groups {
        match parts.last_mut() {
            Some(part) if part.len() + group.len() <= at_most => part.extend(group),
            Some(_) | None => parts.push(group),
        }
    }
    parts.into_iter().map(|part| transaction(&part)).collect()
}

/// Elements by their keys, and the set that they are of.
type OfSet<'a> = (&'a SetRef, Vec<(Bytes, Element)>);

/// Old elements before new ones of the same key, each set once.
fn transaction(changes: &[Change<'_>]) -> Batch {
    let mut batch = Batch::new();
    for adds in [false, true] {
        let mut by_set: BTreeMap<&Arc<str>, OfSet<'_>> = BTreeMap::new();
        for change in changes.iter().filter(|change| change.adds == adds) {
            let elements = &mut by_set.entry(&change.set.name).or_insert((change.set, Vec::new())).1;
            elements.push((change.key.clone(), change.element.clone()));
        }
        by_set.into_values().for_each(|(set, elements)| push(&mut batch, set, adds, elements));
    }
    batch
}

fn push(batch: &mut Batch, set: &SetRef, adds: bool, elements: Vec<(Bytes, Element)>) {
    if elements.is_empty() {
        return;
    }
    let set = set.clone();
    batch.push(if adds { Op::AddElements { set, elements } } else { Op::DeleteElements { set, elements } });
}
