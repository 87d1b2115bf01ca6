//! Expressions on the wire.

mod read;

use crate::bytes::Bytes;
use crate::expr::{Expr, LookupTo, Reg};
use crate::field::Field;
use crate::statement::{Compare, DynsetOp, Limit, NatKind, Reject, Verdict};
use crate::wire::attribute::Writer;
use crate::wire::element::milliseconds;

pub(crate) use read::{read, read_verdict};

/// `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`
pub(crate) const NAME: u16 = 1;
pub(crate) const DATA: u16 = 2;
/// `NFTA_DATA_VALUE`, `NFTA_DATA_VERDICT`
pub(crate) const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const FIB_ADDRTYPE: u32 = 3;
const ADDRESSES_OF_IPV4: u32 = 2;
const ADDRESSES_OF_IPV6: u32 = 10;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`, which nft sets for fixed ports.
const NAT_PORT: u32 = 2;

/// How a field is read: what the kernel calls the expression, and the numbers in it.
enum Source {
    Payload { base: u32, offset: u32 },
    Meta { key: u32 },
    Ct { key: u32, original: bool },
    Fib { flags: u32 },
    Numgen { random: u32, modulus: u32 },
}

fn source(field: Field) -> Source {
    let network = |offset| Source::Payload { base: NETWORK_HEADER, offset };
    let transport = |offset| Source::Payload { base: TRANSPORT_HEADER, offset };
    let ct = |key| Source::Ct { key, original: false };
    let original = |key| Source::Ct { key, original: true };
    match field {
        Field::IpSaddr => network(12),
        Field::IpDaddr | Field::IpDaddrHigh => network(16),
        Field::Ip6Saddr => network(8),
        Field::Ip6Daddr | Field::Ip6DaddrHigh => network(24),
        Field::ThSport => transport(0),
        Field::ThDport => transport(2),
        Field::Nfproto => Source::Meta { key: 15 },
        Field::L4Proto => Source::Meta { key: 16 },
        Field::Mark => Source::Meta { key: 3 },
        Field::Iif => Source::Meta { key: 4 },
        Field::Oif => Source::Meta { key: 5 },
        Field::Iifname => Source::Meta { key: 6 },
        Field::Oifname => Source::Meta { key: 7 },
        Field::CtState => ct(0),
        Field::CtDirection => ct(1),
        Field::CtStatus => ct(2),
        Field::CtMark => ct(3),
        Field::CtExpiration => ct(5),
        Field::CtOriginalProtoSrc => original(11),
        Field::CtOriginalProtoDst => original(12),
        Field::CtOriginalIpSaddr => original(19),
        Field::CtOriginalIpDaddr => original(20),
        Field::CtOriginalIp6Saddr => original(21),
        Field::CtOriginalIp6Daddr => original(22),
        Field::FibSaddrType => Source::Fib { flags: 1 },
        Field::FibDaddrType => Source::Fib { flags: 2 },
        Field::NumgenRandom { modulus } => Source::Numgen { random: 1, modulus },
        Field::NumgenInc { modulus } => Source::Numgen { random: 0, modulus },
    }
}

/// Fields that are one expression each, without those that carry a number.
const FIELDS: [Field; 24] = [
    Field::IpSaddr,
    Field::IpDaddr,
    Field::Ip6Saddr,
    Field::Ip6Daddr,
    Field::ThSport,
    Field::ThDport,
    Field::Nfproto,
    Field::L4Proto,
    Field::Mark,
    Field::Iif,
    Field::Oif,
    Field::Iifname,
    Field::Oifname,
    Field::CtState,
    Field::CtDirection,
    Field::CtStatus,
    Field::CtMark,
    Field::CtExpiration,
    Field::CtOriginalProtoSrc,
    Field::CtOriginalProtoDst,
    Field::CtOriginalIpSaddr,
    Field::CtOriginalIpDaddr,
    Field::CtOriginalIp6Saddr,
    Field::CtOriginalIp6Daddr,
];

/// Writes one expression as an attribute of the given type.
pub(crate) fn write(out: &mut Writer, attribute: u16, expr: &Expr) {
    out.nested(attribute, |out| {
        out.text(NAME, name(expr));
        match expr {
            Expr::Unknown { attributes, .. } => out.nested(DATA, |out| out.append(attributes)),
            known => out.nested(DATA, |out| write_known(out, known)),
        }
    });
}

fn name(expr: &Expr) -> &str {
    match expr {
        Expr::Load { field, .. } => match source(*field) {
            Source::Payload { .. } => "payload",
            Source::Meta { .. } => "meta",
            Source::Ct { .. } => "ct",
            Source::Fib { .. } => "fib",
            Source::Numgen { .. } => "numgen",
        },
        Expr::Store { .. } => "payload",
        Expr::SetMark { .. } => "meta",
        Expr::SetCtMark { .. } => "ct",
        Expr::Cmp { .. } => "cmp",
        Expr::Range { .. } => "range",
        Expr::Bitwise { .. } => "bitwise",
        Expr::ToNetworkOrder { .. } => "byteorder",
        Expr::Lookup { .. } => "lookup",
        Expr::ImmediateValue { .. } | Expr::Verdict(_) => "immediate",
        Expr::Dynset { .. } => "dynset",
        Expr::Nat { .. } => "nat",
        Expr::Masquerade { .. } => "masq",
        Expr::Reject(_) => "reject",
        Expr::Counter(_) => "counter",
        Expr::Limit(_) => "limit",
        Expr::Log { .. } => "log",
        Expr::Notrack => "notrack",
        Expr::Unknown { name, .. } => name,
    }
}

fn write_known(out: &mut Writer, expr: &Expr) {
    match expr {
        Expr::Load { field, dreg } => write_load(out, *field, *dreg),
        Expr::Store { field, sreg } => write_store(out, *field, *sreg),
        Expr::SetMark { sreg } => {
            out.word(2, 3);
            out.word(3, register(*sreg));
        }
        Expr::SetCtMark { sreg } => {
            out.word(2, 3);
            out.word(4, register(*sreg));
        }
        Expr::Cmp { sreg, op, value, len } => {
            out.word(1, register(*sreg));
            out.word(2, compare(*op));
            value_of(out, 3, value, *len);
        }
        Expr::Range { sreg, negate, first, last, len } => {
            out.word(1, register(*sreg));
            out.word(2, u32::from(*negate));
            value_of(out, 3, first, *len);
            value_of(out, 4, last, *len);
        }
        Expr::Bitwise { sreg, dreg, mask, xor, len } => {
            out.word(1, register(*sreg));
            out.word(2, register(*dreg));
            out.word(3, u32::from(*len));
            value_of(out, 4, mask, *len);
            value_of(out, 5, xor, *len);
        }
        Expr::ToNetworkOrder { sreg, dreg } => {
            for (kind, value) in [(1, register(*sreg)), (2, register(*dreg)), (3, 1), (4, 4), (5, 4)] {
                out.word(kind, value);
            }
        }
        Expr::Lookup { set, sreg, to } => write_lookup(out, set, *sreg, *to),
        Expr::ImmediateValue { dreg, value, len } => {
            out.word(1, register(*dreg));
            value_of(out, 2, value, *len);
        }
        Expr::Verdict(verdict) => {
            out.word(1, 0);
            out.nested(2, |out| write_verdict(out, verdict));
        }
        dynset @ Expr::Dynset { .. } => write_dynset(out, dynset),
        Expr::Nat { kind, v6, addr, port } => write_nat(out, *kind, *v6, *addr, *port),
        Expr::Masquerade { flags } if *flags != 0 => out.word(1, *flags),
        Expr::Masquerade { .. } | Expr::Notrack | Expr::Unknown { .. } => {}
        Expr::Reject(reject) => write_reject(out, *reject),
        Expr::Counter(counter) => {
            out.long(1, counter.bytes);
            out.long(2, counter.packets);
        }
        Expr::Limit(limit) => write_limit(out, limit),
        Expr::Log { prefix, level } => {
            if !prefix.is_empty() {
                out.text(2, prefix);
            }
            if let Some(level) = level {
                out.word(5, *level);
            }
        }
    }
}

fn write_lookup(out: &mut Writer, set: &str, sreg: Reg, to: LookupTo) {
    out.text(1, set);
    out.word(2, register(sreg));
    match to {
        LookupTo::Present => {}
        LookupTo::Absent => out.word(5, 1),
        LookupTo::Register(dreg) => out.word(3, register(dreg)),
        LookupTo::Verdict => out.word(3, 0),
    }
}

fn write_dynset(out: &mut Writer, expr: &Expr) {
    let Expr::Dynset { set, op, sreg_key, sreg_data, timeout } = expr else { return };

    out.text(1, set);
    out.word(3, dynset_op(*op));
    out.word(4, register(*sreg_key));
    if let Some(sreg) = sreg_data {
        out.word(5, register(*sreg));
    }
    if let Some(timeout) = timeout {
        out.long(6, milliseconds(*timeout));
    }
}

fn write_nat(out: &mut Writer, kind: NatKind, v6: bool, addr: Option<Reg>, port: Option<Reg>) {
    out.word(1, u32::from(kind == NatKind::Dnat));
    out.word(2, if v6 { ADDRESSES_OF_IPV6 } else { ADDRESSES_OF_IPV4 });
    if let Some(addr) = addr {
        out.word(3, register(addr));
    }
    if let Some(port) = port {
        out.word(5, register(port));
        out.word(7, NAT_PORT);
    }
}

fn write_reject(out: &mut Writer, reject: Reject) {
    let (kind, code) = match reject {
        Reject::Icmp(code) | Reject::Icmpv6(code) => (0, code),
        Reject::TcpReset => (1, 0),
        Reject::Icmpx(code) => (2, code),
    };
    out.word(1, kind);
    out.byte(2, code);
}

fn write_limit(out: &mut Writer, limit: &Limit) {
    out.long(1, limit.rate);
    out.long(2, limit.per_seconds);
    out.word(3, limit.burst);
    out.word(4, 0);
    out.word(5, u32::from(limit.over));
}

fn write_load(out: &mut Writer, field: Field, dreg: Reg) {
    match source(field) {
        Source::Payload { base, offset } => {
            for (kind, value) in [(1, register(dreg)), (2, base), (3, offset), (4, field.width() as u32)] {
                out.word(kind, value);
            }
        }
        Source::Meta { key } => {
            out.word(2, key);
            out.word(1, register(dreg));
        }
        Source::Ct { key, original } => {
            out.word(2, key);
            out.word(1, register(dreg));
            if original {
                out.byte(3, 0);
            }
        }
        Source::Fib { flags } => {
            for (kind, value) in [(1, register(dreg)), (2, FIB_ADDRTYPE), (3, flags)] {
                out.word(kind, value);
            }
        }
        Source::Numgen { random, modulus } => {
            for (kind, value) in [(1, register(dreg)), (2, modulus), (3, random), (4, 0)] {
                out.word(kind, value);
            }
        }
    }
}

/// Writes into the packet. The transport's checksum covers the addresses; IPv4 has one of its own at offset 10.
fn write_store(out: &mut Writer, field: Field, sreg: Reg) {
    let Source::Payload { base, offset } = source(field) else { return };
    for (kind, value) in [(5, register(sreg)), (2, base), (3, offset), (4, field.width() as u32)] {
        out.word(kind, value);
    }
    if field.width() == 4 {
        out.word(6, 1);
        out.word(7, 10);
    }
    out.word(8, 1);
}

fn value_of(out: &mut Writer, kind: u16, value: &Bytes, len: u8) {
    let bytes = value.as_slice();
    out.nested(kind, |out| out.raw(DATA_VALUE, bytes.get(..usize::from(len)).unwrap_or(bytes)));
}

/// The kernel counts 32-bit registers from 8.
fn register(reg: Reg) -> u32 {
    8 + u32::from(reg)
}

const COMPARES: [Compare; 6] = [Compare::Eq, Compare::Ne, Compare::Lt, Compare::Le, Compare::Gt, Compare::Ge];

fn compare(op: Compare) -> u32 {
    COMPARES.iter().position(|other| *other == op).unwrap_or_default() as u32
}

fn dynset_op(op: DynsetOp) -> u32 {
    match op {
        DynsetOp::Add => 0,
        DynsetOp::Update => 1,
        DynsetOp::Delete => 2,
    }
}

pub(crate) fn write_verdict(out: &mut Writer, verdict: &Verdict) {
    let code: i32 = match verdict {
        Verdict::Drop => 0,
        Verdict::Accept => 1,
        Verdict::Continue => -1,
        Verdict::Jump(_) => -3,
        Verdict::Goto(_) => -4,
        Verdict::Return => -5,
    };
    out.nested(DATA_VERDICT, |out| {
        out.word(1, code as u32);
        if let Some(chain) = verdict.chain() {
            out.text(2, chain);
        }
    });
}
