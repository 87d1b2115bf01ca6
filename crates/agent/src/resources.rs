//! Requests and limits as cgroups take them, and the quality of service that follows. Pure; the formulas are the kubelet's.

use std::collections::BTreeMap;

use containers::runtime::Resources;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::{self, Milli};

const PERIOD_MICROS: i128 = 100_000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;

/// How a pod is treated when the node runs short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

/// By the API's `status.qosClass`, or from the resources where it is missing.
pub fn qos(pod: &Pod) -> Qos {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => return Qos::Guaranteed,
        Some("Burstable") => return Qos::Burstable,
        Some("BestEffort") => return Qos::BestEffort,
        Some(_) | None => {}
    }
    let Some(spec) = pod.spec.as_ref() else { return Qos::BestEffort };
    let all: Vec<&Container> = spec.containers.iter().chain(spec.init_containers.iter().flatten()).collect();
    let any = all.iter().any(|c| ["cpu", "memory"].iter().any(|n| limit(c, n).is_some() || request(c, n).is_some()));
    let full = |c: &&&Container| {
        ["cpu", "memory"].iter().all(|n| limit(c, n).is_some() && request(c, n).is_none_or(|r| Some(r) == limit(c, n)))
    };
    match (any, all.iter().all(|c| full(&c))) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// The folder of the pod's cgroup, by its quality of service.
pub fn qos_folder(pod: &Pod) -> &'static str {
    match qos(pod) {
        Qos::Guaranteed => "guaranteed",
        Qos::Burstable => "burstable",
        Qos::BestEffort => "besteffort",
    }
}

/// What one container may use.
pub fn of_container(container: &Container) -> Resources {
    let cpu = limit(container, "cpu");
    Resources {
        memory: limit(container, "memory").map(Milli::units),
        cpu_shares: Some(shares(request(container, "cpu").or(cpu))),
        cpu_quota: cpu.map(quota),
        cpu_period: cpu.map(|_| 100_000),
        pids: None,
    }
}

/// What a pod may use as a whole: what it says for itself, else a limit only where every container has one.
pub fn of_pod(pod: &Pod) -> Resources {
    let Some(spec) = pod.spec.as_ref() else { return Resources::default() };
    let sum = |get: fn(&Container, &str) -> Option<Milli>, name: &str| {
        spec.containers.iter().map(|c| get(c, name)).try_fold(Milli(0), |sum, value| Some(Milli(sum.0 + value?.0)))
    };
    let own = |name: &str| amount(spec.resources.as_ref().and_then(|r| r.limits.as_ref()), name);
    let asked = amount(spec.resources.as_ref().and_then(|r| r.requests.as_ref()), "cpu");
    let each = spec.containers.iter().filter_map(|c| request(c, "cpu").or(limit(c, "cpu"))).map(|m| m.0);
    let requested: i128 = asked.or(own("cpu")).map_or_else(|| each.sum(), |whole| whole.0);
    // Init containers run in the same cgroup before the others, and need not fit below their sum.
    let bounded = spec.init_containers.as_ref().is_none_or(Vec::is_empty);
    let memory = own("memory").or(sum(limit, "memory").filter(|_| bounded));
    let cpu = own("cpu").or(sum(limit, "cpu").filter(|_| bounded));
    Resources {
        memory: memory.map(Milli::units),
        cpu_shares: Some(shares(Some(Milli(requested)))),
        cpu_quota: cpu.map(quota),
        cpu_period: cpu.map(|_| 100_000),
        pids: None,
    }
}

