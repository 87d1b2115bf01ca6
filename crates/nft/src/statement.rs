//! What a rule says, one value for each statement that nft prints.
//!
//! `ip daddr . meta l4proto . th dport @k10 goto mod_10` is a `Lookup` and a `Verdict`. The kernel's register machine
//! that carries it out is in `expr`; `lower` and `raise` go there and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::bytes::Bytes;
use crate::expr::Expr;
use crate::field::{AddrType, CtState, CtStatus, Field};
use crate::ruleset::Counter;

/// One statement of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// `ip daddr 10.0.0.1`, `th dport != 80`, `meta mark & 0x4 == 0x4`
    Match { field: Field, mask: Option<Bytes>, op: Compare, value: Bytes },
    /// `ct state new,established`, `ct status dnat`: true when one of the bits is set, or none if `negate`
    Flags { field: Field, bits: u32, negate: bool },
    /// `th dport 30000-32767`; with `negate` everything outside
    Range { field: Field, first: Bytes, last: Bytes, negate: bool },
    /// `ip saddr . ip daddr @hairpin`
    Lookup { key: Vec<Field>, set: Arc<str>, negate: bool },
    /// `meta mark vmap @classes`
    VerdictMap { key: Vec<Field>, map: Arc<str> },
    /// `meta mark set …`
    SetMark(Value),
    /// `ct mark set …`
    SetCtMark(Value),
    /// `meta mark set meta mark and A xor B`: changes some bits and leaves the others
    UpdateMark { mask: u32, xor: u32 },
    /// `ip daddr set KEY map @MAP`: writes into the packet and keeps its checksums right; only `ip daddr` and `ip6 daddr`.
    ///
    /// DNAT overwrites the destination from the flow, so that before a `dnat` it is free to carry what one rule found for the next
    /// one (`ct original ip daddr` still has the client's word). A payload expression with a source register: `ip` has checksum type
    /// inet at offset 10, `ip6` none, both the flag for the transport's pseudo header.
    SetField { field: Field, to: Value },
    /// `update @affinity { ip saddr timeout 3h : … }`
    ///
    /// The kernel takes a [`Value::Map`] as data, but nft 1.0.6 aborts when it lists such a rule, so do not write one.
    Dynset { op: DynsetOp, set: Arc<str>, key: Vec<Field>, timeout: Option<Duration>, data: Option<Value> },
    /// `dnat to …` or `snat to …`
    Nat { kind: NatKind, to: NatTarget },
    /// `masquerade`
    Masquerade { fully_random: bool },
    /// `reject with …`
    Reject(Reject),
    /// `counter`
    Counter(Counter),
    /// `limit rate 5/second burst 10 packets`
    Limit(Limit),
    /// `log prefix "…"`, at a level of syslog; none is `warn`, the kernel's default, which is written so and not as 4
    Log { prefix: Arc<str>, level: Option<u32> },
    /// `notrack`
    Notrack,
    /// `accept`, `goto …`
    Verdict(Verdict),
    /// What another program wrote and we have no statement for. Kept, so that it can be told from ours.
    Foreign(Vec<Expr>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Const(Bytes),
    Fields(Vec<Field>),
    /// What `map` gives for the key; without an element the rule ends there.
    Map {
        key: Vec<Field>,
        map: Arc<str>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DynsetOp {
    /// Adds the element, unless it is there.
    Add,
    /// Adds the element or starts its lifetime again.
    Update,
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NatKind {
    Dnat,
    Snat,
}

/// The address, and perhaps the port, that a packet gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NatTarget {
    V4(Ipv4Addr, Option<u16>),
    V6(Ipv6Addr, Option<u16>),
    /// The map's value is `address` or, with `port`, `address . port`.
    Map {
        v6: bool,
        key: Vec<Field>,
        map: Arc<str>,
        port: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reject {
    TcpReset,
    /// An ICMP destination unreachable with this code, in an IPv4 packet; 3 is `port-unreachable`.
    Icmp(u8),
    /// An ICMPv6 destination unreachable with this code; 4 is `port-unreachable`.
    Icmpv6(u8),
    /// Either, by the kernel's own neutral code, in an `inet` table; 1 is `port-unreachable`.
    Icmpx(u8),
}

/// `limit rate [over] RATE/unit [burst N packets]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    pub rate: u64,
    /// The unit's length in seconds: 1, 60, 3600, 86400 or 604800.
    pub per_seconds: u64,
    pub burst: u32,
    pub over: bool,
}

/// What becomes of the packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    Accept,
    Drop,
    Continue,
    Return,
    /// Comes back after the chain.
    Jump(Arc<str>),
    /// Does not come back.
    Goto(Arc<str>),
}

impl Verdict {
    /// The chain that packets are sent to.
    pub fn chain(&self) -> Option<&Arc<str>> {
        match self {
            Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
            Verdict::Accept | Verdict::Drop | Verdict::Continue | Verdict::Return => None,
        }
    }
}

/// Short ways to write the statements that rules are made of.
impl Statement {
    /// `FIELD VALUE`; the value as the builder methods of [`Bytes`] make it.
    pub fn is(field: Field, value: Bytes) -> Statement {
        Statement::Match { field, mask: None, op: Compare::Eq, value }
    }

    /// `FIELD != VALUE`
    pub fn is_not(field: Field, value: Bytes) -> Statement {
        Statement::Match { field, mask: None, op: Compare::Ne, value }
    }

    /// `meta l4proto PROTO`
    pub fn l4proto(proto: u8) -> Statement {
        Statement::is(Field::L4Proto, Bytes::new().proto(proto))
    }

    /// `ip daddr ADDR` or `ip6 daddr ADDR`
    pub fn daddr(addr: IpAddr) -> Statement {
        let field = if addr.is_ipv4() { Field::IpDaddr } else { Field::Ip6Daddr };
        Statement::is(field, Bytes::new().ip(addr))
    }

    /// `ct state A,B`
    pub fn ct_state(states: &[CtState]) -> Statement {
        let bits = states.iter().fold(0, |bits, state| bits | state.0);
        Statement::Flags { field: Field::CtState, bits, negate: false }
    }

    /// `ct status A`
    pub fn ct_status(status: CtStatus) -> Statement {
        Statement::Flags { field: Field::CtStatus, bits: status.0, negate: false }
    }

    /// `fib daddr type TYPE`
    pub fn fib_daddr(kind: AddrType) -> Statement {
        Statement::is(Field::FibDaddrType, Bytes::new().number(kind.number()))
    }

    /// `meta mark & MASK == VALUE`
    pub fn mark(value: u32, mask: u32) -> Statement {
        let mask = (mask != u32::MAX).then(|| Bytes::new().number(mask));
        Statement::Match { field: Field::Mark, mask, op: Compare::Eq, value: Bytes::new().number(value) }
    }

    /// `meta mark set meta mark or BITS`
    pub fn or_mark(bits: u32) -> Statement {
        Statement::UpdateMark { mask: !bits, xor: bits }
    }

    /// `KEY @SET`
    pub fn lookup(key: impl IntoIterator<Item = Field>, set: &str) -> Statement {
        Statement::Lookup { key: key.into_iter().collect(), set: set.into(), negate: false }
    }

    /// `KEY != @SET`
    pub fn not_in(key: impl IntoIterator<Item = Field>, set: &str) -> Statement {
        Statement::Lookup { key: key.into_iter().collect(), set: set.into(), negate: true }
    }

    /// `KEY vmap @MAP`
    pub fn vmap(key: impl IntoIterator<Item = Field>, map: &str) -> Statement {
        Statement::VerdictMap { key: key.into_iter().collect(), map: map.into() }
    }

    /// `FIELD set KEY map @MAP`
    pub fn set_field(field: Field, key: impl IntoIterator<Item = Field>, map: &str) -> Statement {
        Statement::SetField { field, to: Value::map(key, map) }
    }

    /// `dnat to KEY map @MAP`, the map's value being `address . port`
    pub fn dnat_map(v6: bool, key: impl IntoIterator<Item = Field>, map: &str) -> Statement {
        let to = NatTarget::Map { v6, key: key.into_iter().collect(), map: map.into(), port: true };
        Statement::Nat { kind: NatKind::Dnat, to }
    }

    /// `masquerade fully-random`
    pub fn masquerade() -> Statement {
        Statement::Masquerade { fully_random: true }
    }

    /// `counter`
    pub fn counter() -> Statement {
        Statement::Counter(Counter::default())
    }

    pub fn accept() -> Statement {
        Statement::Verdict(Verdict::Accept)
    }

    pub fn drop() -> Statement {
        Statement::Verdict(Verdict::Drop)
    }

    pub fn ret() -> Statement {
        Statement::Verdict(Verdict::Return)
    }

    pub fn jump(chain: &str) -> Statement {
        Statement::Verdict(Verdict::Jump(chain.into()))
    }

    pub fn goto(chain: &str) -> Statement {
        Statement::Verdict(Verdict::Goto(chain.into()))
    }
}

impl Value {
    /// `KEY map @MAP`
    pub fn map(key: impl IntoIterator<Item = Field>, map: &str) -> Value {
        Value::Map { key: key.into_iter().collect(), map: map.into() }
    }
}
