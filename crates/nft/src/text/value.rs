//! Fields and values as nft writes them.

use std::fmt::{self, Formatter};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::bytes::Bytes;
use crate::field::{ADDR_TYPES, DataType, Field};

impl fmt::Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let text = match self {
            Field::IpSaddr => "ip saddr",
            Field::IpDaddr => "ip daddr",
            Field::IpDaddrHigh => "ip daddr & 255.255.0.0",
            Field::Ip6Saddr => "ip6 saddr",
            Field::Ip6Daddr => "ip6 daddr",
            Field::Ip6DaddrHigh => "ip6 daddr & ffff:ffff:ffff:ffff::",
            Field::ThSport => "th sport",
            Field::ThDport => "th dport",
            Field::Nfproto => "meta nfproto",
            Field::L4Proto => "meta l4proto",
            Field::Mark => "meta mark",
            Field::Iif => "iif",
            Field::Oif => "oif",
            Field::Iifname => "iifname",
            Field::Oifname => "oifname",
            Field::CtState => "ct state",
            Field::CtStatus => "ct status",
            Field::CtDirection => "ct direction",
            Field::CtMark => "ct mark",
            Field::CtExpiration => "ct expiration",
            Field::CtOriginalIpSaddr => "ct original ip saddr",
            Field::CtOriginalIpDaddr => "ct original ip daddr",
            Field::CtOriginalIp6Saddr => "ct original ip6 saddr",
            Field::CtOriginalIp6Daddr => "ct original ip6 daddr",
            Field::CtOriginalProtoSrc => "ct original proto-src",
            Field::CtOriginalProtoDst => "ct original proto-dst",
            Field::FibSaddrType => "fib saddr type",
            Field::FibDaddrType => "fib daddr type",
            Field::NumgenRandom { modulus } => return write!(f, "numgen random mod {modulus}"),
            Field::NumgenInc { modulus } => return write!(f, "numgen inc mod {modulus}"),
        };
        f.write_str(text)
    }
}

/// `ip daddr . meta l4proto . th dport`
pub(crate) fn fields(f: &mut Formatter<'_>, fields: &[Field]) -> fmt::Result {
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            f.write_str(" . ")?;
        }
        write!(f, "{field}")?;
    }
    Ok(())
}

/// `10.96.0.1 . tcp . 80`, and with an end `10.96.0.0/16 . tcp . 80-90`.
pub(crate) fn concatenation(
    f: &mut Formatter<'_>,
    fields: &[Field],
    first: &Bytes,
    last: Option<&Bytes>,
) -> fmt::Result {
    let mut at = 0;
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            f.write_str(" . ")?;
        }
        // The beginning of a name is shorter than a name.
        let width = if field.is_name() { field.width().min(first.len()) } else { field.width() };
        let part = |bytes: &Bytes| bytes.as_slice().get(at..at + width).map(<[u8]>::to_vec);
        let Some(from) = part(first) else { return f.write_str("?") };
        match last.and_then(part) {
            Some(to) if to != from => range(f, *field, &from, &to)?,
            Some(_) | None => single(f, *field, &from)?,
        }
        at += field.padded();
    }
    Ok(())
}

/// A prefix where it is one of an address, otherwise first and last.
pub(crate) fn range(f: &mut Formatter<'_>, field: Field, from: &[u8], to: &[u8]) -> fmt::Result {
    let is_address = matches!(field.data_type(), DataType::Ipv4 | DataType::Ipv6);
    match prefix(from, to) {
        Some(length) if is_address => {
            single(f, field, from)?;
            write!(f, "/{length}")
        }
        Some(_) | None => {
            single(f, field, from)?;
            f.write_str("-")?;
            single(f, field, to)
        }
    }
}

/// How many leading bits a range has in common, if it is all there is with them.
fn prefix(from: &[u8], to: &[u8]) -> Option<u32> {
    let differing: Vec<u8> = from.iter().zip(to).map(|(from, to)| from ^ to).collect();
    let length: u32 = common_bits(&differing);
    let rest_is_whole = from.iter().zip(to).enumerate().all(|(index, (from, to))| {
        let mask = host_bits(length, index);
        from & mask == 0 && to & mask == mask
    });
    rest_is_whole.then_some(length)
}

fn common_bits(differing: &[u8]) -> u32 {
    let mut bits = 0;
    for byte in differing {
        bits += byte.leading_zeros();
        if *byte != 0 {
            break;
        }
    }
    bits
}

