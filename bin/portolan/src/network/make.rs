//! Makes the nodes' network as planned, or finds it as an earlier run left it, and takes it away.
//!
//! Every step looks before it acts, so that the same call makes a network, completes a half-made one and leaves a whole one alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use linux::NetNs;
use netlink::links::{Link, Links, Route, Via};

use super::{Facts, NodePlan, Plan};
use crate::instance::Layout;
use crate::ranges::Ranges;

/// The nodes' network namespaces, in the order of the plan.
pub type Nodes = Vec<NetNs>;

/// A node's interface towards the machine and its sisters.
pub const UPLINK: &str = "uplink";
/// The namespace that holds the bridge of several nodes, and what is in it.
const SWITCH: &str = "switch";
const BRIDGE: &str = "bridge";
const TRUNK: &str = "machine";

const NO_IPV6: &str = "this kernel has IPv6 switched off\n  hint: give --service-cidr and --pod-cidr of IPv4 only";

/// What the machine has that a plan must not touch; what an earlier run made is not counted.
pub async fn facts(ours: Option<&str>) -> Result<Facts> {
    let links = Links::open(&NetNs::current()?)?;
    let all = links.links().await?;
    let own: Vec<u32> = all.iter().filter(|link| Some(link.name.as_str()) == ours).map(|link| link.index).collect();
    let interfaces = all.into_iter().map(|link| link.name).filter(|name| Some(name.as_str()) != ours).collect();
    let mut facts = Facts { interfaces, ..Facts::default() };
    for route in both_families(&links).await? {
        let destination = route.destination;
        // Host routes of the local table repeat what the interface's own network says; link-local and multicast ranges are every link's.
        let every_link =
            matches!(destination, IpNet::V6(net) if net.addr().is_unicast_link_local() || net.addr().is_multicast());
        let own_table = destination.prefix_len() != 0 && !destination.addr().is_loopback() && route.table.is_none();
        let counts = own_table && !every_link;
        if counts && !link_of(&route).is_some_and(|index| own.contains(&index)) {
            facts.routes.push(destination);
        }
    }
    Ok(facts)
}

fn link_of(route: &Route) -> Option<u32> {
    match route.via {
        Via::Link { index } => Some(index),
        Via::Gateway { index, .. } => index,
        Via::Kind(_) => None,
    }
}

/// Makes what is missing of the planned network.
pub async fn make(layout: &Layout, plan: &Plan, service_cidr: Ranges) -> Result<Nodes> {
    let machine = NetNs::current()?;
    let mut nodes = Vec::new();
    for node in &plan.nodes {
        let namespace = open_or_create(layout, &node.name)?;
        namespace.set_sysctl("net.ipv4.ip_forward", "1")?;
        if plan.network6.is_some() {
            namespace.set_sysctl("net.ipv6.conf.all.forwarding", "1").context(NO_IPV6)?;
            // Addresses here are ours alone by construction; a second of looking for duplicates would delay the start.
            namespace.set_sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        }
        nodes.push(namespace);
    }
    let here = Links::open(&machine)?;
    match nodes.as_slice() {
        [only] => {
            pair(&here, &plan.interface, UPLINK, only).await?;
        }
        several => {
            let switch = open_or_create(layout, SWITCH)?;
            let inside = Links::open(&switch)?;
            let bridge = match inside.find_link(BRIDGE).await? {
                Some(bridge) => bridge,
                None => inside.add_bridge(BRIDGE).await?,
            };
            inside.set_up(bridge.index).await?;
            pair(&here, &plan.interface, TRUNK, &switch).await?;
            plug(&inside, TRUNK, bridge.index).await?;
            for (node, namespace) in plan.nodes.iter().zip(several) {
                pair(&inside, &port_name(&node.name), UPLINK, namespace).await?;
                plug(&inside, &port_name(&node.name), bridge.index).await?;
            }
        }
    }
    machine_side(&here, plan, service_cidr).await?;
    for (node, namespace) in plan.nodes.iter().zip(&nodes) {
        node_side(&Links::open(namespace)?, plan, node).await?;
    }
    Ok(nodes)
}

