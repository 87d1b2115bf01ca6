//! Other resources for containers that run: who is to get what, and whether the node has it. Pure; rules and words are the kubelet's.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::model::{ContainerState, Run};
use crate::quantity::{self, Milli};
use crate::resources;
use crate::spec::{Member, Role};

/// Of what may be changed.
const NAMES: [&str; 2] = ["cpu", "memory"];

/// Whether a container runs with other resources than the spec gives it.
pub fn is_wanted(state: &ContainerState, member: &Member<'_>) -> bool {
    let Run::Running(running) = &state.run else { return false };
    matches!(member.role, Role::Main | Role::Sidecar) && !changed(&running.resources, &member.container).is_empty()
}

/// Whether one of the changes asks for a restart of the container.
pub fn needs_restart(has: &ResourceRequirements, container: &Container) -> bool {
    let policy = |name: &str| {
        let policies = container.resize_policy.iter().flatten();
        policies.into_iter().any(|one| one.resource_name == name && one.restart_policy == "RestartContainer")
    };
    changed(has, container).into_iter().any(policy)
}

fn changed(has: &ResourceRequirements, container: &Container) -> Vec<&'static str> {
    let given = container.resources.clone().unwrap_or_default();
    let of = |list: &Option<BTreeMap<String, Quantity>>, name: &str| {
        list.as_ref().and_then(|list| list.get(name)).and_then(quantity::parse)
    };
    let differs = |name: &&str| {
        of(&has.limits, name) != of(&given.limits, name) || of(&has.requests, name) != of(&given.requests, name)
    };
    NAMES.into_iter().filter(differs).collect()
}

/// Why a pod does not get what it asks for now: the reason of the condition `PodResizePending`, and its message.
pub fn refusal(pod: &Pod, others: &[&Pod], allocatable: &BTreeMap<String, Quantity>) -> Option<(&'static str, String)> {
    let shown = |name: &str, amount: Milli| {
        if name == "cpu" { amount.0.to_string() } else { amount.units().to_string() }
    };
    let all = NAMES.map(|name| {
        let capacity = allocatable.get(name).and_then(quantity::parse).unwrap_or(Milli(0));
        let used = Milli(others.iter().map(|other| resources::requested(other, name).0).sum());
        (name, resources::requested(pod, name), used, capacity)
    });
    for (name, asked, _, capacity) in all {
        if asked.0 > capacity.0 {
            let (asked, capacity) = (shown(name, asked), shown(name, capacity));
            let said = format!("Node didn't have enough capacity: {name}, requested: {asked}, capacity: {capacity}");
            return Some(("Infeasible", said));
        }
    }
    all.into_iter().find(|(_, asked, used, capacity)| asked.0 + used.0 > capacity.0).map(
        |(name, asked, used, capacity)| {
            let (asked, used, capacity) = (shown(name, asked), shown(name, used), shown(name, capacity));
            let said = format!(
                "Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {capacity}"
            );
            ("Deferred", said)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(resources: serde_json::Value) -> Container {
        let policy = serde_json::json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        let json = serde_json::json!({"name": "c", "resources": resources, "resizePolicy": policy});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn what_changed_and_whether_it_is_worth_a_restart() {
        let has =
            container(serde_json::json!({"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}})).resources.unwrap();
        for (now, names, restart) in [
            (serde_json::json!({"requests": {"cpu": "1000m"}, "limits": {"memory": "1024Mi"}}), vec![], false),
            (serde_json::json!({"requests": {"cpu": "2"}, "limits": {"memory": "1Gi"}}), vec!["cpu"], false),
            (serde_json::json!({"requests": {"cpu": "2"}}), vec!["cpu", "memory"], true),
        ] {
            let container = container(now.clone());
            assert_eq!((changed(&has, &container), needs_restart(&has, &container)), (names, restart), "{now}");
        }
    }

    #[test]
    fn what_the_node_does_not_have_is_not_given() {
        let pod = |cpu: &str| -> Pod {
            let resources = serde_json::json!({"requests": {"cpu": cpu}});
            serde_json::from_value(serde_json::json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}))
                .unwrap()
        };
        let node = BTreeMap::from([
            ("cpu".to_owned(), Quantity("2".to_owned())),
            ("memory".to_owned(), Quantity("1Gi".to_owned())),
        ]);
        let other = pod("1500m");
        assert_eq!(refusal(&pod("500m"), &[&other], &node), None);
        let said = "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000";
        assert_eq!(refusal(&pod("501m"), &[&other], &node), Some(("Deferred", said.to_owned())));
        let said = "Node didn't have enough capacity: cpu, requested: 2001, capacity: 2000";
        assert_eq!(refusal(&pod("2001m"), &[], &node), Some(("Infeasible", said.to_owned())));
    }
}
