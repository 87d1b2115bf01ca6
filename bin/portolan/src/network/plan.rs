//! Which addresses the nodes get, decided before anything is made. Pure: what the machine has comes in as [`Facts`].

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ranges::Ranges;

/// What the user asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    pub nodes: u8,
    pub service_cidr: Ranges,
    pub pod_cidr: Ranges,
    pub node_cidr: Option<Ipv4Net>,
}

/// What the machine has already.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Destinations of its routes, without the default.
    pub routes: Vec<IpNet>,
    pub interfaces: Vec<String>,
}

/// What will be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub interface: String,
    pub network: Ipv4Net,
    pub machine: Ipv4Addr,
    pub network6: Option<Network6>,
    pub nodes: Vec<NodePlan>,
}

/// The nodes' network of a dual-stack cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network6 {
    pub network: Ipv6Net,
    pub machine: Ipv6Addr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    pub name: String,
    pub address: Ipv4Addr,
    pub address6: Option<Ipv6Addr>,
    pub pod_cidr: Ranges,
}

/// Why the wish cannot be granted.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Clash {
    #[error("{one} and {other} overlap\n  hint: choose ranges that share no address")]
    Overlap { one: String, other: String },
    #[error("{what} overlaps with the machine's route to {route}\n  hint: choose another range with {flag}")]
    Route { what: String, route: IpNet, flag: &'static str },
    #[error("--pod-cidr {0} is too small: each node takes a /24 of it\n  hint: 10.244.0.0/16 has room for 256 nodes")]
    PodsTooSmall(Ipv4Net),
    #[error("--service-cidr {0} is too small: it needs room for 16 addresses at least\n  hint: 10.96.0.0/16 is usual")]
    ServicesTooSmall(Ipv4Net),
    #[error(
        "--pod-cidr {0} is too small: each node takes a /{1} of it\n  hint: fd00:10:244::/56 has room for 256 nodes"
    )]
    Pods6TooSmall(Ipv6Net, u8),
    #[error("--service-cidr {0} must have a prefix of /108 to /124\n  hint: fd00:10:96::/112 is usual")]
    Services6Size(Ipv6Net),
    #[error(
        "--service-cidr and --pod-cidr must have the same families\n  hint: give both of IPv4, or both as IPv4,IPv6"
    )]
    Families,
    #[error("--node-cidr {0} has no room for the machine and {1} nodes")]
    NodesTooSmall(Ipv4Net, u8),
    #[error(
        "none of 192.168.94.0/24 … 192.168.103.0/24 is free for the nodes\n  hint: name a free range with --node-cidr"
    )]
    NoFreeNetwork,
}

/// Decides names and addresses, or says what clashes.
pub fn plan(wish: Wish, facts: &Facts) -> Result<Plan, Clash> {
    let (service, pods) = (wish.service_cidr, wish.pod_cidr);
    check_sizes(service, pods)?;
    for (one, other) in service.all().into_iter().zip(pods.all()) {
        apart(("--service-cidr", one), ("--pod-cidr", other))?;
        free("--service-cidr", one, facts)?;
        free("--pod-cidr", other, facts)?;
    }
    let network = match wish.node_cidr {
        Some(asked) => {
            let asked = asked.trunc();
            apart(("--node-cidr", asked.into()), ("--service-cidr", service.v4.into()))?;
            apart(("--node-cidr", asked.into()), ("--pod-cidr", pods.v4.into()))?;
            free("--node-cidr", asked.into(), facts)?;
            asked
        }
        None => first_free(service.v4, pods.v4, facts).ok_or(Clash::NoFreeNetwork)?,
    };
    let network6 = pods.v6.map(|_| network6(network));
    let nodes = nodes(wish, network, network6)?;
    let taken = |name: &String| facts.interfaces.contains(name);
    let interface = (0..).map(|n: u32| format!("portolan{n}")).find(|name| !taken(name)).unwrap_or_default();
    let machine = network.hosts().next().ok_or(Clash::NodesTooSmall(network, wish.nodes))?;
    Ok(Plan { interface, network, machine, network6, nodes })
}

