//! The picture that decisions are made on: nodes, the pods that count against each, and namespaces' labels.
//!
//! A pod counts from the moment it is assumed on a node until it has finished or is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::placement;
use k8s_openapi::api::core::v1::{Node, Pod, Toleration};
use kube::ResourceExt;

use crate::affinity::{self, Term};
use crate::resources::Resources;

/// A pod with what is asked about it often.
#[derive(Debug, Clone)]
pub struct PodState {
    pub pod: Arc<Pod>,
    pub uid: String,
    pub requests: Resources,
    pub ports: Vec<HostPort>,
    /// Required anti-affinity, which also keeps others away from this pod.
    pub aversions: Vec<Term>,
    /// Which newcomers it would like near it, or far from it if the weight is negative.
    pub wishes_of_others: Vec<(Term, i64)>,
    /// What a score takes the pod to need: [`Light`] for what it does not say.
    pub light: Light,
    /// UID of the controller that it shares with its siblings.
    pub controller: Option<String>,
}

/// `cpu` and `memory`, with something for pods that ask for nothing, so that such pods spread too: a tenth of a core, 200 MB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Light {
    pub cpu: i64,
    pub memory: i64,
}

impl Light {
    fn of(requests: &Resources) -> Light {
        let or = |asked: i64, least: i64| if asked > 0 { asked } else { least };
        Light { cpu: or(requests.get("cpu"), 100), memory: or(requests.get("memory"), 200 * 1024 * 1024) }
    }
}

/// A port of the node that a pod takes for itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    pub fn conflicts(&self, other: &HostPort) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

impl PodState {
    pub fn new(pod: Arc<Pod>) -> PodState {
        let uid = pod.uid().unwrap_or_default();
        let requests = Resources::requested(&pod);
        let ports = host_ports(&pod);
        let (aversions, wishes_of_others) = (affinity::aversions(&pod), affinity::wishes_of_others(&pod));
        let light = Light::of(&requests);
        let controller = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
        let controller = controller.map(|owner| owner.uid.clone());
        PodState { pod, uid, requests, ports, aversions, wishes_of_others, light, controller }
    }

    pub fn tolerations(&self) -> &[Toleration] {
        self.pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
    }

    /// Whether the pod's own node selector and affinity allow the node.
    pub fn allows(&self, node: &Node) -> bool {
        self.pod.spec.as_ref().is_none_or(|spec| placement::allows(spec, node))
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let on_host = spec.host_network == Some(true);
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|port| *port > 0).or(on_host.then_some(port.container_port))?;
            Some(HostPort {
                ip: port.host_ip.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: number,
            })
        })
        .collect()
}

/// A node and what it has given away.
#[derive(Debug, Clone)]
pub struct NodeState {
    pub node: Option<Arc<Node>>,
    pub name: String,
    pub allocatable: Resources,
    pub requested: Resources,
    pub light: Light,
    pub pods: BTreeMap<String, Arc<PodState>>,
}

impl NodeState {
    fn new(name: &str) -> NodeState {
        NodeState {
            node: None,
            name: name.to_owned(),
            allocatable: Resources::default(),
            requested: Resources::default(),
            light: Light::default(),
            pods: BTreeMap::new(),
        }
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.as_ref()?.labels().get(key).map(String::as_str)
    }
}

/// All nodes and the pods on them.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    nodes: BTreeMap<String, NodeState>,
    /// Where each counted pod is.
    places: BTreeMap<String, String>,
    /// How many pods of each controller each node has.
    siblings: BTreeMap<String, BTreeMap<String, i64>>,
    /// Pods whose anti-affinity concerns every newcomer.
    guarded: BTreeSet<String>,
    /// Pods that have wishes about newcomers.
    wishing: BTreeSet<String>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

