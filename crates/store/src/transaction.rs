//! What a writer hands in: conditions and writes, as values.

use std::sync::Arc;

use crate::Revision;

/// A key: a path such as `/services/default/web`. Order of keys is order of bytes.
pub type Key = Arc<str>;

/// Writes that happen together at one revision, if every check holds.
#[derive(Debug, Default)]
pub struct Transaction {
    pub checks: Vec<Check>,
    /// No key may occur twice.
    pub writes: Vec<Write>,
}

/// The condition that a key was last changed at a given revision, or is absent.
#[derive(Debug, Clone)]
pub struct Check {
    pub key: Key,
    pub modified: Option<Revision>,
}

/// One change.
#[derive(Debug)]
pub enum Write {
    Put {
        key: Key,
        body: Body,
    },
    /// Removes the key; watchers get `last` as the final state of what went. Removing an absent key is nothing.
    Delete {
        key: Key,
        last: Body,
    },
}

/// Bytes to store. A value may carry the revision of its own transaction, which only the store knows.
#[derive(Debug, Clone)]
pub enum Body {
    Plain(Vec<u8>),
    /// `head`, the revision in decimal, `tail`.
    Stamped {
        head: Vec<u8>,
        tail: Vec<u8>,
    },
}

impl Body {
    pub(crate) fn at(self, revision: Revision) -> Vec<u8> {
        match self {
            Body::Plain(bytes) => bytes,
            Body::Stamped { mut head, tail } => {
                head.reserve_exact(20 + tail.len());
                head.extend_from_slice(revision.to_string().as_bytes());
                head.extend_from_slice(&tail);
                head
            }
        }
    }
}

impl Transaction {
    /// No condition and no write yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The key must be absent.
    pub fn absent(mut self, key: impl Into<Key>) -> Self {
        self.checks.push(Check { key: key.into(), modified: None });
        self
    }

    /// The key must have been changed last at `revision`.
    pub fn unchanged(mut self, key: impl Into<Key>, revision: Revision) -> Self {
        self.checks.push(Check { key: key.into(), modified: Some(revision) });
        self
    }

    pub fn put(mut self, key: impl Into<Key>, body: Body) -> Self {
        self.writes.push(Write::Put { key: key.into(), body });
        self
    }

    pub fn delete(mut self, key: impl Into<Key>, last: Body) -> Self {
        self.writes.push(Write::Delete { key: key.into(), last });
        self
    }
}
