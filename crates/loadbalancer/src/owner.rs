//! Which node answers for an address: a pure function that every speaker computes alike.
//!
//! The holder of the address's Lease answers for as long as it may and lives; when it does not, the first of the candidates takes the Lease.
//! A node that returns takes nothing back: moving an address breaks its connections, so it moves only when it must.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What of a node matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeFacts {
    pub ready: bool,
    /// `node.kubernetes.io/exclude-from-external-load-balancers`, or on its way out.
    pub excluded: bool,
}

/// Where the endpoints of a Service are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    pub ready: BTreeSet<String>,
    /// Terminating and still serving.
    pub draining: BTreeSet<String>,
}

/// What one Service demands of the node that answers for its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// externalTrafficPolicy Cluster: any node reaches the endpoints.
    Any,
    /// externalTrafficPolicy Local: only nodes that have an endpoint.
    Local(Places),
}

/// The nodes that may answer for an address, the best first. `live` are the nodes whose speaker is alive.
///
/// Several demands are those of the Services that share it; a node that serves all of them comes first, one that serves some is better
/// than none.
pub fn candidates(
    address: IpAddr,
    demands: &[Demand],
    nodes: &BTreeMap<String, NodeFacts>,
    live: &BTreeSet<String>,
) -> Vec<String> {
    let usable = |name: &&String| nodes.get(*name).is_some_and(|node| !node.excluded);
    let alive: Vec<&String> = live.iter().filter(usable).collect();
    // Readiness decides only where it tells nodes apart: when the control plane has lost sight of all of them, traffic goes on.
    let is_ready = |name: &&String| nodes.get(*name).is_some_and(|node| node.ready);
    let some_ready = alive.iter().any(is_ready);
    let alive = alive.into_iter().filter(|name| !some_ready || is_ready(name));
    let served = |name: &str| demands.iter().filter(|demand| demand.is_met_by(name)).count();
    let mut ranked: Vec<(usize, u64, &String)> =
        alive.map(|name| (served(name), weight(name, address), name)).filter(|(served, ..)| *served > 0).collect();
    ranked.sort_by_key(|(served, weight, name)| (Reverse(*served), Reverse(*weight), *name));
    let most = ranked.first().map_or(0, |(served, ..)| *served);
    ranked.into_iter().filter(|(served, ..)| *served == most).map(|(_, _, name)| name.clone()).collect()
}

impl Demand {
    fn is_met_by(&self, node: &str) -> bool {
        match self {
            Demand::Any => true,
            // As the proxy has it: what drains is used when nothing is ready, here by node as the policy is local.
            Demand::Local(places) if places.ready.is_empty() => places.draining.contains(node),
            Demand::Local(places) => places.ready.contains(node),
        }
    }
}

/// What a speaker does about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is ours: answer.
    Answer,
    /// Nobody holds it who may: take the Lease.
    Take,
    /// It is another's, or nobody's.
    Silent,
}

/// Decides for the speaker of `me`. A holder that may no longer answer goes on until another has taken over.
pub fn step(me: &str, holder: Option<&str>, candidates: &[String]) -> Step {
    let holds = |name: &str| candidates.iter().any(|candidate| candidate == name);
    match holder {
        Some(holder) if holds(holder) => {
            if holder == me {
                Step::Answer
            } else {
                Step::Silent
            }
        }
        Some(_) | None => match candidates.first() {
            Some(first) if first == me => Step::Take,
            // With nobody to take over, policy Local answers nowhere.
            Some(_) if holder == Some(me) => Step::Answer,
            Some(_) | None => Step::Silent,
        },
    }
}

/// Rendezvous hashing spreads addresses over nodes, and moves none but a lost node's. FNV-1a with a final mix: any process of any version
/// must compute the same.
fn weight(node: &str, address: IpAddr) -> u64 {
    let text = format!("{node}#{address}");
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let mut hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: NodeFacts = NodeFacts { ready: true, excluded: false };

    fn names(text: &str) -> BTreeSet<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn local(ready: &str, draining: &str) -> Demand {
        Demand::Local(Places { ready: names(ready), draining: names(draining) })
    }

    fn address() -> IpAddr {
        "10.0.0.1".parse().unwrap()
    }

    fn sorted(demands: &[Demand], nodes: &[(&str, NodeFacts)], live: &str) -> String {
        let nodes = nodes.iter().map(|(name, facts)| ((*name).to_owned(), *facts)).collect();
        let mut found = candidates(address(), demands, &nodes, &names(live));
        found.sort();
        found.join(" ")
    }

    #[test]
    fn who_may_answer() {
        let all = &[("a", READY), ("b", READY), ("c", READY)];
        assert_eq!(sorted(&[Demand::Any], all, "a b c"), "a b c");
        assert_eq!(sorted(&[Demand::Any], all, "b"), "b");
        assert_eq!(sorted(&[Demand::Any], all, "b gone"), "b", "a speaker without a Node object does not count");
        assert_eq!(sorted(&[local("a c", "b")], all, "a b c"), "a c");
        assert_eq!(sorted(&[local("", "b")], all, "a b c"), "b", "what drains serves when nothing is ready");
        assert_eq!(sorted(&[local("a", "b")], all, "b c"), "", "ready elsewhere, but nobody alive there");
        assert_eq!(sorted(&[local("", "")], all, "a b c"), "");
        assert_eq!(sorted(&[local("a b", ""), local("b c", "")], all, "a b c"), "b", "the one that serves both");
        assert_eq!(sorted(&[local("a", ""), local("", "")], all, "a b c"), "a");
        let mixed =
            &[("a", READY), ("b", NodeFacts { ready: false, ..READY }), ("c", NodeFacts { excluded: true, ..READY })];
        assert_eq!(sorted(&[Demand::Any], mixed, "a b c"), "a");
        assert_eq!(sorted(&[Demand::Any], mixed, "b c"), "b", "readiness decides only between nodes");
    }

    #[test]
    fn an_address_moves_only_when_it_must() {
        let candidates = ["b".to_owned(), "a".to_owned()];
        assert_eq!(step("a", Some("a"), &candidates), Step::Answer, "not the first, but the holder");
        assert_eq!(step("b", Some("a"), &candidates), Step::Silent);
        assert_eq!(step("b", Some("dead"), &candidates), Step::Take);
        assert_eq!(step("a", Some("dead"), &candidates), Step::Silent);
        assert_eq!(step("b", None, &candidates), Step::Take);
        assert_eq!(step("old", Some("old"), &candidates), Step::Answer, "until another has taken over");
        assert_eq!(step("old", Some("old"), &[]), Step::Silent);
    }

    #[test]
    fn a_lost_node_moves_only_its_own_addresses() {
        let nodes: BTreeMap<String, NodeFacts> = ["a", "b", "c"].map(|name| (name.to_owned(), READY)).into();
        let first =
            |address: IpAddr, live: &str| candidates(address, &[Demand::Any], &nodes, &names(live)).swap_remove(0);
        let mut of_each: BTreeMap<String, u32> = BTreeMap::new();
        for last in 1..=240 {
            let address = IpAddr::from([10, 0, 0, last]);
            let owner = first(address, "a b c");
            if owner != "b" {
                assert_eq!(first(address, "a c"), owner);
            }
            *of_each.entry(owner).or_default() += 1;
        }
        assert!(of_each.values().all(|count| (50..=110).contains(count)), "{of_each:?}");
    }
}
