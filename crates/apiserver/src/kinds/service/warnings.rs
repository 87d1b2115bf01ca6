//! What a Service may have but will not do, or not for long.

use serde_json::Value;

use super::is_headless;
use crate::kinds::common::{get, net};

pub fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if !is_headless(new) {
        for (index, address) in get::texts(new, "/spec/clusterIPs").into_iter().enumerate() {
            warnings.extend(net::ip_warning(&format!("spec.clusterIPs[{index}]"), address));
        }
    }
    let external = get::texts(new, "/spec/externalIPs");
    for (index, address) in external.iter().enumerate() {
        warnings.extend(net::ip_warning(&format!("spec.externalIPs[{index}]"), address));
    }
    let balancer = get::text(new, "/spec/loadBalancerIP");
    if !balancer.is_empty() {
        warnings.extend(net::ip_warning("spec.loadBalancerIP", balancer));
    }
    for (index, range) in get::texts(new, "/spec/loadBalancerSourceRanges").into_iter().enumerate() {
        warnings.extend(net::cidr_warning(&format!("spec.loadBalancerSourceRanges[{index}]"), range.trim()));
    }
    if !external.is_empty() && old.is_none_or(|old| get::texts(old, "/spec/externalIPs") != external) {
        warnings.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    if is_headless(new) {
        let ignored = [(!balancer.is_empty(), "loadBalancerIP"), (!external.is_empty(), "externalIPs")];
        for (_, field) in ignored.iter().filter(|(is_set, _)| *is_set) {
            warnings.push(format!("spec.{field} is ignored when spec.clusterIP is \"None\""));
        }
        if get::text(new, "/spec/sessionAffinity") != "None" {
            warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    let is_external_name = get::text(new, "/spec/type") == "ExternalName";
    if is_external_name && !external.is_empty() {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if get::text(new, "/spec/trafficDistribution") == "PreferClose" {
        warnings.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    warnings
}
