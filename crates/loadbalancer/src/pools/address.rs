//! Ranges of addresses: read from text, counted, walked.
//!
//! `10.0.0.0/24` is all 256 addresses of it, as MetalLB has it; `10.0.0.10-10.0.0.20` includes both ends; a lone address is a range of one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use service_model::Family;
use thiserror::Error;

/// First and last address, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    first: IpAddr,
    last: IpAddr,
}

/// Why a text is no range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RangeError {
    #[error("`{0}` is no range of addresses\n  hint: write 192.168.1.240-192.168.1.250 or 192.168.1.240/28")]
    Unreadable(String),
    #[error("`{0}` ends before it begins")]
    Backwards(String),
    #[error("`{0}` begins in one address family and ends in another")]
    Families(String),
    #[error("`{0}` holds addresses that no machine can have (loopback, multicast, link-local or unspecified)")]
    Unusable(String),
}

impl Range {
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Range, RangeError> {
        let shown = || format!("{first}-{last}");
        if first.is_ipv4() != last.is_ipv4() {
            return Err(RangeError::Families(shown()));
        }
        if first > last {
            return Err(RangeError::Backwards(shown()));
        }
        if unusable(first) || unusable(last) {
            return Err(RangeError::Unusable(shown()));
        }
        Ok(Range { first, last })
    }

    pub fn family(&self) -> Family {
        Family::of(self.first)
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && (self.first..=self.last).contains(&address)
    }

    pub fn overlaps(&self, other: &Range) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// How many addresses it holds; an IPv6 range may hold more than can be counted.
    pub fn count(&self) -> u128 {
        (number(self.last) - number(self.first)).saturating_add(1)
    }

    /// Every address, in order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = self.first.is_ipv4();
        (number(self.first)..=number(self.last)).map(move |n| address(n, v4))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Range, RangeError> {
        let text = text.trim();
        let unreadable = || RangeError::Unreadable(text.to_owned());
        if let Some((first, last)) = text.split_once('-') {
            let parse = |part: &str| part.trim().parse::<IpAddr>().map_err(|_| unreadable());
            return Range::new(parse(first)?, parse(last)?);
        }
        if let Ok(net) = text.parse::<IpNet>() {
            // Not `broadcast()` alone: for IPv6 it is the last address as well.
            return Range::new(net.network(), net.broadcast());
        }
        let one = text.parse::<IpAddr>().map_err(|_| unreadable())?;
        Range::new(one, one)
    }
}

/// Addresses that routers and hosts do not take as somebody's: a range with such an end is a mistake.
fn unusable(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    link_local || address.is_unspecified() || address.is_loopback() || address.is_multicast()
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(number: u128, v4: bool) -> IpAddr {
    match (v4, u32::try_from(number)) {
        (true, Ok(number)) => IpAddr::V4(Ipv4Addr::from(number)),
        (true, Err(_)) | (false, _) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, shown: &str, len: u128) {
        let range: Range = text.parse().unwrap();
        assert_eq!((range.to_string().as_str(), range.count()), (shown, len), "{text}");
    }

    #[test]
    fn ranges_are_read_as_people_write_them() {
        check("192.168.1.240-192.168.1.250", "192.168.1.240-192.168.1.250", 11);
        check(" 10.0.0.5 - 10.0.0.5 ", "10.0.0.5", 1);
        check("10.0.0.7/30", "10.0.0.4-10.0.0.7", 4);
        check("10.1.1.1", "10.1.1.1", 1);
        check("fd00::10-fd00::1f", "fd00::10-fd00::1f", 16);
        check("fd00::/64", "fd00::-fd00::ffff:ffff:ffff:ffff", 1 << 64);
        for bad in [
            "",
            "a",
            "10.0.0.9-10.0.0.1",
            "10.0.0.1-fd00::1",
            "127.0.0.0/8",
            "224.0.0.0/4",
            "fe80::/64",
            "0.0.0.0/0",
            "1-2",
        ] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
    }

    #[test]
    fn walking_a_range_visits_each_address_once() {
        let range: Range = "10.0.0.254-10.0.1.1".parse().unwrap();
        let all: Vec<String> = range.addresses().map(|a| a.to_string()).collect();
        assert_eq!(all, ["10.0.0.254", "10.0.0.255", "10.0.1.0", "10.0.1.1"]);
        assert!(all.iter().all(|a| range.contains(a.parse().unwrap())));
        assert!(!range.contains("10.0.1.2".parse().unwrap()));
        assert!(!range.contains("fd00::1".parse().unwrap()));
    }
}
