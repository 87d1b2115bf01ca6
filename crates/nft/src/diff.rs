//! The operations that turn one ruleset into another, in an order that the kernel accepts within one batch.
//!
//! Rules go before what they refer to, and come after it: flush, delete elements, delete sets, delete chains, add chains,
//! add sets, add elements, add rules. A set whose declaration changed is made anew, and with it every rule that names it;
//! nothing else is touched. Elements of dynamic sets belong to the packets and are left alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::batch::{Batch, Op, Position, SetRef};
use crate::bytes::Bytes;
use crate::ruleset::{Chain, Data, Element, Elements, Rule, Ruleset, Set, Table, TableId};
use crate::statement::{NatTarget, Statement, Value};

/// The fewest operations that turn `actual` into `desired`. Tables that are only in `actual` are deleted, so give it
/// only tables that are yours.
pub fn diff(actual: &Ruleset, desired: &Ruleset) -> Batch {
    let mut batch = Batch::new();
    for id in actual.tables.keys().filter(|id| !desired.tables.contains_key(id)) {
        batch.push(Op::DeleteTable { table: id.clone(), must_exist: true });
    }
    let nothing = Table::default();
    for (id, wanted) in &desired.tables {
        let mut present = actual.tables.get(id);
        if present.is_some_and(|present| present.comment != wanted.comment) {
            // A table's comment cannot be changed in place.
            batch.push(Op::DeleteTable { table: id.clone(), must_exist: true });
            present = None;
        }
        if present.is_none() {
            batch.push(Op::AddTable { table: id.clone(), comment: wanted.comment.clone() });
        }
        batch.ops.extend(TableDiff::new(id, present.unwrap_or(&nothing), wanted).ops());
    }
    batch
}

/// The operations on one set that is declared the same on both sides: deletions first, then additions.
pub fn diff_elements(set: &SetRef, actual: &Elements, desired: &Elements) -> Vec<Op> {
    let (gone, new) = element_changes(actual, desired, &|_| false);
    [delete_elements(set.clone(), gone), add_elements(set.clone(), new)].into_iter().flatten().collect()
}

type Pairs = Vec<(Bytes, Element)>;

struct TableDiff<'a> {
    id: &'a TableId,
    actual: &'a Table,
    desired: &'a Table,
    /// In both, declared differently.
    replaced_sets: BTreeSet<&'a Arc<str>>,
    replaced_chains: BTreeSet<&'a Arc<str>>,
}

