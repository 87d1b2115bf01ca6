//! The addresses of a node's pods: which are free. Pure.
//!
//! Addresses are given in turn, so that one that was given back rests as long as possible: a client that still holds it meets nobody
//! rather than a stranger.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// More than any node holds; it bounds the search in a /64.
const LARGEST: u128 = 1 << 20;

/// The free addresses of one CIDR.
#[derive(Debug, Clone)]
pub struct Pool {
    cidr: IpNet,
    taken: BTreeSet<u128>,
    /// Where the next search begins, as an offset.
    next: u128,
}

impl Pool {
    pub fn new(cidr: IpNet) -> Pool {
        Pool { cidr: cidr.trunc(), taken: BTreeSet::new(), next: 0 }
    }

    pub fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// The first address: the node's end of every pod's link.
    pub fn gateway(&self) -> IpAddr {
        self.at(1)
    }

    /// A free address, none when all are taken.
    pub fn take(&mut self) -> Option<IpAddr> {
        let usable = self.usable();
        let offset = (0..usable).map(|step| (self.next + step) % usable).find(|o| !self.taken.contains(o))?;
        self.taken.insert(offset);
        self.next = (offset + 1) % usable;
        Some(self.at(offset + 2))
    }

    /// Marks an address as taken; one outside the pool is not ours to mark.
    pub fn reserve(&mut self, ip: IpAddr) {
        if let Some(offset) = self.offset(ip) {
            self.taken.insert(offset);
            self.next = (offset + 1) % self.usable().max(1);
        }
    }

    pub fn release(&mut self, ip: IpAddr) {
        if let Some(offset) = self.offset(ip) {
            self.taken.remove(&offset);
        }
    }

    /// How many pods fit: all but the network, the gateway and, for IPv4, the broadcast address.
    pub fn usable(&self) -> u128 {
        let bits = u32::from(self.cidr.max_prefix_len() - self.cidr.prefix_len());
        let size = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
        let reserved = if self.cidr.addr().is_ipv4() { 3 } else { 2 };
        size.saturating_sub(reserved).min(LARGEST)
    }

    fn offset(&self, ip: IpAddr) -> Option<u128> {
        if !self.cidr.contains(&ip) {
            return None;
        }
        let offset = number(ip).checked_sub(number(self.cidr.network()))?.checked_sub(2)?;
        (offset < self.usable()).then_some(offset)
    }

    fn at(&self, offset: u128) -> IpAddr {
        let value = number(self.cidr.network()) + offset;
        match self.cidr {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(value).unwrap_or(u32::MAX))),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(value)),
        }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn pool(cidr: &str) -> Pool {
        Pool::new(cidr.parse().unwrap())
    }

    #[test]
    fn every_address_but_the_reserved_ones_is_given_once() {
        let mut small = pool("10.244.0.0/29");
        assert_eq!(small.gateway().to_string(), "10.244.0.1");
        let all: Vec<String> = std::iter::from_fn(|| small.take()).map(|ip| ip.to_string()).collect();
        assert_eq!(all, ["10.244.0.2", "10.244.0.3", "10.244.0.4", "10.244.0.5", "10.244.0.6"]);
        small.release("10.244.0.4".parse().unwrap());
        assert_eq!(small.take().unwrap().to_string(), "10.244.0.4");
        assert_eq!(small.take(), None);
        assert_eq!(pool("fd00:1::/64").take().unwrap().to_string(), "fd00:1::2");
        assert_eq!(pool("10.0.0.0/31").take(), None);
    }

    #[test]
    fn an_address_given_back_rests() {
        let mut pool = pool("10.244.0.0/24");
        let first = pool.take().unwrap();
        pool.release(first);
        assert_ne!(pool.take().unwrap(), first);
        pool.reserve("10.244.0.9".parse().unwrap());
        assert_eq!(pool.take().unwrap().to_string(), "10.244.0.10");
    }

    proptest! {
        #[test]
        fn no_address_is_held_twice(steps in prop::collection::vec(any::<Option<u8>>(), 0..200)) {
            let mut pool = pool("10.1.2.0/27");
            let mut held: Vec<IpAddr> = Vec::new();
            for step in steps {
                match step {
                    None => if let Some(ip) = pool.take() { held.push(ip) },
                    Some(n) if !held.is_empty() => pool.release(held.remove(usize::from(n) % held.len())),
                    Some(_) => {}
                }
                prop_assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), held.len());
                prop_assert!(held.len() <= 29);
            }
        }
    }
}
