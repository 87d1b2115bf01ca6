//! An object printed as upstream's encoder prints one of its structs: every field, indented by one space, absent ones as their zero.

use serde_json::Value;

/// One field: the struct's name for it, its JSON name, and what it is.
pub struct Field {
    name: &'static str,
    json: &'static str,
    shape: Shape,
}

/// What a field is, as far as its zero and its printing depend on it.
#[derive(Clone, Copy)]
pub enum Shape {
    Text,
    Number,
    Flag,
    /// A quantity that is not a pointer.
    Amount,
    NumberOrText,
    /// Anything that is null when it is absent, printed as JSON: pointers to scalars, lists of scalars, maps.
    Pointer,
    /// A pointer to a struct.
    Struct(&'static [Field]),
    /// A struct within.
    Nested(&'static [Field]),
    List(&'static [Field]),
}

pub const fn field(name: &'static str, json: &'static str, shape: Shape) -> Field {
    Field { name, json, shape }
}

/// The lines of a struct.
pub fn lines(object: &Value, fields: &[Field]) -> Vec<String> {
    let mut text = String::new();
    print_struct(&mut text, object, fields, 0);
    text.lines().map(str::to_owned).collect()
}

fn print_struct(text: &mut String, object: &Value, fields: &[Field], depth: usize) {
    text.push_str("{\n");
    for (index, field) in fields.iter().enumerate() {
        indent(text, depth + 1);
        text.push_str(&format!("{:?}: ", field.name));
        print_field(text, object.get(field.json).unwrap_or(&Value::Null), field.shape, depth + 1);
        text.push_str(if index + 1 < fields.len() { ",\n" } else { "\n" });
    }
    indent(text, depth);
    text.push('}');
}

fn print_field(text: &mut String, value: &Value, shape: Shape, depth: usize) {
    match (shape, value) {
        (Shape::Text, Value::Null) => text.push_str("\"\""),
        (Shape::Number | Shape::NumberOrText, Value::Null) => text.push('0'),
        (Shape::Flag, Value::Null) => text.push_str("false"),
        (Shape::Amount, Value::Null) => text.push_str("\"0\""),
        (Shape::Nested(fields), _) => print_struct(text, value, fields, depth),
        (Shape::Struct(fields), Value::Object(_)) => print_struct(text, value, fields, depth),
        (Shape::List(fields), Value::Array(items)) => print_list(text, items, fields, depth),
        (_, Value::Null) => text.push_str("null"),
        (_, value) => print_json(text, value, depth),
    }
}

fn print_list(text: &mut String, items: &[Value], fields: &[Field], depth: usize) {
    text.push_str(if items.is_empty() { "[" } else { "[\n" });
    for (index, item) in items.iter().enumerate() {
        indent(text, depth + 1);
        print_struct(text, item, fields, depth + 1);
        text.push_str(if index + 1 < items.len() { ",\n" } else { "\n" });
    }
    if !items.is_empty() {
        indent(text, depth);
    }
    text.push(']');
}

/// JSON with one space of indentation, as deep as it stands.
fn print_json(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            text.push_str("[\n");
            for (index, item) in items.iter().enumerate() {
                indent(text, depth + 1);
                print_json(text, item, depth + 1);
                text.push_str(if index + 1 < items.len() { ",\n" } else { "\n" });
            }
            indent(text, depth);
            text.push(']');
        }
        Value::Object(entries) if !entries.is_empty() => {
            text.push_str("{\n");
            for (index, (key, entry)) in entries.iter().enumerate() {
                indent(text, depth + 1);
                text.push_str(&format!("{key:?}: "));
                print_json(text, entry, depth + 1);
                text.push_str(if index + 1 < entries.len() { ",\n" } else { "\n" });
            }
            indent(text, depth);
            text.push('}');
        }
        other => text.push_str(&other.to_string()),
    }
}

fn indent(text: &mut String, depth: usize) {
    text.extend(std::iter::repeat_n(' ', depth));
}
