//! A kernel in memory: takes batches whole or refuses them whole, with the errors that nf_tables gives.
//!
//! It stands in for the real one in tests of whatever plans rulesets, and `Ruleset::apply` lets a program keep its own
//! idea of what the kernel holds in step with the batches that the kernel took. A batch costs what it changes: nothing
//! is copied, and what a refused batch had done is taken back from a log.

mod checks;

use std::sync::Arc;

use crate::batch::{Batch, Op, Position, SetRef};
use crate::bytes::Bytes;
use crate::errno::Errno;
use crate::ruleset::{Base, Chain, Data, Element, Rule, Ruleset, Set, Table, TableId};

/// A batch was refused; nothing of it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("operation {op} of the batch was refused: {errno}")]
pub struct Refused {
    /// Index of the operation in the batch.
    pub op: usize,
    pub errno: Errno,
}

/// The kernel's part of nf_tables, in memory.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    ruleset: Ruleset,
    last_handle: u64,
    generation: u32,
    next_refusal: Option<Refused>,
}

impl Memory {
    pub fn new() -> Memory {
        Memory::default()
    }

    /// What it holds, rule handles included.
    pub fn ruleset(&self) -> &Ruleset {
        &self.ruleset
    }

    /// Counts the batches that changed something.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Takes the batch, or refuses it and stays as it was.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), Refused> {
        if let Some(refusal) = self.next_refusal.take() {
            return Err(refusal);
        }
        let mut handles = Handles::From(self.last_handle);
        apply(&mut self.ruleset, batch, &mut handles)?;
        if let Handles::From(last) = handles {
            self.last_handle = last;
        }
        self.generation += u32::from(!batch.is_empty());
        Ok(())
    }

    /// Refuses the next batch with this error, as a kernel short of memory would.
    pub fn refuse_next(&mut self, op: usize, errno: Errno) {
        self.next_refusal = Some(Refused { op, errno });
    }

    /// What another program would do behind our back.
    pub fn ruleset_mut(&mut self) -> &mut Ruleset {
        &mut self.ruleset
    }
}

impl Ruleset {
    /// Carries the batch out, or refuses it and stays as it was. Rules that it adds have no handle, since only the
    /// kernel that takes them knows theirs.
    pub fn apply(&mut self, batch: &Batch) -> Result<(), Refused> {
        apply(self, batch, &mut Handles::Unknown)
    }
}

/// Where handles of new rules come from.
enum Handles {
    Unknown,
    /// Numbered from the one after this.
    From(u64),
}

impl Handles {
    fn next(&mut self) -> Option<u64> {
        match self {
            Handles::Unknown => None,
            Handles::From(last) => {
                *last += 1;
                Some(*last)
            }
        }
    }
}

fn apply(ruleset: &mut Ruleset, batch: &Batch, handles: &mut Handles) -> Result<(), Refused> {
    let mut log = Vec::new();
    let mut result = Ok(());
    let mut rules_changed = None;
    for (index, op) in batch.ops.iter().enumerate() {
        if matches!(op, Op::AddRule { .. }) || checks::adds_verdicts(op) {
            rules_changed = Some((index, op));
        }
        if let Err(errno) = apply_op(ruleset, op, handles, &mut log) {
            result = Err(Refused { op: index, errno });
            break;
        }
    }
    if let (Ok(()), Some((op, _))) = (result, rules_changed) {
        // The kernel walks the chains once, when the batch is complete.
        result = checks::jumps(ruleset).map_err(|errno| Refused { op, errno });
    }
    if result.is_err() {
        for undo in log.into_iter().rev() {
            undo.carry_out(ruleset);
        }
    }
    result
}

/// How to take back one change.
enum Undo {
    Table(TableId, Option<Table>),
    Chain(TableId, Arc<str>, Option<Chain>),
    Base(TableId, Arc<str>, Option<Base>),
    Rules(TableId, Arc<str>, Vec<Rule>),
    Set(TableId, Arc<str>, Option<Set>),
    Element(TableId, Arc<str>, Bytes, Option<Element>),
}

