//! The quality of service of a pod, computed from what its containers ask for.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use serde_json::Value;

use crate::kinds::common::{get, resources};

/// `Guaranteed` if every container limits cpu and memory to what it asks for, `BestEffort` if none asks for either, else `Burstable`.
pub fn class(pod: &Value) -> &'static str {
    let mut guaranteed = true;
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    let pod_level =
        pod.pointer("/spec/resources").filter(|level| get::has(level, "/requests") || get::has(level, "/limits"));
    let mut asked: Vec<&Value> = Vec::new();
    match pod_level {
        Some(level) => asked.push(level),
        None => {
            let containers =
                ["/spec/containers", "/spec/initContainers"].into_iter().flat_map(|list| get::list(pod, list));
            asked.extend(containers.map(|container| container.get("resources").unwrap_or(&Value::Null)));
        }
    }
    for one in asked {
        add(&mut requests, one, "/requests");
        guaranteed &= add(&mut limits, one, "/limits") == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    if guaranteed && requests == limits { "Guaranteed" } else { "Burstable" }
}

/// Adds up cpu and memory; how many of the two are there.
fn add(total: &mut BTreeMap<&'static str, Quantity>, resources: &Value, pointer: &str) -> usize {
    let mut found = 0;
    for name in ["cpu", "memory"] {
        let amount = get::map(resources, pointer).and_then(|all| all.get(name)).map(resources::quantity);
        if let Some(amount) = amount.filter(|amount| !amount.is_zero() && !amount.is_negative()) {
            let sum = total.entry(name).or_insert(Quantity::from_units(0));
            *sum = *sum + amount;
            found += 1;
        }
    }
    found
}
