//! Objects as server-side apply sees them: structs, maps, keyed lists and sets to go into, and leaves that are owned as one.
//!
//! What is a leaf is said by the schema (`structType`, `mapType`, `listType`); lists are atomic unless it says otherwise, all else is not.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::set::{Set, Step};
use crate::schema::{Element, Field, ListType, Presence, Shape, Type};

/// Where in the schema a value stands.
#[derive(Debug, Clone, Copy)]
pub enum At {
    Root(&'static Type),
    Field(&'static Field),
    /// An item or an entry of a field.
    Item(&'static Field),
}

/// What stands there.
pub(super) enum Atom {
    Struct(&'static Type),
    /// Entries of any key.
    Map(At),
    List(Items, At),
    Scalar(&'static str),
    /// Any JSON.
    Opaque,
}

/// How the items of a list are told apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Items {
    Index,
    Value,
    Keys(&'static [&'static str]),
    /// The one key that strategic merge uses.
    Key(&'static str),
}

impl At {
    pub(super) fn atom(self) -> Atom {
        match self {
            At::Root(of) => Atom::Struct(of),
            At::Field(field) => match field.shape {
                Shape::One => element_atom(field.element),
                Shape::List => Atom::List(items(field), At::Item(field)),
                Shape::Map => Atom::Map(At::Item(field)),
            },
            At::Item(field) => element_atom(field.element),
        }
    }

    /// Whether the value is owned as one.
    pub(super) fn is_leaf(self) -> bool {
        let one = |element: Element| match element {
            Element::Message(of) => of.atomic,
            _ => true,
        };
        match self {
            At::Root(_) => false,
            At::Field(field) => match field.shape {
                Shape::One => field.atomic || one(field.element),
                Shape::List => items(field) == Items::Index,
                Shape::Map => field.atomic,
            },
            At::Item(field) => one(field.element),
        }
    }

    /// The field of a struct, or the entry of a map; `None` if there is no such field.
    pub(super) fn below(self, name: &str) -> Option<At> {
        match self.atom() {
            Atom::Struct(of) => of.field(name).map(At::Field),
            Atom::Map(entry) => Some(entry),
            Atom::List(..) | Atom::Scalar(_) | Atom::Opaque => None,
        }
    }

    pub(super) fn is_struct(self) -> bool {
        matches!(self.atom(), Atom::Struct(_))
    }
}

fn element_atom(element: Element) -> Atom {
    match element {
        Element::Message(of) => Atom::Struct(of),
        Element::String | Element::Bytes => Atom::Scalar("string"),
        Element::Int32 | Element::Int64 | Element::Double => Atom::Scalar("numeric"),
        Element::Bool => Atom::Scalar("boolean"),
        // Types with JSON of their own are not looked into.
        Element::Time | Element::MicroTime | Element::Quantity | Element::IntOrString => Atom::Scalar(""),
        Element::Raw | Element::Fields | Element::Strings => Atom::Opaque,
    }
}

fn items(field: &'static Field) -> Items {
    match field.list {
        ListType::Set => Items::Value,
        ListType::Map(keys) => Items::Keys(keys),
        // Older fields say it by their patch strategy alone.
        ListType::Atomic if field.merge && !field.merge_key.is_empty() => Items::Key(field.merge_key),
        ListType::Atomic => Items::Index,
    }
}

/// The step to an item of a list, or why it has none.
pub(super) fn step(items: Items, item_at: At, at: usize, item: &Value) -> Result<Step, String> {
    match items {
        Items::Index => Ok(Step::Index(at)),
        Items::Value => match item {
            Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(Step::Value(item.to_string())),
        },
        Items::Keys(keys) => key_step(keys, item_at, item),
        Items::Key(key) => key_step(&[key], item_at, item),
    }
}

fn key_step(keys: &[&str], item_at: At, item: &Value) -> Result<Step, String> {
    let Value::Object(object) = item else {
        let what = if item.is_null() { "a null element" } else { "non-map elements" };
        return Err(format!("associative list with keys may not have {what}"));
    };
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        match key_value(key, item_at, object) {
            Some(value) => found.push(((*key).to_owned(), value)),
            None => {
                return Err(format!(
                    "associative list with keys has an element that omits key field {} (and doesn't have default value)",
                    crate::go::quote(key)
                ));
            }
        }
    }
    found.sort();
    Ok(Step::Key(found))
}

/// What a key field says, or its default says for it. Null, and empty where empty is not written, are as good as left out: the stored item
/// will not have the field, and an item that is applied again has to find it.
fn key_value(key: &str, item_at: At, object: &Map<String, Value>) -> Option<String> {
    let given = object.get(key);
    let Some(At::Field(field)) = item_at.below(key) else { return given.map(Value::to_string) };
    let written = match given {
        Some(Value::String(text)) if text.is_empty() => field.presence != Presence::OmitEmpty,
        Some(Value::Null) => false,
        _ => true,
    };
    let declared = (!field.default.is_empty()).then(|| Value::from(field.default).to_string());
    given.filter(|_| written).map(Value::to_string).or(declared).or_else(|| given.map(Value::to_string))
}

/// Steps of a list that was checked before; an item that has none is told by its index.
pub(super) fn steps(items: Items, item_at: At, list: Option<&Value>) -> Vec<(Step, &Value)> {
    let list = list.and_then(Value::as_array).into_iter().flatten().enumerate();
    list.map(|(at, item)| (step(items, item_at, at, item).unwrap_or(Step::Index(at)), item)).collect()
}

/// The first item of each step: bodies choose how long lists are, so nothing is looked for by going through them.
pub(super) fn by_step<'v>(list: &'v [(Step, &'v Value)]) -> BTreeMap<&'v Step, &'v Value> {
    let mut index = BTreeMap::new();
    for (step, item) in list {
        index.entry(step).or_insert(*item);
    }
    index
}

pub(super) fn is_nothing(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(entries)) => entries.is_empty(),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_)) => false,
    }
}

