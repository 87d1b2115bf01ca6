//! Reading expressions: what `write` makes, and of other programs' what has the same shape.

use std::sync::Arc;
use std::time::Duration;

use super::{
    ADDRESSES_OF_IPV6, COMPARES, DATA, DATA_VALUE, DATA_VERDICT, FIB_ADDRTYPE, FIELDS, NAME, NAT_PORT, Source, source,
};
use crate::bytes::Bytes;
use crate::expr::{Expr, LookupTo, Reg};
use crate::field::Field;
use crate::ruleset::Counter;
use crate::statement::{DynsetOp, Limit, NatKind, Reject, Verdict};
use crate::wire::attribute::Attributes;

/// The kernel lists registers on 128-bit boundaries by their old numbers, 1 to 4.
fn read_register(number: u32) -> Option<Reg> {
    match number {
        1..=4 => Some((number as Reg - 1) * 4),
        8..=23 => Some(number as Reg - 8),
        _ => None,
    }
}

/// The verdict in a data attribute.
pub(crate) fn read_verdict(data: &[u8]) -> Option<Verdict> {
    let verdict = Attributes(data).nested(DATA_VERDICT)?;
    let chain = || verdict.text(2).map(Arc::from);
    match verdict.word(1)? as i32 {
        0 => Some(Verdict::Drop),
        1 => Some(Verdict::Accept),
        -1 => Some(Verdict::Continue),
        -3 => Some(Verdict::Jump(chain()?)),
        -4 => Some(Verdict::Goto(chain()?)),
        -5 => Some(Verdict::Return),
        _ => None,
    }
}

/// Reads one expression; what we have no value for is `Unknown`.
pub(crate) fn read(value: &[u8], v6: bool) -> Option<Expr> {
    let attributes = Attributes(value);
    let name = attributes.text(NAME)?;
    let data = attributes.nested(DATA).unwrap_or(Attributes(&[]));
    Some(read_known(name, data, v6).unwrap_or_else(|| Expr::Unknown { name: name.into(), attributes: data.0.into() }))
}

fn read_known(name: &str, data: Attributes<'_>, v6: bool) -> Option<Expr> {
    let reg = |kind| read_register(data.word(kind)?);
    match name {
        "payload" => read_payload(data),
        "meta" if data.find(3).is_some() => {
            if data.word(2)? == 3 {
                Some(Expr::SetMark { sreg: reg(3)? })
            } else {
                None
            }
        }
        "ct" if data.find(4).is_some() => {
            if data.word(2)? == 3 {
                Some(Expr::SetCtMark { sreg: reg(4)? })
            } else {
                None
            }
        }
        "meta" | "ct" => read_meta_or_ct(name, data),
        "fib" if data.word(2)? == FIB_ADDRTYPE => {
            let field = match data.word(3)? {
                1 => Field::FibSaddrType,
                2 => Field::FibDaddrType,
                _ => return None,
            };
            Some(Expr::Load { field, dreg: reg(1)? })
        }
        "numgen" if data.word(4).unwrap_or(0) == 0 => {
            let modulus = data.word(2)?;
            let field = if data.word(3)? == 1 { Field::NumgenRandom { modulus } } else { Field::NumgenInc { modulus } };
            Some(Expr::Load { field, dreg: reg(1)? })
        }
        "cmp" => {
            let (value, len) = read_value(data, 3)?;
            let op = *COMPARES.get(data.word(2)? as usize)?;
            Some(Expr::Cmp { sreg: reg(1)?, op, value, len })
        }
        "range" => {
            let ((first, len), (last, _)) = (read_value(data, 3)?, read_value(data, 4)?);
            Some(Expr::Range { sreg: reg(1)?, negate: data.word(2)? == 1, first, last, len })
        }
        "bitwise" if data.word(6).unwrap_or(0) == 0 => {
            let ((mask, len), (xor, _)) = (read_value(data, 4)?, read_value(data, 5)?);
            Some(Expr::Bitwise { sreg: reg(1)?, dreg: reg(2)?, mask, xor, len })
        }
        "byteorder" if (data.word(3)?, data.word(4)?, data.word(5)?) == (1, 4, 4) => {
            Some(Expr::ToNetworkOrder { sreg: reg(1)?, dreg: reg(2)? })
        }
        "lookup" => read_lookup(data),
        "immediate" if data.word(1)? == 0 => Some(Expr::Verdict(read_verdict(data.find(2)?)?)),
        "immediate" => {
            let (value, len) = read_value(data, 2)?;
            Some(Expr::ImmediateValue { dreg: reg(1)?, value, len })
        }
        "dynset" => read_dynset(data),
        "nat" => read_nat(data),
        "masq" if data.find(2).is_none() => Some(Expr::Masquerade { flags: data.word(1).unwrap_or(0) }),
        "reject" => read_reject(data, v6),
        "counter" => Some(Expr::Counter(Counter { bytes: data.long(1)?, packets: data.long(2)? })),
        "limit" if data.word(4).unwrap_or(0) == 0 => Some(Expr::Limit(Limit {
            rate: data.long(1)?,
            per_seconds: data.long(2)?,
            burst: data.word(3).unwrap_or(0),
            over: data.word(5).unwrap_or(0) == 1,
        })),
        "log" if data.find(1).is_none() => {
            // The kernel lists its default level where none was given.
            let level = data.word(5).filter(|level| *level != 4);
            Some(Expr::Log { prefix: data.text(2).unwrap_or("").into(), level })
        }
        "notrack" => Some(Expr::Notrack),
        _ => None,
    }
}

