//! Tables, chains, rules, sets and maps as plain values, ordered so that the same content always prints the same.
//!
//! A `Ruleset` is either what we want or what a kernel has; `diff` gets from one to the other. Equality is about what
//! packets meet: rule handles, element counters and remaining lifetimes are the kernel's bookkeeping and do not count.

mod set;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use set::{Counter, Data, DataSpec, Element, Elements, Set, SetFlags, SetSpec};

use crate::statement::Statement;

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 only
    Ip,
    /// IPv6 only
    Ip6,
    /// both
    Inet,
}

impl Family {
    /// The kernel's `NFPROTO_*` number.
    pub fn number(self) -> u8 {
        match self {
            Family::Inet => 1,
            Family::Ip => 2,
            Family::Ip6 => 10,
        }
    }

    /// The family with that `NFPROTO_*` number, if it is one that we handle.
    pub fn from_number(number: u8) -> Option<Family> {
        [Family::Ip, Family::Ip6, Family::Inet].into_iter().find(|family| family.number() == number)
    }

    /// nft's word.
    pub fn name(self) -> &'static str {
        match self {
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
            Family::Inet => "inet",
        }
    }
}

/// A table's full name. Cheap to clone; every operation carries one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId {
    pub family: Family,
    pub name: Arc<str>,
}

impl TableId {
    pub fn new(family: Family, name: &str) -> TableId {
        TableId { family, name: name.into() }
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family.name(), self.name)
    }
}

impl fmt::Debug for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Any number of tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ruleset {
    pub tables: BTreeMap<TableId, Table>,
}

/// The content of one table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    pub comment: Option<Arc<str>>,
    pub sets: BTreeMap<Arc<str>, Set>,
    pub chains: BTreeMap<Arc<str>, Chain>,
}

impl Table {
    /// Adds (or replaces) an empty set or map and gives it back to be filled.
    pub fn set(&mut self, name: &str, spec: impl Into<Arc<SetSpec>>) -> &mut Set {
        let set = Set { spec: spec.into(), elements: Elements::new() };
        self.sets.insert(name.into(), set);
        self.sets.get_mut(name).expect("inserted on the line before")
    }

    /// Gives the chain of that name, which is made as a regular one if it is not there yet.
    pub fn chain(&mut self, name: &str) -> &mut Chain {
        self.chains.entry(name.into()).or_default()
    }
}

/// A chain: regular, or with a `base` where packets enter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    pub base: Option<Base>,
    pub comment: Option<Arc<str>>,
    pub rules: Vec<Rule>,
}

impl Chain {
    /// Appends a rule.
    pub fn rule(&mut self, rule: impl Into<Rule>) -> &mut Chain {
        self.rules.push(rule.into());
        self
    }
}

/// Where and when a base chain sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Base {
    pub kind: ChainKind,
    pub hook: Hook,
    /// Lower runs first; -100 is `dstnat`, 0 `filter`, 100 `srcnat`.
    pub priority: i32,
    pub policy: Policy,
}

impl Base {
    /// `type nat hook prerouting|output priority dstnat` and its kin: accepts by policy.
    pub fn new(kind: ChainKind, hook: Hook, priority: i32) -> Base {
        Base { kind, hook, priority, policy: Policy::Accept }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChainKind {
    Filter,
    /// Sees the first packet of each connection only.
    Nat,
    Route,
}

impl ChainKind {
    pub fn name(self) -> &'static str {
        match self {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
            ChainKind::Route => "route",
        }
    }
}

/// Numbered as the kernel's `NF_INET_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

impl Hook {
    pub fn name(self) -> &'static str {
        match self {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        }
    }
}

/// What happens to a packet that no rule of a base chain decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    Drop,
    Accept,
}

/// Statements in order, and what they are there for.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    pub statements: Vec<Statement>,
    /// Printed by nft after the rule; the place to name the object that the rule comes from.
    pub comment: Option<Arc<str>>,
    /// The kernel's number of the rule, known for rules that were read back. Not part of equality.
    pub handle: Option<u64>,
}

impl Rule {
    pub fn new(statements: impl IntoIterator<Item = Statement>) -> Rule {
        Rule { statements: statements.into_iter().collect(), comment: None, handle: None }
    }

    #[must_use]
    pub fn comment(mut self, comment: &str) -> Rule {
        self.comment = Some(clip_comment(comment));
        self
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Rule) -> bool {
        self.statements == other.statements && self.comment == other.comment
    }
}

impl Eq for Rule {}

impl<const N: usize> From<[Statement; N]> for Rule {
    fn from(statements: [Statement; N]) -> Rule {
        Rule::new(statements)
    }
}

/// nft 1.0.6 refuses longer comments (`NFTNL_UDATA_COMMENT_MAXLEN` is 128 with the final zero).
const COMMENT_MAX: usize = 127;

/// As much of the text as nft takes, cut at a character, without what nft could not quote.
pub(crate) fn clip_comment(text: &str) -> Arc<str> {
    let clean: String = text.chars().map(|c| if c == '"' || c.is_control() { '\'' } else { c }).collect();
    let mut end = clean.len().min(COMMENT_MAX);
    while !clean.is_char_boundary(end) {
        end -= 1;
    }
    clean[..end].into()
}
