//! Pod conditions: what is written here is ours, what others wrote (readiness gates, the scheduler) is carried along.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};

use super::containers::Statuses;
use super::{Phase, time};
use crate::decide;
use crate::model::{PodState, Resize, Sandbox};
use crate::spec::{self, Role};

struct Verdict {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

/// Conditions that are there only while they hold.
pub const PASSING: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

const YES: Verdict = Verdict { holds: true, reason: None, message: None };

fn no(reason: &'static str, message: impl Into<String>) -> Verdict {
    Verdict { holds: false, reason: Some(reason), message: Some(message.into()) }
}

pub(super) fn conditions(
    pod: &Pod,
    state: &PodState,
    old: &PodStatus,
    phase: Phase,
    statuses: &Statuses,
    now: Timestamp,
) -> Vec<PodCondition> {
    let containers = containers_ready(pod, phase, statuses);
    let ready = ready(pod, old, &containers);
    let sandbox = matches!(state.sandbox, Sandbox::Ready { .. });
    let ours = [
        ("PodReadyToStartContainers", Verdict { holds: sandbox, reason: None, message: None }),
        ("Initialized", initialized(pod, state, phase)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", YES),
    ];
    let before = old.conditions.as_deref().unwrap_or_default();
    let generation = pod.metadata.generation;
    let mut all: Vec<PodCondition> =
        before.iter().filter(|c| !ours.iter().any(|(name, _)| *name == c.type_)).cloned().collect();
    all.retain(|condition| !PASSING.contains(&condition.type_.as_str()));
    for (name, verdict) in ours.into_iter().chain(resize(state)) {
        let status = if verdict.holds { "True" } else { "False" };
        let same = before.iter().find(|c| c.type_ == name && c.status == status);
        all.push(PodCondition {
            type_: name.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason.map(str::to_owned),
            message: verdict.message,
            last_probe_time: None,
            last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(time(now))),
            observed_generation: generation,
        });
    }
    all
}

fn resize(state: &PodState) -> Option<(&'static str, Verdict)> {
    let verdict = |reason, message: Option<&String>| Verdict { holds: true, reason, message: message.cloned() };
    match &state.resize {
        Resize::Settled => None,
        Resize::Underway => Some(("PodResizeInProgress", YES)),
        Resize::Failed { message, .. } => Some(("PodResizeInProgress", verdict(Some("Error"), Some(message)))),
        Resize::Refused { reason, message, .. } => Some(("PodResizePending", verdict(Some(*reason), Some(message)))),
    }
}

fn initialized(pod: &Pod, state: &PodState, phase: Phase) -> Verdict {
    if decide::initialized(pod, state) {
        return match phase {
            Phase::Succeeded => Verdict { holds: true, reason: Some("PodCompleted"), message: None },
            Phase::Pending | Phase::Running | Phase::Failed => YES,
        };
    }
    let open: Vec<String> = spec::members(pod)
        .iter()
        .filter(|m| match m.role {
            Role::Init => state.container(m.name()).ended().is_none_or(|e| e.code != 0),
            Role::Sidecar => !state.container(m.name()).started,
            Role::Main | Role::Ephemeral => false,
        })
        .map(|m| m.name().to_owned())
        .collect();
    no("ContainersNotInitialized", format!("containers with incomplete status: [{}]", open.join(" ")))
}

fn containers_ready(pod: &Pod, phase: Phase, statuses: &Statuses) -> Verdict {
    match phase {
        Phase::Succeeded => return Verdict { holds: false, reason: Some("PodCompleted"), message: None },
        Phase::Failed => return Verdict { holds: false, reason: Some("PodFailed"), message: None },
        Phase::Pending | Phase::Running => {}
    }
    let sidecar =
        |status: &&ContainerStatus| spec::member(pod, &status.name).is_some_and(|member| member.role == Role::Sidecar);
    let counted = statuses.init.iter().filter(sidecar).chain(&statuses.main);
    let unready: Vec<String> = counted.filter(|s| !s.ready).map(|s| s.name.clone()).collect();
    if unready.is_empty() {
        return YES;
    }
    no("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
}

fn ready(pod: &Pod, old: &PodStatus, containers: &Verdict) -> Verdict {
    if !containers.holds {
        return Verdict { holds: false, reason: containers.reason, message: containers.message.clone() };
    }
    let gates = pod.spec.as_ref().and_then(|s| s.readiness_gates.as_deref()).unwrap_or_default();
    let before = old.conditions.as_deref().unwrap_or_default();
    let mut missing = Vec::new();
    for gate in gates {
        match before.iter().find(|c| c.type_ == gate.condition_type) {
            None => missing.push(format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                gate.condition_type
            )),
            Some(condition) if condition.status != "True" => missing.push(format!(
                "the status of pod readiness gate \"{}\" is not \"True\", but {}",
                gate.condition_type, condition.status
            )),
            Some(_) => {}
        }
    }
    if missing.is_empty() { YES } else { no("ReadinessGatesNotReady", missing.join(", ")) }
}
