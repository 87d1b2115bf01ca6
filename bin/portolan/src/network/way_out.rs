//! The way out: what pods send beyond the machine leaves under the machine's own address.
//!
//! One table on the machine, named after the cluster's interface, and forwarding switched on if it was off. Nothing else of the machine
//! is touched, and `down` takes both back.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use linux::NetNs;
use netlink::NfTables;
use netlink::links::Links;
use nft::{Base, Batch, Bytes, ChainKind, Compare, Family, Field, Hook, Op, Rule, Ruleset, Statement, TableId};

/// Names of the machine's interfaces that are ours begin so.
const INTERFACES: &str = "portolan";
/// `srcnat`, where masquerading belongs.
const SRCNAT: i32 = 100;

/// Who goes out, and where it is told from what stays inside.
#[derive(Debug, Clone, Copy)]
pub enum WayOut<'a> {
    /// The nodes are behind an interface of the machine.
    Nodes { interface: &'a str, network: Ipv4Net, pods: Ipv4Net },
    /// The machine is the node.
    Host { pods: Ipv4Net },
}

impl WayOut<'_> {
    fn table(self) -> TableId {
        match self {
            WayOut::Nodes { interface, .. } => TableId::new(Family::Ip, &format!("{interface}-uplink")),
            WayOut::Host { .. } => TableId::new(Family::Ip, "portolan-uplink"),
        }
    }

    fn removal(self) -> Batch {
        let mut batch = Batch::new();
        batch.push(Op::DeleteTable { table: self.table(), must_exist: false });
        batch
    }

    fn ruleset(self) -> Ruleset {
        let mut ruleset = Ruleset::default();
        let content = ruleset.tables.entry(self.table()).or_default();
        let out = content.chain("postrouting");
        out.base = Some(Base::new(ChainKind::Nat, Hook::Postrouting, SRCNAT));
        match self {
            WayOut::Nodes { interface, network, pods } => {
                let interface = || interface_name(interface);
                for from in [pods, network] {
                    let elsewhere = Statement::is_not(Field::Oifname, interface());
                    out.rule(
                        Rule::new([within(Field::IpSaddr, Compare::Eq, from), elsewhere, Statement::masquerade()])
                            .comment("pods and nodes leave under the machine's address"),
                    );
                }
                let forward = content.chain("forward");
                forward.base = Some(Base::new(ChainKind::Filter, Hook::Forward, 0));
                let round = [Field::Iifname, Field::Oifname].map(|field| Statement::is(field, interface()));
                forward.rule(
                    Rule::new(round.into_iter().chain([Statement::drop()]))
                        .comment("an address of no Service would go round between the machine and the node"),
                );
            }
            WayOut::Host { pods } => {
                let leaves = [within(Field::IpSaddr, Compare::Eq, pods), within(Field::IpDaddr, Compare::Ne, pods)];
                out.rule(
                    Rule::new(leaves.into_iter().chain([Statement::masquerade()]))
                        .comment("pods leave under the machine's address"),
                );
            }
        }
        ruleset
    }
}

/// Makes the table anew, in one transaction, and lets the machine forward.
pub fn open_way_out(way: WayOut<'_>) -> Result<()> {
    let machine = NetNs::current()?;
    machine.set_sysctl("net.ipv4.ip_forward", "1")?;
    let mut batch = way.removal();
    batch.ops.extend(nft::diff(&Ruleset::default(), &way.ruleset()).ops);
    Ok(NfTables::open(&machine)?.commit(&batch)?)
}

/// Takes the table away, and forwarding if it was off before and no other cluster of ours is left that needs it.
pub async fn close_way_out(way: WayOut<'_>, forwarding_was_off: bool) -> Result<()> {
    let machine = NetNs::current()?;
    NfTables::open(&machine)?.commit(&way.removal())?;
    let links = Links::open(&machine)?.links().await?;
    if forwarding_was_off && !links.iter().any(|link| link.name.starts_with(INTERFACES)) {
        machine.set_sysctl("net.ipv4.ip_forward", "0")?;
    }
    Ok(())
}

/// Whether the machine forwards nothing by itself.
pub fn forwarding_is_off() -> Result<bool> {
    Ok(NetNs::current()?.sysctl("net.ipv4.ip_forward")? == "0")
}

/// Takes the proxy's table off the machine, where `--host-network` put it.
pub fn remove_service_rules() -> Result<()> {
    let mut batch = Batch::new();
    batch.push(Op::DeleteTable { table: proxy::table_id(), must_exist: false });
    Ok(NfTables::open(&NetNs::current()?)?.commit(&batch)?)
}

/// The machine's address towards the outside: the node's own with `--host-network`.
pub async fn primary_address() -> Result<Ipv4Addr> {
    let links = Links::open(&NetNs::current()?)?;
    let named = links.links().await?;
    let outside = |index: u32| named.iter().any(|link| link.index == index && link.up && link.name != "lo");
    let addresses = links.addresses().await?;
    let mut candidates = addresses.iter().filter(|address| outside(address.index) && address.scope == 0);
    let found = candidates.find_map(|address| match address.address.addr() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    found.context("this machine has no IPv4 address beside its loopback\n  hint: leave out --host-network")
}

/// An interface's name as the kernel compares it: 16 bytes, filled up with zeros.
fn interface_name(name: &str) -> Bytes {
    let mut padded = [0; 16];
    for (place, byte) in padded.iter_mut().zip(name.bytes().take(15)) {
        *place = byte;
    }
    Bytes::from_slice(&padded)
}

fn within(field: Field, op: Compare, network: Ipv4Net) -> Statement {
    Statement::Match {
        field,
        mask: Some(Bytes::new().ip(network.netmask().into())),
        op,
        value: Bytes::new().ip(network.network().into()),
    }
}