/// What a pod asks for in all: its containers together, or an init container that asks for more, and its overhead.
pub fn requested(pod: &Pod, name: &str) -> Milli {
    let Some(spec) = pod.spec.as_ref() else { return Milli(0) };
    let of = |c: &Container| request(c, name).or(limit(c, name)).map_or(0, |m| m.0);
    let (mut sidecars, mut most) = (0i128, 0i128);
    for init in spec.init_containers.iter().flatten() {
        if init.restart_policy.as_deref() == Some("Always") {
            sidecars += of(init);
            most = most.max(sidecars);
        } else {
            most = most.max(sidecars + of(init));
        }
    }
    let running = sidecars + spec.containers.iter().map(of).sum::<i128>();
    let whole = amount(spec.resources.as_ref().and_then(|r| r.requests.as_ref()), name).map_or(0, |m| m.0);
    let overhead = amount(spec.overhead.as_ref(), name).map_or(0, |m| m.0);
    Milli(running.max(most).max(whole) + overhead)
}

/// Who is killed first when memory runs out: -997 for guaranteed pods, 1000 for those that asked for nothing.
pub fn oom_score_adj(pod: &Pod, container: &Container, node_memory: i64) -> i32 {
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let requested = request(container, "memory").map_or(0, Milli::units);
            let share = 1000i128 * i128::from(requested) / i128::from(node_memory.max(1));
            i32::try_from((1000 - share).clamp(3, 999)).unwrap_or(999)
        }
    }
}

fn limit(container: &Container, name: &str) -> Option<Milli> {
    amount(container.resources.as_ref().and_then(|r: &ResourceRequirements| r.limits.as_ref()), name)
}

fn request(container: &Container, name: &str) -> Option<Milli> {
    amount(container.resources.as_ref().and_then(|r| r.requests.as_ref()), name)
}

fn amount(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<Milli> {
    quantity::parse(list?.get(name)?).filter(|m| m.0 > 0)
}

fn shares(cpu: Option<Milli>) -> u64 {
    let wanted = cpu.map_or(0, |m| m.0 * 1024 / 1000);
    u64::try_from(wanted).unwrap_or(MAX_SHARES).clamp(MIN_SHARES, MAX_SHARES)
}

/// Microseconds of each period; the kernel takes no less than a thousand.
fn quota(cpu: Milli) -> i64 {
    i64::try_from((cpu.0 * PERIOD_MICROS / 1000).max(1000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: serde_json::Value) -> Pod {
        let spec = serde_json::json!({"containers": [{"name": "a", "resources": resources}]});
        serde_json::from_value(serde_json::json!({"spec": spec})).unwrap()
    }

    #[test]
    fn classes_and_cgroup_values() {
        let nothing = pod(serde_json::json!({}));
        let some = pod(serde_json::json!({"requests": {"cpu": "250m", "memory": "64Mi"}}));
        let full = pod(serde_json::json!({"limits": {"cpu": "1500m", "memory": "64Mi"}}));
        assert_eq!([&nothing, &some, &full].map(qos), [Qos::BestEffort, Qos::Burstable, Qos::Guaranteed]);
        let container = |pod: &Pod| of_container(&pod.spec.as_ref().unwrap().containers[0]);
        assert_eq!(container(&nothing), Resources { cpu_shares: Some(2), ..Resources::default() });
        assert_eq!(container(&some), Resources { cpu_shares: Some(256), ..Resources::default() });
        let expected = Resources {
            memory: Some(64 << 20),
            cpu_shares: Some(1536),
            cpu_quota: Some(150_000),
            cpu_period: Some(100_000),
            pids: None,
        };
        assert_eq!(container(&full), expected);
        assert_eq!(of_pod(&full), expected);
        let mut whole = nothing.clone();
        let own = serde_json::json!({"requests": {"cpu": "250m"}, "limits": {"cpu": "1", "memory": "32Mi"}});
        whole.spec.as_mut().unwrap().resources = serde_json::from_value(own).unwrap();
        let of_whole = of_pod(&whole);
        assert_eq!(
            (of_whole.memory, of_whole.cpu_shares, of_whole.cpu_quota),
            (Some(32 << 20), Some(256), Some(100_000))
        );
        let score = |pod: &Pod| oom_score_adj(pod, &pod.spec.as_ref().unwrap().containers[0], 1 << 30);
        assert_eq!([&nothing, &some, &full].map(score), [1000, 938, -997]);
    }
}