fn check_sizes(service: Ranges, pods: Ranges) -> Result<(), Clash> {
    if service.v4.prefix_len() > 28 {
        return Err(Clash::ServicesTooSmall(service.v4));
    }
    match (service.v6, pods.v6) {
        (None, None) => Ok(()),
        // The bounds that kube-apiserver has.
        (Some(service), Some(_)) if !(108..=124).contains(&service.prefix_len()) => Err(Clash::Services6Size(service)),
        (Some(_), Some(_)) => Ok(()),
        (Some(_), None) | (None, Some(_)) => Err(Clash::Families),
    }
}

/// A network of unique local addresses (RFC 4193) that no other cluster on this machine has, since none has its IPv4 network.
fn network6(network: Ipv4Net) -> Network6 {
    let [a, b, c, d] = network.network().octets();
    let subnet =
        |last| Ipv6Addr::new(0xfd70, 0x6f72, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), 0, 0, 0, last);
    // 64 is a valid prefix length.
    Network6 { network: Ipv6Net::new(subnet(0), 64).unwrap_or_default(), machine: subnet(1) }
}

fn nodes(wish: Wish, network: Ipv4Net, network6: Option<Network6>) -> Result<Vec<NodePlan>, Clash> {
    let pods = wish.pod_cidr;
    // The first host is the machine.
    let mut hosts = network.hosts().skip(1);
    let mut subnets = pods.v4.subnets(24).map_err(|_| Clash::PodsTooSmall(pods.v4))?;
    let mut subnets6 = pods.v6.map(subnets6).transpose()?;
    let mut nodes = Vec::new();
    for index in 1..=wish.nodes {
        let name = if index == 1 { "portolan".to_owned() } else { format!("portolan-{index}") };
        let address = hosts.next().ok_or(Clash::NodesTooSmall(network, wish.nodes))?;
        let address6 = network6.map(|net| Ipv6Addr::from(u128::from(net.machine) + u128::from(index)));
        let v4 = subnets.next().ok_or(Clash::PodsTooSmall(pods.v4))?;
        let v6 = match (&mut subnets6, pods.v6) {
            (Some((subnets, length)), Some(range)) => Some(subnets.next().ok_or(Clash::Pods6TooSmall(range, *length))?),
            (Some(_) | None, None) | (None, Some(_)) => None,
        };
        nodes.push(NodePlan { name, address, address6, pod_cidr: Ranges { v4, v6 } });
    }
    Ok(nodes)
}

