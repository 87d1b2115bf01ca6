//! Pools of addresses: what the administrator gave, by flag or ConfigMap, and which of it a Service may have.
//!
//! Pure: text in, values and faults out. A pool that cannot be read is left out and named; the others go on.

mod address;
mod config_map;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use service_model::Family;
use thiserror::Error;

pub use address::{Range, RangeError};

/// The pool's name when a flag gives none.
pub const DEFAULT: &str = "default";

/// A named set of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    pub name: String,
    pub ranges: Vec<Range>,
    /// Whether Services that ask for nothing get addresses of it.
    pub auto_assign: bool,
    /// Leaves out addresses that end in 0 or 255, which some routers drop.
    pub avoid_buggy: bool,
    /// Smaller is tried first; none comes last.
    pub priority: Option<u32>,
    /// Only Services of these namespaces; empty: of all.
    pub namespaces: BTreeSet<String>,
}

/// Why a pool is left out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PoolError {
    #[error("pool `{pool}`: {source}")]
    Range { pool: String, source: RangeError },
    #[error("pool `{0}` has no addresses")]
    Empty(String),
    #[error("pool `{pool}` cannot be read: {why}")]
    Unreadable { pool: String, why: String },
    #[error("pool `{pool}` is for BGP; this load balancer announces on the link only")]
    Protocol { pool: String },
    #[error("pool `{pool}` and pool `{other}` share addresses ({range}); `{pool}` is left out")]
    Overlap { pool: String, other: String, range: Range },
    #[error("`{0}` is no pool name\n  hint: letters, digits, `-` and `.`")]
    Name(String),
}

impl Pool {
    pub fn new(name: &str, ranges: Vec<Range>) -> Result<Pool, PoolError> {
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if name.is_empty() || !name.chars().all(fine) {
            return Err(PoolError::Name(name.to_owned()));
        }
        if ranges.is_empty() {
            return Err(PoolError::Empty(name.to_owned()));
        }
        Ok(Pool {
            name: name.to_owned(),
            ranges,
            auto_assign: true,
            avoid_buggy: false,
            priority: None,
            namespaces: BTreeSet::new(),
        })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address)) && !(self.avoid_buggy && buggy(address))
    }

    /// All addresses of a family, in order.
    pub fn addresses(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        let ranges = self.ranges.iter().filter(move |range| range.family() == family);
        ranges.flat_map(Range::addresses).filter(|address| !(self.avoid_buggy && buggy(*address)))
    }

    /// How many addresses of a family it was given.
    pub fn count(&self, family: Family) -> u128 {
        let ranges = self.ranges.iter().filter(|range| range.family() == family);
        ranges.map(Range::count).fold(0, u128::saturating_add)
    }

    pub fn has(&self, family: Family) -> bool {
        self.ranges.iter().any(|range| range.family() == family)
    }

    pub fn is_for(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(namespace)
    }
}

/// As `portolan status` and messages name it: `default (10.0.0.1-10.0.0.9)`.
impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges: Vec<String> = self.ranges.iter().map(Range::to_string).collect();
        write!(f, "`{}` ({})", self.name, ranges.join(", "))
    }
}

/// As a flag gives it: `RANGE[,RANGE…]`, or with a name, `NAME=RANGE[,RANGE…]`.
impl FromStr for Pool {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Pool, PoolError> {
        let (name, ranges) = text.split_once('=').unwrap_or((DEFAULT, text));
        let name = name.trim();
        Pool::new(name, read_ranges(name, ranges)?)
    }
}

/// Ranges apart by commas, blanks or lines. A dash may have blanks around it.
fn read_ranges(pool: &str, text: &str) -> Result<Vec<Range>, PoolError> {
    let mut ranges: Vec<Range> = Vec::new();
    for part in text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty()) {
        let range = part.parse().map_err(|source| PoolError::Range { pool: pool.to_owned(), source })?;
        // Twice the same would be counted twice and handed out once.
        if ranges.iter().all(|known| !known.overlaps(&range)) {
            ranges.push(range);
        }
    }
    Ok(ranges)
}

fn buggy(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if matches!(v4.octets()[3], 0 | 255))
}

