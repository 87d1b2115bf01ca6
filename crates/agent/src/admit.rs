//! Whether this node takes a pod that has been bound to it. Pure; the rules and words are the kubelet's.
//!
//! The scheduler has asked most of this before, but a pod can be bound past it, and what fitted then may not fit now.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::{self, Milli};
use crate::{resources, spec};

/// Sysctls that concern nobody but the pod that sets them: allowed everywhere.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Why a pod is refused: `status.reason`, and what is said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: String,
    pub message: String,
}

/// Checks `pod` against the node and the pods that it has.
pub fn admit(pod: &Pod, others: &[&Pod], allocatable: &BTreeMap<String, Quantity>) -> Result<(), Refusal> {
    supported(pod)?;
    sysctls(pod)?;
    fits(pod, others, allocatable)?;
    host_ports(pod, others)
}

fn refused(reason: &str, message: String) -> Refusal {
    Refusal { reason: reason.to_owned(), message }
}

/// What would be left out in silence otherwise.
fn supported(pod: &Pod) -> Result<(), Refusal> {
    let Some(spec) = pod.spec.as_ref() else { return Ok(()) };
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS".to_owned();
        return Err(refused("PodOSNotSupported", message));
    }
    let whole = spec.security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
    let members = spec::members(pod);
    let own = members.iter().filter_map(|m| m.container.security_context.as_ref()?.app_armor_profile.as_ref());
    if own.chain(whole).any(|profile| profile.type_ != "Unconfined") {
        return Err(refused("AppArmor", "Cannot enforce AppArmor: this node does not apply its profiles".to_owned()));
    }
    Ok(())
}

fn sysctls(pod: &Pod) -> Result<(), Refusal> {
    let Some(spec) = pod.spec.as_ref() else { return Ok(()) };
    for sysctl in spec.security_context.iter().flat_map(|c| c.sysctls.iter().flatten()) {
        let name = sysctl.name.replace('/', ".");
        let forbidden = |why: String| Err(refused("SysctlForbidden", why));
        if name.starts_with("net.") && spec.host_network.unwrap_or(false) {
            return forbidden(format!("\"{name}\" not allowed with host net enabled"));
        }
        if name.starts_with("kernel.") && spec.host_ipc.unwrap_or(false) {
            return forbidden(format!("\"{name}\" not allowed with host ipc enabled"));
        }
        if !SAFE_SYSCTLS.contains(&name.as_str()) {
            return forbidden(format!("forbidden sysctl: \"{name}\" not allowlisted"));
        }
    }
    Ok(())
}

fn fits(pod: &Pod, others: &[&Pod], allocatable: &BTreeMap<String, Quantity>) -> Result<(), Refusal> {
    let amount = |name: &str| allocatable.get(name).and_then(quantity::parse).map_or(Milli(0), |m| m);
    let pods = amount("pods").units();
    if pods > 0 && others.len() as i64 >= pods {
        return Err(insufficient("pods", "pods", 1, others.len() as i64, pods));
    }
    for (name, reason) in [("cpu", "cpu"), ("memory", "memory"), ("ephemeral-storage", "ephemeral-storage")] {
        let requested = resources::requested(pod, name);
        let used = Milli(others.iter().map(|other| resources::requested(other, name).0).sum());
        let capacity = amount(name);
        if requested.0 > 0 && requested.0 + used.0 > capacity.0 {
            let shown = |m: Milli| if name == "cpu" { i64::try_from(m.0).unwrap_or(i64::MAX) } else { m.units() };
            return Err(insufficient(name, reason, shown(requested), shown(used), shown(capacity)));
        }
    }
    Ok(())
}

fn insufficient(name: &str, reason: &str, requested: i64, used: i64, capacity: i64) -> Refusal {
    let message =
        format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}");
    refused(&format!("OutOf{reason}"), message)
}

