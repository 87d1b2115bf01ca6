//! A JSON reader that follows the schema: keeps what a type has, and notes what it does not have, has twice or has in a wrong type.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::faults;
use crate::quantity::Quantity;
use crate::schema::{Element, Field, Shape, Type};
use crate::time;

/// What has been found so far, and where the reader is.
#[derive(Debug, Default)]
pub struct State {
    /// `unknown field "…"` and `duplicate field "…"`, in the order found, none twice.
    pub strict: Vec<String>,
    /// The first value of a wrong type; upstream reports one too.
    pub wrong_type: Option<String>,
    /// `spec`, `.ports`, `[0]`: for strict faults.
    path: String,
    /// The type that is being read, and the fields on the way, without indices: for wrong types.
    owner: Option<&'static Type>,
    fields: Vec<&'static str>,
}

/// Upstream stops counting here too.
const MAX_STRICT: usize = 100;

impl State {
    fn note(&mut self, what: &str, name: &str) {
        let dot = if self.path.is_empty() { "" } else { "." };
        let fault = format!("{what} field \"{}{dot}{name}\"", self.path);
        if self.strict.len() < MAX_STRICT && !self.strict.contains(&fault) {
            self.strict.push(fault);
        }
    }

    fn within<T>(&mut self, step: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if !self.path.is_empty() && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        let result = read(self);
        self.path.truncate(length);
        result
    }

    fn refuse(&mut self, fault: String) {
        self.wrong_type.get_or_insert(fault);
    }

    fn refuse_type(&mut self, called: &str, wanted: &str) {
        let fault = match self.owner.filter(|_| !self.fields.is_empty()) {
            Some(owner) => {
                let path = self.fields.join(".");
                format!("json: cannot unmarshal {called} into Go struct field {}.{path} of type {wanted}", owner.name)
            }
            None => format!("json: cannot unmarshal {called} into Go value of type {wanted}"),
        };
        self.refuse(fault);
    }
}

/// What should come next.
#[derive(Debug, Clone, Copy)]
pub enum Expected {
    /// The object itself, at the top.
    Message(&'static Type),
    /// A field with its shape, of the type that owns it.
    Field(&'static Field, &'static Type),
    /// An item of a field's list or an entry of its map.
    Item(&'static Field, &'static Type),
}

/// Reads one value.
#[derive(Debug)]
pub struct Seed<'s> {
    pub expected: Expected,
    pub state: &'s mut State,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.opaque() {
            true => serde::Deserialize::deserialize(deserializer),
            false => deserializer.deserialize_any(self),
        }
    }
}

impl Seed<'_> {
    /// Whether any JSON is right here.
    fn opaque(&self) -> bool {
        match self.expected {
            Expected::Message(_) => false,
            Expected::Field(field, _) => {
                field.shape == Shape::One && matches!(field.element, Element::Raw | Element::Fields)
            }
            Expected::Item(field, _) => matches!(field.element, Element::Raw | Element::Fields),
        }
    }

    fn wanted(&self) -> String {
        match self.expected {
            Expected::Message(of) => of.name.to_owned(),
            Expected::Field(field, owner) => faults::type_of(field, owner),
            Expected::Item(field, owner) => faults::item_type(field, owner),
        }
    }

    /// The type whose fields an object here has.
    fn message(&self) -> Option<&'static Type> {
        match self.expected {
            Expected::Message(of) => Some(of),
            Expected::Field(field, _) if field.shape != Shape::One => None,
            Expected::Field(field, _) | Expected::Item(field, _) => field.message(),
        }
    }

    /// The element that a scalar here must be.
    fn scalar(&self) -> Option<Element> {
        match self.expected {
            Expected::Message(_) => None,
            Expected::Field(field, _) if field.shape != Shape::One => None,
            Expected::Field(field, _) | Expected::Item(field, _) => Some(field.element),
        }
    }

    fn take(self, value: Value) -> Value {
        let wanted = self.wanted();
        let called = faults::called(&value);
        match self.scalar().map(|element| check_scalar(element, &value)) {
            Some(Ok(())) => return value,
            Some(Err(Wrong::Sentence(fault))) => self.state.refuse(fault),
            Some(Err(Wrong::Number)) => self.state.refuse_type(&format!("number {value}"), &wanted),
            // Types with a decoder of their own name the Go type within.
            Some(Err(Wrong::Type(Some(inner)))) => self.state.refuse_type(called, inner),
            Some(Err(Wrong::Type(None))) | None => self.state.refuse_type(called, &wanted),
        }
        Value::Null
    }
}

