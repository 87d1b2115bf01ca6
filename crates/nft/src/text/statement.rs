//! Rules as nft writes them.

use std::fmt::{self, Formatter};

use crate::bytes::Bytes;
use crate::expr::Expr;
use crate::field::Field;
use crate::ruleset::{Family, Rule};
use crate::statement::{Compare, DynsetOp, Limit, NatKind, NatTarget, Reject, Statement, Value, Verdict};
use crate::text::value::{self, concatenation, duration, fields, single};

pub(crate) fn print_rule(f: &mut Formatter<'_>, family: Family, rule: &Rule) -> fmt::Result {
    let mut between = "";
    let mut left = rule.statements.iter().peekable();
    while let Some(statement) = left.next() {
        f.write_str(between)?;
        between = " ";
        // `meta l4proto tcp th dport 80` is written `tcp dport 80`.
        match (transport(statement), left.next_if(|next| transport(statement).is_some() && compares_port(next))) {
            (Some(protocol), Some(next)) => {
                let text = super::Piece(|f: &mut Formatter<'_>| print(f, family, next)).to_string();
                write!(f, "{protocol} {}", text.trim_start_matches("th "))?;
            }
            (Some(_) | None, _) => print(f, family, statement)?,
        }
    }
    match &rule.comment {
        Some(comment) => write!(f, " comment \"{comment}\""),
        None => Ok(()),
    }
}

/// The name of the transport protocol that the statement establishes.
fn transport(statement: &Statement) -> Option<&'static str> {
    let Statement::Match { field: Field::L4Proto, mask: None, op: Compare::Eq, value } = statement else { return None };
    match value.as_slice().first()? {
        6 => Some("tcp"),
        17 => Some("udp"),
        33 => Some("dccp"),
        132 => Some("sctp"),
        136 => Some("udplite"),
        _ => None,
    }
}

fn compares_port(statement: &Statement) -> bool {
    let port = |field: &Field| matches!(field, Field::ThSport | Field::ThDport);
    match statement {
        Statement::Match { field, .. } | Statement::Range { field, .. } => port(field),
        Statement::Lookup { key, .. } | Statement::VerdictMap { key, .. } => key.len() == 1 && key.iter().all(port),
        Statement::Flags { .. }
        | Statement::SetMark(_)
        | Statement::SetCtMark(_)
        | Statement::UpdateMark { .. }
        | Statement::SetField { .. }
        | Statement::Dynset { .. }
        | Statement::Nat { .. }
        | Statement::Masquerade { .. }
        | Statement::Reject(_)
        | Statement::Counter(_)
        | Statement::Limit(_)
        | Statement::Log { .. }
        | Statement::Notrack
        | Statement::Verdict(_)
        | Statement::Foreign(_) => false,
    }
}