impl Undo {
    fn carry_out(self, ruleset: &mut Ruleset) {
        match self {
            Undo::Table(id, Some(table)) => drop(ruleset.tables.insert(id, table)),
            Undo::Table(id, None) => drop(ruleset.tables.remove(&id)),
            Undo::Chain(id, name, chain) => {
                let chains = &mut ruleset.tables.entry(id).or_default().chains;
                match chain {
                    Some(chain) => drop(chains.insert(name, chain)),
                    None => drop(chains.remove(&name)),
                }
            }
            Undo::Base(id, name, base) => ruleset.tables.entry(id).or_default().chain(&name).base = base,
            Undo::Rules(id, name, rules) => ruleset.tables.entry(id).or_default().chain(&name).rules = rules,
            Undo::Set(id, name, set) => {
                let sets = &mut ruleset.tables.entry(id).or_default().sets;
                match set {
                    Some(set) => drop(sets.insert(name, set)),
                    None => drop(sets.remove(&name)),
                }
            }
            Undo::Element(id, name, key, element) => {
                let table = ruleset.tables.entry(id).or_default();
                let elements = table.sets.get_mut(&name).map(|set| &mut set.elements);
                match (elements, element) {
                    (Some(elements), Some(element)) => drop(elements.insert(key, element)),
                    (Some(elements), None) => drop(elements.remove(&key)),
                    (None, _) => {}
                }
            }
        }
    }
}

fn apply_op(ruleset: &mut Ruleset, op: &Op, handles: &mut Handles, log: &mut Vec<Undo>) -> Result<(), Errno> {
    match op {
        Op::AddTable { table, comment } => {
            if !ruleset.tables.contains_key(table) {
                let new = Table { comment: comment.clone(), ..Table::default() };
                ruleset.tables.insert(table.clone(), new);
                log.push(Undo::Table(table.clone(), None));
            }
            Ok(())
        }
        Op::DeleteTable { table, must_exist } => match ruleset.tables.remove(table) {
            Some(old) => {
                log.push(Undo::Table(table.clone(), Some(old)));
                Ok(())
            }
            None if *must_exist => Err(Errno::ENOENT),
            None => Ok(()),
        },
        Op::AddChain { table, chain, base, comment } => {
            let new = Chain { base: *base, comment: comment.clone(), rules: Vec::new() };
            add_chain(ruleset, table, chain, new, log)
        }
        Op::DeleteChain { table, chain } => delete_chain(ruleset, table, chain, log),
        Op::FlushChain { table, chain } => {
            let target = table_mut(ruleset, table)?.chains.get_mut(chain).ok_or(Errno::ENOENT)?;
            log.push(Undo::Rules(table.clone(), chain.clone(), std::mem::take(&mut target.rules)));
            Ok(())
        }
        Op::AddRule { table, chain, at, rule } => {
            let inside = table_mut(ruleset, table)?;
            checks::rule(inside, rule)?;
            let target = inside.chains.get_mut(chain).ok_or(Errno::ENOENT)?;
            log.push(Undo::Rules(table.clone(), chain.clone(), target.rules.clone()));
            let index = place(&target.rules, *at)?;
            target.rules.insert(index, Rule { handle: handles.next(), ..rule.clone() });
            Ok(())
        }
        Op::DeleteRule { table, chain, handle } => {
            let target = table_mut(ruleset, table)?.chains.get_mut(chain).ok_or(Errno::ENOENT)?;
            let index = find_rule(&target.rules, *handle)?;
            log.push(Undo::Rules(table.clone(), chain.clone(), target.rules.clone()));
            target.rules.remove(index);
            Ok(())
        }
        Op::AddSet { set } => add_set(ruleset, set, log),
        Op::DeleteSet { set } => delete_set(ruleset, set, log),
        Op::FlushSet { set } => {
            let target = set_mut(ruleset, set)?;
            let old = target.clone();
            target.elements.clear();
            log.push(Undo::Set(set.table.clone(), set.name.clone(), Some(old)));
            Ok(())
        }
        Op::AddElements { set, elements } => add_elements(ruleset, set, elements, log),
        Op::DeleteElements { set, elements } => delete_elements(ruleset, set, elements, log),
    }
}

fn table_mut<'a>(ruleset: &'a mut Ruleset, id: &TableId) -> Result<&'a mut Table, Errno> {
    ruleset.tables.get_mut(id).ok_or(Errno::ENOENT)
}

fn set_mut<'a>(ruleset: &'a mut Ruleset, set: &SetRef) -> Result<&'a mut Set, Errno> {
    table_mut(ruleset, &set.table)?.sets.get_mut(&set.name).ok_or(Errno::ENOENT)
}

fn find_rule(rules: &[Rule], handle: u64) -> Result<usize, Errno> {
    rules.iter().position(|rule| rule.handle == Some(handle)).ok_or(Errno::ENOENT)
}