enum Wrong {
    Type(Option<&'static str>),
    /// A number that does not fit: the message quotes it.
    Number,
    Sentence(String),
}

fn check_scalar(element: Element, value: &Value) -> Result<(), Wrong> {
    let ok = |right: bool| if right { Ok(()) } else { Err(Wrong::Type(None)) };
    match (element, value) {
        (Element::String, value) => ok(value.is_string()),
        (Element::Bool, value) => ok(value.is_boolean()),
        (Element::Double, value) => ok(value.is_number()),
        (Element::Int32, Value::Number(number)) => {
            fits(number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()))
        }
        (Element::Int64, Value::Number(number)) => fits(number.is_i64()),
        (Element::IntOrString, Value::Number(number)) => {
            fits(number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()))
        }
        (Element::IntOrString, Value::String(_)) => Ok(()),
        (Element::IntOrString, _) => Err(Wrong::Type(Some("int32"))),
        (Element::Quantity, value) => {
            Quantity::from_value(value).map(drop).map_err(|error| Wrong::Sentence(error.to_string()))
        }
        (Element::Time, Value::String(text)) => check_time(text, "2006-01-02T15:04:05Z07:00"),
        (Element::MicroTime, Value::String(text)) => check_time(text, "2006-01-02T15:04:05.000000Z07:00"),
        (Element::Time | Element::MicroTime, _) => Err(Wrong::Type(Some("string"))),
        (Element::Bytes, Value::String(text)) => match STANDARD.decode(text) {
            Ok(_) => Ok(()),
            Err(base64::DecodeError::InvalidByte(at, _)) => {
                Err(Wrong::Sentence(format!("illegal base64 data at input byte {at}")))
            }
            Err(_) => Err(Wrong::Sentence(format!("illegal base64 data at input byte {}", text.len() / 4 * 4))),
        },
        (Element::Raw | Element::Fields, _) => Ok(()),
        (Element::Int32 | Element::Int64 | Element::Bytes | Element::Strings | Element::Message(_), _) => {
            Err(Wrong::Type(None))
        }
    }
}

fn fits(right: bool) -> Result<(), Wrong> {
    if right { Ok(()) } else { Err(Wrong::Number) }
}

fn check_time(text: &str, layout: &str) -> Result<(), Wrong> {
    if time::parse(text).is_some() {
        return Ok(());
    }
    let text = crate::go::quote(text);
    Err(Wrong::Sentence(format!("parsing time {text} as {layout:?}: cannot parse {text} as \"2006\"")))
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.wanted())
    }

    /// Null is the same as nothing, for every type.
    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Value, E> {
        Ok(self.take(flag.into()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(self.take(number.into()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(self.take(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Ok(self.take(Number::from_f64(number).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(self.take(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let (field, owner) = match self.expected {
            Expected::Field(field, owner) if field.shape == Shape::List => (field, owner),
            Expected::Field(Field { shape: Shape::One, element: Element::Strings, .. }, _)
            | Expected::Item(Field { element: Element::Strings, .. }, _) => {
                let mut all = Vec::new();
                while let Some(item) = items.next_element::<Value>()? {
                    all.push(item);
                }
                if let Some(wrong) = all.iter().find(|item| !item.is_string()) {
                    self.state.refuse_type(faults::called(wrong), "string");
                }
                return Ok(Value::Array(all));
            }
            Expected::Message(_) | Expected::Field(..) | Expected::Item(..) => {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(self.take(Value::Array(Vec::new())));
            }
        };
        let mut all = Vec::new();
        loop {
            let step = format!("[{}]", all.len());
            let item = self.state.within(&step, |state| {
                items.next_element_seed(Seed { expected: Expected::Item(field, owner), state })
            })?;
            match item {
                Some(item) => all.push(item),
                None => return Ok(Value::Array(all)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        if let Some(of) = self.message() {
            let outer = self.state.owner.replace(of);
            let result = read_fields(of, self.state, entries);
            self.state.owner = outer;
            return result;
        }
        let Expected::Field(field @ Field { shape: Shape::Map, .. }, owner) = self.expected else {
            while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(self.take(Value::Object(Map::new())));
        };
        let mut all = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if all.contains_key(&key) {
                self.state.note("duplicate", &key);
            }
            let value = self.state.within(&key, |state| {
                entries.next_value_seed(Seed { expected: Expected::Item(field, owner), state })
            })?;
            all.insert(key, value);
        }
        Ok(Value::Object(all))
    }
}

fn read_fields<'de, A: MapAccess<'de>>(
    of: &'static Type,
    state: &mut State,
    mut entries: A,
) -> Result<Value, A::Error> {
    let mut object = Map::new();
    while let Some(name) = entries.next_key::<String>()? {
        let Some(field) = of.field(&name) else {
            state.note("unknown", &name);
            entries.next_value::<IgnoredAny>()?;
            continue;
        };
        if object.contains_key(&name) {
            state.note("duplicate", &name);
        }
        state.fields.push(field.name);
        let value =
            state.within(&name, |state| entries.next_value_seed(Seed { expected: Expected::Field(field, of), state }));
        state.fields.pop();
        object.insert(name, value?);
    }
    Ok(Value::Object(object))
}
