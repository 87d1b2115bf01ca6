//! Sets and maps: how they are declared, and what stands in them.
//!
//! Elements are kept small, because a map of 500,000 is a normal thing here: 24 bytes for the key and 48 for the rest.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{COMMENT_MAX, clip_comment};
use crate::bytes::Bytes;
use crate::field::Field;
use crate::statement::Verdict;

/// Everything about a set or map but its elements. What the kernel fixes when the set is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetSpec {
    /// The `typeof` of the key, one field for each component.
    pub key: Vec<Field>,
    /// `None` makes it a set.
    pub data: Option<DataSpec>,
    pub flags: SetFlags,
    /// Default lifetime of an element.
    pub timeout: Option<Duration>,
    /// The most elements that it may hold. Declared, the kernel picks a fixed hash, which is faster to fill.
    pub size: Option<u32>,
    /// Whether each element counts its packets and bytes.
    pub counter: bool,
    pub comment: Option<Arc<str>>,
}

/// What a map gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataSpec {
    /// A value, one field for each component.
    Value(Vec<Field>),
    /// A verdict. For small maps only: each change walks all verdicts of the table for loops.
    Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetFlags {
    /// Elements are ranges.
    pub interval: bool,
    /// Rules may add and delete elements. Such elements belong to the packets: `diff` leaves them alone.
    pub dynamic: bool,
    /// Elements may expire.
    pub timeout: bool,
    /// No element changes after a rule refers to it.
    pub constant: bool,
}

impl SetSpec {
    /// A set of keys. Fields that nft cannot declare (`ct original …`, halves of addresses) are declared as the header field
    /// of the same shape.
    pub fn set(key: impl IntoIterator<Item = Field>) -> SetSpec {
        SetSpec {
            key: key.into_iter().map(Field::declared).collect(),
            data: None,
            flags: SetFlags::default(),
            timeout: None,
            size: None,
            counter: false,
            comment: None,
        }
    }

    /// A map from keys to values.
    pub fn map(key: impl IntoIterator<Item = Field>, data: impl IntoIterator<Item = Field>) -> SetSpec {
        SetSpec { data: Some(DataSpec::Value(data.into_iter().map(Field::declared).collect())), ..SetSpec::set(key) }
    }

    /// A map from keys to verdicts.
    pub fn verdict_map(key: impl IntoIterator<Item = Field>) -> SetSpec {
        SetSpec { data: Some(DataSpec::Verdict), ..SetSpec::set(key) }
    }

    #[must_use]
    pub fn interval(mut self) -> SetSpec {
        self.flags.interval = true;
        self
    }

    /// Filled by packets, with this default lifetime, and with room for 65,535 of them if nothing else is said, which is what
    /// the kernel would declare itself.
    #[must_use]
    pub fn dynamic(mut self, timeout: Duration) -> SetSpec {
        self.size.get_or_insert(65_535);
        self.flags.dynamic = true;
        self.flags.timeout = true;
        self.timeout = Some(timeout);
        self
    }

    #[must_use]
    pub fn size(mut self, size: u32) -> SetSpec {
        self.size = Some(size);
        self
    }

    #[must_use]
    pub fn counter(mut self) -> SetSpec {
        self.counter = true;
        self
    }

    #[must_use]
    pub fn comment(mut self, comment: &str) -> SetSpec {
        self.comment = Some(clip_comment(comment));
        self
    }
}

/// A set or map with its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Shared with the operations on the set, so that they know how to write its elements.
    pub spec: Arc<SetSpec>,
    pub elements: Elements,
}

impl Set {
    pub fn new(spec: impl Into<Arc<SetSpec>>) -> Set {
        Set { spec: spec.into(), elements: Elements::new() }
    }

    /// Adds (or replaces) an element.
    pub fn insert(&mut self, key: Bytes, element: Element) -> &mut Set {
        self.elements.insert(key, element);
        self
    }
}

/// Elements by key; by the first key of the range in interval sets.
pub type Elements = BTreeMap<Bytes, Element>;

/// What stands beside a key. 48 bytes, whatever it holds.
#[derive(Clone, Default)]
pub struct Element {
    pub data: Data,
    /// Printed by nft beside the element. Share one `Arc` among the elements of an object.
    pub comment: Option<Arc<str>>,
    rare: Option<Box<Rare>>,
}

/// What few elements have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Rare {
    end: Option<Bytes>,
    timeout: Option<Duration>,
    expires: Option<Duration>,
    counter: Option<Counter>,
}

/// What a map gives for a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Data {
    /// The element of a set.
    #[default]
    None,
    Value(Bytes),
    Verdict(Box<Verdict>),
}

/// Packets and bytes. All counters are equal: what was counted is not part of a ruleset's meaning.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

impl PartialEq for Counter {
    fn eq(&self, _: &Counter) -> bool {
        true
    }
}

impl Eq for Counter {}

impl Element {
    /// The element of a set.
    pub fn member() -> Element {
        Element::default()
    }

    /// The element of a map.
    pub fn value(value: Bytes) -> Element {
        Element { data: Data::Value(value), ..Element::default() }
    }

    /// The element of a verdict map.
    pub fn verdict(verdict: Verdict) -> Element {
        Element { data: Data::Verdict(Box::new(verdict)), ..Element::default() }
    }

    #[must_use]
    pub fn comment(mut self, comment: impl Into<Arc<str>>) -> Element {
        let comment = comment.into();
        self.comment = Some(if comment.len() > COMMENT_MAX { clip_comment(&comment) } else { comment });
        self
    }

    /// Makes it a range: the last key that belongs to it, itself included.
    #[must_use]
    pub fn to(mut self, last: Bytes) -> Element {
        self.rare().end = Some(last);
        self
    }

    /// A lifetime of its own.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Element {
        self.rare().timeout = Some(timeout);
        self
    }

    /// How much longer it will live: what a kernel said, or what a copy should start with.
    #[must_use]
    pub fn expires(mut self, expires: Duration) -> Element {
        self.rare().expires = Some(expires);
        self
    }

    /// What it counted.
    #[must_use]
    pub fn counted(mut self, counter: Counter) -> Element {
        self.rare().counter = Some(counter);
        self
    }

    /// The last key of the range, if it is one.
    pub fn end(&self) -> Option<&Bytes> {
        self.rare.as_ref()?.end.as_ref()
    }

    pub fn get_timeout(&self) -> Option<Duration> {
        self.rare.as_ref()?.timeout
    }

    pub fn get_expires(&self) -> Option<Duration> {
        self.rare.as_ref()?.expires
    }

    pub fn get_counter(&self) -> Option<Counter> {
        self.rare.as_ref()?.counter
    }

    pub(crate) fn without_end(mut self) -> Element {
        self.rare().end = None;
        self
    }

    pub(crate) fn without_timeout(mut self) -> Element {
        self.rare().timeout = None;
        self
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

impl PartialEq for Element {
    fn eq(&self, other: &Element) -> bool {
        self.data == other.data
            && self.comment == other.comment
            && self.end() == other.end()
            && self.get_timeout() == other.get_timeout()
    }
}

impl Eq for Element {}

impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.data)?;
        if let Some(rare) = &self.rare {
            write!(f, " {rare:?}")?;
        }
        match &self.comment {
            Some(comment) => write!(f, " {comment:?}"),
            None => Ok(()),
        }
    }
}