fn place(rules: &[Rule], at: Position) -> Result<usize, Errno> {
    match at {
        Position::End => Ok(rules.len()),
        Position::Before(handle) => find_rule(rules, handle),
        Position::After(handle) => find_rule(rules, handle).map(|index| index + 1),
    }
}

fn add_chain(
    ruleset: &mut Ruleset,
    id: &TableId,
    name: &Arc<str>,
    new: Chain,
    log: &mut Vec<Undo>,
) -> Result<(), Errno> {
    let table = table_mut(ruleset, id)?;
    let Some(present) = table.chains.get_mut(name) else {
        table.chains.insert(name.clone(), new);
        log.push(Undo::Chain(id.clone(), name.clone(), None));
        return Ok(());
    };
    let place = |base: Option<Base>| base.map(|base| (base.kind, base.hook, base.priority));
    if new.base.is_some() && place(present.base) != place(new.base) {
        return Err(Errno::EEXIST);
    }
    if new.base.is_some() && present.base != new.base {
        log.push(Undo::Base(id.clone(), name.clone(), present.base));
        present.base = new.base;
    }
    Ok(())
}

fn delete_chain(ruleset: &mut Ruleset, id: &TableId, name: &Arc<str>, log: &mut Vec<Undo>) -> Result<(), Errno> {
    let table = table_mut(ruleset, id)?;
    if !table.chains.contains_key(name) {
        return Err(Errno::ENOENT);
    }
    if checks::chain_in_use(table, name) {
        return Err(Errno::EBUSY);
    }
    let old = table.chains.remove(name);
    log.push(Undo::Chain(id.clone(), name.clone(), old));
    Ok(())
}

fn add_set(ruleset: &mut Ruleset, set: &SetRef, log: &mut Vec<Undo>) -> Result<(), Errno> {
    checks::spec(&set.spec)?;
    let table = table_mut(ruleset, &set.table)?;
    match table.sets.get(&set.name) {
        Some(present) if present.spec == set.spec => Ok(()),
        Some(_) => Err(Errno::EEXIST),
        None => {
            table.sets.insert(set.name.clone(), Set::new(set.spec.clone()));
            log.push(Undo::Set(set.table.clone(), set.name.clone(), None));
            Ok(())
        }
    }
}

fn delete_set(ruleset: &mut Ruleset, set: &SetRef, log: &mut Vec<Undo>) -> Result<(), Errno> {
    let table = table_mut(ruleset, &set.table)?;
    if !table.sets.contains_key(&set.name) {
        return Err(Errno::ENOENT);
    }
    if checks::set_in_use(table, &set.name) {
        return Err(Errno::EBUSY);
    }
    let old = table.sets.remove(&set.name);
    log.push(Undo::Set(set.table.clone(), set.name.clone(), old));
    Ok(())
}

fn add_elements(
    ruleset: &mut Ruleset,
    set_ref: &SetRef,
    elements: &[(Bytes, Element)],
    log: &mut Vec<Undo>,
) -> Result<(), Errno> {
    let table = table_mut(ruleset, &set_ref.table)?;
    for (_, element) in elements {
        if let Data::Verdict(verdict) = &element.data
            && verdict.chain().is_some_and(|chain| !table.chains.contains_key(chain))
        {
            return Err(Errno::ENOENT);
        }
    }
    let set = table.sets.get_mut(&set_ref.name).ok_or(Errno::ENOENT)?;
    for (key, element) in elements {
        checks::element(&set.spec, key, element)?;
        if let Some(present) = set.elements.get(key) {
            if present.data != element.data || present.end() != element.end() {
                return Err(Errno::EEXIST);
            }
            continue;
        }
        checks::room(set, key, element)?;
        set.elements.insert(key.clone(), element.clone());
        log.push(Undo::Element(set_ref.table.clone(), set_ref.name.clone(), key.clone(), None));
    }
    Ok(())
}

fn delete_elements(
    ruleset: &mut Ruleset,
    set_ref: &SetRef,
    elements: &[(Bytes, Element)],
    log: &mut Vec<Undo>,
) -> Result<(), Errno> {
    let set = set_mut(ruleset, set_ref)?;
    for (key, element) in elements {
        if set.elements.get(key).is_none_or(|present| present.end() != element.end()) {
            return Err(Errno::ENOENT);
        }
        let old = set.elements.remove(key);
        log.push(Undo::Element(set_ref.table.clone(), set_ref.name.clone(), key.clone(), old));
    }
    Ok(())
}
