//! Who has which address, protocol and port. Two Services may ask for the same; one gets it, always the same one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

use crate::names::{ObjectKey, Protocol};

/// Where packets arrive: an address, a protocol and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    pub address: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => write!(f, "{address}:{}/{}", self.port, self.protocol),
            IpAddr::V6(address) => write!(f, "[{address}]:{}/{}", self.port, self.protocol),
        }
    }
}

/// How strong a claim is; the least wins: a cluster IP before any other address, then the older Service, then its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    pub rank: u8,
    pub created: i64,
    pub service: ObjectKey,
}

/// All claims. Nearly every frontend has one claimant, so that case costs no set of its own.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    owners: HashMap<FrontendKey, Claim>,
    contested: BTreeMap<FrontendKey, BTreeSet<Claim>>,
}

impl Claims {
    /// The Service that has a frontend.
    pub fn owner(&self, frontend: &FrontendKey) -> Option<&ObjectKey> {
        self.owners.get(frontend).map(|claim| &claim.service)
    }

    /// Adds a claim. Gives the other claimants if the frontend has another owner by it: one has lost it, and what the others are told of
    /// who has it is not true any more.
    pub fn add(&mut self, frontend: FrontendKey, claim: Claim) -> Vec<ObjectKey> {
        let Some(owner) = self.owners.get_mut(&frontend) else {
            self.owners.insert(frontend, claim);
            return Vec::new();
        };
        if *owner == claim {
            return Vec::new();
        }
        let all = self.contested.entry(frontend).or_insert_with(|| BTreeSet::from([owner.clone()]));
        all.insert(claim.clone());
        if claim >= *owner {
            return Vec::new();
        }
        let before = std::mem::replace(owner, claim);
        if before.service == owner.service { Vec::new() } else { claimants(all) }
    }

    /// Takes a claim back. Gives those that still claim the frontend if it has another owner by it.
    pub fn remove(&mut self, frontend: FrontendKey, claim: &Claim) -> Vec<ObjectKey> {
        let Some(all) = self.contested.get_mut(&frontend) else {
            if self.owners.get(&frontend) == Some(claim) {
                self.owners.remove(&frontend);
            }
            return Vec::new();
        };
        all.remove(claim);
        let (next, others) = (all.first().cloned(), claimants(all));
        if all.len() <= 1 {
            self.contested.remove(&frontend);
        }
        let Some(next) = next else {
            self.owners.remove(&frontend);
            return Vec::new();
        };
        let before = self.owners.insert(frontend, next.clone());
        if before.is_some_and(|before| before.service == next.service) { Vec::new() } else { others }
    }
}

fn claimants(all: &BTreeSet<Claim>) -> Vec<ObjectKey> {
    all.iter().map(|claim| claim.service.clone()).collect()
}
