//! Pools in a ConfigMap: each key names a pool, its value is a list of ranges, or YAML with the fields of MetalLB's IPAddressPool.
//!
//! A key `config` that holds `address-pools`, as MetalLB was configured before it had custom resources, is read as well.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Pool, PoolError, read_ranges};

/// A pool as YAML; both the spelling of MetalLB's resources and that of its old file are known.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    addresses: Vec<String>,
    #[serde(default, rename = "autoAssign", alias = "auto-assign")]
    auto_assign: Option<bool>,
    #[serde(default, rename = "avoidBuggyIPs", alias = "avoid-buggy-ips")]
    avoid_buggy_ips: Option<bool>,
    #[serde(default)]
    priority: Option<u32>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "serviceAllocation")]
    service_allocation: Option<ServiceAllocation>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceAllocation {
    #[serde(default)]
    priority: Option<u32>,
    #[serde(default)]
    namespaces: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct OldFile {
    #[serde(rename = "address-pools")]
    pools: Vec<Written>,
}

/// What of a ConfigMap's data can be read, and what cannot.
pub fn read(data: &BTreeMap<String, String>) -> (Vec<Pool>, Vec<PoolError>) {
    let (mut pools, mut faults) = (Vec::new(), Vec::new());
    for (key, text) in data {
        for read in one(key, text) {
            match read {
                Ok(pool) => pools.push(pool),
                Err(fault) => faults.push(fault),
            }
        }
    }
    (pools, faults)
}

fn one(key: &str, text: &str) -> Vec<Result<Pool, PoolError>> {
    if !text.contains(':') || !text.contains("addresses") && !text.contains("address-pools") {
        // No YAML mapping: ranges as a flag has them. IPv6 has colons too, so the words decide.
        return vec![read_ranges(key, &lines(text)).and_then(|ranges| Pool::new(key, ranges))];
    }
    let unreadable =
        |error: serde_norway::Error| PoolError::Unreadable { pool: key.to_owned(), why: error.to_string() };
    if text.contains("address-pools") {
        return match serde_norway::from_str::<OldFile>(text) {
            Ok(file) => file.pools.into_iter().map(|pool| pool.read(key)).collect(),
            Err(error) => vec![Err(unreadable(error))],
        };
    }
    vec![serde_norway::from_str::<Written>(text).map_err(unreadable).and_then(|pool| pool.read(key))]
}

/// A YAML list of ranges is lines that begin with a dash.
fn lines(text: &str) -> String {
    text.lines()
        .map(|line| line.trim().trim_start_matches("- ").trim_matches(['"', '\'']))
        .collect::<Vec<_>>()
        .join("\n")
}

impl Written {
    fn read(self, key: &str) -> Result<Pool, PoolError> {
        let name = self.name.unwrap_or_else(|| key.to_owned());
        if self.protocol.is_some_and(|protocol| protocol != "layer2") {
            return Err(PoolError::Protocol { pool: name });
        }
        let ranges = read_ranges(&name, &self.addresses.join("\n"))?;
        let allocation = self.service_allocation;
        let (priority, namespaces) = allocation.map_or((None, Vec::new()), |a| (a.priority, a.namespaces));
        let mut pool = Pool::new(&name, ranges)?;
        pool.auto_assign = self.auto_assign.unwrap_or(true);
        pool.avoid_buggy = self.avoid_buggy_ips.unwrap_or(false);
        // MetalLB: 0 is no priority.
        pool.priority = self.priority.or(priority).filter(|priority| *priority != 0);
        pool.namespaces = self.namespaces.into_iter().chain(namespaces).collect();
        Ok(pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, text: &str) -> String {
        let (pools, faults) = read(&[(key.to_owned(), text.to_owned())].into());
        let pools = pools.iter().map(|p| {
            let only: Vec<&str> = p.namespaces.iter().map(String::as_str).collect();
            format!("{p} auto={} avoid={} priority={:?} for={only:?}", p.auto_assign, p.avoid_buggy, p.priority)
        });
        pools.chain(faults.iter().map(|fault| format!("fault: {fault}"))).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_pool_is_a_list_of_ranges_or_yaml() {
        let plain = "auto=true avoid=false priority=None for=[]";
        assert_eq!(check("a", "10.0.0.1-10.0.0.4"), format!("`a` (10.0.0.1-10.0.0.4) {plain}"));
        assert_eq!(
            check("a", "- 10.0.0.0/30\n- fd00::/126\n"),
            format!("`a` (10.0.0.0-10.0.0.3, fd00::-fd00::3) {plain}")
        );
        let yaml = "addresses: [10.0.0.0/31]\nautoAssign: false\navoidBuggyIPs: true\nserviceAllocation:\n  priority: 5\n  namespaces: [team]\n";
        assert_eq!(check("a", yaml), "`a` (10.0.0.0-10.0.0.1) auto=false avoid=true priority=Some(5) for=[\"team\"]");
    }

    #[test]
    fn the_old_file_of_metallb_is_read() {
        let file = "address-pools:\n- name: one\n  protocol: layer2\n  addresses:\n  - 10.0.0.1-10.0.0.2\n  auto-assign: false\n- name: two\n  protocol: bgp\n  addresses: [10.0.1.0/24]\n";
        let read = check("config", file);
        assert_eq!(
            read,
            "`one` (10.0.0.1-10.0.0.2) auto=false avoid=false priority=None for=[]\n\
             fault: pool `two` is for BGP; this load balancer announces on the link only"
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        assert!(check("a", "ten").starts_with("fault: pool `a`: `ten` is no range of addresses"));
        assert!(
            check("a", "addresses: [10.0.0.1]\nadresses: []")
                .starts_with("fault: pool `a` cannot be read: unknown field `adresses`")
        );
        assert_eq!(check("a", ""), "fault: pool `a` has no addresses");
    }
}
