//! What apply does to objects: merging a configuration in, and taking fields out.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::set::{Set, Step};
use super::typed::{At, Atom, Items, by_step, is_nothing, steps};
use crate::schema::Type;

/// The live object with a configuration merged in: leaves of the configuration win, the rest stays.
pub fn merge(of: &'static Type, live: &Value, config: &Value) -> Value {
    merge_at(At::Root(of), Some(live), Some(config)).unwrap_or(Value::Null)
}

fn merge_at(at: At, live: Option<&Value>, config: Option<&Value>) -> Option<Value> {
    if at.is_leaf() || (is_nothing(live) && is_nothing(config)) {
        return config.or(live).cloned();
    }
    match at.atom() {
        Atom::List(items, below) => Some(Value::Array(merge_lists(items, below, live, config))),
        Atom::Struct(_) | Atom::Map(_) => {
            let (live, config) = (live.and_then(Value::as_object), config.and_then(Value::as_object));
            let mut merged = Map::new();
            for (name, _) in live.into_iter().flatten().chain(config.into_iter().flatten()) {
                if merged.contains_key(name) {
                    continue;
                }
                let mine = live.and_then(|live| live.get(name));
                // A live field that the schema does not know stays; configurations were checked.
                let value = match at.below(name) {
                    Some(below) => merge_at(below, mine, config.and_then(|config| config.get(name))),
                    None => mine.cloned(),
                };
                if let Some(value) = value {
                    merged.insert(name.clone(), value);
                }
            }
            Some(Value::Object(merged))
        }
        Atom::Scalar(_) | Atom::Opaque => config.or(live).cloned(),
    }
}

/// Items in the configuration's order; items that only the live list has stay where they are relative to the shared ones.
fn merge_lists(items: Items, below: At, live: Option<&Value>, config: Option<&Value>) -> Vec<Value> {
    let (live, config) = (steps(items, below, live), steps(items, below, config));
    let (in_live, in_config) = (by_step(&live), by_step(&config));
    let mut shared = config.iter().map(|(step, _)| step).filter(|step| in_live.contains_key(step));
    let mut next_shared = shared.next();
    let mut taken: BTreeSet<&Step> = BTreeSet::new();
    let mut merged = Vec::new();
    let (mut at_live, mut at_config) = (0, 0);
    while at_live < live.len() || at_config < config.len() {
        let (mine, theirs) = (live.get(at_live), config.get(at_config));
        if let (Some((step, mine)), Some((other, theirs))) = (mine, theirs) {
            if step == other {
                merged.extend(merge_at(below, Some(mine), Some(theirs)));
                taken.insert(step);
                at_live += 1;
                at_config += 1;
                next_shared = shared.next();
                continue;
            }
            if in_config.contains_key(step) && next_shared.is_some_and(|next| next != step) {
                // It is shared, but another shared one comes before it.
                at_live += 1;
                continue;
            }
        }
        if let Some((step, mine)) = mine {
            if !in_config.contains_key(step) {
                merged.extend(merge_at(below, Some(mine), None));
                at_live += 1;
                continue;
            }
            if taken.contains(step) {
                at_live += 1;
            }
        }
        if let Some((step, theirs)) = theirs {
            merged.extend(merge_at(below, in_live.get(step).copied(), Some(theirs)));
            taken.insert(step);
            at_config += 1;
            if next_shared == Some(step) {
                next_shared = shared.next();
            }
        } else if mine.is_some_and(|(step, _)| !taken.contains(step)) {
            at_live += 1;
        }
    }
    merged
}

/// The object without the fields of a set; what becomes empty by that becomes nothing.
pub fn remove(of: &'static Type, value: &Value, set: &Set) -> Value {
    remove_at(At::Root(of), value, set).unwrap_or_else(|| Value::Object(Map::new()))
}

fn remove_at(at: At, value: &Value, set: &Set) -> Option<Value> {
    match (at.atom(), value) {
        (Atom::Scalar(_) | Atom::Opaque, value) => Some(value.clone()),
        _ if at.is_leaf() || is_nothing(Some(value)) => None,
        (Atom::List(items, below), list) => {
            let mut kept = Vec::new();
            for (step, item) in steps(items, below, Some(list)) {
                if set.members.contains(&step) {
                    continue;
                }
                kept.push(match set.below(&step) {
                    Some(inner) => remove_at(below, item, inner).unwrap_or(Value::Null),
                    None => item.clone(),
                });
            }
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        (_, Value::Object(entries)) => {
            let mut kept = Map::new();
            for (name, value) in entries {
                let step = Step::Field(name.clone());
                if set.members.contains(&step) {
                    continue;
                }
                let value = match (set.below(&step), at.below(name)) {
                    (Some(inner), Some(below)) => remove_at(below, value, inner).unwrap_or(Value::Null),
                    _ => value.clone(),
                };
                kept.insert(name.clone(), value);
            }
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        (_, value) => Some(value.clone()),
    }
}
