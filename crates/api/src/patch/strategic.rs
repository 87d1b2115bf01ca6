//! Strategic merge: a patch that knows lists. What merges and by which key is said by the schema; the rest by directives in the patch.
//!
//! The order of merged lists follows upstream: the order that the patch gives (by `$setElementOrder`, else by the patch's own list), and
//! items that only the server has keep their places relative to the live list.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::go;
use crate::schema::{Element, Field, Shape, Type};

type Object = Map<String, Value>;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// What is known about the fields of an object.
#[derive(Clone, Copy)]
enum Schema {
    Of(&'static Type),
    /// Entries of a map.
    Entries(Element),
    /// Free-form JSON.
    Free,
}

impl Schema {
    fn field(self, name: &str) -> Result<Option<&'static Field>, String> {
        match self {
            Schema::Of(of) => of.field(name).map(Some).ok_or_else(|| {
                format!("unable to find api field in struct {} for the json field {}", of.name, go::quote(name))
            }),
            Schema::Entries(_) | Schema::Free => Ok(None),
        }
    }

    /// What the objects are that stand in a field, or are the items of its list.
    fn below(self, field: Option<&'static Field>) -> Schema {
        let of = |element: Element| match element {
            Element::Message(of) => Schema::Of(of),
            _ => Schema::Free,
        };
        match (self, field) {
            (_, Some(field)) if field.shape == Shape::Map => Schema::Entries(field.element),
            (_, Some(field)) => of(field.element),
            (Schema::Entries(element), None) => of(element),
            (Schema::Of(_) | Schema::Free, None) => Schema::Free,
        }
    }
}

/// The original with the patch merged in.
pub(super) fn merge(of: &'static Type, original: Object, patch: Object) -> Result<Object, String> {
    merge_objects(Schema::Of(of), original, patch)
}

fn merge_objects(schema: Schema, mut original: Object, mut patch: Object) -> Result<Object, String> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => {
            patch.remove(DIRECTIVE);
            return Ok(patch);
        }
        Some("delete") => return Ok(Object::new()),
        // `merge` is what happens anyway.
        Some("merge") => drop(patch.remove(DIRECTIVE)),
        _ if patch.contains_key(DIRECTIVE) => return Err(unknown_directive(&patch)),
        _ => {}
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(schema, &mut original, &mut patch)?;
    for (key, value) in patch {
        if let Some(name) = key.strip_prefix(DELETE_FROM) {
            delete_from_list(&mut original, name, &value)?;
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(mine)), Value::Object(value)) => {
                let field = schema.field(&key)?;
                Value::Object(merge_objects(schema.below(field), mine, value)?)
            }
            (Some(Value::Array(mine)), Value::Array(value)) => {
                let field = schema.field(&key)?;
                match field.filter(|field| field.merge) {
                    Some(field) => Value::Array(merge_lists(schema.below(Some(field)), field.merge_key, mine, value)?),
                    None => Value::Array(value),
                }
            }
            (_, value) => match plain(value) {
                Some(value) => value,
                None => continue,
            },
        };
        original.insert(key, merged);
    }
    Ok(original)
}

/// What a value that is new to the object is without directives and nulls; an object that carries a `$patch` stands for nothing.
fn plain(value: Value) -> Option<Value> {
    match value {
        Value::Object(entries) if entries.contains_key(DIRECTIVE) => None,
        Value::Object(entries) => {
            let keep = |(name, value): &(String, Value)| {
                !value.is_null()
                    && name != RETAIN_KEYS
                    && !name.starts_with(SET_ORDER)
                    && !name.starts_with(DELETE_FROM)
            };
            let entries = entries.into_iter().filter(keep);
            Some(Value::Object(entries.filter_map(|(name, value)| Some((name, plain(value)?))).collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(plain).collect())),
        scalar => Some(scalar),
    }
}

/// `$retainKeys` names all keys that stay, and so all that the patch may set.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), String> {
    const WRONG: &str = "invalid patch format of retainKeys";
    let Some(retained) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let retained = retained.as_array().ok_or(WRONG)?;
    let keeps = |key: &str| retained.iter().any(|kept| kept.as_str() == Some(key));
    for (key, value) in patch.iter() {
        if !value.is_null() && !key.starts_with(DELETE_FROM) && !key.starts_with(SET_ORDER) && !keeps(key) {
            return Err(WRONG.to_owned());
        }
    }
    original.retain(|key, _| keeps(key));
    Ok(())
}

