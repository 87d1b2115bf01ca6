//! ServiceCIDRs that come and go while the server runs: each adds a range to allocate from, and stays until its addresses have gone.
//!
//! The one named `kubernetes` is the server's own range; it is always in use and has no finalizer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};
use store::RangeOptions;

use super::ranges::AddressRange;
use super::{Allocator, address_kind, address_of_key, lock};
use crate::Server;
use crate::fault::Outcome;
use crate::kinds::{Kind, find};
use crate::object;
use crate::update::{Part, update};
use crate::write::WriteOptions;

pub(crate) const OWN: &str = "kubernetes";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// A range that waits for its addresses to go is looked at again after so long.
const AGAIN: Duration = Duration::from_secs(1);
const BUSY: &str =
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";

/// What is to be done about one ServiceCIDR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Nothing,
    /// It can be allocated from: say so, and hold it until its addresses have gone.
    Ready,
    /// It is to go and cannot yet.
    Busy,
    Release,
}

/// Follows the ServiceCIDRs until the server stops.
pub(crate) fn follow(server: &Arc<Server>) {
    let (shutdown, server) = (server.shutdown.clone(), Arc::downgrade(server));
    tokio::spawn(async move {
        let Some(kind) = find("networking.k8s.io", "v1", "servicecidrs") else { return };
        loop {
            let Some(alive) = server.upgrade() else { return };
            let Ok(mut watch) = alive.store.watch(&object::prefix(kind, ""), alive.store.revision()) else { return };
            let waiting = settle(&alive, kind).await.unwrap_or_else(|fault| {
                tracing::warn!(message = fault.0.message, "ServiceCIDRs could not be settled");
                true
            });
            drop(alive);
            let pause = if waiting { AGAIN } else { Duration::MAX };
            tokio::select! {
                // A change, the end of history or a pause: whichever it was, all is read again.
                _ = watch.next() => {}
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
        }
    });
}

/// One round; true when something waits for addresses to go.
async fn settle(server: &Server, kind: &'static Kind) -> Outcome<bool> {
    let entries = server.store.range(&object::prefix(kind, ""), RangeOptions::default())?.entries;
    let all = entries.iter().map(|entry| object::decode(kind, &entry.value)).collect::<Outcome<Vec<Value>>>()?;
    let live: Vec<IpNet> = all.iter().filter(|cidr| !object::is_deleting(cidr)).flat_map(nets).collect();
    let used = used(server)?;
    server.allocate.set_ranges(&server.config.service_cidrs, &live, &used);
    let mut waiting = false;
    for cidr in &all {
        let step = decide(cidr, &live, &used);
        waiting |= step == Step::Busy;
        carry_out(server, kind, cidr, step).await?;
    }
    Ok(waiting)
}

fn nets(cidr: &Value) -> Vec<IpNet> {
    let texts = cidr["spec"]["cidrs"].as_array().into_iter().flatten();
    texts.filter_map(|text| text.as_str()?.parse().ok()).collect()
}

/// The addresses that someone holds.
fn used(server: &Server) -> Outcome<Vec<IpAddr>> {
    let Some(kind) = address_kind() else { return Ok(Vec::new()) };
    let entries = server.store.range(&object::prefix(kind, ""), RangeOptions::default())?.entries;
    Ok(entries.iter().filter_map(|entry| address_of_key(&entry.key)).collect())
}

fn decide(cidr: &Value, live: &[IpNet], used: &[IpAddr]) -> Step {
    if object::name(cidr) == OWN {
        return Step::Nothing;
    }
    let held = cidr["metadata"]["finalizers"].as_array().is_some_and(|all| all.iter().any(|one| one == FINALIZER));
    let condition = cidr["status"]["conditions"]
        .as_array()
        .and_then(|all| all.iter().find(|one| one["type"] == "Ready"))
        .and_then(|ready| ready["status"].as_str());
    if !object::is_deleting(cidr) {
        return if held && condition == Some("True") { Step::Nothing } else { Step::Ready };
    }
    let nets = nets(cidr);
    let left = |address: &IpAddr| {
        nets.iter().any(|net| net.contains(address)) && !live.iter().any(|net| net.contains(address))
    };
    match (held, used.iter().any(left)) {
        (false, _) => Step::Nothing,
        (true, true) => Step::Busy,
        (true, false) => Step::Release,
    }
}

async fn carry_out(server: &Server, kind: &'static Kind, cidr: &Value, step: Step) -> Outcome<()> {
    let edit = |old: &Value| {
        let mut new = old.clone();
        match step {
            Step::Nothing => {}
            Step::Ready => {
                hold(&mut new);
                say(&mut new, "True", "", "Kubernetes Service CIDR is ready");
            }
            Step::Busy => say(&mut new, "False", "Terminating", BUSY),
            Step::Release => {
                if let Some(all) = new["metadata"]["finalizers"].as_array_mut() {
                    all.retain(|one| one != FINALIZER);
                }
            }
        }
        Ok(new)
    };
    if step == Step::Nothing {
        return Ok(());
    }
    match update(server, kind, ("", object::name(cidr)), Part::Own("status"), &edit, &WriteOptions::own()).await {
        Ok(_) => Ok(()),
        Err(fault) if fault.is("NotFound") => Ok(()),
        Err(fault) => Err(fault),
    }
}

fn hold(cidr: &mut Value) {
    let mut all = cidr["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    if !all.iter().any(|one| one == FINALIZER) {
        all.push(FINALIZER.into());
        object::set_meta(cidr, "finalizers", all);
    }
}

/// Sets the condition, and its time when its status moves.
fn say(cidr: &mut Value, status: &str, reason: &str, message: &str) {
    let mut all = cidr["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let before = all.iter().position(|one| one["type"] == "Ready").map(|at| all.remove(at));
    let since = before
        .filter(|one| one["status"] == status)
        .map_or_else(|| object::now().into(), |one| one["lastTransitionTime"].clone());
    all.push(json!({
        "type": "Ready", "status": status, "lastTransitionTime": since, "reason": reason, "message": message,
    }));
    cidr["status"]["conditions"] = all.into();
}

impl Allocator {
    /// Makes the ranges those of the configuration and of the live ServiceCIDRs. What is taken stays taken in all of them.
    fn set_ranges(&self, own: &[IpNet], live: &[IpNet], used: &[IpAddr]) {
        let mut ranges = lock(&self.ranges);
        let wanted = |net: &IpNet| own.contains(net) || live.contains(net);
        for net in live {
            if ranges.addresses.iter().any(|range| range.net == *net) {
                continue;
            }
            let mut fresh = AddressRange::new(*net);
            let claimed = ranges.addresses.iter().flat_map(AddressRange::taken);
            for address in claimed.chain(used.iter().copied()).filter(|address| net.contains(address)) {
                // Most addresses are claimed and used: the second time is refused, which is as well.
                drop(fresh.take(address));
            }
            ranges.addresses.push(fresh);
        }
        // Ranges that went keep their marks elsewhere; what they alone held is still written in the Services.
        ranges.addresses.retain(|range| wanted(&range.net));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(deleting: bool, held: bool) -> Value {
        let mut cidr = json!({
            "metadata": {"name": "extra"},
            "spec": {"cidrs": ["10.1.0.0/24"]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        if deleting {
            cidr["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        if held {
            cidr["metadata"]["finalizers"] = json!([FINALIZER]);
        }
        cidr
    }

    #[test]
    fn a_range_goes_when_nobody_needs_it() {
        let inside: Vec<IpAddr> = vec!["10.1.0.7".parse().unwrap()];
        let around: Vec<IpNet> = vec!["10.1.0.0/16".parse().unwrap()];
        assert_eq!(decide(&cidr(false, false), &[], &inside), Step::Ready);
        assert_eq!(decide(&cidr(false, true), &[], &inside), Step::Nothing);
        assert_eq!(decide(&cidr(true, true), &[], &inside), Step::Busy);
        assert_eq!(decide(&cidr(true, true), &around, &inside), Step::Release);
        assert_eq!(decide(&cidr(true, true), &[], &[]), Step::Release);
        assert_eq!(decide(&cidr(true, false), &[], &inside), Step::Nothing);
    }
}
