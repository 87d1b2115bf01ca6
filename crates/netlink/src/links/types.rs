//! The values that links are described by, and how they become `rtnetlink`'s messages.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::route::{RouteMessage, RouteScope, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};

use crate::{Error, Result};

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `veth`, `bridge`, …; empty for hardware and loopback.
    pub kind: String,
    pub mac: Option<Mac>,
    pub mtu: u32,
    /// Whether it was set up; not whether the other side was.
    pub up: bool,
    /// Whether packets pass: it is up, and so is what it is joined to.
    pub carrier: bool,
    /// The bridge that it is on.
    pub bridge: Option<u32>,
    /// For a veth, the index of its other end, in that end's namespace.
    pub peer: Option<u32>,
    pub alias: Option<String>,
}

/// A 48-bit MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    pub index: u32,
    pub address: IpNet,
    /// Where it counts: 0 everywhere, 253 on the link, 254 on the machine. Source: `rt_scope_t`.
    pub scope: u8,
}

/// A route: where to, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    pub destination: IpNet,
    pub via: Via,
    /// Source address for the machine's own packets.
    pub source: Option<IpAddr>,
    /// Smaller is preferred.
    pub metric: Option<u32>,
    /// The routing table; `None` is the main one.
    pub table: Option<u32>,
}

/// How packets of a route leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// Straight to the neighbour on this link: `scope link`.
    Link { index: u32 },
    /// By a router. `onlink` says that it is a neighbour on that link though no route says so.
    Gateway { address: IpAddr, index: Option<u32>, onlink: bool },
    /// Not at all.
    Kind(RouteKind),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// Dropped in silence.
    Blackhole,
    /// Answered with ICMP host unreachable.
    Unreachable,
    /// For the machine itself.
    Local { index: u32 },
}

impl Route {
    /// Straight to a neighbour on a link.
    pub fn link(destination: IpNet, index: u32) -> Route {
        Route { destination, via: Via::Link { index }, source: None, metric: None, table: None }
    }

    /// By a router that a route to its address already reaches.
    pub fn gateway(destination: IpNet, address: IpAddr) -> Route {
        let via = Via::Gateway { address, index: None, onlink: false };
        Route { destination, via, source: None, metric: None, table: None }
    }

    /// By a router on that link, whatever the routes say.
    pub fn onlink(destination: IpNet, address: IpAddr, index: u32) -> Route {
        let via = Via::Gateway { address, index: Some(index), onlink: true };
        Route { destination, via, source: None, metric: None, table: None }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        match self.via {
            Via::Link { index } => write!(f, " dev #{index} scope link"),
            Via::Gateway { address, index: None, .. } => write!(f, " via {address}"),
            Via::Gateway { address, index: Some(index), onlink } => {
                write!(f, " via {address} dev #{index}{}", if onlink { " onlink" } else { "" })
            }
            Via::Kind(RouteKind::Blackhole) => f.write_str(" blackhole"),
            Via::Kind(RouteKind::Unreachable) => f.write_str(" unreachable"),
            Via::Kind(RouteKind::Local { index }) => write!(f, " local dev #{index}"),
        }
    }
}

/// `ip rule add pref PRIORITY [from …] [to …] [fwmark …] lookup TABLE`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    pub priority: u32,
    pub ipv6: bool,
    pub from: Option<IpNet>,
    pub to: Option<IpNet>,
    pub mark: Option<u32>,
    pub table: u32,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: lookup {}", self.priority, self.table)
    }
}

pub(super) fn address_message(index: u32, address: IpNet) -> AddressMessage {
    match address {
        IpNet::V4(net) => {
            AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(net.addr(), net.prefix_len()).build()
        }
        IpNet::V6(net) => {
            AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(net.addr(), net.prefix_len()).build()
        }
    }
}

pub(super) fn neighbour_message(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.ifindex = index;
    let destination = match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    };
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message
}

pub(super) fn route_message(route: &Route) -> Result<RouteMessage> {
    let mismatch = |what: &str| Error::Answer {
        act: "describe the route",
        target: route.to_string(),
        answer: format!("{what} is of the other address family"),
    };
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.destination.network(), route.destination.prefix_len())
        .map_err(|_| mismatch("the destination"))?;
    match route.via {
        Via::Link { index } => builder = builder.output_interface(index).scope(RouteScope::Link),
        Via::Gateway { address, index, onlink } => {
            builder = builder.gateway(address).map_err(|_| mismatch("the gateway"))?;
            if let Some(index) = index {
                builder = builder.output_interface(index);
            }
            if onlink {
                builder = builder.onlink();
            }
        }
        Via::Kind(RouteKind::Blackhole) => builder = builder.kind(RouteType::BlackHole),
        Via::Kind(RouteKind::Unreachable) => builder = builder.kind(RouteType::Unreachable),
        Via::Kind(RouteKind::Local { index }) => {
            builder = builder.kind(RouteType::Local).scope(RouteScope::Host).output_interface(index);
        }
    }
    if let Some(source) = route.source {
        builder = builder.pref_source(source).map_err(|_| mismatch("the source"))?;
    }
    if let Some(metric) = route.metric {
        builder = builder.priority(metric);
    }
    if let Some(table) = route.table {
        builder = builder.table_id(table);
    }
    Ok(builder.build())
}

pub(super) fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.action = RuleAction::ToTable;
    message.attributes.push(RuleAttribute::Priority(rule.priority));
    message.attributes.push(RuleAttribute::Table(rule.table));
    if let Some(from) = rule.from {
        message.header.src_len = from.prefix_len();
        message.attributes.push(RuleAttribute::Source(from.network()));
    }
    if let Some(to) = rule.to {
        message.header.dst_len = to.prefix_len();
        message.attributes.push(RuleAttribute::Destination(to.network()));
    }
    if let Some(mark) = rule.mark {
        message.attributes.push(RuleAttribute::FwMark(mark));
    }
    message
}
