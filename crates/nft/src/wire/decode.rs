//! What a kernel's messages say, and rulesets put together from dumps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::expr::Expr;
use crate::raise::raise;
use crate::ruleset::{
    Base, Chain, DataSpec, Elements, Family, Policy, Rule, Ruleset, Set, SetFlags, SetSpec, Table, TableId,
};
use crate::wire::attribute::{Attributes, text};
use crate::wire::encode::{CHAIN_KINDS, HOOKS, hook_number, set_flag};
use crate::wire::message::{Message, kind};
use crate::wire::{element, expr, userdata};

/// One message of a dump or a notification. `added` is false for deletions, which say no more than names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    Table {
        added: bool,
        table: TableId,
        comment: Option<Arc<str>>,
    },
    Chain {
        added: bool,
        table: TableId,
        name: Arc<str>,
        chain: Chain,
    },
    Set {
        added: bool,
        table: TableId,
        name: Arc<str>,
        spec: Box<SetSpec>,
    },
    Elements(RawElements),
    Rule {
        added: bool,
        table: TableId,
        chain: Arc<str>,
        /// None in what was not yet given to a kernel.
        handle: Option<u64>,
        exprs: Vec<Expr>,
        comment: Option<Arc<str>>,
    },
    /// The ruleset's number after a commit, and who made it.
    Generation {
        number: u32,
        process: Option<u32>,
        name: Option<Arc<str>>,
    },
}

impl Decoded {
    /// The table that it is about, if it is about one.
    pub fn table(&self) -> Option<&TableId> {
        match self {
            Decoded::Table { table, .. }
            | Decoded::Chain { table, .. }
            | Decoded::Set { table, .. }
            | Decoded::Elements(RawElements { table, .. })
            | Decoded::Rule { table, .. } => Some(table),
            Decoded::Generation { .. } => None,
        }
    }
}

/// Elements whose set must be known before they can be read.
#[derive(Clone, PartialEq, Eq)]
pub struct RawElements {
    pub added: bool,
    pub table: TableId,
    pub set: Arc<str>,
    list: Box<[u8]>,
}

impl std::fmt::Debug for RawElements {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} @{}: {} bytes of elements", self.table, self.set, self.list.len())
    }
}

impl RawElements {
    /// The elements, given how the set is declared.
    pub fn read(&self, spec: &SetSpec) -> Elements {
        let mut elements = Elements::new();
        element::join(spec, element::read(&self.list, spec), &mut elements);
        elements
    }
}

/// Says what a message means; `None` for what is not ours to read (other families, objects, flow tables).
pub fn decode(message: &Message<'_>) -> Option<Decoded> {
    let attributes = Attributes(message.attributes());
    if message.kind == kind::NEW_GENERATION {
        let name = attributes.text(3).map(Arc::from);
        return Some(Decoded::Generation { number: attributes.word(1)?, process: attributes.word(2), name });
    }
    let family = message.family()?;
    let table = TableId::new(family, attributes.text(1)?);
    let comment = |kind| attributes.find(kind).and_then(userdata::read_comment);
    match message.kind {
        kind::NEW_TABLE | kind::DELETE_TABLE => {
            Some(Decoded::Table { added: message.kind == kind::NEW_TABLE, table, comment: comment(6) })
        }
        kind::NEW_CHAIN | kind::DELETE_CHAIN => {
            let chain = Chain { base: read_base(attributes), comment: comment(12), rules: Vec::new() };
            let name = attributes.text(3)?.into();
            Some(Decoded::Chain { added: message.kind == kind::NEW_CHAIN, table, name, chain })
        }
        kind::NEW_SET | kind::DELETE_SET => {
            let spec = Box::new(read_spec(attributes)?);
            let name = attributes.text(2)?.into();
            Some(Decoded::Set { added: message.kind == kind::NEW_SET, table, name, spec })
        }
        kind::NEW_ELEMENT | kind::DELETE_ELEMENT => {
            let list = attributes.find(3).unwrap_or_default().into();
            let set = attributes.text(2)?.into();
            Some(Decoded::Elements(RawElements { added: message.kind == kind::NEW_ELEMENT, table, set, list }))
        }
        kind::NEW_RULE | kind::DELETE_RULE => {
            let v6 = family == Family::Ip6;
            let list = attributes.nested(4).unwrap_or(Attributes(&[]));
            Some(Decoded::Rule {
                added: message.kind == kind::NEW_RULE,
                table,
                chain: attributes.text(2)?.into(),
                handle: attributes.long(3),
                exprs: list.filter_map(|(_, value)| expr::read(value, v6)).collect(),
                comment: comment(7),
            })
        }
        _ => None,
    }
}

