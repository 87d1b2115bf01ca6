//! The address ranges that `--service-cidr` and `--pod-cidr` take: one of IPv4, and for a dual-stack cluster one of IPv6 behind a comma, as
//! kube-apiserver and kube-controller-manager take them.

use std::fmt;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// One range, or one of each family. Host bits are cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ranges {
    pub v4: Ipv4Net,
    pub v6: Option<Ipv6Net>,
}

impl Ranges {
    /// The ranges, IPv4 first.
    pub fn all(self) -> Vec<IpNet> {
        [IpNet::V4(self.v4)].into_iter().chain(self.v6.map(IpNet::V6)).collect()
    }
}

impl FromStr for Ranges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted =
            || "give an IPv4 range such as 10.96.0.0/16, or with IPv6 10.96.0.0/16,fd00:10:96::/112".to_owned();
        let (v4, v6) = match text.split_once(',') {
            Some((v4, v6)) => (v4, Some(v6.trim().parse::<Ipv6Net>().map_err(|_| wanted())?.trunc())),
            None => (text, None),
        };
        Ok(Ranges { v4: v4.trim().parse::<Ipv4Net>().map_err(|_| wanted())?.trunc(), v6 })
    }
}

impl TryFrom<String> for Ranges {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Ranges> for String {
    fn from(ranges: Ranges) -> String {
        ranges.to_string()
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.v4)?;
        self.v6.map_or(Ok(()), |v6| write!(f, ",{v6}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_shown() {
        let shown = |text: &str| text.parse::<Ranges>().map(|ranges| ranges.to_string());
        assert_eq!(shown("10.96.1.2/16"), Ok("10.96.0.0/16".to_owned()));
        assert_eq!(shown("10.96.0.0/16, fd00:10:96::1/112"), Ok("10.96.0.0/16,fd00:10:96::/112".to_owned()));
        for bad in
            ["", "10.96.0.0", "fd00::/112", "10.96.0.0/16,10.97.0.0/16", "fd00::/112,10.96.0.0/16", "10.96.0.0/33"]
        {
            assert!(shown(bad).is_err(), "{bad}");
        }
    }
}
