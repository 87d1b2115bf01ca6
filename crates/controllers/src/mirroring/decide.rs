//! Which slices mirror an Endpoints object.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::ResourceExt;

use crate::mechanism::{Write, is_controlled_by, owner_reference};
use crate::membership::{self, Family, HEADLESS_LABEL, TRIGGER_TIME};
use crate::slices::{Group, MANAGED_BY_LABEL, Ports, SERVICE_NAME_LABEL, Steps, Template, Wanted, identity, lay};

pub const MANAGED_BY: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Upstream mirrors no more of one subset.
const MAX_PER_SUBSET: usize = 1000;
const MAX_PER_SLICE: usize = 100;

#[derive(Debug)]
pub struct Observed<'a> {
    pub endpoints: Option<&'a Endpoints>,
    pub service: Option<&'a Service>,
    /// The slices of this name that mirror something.
    pub slices: &'a [Arc<EndpointSlice>],
}

/// The writes that make the mirror right.
pub fn decide(observed: &Observed<'_>) -> Vec<Write> {
    let delete_all = || observed.slices.iter().map(|slice| Write::delete(slice.as_ref())).collect();
    let Some(endpoints) = observed.endpoints.filter(|endpoints| is_mirrored(endpoints, observed.service)) else {
        return delete_all();
    };
    let uid = endpoints.uid().unwrap_or_default();
    let (ours, strays): (Vec<_>, Vec<_>) =
        observed.slices.iter().cloned().partition(|slice| is_controlled_by(slice.as_ref(), &uid));
    let mut taken: BTreeSet<String> = observed.slices.iter().map(|slice| slice.name_any()).collect();
    let template = template(endpoints);
    let mut steps = Steps::default();
    for family in [Family::V4, Family::V6] {
        let of_family = ours.iter().filter(|slice| slice.address_type == family.as_str()).cloned().collect();
        lay(&template, family, groups(endpoints, family), of_family, &mut taken, &mut steps);
    }
    steps.deletes.extend(strays.iter().map(|slice| Write::delete(slice.as_ref())));
    steps.in_order()
}

fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let skipped = endpoints.labels().get(SKIP_MIRROR).is_some_and(|value| value == "true");
    let elects = endpoints.annotations().contains_key(LEADER);
    let going = endpoints.metadata.deletion_timestamp.is_some();
    // With a selector the slices are made from pods, without a Service nobody asks for them.
    let by_hand = service.is_some_and(|service| !membership::is_selecting(service));
    by_hand && !skipped && !elects && !going
}

fn template(endpoints: &Endpoints) -> Template {
    let mut labels = endpoints.labels().clone();
    labels.remove(HEADLESS_LABEL);
    labels.insert(SERVICE_NAME_LABEL.to_owned(), endpoints.name_any());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    let mut annotations = endpoints.annotations().clone();
    annotations.retain(|key, _| key != LAST_APPLIED && key != TRIGGER_TIME);
    Template {
        namespace: endpoints.namespace(),
        base_name: endpoints.name_any(),
        owner: owner_reference(endpoints),
        labels,
        annotations: Some(annotations),
        born: None,
        max_endpoints: MAX_PER_SLICE,
    }
}

fn groups(endpoints: &Endpoints, family: Family) -> BTreeMap<Ports, Group> {
    let mut groups: BTreeMap<Ports, Group> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let rest = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let of_family = ready.chain(rest).filter(|(address, _)| is_of(address, family)).take(MAX_PER_SUBSET);
        for (address, ready) in of_family {
            let endpoint = endpoint(address, ready);
            let group = groups.entry(ports(subset)).or_default();
            group.insert(identity(&endpoint), Wanted { endpoint, changed_at: None });
        }
    }
    groups
}

fn is_of(address: &EndpointAddress, family: Family) -> bool {
    match address.ip.parse() {
        Ok(IpAddr::V4(_)) => family == Family::V4,
        Ok(IpAddr::V6(_)) => family == Family::V6,
        Err(_) => false,
    }
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), serving: None, terminating: None }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn ports(subset: &EndpointSubset) -> Ports {
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(membership::protocol(port.protocol.as_deref()).to_owned()),
        app_protocol: port.app_protocol.clone(),
    });
    Ports::of(&ports.collect::<Vec<_>>())
}
