//! What the API is told of a pod: phase, conditions and container statuses, in the kubelet's words. Pure.

mod conditions;
mod containers;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{HostIP, Pod, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::decide;
use crate::model::{PodState, Sandbox};
use crate::spec::{self, Role};

pub use conditions::PASSING;
pub use containers::container_id;

/// Whole seconds: the API's times have no finer.
pub fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// The status of `pod` now. What others wrote there (conditions that are not ours, `qosClass`, …) is kept.
pub fn status(pod: &Pod, state: &PodState, host_ips: &[String], now: Timestamp) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    let phase = phase(pod, state);
    let ips: Vec<String> = if spec::on_host_network(pod) {
        if state.ips().is_empty() { Vec::new() } else { host_ips.to_vec() }
    } else if state.ips().is_empty() && matches!(state.sandbox, Sandbox::Removing { .. } | Sandbox::Removed) {
        // A pod that has ended keeps the address that it had.
        old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect()
    } else {
        state.ips().iter().map(ToString::to_string).collect()
    };
    let statuses = containers::statuses(pod, state, now);
    let conditions = conditions::conditions(pod, state, &old, phase, &statuses, now);
    let (reason, message) = state.failed.clone().unzip();
    PodStatus {
        phase: Some(phase.as_str().to_owned()),
        conditions: Some(conditions),
        container_statuses: Some(statuses.main),
        init_container_statuses: some(statuses.init),
        ephemeral_container_statuses: some(statuses.ephemeral),
        host_ip: host_ips.first().cloned(),
        host_ips: Some(host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: some(ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: Some(old.start_time.clone().unwrap_or_else(|| time(state.seen_at))),
        observed_generation: pod.metadata.generation,
        reason,
        message,
        ..old
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }
}

fn phase(pod: &Pod, state: &PodState) -> Phase {
    let members = spec::members(pod);
    let any_live = members.iter().any(|m| state.container(m.name()).is_live());
    if !any_live {
        // A phase is final, so it is not said while a sidecar still runs.
        if state.failed.is_some() {
            return Phase::Failed;
        }
        match decide::outcome(pod, state) {
            Some(true) => return Phase::Succeeded,
            Some(false) => return Phase::Failed,
            None => {}
        }
    }
    let mains: Vec<_> = members.iter().filter(|m| m.role == Role::Main).map(|m| state.container(m.name())).collect();
    let has_run = |c: &&crate::model::ContainerState| c.running().is_some() || c.ended().is_some() || c.last.is_some();
    if state.ending_since.is_some()
        && !any_live
        && mains.iter().any(has_run)
        && mains.iter().all(|c| c.ended().is_some())
    {
        let well = mains.iter().all(|c| c.ended().is_some_and(|e| e.code == 0));
        return if well { Phase::Succeeded } else { Phase::Failed };
    }
    if decide::initialized(pod, state) && !mains.is_empty() && mains.iter().all(has_run) {
        Phase::Running
    } else {
        Phase::Pending
    }
}

#[cfg(test)]
mod tests;
