//! Service: one stable address for the pods that a selector finds.
//!
//! A write passes [`before_allocation`] first, which carries over what the writer left out and settles the address families; then the
//! server allocates addresses and ports; then come the rules of the row.

mod columns;
mod default;
mod families;
mod prepare;
#[cfg(test)]
mod tests;
mod validate;
mod warnings;

pub use validate::port_or_name;

use api::field::FieldError;
use serde_json::Value;

use super::common::get;
use super::{Kind, NameRule, Rules, Selectable, Subresource};

pub const KIND: Kind = Kind {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    subresources: &[Subresource::Status],
    create_on_update: true,
    rules: Rules {
        default: default::default,
        prepare_create: prepare::create,
        prepare_update: prepare::update,
        prepare_status: prepare::status,
        validate_create: validate::create,
        validate_update: validate::update,
        validate_status: validate::status,
        warnings: warnings::warnings,
        name: NameRule::DnsLabel,
    },
    columns: columns::COLUMNS,
    cells: columns::cells,
    selectable: &[
        Selectable::text("spec.clusterIP", &["/spec/clusterIP"]),
        Selectable::text("spec.type", &["/spec/type"]),
    ],
    ..Kind::NAMESPACED
};

/// Readies a Service, with its defaults, for the allocation of addresses and ports: an update keeps the addresses and ports that it leaves
/// out, `clusterIP` and `clusterIPs` agree, and `ipFamilyPolicy` and `ipFamilies` are filled in.
///
/// `cluster` holds the families of the cluster's ranges, the default one first. The faults are those that upstream finds before it
/// allocates; with any, nothing may be allocated.
pub fn before_allocation(service: &mut Value, old: Option<&Value>, cluster: &[&str]) -> Vec<FieldError> {
    if let Some(old) = old {
        prepare::carry_over(service, old);
    }
    prepare::agree_on_cluster_ips(service, old);
    families::settle(service, old, cluster)
}

/// Whether the type has cluster addresses; a headless Service's is `None`.
pub fn needs_cluster_ip(service: &Value) -> bool {
    matches!(get::text(service, "/spec/type"), "ClusterIP" | "NodePort" | "LoadBalancer")
}

/// Whether the type may hold node ports, asked for or allocated.
pub fn may_have_node_ports(service: &Value) -> bool {
    matches!(get::text(service, "/spec/type"), "NodePort" | "LoadBalancer")
}

/// Whether node ports are to be allocated for the ports without one.
pub fn wants_node_ports(service: &Value) -> bool {
    match get::text(service, "/spec/type") {
        "NodePort" => true,
        "LoadBalancer" => get::flag_opt(service, "/spec/allocateLoadBalancerNodePorts").unwrap_or(true),
        _ => false,
    }
}

/// Whether it needs a port on which every node says if it has a ready endpoint.
pub fn needs_health_check_port(service: &Value) -> bool {
    get::text(service, "/spec/type") == "LoadBalancer" && get::text(service, "/spec/externalTrafficPolicy") == "Local"
}

/// Whether its cluster address is the word `None`.
pub fn is_headless(service: &Value) -> bool {
    get::texts(service, "/spec/clusterIPs") == ["None"]
}

fn is_external_name(service: &Value) -> bool {
    get::text(service, "/spec/type") == "ExternalName"
}

/// Reached from outside the cluster, so that its external traffic policy has a meaning.
fn externally_accessible(service: &Value) -> bool {
    match get::text(service, "/spec/type") {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !get::list(service, "/spec/externalIPs").is_empty(),
        _ => false,
    }
}
