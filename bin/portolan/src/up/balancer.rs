//! The load balancer of `up`: its pool, its speakers in the nodes' namespaces, and the machine's own way to its addresses.
//!
//! The machine is told where each address is (a neighbour entry, or a route for addresses beyond the nodes' network) rather than left to
//! ask by ARP: so an address answers at once, and goes on answering while no daemon runs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use kube::Client;
use linux::NetNs;
use loadbalancer::pools::{Pool, Range};
use loadbalancer::{Config, Guide, Interfaces, Owners, Speaker};
use netlink::links::{Links, Mac, Route};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::cluster::Made;
use crate::arguments::PoolFlag;
use crate::instance::{Record, Uplink};
use crate::network::UPLINK;

/// What `up` gives to Services when nobody says otherwise.
pub fn pools(flags: &[PoolFlag], record: &Record) -> Vec<String> {
    let named: Vec<String> = flags.iter().filter_map(|flag| flag.pool.as_ref().map(|_| flag.text.clone())).collect();
    // `none` alone gives none.
    if !flags.is_empty() {
        return named;
    }
    let nodes: Vec<Ipv4Addr> = record.nodes.iter().map(|node| node.address).collect();
    let network = record.uplink.as_ref().map_or(HOST_NETWORK_POOL, |uplink| uplink.network);
    let nodes = if record.uplink.is_some() { nodes } else { Vec::new() };
    let v6 = record.uplink.as_ref().and_then(|uplink| uplink.network6).map(|net| default_range6(net.network));
    let ranges: Vec<String> = default_range(network, &nodes).into_iter().chain(v6).collect();
    if ranges.is_empty() { Vec::new() } else { vec![ranges.join(",")] }
}

/// With `--host-network` the machine's own network is not ours to take addresses from; these are for the machine and its pods.
const HOST_NETWORK_POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 94, 0), 24);

/// A part of the nodes' network that no node has: of a /24 the addresses 200 to 250.
fn default_range(network: Ipv4Net, nodes: &[Ipv4Addr]) -> Option<String> {
    let (first, last) = (u32::from(network.network()), u32::from(network.broadcast()));
    let size = last - first;
    let (mut from, to) = if size >= 255 { (last - 55, last - 5) } else { (last - size / 4, last.checked_sub(1)?) };
    from = from.max(nodes.iter().map(|node| u32::from(*node) + 1).max().unwrap_or(from));
    let range = Range::new(Ipv4Addr::from(from).into(), Ipv4Addr::from(to).into()).ok()?;
    Some(range.to_string())
}

/// Nodes have the first addresses of their IPv6 network; 256 beyond them are nobody's.
fn default_range6(network: Ipv6Net) -> String {
    let first = u128::from(network.network()) + 0x1000;
    format!("{}-{}", Ipv6Addr::from(first), Ipv6Addr::from(first + 0xff))
}

/// What the load balancer of a cluster is started with.
pub fn config(made: Made<'_>) -> Result<(Config, Followed)> {
    let read = |text: &String| text.parse::<Pool>().with_context(|| format!("cannot use pool `{text}`"));
    let pools = made.record.load_balancer_pools.iter().map(read).collect::<Result<Vec<_>>>()?;
    let mut config = Config::new(pools);
    let interfaces = match &made.record.uplink {
        Some(_) => Interfaces::Named(vec![UPLINK.to_owned()]),
        // On the machine's own links only what the user named is announced.
        None if made.options.load_balancer_pool.is_empty() => Interfaces::Named(Vec::new()),
        None => Interfaces::Networks,
    };
    let nodes = made.record.nodes.iter().zip(made.namespaces);
    let speaker = |(node, netns): (&crate::instance::NodeRecord, &NetNs)| Speaker {
        node: node.name.clone(),
        netns: netns.clone(),
        interfaces: interfaces.clone(),
    };
    config.speakers = nodes.map(speaker).collect();
    config.reserved = reserved(made.record.uplink.as_ref());
    let ((owners, told), (leads, led)) = (watch::channel(Owners::new()), watch::channel(Owners::new()));
    // Beyond the machine's own network its neighbours find the addresses by themselves.
    config.guide = made.record.uplink.as_ref().map(|_| Guide { owners, led });
    config.acknowledger = Some(loadbalancer::acknowledger("loadbalancer", None));
    Ok((config, Followed { owners: told, led: leads }))
}

fn reserved(uplink: Option<&Uplink>) -> BTreeSet<IpAddr> {
    let v4 = |uplink: &Uplink| [uplink.machine, uplink.network.network(), uplink.network.broadcast()].map(IpAddr::V4);
    let v6 = uplink.and_then(|uplink| uplink.network6).map(|net| IpAddr::V6(net.machine));
    uplink.map(v4).into_iter().flatten().chain(v6).collect()
}

