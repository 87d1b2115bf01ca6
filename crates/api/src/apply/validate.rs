//! Whether an applied configuration fits the schema. Apply is stricter than decoding: what it does not know it cannot own.

use std::collections::BTreeSet;

use serde_json::Value;

use super::set::{Step, path_text};
use super::typed::{At, Atom, Items, step};
use crate::schema::Type;

/// What is wrong with an applied configuration: undeclared fields, wrong types, items without keys or twice. One text, as upstream joins it.
pub fn validate(of: &'static Type, value: &Value) -> Result<(), String> {
    let mut faults = Vec::new();
    check(At::Root(of), value, &mut Vec::new(), &mut faults);
    match faults.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        several => Err(format!("errors:\n  {}", several.join("\n  "))),
    }
}

fn check(at: At, value: &Value, path: &mut Vec<Step>, faults: &mut Vec<String>) {
    let wrong = match (at.atom(), value) {
        (_, Value::Null) | (Atom::Opaque, _) => return,
        (Atom::Struct(_) | Atom::Map(_), Value::Object(entries)) => {
            for (name, value) in entries {
                path.push(Step::Field(name.clone()));
                match at.below(name) {
                    Some(below) => check(below, value, path, faults),
                    None => add(faults, path, "field not declared in schema"),
                }
                path.pop();
            }
            return;
        }
        (Atom::List(items, below), Value::Array(list)) => return check_list(items, below, list, path, faults),
        (Atom::Struct(_) | Atom::Map(_), other) => format!("expected map, got {other}"),
        (Atom::List(..), other) => format!("expected list, got {other}"),
        (Atom::Scalar("numeric"), other) if !other.is_number() => {
            format!("expected numeric (int or float), got {}", go_type(other))
        }
        (Atom::Scalar("string"), other) if !other.is_string() => {
            format!("expected string, got &value.valueUnstructured{{Value:{other}}}")
        }
        (Atom::Scalar("boolean"), other) if !other.is_boolean() => format!("expected boolean, got {other}"),
        (Atom::Scalar(_), _) => return,
    };
    add(faults, path, &wrong);
}

fn check_list(items: Items, below: At, list: &[Value], path: &mut Vec<Step>, faults: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (i, item) in list.iter().enumerate() {
        let step = match step(items, below, i, item) {
            Ok(step) => step,
            Err(text) => return add(faults, path, &format!("element {i}: {text}")),
        };
        if !seen.insert(step.clone()) {
            add(faults, path, &format!("duplicate entries for key {step}"));
        }
        path.push(step);
        check(below, item, path, faults);
        path.pop();
    }
}

fn add(faults: &mut Vec<String>, path: &[Step], fault: &str) {
    faults.push(format!("{}: {fault}", path_text(path)));
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
