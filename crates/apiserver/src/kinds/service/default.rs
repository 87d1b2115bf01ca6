//! What a Service has when its writer did not say.

use serde_json::{Value, json};

use super::externally_accessible;
use crate::kinds::common::get;

const AFFINITY_SECONDS: i64 = 10_800;

pub fn default(service: &mut Value) {
    if !get::has(service, "/spec") {
        get::set(service, "/spec", json!({}));
    }
    get::set_default_text(service, "/spec/sessionAffinity", "None");
    affinity_timeout(service);
    get::set_default_text(service, "/spec/type", "ClusterIP");
    for port in get::list_mut(service, "/spec/ports").into_iter().flatten() {
        get::set_default_text(port, "/protocol", "TCP");
        if [None, Some(&json!(0)), Some(&json!(""))].contains(&port.get("targetPort")) {
            let number = get::int(port, "/port");
            get::set(port, "/targetPort", number);
        }
    }
    if externally_accessible(service) {
        get::set_default_text(service, "/spec/externalTrafficPolicy", "Cluster");
    }
    if super::needs_cluster_ip(service) {
        get::set_default(service, "/spec/internalTrafficPolicy", "Cluster");
    }
    if get::text(service, "/spec/type") == "LoadBalancer" {
        get::set_default(service, "/spec/allocateLoadBalancerNodePorts", true);
        for ingress in get::list_mut(service, "/status/loadBalancer/ingress").into_iter().flatten() {
            if !get::text(ingress, "/ip").is_empty() {
                get::set_default(ingress, "/ipMode", "VIP");
            }
        }
    }
    get::object_at(service, "/status/loadBalancer");
}

fn affinity_timeout(service: &mut Value) {
    match get::text(service, "/spec/sessionAffinity") {
        "None" => {
            get::remove(service, "/spec/sessionAffinityConfig");
        }
        "ClientIP" if !get::has(service, "/spec/sessionAffinityConfig/clientIP/timeoutSeconds") => {
            let config = json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}});
            get::set(service, "/spec/sessionAffinityConfig", config);
        }
        _ => {}
    }
}
