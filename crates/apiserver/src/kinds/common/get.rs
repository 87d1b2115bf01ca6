//! Reading and writing fields of an object as JSON, by JSON pointer (`/spec/type`), with Kubernetes' idea of absence: a field that is
//! not there reads as its empty value, and setting a field makes the objects on its way.

use serde_json::{Map, Value};

static NOTHING: &[Value] = &[];

/// The text at `pointer`, or empty.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The text at `pointer`, if it is there; for fields that upstream holds as pointers, where empty is not absent.
pub fn text_opt<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

pub fn int_opt(value: &Value, pointer: &str) -> Option<i64> {
    value.pointer(pointer).and_then(Value::as_i64)
}

/// The number at `pointer`, or 0.
pub fn int(value: &Value, pointer: &str) -> i64 {
    int_opt(value, pointer).unwrap_or(0)
}

pub fn flag_opt(value: &Value, pointer: &str) -> Option<bool> {
    value.pointer(pointer).and_then(Value::as_bool)
}

/// The flag at `pointer`, or false.
pub fn flag(value: &Value, pointer: &str) -> bool {
    flag_opt(value, pointer).unwrap_or(false)
}

/// The list at `pointer`, or an empty one.
pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(NOTHING, Vec::as_slice)
}

/// The texts in the list at `pointer`.
pub fn texts<'a>(value: &'a Value, pointer: &str) -> Vec<&'a str> {
    list(value, pointer).iter().filter_map(Value::as_str).collect()
}

pub fn list_mut<'a>(value: &'a mut Value, pointer: &str) -> Option<&'a mut Vec<Value>> {
    value.pointer_mut(pointer).and_then(Value::as_array_mut)
}

pub fn map<'a>(value: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    value.pointer(pointer).and_then(Value::as_object)
}

/// The entries of the map at `pointer`; none if it is absent.
pub fn entries<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    map(value, pointer).into_iter().flat_map(Map::iter)
}

/// Whether there is anything at `pointer`.
pub fn has(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).is_some_and(|found| !found.is_null())
}

/// Whether two objects hold the same at `pointer`; absent and null are the same.
pub fn same(a: &Value, b: &Value, pointer: &str) -> bool {
    a.pointer(pointer).unwrap_or(&Value::Null) == b.pointer(pointer).unwrap_or(&Value::Null)
}

/// Sets the field at `pointer`, making the objects on its way; does nothing where a non-object is in the way.
pub fn set(value: &mut Value, pointer: &str, field: impl Into<Value>) {
    let Some((parents, name)) = pointer.rsplit_once('/') else { return };
    if let Some(object) = object_at(value, parents) {
        object.insert(unescape(name), field.into());
    }
}

/// Sets the field at `pointer` if it is absent, and its parent is there already.
pub fn set_default(value: &mut Value, pointer: &str, field: impl Into<Value>) {
    let Some((parents, name)) = pointer.rsplit_once('/') else { return };
    if let Some(object) = value.pointer_mut(parents).and_then(Value::as_object_mut)
        && object.get(&unescape(name)).is_none_or(Value::is_null)
    {
        object.insert(unescape(name), field.into());
    }
}

/// Sets the text at `pointer` if it is absent or empty, and its parent is there already.
pub fn set_default_text(value: &mut Value, pointer: &str, field: &str) {
    if text(value, pointer).is_empty() {
        remove(value, pointer);
        set_default(value, pointer, field);
    }
}

/// Takes the field at `pointer` away.
pub fn remove(value: &mut Value, pointer: &str) -> Option<Value> {
    let (parents, name) = pointer.rsplit_once('/')?;
    value.pointer_mut(parents)?.as_object_mut()?.remove(&unescape(name))
}

/// Makes the field at `pointer` in `to` what it is in `from`, absent included.
pub fn copy(to: &mut Value, from: &Value, pointer: &str) {
    match from.pointer(pointer) {
        Some(field) => set(to, pointer, field.clone()),
        None => {
            remove(to, pointer);
        }
    }
}

/// Makes the field at `to` what the one at `from` is.
pub fn copy_within(value: &mut Value, from: &str, to: &str) {
    if let Some(field) = value.pointer(from).cloned() {
        set(value, to, field);
    }
}

/// Makes the field at `pointer` in `to` what another one is in `from`; nothing happens if that is absent.
pub fn copy_from(to: &mut Value, pointer: &str, from: &Value, source: &str) {
    if let Some(field) = from.pointer(source) {
        set(to, pointer, field.clone());
    }
}

/// Appends to the list at `pointer`, made if it is absent.
pub fn push(value: &mut Value, pointer: &str, item: Value) {
    match list_mut(value, pointer) {
        Some(items) => items.push(item),
        None => set(value, pointer, vec![item]),
    }
}

/// The object at `pointer`, made if it is absent.
pub fn object_at<'a>(value: &'a mut Value, pointer: &str) -> Option<&'a mut Map<String, Value>> {
    let mut at = value;
    for name in pointer.split('/').skip(1) {
        at = at.as_object_mut()?.entry(unescape(name)).or_insert(Value::Null);
        if at.is_null() {
            *at = Value::Object(Map::new());
        }
    }
    at.as_object_mut()
}

fn unescape(name: &str) -> String {
    name.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_fields_read_as_empty_and_are_made_when_set() {
        let mut object = json!({"spec": {"a": 1}});
        assert_eq!((text(&object, "/spec/b"), int(&object, "/spec/a"), list(&object, "/x/y").len()), ("", 1, 0));
        set(&mut object, "/status/load~1x", 2);
        set_default(&mut object, "/nowhere/field", 3);
        set_default(&mut object, "/spec/a", 4);
        assert_eq!(object, json!({"spec": {"a": 1}, "status": {"load/x": 2}}));
    }
}
