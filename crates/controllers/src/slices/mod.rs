//! Slices as such: how endpoints are laid into them with the fewest writes, whoever the endpoints come from.
//!
//! Endpoints of one family are grouped by their ports; each group fills slices of its own (`fill`). Slices that one group does not need
//! are taken up by another before any is made or deleted. New slices get names that follow from their owner's UID: a second attempt
//! meets the name taken and cannot make a duplicate.

mod fill;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

pub use fill::Filled;
use fill::fill;
use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::mechanism::Write;
use crate::membership::{Family, TRIGGER_TIME};
use crate::names;

pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";

/// An endpoint that should be, and when it came to be so.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub endpoint: Endpoint,
    pub changed_at: Option<Timestamp>,
}

/// Endpoints of the same ports, by identity.
pub type Group = BTreeMap<String, Wanted>;

/// What makes an endpoint the same one over time: whose it is, and its address.
pub fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref()).unwrap_or_default();
    format!("{uid}/{}", endpoint.addresses.first().map_or("", String::as_str))
}

/// The ports of a slice, comparable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports(Vec<Port>);

/// Name, number, protocol, application protocol.
type Port = (Option<String>, Option<i32>, Option<String>, Option<String>);

impl Ports {
    pub fn of(ports: &[EndpointPort]) -> Ports {
        let mut all: Vec<_> =
            ports.iter().map(|p| (p.name.clone(), p.port, p.protocol.clone(), p.app_protocol.clone())).collect();
        all.sort();
        Ports(all)
    }

    fn build(&self) -> Vec<EndpointPort> {
        let port = |(name, port, protocol, app_protocol): &(_, _, _, _)| EndpointPort {
            name: Clone::clone(name),
            port: Clone::clone(port),
            protocol: Clone::clone(protocol),
            app_protocol: Clone::clone(app_protocol),
        };
        self.0.iter().map(port).collect()
    }
}

/// What all slices of one owner have in common.
#[derive(Debug)]
pub struct Template {
    pub namespace: Option<String>,
    /// Names are this, a dash and a suffix.
    pub base_name: String,
    pub owner: OwnerReference,
    pub labels: BTreeMap<String, String>,
    /// Annotations beside the trigger time. None leaves those of a slice as they are.
    pub annotations: Option<BTreeMap<String, String>>,
    pub born: Option<Timestamp>,
    pub max_endpoints: usize,
}

/// Writes in the order of their effect: slices appear before others shrink or go. Whoever reads them may see an endpoint twice for a
/// moment, but never misses one.
#[derive(Debug, Default)]
pub struct Steps {
    creates: Vec<Write>,
    updates: Vec<Write>,
    pub deletes: Vec<Write>,
}

impl Steps {
    pub fn in_order(self) -> Vec<Write> {
        self.creates.into_iter().chain(self.updates).chain(self.deletes).collect()
    }
}

/// Lays the groups of one family into slices. `taken` are names that are in use.
pub fn lay(
    template: &Template,
    family: Family,
    groups: BTreeMap<Ports, Group>,
    existing: Vec<Arc<EndpointSlice>>,
    taken: &mut BTreeSet<String>,
    steps: &mut Steps,
) {
    let mut by_ports: BTreeMap<Ports, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        by_ports.entry(Ports::of(slice.ports.as_deref().unwrap_or_default())).or_default().push(slice);
    }
    let (mut fresh, mut spare) = (Vec::new(), Vec::new());
    for (ports, group) in groups {
        let slices = by_ports.remove(&ports).unwrap_or_default();
        let filled = fill(group, slices, template.max_endpoints);
        for (slice, endpoints) in filled.kept {
            steps.updates.extend(revise(template, &slice, &ports, endpoints));
        }
        fresh.extend(filled.fresh.into_iter().map(|endpoints| (ports.clone(), endpoints)));
        spare.extend(filled.spare);
    }
    spare.extend(by_ports.into_values().flatten());
    let mut spare = spare.into_iter();
    for (ports, endpoints) in fresh {
        // A slice that is not needed any more takes up the new content: one write rather than two.
        match spare.next() {
            Some(slice) => steps.updates.extend(revise(template, &slice, &ports, endpoints)),
            None => {
                let name = free_name(template, taken);
                steps.creates.push(Write::create(&make(template, family, &name, &ports, endpoints)));
            }
        }
    }
    steps.deletes.extend(spare.map(|slice| Write::delete(slice.as_ref())));
}

/// The replacement of a slice, if anything about it is not as it should be.
fn revise(template: &Template, slice: &EndpointSlice, ports: &Ports, filled: Filled) -> Option<Write> {
    let same_ports = Ports::of(slice.ports.as_deref().unwrap_or_default()) == *ports;
    let same_labels = slice.metadata.labels.as_ref() == Some(&template.labels);
    let same_annotations =
        template.annotations.as_ref().is_none_or(|wanted| *wanted == beside_trigger(&slice.metadata));
    let same_endpoints = slice.endpoints.as_deref().unwrap_or_default() == filled.endpoints;
    if same_ports && same_labels && same_annotations && same_endpoints {
        return None;
    }
    let mut revised = slice.clone();
    revised.metadata.labels = Some(template.labels.clone());
    annotate(&mut revised.metadata, template, filled.changed_at);
    revised.ports = Some(ports.build());
    revised.endpoints = Some(filled.endpoints);
    Some(Write::replace(&revised))
}

fn make(template: &Template, family: Family, name: &str, ports: &Ports, filled: Filled) -> EndpointSlice {
    let mut metadata = ObjectMeta {
        name: Some(name.to_owned()),
        generate_name: Some(format!("{}-", template.base_name)),
        namespace: template.namespace.clone(),
        labels: Some(template.labels.clone()),
        owner_references: Some(vec![template.owner.clone()]),
        ..ObjectMeta::default()
    };
    annotate(&mut metadata, template, filled.changed_at.or(template.born));
    EndpointSlice {
        metadata,
        address_type: family.as_str().to_owned(),
        endpoints: Some(filled.endpoints),
        ports: Some(ports.build()),
    }
}

fn beside_trigger(metadata: &ObjectMeta) -> BTreeMap<String, String> {
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    annotations.remove(TRIGGER_TIME);
    annotations
}

fn annotate(metadata: &mut ObjectMeta, template: &Template, changed_at: Option<Timestamp>) {
    let mut annotations = template.annotations.clone().unwrap_or_else(|| beside_trigger(metadata));
    if let Some(time) = changed_at {
        annotations.insert(TRIGGER_TIME.to_owned(), time.to_string());
    }
    metadata.annotations = (!annotations.is_empty()).then_some(annotations);
}

fn free_name(template: &Template, taken: &mut BTreeSet<String>) -> String {
    let mut ordinal = 0_u64;
    loop {
        let mut hasher = names::Fnv::default();
        (&template.owner.uid, ordinal).hash(&mut hasher);
        let candidate = format!("{}-{}", template.base_name, names::suffix(hasher.finish()));
        if taken.insert(candidate.clone()) {
            return candidate;
        }
        ordinal += 1;
    }
}
