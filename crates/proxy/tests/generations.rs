//! A transaction between any two lookups of one packet: nobody is lost by it.
//!
//! A packet fixes which generation of the rules it walks when it enters a base chain, but each lookup sees the elements of its own
//! moment. So each change is committed before the first lookup of a packet, after it, after the second and so on; the packet must still go to
//! an endpoint.
#![allow(clippy::unwrap_used)]

#[path = "../../service-model/tests/history/mod.rs"]
#[allow(dead_code)]
mod history;

use std::net::IpAddr;

use history::{World, steps};
use nft::trace::{Fate, Outcome, Packet, Translation, World as Chance, hook};
use nft::{AddrType, Hook, Ruleset, Table};
use proptest::prelude::*;
use proxy::{Delta, Planner, Ranges, table_id};
use service_model::{Backend, Change, Family, Frontend, Model, PortView, ServiceView, Target};

/// A commit after so many of a packet's lookups, and numbers that are drawn.
struct Commit<'a> {
    after: usize,
    asked: usize,
    new: &'a Table,
    dice: u32,
}

impl Chance for Commit<'_> {
    fn number(&mut self, modulus: u32) -> u32 {
        self.dice % modulus
    }

    fn address_type(&self, _: IpAddr) -> AddrType {
        AddrType::Unicast
    }

    fn meanwhile(&mut self, table: &mut Table) {
        if self.asked == self.after {
            for (name, set) in self.new.sets.iter().filter(|(_, set)| !set.spec.flags.dynamic) {
                table.sets.insert(name.clone(), set.clone());
            }
        }
        self.asked += 1;
    }
}

fn ranges() -> Ranges {
    let cluster = ["10.244.0.0/16", "fd00:244::/64"].map(|range| range.parse().unwrap()).into();
    Ranges { cluster, service: vec!["10.96.0.0/16".parse().unwrap()], ..Ranges::default() }
}

/// The table as a packet walks it that entered its base chain before the change: of chains that are new it sees the rules of its own
/// generation, which are none. (Whoever enters after a commit sees all of it: the generation is one number for rules and elements.)
fn entered(old: &Table, new: &Table) -> Table {
    let mut table = old.clone();
    for (name, chain) in &new.chains {
        table.chains.entry(name.clone()).or_insert_with(|| nft::Chain { rules: Vec::new(), ..chain.clone() });
    }
    table
}

fn packet(from: &str, frontend: &Frontend) -> Packet {
    Packet::new(frontend.at.protocol.number(), (from.parse().unwrap(), 40_000), (frontend.at.address, frontend.at.port))
}

fn at(table: Table) -> Ruleset {
    Ruleset { tables: [(table_id(), table)].into() }
}

/// Whether the packet gets the node's address on its way out.
fn masqueraded(table: &Table, mut packet: Packet) -> bool {
    let mut quiet = Commit { after: usize::MAX, asked: 0, new: table, dice: 0 };
    let out = hook(&mut at(table.clone()), Hook::Postrouting, &mut packet, &mut quiet);
    out.nat.contains(&Translation::Masquerade)
}

/// One Service port before and after, for clients inside the cluster or outside.
struct Met<'a> {
    ports: [&'a PortView; 2],
    frontend: &'a Frontend,
    inside: bool,
    /// Before or after, not everyone may use it.
    ranged: bool,
}

impl Met<'_> {
    fn targets(&self) -> [&Target; 2] {
        self.ports.map(|port| match &port.inside {
            Some(target) if self.inside && !self.frontend.kind.is_internal() => target,
            Some(_) | None => port.target(self.frontend),
        })
    }

    /// Whether there is an endpoint before and after. A frontend that refuses, or whose affinity is switched, is an element of other
    /// maps; its client is as one that came a moment earlier.
    fn serves(&self) -> bool {
        self.targets().iter().all(|target| !target.backends.is_empty())
            && self.ports[0].affinity.is_some() == self.ports[1].affinity.is_some()
    }

    fn check(&self, outcome: &Outcome, destination: IpAddr) -> Result<(), String> {
        match (outcome.fate, outcome.nat.first()) {
            (Fate::Accepted, Some(Translation::Nat { address, port: Some(port), .. })) => {
                let known = self.knows(&Backend { address: *address, port: *port });
                if known { Ok(()) } else { Err(format!("to {address}")) }
            }
            (Fate::Accepted, _) => Err(format!("left untranslated, to {destination}")),
            (Fate::Rejected(_), _) if self.serves() => Err("refused".into()),
            // Clients try again after a drop. Where the pool as such is another one, that is good enough.
            (Fate::Dropped, _) if self.serves() && self.same_pool() && !self.ranged => Err("dropped".into()),
            (Fate::Rejected(_) | Fate::Dropped, _) => Ok(()),
        }
    }

    fn knows(&self, backend: &Backend) -> bool {
        let targets = self.ports.into_iter().flat_map(|p| [Some(&p.internal), Some(&p.external), p.inside.as_ref()]);
        targets.flatten().any(|target| target.backends.contains(backend))
    }

    fn same_pool(&self) -> bool {
        let [before, after] = self.targets();
        before.policy == after.policy && self.ports[0].inside.is_some() == self.ports[1].inside.is_some()
    }
}

