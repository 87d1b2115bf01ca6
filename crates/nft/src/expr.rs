//! The kernel's own expressions: a small register machine that each rule is compiled to.
//!
//! Registers are counted in 32-bit words from 0 to 15 here; the kernel's numbers for them are a matter of `wire`.
//! Nothing above `lower`, `raise`, `trace` and `wire` needs this file.

use std::sync::Arc;
use std::time::Duration;

use crate::bytes::Bytes;
use crate::field::Field;
use crate::ruleset::Counter;
use crate::statement::{Compare, DynsetOp, Limit, NatKind, Reject, Verdict};

/// A 32-bit register, 0 to 15.
pub type Reg = u8;

/// How many there are.
pub const REGISTERS: Reg = 16;

/// One expression of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Reads a field into registers from `dreg` on: payload, meta, ct, fib and numgen expressions alike.
    Load {
        field: Field,
        dreg: Reg,
    },
    /// Writes registers into the packet: `SetField`.
    Store {
        field: Field,
        sreg: Reg,
    },
    SetMark {
        sreg: Reg,
    },
    SetCtMark {
        sreg: Reg,
    },
    Cmp {
        sreg: Reg,
        op: Compare,
        value: Bytes,
        len: u8,
    },
    Range {
        sreg: Reg,
        negate: bool,
        first: Bytes,
        last: Bytes,
        len: u8,
    },
    /// `dreg = (sreg & mask) ^ xor`
    Bitwise {
        sreg: Reg,
        dreg: Reg,
        mask: Bytes,
        xor: Bytes,
        len: u8,
    },
    /// Swaps a 32-bit number from host to network order, so that ordered comparisons of bytes compare numbers.
    ToNetworkOrder {
        sreg: Reg,
        dreg: Reg,
    },
    Lookup {
        set: Arc<str>,
        sreg: Reg,
        to: LookupTo,
    },
    ImmediateValue {
        dreg: Reg,
        value: Bytes,
        len: u8,
    },
    Verdict(Verdict),
    Dynset {
        set: Arc<str>,
        op: DynsetOp,
        sreg_key: Reg,
        sreg_data: Option<Reg>,
        timeout: Option<Duration>,
    },
    Nat {
        kind: NatKind,
        v6: bool,
        addr: Option<Reg>,
        port: Option<Reg>,
    },
    Masquerade {
        flags: u32,
    },
    Reject(Reject),
    Counter(Counter),
    Limit(Limit),
    Log {
        prefix: Arc<str>,
        level: Option<u32>,
    },
    Notrack,
    /// Written by another program: the kernel's name for it and its attributes.
    Unknown {
        name: Arc<str>,
        attributes: Box<[u8]>,
    },
}

/// What a lookup does with what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupTo {
    /// Goes on if the key is there.
    Present,
    /// Goes on if the key is not there.
    Absent,
    /// Goes on with the map's value in registers.
    Register(Reg),
    /// Does what the map's verdict says.
    Verdict,
}
