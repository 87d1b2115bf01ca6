//! A request, read where it was received: header, the one question, EDNS. What is malformed is told apart from what is not for us.

use super::name::NameBuffer;
use super::{IN, Rcode, kind};

pub(crate) const HEADER: usize = 12;
const QUERY: u8 = 0;

/// What a client said about itself in its OPT record (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) payload: u16,
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
}

/// One well-formed question of class IN.
#[derive(Debug, Clone)]
pub(crate) struct Request<'a> {
    pub(crate) message: &'a [u8],
    /// The name that is asked for, in lower case.
    pub(crate) name: NameBuffer,
    /// Where the question section ends in the message.
    pub(crate) question_end: usize,
    pub(crate) kind: u16,
    pub(crate) edns: Option<Edns>,
}

/// Why there is no question to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Not a request at all: silence, or two servers would talk for ever.
    NoRequest,
    /// To be refused with this code, with the question section if it could be read.
    Refused { code: Rcode, question_end: usize, edns: Option<Edns> },
}

impl<'a> Request<'a> {
    /// Reads a message; bytes behind it are passed over.
    pub(crate) fn read(message: &'a [u8]) -> Result<Self, Unfit> {
        let header: &[u8; HEADER] = message.first_chunk().ok_or(Unfit::NoRequest)?;
        if header[2] & 0x80 != 0 {
            return Err(Unfit::NoRequest);
        }
        let bare = |code| Unfit::Refused { code, question_end: HEADER, edns: None };
        if header[2] >> 3 & 0x0f != QUERY {
            return Err(bare(Rcode::NotImp));
        }
        let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        if count(4) != 1 {
            return Err(bare(Rcode::FormErr));
        }
        let mut name = NameBuffer::new();
        let at = question_name(message, &mut name).ok_or(bare(Rcode::FormErr))?;
        let fixed: &[u8; 4] = message[at..].first_chunk().ok_or(bare(Rcode::FormErr))?;
        let (kind, class) = (u16::from_be_bytes([fixed[0], fixed[1]]), u16::from_be_bytes([fixed[2], fixed[3]]));
        let question_end = at + 4;
        let records = u32::from(count(6)) + u32::from(count(8));
        let refused = |code, edns| Unfit::Refused { code, question_end, edns };
        let edns = additional(message, question_end, records, count(10)).ok_or(refused(Rcode::FormErr, None))?;
        if edns.is_some_and(|edns| edns.version > 0) {
            return Err(refused(Rcode::BadVers, edns));
        }
        if let Some(code) = refusal(kind, class) {
            return Err(refused(code, edns));
        }
        Ok(Request { message, name, question_end, kind, edns })
    }
}

/// Questions that no cluster answers: other classes, transfers, and types that are only found in messages.
fn refusal(asked: u16, class: u16) -> Option<Rcode> {
    match (class, asked) {
        (IN, kind::AXFR | kind::IXFR) => Some(Rcode::Refused),
        (IN, kind::MAILA | kind::MAILB) => Some(Rcode::NotImp),
        (IN, 0 | kind::OPT | 128..=250) => Some(Rcode::FormErr),
        (IN, _) => None,
        _ => Some(Rcode::Refused),
    }
}

/// The name of the first question, and where it ends. It stands first in the message, so a pointer could only lead into the header.
fn question_name(message: &[u8], name: &mut NameBuffer) -> Option<usize> {
    let mut at = HEADER;
    loop {
        let length = *message.get(at)?;
        let label = message.get(at..at + 1 + usize::from(length)).filter(|_| length < 64)?;
        if !name.push(label) {
            return None;
        }
        at += label.len();
        if length == 0 {
            return Some(at);
        }
    }
}

/// Walks over `skip` records, then finds the OPT record among `count` more. None if any of them is malformed or there are two.
fn additional(message: &[u8], mut at: usize, skip: u32, count: u16) -> Option<Option<Edns>> {
    let mut edns = None;
    for number in 0..skip + u32::from(count) {
        let owner = at;
        at = end_of_name(message, at)?;
        let fixed: &[u8; 10] = message.get(at..)?.first_chunk()?;
        let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let data = message.get(at + 10..at + 10 + length)?;
        at += 10 + length;
        if number < skip || u16::from_be_bytes([fixed[0], fixed[1]]) != kind::OPT {
            continue;
        }
        if edns.is_some() || message[owner] != 0 || !options_are_whole(data) {
            return None;
        }
        let payload = u16::from_be_bytes([fixed[2], fixed[3]]);
        edns = Some(Edns { payload, version: fixed[5], dnssec_ok: fixed[6] & 0x80 != 0 });
    }
    Some(edns)
}

/// Past a name that may end in a pointer. Where the pointer leads is of no interest.
fn end_of_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            192..=255 => return message.get(at + 1).map(|_| at + 2),
            64..=191 => return None,
        }
    }
}

fn options_are_whole(mut options: &[u8]) -> bool {
    while !options.is_empty() {
        let Some(header) = options.first_chunk::<4>() else { return false };
        let length = 4 + usize::from(u16::from_be_bytes([header[2], header[3]]));
        let Some(rest) = options.get(length..) else { return false };
        options = rest;
    }
    true
}