fn host_ports(pod: &Pod, others: &[&Pod]) -> Result<(), Refusal> {
    let taken: Vec<_> = others.iter().flat_map(|other| spec::host_ports(other)).collect();
    let clash = |a: &spec::Port, b: &spec::Port| {
        let same_address = a.host_ip.is_none() || b.host_ip.is_none() || a.host_ip == b.host_ip;
        a.host_port == b.host_port && a.protocol == b.protocol && same_address
    };
    if spec::host_ports(pod).iter().any(|port| taken.iter().any(|other| clash(port, other))) {
        let message = "Node didn't have free ports for the requested pod ports".to_owned();
        return Err(refused("NodePorts", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    #[track_caller]
    fn check(spec: serde_json::Value, others: &[serde_json::Value], expected: Option<(&str, &str)>) {
        let others: Vec<Pod> = others.iter().cloned().map(pod).collect();
        let allocatable = [("cpu", "2"), ("memory", "1Gi"), ("pods", "3")]
            .map(|(k, v)| (k.to_owned(), Quantity(v.to_owned())))
            .into();
        let found = admit(&pod(spec), &others.iter().collect::<Vec<_>>(), &allocatable).err();
        let found = found.as_ref().map(|r| (r.reason.as_str(), r.message.as_str()));
        assert_eq!(found, expected);
    }

    #[test]
    fn sysctls_that_concern_others_are_refused() {
        let with = |name: &str, more: serde_json::Value| {
            let mut spec = more;
            spec["containers"] = serde_json::json!([]);
            spec["securityContext"] = serde_json::json!({"sysctls": [{"name": name, "value": "1"}]});
            spec
        };
        let none = || serde_json::json!({});
        check(with("kernel.shm_rmid_forced", none()), &[], None);
        check(with("net/ipv4/tcp_syncookies", none()), &[], None);
        let said = "forbidden sysctl: \"kernel.msgmax\" not allowlisted";
        check(with("kernel.msgmax", none()), &[], Some(("SysctlForbidden", said)));
        let said = "\"net.ipv4.tcp_syncookies\" not allowed with host net enabled";
        let host = serde_json::json!({"hostNetwork": true});
        check(with("net.ipv4.tcp_syncookies", host), &[], Some(("SysctlForbidden", said)));
    }

    #[test]
    fn what_cannot_be_kept_is_not_promised() {
        let with = |more: serde_json::Value| {
            let mut spec = more;
            spec["containers"] = serde_json::json!([{"name": "c"}]);
            spec
        };
        check(with(serde_json::json!({"os": {"name": "linux"}})), &[], None);
        let said = "Failed to admit pod as the OS field doesn't match node OS";
        check(with(serde_json::json!({"os": {"name": "windows"}})), &[], Some(("PodOSNotSupported", said)));
        let armor = |kind: &str| with(serde_json::json!({"securityContext": {"appArmorProfile": {"type": kind}}}));
        check(armor("Unconfined"), &[], None);
        let said = "Cannot enforce AppArmor: this node does not apply its profiles";
        check(armor("RuntimeDefault"), &[], Some(("AppArmor", said)));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let wants =
            |cpu: &str| serde_json::json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        check(wants("2"), &[], None);
        let said = "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000";
        check(wants("600m"), &[wants("1"), wants("500m")], Some(("OutOfcpu", said)));
        let said = "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
        check(wants("0"), &[wants("0"), wants("0"), wants("0")], Some(("OutOfpods", said)));
    }

    #[test]
    fn a_host_port_has_one_owner() {
        let at = |ip: &str, protocol: &str| {
            let port = serde_json::json!({"containerPort": 80, "hostPort": 8080, "hostIP": ip, "protocol": protocol});
            serde_json::json!({"containers": [{"name": "c", "ports": [port]}]})
        };
        let clash = Some(("NodePorts", "Node didn't have free ports for the requested pod ports"));
        check(at("", "TCP"), &[at("127.0.0.1", "TCP")], clash);
        check(at("127.0.0.1", "TCP"), &[at("127.0.0.1", "TCP")], clash);
        check(at("127.0.0.1", "TCP"), &[at("192.0.2.1", "TCP"), at("127.0.0.1", "UDP")], None);
    }
}
