//! Who gets which address: a pure function of pools, Services and what they have.
//!
//! A Service keeps what it has for as long as that fits what it asks for; then those are served that ask for an address by name, then the
//! rest, the oldest first. The same input gives the same answer, so a restart changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use client::Key;
use service_model::Family;

use crate::pending::{NoSharing, Pending};
use crate::pools::{Pool, Pools};
use crate::request::Request;

/// What the decision is made from, beside the requests.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    pub pools: &'a Pools,
    /// Addresses that lie in a pool and belong to nodes or to the link itself.
    pub reserved: &'a BTreeSet<IpAddr>,
    /// What each Service had when it was last seen: another writer that cleared the status takes nothing away.
    pub before: &'a BTreeMap<Key, Vec<IpAddr>>,
    /// Where pools are configured, for the hint.
    pub config_map: &'a str,
}

/// What one Service gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// In the order of its families.
    Assigned {
        addresses: Vec<IpAddr>,
        pool: String,
    },
    Pending(Pending),
}

impl Outcome {
    pub fn addresses(&self) -> &[IpAddr] {
        match self {
            Outcome::Assigned { addresses, .. } => addresses,
            Outcome::Pending(_) => &[],
        }
    }
}

/// Decides for all Services together.
pub fn assign(ground: Ground<'_>, requests: &[Request]) -> BTreeMap<Key, Outcome> {
    let mut order: Vec<&Request> = requests.iter().collect();
    order.sort_by_key(|request| (request.created, &request.key));
    let mut desk = Desk { ground, held: BTreeMap::new() };
    let mut outcomes = BTreeMap::new();
    let mut waiting = Vec::new();
    for request in order {
        match desk.keep(request) {
            Some(outcome) => drop(outcomes.insert(request.key.clone(), outcome)),
            None => waiting.push(request),
        }
    }
    desk.complete(&mut outcomes, requests);
    // A stable sort: by age within each kind.
    waiting.sort_by_key(|request| request.asked.is_empty());
    let mut pending = Vec::new();
    for request in waiting {
        match desk.serve(request) {
            Ok(outcome) => drop(outcomes.insert(request.key.clone(), outcome)),
            Err(_) => pending.push(request),
        }
    }
    // Why is told by how it is after all: what is told must not depend on who came first, or it would be told again and again.
    for request in pending {
        let outcome = desk.serve(request).unwrap_or_else(Outcome::Pending);
        outcomes.insert(request.key.clone(), outcome);
    }
    outcomes
}

/// Who holds which address while the decision is made.
struct Desk<'a> {
    ground: Ground<'a>,
    held: BTreeMap<IpAddr, Vec<&'a Request>>,
}

impl<'a> Desk<'a> {
    /// What the Service has, if that is still right.
    fn keep(&mut self, request: &'a Request) -> Option<Outcome> {
        if request.fault.is_some() {
            return None;
        }
        let before = self.ground.before.get(&request.key).map_or(&[][..], Vec::as_slice);
        [request.current.as_slice(), before].into_iter().find_map(|has| {
            let pool = self.fits(request, has)?;
            Some(self.take(request, has.to_vec(), &pool))
        })
    }

    /// The pool of addresses that a Service may keep.
    fn fits(&self, request: &Request, has: &[IpAddr]) -> Option<String> {
        let pools = self.candidates(request).ok();
        let pool = self.ground.pools.holding(*has.first()?)?;
        let families: BTreeSet<Family> = has.iter().map(|address| Family::of(*address)).collect();
        let wanted: BTreeSet<Family> = request.families.iter().copied().collect();
        let fine = families.len() == has.len()
            && families.is_subset(&wanted)
            && (families == wanted || !request.all_families)
            && request.asked.iter().all(|asked| has.contains(asked))
            && pool.is_for(&request.key.namespace)
            && (request.pool.is_none() || pools.is_some_and(|pools| pools.iter().any(|p| p.name == pool.name)))
            && has.iter().all(|a| pool.contains(*a) && !self.ground.reserved.contains(a))
            && has.iter().all(|address| self.may_hold(request, *address).is_ok());
        fine.then(|| pool.name.clone())
    }