/// Merges each list that a `$setElementOrder/…` speaks of, and takes both out of the patch.
fn merge_ordered_lists(schema: Schema, original: &mut Object, patch: &mut Object) -> Result<(), String> {
    const WRONG: &str = "invalid patch format of setElementOrder list";
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let Some(order) = patch.remove(&directive) else { continue };
        let order = list(order)?;
        let name = directive.strip_prefix(SET_ORDER).ok_or(WRONG)?;
        let field = schema.field(name)?;
        let key = field.map_or("", |field| field.merge_key);
        let mine = original.remove(name).filter(|value| !value.is_null()).map(list).transpose()?;
        let new = patch.remove(name).filter(|value| !value.is_null()).map(list).transpose()?;
        check_order(key, new.as_deref().unwrap_or_default(), &order)?;
        let live = live_order(key, mine.as_deref().unwrap_or_default(), new.as_deref().unwrap_or_default())?;
        let merged = match (mine, new) {
            (None, None) => continue,
            (Some(mine), None) => mine,
            (None, Some(new)) => new.into_iter().filter_map(plain).collect(),
            (Some(mine), Some(new)) => match field.filter(|field| field.merge) {
                Some(field) => merge_lists(schema.below(Some(field)), key, mine, new)?,
                None => new,
            },
        };
        original.insert(name.to_owned(), Value::Array(ordered(key, merged, &order, &live)?));
    }
    Ok(())
}

/// The order that items which the patch does not name keep: the live list's, in which added items stand where deleted ones freed a place
/// at the end. (Upstream edits the list in place and then looks the order up in it.)
fn live_order(key: &str, mine: &[Value], new: &[Value]) -> Result<Vec<Value>, String> {
    let deletes = |item: &&Value| item.get(DIRECTIVE).and_then(Value::as_str) == Some("delete");
    let mut gone = BTreeSet::new();
    for item in new.iter().filter(deletes) {
        gone.insert(identity(key, item)?.to_string());
    }
    let known = places(key, mine);
    let place = |item: &Value| identity(key, item).map(|identity| identity.to_string());
    let mut order: Vec<Value> =
        mine.iter().filter(|item| place(item).is_ok_and(|place| !gone.contains(&place))).cloned().collect();
    let free = mine.len() - order.len();
    let added = new.iter().filter(|item| item.get(DIRECTIVE).is_none());
    let added = added.filter(|item| place(item).is_ok_and(|place| !known.contains_key(&place)));
    order.extend(added.take(free).cloned());
    Ok(order)
}

fn list(value: Value) -> Result<Vec<Value>, String> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(format!("expected a []interface {{}}, but received a {}", go_type(&other))),
    }
}