/// Takes everything away that `make` made. What is gone already is fine.
pub async fn remove(layout: &Layout, interface: &str, nodes: &[String]) -> Result<()> {
    let here = Links::open(&NetNs::current()?)?;
    here.delete_link_named(interface).await.with_context(|| format!("cannot delete interface {interface}"))?;
    for name in nodes.iter().map(String::as_str).chain([SWITCH]) {
        NetNs::delete_at(layout.netns(name))?;
    }
    Ok(())
}

/// The bridge's port of a node; interface names have 15 bytes at most, so the number says which.
fn port_name(node: &str) -> String {
    let number = node.rsplit_once('-').map_or("1", |(_, number)| number);
    format!("node-{number}")
}

fn open_or_create(layout: &Layout, name: &str) -> Result<NetNs> {
    let path = layout.netns(name);
    if let Ok(namespace) = NetNs::open(&path) {
        return Ok(namespace);
    }
    // A file that is no namespace is what a reboot leaves.
    NetNs::delete_at(&path)?;
    Ok(NetNs::create(&path)?)
}

async fn pair(links: &Links, name: &str, peer: &str, peer_ns: &NetNs) -> Result<Link> {
    let link = match links.find_link(name).await? {
        Some(link) => link,
        None => links.add_veth(name, peer, peer_ns).await?,
    };
    links.set_up(link.index).await?;
    let there = Links::open(peer_ns)?;
    there.set_up(there.link(peer).await?.index).await?;
    Ok(link)
}

async fn plug(links: &Links, port: &str, bridge: u32) -> Result<()> {
    let port = links.link(port).await?;
    links.set_bridge(port.index, Some(bridge)).await?;
    Ok(links.set_up(port.index).await?)
}

async fn machine_side(links: &Links, plan: &Plan, service_cidr: Ranges) -> Result<()> {
    let link = links.link(&plan.interface).await?;
    links.set_alias(link.index, "portolan: the way to its nodes, pods and services").await?;
    links.ensure_address(link.index, within(plan.machine, plan.network)).await?;
    if let Some(net) = plan.network6 {
        NetNs::current()?.set_sysctl(&format!("net.ipv6.conf.{}.accept_dad", plan.interface), "0").context(NO_IPV6)?;
        links.ensure_address(link.index, within6(net.machine, net.network)).await?;
    }
    if let Some(first) = plan.nodes.first() {
        lead(links, service_cidr, first).await?;
    }
    for node in &plan.nodes {
        lead(links, node.pod_cidr, node).await?;
    }
    Ok(())
}

/// Routes to these ranges by way of the node, each family by its own address.
async fn lead(links: &Links, ranges: Ranges, by: &NodePlan) -> Result<()> {
    links.replace_route(&Route::gateway(ranges.v4.into(), by.address.into())).await?;
    if let (Some(range), Some(address)) = (ranges.v6, by.address6) {
        links.replace_route(&Route::gateway(range.into(), address.into())).await?;
    }
    Ok(())
}

async fn node_side(links: &Links, plan: &Plan, node: &NodePlan) -> Result<()> {
    let link = links.link(UPLINK).await?;
    links.ensure_address(link.index, within(node.address, plan.network)).await?;
    links.replace_route(&Route::gateway(Ipv4Net::default().into(), plan.machine.into())).await?;
    if let (Some(net), Some(address)) = (plan.network6, node.address6) {
        links.ensure_address(link.index, within6(address, net.network)).await?;
        links.replace_route(&Route::gateway(Ipv6Net::default().into(), net.machine.into())).await?;
    }
    for sister in plan.nodes.iter().filter(|sister| sister.address != node.address) {
        lead(links, sister.pod_cidr, sister).await?;
    }
    Ok(())
}

fn within(address: Ipv4Addr, network: Ipv4Net) -> IpNet {
    // The prefix length comes from a network, so it is valid.
    IpNet::new(IpAddr::V4(address), network.prefix_len()).unwrap_or_else(|_| IpAddr::V4(address).into())
}

fn within6(address: Ipv6Addr, network: Ipv6Net) -> IpNet {
    IpNet::new(IpAddr::V6(address), network.prefix_len()).unwrap_or_else(|_| IpAddr::V6(address).into())
}

async fn both_families(links: &Links) -> Result<Vec<Route>> {
    let mut routes = links.routes(false).await?;
    routes.extend(links.routes(true).await?);
    Ok(routes)
}