/// The nodes' parts of the pods' range and their length: /64, or a 256th of a smaller range.
fn subnets6(range: Ipv6Net) -> Result<(ipnet::Ipv6Subnets, u8), Clash> {
    let length = range.prefix_len().saturating_add(8).clamp(64, 120);
    Ok((range.subnets(length).map_err(|_| Clash::Pods6TooSmall(range, length))?, length))
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

fn apart(one: (&str, IpNet), other: (&str, IpNet)) -> Result<(), Clash> {
    if overlap(one.1, other.1) {
        let shown = |(flag, net): (&str, IpNet)| format!("{flag} {net}");
        return Err(Clash::Overlap { one: shown(one), other: shown(other) });
    }
    Ok(())
}

fn free(flag: &'static str, net: IpNet, facts: &Facts) -> Result<(), Clash> {
    match facts.routes.iter().find(|route| overlap(**route, net)) {
        Some(route) => Err(Clash::Route { what: format!("{flag} {net}"), route: *route, flag }),
        None => Ok(()),
    }
}

fn first_free(service: Ipv4Net, pods: Ipv4Net, facts: &Facts) -> Option<Ipv4Net> {
    let candidates = (94..=103).filter_map(|third| Ipv4Net::new(Ipv4Addr::new(192, 168, third, 0), 24).ok());
    let mut free = candidates.filter(|net| {
        let clashes = |other: &IpNet| overlap(*other, (*net).into());
        ![service.into(), pods.into()].iter().any(clashes) && !facts.routes.iter().any(clashes)
    });
    free.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ranges {
        text.parse().unwrap()
    }

    fn wish(nodes: u8) -> Wish {
        Wish { nodes, service_cidr: net("10.96.0.0/16"), pod_cidr: net("10.244.0.0/16"), node_cidr: None }
    }

    fn dual(nodes: u8, service: &str, pods: &str) -> Wish {
        Wish {
            nodes,
            service_cidr: net(&format!("10.96.0.0/16,{service}")),
            pod_cidr: net(&format!("10.244.0.0/16,{pods}")),
            node_cidr: None,
        }
    }

    fn facts(routes: &[&str]) -> Facts {
        Facts {
            routes: routes.iter().map(|r| r.parse().unwrap()).collect(),
            interfaces: vec!["lo".into(), "portolan0".into()],
        }
    }

    #[test]
    fn addresses_are_the_first_that_are_free() {
        let plan = plan(wish(2), &facts(&["192.168.94.0/24", "172.16.0.0/12"])).unwrap();
        assert_eq!(plan.interface, "portolan1");
        assert_eq!(plan.machine.to_string(), "192.168.95.1");
        let shown: Vec<String> =
            plan.nodes.iter().map(|n| format!("{} {} {}", n.name, n.address, n.pod_cidr)).collect();
        assert_eq!(shown, ["portolan 192.168.95.2 10.244.0.0/24", "portolan-2 192.168.95.3 10.244.1.0/24"]);
    }

    #[test]
    fn clashes_are_named() {
        let told = |wish: Wish, routes: &[&str]| plan(wish, &facts(routes)).unwrap_err().to_string();
        let overlap = told(Wish { pod_cidr: net("10.96.128.0/20"), ..wish(1) }, &[]);
        assert!(overlap.starts_with("--service-cidr 10.96.0.0/16 and --pod-cidr 10.96.128.0/20 overlap"), "{overlap}");
        let route = told(wish(1), &["10.0.0.0/8"]);
        assert!(
            route.starts_with("--service-cidr 10.96.0.0/16 overlaps with the machine's route to 10.0.0.0/8"),
            "{route}"
        );
        assert!(
            told(Wish { pod_cidr: net("10.244.0.0/25"), ..wish(1) }, &[])
                .starts_with("--pod-cidr 10.244.0.0/25 is too small")
        );
        assert!(
            told(Wish { pod_cidr: net("10.244.0.0/24"), ..wish(2) }, &[])
                .starts_with("--pod-cidr 10.244.0.0/24 is too small")
        );
        let small = told(Wish { node_cidr: Some("10.1.0.0/30".parse().unwrap()), ..wish(2) }, &[]);
        assert!(small.starts_with("--node-cidr 10.1.0.0/30 has no room"), "{small}");
    }

    #[test]
    fn dual_stack_nodes_have_an_address_and_a_range_of_each_family() {
        let plan = plan(dual(2, "fd00:10:96::/112", "fd00:10:244::/56"), &facts(&[])).unwrap();
        let nodes: Vec<String> = plan.nodes.iter().map(|n| format!("{} {}", n.address6.unwrap(), n.pod_cidr)).collect();
        assert_eq!(
            nodes,
            [
                "fd70:6f72:c0a8:5e00::2 10.244.0.0/24,fd00:10:244::/64",
                "fd70:6f72:c0a8:5e00::3 10.244.1.0/24,fd00:10:244:1::/64"
            ]
        );
        assert_eq!(plan.network6.unwrap().machine.to_string(), "fd70:6f72:c0a8:5e00::1");
    }

    #[test]
    fn dual_stack_clashes_are_named() {
        let told = |wish: Wish, routes: &[&str]| plan(wish, &facts(routes)).unwrap_err().to_string();
        let large = told(dual(1, "fd00:10:96::/64", "fd00:10:244::/56"), &[]);
        assert!(large.starts_with("--service-cidr fd00:10:96::/64 must have a prefix of /108 to /124"), "{large}");
        let small = told(dual(3, "fd00:10:96::/112", "fd00:10:244::/64"), &["fd00:10:244::/48"]);
        assert!(small.contains("overlaps with the machine's route to fd00:10:244::/48"), "{small}");
        let one = Wish { pod_cidr: net("10.244.0.0/16"), ..dual(1, "fd00:10:96::/112", "fd00:10:244::/56") };
        assert!(told(one, &[]).starts_with("--service-cidr and --pod-cidr must have the same families"));
        let full = told(dual(3, "fd00:10:96::/112", "fd00:10:244::/120"), &[]);
        assert!(full.starts_with("--pod-cidr fd00:10:244::/120 is too small"), "{full}");
    }
}
