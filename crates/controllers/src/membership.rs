//! Who is an endpoint: the rules about one pod and one Service that EndpointSlices and Endpoints share.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use client::Key;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerPort, Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::mechanism::{Informer, Queue};

pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// An address family, in the order in which a dual-stack Service may name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn as_str(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// The families of a Service's endpoints, the primary one first.
pub fn families(service: &Service) -> Vec<Family> {
    let named = service.spec.iter().flat_map(|spec| spec.ip_families.iter().flatten());
    let families: Vec<Family> = named
        .filter_map(|name| match name.as_str() {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        })
        .collect();
    if families.is_empty() { vec![Family::V4] } else { families }
}

/// Whether this Service's endpoints are found by its selector, and so are ours to keep.
pub fn is_selecting(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    spec.selector.as_ref().is_some_and(|selector| !selector.is_empty()) && !is_external(service)
}

pub fn is_external(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("ExternalName"))
}

pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
}

pub fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

pub fn service_ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
}

/// Whether the selector of the Service matches the pod's labels.
pub fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| {
        !selector.is_empty() && selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
    })
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the pod ran to its end: it will never serve again.
pub fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

pub fn condition<'a>(pod: &'a Pod, r#type: &str) -> Option<&'a k8s_openapi::api::core::v1::PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == r#type)
}

/// The pod's address of one family.
pub fn address(pod: &Pod, family: Family) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    listed.chain(status.pod_ip.as_deref()).filter_map(|text| text.parse().ok()).find(|ip: &IpAddr| match family {
        Family::V4 => ip.is_ipv4(),
        Family::V6 => ip.is_ipv6(),
    })
}

/// The number that a Service's target port has in this pod; none when the pod has no port of that name.
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let wanted = protocol(port.protocol.as_deref());
            let same = |candidate: &&ContainerPort| {
                candidate.name.as_deref() == Some(name) && protocol(candidate.protocol.as_deref()) == wanted
            };
            container_ports(pod).find(same).map(|found| found.container_port)
        }
    }
}

/// The ports of all containers that serve while the pod does: sidecars count, other init containers do not.
fn container_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let spec = pod.spec.iter();
    let sidecars = spec.clone().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.flat_map(|spec| &spec.containers);
    containers.chain(sidecars).flat_map(|container| container.ports.iter().flatten())
}

pub fn protocol(protocol: Option<&str>) -> &str {
    protocol.unwrap_or("TCP")
}

/// The name under which DNS knows the pod within a headless Service.
pub fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_ref().filter(|name| !name.is_empty())?;
    (spec.subdomain.as_deref() == Some(&service.name_any())).then(|| hostname.clone())
}

pub fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.namespace(),
        name: Some(pod.name_any()),
        uid: pod.uid(),
        ..ObjectReference::default()
    }
}

/// When the fact came about that made the pod's endpoint what it is.
pub fn changed_at(pod: &Pod) -> Option<Timestamp> {
    let leaving = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    leaving.or_else(|| condition(pod, "Ready")?.last_transition_time.as_ref().map(|time| time.0))
}

pub fn zone(node: &Node) -> Option<String> {
    node.labels().get(ZONE_LABEL).cloned()
}

/// Whether two states of a pod differ in anything that an endpoint is made of.
fn differs(old: &Pod, new: &Pod) -> bool {
    let ips = |pod: &Pod| pod.status.as_ref().map(|status| (status.pod_ip.clone(), status.pod_ips.clone()));
    let names = |pod: &Pod| {
        pod.spec.as_ref().map(|spec| (spec.node_name.clone(), spec.hostname.clone(), spec.subdomain.clone()))
    };
    old.metadata.uid != new.metadata.uid
        || old.metadata.labels != new.metadata.labels
        || is_terminating(old) != is_terminating(new)
        || is_finished(old) != is_finished(new)
        || is_ready(old) != is_ready(new)
        || names(old) != names(new)
        || ips(old) != ips(new)
        || !container_ports(old).eq(container_ports(new))
}

/// Wakes the Services that a change of a pod or of a node's zone concerns: those that the pod belonged to, and those it belongs to now.
pub fn follow(services: &Arc<Informer<Service>>, pods: &Arc<Informer<Pod>>, queue: &Queue<Key>) {
    let (of, to) = (Arc::clone(services), queue.clone());
    pods.subscribe(move |old, new| {
        if let (Some(old), Some(new)) = (old, new)
            && !differs(old, new)
        {
            return;
        }
        let states: Vec<&Arc<Pod>> = old.into_iter().chain(new).collect();
        for key in concerned(&of, &states) {
            to.add(key);
        }
    });
    let to = queue.clone();
    services.subscribe(move |old, new| {
        for service in old.into_iter().chain(new) {
            to.add(Key::of(service.as_ref()));
        }
    });
}

/// Wakes the Services that have pods on a node whose zone changed.
pub fn follow_zones(
    nodes: &Informer<Node>,
    services: &Arc<Informer<Service>>,
    pods: &Arc<Informer<Pod>>,
    queue: &Queue<Key>,
) {
    let (services, pods, queue) = (Arc::clone(services), Arc::clone(pods), queue.clone());
    nodes.subscribe(move |old, new| {
        let Some(node) = new.or(old) else { return };
        if old.and_then(|node| zone(node)) == new.and_then(|node| zone(node)) {
            return;
        }
        for pod in pods.on_node(&node.name_any()) {
            for key in concerned(&services, &[&pod]) {
                queue.add(key);
            }
        }
    });
}

fn concerned(services: &Informer<Service>, states: &[&Arc<Pod>]) -> BTreeSet<Key> {
    let of = |pod: &&Arc<Pod>| {
        let near = services.may_select(&pod.namespace().unwrap_or_default(), pod.labels());
        near.into_iter()
            .filter(|service| selects(service, pod))
            .map(|service| Key::of(service.as_ref()))
            .collect::<Vec<Key>>()
    };
    states.iter().flat_map(of).collect()
}
