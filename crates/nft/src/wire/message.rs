//! Netlink messages: headers, how they are packed, and the requests that ask for dumps.

use crate::ruleset::{Family, TableId};
use crate::wire::attribute::Writer;

/// Message types, with the nf_tables subsystem in the upper byte.
pub mod kind {
    pub const ERROR: u16 = 2;
    pub const DONE: u16 = 3;
    pub(crate) const BATCH_BEGIN: u16 = 0x10;
    pub(crate) const BATCH_END: u16 = 0x11;
    pub(crate) const SUBSYSTEM: u16 = 10;
    pub(crate) const NEW_TABLE: u16 = 0xa00;
    pub(crate) const GET_TABLE: u16 = 0xa01;
    pub(crate) const DELETE_TABLE: u16 = 0xa02;
    pub(crate) const NEW_CHAIN: u16 = 0xa03;
    pub(crate) const GET_CHAIN: u16 = 0xa04;
    pub(crate) const DELETE_CHAIN: u16 = 0xa05;
    pub(crate) const NEW_RULE: u16 = 0xa06;
    pub(crate) const GET_RULE: u16 = 0xa07;
    pub(crate) const DELETE_RULE: u16 = 0xa08;
    pub(crate) const NEW_SET: u16 = 0xa09;
    pub(crate) const GET_SET: u16 = 0xa0a;
    pub(crate) const DELETE_SET: u16 = 0xa0b;
    pub(crate) const NEW_ELEMENT: u16 = 0xa0c;
    pub(crate) const GET_ELEMENT: u16 = 0xa0d;
    pub(crate) const DELETE_ELEMENT: u16 = 0xa0e;
    pub(crate) const NEW_GENERATION: u16 = 0xa0f;
    pub(crate) const GET_GENERATION: u16 = 0xa10;
}

pub(crate) mod flag {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const ACK: u16 = 4;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
    pub(crate) const DUMP_INTERRUPTED: u16 = 0x10;
}

/// `struct nlmsghdr` and `struct nfgenmsg`.
pub(crate) const HEADER: usize = 16;
pub(crate) const GENERIC: usize = 4;

/// One netlink message.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// The port of the socket that it answers, or of the program that made the change.
    pub port: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// For an `ERROR` or `DONE` message the error number, 0 for an acknowledgement.
    pub fn errno(&self) -> Option<i32> {
        if self.kind != kind::ERROR && self.kind != kind::DONE {
            return None;
        }
        let number = self.body.get(..4).map_or(0, |bytes| i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        Some(number.abs())
    }

    /// The dump that it belongs to is not one state of the kernel: begin again.
    pub fn interrupted(&self) -> bool {
        self.flags & flag::DUMP_INTERRUPTED != 0
    }

    pub(crate) fn family(&self) -> Option<Family> {
        Family::from_number(*self.body.first()?)
    }

    pub(crate) fn attributes(&self) -> &'a [u8] {
        self.body.get(GENERIC..).unwrap_or_default()
    }
}

/// The messages in what one receive gave.
#[derive(Debug, Clone)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.0.get(..HEADER)?;
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let len = word(0) as usize;
        let body = self.0.get(HEADER..len)?;
        let message = Message { kind: half(4), flags: half(6), sequence: word(8), port: word(12), body };
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// A question to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The number of the ruleset's state, which every commit of anyone's raises.
    Generation,
    Tables(Family),
    /// All chains, sets or rules of a family; the kernel filters rules and sets by table, chains it does not.
    Chains(TableId),
    Sets(TableId),
    Rules(TableId),
    Elements(TableId, std::sync::Arc<str>),
}

impl Request {
    /// The message with this sequence number.
    pub fn encode(&self, sequence: u32) -> Vec<u8> {
        let mut writer = Writer::new();
        let (kind, flags, table) = match self {
            Request::Generation => (kind::GET_GENERATION, flag::REQUEST, None),
            Request::Tables(_) => (kind::GET_TABLE, flag::REQUEST | flag::DUMP, None),
            Request::Chains(table) => (kind::GET_CHAIN, flag::REQUEST | flag::DUMP, Some(table)),
            Request::Sets(table) => (kind::GET_SET, flag::REQUEST | flag::DUMP, Some(table)),
            Request::Rules(table) => (kind::GET_RULE, flag::REQUEST | flag::DUMP, Some(table)),
            Request::Elements(table, _) => (kind::GET_ELEMENT, flag::REQUEST | flag::DUMP, Some(table)),
        };
        let family = match (self, table) {
            (Request::Tables(family), _) => family.number(),
            (_, Some(table)) => table.family.number(),
            (_, None) => 0,
        };
        let start = writer.begin_message(kind, flags, sequence, family, 0);
        if let Some(table) = table {
            // NFTA_*_TABLE is 1 for all of them, NFTA_SET_ELEM_LIST_SET is 2.
            writer.text(1, &table.name);
        }
        if let Request::Elements(_, set) = self {
            writer.text(2, set);
        }
        writer.end_message(start);
        writer.into_bytes()
    }
}