impl<'a> TableDiff<'a> {
    fn new(id: &'a TableId, actual: &'a Table, desired: &'a Table) -> TableDiff<'a> {
        let replaced_sets = actual
            .sets
            .iter()
            .filter(|(name, set)| desired.sets.get(*name).is_some_and(|wanted| wanted.spec != set.spec))
            .map(|(name, _)| name)
            .collect();
        let replaced_chains = actual
            .chains
            .iter()
            .filter(|(name, chain)| desired.chains.get(*name).is_some_and(|wanted| !same_place(chain, wanted)))
            .map(|(name, _)| name)
            .collect();
        TableDiff { id, actual, desired, replaced_sets, replaced_chains }
    }

    fn ops(&self) -> Vec<Op> {
        let mut ops = Vec::new();
        let mut new_rules = Vec::new();
        for (name, chain) in &self.actual.chains {
            match self.desired.chains.get(name) {
                Some(wanted) if !self.replaced_chains.contains(name) => {
                    self.change_rules(name, chain, wanted, &mut ops, &mut new_rules);
                }
                Some(_) | None if !chain.rules.is_empty() => ops.push(self.flush_chain(name)),
                Some(_) | None => {}
            }
        }
        let mut new_elements = Vec::new();
        for (name, set) in &self.actual.sets {
            if let Some(wanted) = self.desired.sets.get(name).filter(|_| !self.replaced_sets.contains(name)) {
                if set.spec.flags.dynamic {
                    continue;
                }
                let (gone, new) = element_changes(&set.elements, &wanted.elements, &|e| self.enters_replaced(e));
                ops.extend(delete_elements(self.set_ref(name, set), gone));
                new_elements.extend(add_elements(self.set_ref(name, set), new));
            }
        }
        self.delete_sets_and_chains(&mut ops);
        self.add_chains_and_sets(&mut ops, &mut new_elements, &mut new_rules);
        ops.extend(new_elements);
        ops.extend(new_rules);
        ops
    }

    fn delete_sets_and_chains(&self, ops: &mut Vec<Op>) {
        for (name, set) in &self.actual.sets {
            if self.replaced_sets.contains(name) || !self.desired.sets.contains_key(name) {
                ops.push(Op::DeleteSet { set: self.set_ref(name, set) });
            }
        }
        for name in self.actual.chains.keys() {
            if self.replaced_chains.contains(name) || !self.desired.chains.contains_key(name) {
                ops.push(Op::DeleteChain { table: self.id.clone(), chain: name.clone() });
            }
        }
    }

    fn add_chains_and_sets(&self, ops: &mut Vec<Op>, new_elements: &mut Vec<Op>, new_rules: &mut Vec<Op>) {
        for (name, chain) in &self.desired.chains {
            let present = self.actual.chains.get(name);
            let fresh = present.is_none() || self.replaced_chains.contains(name);
            if fresh || present.is_some_and(|present| present.base != chain.base) {
                let (base, comment) = (chain.base, chain.comment.clone());
                ops.push(Op::AddChain { table: self.id.clone(), chain: name.clone(), base, comment });
            }
            if fresh {
                new_rules.extend(chain.rules.iter().map(|rule| self.add_rule(name, Position::End, rule)));
            }
        }
        for (name, set) in &self.desired.sets {
            if self.replaced_sets.contains(name) || !self.actual.sets.contains_key(name) {
                let set_ref = self.set_ref(name, set);
                ops.push(Op::AddSet { set: set_ref.clone() });
                let all = set.elements.iter().map(|(key, element)| (key.clone(), element.clone())).collect();
                new_elements.extend(add_elements(set_ref, all));
            }
        }
    }

    /// Keeps the rules that both sides begin and end with; if the kernel's handles of the others are not known, or one that
    /// would stay names something that is made anew, all of the chain's rules are written again.
    fn change_rules(
        &self,
        name: &Arc<str>,
        actual: &Chain,
        desired: &Chain,
        ops: &mut Vec<Op>,
        new_rules: &mut Vec<Op>,
    ) {
        let (old, new) = (&actual.rules, &desired.rules);
        let head = old.iter().zip(new).take_while(|(old, new)| old == new).count();
        let room = old.len().min(new.len()) - head;
        let tail = old.iter().rev().zip(new.iter().rev()).take(room).take_while(|(old, new)| old == new).count();
        let kept = old[..head].iter().chain(&old[old.len() - tail..]);
        let stale = kept.into_iter().any(|rule| self.names_replaced(rule));
        if head == old.len() && head == new.len() && !stale {
            return;
        }
        let gone: Option<Vec<u64>> = old[head..old.len() - tail].iter().map(|rule| rule.handle).collect();
        let place = match old.len() - tail {
            end if end == old.len() => Some(Position::End),
            anchor => old[anchor].handle.map(Position::Before),
        };
        match (gone, place) {
            (Some(gone), Some(place)) if !stale => {
                let (table, chain) = (self.id, name);
                ops.extend(gone.into_iter().map(|handle| Op::DeleteRule {
                    table: table.clone(),
                    chain: chain.clone(),
                    handle,
                }));
                let added = &new[head..new.len() - tail];
                new_rules.extend(added.iter().map(|rule| self.add_rule(name, place, rule)));
            }
            _ => {
                ops.push(self.flush_chain(name));
                new_rules.extend(new.iter().map(|rule| self.add_rule(name, Position::End, rule)));
            }
        }
    }

    fn flush_chain(&self, name: &Arc<str>) -> Op {
        Op::FlushChain { table: self.id.clone(), chain: name.clone() }
    }

    fn add_rule(&self, chain: &Arc<str>, at: Position, rule: &Rule) -> Op {
        let rule = Rule { handle: None, ..rule.clone() };
        Op::AddRule { table: self.id.clone(), chain: chain.clone(), at, rule }
    }

    fn set_ref(&self, name: &Arc<str>, set: &Set) -> SetRef {
        SetRef { table: self.id.clone(), name: name.clone(), spec: set.spec.clone() }
    }

    fn enters_replaced(&self, element: &Element) -> bool {
        match &element.data {
            Data::Verdict(verdict) => verdict.chain().is_some_and(|chain| self.replaced_chains.contains(chain)),
            Data::None | Data::Value(_) => false,
        }
    }

    fn names_replaced(&self, rule: &Rule) -> bool {
        rule.statements.iter().any(|statement| {
            statement.sets().iter().any(|set| self.replaced_sets.contains(set))
                || statement.chain().is_some_and(|chain| self.replaced_chains.contains(chain))
        })
    }
}

/// Whether a chain can stay and at most have its policy changed.
fn same_place(actual: &Chain, desired: &Chain) -> bool {
    let place = |chain: &Chain| chain.base.map(|base| (base.kind, base.hook, base.priority));
    place(actual) == place(desired) && actual.comment == desired.comment
}

/// What to delete and what to add, both sides being in key order. `stale` elements are written again though they are equal.
fn element_changes(actual: &Elements, desired: &Elements, stale: &dyn Fn(&Element) -> bool) -> (Pairs, Pairs) {
    let (mut gone, mut new) = (Vec::new(), Vec::new());
    let (mut left, mut right) = (actual.iter().peekable(), desired.iter().peekable());
    loop {
        let (take_left, take_right) = match (left.peek(), right.peek()) {
            (None, None) => return (gone, new),
            (Some(_), None) => (true, false),
            (None, Some(_)) => (false, true),
            (Some((a, _)), Some((b, _))) => (a <= b, b <= a),
        };
        let old = if take_left { left.next() } else { None };
        let wanted = if take_right { right.next() } else { None };
        if let (Some((_, old)), Some((_, wanted))) = (old, wanted)
            && old == wanted
            && !stale(old)
        {
            continue;
        }
        gone.extend(old.map(|(key, element)| (key.clone(), element.clone())));
        new.extend(wanted.map(|(key, element)| (key.clone(), element.clone())));
    }
}

fn delete_elements(set: SetRef, elements: Pairs) -> Option<Op> {
    (!elements.is_empty()).then_some(Op::DeleteElements { set, elements })
}

fn add_elements(set: SetRef, elements: Pairs) -> Option<Op> {
    (!elements.is_empty()).then_some(Op::AddElements { set, elements })
}

impl Statement {
    /// The sets and maps that the statement names.
    pub fn sets(&self) -> Vec<&Arc<str>> {
        fn of(value: &Value) -> Option<&Arc<str>> {
            match value {
                Value::Map { map, .. } => Some(map),
                Value::Const(_) | Value::Fields(_) => None,
            }
        }
        match self {
            Statement::Lookup { set, .. } => vec![set],
            Statement::VerdictMap { map, .. } => vec![map],
            Statement::SetMark(value) | Statement::SetCtMark(value) | Statement::SetField { to: value, .. } => {
                of(value).into_iter().collect()
            }
            Statement::Dynset { set, data, .. } => [set].into_iter().chain(data.as_ref().and_then(of)).collect(),
            Statement::Nat { to: NatTarget::Map { map, .. }, .. } => vec![map],
            Statement::Nat { to: NatTarget::V4(..) | NatTarget::V6(..), .. }
            | Statement::Match { .. }
            | Statement::Flags { .. }
            | Statement::Range { .. }
            | Statement::UpdateMark { .. }
            | Statement::Masquerade { .. }
            | Statement::Reject(_)
            | Statement::Counter(_)
            | Statement::Limit(_)
            | Statement::Log { .. }
            | Statement::Notrack
            | Statement::Verdict(_)
            | Statement::Foreign(_) => Vec::new(),
        }
    }

    /// The chain that the statement sends packets to.
    pub fn chain(&self) -> Option<&Arc<str>> {
        if let Statement::Verdict(verdict) = self { verdict.chain() } else { None }
    }
}