impl Cluster {
    /// Nodes that exist, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeState> {
        self.nodes.values().filter(|node| node.node.is_some())
    }

    pub fn node(&self, name: &str) -> Option<&NodeState> {
        self.nodes.get(name).filter(|node| node.node.is_some())
    }

    pub fn namespaces(&self) -> &BTreeMap<String, BTreeMap<String, String>> {
        &self.namespaces
    }

    pub fn set_namespace(&mut self, name: String, labels: BTreeMap<String, String>) {
        self.namespaces.insert(name, labels);
    }

    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.name_any();
        let state = self.nodes.entry(name.clone()).or_insert_with(|| NodeState::new(&name));
        state.allocatable = Resources::allocatable(&node);
        state.node = Some(node);
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some(state) = self.nodes.get_mut(name) {
            state.node = None;
            if state.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }

    /// Counts a pod against a node, whatever was known of it before.
    pub fn place(&mut self, pod: Arc<PodState>, node: &str) {
        self.remove(&pod.uid);
        let state = self.nodes.entry(node.to_owned()).or_insert_with(|| NodeState::new(node));
        state.requested.add(&pod.requests);
        state.light.cpu += pod.light.cpu;
        state.light.memory += pod.light.memory;
        if let Some(controller) = &pod.controller {
            *self.siblings.entry(controller.clone()).or_default().entry(node.to_owned()).or_default() += 1;
        }
        self.places.insert(pod.uid.clone(), node.to_owned());
        if !pod.aversions.is_empty() {
            self.guarded.insert(pod.uid.clone());
        }
        if !pod.wishes_of_others.is_empty() {
            self.wishing.insert(pod.uid.clone());
        }
        state.pods.insert(pod.uid.clone(), pod);
    }

    /// Stops counting a pod; true if it was counted.
    pub fn remove(&mut self, uid: &str) -> bool {
        let Some(node) = self.places.remove(uid) else { return false };
        self.guarded.remove(uid);
        self.wishing.remove(uid);
        if let Some(state) = self.nodes.get_mut(&node)
            && let Some(pod) = state.pods.remove(uid)
        {
            state.requested.subtract(&pod.requests);
            state.light.cpu -= pod.light.cpu;
            state.light.memory -= pod.light.memory;
            if let Some(controller) = &pod.controller {
                forget_sibling(&mut self.siblings, controller, &node);
            }
            if state.pods.is_empty() && state.node.is_none() {
                self.nodes.remove(&node);
            }
        }
        true
    }

    /// How many pods of a controller each node has that has any.
    pub fn siblings(&self, controller: &str) -> impl Iterator<Item = (&NodeState, i64)> {
        let counts = self.siblings.get(controller).into_iter().flatten();
        counts.filter_map(|(node, count)| Some((self.nodes.get(node)?, *count)))
    }

    pub fn is_placed(&self, uid: &str) -> bool {
        self.places.contains_key(uid)
    }

    /// Pods with required anti-affinity, and their nodes.
    pub fn guarded(&self) -> impl Iterator<Item = (&NodeState, &Arc<PodState>)> {
        self.guarded.iter().filter_map(|uid| self.placed(uid))
    }

    /// Pods that have wishes about newcomers, and their nodes.
    pub fn wishing(&self) -> impl Iterator<Item = (&NodeState, &Arc<PodState>)> {
        self.wishing.iter().filter_map(|uid| self.placed(uid))
    }

    fn placed(&self, uid: &str) -> Option<(&NodeState, &Arc<PodState>)> {
        let node = self.nodes.get(self.places.get(uid)?)?;
        Some((node, node.pods.get(uid)?))
    }

    /// All counted pods on nodes that exist.
    pub fn pods(&self) -> impl Iterator<Item = (&NodeState, &Arc<PodState>)> {
        self.nodes().flat_map(|node| node.pods.values().map(move |pod| (node, pod)))
    }
}

fn forget_sibling(siblings: &mut BTreeMap<String, BTreeMap<String, i64>>, controller: &str, node: &str) {
    let Some(counts) = siblings.get_mut(controller) else { return };
    if let Some(count) = counts.get_mut(node) {
        *count -= 1;
        if *count == 0 {
            counts.remove(node);
        }
    }
    if counts.is_empty() {
        siblings.remove(controller);
    }
}
