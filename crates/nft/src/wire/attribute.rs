//! Netlink attributes: writing them nested, and reading them without trusting their lengths.
//!
//! Numbers are in network order, as all of nfnetlink has them. Public, because other nfnetlink subsystems (conntrack) are
//! written the same way.

use crate::wire::message::{GENERIC, HEADER};

const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const ATTRIBUTE_HEADER: usize = 4;

/// Writes messages one after the other.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

/// Where a message or nested attribute began, to be given back at its end.
#[must_use]
#[derive(Debug)]
pub struct Start(usize);

impl Writer {
    pub fn new() -> Writer {
        Writer::default()
    }

    pub fn with_capacity(bytes: usize) -> Writer {
        Writer { bytes: Vec::with_capacity(bytes) }
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// How many bytes were written so far.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    pub fn begin_message(&mut self, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16) -> Start {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        debug_assert_eq!(self.bytes.len(), start + HEADER);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        debug_assert_eq!(self.bytes.len(), start + HEADER + GENERIC);
        Start(start)
    }

    pub fn end_message(&mut self, start: Start) {
        let len = (self.bytes.len() - start.0) as u32;
        self.bytes[start.0..start.0 + 4].copy_from_slice(&len.to_ne_bytes());
    }

    /// Adds a flag to the message that began at `offset`.
    pub fn or_flags(&mut self, offset: usize, flags: u16) {
        let at = offset + 6;
        let old = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]);
        self.bytes[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    pub fn begin_nested(&mut self, kind: u16) -> Start {
        let start = self.bytes.len();
        self.header(0, kind | NESTED);
        Start(start)
    }

    pub fn end_nested(&mut self, start: Start) {
        let len = (self.bytes.len() - start.0) as u16;
        self.bytes[start.0..start.0 + 2].copy_from_slice(&len.to_ne_bytes());
    }

    pub fn nested(&mut self, kind: u16, write: impl FnOnce(&mut Writer)) {
        let start = self.begin_nested(kind);
        write(self);
        self.end_nested(start);
    }

    fn header(&mut self, payload: usize, kind: u16) {
        self.bytes.extend_from_slice(&((ATTRIBUTE_HEADER + payload) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
    }

    pub fn raw(&mut self, kind: u16, value: &[u8]) {
        self.header(value.len(), kind);
        self.append(value);
    }

    /// Bytes that are attributes already.
    pub fn append(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }

    pub fn text(&mut self, kind: u16, value: &str) {
        self.header(value.len() + 1, kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.append(&[0]);
    }

    pub fn byte(&mut self, kind: u16, value: u8) {
        self.raw(kind, &[value]);
    }

    pub fn word(&mut self, kind: u16, value: u32) {
        self.raw(kind, &value.to_be_bytes());
    }

    pub fn long(&mut self, kind: u16, value: u64) {
        self.raw(kind, &value.to_be_bytes());
    }
}

/// The attributes in a stretch of bytes, as `(type, value)`.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let header = self.0.get(..ATTRIBUTE_HEADER)?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let value = self.0.get(ATTRIBUTE_HEADER..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    pub fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        Iterator::find(&mut self, |(found, _)| *found == kind).map(|(_, value)| value)
    }

    pub fn nested(self, kind: u16) -> Option<Attributes<'a>> {
        self.find(kind).map(Attributes)
    }

    pub fn text(self, kind: u16) -> Option<&'a str> {
        text(self.find(kind)?)
    }

    pub fn word(self, kind: u16) -> Option<u32> {
        word(self.find(kind)?)
    }

    pub fn long(self, kind: u16) -> Option<u64> {
        Some(u64::from_be_bytes(self.find(kind)?.get(..8)?.try_into().ok()?))
    }
}

pub fn word(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
}

pub fn text(value: &[u8]) -> Option<&str> {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).ok()
}
