//! The Leases of the load balancer, as values: one for each address, held by the node that answers for it, and one for each speaker, by
//! which the others know that it lives.
//!
//! An address's Lease is written only when the address moves; its holder's life is told by the speaker's own Lease. So a thousand addresses
//! cost no more writes than one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

/// What a Lease of ours is for.
pub const ROLE: &str = "portolan.dev/loadbalancer";
pub const ADDRESS: &str = "address";
pub const SPEAKER: &str = "speaker";
/// The address of an address's Lease; its name cannot hold colons.
const ADDRESS_ANNOTATION: &str = "portolan.dev/address";

/// While another speaker could take over, a Lease is renewed this often …
pub const BRISK: Duration = Duration::from_millis(500);
/// … and promises to be renewed within this.
pub const BRISK_SECONDS: i32 = 1;
/// A speaker that is alone, or has nothing to answer for, renews rarely.
pub const CALM: Duration = Duration::from_secs(10);
pub const CALM_SECONDS: i32 = 15;
/// A renewal may be this late beyond what was promised: a busy machine is not a dead one.
const LATE: Duration = Duration::from_millis(500);

/// What is kept of a Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    Address { address: IpAddr, holder: Option<String>, version: String },
    Speaker { node: String, promised: Duration, seen: Seen },
}

/// When a renewal was heard of, by our own clock: a node whose clock is wrong is not dead. Two facts are the same whenever they were heard.
#[derive(Debug, Clone, Copy)]
pub struct Seen(pub Instant);

impl PartialEq for Seen {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Seen {}

impl Fact {
    pub fn read(lease: &Lease) -> Option<Fact> {
        let spec = lease.spec.clone().unwrap_or_default();
        let version = lease.resource_version().unwrap_or_default();
        let holder = spec.holder_identity.filter(|holder| !holder.is_empty());
        match lease.labels().get(ROLE).map(String::as_str) {
            Some(ADDRESS) => {
                let address = lease.annotations().get(ADDRESS_ANNOTATION)?.parse().ok()?;
                Some(Fact::Address { address, holder, version })
            }
            Some(SPEAKER) => {
                let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(1);
                let promised = Duration::from_secs(seconds);
                Some(Fact::Speaker { node: holder?, promised, seen: Seen(Instant::now()) })
            }
            Some(_) | None => None,
        }
    }
}

/// When a speaker counts as dead if nothing is heard of it.
pub fn dies_at(promised: Duration, seen: Seen) -> Instant {
    seen.0 + promised + LATE
}

pub fn address_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("loadbalancer-{}", address.to_string().replace('.', "-")),
        // Written out: a shortened one may begin or end with what a name must not.
        IpAddr::V6(address) => {
            let parts: Vec<String> = address.segments().iter().map(|part| format!("{part:x}")).collect();
            format!("loadbalancer-{}", parts.join("-"))
        }
    }
}

pub fn speaker_name(node: &str) -> String {
    format!("loadbalancer-speaker-{node}")
}

/// An address's Lease as its new holder writes it; `version` is that of the Lease it replaces.
pub fn of_address(namespace: &str, address: IpAddr, node: &str, version: Option<&str>) -> Lease {
    let now = Some(MicroTime(Timestamp::now()));
    Lease {
        metadata: ObjectMeta {
            name: Some(address_name(address)),
            namespace: Some(namespace.to_owned()),
            labels: Some(role(ADDRESS)),
            annotations: Some([(ADDRESS_ANNOTATION.to_owned(), address.to_string())].into()),
            resource_version: version.map(str::to_owned),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            acquire_time: now.clone(),
            renew_time: now,
            ..LeaseSpec::default()
        }),
    }
}

/// A speaker's Lease as it renews it.
pub fn of_speaker(namespace: &str, node: &str, promised_seconds: i32) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(speaker_name(node)),
            namespace: Some(namespace.to_owned()),
            labels: Some(role(SPEAKER)),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(promised_seconds),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    }
}

fn role(role: &str) -> BTreeMap<String, String> {
    [(ROLE.to_owned(), role.to_owned())].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_names_and_facts_are_read_back() {
        assert_eq!(address_name("10.0.0.1".parse().unwrap()), "loadbalancer-10-0-0-1");
        assert_eq!(address_name("fd00::".parse().unwrap()), "loadbalancer-fd00-0-0-0-0-0-0-0");
        let address = "fd00::1".parse().unwrap();
        let fact = Fact::read(&of_address("kube-system", address, "a", Some("7")));
        let expected = Fact::Address { address, holder: Some("a".into()), version: "7".into() };
        assert_eq!(fact, Some(expected));
        let Some(Fact::Speaker { node, promised, .. }) = Fact::read(&of_speaker("kube-system", "a", 1)) else {
            panic!()
        };
        assert_eq!((node.as_str(), promised), ("a", Duration::from_secs(1)));
        assert_eq!(Fact::read(&Lease::default()), None);
    }
}