fn print(f: &mut Formatter<'_>, family: Family, statement: &Statement) -> fmt::Result {
    match statement {
        Statement::Match { field, mask, op, value } => comparison(f, *field, mask.as_ref(), *op, value),
        Statement::Flags { field, bits, negate } => {
            write!(f, "{field} {}", if *negate { "! " } else { "" })?;
            let names = if *field == Field::CtState { &value::CT_STATES[..] } else { &value::CT_STATUSES[..] };
            value::flags(f, names, *bits)
        }
        Statement::Range { field, first, last, negate } => {
            write!(f, "{field} {}", if *negate { "!= " } else { "" })?;
            let len = field.width();
            single(f, *field, &first.as_slice()[..len.min(first.len())])?;
            f.write_str("-")?;
            single(f, *field, &last.as_slice()[..len.min(last.len())])
        }
        Statement::Lookup { key, set, negate } => {
            fields(f, key)?;
            write!(f, " {}@{set}", if *negate { "!= " } else { "" })
        }
        Statement::VerdictMap { key, map } => {
            fields(f, key)?;
            write!(f, " vmap @{map}")
        }
        Statement::SetMark(value) => set(f, Field::Mark, value),
        Statement::SetCtMark(value) => set(f, Field::CtMark, value),
        Statement::SetField { field, to } => set(f, *field, to),
        Statement::UpdateMark { mask, xor } => update_mark(f, *mask, *xor),
        Statement::Dynset { op, set, key, timeout, data } => {
            let word = match op {
                DynsetOp::Add => "add",
                DynsetOp::Update => "update",
                DynsetOp::Delete => "delete",
            };
            write!(f, "{word} @{set} {{ ")?;
            fields(f, key)?;
            if let Some(timeout) = timeout {
                write!(f, " timeout {}", duration(*timeout))?;
            }
            if let Some(data) = data {
                f.write_str(" : ")?;
                print_value(f, None, data)?;
            }
            f.write_str(" }")
        }
        Statement::Nat { kind, to } => nat(f, family, *kind, to),
        Statement::Masquerade { fully_random: false } => f.write_str("masquerade"),
        Statement::Masquerade { fully_random: true } => f.write_str("masquerade fully-random"),
        Statement::Reject(reject) => print_reject(f, family, *reject),
        Statement::Counter(counter) => write!(f, "counter packets {} bytes {}", counter.packets, counter.bytes),
        Statement::Limit(limit) => print_limit(f, limit),
        Statement::Log { prefix, level } => print_log(f, prefix, *level),
        Statement::Notrack => f.write_str("notrack"),
        Statement::Verdict(target) => verdict(f, target),
        Statement::Foreign(exprs) => foreign(f, exprs),
    }
}

fn comparison(f: &mut Formatter<'_>, field: Field, mask: Option<&Bytes>, op: Compare, value: &Bytes) -> fmt::Result {
    let sign = match op {
        Compare::Eq => "",
        Compare::Ne => "!= ",
        Compare::Lt => "< ",
        Compare::Le => "<= ",
        Compare::Gt => "> ",
        Compare::Ge => ">= ",
    };
    let Some(mask) = mask else {
        write!(f, "{field} {sign}")?;
        return concatenation(f, &[field], value, None);
    };
    let address = matches!(field, Field::IpSaddr | Field::IpDaddr | Field::Ip6Saddr | Field::Ip6Daddr);
    if let Some(length) = value::mask_length(mask.as_slice()).filter(|_| address) {
        write!(f, "{field} {sign}")?;
        concatenation(f, &[field], value, None)?;
        return write!(f, "/{length}");
    }
    write!(f, "{field} & ")?;
    concatenation(f, &[field], mask, None)?;
    f.write_str(if op == Compare::Eq { " == " } else { " " })?;
    f.write_str(sign)?;
    concatenation(f, &[field], value, None)
}

fn set(f: &mut Formatter<'_>, field: Field, value: &Value) -> fmt::Result {
    write!(f, "{field} set ")?;
    print_value(f, Some(field), value)
}

/// A constant needs the field that it is for, to be printed as one.
fn print_value(f: &mut Formatter<'_>, field: Option<Field>, value: &Value) -> fmt::Result {
    match (value, field) {
        (Value::Const(value), Some(field)) => concatenation(f, &[field], value, None),
        (Value::Const(value), None) => write!(f, "{value:?}"),
        (Value::Fields(list), _) => fields(f, list),
        (Value::Map { key, map }, _) => {
            fields(f, key)?;
            write!(f, " map @{map}")
        }
    }
}

fn update_mark(f: &mut Formatter<'_>, mask: u32, xor: u32) -> fmt::Result {
    f.write_str("meta mark set meta mark ")?;
    match (mask, xor) {
        (mask, xor) if mask == !xor => write!(f, "| 0x{xor:08x}"),
        (mask, 0) => write!(f, "& 0x{mask:08x}"),
        (u32::MAX, xor) => write!(f, "^ 0x{xor:08x}"),
        (mask, xor) => write!(f, "& 0x{mask:08x} ^ 0x{xor:08x}"),
    }
}