    /// With PreferDualStack a second family is not waited for, but taken once a pool has it. After all have kept theirs, so that nobody's
    /// is given away.
    fn complete(&mut self, outcomes: &mut BTreeMap<Key, Outcome>, requests: &'a [Request]) {
        for request in requests.iter().filter(|request| !request.all_families) {
            let Some(Outcome::Assigned { addresses, pool }) = outcomes.get_mut(&request.key) else { continue };
            let Some(pool) = self.ground.pools.get(pool) else { continue };
            let Ok(all) = self.choose(request, pool, addresses) else { continue };
            for address in all.iter().filter(|address| !addresses.contains(address)) {
                self.held.entry(*address).or_default().push(request);
            }
            *addresses = all;
        }
    }

    fn take(&mut self, request: &'a Request, addresses: Vec<IpAddr>, pool: &str) -> Outcome {
        for address in &addresses {
            self.held.entry(*address).or_default().push(request);
        }
        Outcome::Assigned { addresses, pool: pool.to_owned() }
    }

    fn serve(&mut self, request: &'a Request) -> Result<Outcome, Pending> {
        if let Some(fault) = &request.fault {
            return Err(fault.clone());
        }
        let pools = self.candidates(request)?;
        if !request.asked.is_empty() {
            return self.serve_asked(request, &pools);
        }
        let mut refusal = None;
        for pool in pools {
            match self.choose(request, pool, &[]) {
                Ok(addresses) => return Ok(self.take(request, addresses, &pool.name)),
                Err(fault) => {
                    // A pool that has the family but is full says more than one without it.
                    let better = !matches!(refusal, Some(Pending::Full { .. }));
                    if better {
                        refusal = Some(fault);
                    }
                }
            }
        }
        Err(refusal.unwrap_or_else(|| self.no_pool()))
    }

