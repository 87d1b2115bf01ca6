//! Whether the machine's own firewall lets through what it forwards. Docker's and ufw's drop it unless a rule says otherwise: then pods do not
//! reach the outside, nor the outside them, and nothing else would say why.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use linux::NetNs;
use netlink::NfTables;
use nft::{Expr, Family, Hook, Policy, TableId};

use crate::terminal;

/// Warns of a chain that drops by policy what is forwarded, in whose table no rule knows the nodes' link. What cannot be read is no reason to
/// stop: the rules may be of a kind that we do not know.
pub fn check(interface: &str, dual_stack: bool) {
    let concerns = |table: &TableId| dual_stack || table.family != Family::Ip6;
    for (table, chain) in closed(interface).unwrap_or_default().into_iter().filter(|(table, _)| concerns(table)) {
        terminal::warn(&anyhow!(
            "this machine's firewall drops what it forwards (chain {chain} of table {table}): pods may not reach the outside, nor the outside them\n  \
             hint: {}",
            opened(&table, &chain, interface)
        ));
    }
}

fn closed(interface: &str) -> Result<Vec<(TableId, Arc<str>)>> {
    let mut nftables = NfTables::open(&NetNs::current()?)?;
    let mut found = Vec::new();
    for table in nftables.tables()? {
        let mut chains = nftables.base_chains(&table)?;
        chains.retain(|(_, base)| base.hook == Hook::Forward && base.policy == Policy::Drop);
        if !chains.is_empty() && !nftables.expressions(&table)?.iter().any(|expression| names(expression, interface)) {
            found.extend(chains.into_iter().map(|(chain, _)| (table.clone(), chain)));
        }
    }
    Ok(found)
}

/// Whether it compares with the interface's name, or with how that begins: then the end of the text is not compared.
fn names(expression: &Expr, interface: &str) -> bool {
    let Expr::Cmp { value, .. } = expression else { return false };
    let value = value.as_slice();
    match value.split(|byte| *byte == 0).next() {
        Some(name) if name.len() < value.len() => name == interface.as_bytes(),
        Some(prefix) => prefix.len() > 3 && interface.as_bytes().starts_with(prefix),
        None => false,
    }
}

/// The commands that open it, in the language of who made the chain.
fn opened(table: &TableId, chain: &str, interface: &str) -> String {
    let is_iptables = &*table.name == "filter" && chain == "FORWARD";
    let way = |iptables: &str, nft: &str| match table.family {
        Family::Ip if is_iptables => format!("`iptables -I {chain} {iptables} {interface} -j ACCEPT`"),
        Family::Ip6 if is_iptables => format!("`ip6tables -I {chain} {iptables} {interface} -j ACCEPT`"),
        Family::Ip | Family::Ip6 | Family::Inet => {
            format!("`nft insert rule {table} {chain} {nft} {interface} accept`")
        }
    };
    format!("{} and {}", way("-i", "iifname"), way("-o", "oifname"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_named_whole_or_by_its_beginning() {
        let compared = |value: &[u8]| {
            let value = nft::Bytes::from_slice(value);
            Expr::Cmp { sreg: 8, op: nft::Compare::Eq, len: value.len() as u8, value }
        };
        assert!(names(&compared(b"portolan0\0"), "portolan0"));
        assert!(names(&compared(b"portolan0\0\0\0\0\0\0\0"), "portolan0"));
        assert!(names(&compared(b"porto"), "portolan0"));
        assert!(!names(&compared(b"porto\0"), "portolan0"));
        assert!(!names(&compared(b"docker0\0"), "portolan0"));
        assert!(!names(&compared(b"\0\0\0\0"), "portolan0"));
    }

    #[test]
    fn a_chain_is_opened_by_who_made_it() {
        let table = |family, name: &str| TableId { family, name: name.into() };
        let iptables = opened(&table(Family::Ip, "filter"), "FORWARD", "portolan0");
        assert!(iptables.starts_with("`iptables -I FORWARD -i portolan0 -j ACCEPT`"), "{iptables}");
        let nft = opened(&table(Family::Inet, "firewall"), "forward", "portolan0");
        assert!(nft.ends_with("`nft insert rule inet firewall forward oifname portolan0 accept`"), "{nft}");
    }
}
