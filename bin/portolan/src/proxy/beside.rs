//! Whether another proxy's rules are active here. They are left alone: whoever runs it has to stop it and to take them away.

use anyhow::Result;
use linux::NetNs;
use netlink::NfTables;
use nft::{Family, TableId};

/// A sentence for each other proxy whose rules are in the namespace.
pub fn others(netns: &NetNs) -> Result<Vec<String>> {
    let mut kernel = NfTables::open(netns)?;
    let tables = kernel.tables()?;
    let mut found = Vec::new();
    for family in [Family::Ip, Family::Ip6] {
        if tables.contains(&TableId::new(family, "kube-proxy")) {
            let table = TableId::new(family, "kube-proxy");
            found.push(format!(
                "kube-proxy's rules are active beside ours: `table {table}`; whichever comes first decides. Stop it and run `kube-proxy --cleanup`"
            ));
        }
        let nat = TableId::new(family, "nat");
        if tables.contains(&nat) && kernel.chains(&nat)?.iter().any(|chain| &**chain == "KUBE-SERVICES") {
            found.push(format!(
                "kube-proxy's iptables rules are active beside ours: chain KUBE-SERVICES in `table {nat}`; whichever comes first decides. Stop it and run `kube-proxy --cleanup`"
            ));
        }
    }
    Ok(found)
}
