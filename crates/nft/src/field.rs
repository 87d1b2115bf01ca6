//! What a rule can read of a packet, its flow or the machine: one value for each nft expression, such as `ip daddr`.
//!
//! The same values declare the type of a set (`typeof ip daddr . th dport`) and stand in rules (`ip daddr . th dport
//! @set`), as in nft's own syntax. How each is printed, sized and written for the kernel is one flat table here.

use crate::bytes::Bytes;

/// A field of the packet, of its connection, or a number that the kernel makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// `ip saddr`
    IpSaddr,
    /// `ip daddr`
    IpDaddr,
    /// `ip daddr & 255.255.0.0`: its upper half, the rest zero. A load and a bitwise expression
    IpDaddrHigh,
    /// `ip6 saddr`
    Ip6Saddr,
    /// `ip6 daddr`
    Ip6Daddr,
    /// `ip6 daddr & ffff:ffff:ffff:ffff::`
    Ip6DaddrHigh,
    /// `th sport`: the source port of whatever transport the packet has
    ThSport,
    /// `th dport`
    ThDport,
    /// `meta nfproto`: 2 for IPv4, 10 for IPv6; only useful in an `inet` table
    Nfproto,
    /// `meta l4proto`: the IP protocol number
    L4Proto,
    /// `meta mark`
    Mark,
    /// `iif`: input interface by index
    Iif,
    /// `oif`: output interface by index
    Oif,
    /// `iifname`: input interface by name
    Iifname,
    /// `oifname`: output interface by name
    Oifname,
    /// `ct state`: a bit mask, see [`CtState`]
    CtState,
    /// `ct status`: a bit mask, see [`CtStatus`]
    CtStatus,
    /// `ct direction`: 0 original, 1 reply
    CtDirection,
    /// `ct mark`
    CtMark,
    /// `ct expiration`: milliseconds until the flow is forgotten
    CtExpiration,
    /// `ct original ip saddr`
    CtOriginalIpSaddr,
    /// `ct original ip daddr`: where the client sent the packet before DNAT
    CtOriginalIpDaddr,
    /// `ct original ip6 saddr`
    CtOriginalIp6Saddr,
    /// `ct original ip6 daddr`
    CtOriginalIp6Daddr,
    /// `ct original proto-src`
    CtOriginalProtoSrc,
    /// `ct original proto-dst`: the port before DNAT
    CtOriginalProtoDst,
    /// `fib saddr type`: what kind of address the source is to this machine, see [`AddrType`]
    FibSaddrType,
    /// `fib daddr type`
    FibDaddrType,
    /// `numgen random mod N`: a uniformly random number below `modulus`
    NumgenRandom { modulus: u32 },
    /// `numgen inc mod N`: round robin
    NumgenInc { modulus: u32 },
}

/// Bits of `ct state`. Source: `enum ip_conntrack_info`, `NF_CT_STATE_BIT` in the kernel's uapi headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CtState(pub u32);

impl CtState {
    pub const INVALID: CtState = CtState(1);
    pub const ESTABLISHED: CtState = CtState(2);
    pub const RELATED: CtState = CtState(4);
    pub const NEW: CtState = CtState(8);
    pub const UNTRACKED: CtState = CtState(64);
}

/// Bits of `ct status`. Source: `enum ip_conntrack_status` in the kernel's uapi headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CtStatus(pub u32);

impl CtStatus {
    pub const SEEN_REPLY: CtStatus = CtStatus(1 << 1);
    pub const SNAT: CtStatus = CtStatus(1 << 4);
    pub const DNAT: CtStatus = CtStatus(1 << 5);
}

/// Kinds of address in `fib … type`. Source: `rtnetlink.h`, `RTN_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddrType {
    Unspec,
    Unicast,
    Local,
    Broadcast,
    Anycast,
    Multicast,
    Blackhole,
    Unreachable,
    Prohibit,
}

impl AddrType {
    /// The kernel's number.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// nft's word.
    pub fn name(self) -> &'static str {
        ADDR_TYPES[self as usize]
    }
}

pub(crate) const ADDR_TYPES: [&str; 9] =
    ["unspec", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit"];

/// How a value of a field is written by nft, which is also nft's own number for the type of a set key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataType {
    Nfproto,
    Integer,
    Ipv4,
    Ipv6,
    InetProto,
    InetService,
    Time,
    Mark,
    Ifindex,
    CtState,
    CtDir,
    CtStatus,
    FibAddr,
    Ifname,
}

impl DataType {
    /// nft's word, as in `type ipv4_addr`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            DataType::Nfproto => "nf_proto",
            DataType::Integer => "integer",
            DataType::Ipv4 => "ipv4_addr",
            DataType::Ipv6 => "ipv6_addr",
            DataType::InetProto => "inet_proto",
            DataType::InetService => "inet_service",
            DataType::Time => "time",
            DataType::Mark => "mark",
            DataType::Ifindex => "iface_index",
            DataType::CtState => "ct_state",
            DataType::CtDir => "ct_dir",
            DataType::CtStatus => "ct_status",
            DataType::FibAddr => "fib_addrtype",
            DataType::Ifname => "ifname",
        }
    }

    /// nft's number, six bits for each component of a concatenation. Source: `enum datatypes` of nftables, which is
    /// part of the kernel interface only in that nft reads it back.
    pub(crate) fn number(self) -> u32 {
        match self {
            DataType::Nfproto => 2,
            DataType::Integer => 4,
            DataType::Ipv4 => 7,
            DataType::Ipv6 => 8,
            DataType::InetProto => 12,
            DataType::InetService => 13,
            DataType::Time => 18,
            DataType::Mark => 19,
            DataType::Ifindex => 20,
            DataType::CtState => 26,
            DataType::CtDir => 27,
            DataType::CtStatus => 28,
            DataType::FibAddr => 38,
            DataType::Ifname => 41,
        }
    }
}