/// The fields that a configuration names: its leaves, the items of its lists and the entries of its maps.
pub fn fields_of(of: &'static Type, value: &Value) -> Set {
    let mut set = Set::default();
    name_fields(At::Root(of), value, &mut Vec::new(), &mut set);
    set
}

fn name_fields(at: At, value: &Value, path: &mut Vec<Step>, set: &mut Set) {
    if at.is_leaf() {
        return set.insert(path);
    }
    match (at.atom(), value) {
        (Atom::List(items, below), list) => {
            for (step, item) in steps(items, below, Some(list)) {
                path.push(step);
                name_fields(below, item, path, set);
                set.insert(path);
                path.pop();
            }
        }
        (_, Value::Object(entries)) => {
            for (name, value) in entries {
                path.push(Step::Field(name.clone()));
                if let Some(below) = at.below(name) {
                    name_fields(below, value, path, set);
                }
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                if empty || !at.is_struct() {
                    set.insert(path);
                }
                path.pop();
            }
        }
        _ => {}
    }
}

/// What happened to which fields from one object to another.
#[derive(Debug, Default)]
pub struct Comparison {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Comparison {
    /// Without what lies below the named top-level fields.
    pub fn without_fields(self, names: &[&str]) -> Self {
        Comparison {
            added: self.added.without_fields(names),
            modified: self.modified.without_fields(names),
            removed: self.removed.without_fields(names),
        }
    }
}

pub fn compare(of: &'static Type, old: &Value, new: &Value) -> Comparison {
    let mut comparison = Comparison::default();
    compare_at(At::Root(of), Some(old), Some(new), &mut Vec::new(), &mut comparison);
    comparison
}

fn compare_at(at: At, old: Option<&Value>, new: Option<&Value>, path: &mut Vec<Step>, found: &mut Comparison) {
    let container = matches!(at.atom(), Atom::Struct(_) | Atom::Map(_) | Atom::List(..));
    let leaf = at.is_leaf() || !container || (is_nothing(old) && is_nothing(new));
    match (old, new) {
        (None, Some(_)) => found.added.insert(path),
        (Some(_), None) => found.removed.insert(path),
        (Some(old), Some(new)) if leaf && old != new => found.modified.insert(path),
        _ => {}
    }
    if leaf {
        return;
    }
    let mut go = |step: Step, below: At, old: Option<&Value>, new: Option<&Value>| {
        path.push(step);
        compare_at(below, old, new, path, found);
        path.pop();
    };
    if let Atom::List(items, below) = at.atom() {
        let (old, new) = (steps(items, below, old), steps(items, below, new));
        let (in_old, in_new) = (by_step(&old), by_step(&new));
        for (step, item) in &old {
            go(step.clone(), below, Some(item), in_new.get(step).copied());
        }
        for (step, item) in new.iter().filter(|(step, _)| !in_old.contains_key(step)) {
            go(step.clone(), below, None, Some(item));
        }
        return;
    }
    let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
    for (name, value) in old.into_iter().flatten() {
        if let Some(below) = at.below(name) {
            go(Step::Field(name.clone()), below, Some(value), new.and_then(|new| new.get(name)));
        }
    }
    for (name, value) in new.into_iter().flatten().filter(|(name, _)| old.is_none_or(|old| !old.contains_key(*name))) {
        if let Some(below) = at.below(name) {
            go(Step::Field(name.clone()), below, None, Some(value));
        }
    }
}

/// The set with every struct field that has something below it as a member, so that a struct can go when all in it goes.
pub fn with_named_fields(of: &'static Type, set: &Set) -> Set {
    name_members(Some(At::Root(of)), set)
}

fn name_members(at: Option<At>, set: &Set) -> Set {
    let mut all = Set { members: set.members.clone(), children: Default::default() };
    for (step, below) in &set.children {
        let there = match (at, step) {
            (Some(at), Step::Field(name)) => {
                if at.is_struct() && at.below(name).is_some() {
                    all.members.insert(step.clone());
                }
                at.below(name)
            }
            (Some(at), Step::Key(_) | Step::Value(_) | Step::Index(_)) => match at.atom() {
                Atom::List(_, item) => Some(item),
                Atom::Struct(_) | Atom::Map(_) | Atom::Scalar(_) | Atom::Opaque => None,
            },
            (None, _) => None,
        };
        all.children.insert(step.clone(), name_members(there, below));
    }
    all
}