/// All pools, none of which shares an address with another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pools {
    pools: BTreeMap<String, Pool>,
}

impl Pools {
    /// Joins what flags and ConfigMap gave; a flag's pool wins over one of the same name or with the same addresses.
    pub fn join(flags: &[Pool], config: Vec<Pool>) -> (Pools, Vec<PoolError>) {
        let (mut pools, mut faults) = (Pools::default(), Vec::new());
        for pool in flags.iter().cloned().chain(config) {
            match pools.clash(&pool) {
                Some(fault) => faults.push(fault),
                None => {
                    pools.pools.entry(pool.name.clone()).or_insert(pool);
                }
            }
        }
        (pools, faults)
    }

    fn clash(&self, new: &Pool) -> Option<PoolError> {
        self.pools.values().find_map(|known| {
            let mut pairs = new.ranges.iter().flat_map(|n| known.ranges.iter().map(move |k| (n, k)));
            let (range, _) = pairs.find(|(n, k)| n.overlaps(k))?;
            Some(PoolError::Overlap { pool: new.name.clone(), other: known.name.clone(), range: *range })
        })
    }

    /// Reads a ConfigMap's data, a pool a key; see [`config_map::read`].
    pub fn read_config_map(data: &BTreeMap<String, String>) -> (Vec<Pool>, Vec<PoolError>) {
        config_map::read(data)
    }

    pub fn get(&self, name: &str) -> Option<&Pool> {
        self.pools.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Pool> {
        self.pools.values()
    }

    pub fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    pub fn holding(&self, address: IpAddr) -> Option<&Pool> {
        self.pools.values().find(|pool| pool.contains(address))
    }

    /// Those that hand out addresses unasked to Services of a namespace: its own first, then by priority and name.
    pub fn automatic(&self, namespace: &str) -> Vec<&Pool> {
        let mut pools: Vec<&Pool> = self.iter().filter(|pool| pool.auto_assign && pool.is_for(namespace)).collect();
        pools.sort_by_key(|pool| (pool.namespaces.is_empty(), pool.priority.unwrap_or(u32::MAX), &pool.name));
        pools
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_name_pools_or_the_default_one() {
        let pool: Pool = "10.0.0.0/30,fd00::1-fd00::4".parse().unwrap();
        assert_eq!(pool.to_string(), "`default` (10.0.0.0-10.0.0.3, fd00::1-fd00::4)");
        assert_eq!((pool.count(Family::V4), pool.count(Family::V6)), (4, 4));
        let named: Pool = "office = 10.1.0.5".parse().unwrap();
        assert_eq!(named.name, "office");
        assert_eq!("a b=10.0.0.1".parse::<Pool>(), Err(PoolError::Name("a b".into())));
        assert_eq!("x=".parse::<Pool>(), Err(PoolError::Empty("x".into())));
        assert!(matches!("x=10.0.0.300".parse::<Pool>(), Err(PoolError::Range { .. })));
    }

    #[test]
    fn pools_that_share_addresses_are_refused_by_name() {
        let flag: Pool = "a=10.0.0.0/28".parse().unwrap();
        let (pools, faults) =
            Pools::join(&[flag], vec!["b=10.0.0.8-10.0.0.20".parse().unwrap(), "c=10.0.1.1".parse().unwrap()]);
        assert_eq!(pools.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["pool `b` and pool `a` share addresses (10.0.0.8-10.0.0.20); `b` is left out"]);
    }

    #[test]
    fn a_namespaces_own_pool_comes_first_then_priority() {
        let mut own: Pool = "z=10.0.0.1".parse().unwrap();
        own.namespaces.insert("team".into());
        let mut first: Pool = "y=10.0.0.2".parse().unwrap();
        first.priority = Some(1);
        let mut manual: Pool = "m=10.0.0.4".parse().unwrap();
        manual.auto_assign = false;
        let (pools, _) = Pools::join(&[own, first, manual, "a=10.0.0.3".parse().unwrap()], Vec::new());
        let names = |namespace| pools.automatic(namespace).iter().map(|p| p.name.clone()).collect::<Vec<_>>();
        assert_eq!(names("team"), ["z", "y", "a"]);
        assert_eq!(names("other"), ["y", "a"]);
    }
}