impl Field {
    /// The transport-level key that a Service is known by: `ip daddr . meta l4proto . th dport`.
    pub const SERVICE4: [Field; 3] = [Field::IpDaddr, Field::L4Proto, Field::ThDport];
    /// The same for IPv6.
    pub const SERVICE6: [Field; 3] = [Field::Ip6Daddr, Field::L4Proto, Field::ThDport];

    /// Length in bytes of the value, without the padding to 32 bits.
    pub fn width(self) -> usize {
        match self.data_type() {
            DataType::Nfproto | DataType::InetProto | DataType::CtDir => 1,
            DataType::InetService => 2,
            DataType::Ipv6 | DataType::Ifname => 16,
            DataType::Integer
            | DataType::Ipv4
            | DataType::Time
            | DataType::Mark
            | DataType::Ifindex
            | DataType::CtState
            | DataType::CtStatus
            | DataType::FibAddr => 4,
        }
    }

    /// Length in bytes of the value in registers.
    pub fn padded(self) -> usize {
        self.width().div_ceil(4) * 4
    }

    /// Whether the value is the name of an interface.
    pub(crate) fn is_name(self) -> bool {
        matches!(self, Field::Iifname | Field::Oifname)
    }

    /// Whether the kernel keeps the value in the machine's byte order.
    pub fn host_order(self) -> bool {
        match self.data_type() {
            DataType::Integer
            | DataType::Mark
            | DataType::Ifindex
            | DataType::Time
            | DataType::CtState
            | DataType::CtStatus
            | DataType::FibAddr => true,
            DataType::Nfproto
            | DataType::Ipv4
            | DataType::Ipv6
            | DataType::InetProto
            | DataType::InetService
            | DataType::CtDir
            | DataType::Ifname => false,
        }
    }

    /// For the upper half of an address: the whole field and the mask.
    pub(crate) fn masked(self) -> Option<(Field, Bytes)> {
        let half = |len: usize| Bytes::from_slice(&[&vec![0xff; len / 2][..], &vec![0; len / 2]].concat());
        if self == Field::IpDaddrHigh {
            Some((Field::IpDaddr, half(4)))
        } else if self == Field::Ip6DaddrHigh {
            Some((Field::Ip6Daddr, half(16)))
        } else {
            None
        }
    }

    /// The way back from [`Field::masked`].
    pub(crate) fn upper_half(self, mask: &Bytes) -> Option<Field> {
        let halves = [Field::IpDaddrHigh, Field::Ip6DaddrHigh];
        halves.into_iter().find(|half| half.masked().is_some_and(|(field, m)| field == self && m == *mask))
    }

    /// Which address family a packet must have for the field to exist.
    pub(crate) fn nfproto(self) -> Option<u8> {
        if matches!(self, Field::IpSaddr | Field::IpDaddr | Field::IpDaddrHigh) {
            Some(nfproto::IPV4)
        } else if matches!(self, Field::Ip6Saddr | Field::Ip6Daddr | Field::Ip6DaddrHigh) {
            Some(nfproto::IPV6)
        } else {
            None
        }
    }

    pub(crate) fn data_type(self) -> DataType {
        match self {
            Field::IpSaddr
            | Field::IpDaddr
            | Field::IpDaddrHigh
            | Field::CtOriginalIpSaddr
            | Field::CtOriginalIpDaddr => DataType::Ipv4,
            Field::Ip6Saddr
            | Field::Ip6Daddr
            | Field::Ip6DaddrHigh
            | Field::CtOriginalIp6Saddr
            | Field::CtOriginalIp6Daddr => DataType::Ipv6,
            Field::ThSport | Field::ThDport | Field::CtOriginalProtoSrc | Field::CtOriginalProtoDst => {
                DataType::InetService
            }
            Field::Nfproto => DataType::Nfproto,
            Field::L4Proto => DataType::InetProto,
            Field::Mark | Field::CtMark => DataType::Mark,
            Field::Iif | Field::Oif => DataType::Ifindex,
            Field::Iifname | Field::Oifname => DataType::Ifname,
            Field::CtState => DataType::CtState,
            Field::CtStatus => DataType::CtStatus,
            Field::CtDirection => DataType::CtDir,
            Field::CtExpiration => DataType::Time,
            Field::FibSaddrType | Field::FibDaddrType => DataType::FibAddr,
            Field::NumgenRandom { .. } | Field::NumgenInc { .. } => DataType::Integer,
        }
    }
}

/// `enum nf_inet_hooks`' companions `NFPROTO_*`, as `meta nfproto` reads them.
pub(crate) mod nfproto {
    pub(crate) const IPV4: u8 = 2;
    pub(crate) const IPV6: u8 = 10;
}