fn nat(f: &mut Formatter<'_>, family: Family, kind: NatKind, to: &NatTarget) -> fmt::Result {
    f.write_str(match kind {
        NatKind::Dnat => "dnat",
        NatKind::Snat => "snat",
    })?;
    let v6 = matches!(to, NatTarget::V6(..) | NatTarget::Map { v6: true, .. });
    if family == Family::Inet {
        f.write_str(if v6 { " ip6" } else { " ip" })?;
    }
    match to {
        NatTarget::V4(address, None) => write!(f, " to {address}"),
        NatTarget::V4(address, Some(port)) => write!(f, " to {address}:{port}"),
        NatTarget::V6(address, None) => write!(f, " to {address}"),
        NatTarget::V6(address, Some(port)) => write!(f, " to [{address}]:{port}"),
        NatTarget::Map { key, map, .. } => {
            f.write_str(" to ")?;
            fields(f, key)?;
            write!(f, " map @{map}")
        }
    }
}

fn print_reject(f: &mut Formatter<'_>, family: Family, reject: Reject) -> fmt::Result {
    const ICMP: [&str; 4] = ["net-unreachable", "host-unreachable", "prot-unreachable", "port-unreachable"];
    const ICMPV6: [&str; 5] = ["no-route", "admin-prohibited", "2", "addr-unreachable", "port-unreachable"];
    const ICMPX: [&str; 4] = ["no-route", "port-unreachable", "host-unreachable", "admin-prohibited"];
    let (what, names, code) = match reject {
        Reject::TcpReset => return f.write_str("reject with tcp reset"),
        Reject::Icmp(3) if family == Family::Ip => return f.write_str("reject"),
        Reject::Icmpv6(4) if family == Family::Ip6 => return f.write_str("reject"),
        Reject::Icmpx(1) => return f.write_str("reject"),
        Reject::Icmp(code) => ("icmp", &ICMP[..], code),
        Reject::Icmpv6(code) => ("icmpv6", &ICMPV6[..], code),
        Reject::Icmpx(code) => ("icmpx", &ICMPX[..], code),
    };
    match names.get(usize::from(code)) {
        Some(name) => write!(f, "reject with {what} {name}"),
        None => write!(f, "reject with {what} {code}"),
    }
}

fn print_limit(f: &mut Formatter<'_>, limit: &Limit) -> fmt::Result {
    let unit = match limit.per_seconds {
        60 => "minute",
        3600 => "hour",
        86_400 => "day",
        604_800 => "week",
        _ => "second",
    };
    let over = if limit.over { "over " } else { "" };
    write!(f, "limit rate {over}{}/{unit} burst {} packets", limit.rate, limit.burst)
}

fn print_log(f: &mut Formatter<'_>, prefix: &str, level: Option<u32>) -> fmt::Result {
    const LEVELS: [&str; 9] = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug", "audit"];
    f.write_str("log")?;
    if !prefix.is_empty() {
        write!(f, " prefix \"{prefix}\"")?;
    }
    // `warn` is what the kernel takes when nothing is said.
    match level.filter(|level| *level != 4).and_then(|level| LEVELS.get(level as usize)) {
        Some(level) => write!(f, " level {level}"),
        None => Ok(()),
    }
}

pub(crate) fn verdict(f: &mut Formatter<'_>, verdict: &Verdict) -> fmt::Result {
    match verdict {
        Verdict::Accept => f.write_str("accept"),
        Verdict::Drop => f.write_str("drop"),
        Verdict::Continue => f.write_str("continue"),
        Verdict::Return => f.write_str("return"),
        Verdict::Jump(chain) => write!(f, "jump {chain}"),
        Verdict::Goto(chain) => write!(f, "goto {chain}"),
    }
}

/// Not nft's syntax, because we do not know what it says; a comment in a rule that we would remove.
fn foreign(f: &mut Formatter<'_>, exprs: &[Expr]) -> fmt::Result {
    write!(f, "# {exprs:?}")
}
