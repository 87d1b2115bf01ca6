//! Host ports: what reaches an address of the node on a port that a pod has asked for goes on to the pod.
//!
//! One table of our own, `portolan-hostports`, made anew as a whole with each change, in one transaction: there are few of these
//! ports. Connections from the node itself count too, also to its loopback; those leave under the node's address, or the pod
//! would answer to its own loopback.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};

use linux::NetNs;
use netlink::NfTables;
use nft::{
    AddrType, Base, Batch, Bytes, ChainKind, Compare, Family, Field, Hook, NatKind, NatTarget, Op, Rule, Ruleset,
    Statement, TableId,
};
use serde::{Deserialize, Serialize};

const TABLE: &str = "portolan-hostports";
const CHAIN: &str = "hostports";
/// After Services, which are at `dstnat` (-100): a node port wins over a host port, as it does upstream.
const AFTER_SERVICES: i32 = -99;
const SRCNAT: i32 = 100;

/// A port of the node that leads to a port of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// The node's address; none is every one.
    pub host_ip: Option<IpAddr>,
    /// Its number in the IP header.
    pub protocol: u8,
    pub host_port: u16,
    pub port: u16,
}

/// Ports and addresses of a pod.
pub(super) type Published = (Vec<HostPort>, Vec<IpAddr>);

/// The host ports of one node, by pod.
#[derive(Debug, Default)]
pub(super) struct HostPorts(Mutex<BTreeMap<String, Published>>);

impl HostPorts {
    /// Notes what a pod has, without telling the kernel.
    pub(super) fn note(&self, pod: &str, published: Published) {
        if !published.0.is_empty() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(pod.to_owned(), published);
        }
    }

    pub(super) fn forget(&self, pod: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(pod);
    }

    /// Makes the kernel's table what is known here.
    pub(super) fn commit(&self, node: &NetNs) -> Result<(), netlink::Error> {
        // Held until it is done: the last commit must be the newest.
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = Batch::new();
        for family in [Family::Ip, Family::Ip6] {
            batch.push(Op::DeleteTable { table: TableId::new(family, TABLE), must_exist: false });
        }
        batch.ops.extend(nft::diff(&Ruleset::default(), &ruleset(all.values())).ops);
        NfTables::open(node)?.commit(&batch)
    }
}

/// The rules for these pods. Pure.
fn ruleset<'a>(pods: impl IntoIterator<Item = &'a Published>) -> Ruleset {
    let mut ruleset = Ruleset::default();
    let mut entries: Vec<(&HostPort, IpAddr)> = Vec::new();
    for (ports, ips) in pods {
        entries.extend(ports.iter().flat_map(|port| ips.iter().map(move |ip| (port, *ip))));
    }
    // A rule for one address before the rule for all.
    entries.sort_by_key(|(port, ip)| (port.host_ip.is_none(), *port, *ip));
    for (v4, family) in [(true, Family::Ip), (false, Family::Ip6)] {
        let of_family = |(port, ip): &&(&HostPort, IpAddr)| {
            ip.is_ipv4() == v4 && port.host_ip.is_none_or(|host| host.is_ipv4() == v4)
        };
        let entries: Vec<_> = entries.iter().filter(of_family).collect();
        if entries.is_empty() {
            continue;
        }
        let table = ruleset.tables.entry(TableId::new(family, TABLE)).or_default();
        for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
            let chain = table.chain(name);
            chain.base = Some(Base::new(ChainKind::Nat, hook, AFTER_SERVICES));
            chain.rule([Statement::fib_daddr(AddrType::Local), Statement::jump(CHAIN)]);
        }
        for (port, ip) in &entries {
            table.chain(CHAIN).rule(to_pod(port, *ip));
        }
        let back = table.chain("postrouting");
        back.base = Some(Base::new(ChainKind::Nat, Hook::Postrouting, SRCNAT));
        let mut pods: Vec<IpAddr> = entries.iter().map(|(_, ip)| *ip).collect();
        pods.sort_unstable();
        pods.dedup();
        for ip in pods {
            let source = if v4 { Field::IpSaddr } else { Field::Ip6Saddr };
            back.rule(
                Rule::new([Statement::is(source, Bytes::new().ip(ip)), Statement::daddr(ip), Statement::masquerade()])
                    .comment("a pod that reaches itself"),
            );
            if v4 {
                back.rule(
                    Rule::new([from_loopback(), Statement::daddr(ip), Statement::masquerade()])
                        .comment("the node's loopback"),
                );
            }
        }
    }
    ruleset
}

fn to_pod(port: &HostPort, ip: IpAddr) -> Rule {
    let mut statements = Vec::new();
    statements.extend(port.host_ip.map(Statement::daddr));
    statements.push(Statement::l4proto(port.protocol));
    statements.push(Statement::is(Field::ThDport, Bytes::new().port(port.host_port)));
    let to = match ip {
        IpAddr::V4(ip) => NatTarget::V4(ip, Some(port.port)),
        IpAddr::V6(ip) => NatTarget::V6(ip, Some(port.port)),
    };
    statements.push(Statement::Nat { kind: NatKind::Dnat, to });
    Rule::new(statements)
}

fn from_loopback() -> Statement {
    Statement::Match {
        field: Field::IpSaddr,
        mask: Some(Bytes::new().ipv4(Ipv4Addr::new(255, 0, 0, 0))),
        op: Compare::Eq,
        value: Bytes::new().ipv4(Ipv4Addr::new(127, 0, 0, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_two_pods() {
        let port = |host_ip: Option<&str>, protocol, host_port, port| HostPort {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            protocol,
            host_port,
            port,
        };
        let ips = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let web = (vec![port(None, 6, 8080, 80), port(Some("127.0.0.1"), 6, 53, 53)], ips(&["10.244.0.5", "fd00::5"]));
        let dns = (vec![port(Some("192.0.2.1"), 17, 53, 5353)], ips(&["10.244.0.6"]));
        let expected = "\
table ip portolan-hostports {
    chain hostports {
        ip daddr 127.0.0.1 tcp dport 53 dnat to 10.244.0.5:53
        ip daddr 192.0.2.1 udp dport 53 dnat to 10.244.0.6:5353
        tcp dport 8080 dnat to 10.244.0.5:80
    }

    chain output {
        type nat hook output priority -99; policy accept;
        fib daddr type local jump hostports
    }

    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 10.244.0.5 ip daddr 10.244.0.5 masquerade fully-random comment \"a pod that reaches itself\"
        ip saddr 127.0.0.0/8 ip daddr 10.244.0.5 masquerade fully-random comment \"the node's loopback\"
        ip saddr 10.244.0.6 ip daddr 10.244.0.6 masquerade fully-random comment \"a pod that reaches itself\"
        ip saddr 127.0.0.0/8 ip daddr 10.244.0.6 masquerade fully-random comment \"the node's loopback\"
    }

    chain prerouting {
        type nat hook prerouting priority dstnat + 1; policy accept;
        fib daddr type local jump hostports
    }
}

table ip6 portolan-hostports {
    chain hostports {
        tcp dport 8080 dnat to [fd00::5]:80
    }

    chain output {
        type nat hook output priority -99; policy accept;
        fib daddr type local jump hostports
    }

    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        ip6 saddr fd00::5 ip6 daddr fd00::5 masquerade fully-random comment \"a pod that reaches itself\"
    }

    chain prerouting {
        type nat hook prerouting priority dstnat + 1; policy accept;
        fib daddr type local jump hostports
    }
}
";
        assert_eq!(ruleset([&web, &dns]).to_string().replace('\t', "    "), expected);
        assert!(ruleset([]).tables.is_empty());
    }
}