/// Who answers for which address, and where it is said who is led to.
pub struct Followed {
    owners: watch::Receiver<Owners>,
    led: watch::Sender<Owners>,
}

/// Keeps the machine's way to the addresses until `shutdown`. What it made goes with the interface.
pub async fn lead_machine(
    made: Made<'_>,
    followed: Followed,
    shutdown: CancellationToken,
) -> Result<Option<impl Future<Output = ()> + use<>>> {
    let Some(uplink) = made.record.uplink.clone() else { return Ok(None) };
    let machine = Links::open(&NetNs::current()?)?;
    let index = machine.link(&uplink.interface).await?.index;
    let mut nodes = BTreeMap::new();
    for (node, netns) in made.record.nodes.iter().zip(made.namespaces) {
        let mac = Links::open(netns)?.link(UPLINK).await?.mac.context("the node's uplink has no MAC address")?;
        nodes.insert(node.name.clone(), (mac, node.addresses()));
    }
    let networks = [IpNet::V4(uplink.network)].into_iter().chain(uplink.network6.map(|net| IpNet::V6(net.network)));
    let way = Way { machine, index, networks: networks.collect(), nodes };
    Ok(Some(async move {
        shutdown.run_until_cancelled(way.follow(followed)).await;
    }))
}

struct Way {
    machine: Links,
    index: u32,
    networks: Vec<IpNet>,
    nodes: BTreeMap<String, (Mac, Vec<IpAddr>)>,
}

impl Way {
    async fn follow(self, Followed { mut owners, led: told }: Followed) {
        let mut led = Owners::new();
        loop {
            let now = owners.borrow_and_update().clone();
            for (address, node) in now.iter().filter(|(address, node)| led.get(*address) != Some(*node)) {
                self.told(*address, self.lead(*address, node).await);
            }
            for (address, node) in led.iter().filter(|(address, _)| !now.contains_key(*address)) {
                self.told(*address, self.forget(*address, node).await);
            }
            told.send_replace(now.clone());
            led = now;
            if owners.changed().await.is_err() {
                return;
            }
        }
    }

    fn told(&self, address: IpAddr, done: netlink::Result<()>) {
        if let Err(error) = done {
            warn!(%address, error = %telemetry::chain(&error), "the machine may not find a load balancer's address");
        }
    }

    async fn lead(&self, address: IpAddr, node: &str) -> netlink::Result<()> {
        match (self.nodes.get(node), self.route(address, node)) {
            (Some((mac, _)), _) if self.is_neighbour(address) => {
                self.machine.add_neighbour(self.index, address, *mac).await
            }
            (_, Some(route)) => self.machine.replace_route(&route).await,
            (_, None) => Ok(()),
        }
    }

    async fn forget(&self, address: IpAddr, node: &str) -> netlink::Result<()> {
        match self.route(address, node) {
            _ if self.is_neighbour(address) => self.machine.delete_neighbour(self.index, address).await.map(drop),
            Some(route) => self.machine.delete_route(&route).await.map(drop),
            None => Ok(()),
        }
    }

    /// The way to an address beyond the nodes' network. A node of one family cannot lead to an address of the other.
    fn route(&self, address: IpAddr, node: &str) -> Option<Route> {
        let (_, by) = self.nodes.get(node)?;
        let by = by.iter().find(|by| by.is_ipv4() == address.is_ipv4())?;
        Some(Route::gateway(IpNet::from(address), *by))
    }

    fn is_neighbour(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// The load balancer with the machine's way to it, as one component.
pub async fn run(
    config: Config,
    client: Client,
    way: Option<impl Future<Output = ()>>,
    shutdown: CancellationToken,
) -> Result<(), loadbalancer::Error> {
    let way = async {
        if let Some(way) = way {
            way.await;
        }
    };
    tokio::join!(loadbalancer::run(config, client, shutdown), way).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_pool_is_what_no_node_has() {
        let range = |network: &str, nodes: &[&str]| {
            let nodes: Vec<Ipv4Addr> = nodes.iter().map(|node| node.parse().unwrap()).collect();
            default_range(network.parse().unwrap(), &nodes)
        };
        assert_eq!(range("192.168.94.0/24", &["192.168.94.2"]).as_deref(), Some("192.168.94.200-192.168.94.250"));
        assert_eq!(range("10.0.0.0/16", &["10.0.0.2"]).as_deref(), Some("10.0.255.200-10.0.255.250"));
        assert_eq!(range("10.0.0.0/28", &["10.0.0.2"]).as_deref(), Some("10.0.0.12-10.0.0.14"));
        assert_eq!(range("10.0.0.0/28", &["10.0.0.2", "10.0.0.13"]).as_deref(), Some("10.0.0.14"));
        assert_eq!(range("10.0.0.0/28", &["10.0.0.14"]), None);
    }
}
