//! What rules do with a packet: walks typed rules as the kernel does, and says which elements decided.
//!
//! It runs what `lower` makes of each rule, register by register, so that it judges the lowering too. Time stands still:
//! elements do not expire. What chance, routes and addresses of the machine decide in a kernel is asked of [`World`].

mod machine;
mod packet;

use std::net::IpAddr;
use std::sync::Arc;

use crate::bytes::Bytes;
use crate::expr::REGISTERS;
use crate::field::{AddrType, CtState};
use crate::lower::lower;
use crate::ruleset::{ChainKind, Element, Hook, Policy, Ruleset, Table, TableId};
use crate::statement::{DynsetOp, NatKind, Reject, Verdict};

pub use packet::{Connection, Packet};

/// As deep as the kernel follows jumps.
const JUMP_DEPTH: usize = 16;

/// What a packet meets besides rules.
pub trait World {
    /// A number below `modulus`, for numgen.
    fn number(&mut self, modulus: u32) -> u32;

    /// What kind of address this is to the machine, for fib.
    fn address_type(&self, address: IpAddr) -> AddrType;

    /// What happens to the table just before the packet asks a set: another processor's commit may come between any two of its lookups.
    /// Rules must stay; a packet walks those of the moment in which it came.
    fn meanwhile(&mut self, _table: &mut Table) {}
}

/// What became of a packet at a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub fate: Fate,
    /// The translations that the rules asked for, in order.
    pub nat: Vec<Translation>,
    /// How it came to that.
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Accepted,
    Dropped,
    Rejected(Reject),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Translation {
    Nat {
        kind: NatKind,
        address: IpAddr,
        port: Option<u16>,
    },
    /// The source becomes the machine's own address on the way out.
    Masquerade,
}

/// Something that happened in a rule, which is named by its chain and its place there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub table: TableId,
    pub chain: Arc<str>,
    pub rule: usize,
    pub event: Event,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A set or map was asked for a key. `found` is the element with its own key, which in a range is its first.
    Lookup {
        set: Arc<str>,
        key: Bytes,
        found: Option<(Bytes, Element)>,
    },
    /// A rule changed a set.
    Changed {
        op: DynsetOp,
        set: Arc<str>,
        key: Bytes,
    },
    Verdict(Verdict),
    Translated(Translation),
    Rejected(Reject),
}

/// Sends a packet through the base chains of one hook, by priority. Sets that rules write to are changed, and so is the
/// packet: by writes, and by the translations that do not depend on the way out.
pub fn hook(ruleset: &mut Ruleset, hook: Hook, packet: &mut Packet, world: &mut dyn World) -> Outcome {
    let mut bases: Vec<(i32, ChainKind, Policy, TableId, Arc<str>)> = Vec::new();
    for (id, table) in &ruleset.tables {
        if !packet.belongs_to(id.family) {
            continue;
        }
        for (name, chain) in &table.chains {
            if let Some(base) = chain.base.filter(|base| base.hook == hook) {
                bases.push((base.priority, base.kind, base.policy, id.clone(), name.clone()));
            }
        }
    }
    bases.sort_by_key(|(priority, ..)| *priority);
    let mut outcome = Outcome { fate: Fate::Accepted, nat: Vec::new(), steps: Vec::new() };
    for (_, kind, policy, id, name) in bases {
        let nat = kind == ChainKind::Nat;
        // Later packets of a connection are translated as its first was, and the first nat chain that translates decides.
        if nat && (packet.connection.state != CtState::NEW || !outcome.nat.is_empty()) {
            continue;
        }
        let Some(table) = ruleset.tables.get_mut(&id) else { continue };
        let mut walk = Walk { id: &id, table, packet, world, nat: &mut outcome.nat, steps: &mut outcome.steps };
        outcome.fate = match (walk.chain(&name, 0), policy) {
            (End::Fate(fate), _) => fate,
            (End::Through, Policy::Accept) => Fate::Accepted,
            (End::Through, Policy::Drop) => Fate::Dropped,
        };
        if outcome.fate != Fate::Accepted {
            break;
        }
    }
    outcome
}

/// How a chain was left.
enum End {
    /// At its end, or by `return`.
    Through,
    Fate(Fate),
}

/// How a rule was left.
enum After {
    Next,
    Jump(Arc<str>),
    Goto(Arc<str>),
    Return,
    Fate(Fate),
}

struct Walk<'a> {
    id: &'a TableId,
    table: &'a mut Table,
    packet: &'a mut Packet,
    world: &'a mut dyn World,
    nat: &'a mut Vec<Translation>,
    steps: &'a mut Vec<Step>,
}

impl Walk<'_> {
    fn chain(&mut self, name: &Arc<str>, depth: usize) -> End {
        let Some(chain) = self.table.chains.get(name) else { return End::Through };
        let rules: Vec<_> = chain.rules.iter().map(|rule| lower(self.id.family, rule)).collect();
        for (index, exprs) in rules.iter().enumerate() {
            match self.rule(name, index, exprs) {
                After::Next => {}
                After::Return => return End::Through,
                After::Fate(fate) => return End::Fate(fate),
                // The kernel does not load chains that nest deeper.
                After::Jump(_) | After::Goto(_) if depth + 1 >= JUMP_DEPTH => return End::Fate(Fate::Dropped),
                After::Jump(chain) => {
                    if let End::Fate(fate) = self.chain(&chain, depth + 1) {
                        return End::Fate(fate);
                    }
                }
                After::Goto(chain) => return self.chain(&chain, depth + 1),
            }
        }
        End::Through
    }

    fn rule(&mut self, chain: &Arc<str>, rule: usize, exprs: &[crate::expr::Expr]) -> After {
        let mut registers = [0u8; REGISTERS as usize * 4];
        for expr in exprs {
            let mut events = Vec::new();
            let next = self.expr(expr, &mut registers, &mut events);
            let step = |event| Step { table: self.id.clone(), chain: chain.clone(), rule, event };
            self.steps.extend(events.into_iter().map(step));
            match next {
                machine::Next::Go => {}
                machine::Next::Break => return After::Next,
                machine::Next::Leave(after) => return after,
            }
        }
        After::Next
    }
}
