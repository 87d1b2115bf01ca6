//! What the kernel checks before it takes an operation, and the errors that it gives.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::batch::Op;
use crate::bytes::Bytes;
use crate::errno::Errno;
use crate::field::Field;
use crate::ruleset::{Data, DataSpec, Element, Rule, Ruleset, Set, SetSpec, Table};
use crate::statement::{NatTarget, Statement, Value};

/// `NFT_JUMP_STACK_SIZE`: how deep jumps may nest.
const JUMP_DEPTH: usize = 16;
/// `NFT_DATA_VALUE_MAXLEN`: the longest key or value in bytes.
const VALUE_MAX: usize = 64;

/// Whether rules or verdict maps refer to the chain.
pub(super) fn chain_in_use(table: &Table, name: &Arc<str>) -> bool {
    let rules = table.chains.iter().filter(|(chain, _)| *chain != name).flat_map(|(_, chain)| &chain.rules);
    let mut statements = rules.flat_map(|rule| &rule.statements);
    statements.any(|statement| statement.chain() == Some(name))
        || verdict_maps(table).any(|set| set.elements.values().any(|element| target(element) == Some(name)))
}

/// Whether rules refer to the set.
pub(super) fn set_in_use(table: &Table, name: &Arc<str>) -> bool {
    let mut statements = table.chains.values().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.statements);
    statements.any(|statement| statement.sets().contains(&name))
}

