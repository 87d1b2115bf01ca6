//! Tracked connections on the wire. The constants are those of the kernel's `nfnetlink_conntrack.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nft::wire::attribute::{Attributes, Writer, word};

use super::{Flow, Tuple};

/// Subsystem 1, messages 1 and 2.
const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOINFO: u16 = 4;
const PROTOINFO_TCP: u16 = 1;
const PROTOINFO_TCP_STATE: u16 = 1;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const FILTER_ORIGINAL_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
/// `CTA_FILTER_F_CTA_PROTO_NUM`
const FILTER_PROTOCOL: u32 = 1 << 3;

/// `struct nfgenmsg` before the attributes.
const GENERIC: usize = 4;

/// Without a family, those of both.
pub(super) fn dump(ipv6: Option<bool>, protocol: Option<u8>, sequence: u32) -> Vec<u8> {
    let mut out = Writer::new();
    let family = ipv6.map_or(libc::AF_UNSPEC as u8, family);
    let start = out.begin_message(GET, REQUEST | DUMP, sequence, family, 0);
    if let Some(protocol) = protocol {
        out.nested(TUPLE_ORIGINAL, |out| out.nested(2, |out| out.byte(1, protocol)));
        out.nested(FILTER, |out| {
            // These two are in the machine's order.
            out.raw(FILTER_ORIGINAL_FLAGS, &FILTER_PROTOCOL.to_ne_bytes());
            out.raw(FILTER_REPLY_FLAGS, &0u32.to_ne_bytes());
        });
    }
    out.end_message(start);
    out.into_bytes()
}

pub(super) fn delete(flow: &Flow, sequence: u32) -> Vec<u8> {
    let mut out = Writer::new();
    let ipv6 = flow.original.source.is_ipv6();
    let start = out.begin_message(DELETE, REQUEST | ACK, sequence, family(ipv6), 0);
    out.nested(TUPLE_ORIGINAL, |out| {
        out.nested(1, |out| match (flow.original.source.ip(), flow.original.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                out.raw(1, &source.octets());
                out.raw(2, &destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                out.raw(3, &source.octets());
                out.raw(4, &destination.octets());
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
        });
        out.nested(2, |out| {
            out.byte(1, flow.protocol);
            out.raw(2, &flow.original.source.port().to_be_bytes());
            out.raw(3, &flow.original.destination.port().to_be_bytes());
        });
    });
    out.word(ID, flow.id);
    if let Some(zone) = flow.zone {
        out.raw(ZONE, &zone.to_be_bytes());
    }
    out.end_message(start);
    out.into_bytes()
}

/// Reads a listed flow; `None` for protocols without ports.
pub(super) fn flow(body: &[u8]) -> Option<Flow> {
    let attributes = Attributes(body.get(GENERIC..)?);
    let (protocol, original) = tuple(attributes.nested(TUPLE_ORIGINAL)?)?;
    let (_, reply) = tuple(attributes.nested(TUPLE_REPLY)?)?;
    let number = |kind| attributes.find(kind).and_then(word).unwrap_or(0);
    Some(Flow {
        protocol,
        original,
        reply,
        status: number(STATUS),
        mark: number(MARK),
        expires: Duration::from_secs(number(TIMEOUT).into()),
        id: number(ID),
        tcp_state: tcp_state(attributes),
        zone: attributes.find(ZONE).and_then(short),
    })
}

fn tcp_state(attributes: Attributes<'_>) -> Option<u8> {
    attributes.nested(PROTOINFO)?.nested(PROTOINFO_TCP)?.find(PROTOINFO_TCP_STATE)?.first().copied()
}

fn tuple(attributes: Attributes<'_>) -> Option<(u8, Tuple)> {
    let (addresses, ports) = (attributes.nested(1)?, attributes.nested(2)?);
    let (source, destination) = match addresses.find(1) {
        Some(source) => (v4(source)?, v4(addresses.find(2)?)?),
        None => (v6(addresses.find(3)?)?, v6(addresses.find(4)?)?),
    };
    let source = SocketAddr::new(source, short(ports.find(2)?)?);
    let destination = SocketAddr::new(destination, short(ports.find(3)?)?);
    Some((*ports.find(1)?.first()?, Tuple { source, destination }))
}

fn v4(bytes: &[u8]) -> Option<IpAddr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into())
}

fn v6(bytes: &[u8]) -> Option<IpAddr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
}

fn short(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

fn family(ipv6: bool) -> u8 {
    if ipv6 { libc::AF_INET6 as u8 } else { libc::AF_INET as u8 }
}