fn read_meta_or_ct(name: &str, data: Attributes<'_>) -> Option<Expr> {
    let field = FIELDS.into_iter().find(|field| match source(*field) {
        Source::Meta { key } => name == "meta" && data.word(2) == Some(key),
        Source::Ct { key, original } => {
            let direction = if original { Some(&[0u8][..]) } else { None };
            name == "ct" && data.word(2) == Some(key) && data.find(3) == direction
        }
        Source::Payload { .. } | Source::Fib { .. } | Source::Numgen { .. } => false,
    })?;
    Some(Expr::Load { field, dreg: read_register(data.word(1)?)? })
}

fn read_payload(data: Attributes<'_>) -> Option<Expr> {
    let (base, offset, len) = (data.word(2)?, data.word(3)?, data.word(4)?);
    let same = |field: &Field| match source(*field) {
        Source::Payload { base: b, offset: o } => (b, o, field.width() as u32) == (base, offset, len),
        Source::Meta { .. } | Source::Ct { .. } | Source::Fib { .. } | Source::Numgen { .. } => false,
    };
    let field = FIELDS.into_iter().find(same)?;
    match data.word(5) {
        Some(sreg) => Some(Expr::Store { field, sreg: read_register(sreg)? }),
        None => Some(Expr::Load { field, dreg: read_register(data.word(1)?)? }),
    }
}

fn read_lookup(data: Attributes<'_>) -> Option<Expr> {
    let to = match (data.word(3), data.word(5).unwrap_or(0)) {
        (None, 0) => LookupTo::Present,
        (None, _) => LookupTo::Absent,
        (Some(0), _) => LookupTo::Verdict,
        (Some(dreg), _) => LookupTo::Register(read_register(dreg)?),
    };
    Some(Expr::Lookup { set: data.text(1)?.into(), sreg: read_register(data.word(2)?)?, to })
}

fn read_dynset(data: Attributes<'_>) -> Option<Expr> {
    if data.find(7).is_some() || data.find(10).is_some() {
        return None;
    }
    let op = match data.word(3)? {
        0 => DynsetOp::Add,
        1 => DynsetOp::Update,
        2 => DynsetOp::Delete,
        _ => return None,
    };
    let sreg_data = match data.word(5) {
        Some(reg) => Some(read_register(reg)?),
        None => None,
    };
    // The kernel lists a timeout of 0 where none was given.
    let timeout = data.long(6).filter(|timeout| *timeout != 0).map(Duration::from_millis);
    let set = data.text(1)?.into();
    Some(Expr::Dynset { set, op, sreg_key: read_register(data.word(4)?)?, sreg_data, timeout })
}

fn read_nat(data: Attributes<'_>) -> Option<Expr> {
    let single = |low: u16, high: u16| match (data.word(low), data.word(high)) {
        (None, None) => Some(None),
        (Some(low), high) if high.is_none_or(|high| high == low) => Some(Some(read_register(low)?)),
        (_, _) => None,
    };
    let (addr, port) = (single(3, 4)?, single(5, 6)?);
    if data.word(7).unwrap_or(0) & !(NAT_PORT | 1) != 0 {
        return None;
    }
    let v6 = data.word(2)? == ADDRESSES_OF_IPV6;
    let kind = if data.word(1)? == 1 { NatKind::Dnat } else { NatKind::Snat };
    Some(Expr::Nat { kind, v6, addr, port })
}

fn read_reject(data: Attributes<'_>, v6: bool) -> Option<Expr> {
    let code = data.find(2).and_then(|value| value.first().copied()).unwrap_or(0);
    match data.word(1)? {
        0 if v6 => Some(Expr::Reject(Reject::Icmpv6(code))),
        0 => Some(Expr::Reject(Reject::Icmp(code))),
        1 => Some(Expr::Reject(Reject::TcpReset)),
        2 => Some(Expr::Reject(Reject::Icmpx(code))),
        _ => None,
    }
}

fn read_value(data: Attributes<'_>, kind: u16) -> Option<(Bytes, u8)> {
    let value = data.nested(kind)?.find(DATA_VALUE)?;
    let padded = if value.len().is_multiple_of(4) { Bytes::from_slice(value) } else { Bytes::new().push(value) };
    Some((padded, value.len() as u8))
}