    /// The pools that a Service may draw from, in the order of trial.
    fn candidates(&self, request: &Request) -> Result<Vec<&'a Pool>, Pending> {
        let (pools, namespace) = (self.ground.pools, &request.key.namespace);
        if let Some(name) = &request.pool {
            let unknown = || Pending::UnknownPool { pool: name.clone(), known: self.shown() };
            let pool = pools.get(name).ok_or_else(unknown)?;
            if !pool.is_for(namespace) {
                return Err(Pending::NotForNamespace { pool: pool.to_string(), namespace: namespace.clone() });
            }
            return Ok(vec![pool]);
        }
        if pools.is_empty() {
            return Err(self.no_pool());
        }
        if !request.asked.is_empty() {
            return Ok(pools.iter().collect());
        }
        let automatic = pools.automatic(namespace);
        if automatic.is_empty() {
            return Err(Pending::NotAutomatic { namespace: namespace.clone(), pools: self.shown() });
        }
        Ok(automatic)
    }

    fn serve_asked(&mut self, request: &'a Request, pools: &[&Pool]) -> Result<Outcome, Pending> {
        for address in &request.asked {
            if !request.families.contains(&Family::of(*address)) {
                return Err(Pending::OtherFamily { address: *address, families: families_name(&request.families) });
            }
        }
        let Some(first) = request.asked.first() else { return Err(self.no_pool()) };
        let outside = |address: IpAddr| match &request.pool {
            Some(pool) => Pending::OutsidePool { address, pool: pool.clone() },
            None => Pending::OutsidePools { address, pools: self.shown() },
        };
        let pool = pools.iter().find(|pool| pool.contains(*first)).ok_or_else(|| outside(*first))?;
        if !pool.is_for(&request.key.namespace) {
            let namespace = request.key.namespace.clone();
            return Err(Pending::NotForNamespace { pool: pool.to_string(), namespace });
        }
        for address in &request.asked {
            if !pool.contains(*address) {
                return Err(outside(*address));
            }
            if self.ground.reserved.contains(address) {
                return Err(Pending::Reserved { address: *address });
            }
            self.may_hold(request, *address)?;
        }
        let addresses = self.choose(request, pool, &request.asked)?;
        Ok(self.take(request, addresses, &pool.name))
    }

    /// One address of each family of a pool; `fixed` are those that are settled already.
    fn choose(&self, request: &Request, pool: &Pool, fixed: &[IpAddr]) -> Result<Vec<IpAddr>, Pending> {
        let (mut chosen, mut refusal) = (Vec::new(), None);
        for family in &request.families {
            let settled = fixed.iter().copied().find(|address| Family::of(*address) == *family);
            match settled.map_or_else(|| self.free(request, pool, *family), Ok) {
                Ok(address) => chosen.push(address),
                Err(fault) if request.all_families => return Err(fault),
                Err(fault) => refusal = Some(fault),
            }
        }
        match refusal {
            Some(fault) if chosen.is_empty() => Err(fault),
            Some(_) | None => Ok(chosen),
        }
    }

    /// An address that is shared already on the Service's terms, else the first that nobody has.
    fn free(&self, request: &Request, pool: &Pool, family: Family) -> Result<IpAddr, Pending> {
        if !pool.has(family) {
            return Err(Pending::NoFamily { family, pools: pool.to_string() });
        }
        // One family of what it had may be right still.
        let mut had = request.current.iter().filter(|a| Family::of(**a) == family && pool.contains(**a));
        if let Some(had) = had.find(|a| !self.ground.reserved.contains(a) && self.may_hold(request, **a).is_ok()) {
            return Ok(*had);
        }
        if request.sharing.is_some() {
            let mut held = self.held.keys().filter(|a| Family::of(**a) == family && pool.contains(**a));
            if let Some(shared) = held.find(|address| self.may_hold(request, **address).is_ok()) {
                return Ok(*shared);
            }
        }
        let taken = |address: &IpAddr| self.held.contains_key(address) || self.ground.reserved.contains(address);
        pool.addresses(family).find(|address| !taken(address)).ok_or_else(|| {
            let used = self.held.keys().filter(|a| Family::of(**a) == family && pool.contains(**a)).count();
            Pending::Full { family, used, pools: pool.to_string() }
        })
    }

    /// Whether everyone who holds the address would share it with this Service.
    fn may_hold(&self, request: &Request, address: IpAddr) -> Result<(), Pending> {
        let holders = self.held.get(&address).into_iter().flatten().filter(|holder| holder.key != request.key);
        let refusals = holders.filter_map(|holder| refuse_sharing(request, holder).map(|why| (holder, why)));
        // The oldest is named, in whichever order they came.
        match refusals.min_by_key(|(holder, _)| (holder.created, &holder.key)) {
            Some((holder, why)) => Err(Pending::Taken { address, by: holder.key.clone(), why }),
            None => Ok(()),
        }
    }

    fn no_pool(&self) -> Pending {
        Pending::NoPool { config_map: self.ground.config_map.to_owned() }
    }

    fn shown(&self) -> String {
        let shown: Vec<String> = self.ground.pools.iter().map(Pool::to_string).collect();
        if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
    }
}

fn refuse_sharing(one: &Request, other: &Request) -> Option<NoSharing> {
    let (Some(mine), Some(theirs)) = (&one.sharing, &other.sharing) else { return Some(NoSharing::Keys) };
    if mine.key != theirs.key {
        return Some(NoSharing::Keys);
    }
    if let Some((protocol, port)) = one.ports.intersection(&other.ports).next() {
        return Some(NoSharing::Port { protocol: *protocol, port: *port });
    }
    (mine.pods != theirs.pods || one.local != other.local).then_some(NoSharing::Pods)
}

fn families_name(families: &[Family]) -> &'static str {
    match families {
        [Family::V4] => "IPv4 only",
        [Family::V6] => "IPv6 only",
        _ => "of both families",
    }
}

#[cfg(test)]
mod tests;
