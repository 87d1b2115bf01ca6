//! What a write of a Service keeps from the Service before, and what a change of type clears.

use serde_json::{Value, json};

use super::{is_external_name, may_have_node_ports, needs_cluster_ip, needs_health_check_port};
use crate::kinds::common::{get, meta};

pub fn create(service: &mut Value) {
    get::set(service, "/status", json!({"loadBalancer": {}}));
}

pub fn update(new: &mut Value, old: &Value) {
    meta::prepare_update(new, old);
    get::copy(new, old, "/status");
    clear_by_type(new, old);
    if get::text(new, "/spec/type") != "LoadBalancer" {
        get::set(new, "/status/loadBalancer", json!({}));
    }
}

pub fn status(new: &mut Value, old: &Value) {
    meta::prepare_status(new, old);
}

/// An update that leaves out an address or a port that was allocated means the same one (upstream's `patchAllocatedValues`).
pub fn carry_over(new: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        if get::text(new, "/spec/clusterIP").is_empty() {
            get::copy(new, old, "/spec/clusterIP");
        }
        if get::list(new, "/spec/clusterIPs").is_empty() && get::same(new, old, "/spec/clusterIP") {
            get::copy(new, old, "/spec/clusterIPs");
        }
    }
    if may_have_node_ports(old) && may_have_node_ports(new) {
        carry_over_node_ports(new, old);
    }
    if needs_health_check_port(old) && needs_health_check_port(new) && get::int(new, "/spec/healthCheckNodePort") == 0 {
        get::copy(new, old, "/spec/healthCheckNodePort");
    }
}

/// By the name of the port; a number that the writer gave to another port is not taken from it.
fn carry_over_node_ports(new: &mut Value, old: &Value) {
    let before = get::list(old, "/spec/ports");
    let given: Vec<i64> = get::list(new, "/spec/ports").iter().map(|port| get::int(port, "/nodePort")).collect();
    let mut used: Vec<i64> = before
        .iter()
        .map(|port| get::int(port, "/nodePort"))
        .filter(|port| *port != 0 && given.contains(port))
        .collect();
    for port in get::list_mut(new, "/spec/ports").into_iter().flatten() {
        if get::int(port, "/nodePort") != 0 {
            continue;
        }
        let same_name = before.iter().rfind(|one| get::text(one, "/name") == get::text(port, "/name"));
        let number = same_name.map_or(0, |one| get::int(one, "/nodePort"));
        if number != 0 && !used.contains(&number) {
            get::set(port, "/nodePort", number);
            used.push(number);
        }
    }
}

/// `clusterIP` is what old clients write, `clusterIPs` what new ones write; whichever was changed wins.
pub fn agree_on_cluster_ips(new: &mut Value, old: Option<&Value>) {
    let one = get::text(new, "/spec/clusterIP").to_owned();
    let all = get::texts(new, "/spec/clusterIPs").into_iter().map(str::to_owned).collect::<Vec<_>>();
    let Some(old) = old else {
        if !one.is_empty() && all.is_empty() {
            get::set(new, "/spec/clusterIPs", json!([one]));
        }
        return;
    };
    let (one_before, all_before) = (get::text(old, "/spec/clusterIP"), get::texts(old, "/spec/clusterIPs"));
    let same_all = all == all_before;
    if one == one_before {
        if all.is_empty() && !all_before.is_empty() && !one.is_empty() {
            get::copy(new, old, "/spec/clusterIPs");
        }
    } else if one.is_empty() && same_all {
        get::remove(new, "/spec/clusterIPs");
    } else if !one.is_empty() && same_all {
        get::set(new, "/spec/clusterIPs", json!([one]));
    }
}

/// What the new type does not use goes, unless the writer changed it: then it is a fault that validation names.
fn clear_by_type(new: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && !needs_cluster_ip(new) {
        if get::same(new, old, "/spec/clusterIP") && get::same(new, old, "/spec/clusterIPs") {
            get::remove(new, "/spec/clusterIP");
            get::remove(new, "/spec/clusterIPs");
        }
        clear_if_same(new, old, &["/spec/ipFamilies", "/spec/ipFamilyPolicy"]);
    }
    if may_have_node_ports(old) && !may_have_node_ports(new) && node_ports(new) == node_ports(old) {
        for port in get::list_mut(new, "/spec/ports").into_iter().flatten() {
            get::remove(port, "/nodePort");
        }
    }
    if needs_health_check_port(old) && !needs_health_check_port(new) {
        clear_if_same(new, old, &["/spec/healthCheckNodePort"]);
    }
    let balanced = |service: &Value| get::text(service, "/spec/type") == "LoadBalancer";
    if balanced(old) && !balanced(new) {
        clear_if_same(new, old, &["/spec/allocateLoadBalancerNodePorts", "/spec/loadBalancerClass"]);
    }
    if super::externally_accessible(old) && !super::externally_accessible(new) {
        clear_if_same(new, old, &["/spec/externalTrafficPolicy"]);
    }
    if !is_external_name(old) && is_external_name(new) {
        clear_if_same(new, old, &["/spec/internalTrafficPolicy"]);
    }
}

fn clear_if_same(new: &mut Value, old: &Value, pointers: &[&str]) {
    for pointer in pointers {
        if get::same(new, old, pointer) {
            get::remove(new, pointer);
        }
    }
}

fn node_ports(service: &Value) -> Vec<i64> {
    let mut ports: Vec<i64> =
        get::list(service, "/spec/ports").iter().map(|port| get::int(port, "/nodePort")).collect();
    ports.retain(|port| *port != 0);
    ports.sort_unstable();
    ports
}