fn read_base(attributes: Attributes<'_>) -> Option<Base> {
    let hook = attributes.nested(4)?;
    let number = hook.word(1)?;
    let kind = attributes.text(7)?;
    Some(Base {
        kind: CHAIN_KINDS.into_iter().find(|candidate| candidate.name() == kind)?,
        hook: HOOKS.into_iter().find(|hook| hook_number(*hook) == number)?,
        priority: hook.word(2)? as i32,
        policy: if attributes.word(5) == Some(0) { Policy::Drop } else { Policy::Accept },
    })
}

fn read_spec(attributes: Attributes<'_>) -> Option<SetSpec> {
    let flags = attributes.word(3).unwrap_or(0);
    let has = |bits| flags & bits != 0;
    let userdata::SetData { key, data, comment } = attributes.find(13).map(userdata::read_set).unwrap_or_default();
    let key = key.or_else(|| userdata::fields_of_type(attributes.word(4)?)).unwrap_or_default();
    let data = if has(set_flag::MAP) {
        match data.or_else(|| userdata::fields_of_type(attributes.word(6)?)) {
            Some(fields) if attributes.word(6).is_none_or(|number| number >> 30 == 0) => Some(DataSpec::Value(fields)),
            Some(_) | None => Some(DataSpec::Verdict),
        }
    } else {
        None
    };
    let timeout = attributes.long(11).filter(|timeout| *timeout != 0).map(Duration::from_millis);
    let counters = attributes
        .nested(17)
        .into_iter()
        .chain(attributes.nested(18).into_iter().flatten().map(|(_, value)| Attributes(value)));
    let counter = counters.into_iter().any(|one| one.find(expr::NAME).and_then(text) == Some("counter"));
    Some(SetSpec {
        key,
        data,
        flags: SetFlags {
            interval: has(set_flag::INTERVAL),
            dynamic: has(set_flag::EVAL),
            timeout: has(set_flag::TIMEOUT),
            constant: has(set_flag::CONSTANT),
        },
        timeout,
        size: attributes.nested(9).and_then(|description| description.word(1)),
        counter,
        comment,
    })
}

/// Puts the messages of one or several dumps together to rulesets. Sets must come before what refers to them.
#[derive(Debug, Default)]
pub struct Assembly {
    ruleset: Ruleset,
    halves: BTreeMap<(TableId, Arc<str>), Vec<element::Half>>,
}

impl Assembly {
    pub fn new() -> Assembly {
        Assembly::default()
    }

    /// Takes one message in. What belongs to a table that was not said to exist makes the table.
    pub fn add(&mut self, decoded: Decoded) {
        match decoded {
            Decoded::Table { table, comment, .. } => self.table(table).comment = comment,
            Decoded::Chain { table, name, chain, .. } => {
                self.table(table).chains.insert(name, chain);
            }
            Decoded::Set { table, name, spec, .. } => {
                self.table(table).sets.insert(name, Set::new(*spec));
            }
            Decoded::Elements(raw) => {
                if let Some(set) = self.table(raw.table.clone()).sets.get(&raw.set) {
                    let halves = element::read(&raw.list, &set.spec);
                    self.halves.entry((raw.table, raw.set)).or_default().extend(halves);
                }
            }
            Decoded::Rule { table, chain, handle, exprs, comment, .. } => {
                let family = table.family;
                let table = self.table(table);
                let key_len =
                    |set: &str| table.sets.get(set).map(|set| set.spec.key.iter().map(|field| field.padded()).sum());
                let statements = raise(family, &exprs, &key_len);
                table.chain(&chain).rules.push(Rule { statements, comment, handle });
            }
            Decoded::Generation { .. } => {}
        }
    }

    /// The sets so far, to ask for their elements.
    pub fn sets(&self) -> Vec<(TableId, Arc<str>)> {
        let tables = self.ruleset.tables.iter();
        tables.flat_map(|(id, table)| table.sets.keys().map(move |name| (id.clone(), name.clone()))).collect()
    }

    /// What all the messages say together.
    pub fn finish(mut self) -> Ruleset {
        for ((table, name), halves) in std::mem::take(&mut self.halves) {
            if let Some(set) = self.table(table).sets.get_mut(&name) {
                let spec = set.spec.clone();
                element::join(&spec, halves, &mut set.elements);
            }
        }
        self.ruleset
    }

    fn table(&mut self, id: TableId) -> &mut Table {
        self.ruleset.tables.entry(id).or_default()
    }
}