/// A client in the cluster and one outside, and which is which.
fn clients(family: Family) -> [(&'static str, bool); 2] {
    match family {
        Family::V4 => [("10.244.0.1", true), ("192.0.2.101", false)],
        Family::V6 => [("fd00:244::1", true), ("2001:db8::101", false)],
    }
}

fn check(old: &Table, new: &Table, before: &ServiceView, after: &ServiceView) -> Result<(), String> {
    for port in &before.ports {
        let Some(next) = after.ports.iter().find(|next| next.key == port.key && next.family == port.family) else {
            continue;
        };
        for frontend in &port.frontends {
            let same = |other: &&Frontend| (other.at, other.kind) == (frontend.at, frontend.kind);
            let Some(stays) = next.frontends.iter().find(same) else { continue };
            let ranged = [frontend, stays].into_iter().any(|frontend| !frontend.source_ranges.is_empty());
            for ((from, inside), dice) in clients(port.family).into_iter().flat_map(|c| (0..4).map(move |d| (c, d))) {
                all_moments(old, new, &Met { ports: [port, next], frontend, inside, ranged }, from, dice)?;
            }
        }
    }
    Ok(())
}

/// Sends a client's first packet with the commit at each moment of its walk; where the Service has affinity, the client's second as well.
fn all_moments(old: &Table, new: &Table, met: &Met<'_>, from: &str, dice: u32) -> Result<(), String> {
    for known in [false, true].into_iter().filter(|known| !known || met.ports[0].affinity.is_some()) {
        let mut walked = entered(old, new);
        if known {
            let mut first = at(old.clone());
            let mut quiet = Commit { after: usize::MAX, asked: 0, new, dice: dice + 1 };
            hook(&mut first, Hook::Prerouting, &mut packet(from, met.frontend), &mut quiet);
            for (name, set) in &first.tables[&table_id()].sets {
                walked.sets.insert(name.clone(), set.clone());
            }
        }
        for after in 0.. {
            let mut commit = Commit { after, asked: 0, new, dice };
            let mut packet = packet(from, met.frontend);
            let outcome = hook(&mut at(walked.clone()), Hook::Prerouting, &mut packet, &mut commit);
            let told = |fault: String| {
                let at = met.frontend.at;
                format!("{from} -> {at}, commit after {after} lookups, known: {known}: {fault}")
            };
            met.check(&outcome, packet.destination).map_err(told)?;
            // Who meets itself must be masqueraded, also when it is no endpoint any more by then.
            let itself = packet.source == packet.destination;
            if itself && masqueraded(old, packet.clone()) && !masqueraded(new, packet) {
                return Err(told("meets itself unmasqueraded".into()));
            }
            if commit.asked <= after {
                break;
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_change_between_two_lookups_loses_nobody(steps in steps()) {
        let mut world = World::new();
        let mut planner = Planner::new(&ranges());
        let mut model = Model::new(world.view());
        let mut old = planner.table();
        for step in &steps {
            world.step(step, &mut model);
            let changes = model.take_changes();
            changes.iter().for_each(|change| planner.apply(change, &mut Delta::default()));
            let new = planner.table();
            for change in &changes {
                if let Change { old: Some(before), new: Some(after), .. } = change {
                    let checked = check(&old, &new, before, after);
                    prop_assert!(checked.is_ok(), "{}", checked.unwrap_err());
                }
            }
            old = new;
        }
    }
}
