//! Addresses and prefixes as Kubernetes accepts them.

use std::net::IpAddr;

use ipnet::IpNet;

pub const NOT_AN_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
pub const NOT_A_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address in upstream's older, lenient reading: leading zeros in IPv4 and IPv4-mapped IPv6 are read, not refused.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| parse_with_leading_zeros(text))
}

fn parse_with_leading_zeros(text: &str) -> Option<IpAddr> {
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() != 4 || !parts.iter().all(|part| (1..=4).contains(&part.len())) {
        return None;
    }
    let octets: Option<Vec<u8>> = parts
        .iter()
        .map(|part| if part.bytes().all(|b| b.is_ascii_digit()) { part.parse().ok() } else { None })
        .collect();
    let octets: [u8; 4] = octets?.try_into().ok()?;
    Some(IpAddr::from(octets))
}

/// `must be a valid IP address, …`, if it is not.
pub fn ip(text: &str) -> Vec<String> {
    if parse_ip(text).is_some() { Vec::new() } else { vec![NOT_AN_IP.to_owned()] }
}

/// A prefix, leniently: bits after the prefix may be set.
pub fn parse_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    if length.is_empty() || length.len() > 3 || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    IpNet::new(parse_ip(address)?, length.parse().ok()?).ok()
}

pub fn cidr(text: &str) -> Vec<String> {
    if parse_cidr(text).is_some() { Vec::new() } else { vec![NOT_A_CIDR.to_owned()] }
}

/// An address written the one way that its canonical form is.
pub fn canonical_ip(text: &str) -> Vec<String> {
    let Some(address) = parse_ip(text) else { return vec![NOT_AN_IP.to_owned()] };
    match text.parse::<IpAddr>() {
        Err(_) => vec!["must not have leading 0s".to_owned()],
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(_) => canonical(text, &address.to_string()),
    }
}

/// A prefix written the one way that its canonical form is.
pub fn strict_cidr(text: &str) -> Vec<String> {
    let Some(prefix) = parse_cidr(text) else { return vec![NOT_A_CIDR.to_owned()] };
    if text.parse::<IpNet>().is_err() {
        return vec!["must not have leading 0s in IP or prefix length".to_owned()];
    }
    if prefix.addr() != prefix.network() {
        return vec!["must not have bits set beyond the prefix length".to_owned()];
    }
    canonical(text, &prefix.to_string())
}

fn canonical(text: &str, canonical: &str) -> Vec<String> {
    if text == canonical { Vec::new() } else { vec![format!("must be in canonical form ({canonical:?})")] }
}

/// An address that can be a Service's or an endpoint's: not unspecified, loopback or link-local.
pub fn not_special(text: &str) -> Vec<String> {
    let Some(address) = parse_ip(text).map(|address| address.to_canonical()) else {
        return vec!["must be a valid IP address".to_owned()];
    };
    let (link_local, link_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02),
    };
    let mut faults = Vec::new();
    if address.is_unspecified() {
        faults.push(format!("may not be unspecified ({text})"));
    }
    if address.is_loopback() {
        faults.push("may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned());
    }
    if link_local {
        faults.push("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned());
    }
    if link_multicast {
        faults.push("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned());
    }
    faults
}

/// A warning about an address that is accepted but not written as it should be.
pub fn ip_warning(field: &str, text: &str) -> Option<String> {
    let lenient = parse_ip(text)?.to_canonical();
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => None,
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_none() => {
            let canonical = v6.to_string();
            (canonical != text).then(|| {
                format!("{field}: IPv6 address {text:?} should be in RFC 5952 canonical format ({canonical:?})")
            })
        }
        Ok(IpAddr::V6(_)) | Err(_) => Some(format!(
            "{field}: non-standard IP address {text:?} will be considered invalid in a future Kubernetes release: use \"{lenient}\""
        )),
    }
}

/// The same for a prefix.
pub fn cidr_warning(field: &str, text: &str) -> Option<String> {
    let prefix = parse_cidr(text)?;
    if prefix.addr() != prefix.network() {
        let host = IpNet::from(prefix.addr());
        let network = prefix.trunc();
        return Some(format!(
            "{field}: CIDR value {text:?} is ambiguous in this context (should be \"{network}\" or \"{host}\"?)"
        ));
    }
    match text.parse::<IpNet>() {
        Err(_) => Some(format!(
            "{field}: non-standard CIDR value {text:?} will be considered invalid in a future Kubernetes release: use \"{prefix}\""
        )),
        Ok(IpNet::V6(_)) if prefix.to_string() != text => {
            Some(format!("{field}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format (\"{prefix}\")"))
        }
        Ok(_) => None,
    }
}

pub fn is_ipv6(text: &str) -> bool {
    parse_ip(text).is_some_and(|address| address.is_ipv6() && address.to_canonical().is_ipv6())
}

pub fn is_ipv4(text: &str) -> bool {
    parse_ip(text).is_some_and(|address| address.to_canonical().is_ipv4())
}
