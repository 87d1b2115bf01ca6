//! A batch as the bytes of one send.

use crate::batch::{Batch, Op, Position, SetRef};
use crate::bytes::Bytes;
use crate::lower::lower;
use crate::ruleset::{Base, ChainKind, DataSpec, Element, Hook, Policy, Rule, SetSpec, TableId};
use crate::wire::attribute::Writer;
use crate::wire::element::{self, milliseconds};
use crate::wire::message::{flag, kind};
use crate::wire::{expr, userdata};

/// What the kernel calls `type … verdict`.
const VERDICT_TYPE: u32 = 0xffff_ff00;
/// A list of elements is an attribute and holds less than 64 KiB; a new message begins when this much is reached.
const ELEMENTS_MAX: usize = 60_000;
/// `enum nft_set_flags`
pub(crate) mod set_flag {
    pub(crate) const CONSTANT: u32 = 2;
    pub(crate) const INTERVAL: u32 = 4;
    pub(crate) const MAP: u32 = 8;
    pub(crate) const TIMEOUT: u32 = 16;
    pub(crate) const EVAL: u32 = 32;
    pub(crate) const CONCAT: u32 = 128;
}

/// A batch ready to be sent.
#[derive(Debug, Clone)]
pub struct Encoded {
    pub bytes: Vec<u8>,
    /// The sequence number of the first message, which opens the batch. The others follow by one.
    first: u32,
    /// The operation of each message after the first.
    ops: Vec<u32>,
}

impl Encoded {
    /// The operation that a reply with this sequence number is about; none for the batch as a whole.
    pub fn op(&self, sequence: u32) -> Option<usize> {
        let index = sequence.wrapping_sub(self.first).checked_sub(1)?;
        self.ops.get(index as usize).map(|op| *op as usize)
    }

    /// Whether a reply with this sequence number belongs to the batch.
    pub fn owns(&self, sequence: u32) -> bool {
        sequence.wrapping_sub(self.first) as usize <= self.ops.len() + 1
    }

    /// The message whose acknowledgement ends the replies: the last operation's.
    pub fn last(&self) -> u32 {
        self.first.wrapping_add(self.ops.len() as u32)
    }

    /// How many sequence numbers the batch takes.
    pub fn messages(&self) -> u32 {
        self.ops.len() as u32 + 2
    }
}

/// Encodes a batch that is not empty, its messages numbered from `first` on. With `generation`, the kernel refuses the
/// batch if anyone changed the ruleset since.
pub fn encode(batch: &Batch, first: u32, generation: Option<u32>) -> Encoded {
    let mut coder = Coder {
        out: Writer::with_capacity(256 * batch.ops.len() + 96 * batch.elements()),
        first,
        ops: Vec::with_capacity(batch.ops.len()),
        next_set: 0,
        last_start: 0,
    };
    coder.envelope(kind::BATCH_BEGIN, first, generation);
    for (index, op) in batch.ops.iter().enumerate() {
        coder.op(index as u32, op);
    }
    let last_start = coder.last_start;
    coder.out.or_flags(last_start, flag::ACK);
    coder.envelope(kind::BATCH_END, first.wrapping_add(coder.ops.len() as u32 + 1), None);
    Encoded { bytes: coder.out.into_bytes(), first, ops: coder.ops }
}

struct Coder {
    out: Writer,
    first: u32,
    ops: Vec<u32>,
    next_set: u32,
    /// Where the newest message of an operation began.
    last_start: usize,
}

impl Coder {
    fn envelope(&mut self, kind: u16, sequence: u32, generation: Option<u32>) {
        let start = self.out.begin_message(kind, flag::REQUEST, sequence, 0, kind::SUBSYSTEM);
        if let Some(generation) = generation {
            self.out.word(1, generation);
        }
        self.out.end_message(start);
    }

    fn message(&mut self, op: u32, kind: u16, flags: u16, table: &TableId, write: impl FnOnce(&mut Writer)) {
        self.ops.push(op);
        let sequence = self.first.wrapping_add(self.ops.len() as u32);
        self.last_start = self.out.size();
        let start = self.out.begin_message(kind, flag::REQUEST | flags, sequence, table.family.number(), 0);
        self.out.text(1, &table.name);
        write(&mut self.out);
        self.out.end_message(start);
    }

