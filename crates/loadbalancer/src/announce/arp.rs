//! ARP (RFC 826, RFC 5227): the few packets of it that an address needs.

use std::net::Ipv4Addr;

use netlink::links::Mac;

/// The length of an ARP packet for Ethernet and IPv4; what follows is padding.
pub const LEN: usize = 28;
const ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];

/// A packet for Ethernet and IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    pub kind: Kind,
    pub sender: (Mac, Ipv4Addr),
    pub target: (Mac, Ipv4Addr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Request,
    Reply,
}

impl Arp {
    /// Reads a packet; none if it is of another sort or cut short.
    pub fn read(bytes: &[u8]) -> Option<Arp> {
        let bytes: &[u8; LEN] = bytes.first_chunk()?;
        if bytes[..6] != ETHERNET_IPV4 {
            return None;
        }
        let kind = match bytes[6..8] {
            [0, 1] => Kind::Request,
            [0, 2] => Kind::Reply,
            _ => return None,
        };
        let mac = |at: usize| bytes[at..].first_chunk().copied().map(Mac);
        let ip = |at: usize| bytes[at..].first_chunk::<4>().copied().map(Ipv4Addr::from);
        Some(Arp { kind, sender: (mac(8)?, ip(14)?), target: (mac(18)?, ip(24)?) })
    }

    pub fn write(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..6].copy_from_slice(&ETHERNET_IPV4);
        bytes[7] = match self.kind {
            Kind::Request => 1,
            Kind::Reply => 2,
        };
        bytes[8..14].copy_from_slice(&self.sender.0.0);
        bytes[14..18].copy_from_slice(&self.sender.1.octets());
        bytes[18..24].copy_from_slice(&self.target.0.0);
        bytes[24..28].copy_from_slice(&self.target.1.octets());
        bytes
    }

    /// The answer of whoever has the target's address at `mac`. A probe (sender 0.0.0.0) is answered as well: that is how its sender
    /// learns that the address is in use.
    pub fn answer(&self, mac: Mac) -> Arp {
        Arp { kind: Kind::Reply, sender: (mac, self.target.1), target: self.sender }
    }

    /// What tells everyone unasked where an address is. Some listen to requests only, some to replies only, so both are sent.
    pub fn announcements(mac: Mac, address: Ipv4Addr) -> [Arp; 2] {
        let everyone = Mac(linux::packet::BROADCAST);
        let request = Arp { kind: Kind::Request, sender: (mac, address), target: (Mac([0; 6]), address) };
        [request, Arp { kind: Kind::Reply, sender: (mac, address), target: (everyone, address) }]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 2]);

    #[test]
    fn a_request_is_answered_to_its_sender() {
        // As tcpdump shows it: who-has 10.0.0.9 tell 10.0.0.1, padded to Ethernet's least length.
        let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 9];
        bytes.resize(46, 0);
        let request = Arp::read(&bytes).unwrap();
        assert_eq!(request.sender, (THEIRS, Ipv4Addr::new(10, 0, 0, 1)));
        let answer = request.answer(OURS).write();
        let expected = [0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 1, 10, 0, 0, 9, 2, 0, 0, 0, 0, 2, 10, 0, 0, 1];
        assert_eq!(answer, expected);
    }

    #[test]
    fn other_sorts_are_not_read() {
        assert_eq!(Arp::read(&[]), None);
        assert_eq!(Arp::read(&[0; 64]), None);
        let reverse = [0, 1, 8, 0, 6, 4, 0, 3, 2, 0, 0, 0, 0, 2, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 9];
        assert_eq!(Arp::read(&reverse), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(macs: [[u8; 6]; 2], ips: [[u8; 4]; 2], reply: bool) {
            let kind = if reply { Kind::Reply } else { Kind::Request };
            let arp = Arp { kind, sender: (Mac(macs[0]), ips[0].into()), target: (Mac(macs[1]), ips[1].into()) };
            prop_assert_eq!(Arp::read(&arp.write()), Some(arp));
        }

        #[test]
        fn no_bytes_are_too_odd(bytes: Vec<u8>) {
            let _ = Arp::read(&bytes);
        }
    }
}
