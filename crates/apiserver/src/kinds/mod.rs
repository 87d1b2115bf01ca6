//! The kinds that the API server serves, as a table: a row a kind, and beside it what only that kind knows.
//!
//! The mechanism (routes, storage, watch, patch, tables, discovery, OpenAPI) is written once elsewhere and reads this table; nothing
//! outside this folder asks "is this a Service?". A kind's own file holds its row, its defaults, its validation and its printer
//! columns, each a pure function over the object as JSON. What several kinds share (metadata, names, quantities, pod templates'
//! surroundings) is in `common`, once.
//!
//! Rules meet an object in its canonical form (`api::canonical`): nothing is null, what upstream's encoder leaves out is not there.
//! The order of a write is upstream's: `default`, admission, for Services the allocation of addresses and ports, `prepare_*`,
//! `validate_*` (metadata included, all faults at once), `warnings`.

pub mod admission;
pub mod common;
pub mod shape;

mod config_map;
mod controller_revision;
mod cron_job;
mod daemon_set;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod event;
mod ingress;
mod ingress_class;
mod ip_address;
mod job;
mod job_policy;
mod lease;
mod limit_range;
mod namespace;
mod network_policy;
mod node;
pub mod pod;
mod pod_disruption_budget;
mod pod_template;
mod priority_class;
mod rbac;
mod replica_set;
mod replication_controller;
mod resource_quota;
mod secret;
pub mod service;
mod service_account;
mod service_cidr;
mod stateful_set;
mod storage;
mod stored;

pub use shape::{Alias, Column, Kind, NameRule, ObjectPart, Rules, Scope, Selectable, Subresource};

/// Every kind, in the order of discovery: core first, then the groups by name.
pub static KINDS: &[Kind] = &[
    config_map::KIND,
    endpoints::KIND,
    event::CORE,
    limit_range::KIND,
    namespace::KIND,
    node::KIND,
    storage::PERSISTENT_VOLUME_CLAIM,
    storage::PERSISTENT_VOLUME,
    pod::KIND,
    pod_template::KIND,
    replication_controller::KIND,
    resource_quota::KIND,
    secret::KIND,
    service_account::KIND,
    service::KIND,
    controller_revision::KIND,
    daemon_set::KIND,
    deployment::KIND,
    replica_set::KIND,
    stateful_set::KIND,
    stored::HORIZONTAL_POD_AUTOSCALER,
    stored::HORIZONTAL_POD_AUTOSCALER_V1,
    cron_job::KIND,
    job::KIND,
    lease::KIND,
    endpoint_slice::KIND,
    event::EVENTS,
    ingress_class::KIND,
    ingress::KIND,
    ip_address::KIND,
    network_policy::KIND,
    service_cidr::KIND,
    stored::RUNTIME_CLASS,
    pod_disruption_budget::KIND,
    rbac::CLUSTER_ROLE_BINDING,
    rbac::CLUSTER_ROLE,
    rbac::ROLE_BINDING,
    rbac::ROLE,
    priority_class::KIND,
    storage::STORAGE_CLASS,
];

/// The kind that an API group and version serve under a plural name.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_unique_and_cells_match_columns() {
        let mut seen = BTreeSet::new();
        for kind in KINDS {
            assert!(seen.insert((kind.group, kind.version, kind.plural)), "{} is there twice", kind.plural);
            assert_eq!(kind.singular, kind.kind.to_lowercase());
            let cells = (kind.cells)(&json!({"metadata": {"name": "x"}}), 0);
            assert_eq!(cells.len(), kind.columns.len(), "{}", kind.kind);
        }
    }

    #[test]
    fn no_rule_panics_on_an_empty_or_odd_object() {
        for kind in KINDS {
            for odd in [json!({}), json!({"metadata": [], "spec": [1], "status": "x", "data": 1, "type": {}})] {
                let mut object = odd.clone();
                (kind.rules.default)(&mut object);
                (kind.rules.prepare_create)(&mut object);
                let _ = (kind.rules.validate_create)(&object);
                let mut new = object.clone();
                (kind.rules.prepare_update)(&mut new, &odd);
                let _ = ((kind.rules.validate_update)(&new, &odd), (kind.rules.warnings)(&new, Some(&odd)));
                (kind.rules.prepare_status)(&mut new, &odd);
                let _ = ((kind.rules.validate_status)(&new, &odd), (kind.cells)(&odd, 0));
            }
        }
    }
}