    fn op(&mut self, index: u32, op: &Op) {
        match op {
            Op::AddTable { table, comment } => self.message(index, kind::NEW_TABLE, flag::CREATE, table, |out| {
                out.word(2, 0);
                if let Some(comment) = comment {
                    userdata::write_comment(out, 6, comment);
                }
            }),
            Op::DeleteTable { table, must_exist } => {
                if !must_exist {
                    // DESTROYTABLE is younger than many kernels; what was just added can always be deleted.
                    self.message(index, kind::NEW_TABLE, flag::CREATE, table, |_| {});
                }
                self.message(index, kind::DELETE_TABLE, 0, table, |_| {});
            }
            Op::AddChain { table, chain, base, comment } => {
                self.message(index, kind::NEW_CHAIN, flag::CREATE, table, |out| {
                    out.text(3, chain);
                    if let Some(base) = base {
                        write_base(out, base);
                    }
                    if let Some(comment) = comment {
                        userdata::write_comment(out, 12, comment);
                    }
                });
            }
            Op::DeleteChain { table, chain } => {
                self.message(index, kind::DELETE_CHAIN, 0, table, |out| out.text(3, chain));
            }
            Op::FlushChain { table, chain } => {
                self.message(index, kind::DELETE_RULE, 0, table, |out| out.text(2, chain));
            }
            Op::AddRule { table, chain, at, rule } => self.add_rule(index, table, chain, *at, rule),
            Op::DeleteRule { table, chain, handle } => self.message(index, kind::DELETE_RULE, 0, table, |out| {
                out.text(2, chain);
                out.long(3, *handle);
            }),
            Op::AddSet { set } => {
                self.next_set += 1;
                let number = self.next_set;
                self.message(index, kind::NEW_SET, flag::CREATE, &set.table, |out| {
                    out.text(2, &set.name);
                    write_spec(out, &set.spec, number);
                });
            }
            Op::DeleteSet { set } => {
                self.message(index, kind::DELETE_SET, 0, &set.table, |out| out.text(2, &set.name));
            }
            Op::FlushSet { set } => {
                self.message(index, kind::DELETE_ELEMENT, 0, &set.table, |out| out.text(2, &set.name));
            }
            Op::AddElements { set, elements } => {
                self.elements(index, kind::NEW_ELEMENT, flag::CREATE, set, elements);
            }
            Op::DeleteElements { set, elements } => self.elements(index, kind::DELETE_ELEMENT, 0, set, elements),
        }
    }

    fn add_rule(&mut self, index: u32, table: &TableId, chain: &str, at: Position, rule: &Rule) {
        let exprs = lower(table.family, rule);
        let (flags, position) = match at {
            Position::End => (flag::APPEND, None),
            Position::Before(handle) => (0, Some(handle)),
            Position::After(handle) => (flag::APPEND, Some(handle)),
        };
        self.message(index, kind::NEW_RULE, flag::CREATE | flags, table, |out| {
            out.text(2, chain);
            out.nested(4, |out| {
                for expr in &exprs {
                    expr::write(out, 1, expr);
                }
            });
            if let Some(position) = position {
                out.long(6, position);
            }
            if let Some(comment) = &rule.comment {
                userdata::write_comment(out, 7, comment);
            }
        });
    }

    /// As many messages as the elements need.
    fn elements(&mut self, index: u32, kind: u16, flags: u16, set: &SetRef, elements: &[(Bytes, Element)]) {
        let with_content = kind == kind::NEW_ELEMENT;
        let mut left = elements.iter().peekable();
        while left.peek().is_some() {
            self.message(index, kind, flags, &set.table, |out| {
                out.text(2, &set.name);
                let list = out.begin_nested(3);
                let begin = out.size();
                while out.size() - begin < ELEMENTS_MAX {
                    let Some((key, element)) = left.next() else { break };
                    element::write(out, &set.spec, key, element, with_content);
                }
                out.end_nested(list);
            });
        }
    }
}

fn write_base(out: &mut Writer, base: &Base) {
    out.nested(4, |out| {
        out.word(1, hook_number(base.hook));
        out.word(2, base.priority as u32);
    });
    out.word(5, u32::from(base.policy == Policy::Accept));
    out.text(7, base.kind.name());
}

pub(crate) fn hook_number(hook: Hook) -> u32 {
    hook as u32
}

pub(crate) const HOOKS: [Hook; 5] = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];
pub(crate) const CHAIN_KINDS: [ChainKind; 3] = [ChainKind::Filter, ChainKind::Nat, ChainKind::Route];

fn write_spec(out: &mut Writer, spec: &SetSpec, number: u32) {
    let mut flags = 0;
    for (set, bits) in [
        (spec.flags.constant, set_flag::CONSTANT),
        (spec.flags.interval, set_flag::INTERVAL),
        (spec.flags.interval && spec.key.len() > 1, set_flag::CONCAT),
        (spec.data.is_some(), set_flag::MAP),
        (spec.flags.timeout, set_flag::TIMEOUT),
        (spec.flags.dynamic, set_flag::EVAL),
    ] {
        flags |= if set { bits } else { 0 };
    }
    out.word(3, flags);
    out.word(4, userdata::type_number(&spec.key));
    out.word(5, length(&spec.key));
    match &spec.data {
        Some(DataSpec::Value(fields)) => {
            out.word(6, userdata::type_number(fields));
            out.word(7, length(fields));
        }
        Some(DataSpec::Verdict) => {
            out.word(6, VERDICT_TYPE);
            out.word(7, 0);
        }
        None => {}
    }
    out.word(10, number);
    let concat = spec.flags.interval && spec.key.len() > 1;
    if spec.size.is_some() || concat {
        out.nested(9, |out| {
            if let Some(size) = spec.size {
                out.word(1, size);
            }
            if concat {
                out.nested(2, |out| {
                    for field in &spec.key {
                        out.nested(1, |out| out.word(1, field.width() as u32));
                    }
                });
            }
        });
    }
    if let Some(timeout) = spec.timeout {
        out.long(11, milliseconds(timeout));
    }
    userdata::write_set(out, 13, spec);
    if spec.counter {
        out.nested(17, |out| {
            out.text(expr::NAME, "counter");
            out.nested(expr::DATA, |_| {});
        });
    }
}

/// The length of a key or value: padded parts, or one part as it is.
fn length(fields: &[crate::field::Field]) -> u32 {
    match fields {
        [single] => single.width() as u32,
        several => several.iter().map(|field| field.padded() as u32).sum(),
    }
}
