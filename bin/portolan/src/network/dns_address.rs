//! The addresses of the cluster's DNS on every node: ordinary addresses of the node itself, so that a pod's question never leaves its node.
//!
//! The questions pass by connection tracking, by a table of ours for each family, `portolan-dns`: a flow of two packets is not worth an entry, entries run
//! out under load, and what is not tracked is not translated, so that the proxy's rules for the same address are of no effect here.

use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;
use linux::NetNs;
use netlink::NfTables;
use netlink::links::Links;
use nft::{Base, Batch, Bytes, ChainKind, Family, Field, Hook, Op, Rule, Ruleset, Statement, TableId};

const TABLE: &str = "portolan-dns";
/// `raw`, which comes before connection tracking.
const RAW: i32 = -300;
const PORT: u16 = 53;
const PROTOCOLS: [u8; 2] = [6, 17];

/// Gives the node the addresses, and takes their questions out of connection tracking.
pub async fn serve_on_node(node: &NetNs, addresses: &[IpAddr]) -> Result<()> {
    let links = Links::open(node)?;
    let loopback = links.link("lo").await?;
    let mut batch = Batch::new();
    for address in addresses {
        let own = links.ensure_address(loopback.index, IpNet::from(*address)).await;
        own.with_context(|| format!("cannot give the node {address}"))?;
        batch.push(Op::DeleteTable { table: table(*address), must_exist: false });
        batch.ops.extend(nft::diff(&Ruleset::default(), &ruleset(*address)).ops);
    }
    Ok(NfTables::open(node)?.commit(&batch)?)
}

fn table(address: IpAddr) -> TableId {
    TableId::new(if address.is_ipv4() { Family::Ip } else { Family::Ip6 }, TABLE)
}

fn ruleset(address: IpAddr) -> Ruleset {
    let mut ruleset = Ruleset::default();
    let content = ruleset.tables.entry(table(address)).or_default();
    let (source, destination) = match address {
        IpAddr::V4(_) => (Field::IpSaddr, Field::IpDaddr),
        IpAddr::V6(_) => (Field::Ip6Saddr, Field::Ip6Daddr),
    };
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        let chain = content.chain(name);
        chain.base = Some(Base::new(ChainKind::Filter, hook, RAW));
        for (host, port) in [(destination, Field::ThDport), (source, Field::ThSport)] {
            for protocol in PROTOCOLS {
                chain.rule(Rule::new([
                    Statement::is(host, Bytes::new().ip(address)),
                    Statement::l4proto(protocol),
                    Statement::is(port, Bytes::new().port(PORT)),
                    Statement::Notrack,
                ]));
            }
        }
    }
    ruleset
}