/// The patch's items must stand in the order that the directive gives.
fn check_order(key: &str, new: &[Value], order: &[Value]) -> Result<(), String> {
    if new.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in new.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        let wanted = identity(key, item)?;
        loop {
            match rest.next() {
                Some(next) if identity(key, next)? == wanted => break,
                Some(_) => {}
                None => {
                    let (new, order) = (Value::from(new.to_vec()), Value::from(order.to_vec()));
                    return Err(format!(
                        "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                        go::text(&new),
                        go::text(&order)
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Merges a patch's list into the live one, by key or, for scalars, as sets.
fn merge_lists(schema: Schema, key: &str, mine: Vec<Value>, new: Vec<Value>) -> Result<Vec<Value>, String> {
    let Some(first) = mine.iter().chain(&new).next() else { return Ok(mine) };
    let objects = first.is_object();
    if first.is_array() {
        return Err("lists of lists are not supported".to_owned());
    }
    if mine.iter().chain(&new).any(|item| item.is_object() != objects) {
        let all = Value::from(vec![Value::Array(mine), Value::Array(new)]);
        return Err(format!("list element types are not identical: {}", go::text(&all)));
    }
    if !objects {
        let live = mine.clone();
        let mut seen = BTreeSet::new();
        let both = mine.into_iter().chain(new.iter().cloned());
        let merged = both.filter(|item| seen.insert(item.to_string())).collect();
        return ordered("", merged, &new, &live);
    }
    if key.is_empty() {
        return Err("cannot merge lists without merge key for struct".to_owned());
    }
    let (mut merged, new) = apply_directives(key, mine, new)?;
    let live = merged.clone();
    let mut places = places(key, &merged);
    for item in &new {
        let wanted = identity(key, item)?.to_string();
        let Value::Object(item) = item.clone() else { continue };
        match places.get(&wanted).and_then(|at| merged.get_mut(*at)) {
            Some(one) => {
                let Value::Object(current) = one.take() else { continue };
                *one = Value::Object(merge_objects(schema, current, item)?);
            }
            None => {
                places.insert(wanted, merged.len());
                merged.extend(plain(Value::Object(item)));
            }
        }
    }
    ordered(key, merged, &new, &live)
}

/// Carries out the items that are directives; what is left are items to merge.
fn apply_directives(key: &str, mut mine: Vec<Value>, new: Vec<Value>) -> Result<(Vec<Value>, Vec<Value>), String> {
    let mut rest = Vec::new();
    let mut unwanted = BTreeSet::new();
    let mut replace = false;
    for item in new {
        let Some(directive) = item.get(DIRECTIVE) else {
            rest.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                unwanted.insert(identity(key, &item)?.to_string());
            }
            Some("replace") => replace = true,
            Some("merge") => return Err("merging lists cannot yet be specified in the patch".to_owned()),
            _ => return Err(unknown_directive(item.as_object().unwrap_or(&Object::new()))),
        }
    }
    mine.retain(|one| one.get(key).is_none_or(|value| !unwanted.contains(&value.to_string())));
    Ok(if replace { (rest.into_iter().filter_map(plain).collect(), Vec::new()) } else { (mine, rest) })
}

fn delete_from_list(original: &mut Object, name: &str, unwanted: &Value) -> Result<(), String> {
    let Some(unwanted) = unwanted.as_array() else { return Err("invalid patch format of primitive list".to_owned()) };
    let unwanted: BTreeSet<String> = unwanted.iter().map(Value::to_string).collect();
    if let Some(Value::Array(items)) = original.get_mut(name) {
        items.retain(|item| !unwanted.contains(&item.to_string()));
    }
    Ok(())
}

/// What tells an item from others: the value of its merge key, or a scalar itself.
fn identity(key: &str, item: &Value) -> Result<Value, String> {
    if key.is_empty() {
        return Ok(item.clone());
    }
    let Some(object) = item.as_object() else {
        return Err(format!("expected a map[string]interface {{}}, but received a {}", go_type(item)));
    };
    object
        .get(key)
        .cloned()
        .ok_or_else(|| format!("map: {} does not contain declared merge key: {key}", go::text(item)))
}

/// Items that `order` names come in its order; the others keep their places relative to the live list.
fn ordered(key: &str, merged: Vec<Value>, order: &[Value], live: &[Value]) -> Result<Vec<Value>, String> {
    let (in_order, in_live) = (places(key, order), places(key, live));
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for item in merged {
        let wanted = identity(key, &item)?.to_string();
        let at_live = in_live.get(&wanted).copied();
        match in_order.get(&wanted).copied() {
            Some(at) => named.push((at, at_live, item)),
            None => others.push((at_live.unwrap_or(usize::MAX), at_live, item)),
        }
    }
    named.sort_by_key(|(at, _, _)| *at);
    others.sort_by_key(|(at, _, _)| *at);
    let mut named = named.into_iter().peekable();
    let mut others = others.into_iter().peekable();
    let mut all = Vec::new();
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (None, None) => return Ok(all),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((_, other, _)), Some((_, name, _))) => {
                matches!((other, name), (Some(other), Some(name)) if other < name)
            }
        };
        let next = if other_first { others.next() } else { named.next() };
        all.extend(next.map(|(_, _, item)| item));
    }
}

/// The first place of each identity in a list: patches choose how long lists are, so nothing is looked for by going through them.
fn places(key: &str, list: &[Value]) -> BTreeMap<String, usize> {
    let mut places = BTreeMap::new();
    for (at, item) in list.iter().enumerate() {
        let identity = if key.is_empty() { Some(item) } else { item.get(key) };
        if let Some(identity) = identity {
            places.entry(identity.to_string()).or_insert(at);
        }
    }
    places
}

fn unknown_directive(patch: &Object) -> String {
    let directive = patch.get(DIRECTIVE).map(go::text).unwrap_or_default();
    format!("unknown patch type: {directive} in map: {}", go::text(&Value::Object(patch.clone())))
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests;
