//! Which address families a Service has, settled before its addresses are allocated (upstream's `initIPFamilyFields`).
//!
//! A policy that was not given is `SingleStack` for a new Service and what it was for an old one, never something that follows the
//! cluster, so that a cluster that gains or loses a family does not change Services on their next write.

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::validate::cluster_ips_and_families;
use crate::kinds::common::{get, net};

const POLICY: &str = "/spec/ipFamilyPolicy";
const FAMILIES: &str = "/spec/ipFamilies";
const ADDRESSES: &str = "/spec/clusterIPs";

pub fn settle(service: &mut Value, old: Option<&Value>, cluster: &[&str]) -> Vec<FieldError> {
    if super::is_external_name(service) || old.is_some_and(|old| keeps_preference(service, old)) {
        return Vec::new();
    }
    infer_policy(service, old);
    let faults = cluster_ips_and_families(service);
    if !faults.is_empty() {
        return faults;
    }
    let mut faults = old.map_or_else(Vec::new, |old| release_secondary(service, old));
    faults.extend(single_with_two(service));
    faults.extend(infer_families(service, cluster));
    if !faults.is_empty() {
        return faults;
    }
    if headless_without_selector(service) {
        fill(service, cluster, 2);
        return Vec::new();
    }
    let faults = not_configured(service, cluster);
    if faults.is_empty() {
        fill(service, cluster, cluster.len());
    }
    faults
}

/// Nothing about the families of a `PreferDualStack` Service changed.
fn keeps_preference(service: &Value, old: &Value) -> bool {
    [service, old].iter().all(|one| get::text(one, POLICY) == "PreferDualStack")
        && [ADDRESSES, FAMILIES].iter().all(|field| get::texts(service, field) == get::texts(old, field))
}

fn infer_policy(service: &mut Value, old: Option<&Value>) {
    if get::has(service, POLICY) {
        return;
    }
    let policy = match old.and_then(|old| get::text_opt(old, POLICY)) {
        Some(policy) => policy.to_owned(),
        None if headless_without_selector(service) => "RequireDualStack".to_owned(),
        None => "SingleStack".to_owned(),
    };
    get::set(service, POLICY, policy);
}

fn headless_without_selector(service: &Value) -> bool {
    get::text(service, "/spec/clusterIP") == "None" && get::entries(service, "/spec/selector").next().is_none()
}

/// Asking for one family is enough to release the second; taking the second away is not enough to ask for one.
fn release_secondary(service: &mut Value, old: &Value) -> Vec<FieldError> {
    let mut faults = Vec::new();
    for (field, what) in [(ADDRESSES, "cluster IP"), (FAMILIES, "IP family")] {
        let before = get::texts(old, field).len();
        let same = get::texts(service, field) == get::texts(old, field);
        if get::text(service, POLICY) == "SingleStack" {
            if let Some(values) = get::list_mut(service, field).filter(|_| same) {
                values.truncate(1);
            }
        } else if before == 2 && get::texts(service, field).len() == 1 {
            faults.push(policy_fault(service, &format!("must be 'SingleStack' to release the secondary {what}")));
        }
    }
    faults
}

fn single_with_two(service: &Value) -> Vec<FieldError> {
    if get::text(service, POLICY) != "SingleStack" {
        return Vec::new();
    }
    [(ADDRESSES, "cluster IPs"), (FAMILIES, "IP families")]
        .iter()
        .filter(|(field, _)| get::texts(service, field).len() == 2)
        .map(|(_, what)| {
            let detail = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            policy_fault(service, &detail)
        })
        .collect()
}

fn policy_fault(service: &Value, detail: &str) -> FieldError {
    FieldError::invalid(Path::new("spec").child("ipFamilyPolicy"), get::text(service, POLICY), detail)
}

/// An address that was asked for tells its family.
fn infer_families(service: &mut Value, cluster: &[&str]) -> Vec<FieldError> {
    let addresses: Vec<String> = get::texts(service, ADDRESSES).into_iter().map(str::to_owned).collect();
    let mut families: Vec<String> = get::texts(service, FAMILIES).into_iter().map(str::to_owned).collect();
    let mut faults = Vec::new();
    for (index, address) in addresses.iter().enumerate().take_while(|(_, address)| *address != "None") {
        let family = if net::is_ipv6(address) { "IPv6" } else { "IPv4" };
        if index < families.len() {
            continue;
        }
        if cluster.contains(&family) {
            families.push(family.to_owned());
        } else {
            let path = Path::new("spec").child("clusterIPs").index(index);
            faults.push(FieldError::invalid(
                path,
                json!(addresses),
                format!("{family} is not configured on this cluster"),
            ));
        }
    }
    if !families.is_empty() {
        get::set(service, FAMILIES, json!(families));
    }
    faults
}

fn not_configured(service: &Value, cluster: &[&str]) -> Vec<FieldError> {
    let mut faults = Vec::new();
    if get::text(service, POLICY) == "RequireDualStack" && cluster.len() < 2 {
        faults.push(policy_fault(service, "this cluster is not configured for dual-stack services"));
    }
    for (index, family) in get::texts(service, FAMILIES).into_iter().enumerate() {
        if !cluster.contains(&family) {
            let path = Path::new("spec").child("ipFamilies").index(index);
            faults.push(FieldError::invalid(path, family, "not configured on this cluster"));
        }
    }
    faults
}

/// No family means the cluster's default; two are wanted by any policy but `SingleStack`, as far as `most` allows.
fn fill(service: &mut Value, cluster: &[&str], most: usize) {
    let mut families: Vec<String> = get::texts(service, FAMILIES).into_iter().map(str::to_owned).collect();
    if families.is_empty() {
        families.push(cluster.first().copied().unwrap_or("IPv4").to_owned());
    }
    if families.len() == 1 && most >= 2 && get::text(service, POLICY) != "SingleStack" {
        families.push(if families[0] == "IPv4" { "IPv6" } else { "IPv4" }.to_owned());
    }
    get::set(service, FAMILIES, json!(families));
}
