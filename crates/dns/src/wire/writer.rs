//! An answer, written record by record into a buffer that is used again and again.
//!
//! A record that does not fit is taken back. If it belonged to the answer, the message is marked as truncated and nothing more is added
//! (RFC 2181, 9); an additional record is only a courtesy and is left out without a word.

use std::net::IpAddr;

use super::name::{MAX_NAME, labels};
use super::request::{Edns, HEADER, Request, Unfit};
use super::{IN, Rcode, kind};

/// What we offer to take over UDP: below any common MTU (what DNS flag day 2020 asks for).
pub(crate) const OUR_PAYLOAD: u16 = 1232;
const OPT_LENGTH: usize = 11;
/// A pointer to the question's name, which always stands behind the header.
const QUESTION: [u8; 2] = [0xc0, HEADER as u8];

/// Whose records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner<'n> {
    /// The name of the question, with the letters as the client wrote them (RFC 4343, 4.1).
    Question,
    Name(&'n [u8]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

/// One message being written.
#[derive(Debug)]
pub(crate) struct Writer<'b> {
    out: &'b mut Vec<u8>,
    /// Room for records: the client's limit without the OPT record.
    limit: usize,
    counts: [u16; 3],
    edns: Option<Edns>,
    truncated: bool,
    questions: u16,
    /// The name of the question, for names that end alike.
    question: [u8; MAX_NAME],
    question_length: usize,
    pub(crate) ttl: u32,
}

impl<'b> Writer<'b> {
    /// Begins an answer: header and question. `limit` is what the transport and the client take.
    pub(crate) fn begin(request: &Request<'_>, limit: usize, out: &'b mut Vec<u8>) -> Self {
        out.clear();
        out.extend_from_slice(&request.message[..request.question_end]);
        let mut question = [0; MAX_NAME];
        let name = request.name.as_slice();
        question[..name.len()].copy_from_slice(name);
        Writer::over(out, limit, request.edns, question, name.len(), 1)
    }

    /// Begins a refusal: the header, and the question if it could be read.
    pub(crate) fn refuse(message: &[u8], question_end: usize, edns: Option<Edns>, out: &'b mut Vec<u8>) -> Self {
        out.clear();
        out.extend_from_slice(&message[..question_end]);
        Writer::over(out, usize::from(u16::MAX), edns, [0; MAX_NAME], 0, u16::from(question_end > HEADER))
    }

    fn over(
        out: &'b mut Vec<u8>,
        limit: usize,
        edns: Option<Edns>,
        question: [u8; MAX_NAME],
        question_length: usize,
        questions: u16,
    ) -> Self {
        let limit = limit - edns.map_or(0, |_| OPT_LENGTH);
        Writer { out, limit, counts: [0; 3], edns, truncated: false, questions, question, question_length, ttl: 0 }
    }

    /// Where the next byte goes.
    pub(crate) fn place(&self) -> usize {
        self.out.len()
    }

    pub(crate) fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// One record; false if it did not fit.
    pub(crate) fn record(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        kind: u16,
        data: impl FnOnce(&mut Self),
    ) -> bool {
        if self.truncated && section != Section::Authority {
            return false;
        }
        let start = self.out.len();
        match owner {
            Owner::Question => self.out.extend_from_slice(&QUESTION),
            Owner::Name(name) => self.name(name),
        }
        let ttl = self.ttl;
        self.u16(kind);
        self.u16(IN);
        self.bytes(&ttl.to_be_bytes());
        self.u16(0);
        let data_start = self.out.len();
        data(self);
        let length = (self.out.len() - data_start) as u16;
        self.out[data_start - 2..data_start].copy_from_slice(&length.to_be_bytes());
        if self.out.len() > self.limit {
            self.out.truncate(start);
            self.truncated |= section == Section::Answer;
            return false;
        }
        self.counts[section as usize] += 1;
        true
    }

    pub(crate) fn address(&mut self, section: Section, owner: Owner<'_>, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.record(section, owner, kind::A, |w| w.bytes(&address.octets())),
            IpAddr::V6(address) => self.record(section, owner, kind::AAAA, |w| w.bytes(&address.octets())),
        }
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// A name, its end replaced by a pointer into the question where both end alike.
    pub(crate) fn name(&mut self, name: &[u8]) {
        let question = &self.question[..self.question_length];
        let mut walk = labels(name);
        loop {
            let rest = walk.rest();
            if rest.len() > 1 && super::name::before(question, rest).is_some() {
                let place = HEADER + question.len() - rest.len();
                self.out.extend_from_slice(&name[..name.len() - rest.len()]);
                self.out.extend_from_slice(&(0xc000 | place as u16).to_be_bytes());
                return;
            }
            if walk.next().is_none() {
                self.out.extend_from_slice(name);
                return;
            }
        }
    }

    /// Completes header and OPT record.
    pub(crate) fn finish(self, code: Rcode, authoritative: bool) {
        let Writer { out, counts, edns, truncated, questions, .. } = self;
        let code = code as u16;
        if let Some(edns) = edns {
            // Owner root, our payload, the code's upper bits, version 0, the client's DO bit (RFC 6891 6.1.4, RFC 3225), no options.
            let [high, low] = OUR_PAYLOAD.to_be_bytes();
            let dnssec_ok = u8::from(edns.dnssec_ok) << 7;
            out.extend_from_slice(&[0, 0, kind::OPT as u8, high, low, (code >> 4) as u8, 0, dnssec_ok, 0, 0, 0]);
        }
        // QR, the opcode and RD of the request.
        let recursion_desired = out[2] & 0x01;
        out[2] = 0x80 | out[2] & 0x78 | u8::from(authoritative) << 2 | u8::from(truncated) << 1 | recursion_desired;
        out[3] = (code & 0x0f) as u8;
        let additional = counts[2] + u16::from(edns.is_some());
        for (at, count) in [(4, questions), (6, counts[0]), (8, counts[1]), (10, additional)] {
            out[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
    }
}

/// Writes the refusal of what is unfit; false for what must be met with silence.
pub(crate) fn refuse(message: &[u8], unfit: Unfit, out: &mut Vec<u8>) -> Option<Rcode> {
    match unfit {
        Unfit::NoRequest => None,
        Unfit::Refused { code, question_end, edns } => {
            Writer::refuse(message, question_end, edns, out).finish(code, false);
            Some(code)
        }
    }
}
