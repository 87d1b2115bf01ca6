//! Operations on a ruleset, and batches of them that a kernel takes or refuses as a whole.

use std::sync::Arc;

use crate::bytes::Bytes;
use crate::ruleset::{Base, Element, Rule, SetSpec, TableId};

/// Operations that happen all at once or not at all, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    pub ops: Vec<Op>,
}

impl Batch {
    pub fn new() -> Batch {
        Batch::default()
    }

    pub fn push(&mut self, op: Op) {
        self.ops.push(op);
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// How many elements the batch adds and deletes.
    pub fn elements(&self) -> usize {
        self.ops
            .iter()
            .map(|op| match op {
                Op::AddElements { elements, .. } | Op::DeleteElements { elements, .. } => elements.len(),
                Op::AddTable { .. }
                | Op::DeleteTable { .. }
                | Op::AddChain { .. }
                | Op::DeleteChain { .. }
                | Op::FlushChain { .. }
                | Op::AddRule { .. }
                | Op::DeleteRule { .. }
                | Op::AddSet { .. }
                | Op::DeleteSet { .. }
                | Op::FlushSet { .. } => 0,
            })
            .sum()
    }
}

/// One change. Adding what is there with the same properties is no error, except for rules, which always add up;
/// deleting what is not there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    AddTable {
        table: TableId,
        comment: Option<Arc<str>>,
    },
    /// With all that is in it.
    DeleteTable {
        table: TableId,
        must_exist: bool,
    },
    AddChain {
        table: TableId,
        chain: Arc<str>,
        base: Option<Base>,
        comment: Option<Arc<str>>,
    },
    DeleteChain {
        table: TableId,
        chain: Arc<str>,
    },
    /// Deletes the chain's rules.
    FlushChain {
        table: TableId,
        chain: Arc<str>,
    },
    AddRule {
        table: TableId,
        chain: Arc<str>,
        at: Position,
        rule: Rule,
    },
    DeleteRule {
        table: TableId,
        chain: Arc<str>,
        handle: u64,
    },
    AddSet {
        set: SetRef,
    },
    DeleteSet {
        set: SetRef,
    },
    /// Deletes the set's elements.
    FlushSet {
        set: SetRef,
    },
    AddElements {
        set: SetRef,
        elements: Vec<(Bytes, Element)>,
    },
    /// The whole elements, because the kernel wants the end of a range too; what else they hold is not looked at.
    DeleteElements {
        set: SetRef,
        elements: Vec<(Bytes, Element)>,
    },
}

/// Where in a chain a rule goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    End,
    Before(u64),
    After(u64),
}

/// A set by name, with what one must know to write its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetRef {
    pub table: TableId,
    pub name: Arc<str>,
    pub spec: Arc<SetSpec>,
}
