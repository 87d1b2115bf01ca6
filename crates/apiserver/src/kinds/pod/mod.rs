//! Pod: containers that share a network and volumes on one node.
//!
//! Pods and the templates of pods share nearly all rules: [`default::template`] and [`template::validate`] are what other kinds use.

mod affinity;
mod columns;
mod containers;
pub mod default;
mod diff;
mod env;
mod ephemeral;
mod prepare;
mod probes;
mod qos;
mod resize;
mod security;
mod spec;
pub mod template;
mod update;
mod validate;
mod volumes;
mod warnings;

#[cfg(test)]
mod tests;

pub use warnings::of_template as template_warnings;

use super::{Kind, NameRule, Rules, Selectable, Subresource};

pub const KIND: Kind = Kind {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    subresources: &[Subresource::Status],
    parts: &[ephemeral::PART, resize::PART],
    rules: Rules {
        default: default::default,
        prepare_create: prepare::create,
        prepare_update: prepare::update,
        prepare_status: prepare::status,
        validate_create: validate::create,
        validate_update: update::validate,
        validate_status: validate::status,
        warnings: warnings::warnings,
        name: NameRule::DnsSubdomain,
    },
    columns: columns::COLUMNS,
    cells: columns::cells,
    selectable: &[
        Selectable::text("spec.nodeName", &["/spec/nodeName"]),
        Selectable::text("spec.restartPolicy", &["/spec/restartPolicy"]),
        Selectable::text("spec.schedulerName", &["/spec/schedulerName"]),
        Selectable::text("spec.serviceAccountName", &["/spec/serviceAccountName"]),
        Selectable { label: "spec.hostNetwork", pointers: &["/spec/hostNetwork"], absent: "false" },
        Selectable::text("status.phase", &["/status/phase"]),
        Selectable::text("status.podIP", &["/status/podIP", "/status/podIPs/0/ip"]),
        Selectable::text("status.nominatedNodeName", &["/status/nominatedNodeName"]),
    ],
    ..Kind::NAMESPACED
};
