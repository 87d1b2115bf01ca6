//! A packet as rules see it.

use std::net::IpAddr;

use crate::bytes::Bytes;
use crate::field::{CtState, Field, nfproto};
use crate::ruleset::Family;

/// A packet on its way, with the connection that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// The IP protocol number.
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
    pub mark: u32,
    /// Index and name of the interface that it came by.
    pub input: Option<(u32, String)>,
    /// Index and name of the interface that it leaves by.
    pub output: Option<(u32, String)>,
    pub connection: Connection,
}

/// What conntrack knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    pub state: CtState,
    /// `IPS_*` bits.
    pub status: u32,
    pub reply: bool,
    pub mark: u32,
    /// Milliseconds.
    pub expires: u32,
    /// Addresses and ports of the first packet, before any translation: source, then destination.
    pub original: [(IpAddr, u16); 2],
}

impl Packet {
    /// The first packet of a connection.
    pub fn new(protocol: u8, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Packet {
        let connection = Connection {
            state: CtState::NEW,
            status: 0,
            reply: false,
            mark: 0,
            expires: 30_000,
            original: [source, destination],
        };
        Packet {
            source: source.0,
            destination: destination.0,
            protocol,
            source_port: source.1,
            destination_port: destination.1,
            mark: 0,
            input: None,
            output: None,
            connection,
        }
    }

    pub(super) fn belongs_to(&self, family: Family) -> bool {
        match family {
            Family::Inet => true,
            Family::Ip => self.destination.is_ipv4(),
            Family::Ip6 => self.destination.is_ipv6(),
        }
    }

    /// The value of a field, padded as in registers; `None` where the packet has no such field, which ends a rule.
    pub(super) fn field(&self, field: Field) -> Option<Bytes> {
        let v6 = self.destination.is_ipv6();
        let address = |address: IpAddr, wanted_v6: bool| (v6 == wanted_v6).then(|| Bytes::new().ip(address));
        let [source, destination] = self.connection.original;
        let number = |number| Some(Bytes::new().number(number));
        let interface = |at: &Option<(u32, String)>| Some(Bytes::new().number(at.as_ref()?.0));
        let name = |at: &Option<(u32, String)>| {
            // Without an interface the kernel gives a name without letters.
            Some(Bytes::new().interface(at.as_ref().map_or("", |(_, name)| name)))
        };
        match field {
            Field::IpSaddr => address(self.source, false),
            Field::IpDaddr | Field::IpDaddrHigh => address(self.destination, false),
            Field::Ip6Saddr => address(self.source, true),
            Field::Ip6Daddr | Field::Ip6DaddrHigh => address(self.destination, true),
            Field::ThSport => Some(Bytes::new().port(self.source_port)),
            Field::ThDport => Some(Bytes::new().port(self.destination_port)),
            Field::Nfproto => Some(Bytes::new().push(&[if v6 { nfproto::IPV6 } else { nfproto::IPV4 }])),
            Field::L4Proto => Some(Bytes::new().proto(self.protocol)),
            Field::Mark => number(self.mark),
            Field::Iif => interface(&self.input),
            Field::Oif => interface(&self.output),
            Field::Iifname => name(&self.input),
            Field::Oifname => name(&self.output),
            Field::CtState => number(self.connection.state.0),
            Field::CtStatus => number(self.connection.status),
            Field::CtDirection => Some(Bytes::new().push(&[u8::from(self.connection.reply)])),
            Field::CtMark => number(self.connection.mark),
            Field::CtExpiration => number(self.connection.expires),
            Field::CtOriginalIpSaddr => address(source.0, false),
            Field::CtOriginalIpDaddr => address(destination.0, false),
            Field::CtOriginalIp6Saddr => address(source.0, true),
            Field::CtOriginalIp6Daddr => address(destination.0, true),
            Field::CtOriginalProtoSrc => Some(Bytes::new().port(source.1)),
            Field::CtOriginalProtoDst => Some(Bytes::new().port(destination.1)),
            // Not the packet's; the walk asks the world.
            Field::FibSaddrType | Field::FibDaddrType | Field::NumgenRandom { .. } | Field::NumgenInc { .. } => None,
        }
    }

    /// Writes an address into the packet; conntrack keeps what was there.
    pub(super) fn store(&mut self, field: Field, address: IpAddr) {
        if matches!(field, Field::IpSaddr | Field::Ip6Saddr) {
            self.source = address;
        } else if matches!(field, Field::IpDaddr | Field::Ip6Daddr) {
            self.destination = address;
        }
    }
}