/// A set that no kernel would make.
pub(super) fn spec(spec: &SetSpec) -> Result<(), Errno> {
    let too_long = |fields: &[Field]| fields.is_empty() || width(fields) > VALUE_MAX;
    let data_too_long = match &spec.data {
        Some(DataSpec::Value(fields)) => too_long(fields),
        Some(DataSpec::Verdict) | None => false,
    };
    if too_long(&spec.key) || data_too_long || (spec.timeout.is_some() && !spec.flags.timeout) {
        return Err(Errno::EINVAL);
    }
    if spec.flags.dynamic && spec.flags.interval {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(())
}

/// A rule that refers to what is not there, or uses it as what it is not.
pub(super) fn rule(table: &Table, rule: &Rule) -> Result<(), Errno> {
    for statement in &rule.statements {
        if statement.chain().is_some_and(|chain| !table.chains.contains_key(chain)) {
            return Err(Errno::ENOENT);
        }
        for name in statement.sets() {
            table.sets.get(name).ok_or(Errno::ENOENT)?;
        }
        used_rightly(table, statement)?;
    }
    Ok(())
}

/// Whether the sets and maps that a statement names are what it takes them for.
fn used_rightly(table: &Table, statement: &Statement) -> Result<(), Errno> {
    let value = |data: Option<&DataSpec>| matches!(data, Some(DataSpec::Value(_)));
    match statement {
        Statement::Lookup { key, set, .. } => lookup(table, key, set, |data| data.is_none()),
        Statement::VerdictMap { key, map } => lookup(table, key, map, |data| matches!(data, Some(DataSpec::Verdict))),
        Statement::Dynset { set, key, .. } => {
            lookup(table, key, set, |_| true)?;
            let dynamic = table.sets.get(set).is_some_and(|set| set.spec.flags.dynamic);
            if dynamic { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
        }
        Statement::SetMark(Value::Map { key, map })
        | Statement::SetCtMark(Value::Map { key, map })
        | Statement::SetField { to: Value::Map { key, map }, .. }
        | Statement::Nat { to: NatTarget::Map { key, map, .. }, .. } => lookup(table, key, map, value),
        Statement::SetMark(Value::Const(_) | Value::Fields(_))
        | Statement::SetCtMark(Value::Const(_) | Value::Fields(_))
        | Statement::SetField { to: Value::Const(_) | Value::Fields(_), .. }
        | Statement::Nat { to: NatTarget::V4(..) | NatTarget::V6(..), .. }
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
        | Statement::Foreign(_) => Ok(()),
    }
}

fn lookup(table: &Table, key: &[Field], set: &str, fits: impl Fn(Option<&DataSpec>) -> bool) -> Result<(), Errno> {
    let spec = &table.sets.get(set).ok_or(Errno::ENOENT)?.spec;
    if width(key) == width(&spec.key) && fits(spec.data.as_ref()) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// An element that does not fit the set's declaration.
pub(super) fn element(spec: &SetSpec, key: &Bytes, element: &Element) -> Result<(), Errno> {
    let data_fits = match (&spec.data, &element.data) {
        (None, Data::None) | (Some(DataSpec::Verdict), Data::Verdict(_)) => true,
        (Some(DataSpec::Value(fields)), Data::Value(value)) => value.len() == width(fields),
        (None | Some(_), Data::None | Data::Value(_) | Data::Verdict(_)) => false,
    };
    let end_fits = element.end().is_none_or(|end| spec.flags.interval && end.len() == key.len() && end >= key);
    let timeout_fits = element.get_timeout().is_none() || spec.flags.timeout;
    let fits = data_fits && end_fits && timeout_fits && key.len() == width(&spec.key);
    if fits { Ok(()) } else { Err(Errno::EINVAL) }
}

/// No room for one more element: the set is full, or the range overlaps another.
pub(super) fn room(set: &Set, key: &Bytes, element: &Element) -> Result<(), Errno> {
    if set.spec.size.is_some_and(|size| set.elements.len() >= size as usize) {
        return Err(Errno::ENFILE);
    }
    if !set.spec.flags.interval || set.spec.key.len() > 1 {
        return Ok(());
    }
    let last = element.end().unwrap_or(key);
    let before = set.elements.range::<Bytes, _>(..=key).next_back();
    let overlaps_before = before.is_some_and(|(start, other)| other.end().unwrap_or(start) >= key);
    let overlaps_after = set.elements.range::<Bytes, _>(key..).next().is_some_and(|(start, _)| start <= last);
    if overlaps_before || overlaps_after { Err(Errno::ENOTEMPTY) } else { Ok(()) }
}

pub(super) fn adds_verdicts(op: &Op) -> bool {
    matches!(op, Op::AddElements { set, .. } if set.spec.data == Some(DataSpec::Verdict))
}

/// Chains that lead back to themselves, or too deep.
pub(super) fn jumps(ruleset: &Ruleset) -> Result<(), Errno> {
    for table in ruleset.tables.values() {
        let mut depths = BTreeMap::new();
        for name in table.chains.keys() {
            depth(table, name, 0, &mut depths)?;
        }
    }
    Ok(())
}

/// How many jumps deep the chains from `name` go.
fn depth<'a>(
    table: &'a Table,
    name: &'a Arc<str>,
    level: usize,
    known: &mut BTreeMap<&'a Arc<str>, usize>,
) -> Result<usize, Errno> {
    if level >= JUMP_DEPTH {
        return Err(Errno::EMLINK);
    }
    if let Some(depth) = known.get(name) {
        return if level + depth < JUMP_DEPTH { Ok(*depth) } else { Err(Errno::EMLINK) };
    }
    let mut deepest = 0;
    for statement in table.chains.get(name).into_iter().flat_map(|chain| &chain.rules).flat_map(|r| &r.statements) {
        let direct = statement.chain();
        let map = if let Statement::VerdictMap { map, .. } = statement { table.sets.get(map) } else { None };
        let by_map = map.into_iter().flat_map(|set| set.elements.values().filter_map(target));
        for next in direct.into_iter().chain(by_map) {
            deepest = deepest.max(1 + depth(table, next, level + 1, known)?);
        }
    }
    known.insert(name, deepest);
    Ok(deepest)
}

fn verdict_maps(table: &Table) -> impl Iterator<Item = &Set> {
    table.sets.values().filter(|set| set.spec.data == Some(DataSpec::Verdict))
}

fn target(element: &Element) -> Option<&Arc<str>> {
    match &element.data {
        Data::Verdict(verdict) => verdict.chain(),
        Data::None | Data::Value(_) => None,
    }
}

fn width(fields: &[Field]) -> usize {
    fields.iter().map(|field| field.padded()).sum()
}
