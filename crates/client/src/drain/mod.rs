//! Drain with acknowledgement: a node agent ends a pod only after everyone who sends to it has stopped.
//!
//! Rolling updates lose connections because a pod is told to end while some proxy still sends to it. Nobody can know from outside when the
//! last sender has stopped; so the senders say it. Each proxy, DNS server, ingress and load balancer has a Lease with the revision up to
//! which it has applied EndpointSlices ([`acknowledge`]). An agent that is about to end a pod writes into a Lease of its own which revision
//! must have been applied, and waits until all have ([`Drains`]). Nobody writes anything while nobody waits, and all of it goes through the
//! Kubernetes API alone, so it works between any of our components on any cluster.

mod acknowledge;
mod patience;
mod wait;

use std::collections::BTreeMap;

use api::selector::LabelSelector;
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;

pub use acknowledge::{Acknowledger, End, acknowledge};
pub use patience::{Patience, Silence};
pub use wait::{Drains, Late, SliceAt};

/// Where all these Leases are.
pub const NAMESPACE: &str = "kube-system";
/// The label that tells them from others, and its values.
const ROLE: &str = "portolan.dev/drain";
const ACKNOWLEDGES: &str = "acknowledges";
const WAITS: &str = "waits";
/// Up to which revision the Lease's holder has applied slices.
const APPLIED: &str = "portolan.dev/applied-revision";
/// Which slices it follows, as a label selector: it never learns of others.
const FOLLOWS: &str = "portolan.dev/follows";
/// What an agent waits for: for each selector of followers the revision, as a JSON object.
const WAITING_FOR: &str = "portolan.dev/waiting-for";

/// What an acknowledging Lease says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    name: String,
    applied: u64,
    follows: String,
    version: String,
}

impl Said {
    fn read(lease: &Lease) -> Option<Said> {
        let annotation = |name: &str| lease.annotations().get(name);
        Some(Said {
            name: lease.spec.as_ref()?.holder_identity.clone()?,
            applied: annotation(APPLIED)?.parse().ok()?,
            follows: annotation(FOLLOWS).cloned().unwrap_or_default(),
            version: lease.resource_version().unwrap_or_default(),
        })
    }

    /// The revision that it has to reach for these slices to be applied; none if it follows none of them.
    fn needs(&self, slices: &[SliceAt]) -> Option<u64> {
        // A selector that cannot be read may mean any slice.
        let selector = LabelSelector::parse(&self.follows).unwrap_or_else(|_| LabelSelector::everything());
        let followed =
            slices.iter().filter(|slice| selector.matches(|label| slice.labels.get(label).map(String::as_str)));
        followed.map(|slice| slice.revision).max()
    }
}

/// What a waiting Lease asks of those who follow slices by `selector`.
fn asked(lease: &Lease, selector: &str) -> u64 {
    let text = lease.annotations().get(WAITING_FOR).map_or("{}", String::as_str);
    let asks: BTreeMap<String, u64> = serde_json::from_str(text).unwrap_or_default();
    asks.get(selector).copied().unwrap_or(0)
}

fn role(role: &str) -> BTreeMap<String, String> {
    [(ROLE.to_owned(), role.to_owned())].into()
}

fn of_role(role: &str) -> kube::runtime::watcher::Config {
    kube::runtime::watcher::Config::default().labels(&format!("{ROLE}={role}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(labels: &[&str], revision: u64) -> SliceAt {
        SliceAt { labels: labels.iter().map(|label| ((*label).to_owned(), String::new())).collect(), revision }
    }

    #[test]
    fn only_slices_that_are_followed_are_waited_for() {
        let said =
            |follows: &str| Said { name: "x".into(), applied: 0, follows: follows.into(), version: String::new() };
        let slices = [slice(&["web"], 5), slice(&["service.kubernetes.io/headless"], 9)];
        assert_eq!(said("").needs(&slices), Some(9));
        assert_eq!(said("!service.kubernetes.io/headless").needs(&slices), Some(5));
        assert_eq!(said("other").needs(&slices), None);
        assert_eq!(said("((").needs(&slices), Some(9));
    }
}