/// The bits of byte `index` that a prefix of that length leaves free.
fn host_bits(length: u32, index: usize) -> u8 {
    let before = (index as u32) * 8;
    match length.saturating_sub(before) {
        0 => 0xff,
        covered if covered >= 8 => 0,
        covered => 0xff >> covered,
    }
}

/// The length of a mask that is a prefix.
pub(crate) fn mask_length(mask: &[u8]) -> Option<u32> {
    let inverted: Vec<u8> = mask.iter().map(|byte| !byte).collect();
    let length = common_bits(&inverted);
    let whole = inverted.iter().enumerate().all(|(index, byte)| *byte == host_bits(length, index));
    whole.then_some(length)
}

/// One value of a field.
pub(crate) fn single(f: &mut Formatter<'_>, field: Field, bytes: &[u8]) -> fmt::Result {
    let byte = bytes.first().copied().unwrap_or(0);
    match field.data_type() {
        DataType::Ipv4 => match <[u8; 4]>::try_from(bytes) {
            Ok(octets) => write!(f, "{}", Ipv4Addr::from(octets)),
            Err(_) => f.write_str("?"),
        },
        DataType::Ipv6 => match <[u8; 16]>::try_from(bytes) {
            Ok(octets) => write!(f, "{}", Ipv6Addr::from(octets)),
            Err(_) => f.write_str("?"),
        },
        DataType::InetProto => match PROTOCOLS.iter().find(|(number, _)| *number == byte) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{byte}"),
        },
        DataType::InetService => {
            let port = bytes.get(..2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
            write!(f, "{port}")
        }
        DataType::Nfproto if byte == 2 => f.write_str("ipv4"),
        DataType::Nfproto if byte == 10 => f.write_str("ipv6"),
        DataType::Nfproto => write!(f, "{byte}"),
        DataType::CtDir => f.write_str(if byte == 0 { "original" } else { "reply" }),
        DataType::Ifname => {
            let text = String::from_utf8_lossy(bytes);
            let rest = if bytes.len() < 16 { "*" } else { "" };
            write!(f, "\"{}{rest}\"", text.trim_end_matches('\0'))
        }
        DataType::Integer | DataType::Ifindex => write!(f, "{}", number(bytes)),
        DataType::Mark => write!(f, "0x{:08x}", number(bytes)),
        DataType::Time => f.write_str(&duration(Duration::from_millis(number(bytes).into()))),
        DataType::CtState => flags(f, &CT_STATES, number(bytes)),
        DataType::CtStatus => flags(f, &CT_STATUSES, number(bytes)),
        DataType::FibAddr => match ADDR_TYPES.get(number(bytes) as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", number(bytes)),
        },
    }
}

/// Names of bits, in nft's order.
pub(crate) fn flags(f: &mut Formatter<'_>, names: &[(u32, &str)], bits: u32) -> fmt::Result {
    let set: Vec<&str> = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { write!(f, "0x{bits:x}") } else { f.write_str(&set.join(",")) }
}

pub(crate) const CT_STATES: [(u32, &str); 5] =
    [(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")];
pub(crate) const CT_STATUSES: [(u32, &str); 7] =
    [(1, "expected"), (2, "seen-reply"), (4, "assured"), (8, "confirmed"), (16, "snat"), (32, "dnat"), (512, "dying")];

pub(crate) const PROTOCOLS: [(u8, &str); 11] = [
    (1, "icmp"),
    (6, "tcp"),
    (17, "udp"),
    (33, "dccp"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (58, "ipv6-icmp"),
    (108, "comp"),
    (132, "sctp"),
    (136, "udplite"),
];

pub(crate) fn number(bytes: &[u8]) -> u32 {
    bytes.get(..4).map_or(0, |four| u32::from_ne_bytes([four[0], four[1], four[2], four[3]]))
}

/// A sort key for a key: as its bytes, but numbers of the machine by value.
pub(crate) fn by_value(fields: &[Field], key: &Bytes) -> Vec<u8> {
    let mut sorted = key.as_slice().to_vec();
    let mut at = 0;
    for field in fields {
        if let Some(part) = sorted.get_mut(at..at + field.padded())
            && field.host_order()
            && field.width() == 4
        {
            let value = number(part);
            part.copy_from_slice(&value.to_be_bytes());
        }
        at += field.padded();
    }
    sorted
}

/// `1d2h3m4s5ms`
pub(crate) fn duration(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if left == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, length) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        if left >= length {
            text.push_str(&format!("{}{unit}", left / length));
            left %= length;
        }
    }
    text
}
