//! Whom to ask: the machine's `resolv.conf`, or the servers that were given, and stub domains with servers of their own.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::Route;
use super::upstream::Upstream;
use crate::wire::name::{self, WireName};

/// How often the machine's file is looked at: laptops change networks.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(5);
const PORT: u16 = 53;

/// Where the resolvers for everything outside are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamSource {
    /// A file as resolv.conf(5) has it, followed when it changes.
    File(PathBuf),
    Servers(Vec<SocketAddr>),
}

impl UpstreamSource {
    pub(super) fn read(&self) -> Vec<SocketAddr> {
        match self {
            UpstreamSource::File(path) => parse_resolvers(&std::fs::read_to_string(path).unwrap_or_default()),
            UpstreamSource::Servers(servers) => servers.clone(),
        }
    }
}

/// A domain with resolvers of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stub {
    pub domain: WireName,
    pub servers: Vec<SocketAddr>,
}

/// Reads `example.com=10.0.0.1,10.0.0.2:5353`.
impl FromStr for Stub {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || "give it as DOMAIN=SERVER[,SERVER…], such as corp.example=10.0.0.1".to_owned();
        let (domain, servers) = text.split_once('=').ok_or_else(wanted)?;
        let domain = name::parse(domain).ok_or_else(|| format!("`{domain}` is not a DNS name"))?;
        let servers = servers.split(',').map(parse_server).collect::<Result<Vec<_>, _>>()?;
        Ok(Stub { domain, servers })
    }
}

/// An address, with a port if it is not 53.
///
/// # Errors
/// When it is neither.
pub fn parse_server(text: &str) -> Result<SocketAddr, String> {
    let bare = || text.parse::<IpAddr>().map(|address| SocketAddr::new(address, PORT));
    text.parse().or_else(|_| bare()).map_err(|_| format!("`{text}` is not an address, with or without a port"))
}

/// Longer domains are asked first; servers that are ourselves are left out.
pub(super) fn routes<'a>(stubs: impl Iterator<Item = &'a Stub>, own: &[SocketAddr]) -> Vec<Route> {
    let mut routes: Vec<Route> = stubs
        .map(|stub| {
            let others = stub.servers.iter().filter(|server| !own.contains(server));
            Route { domain: stub.domain.clone(), upstreams: others.map(|s| Arc::new(Upstream::new(*s))).collect() }
        })
        .collect();
    routes.sort_by_key(|route| std::cmp::Reverse(route.domain.len()));
    routes
}

fn parse_resolvers(text: &str) -> Vec<SocketAddr> {
    let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let servers = words.filter_map(|words| match words.as_slice() {
        ["nameserver", address, ..] => address.split('%').next()?.parse::<IpAddr>().ok(),
        _ => None,
    });
    servers.map(|address| SocketAddr::new(address, PORT)).collect()
}

/// The search domains of a file as resolv.conf(5) has it; the last line of either kind counts.
pub fn search_domains(text: &str) -> Vec<WireName> {
    let mut domains = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if matches!(words.next(), Some("search" | "domain")) {
            domains = words.take_while(|word| !word.starts_with(['#', ';'])).filter_map(name::parse).collect();
        }
    }
    domains
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_in_order() {
        let text = "# ours\nsearch example.com\nnameserver 192.0.2.1\n nameserver 2001:db8::1 # two\nnameserver x\n\
                    nameserver fe80::1%eth0\nnameserver\n";
        let expected: Vec<SocketAddr> =
            ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1]:53"].iter().map(|s| s.parse().unwrap()).collect();
        assert_eq!(parse_resolvers(text), expected);
        assert_eq!(
            search_domains("domain a.b\nsearch x.y lan # z\n"),
            [name::parse("x.y"), name::parse("lan")].map(Option::unwrap)
        );
    }

    #[test]
    fn stub_domains_are_read_and_the_longest_counts() {
        let stub: Stub = "Corp.Example=10.0.0.1,[fd00::1]:5353".parse().unwrap();
        assert_eq!(stub.servers, ["10.0.0.1:53".parse().unwrap(), "[fd00::1]:5353".parse().unwrap()]);
        for bad in ["corp", "a..b=10.0.0.1", "corp=", "corp=x"] {
            assert!(bad.parse::<Stub>().is_err(), "{bad}");
        }
        let below: Stub = "a.corp.example=10.0.0.2".parse().unwrap();
        let routes = routes([&stub, &below].into_iter(), &["10.0.0.1:53".parse().unwrap()]);
        assert_eq!(routes[0].domain, below.domain);
        assert_eq!(routes[1].upstreams.len(), 1, "our own address is no resolver outside");
    }
}
