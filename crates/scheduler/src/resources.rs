//! Amounts of what nodes have and pods ask for.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Node, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// So much of each resource: `cpu` in thousandths, `memory` and storage in bytes, anything else by count.
///
/// What nearly every pod asks for has a place of its own: the scheduler compares these for every pod on every node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    usual: [i64; USUAL.len()],
    others: BTreeMap<String, i64>,
}

const USUAL: [&str; 4] = ["cpu", "memory", "ephemeral-storage", "pods"];

impl Resources {
    /// Reads a resource list; an amount that cannot be read counts as none.
    pub fn of(list: &BTreeMap<String, Text>) -> Resources {
        let mut read = Resources::default();
        for (name, text) in list {
            if let Ok(quantity) = text.0.parse::<Quantity>() {
                *read.slot(name) = if name == "cpu" { quantity.milli_value() } else { quantity.value() };
            }
        }
        read
    }

    fn slot(&mut self, name: &str) -> &mut i64 {
        match USUAL.iter().position(|usual| *usual == name) {
            Some(place) => &mut self.usual[place],
            None => self.others.entry(name.to_owned()).or_default(),
        }
    }

    pub fn allocatable(node: &Node) -> Resources {
        let status = node.status.as_ref();
        let list = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        list.map(Resources::of).unwrap_or_default()
    }

    /// What a pod asks of its node: its containers together, or any one init container if that is more, and its overhead.
    pub fn requested(pod: &Pod) -> Resources {
        let Some(spec) = &pod.spec else { return Resources::default() };
        let mut running = Resources::default();
        for container in &spec.containers {
            running.add(&requests(container));
        }
        let mut starting = Resources::default();
        let mut sidecars = Resources::default();
        for container in spec.init_containers.iter().flatten() {
            let mut needed = requests(container);
            if container.restart_policy.as_deref() == Some("Always") {
                running.add(&needed);
                sidecars.add(&needed);
                needed = sidecars.clone();
            } else {
                needed.add(&sidecars);
            }
            starting.raise(&needed);
        }
        running.raise(&starting);
        if let Some(whole) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
            for (name, amount) in Resources::of(whole).iter().filter(|(name, _)| whole.contains_key(*name)) {
                *running.slot(name) = amount;
            }
        }
        if let Some(overhead) = &spec.overhead {
            running.add(&Resources::of(overhead));
        }
        running
    }

    pub fn get(&self, name: &str) -> i64 {
        let usual = USUAL.iter().position(|usual| *usual == name).map(|place| self.usual[place]);
        usual.or_else(|| self.others.get(name).copied()).unwrap_or(0)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        let others = self.others.iter().map(|(name, amount)| (name.as_str(), *amount));
        USUAL.into_iter().zip(self.usual).chain(others)
    }

    pub fn add(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_add);
    }

    pub fn subtract(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_sub);
    }

    fn raise(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Resources, with: impl Fn(i64, i64) -> i64) {
        for (mine, theirs) in self.usual.iter_mut().zip(other.usual) {
            *mine = with(*mine, theirs);
        }
        for (name, theirs) in &other.others {
            let mine = self.slot(name);
            *mine = with(*mine, *theirs);
        }
    }
}

fn requests(container: &Container) -> Resources {
    let list = |resources: &ResourceRequirements| resources.requests.as_ref().map(Resources::of);
    container.resources.as_ref().and_then(list).unwrap_or_default()
}
