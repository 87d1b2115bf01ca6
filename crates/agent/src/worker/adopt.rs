//! What is known of a pod when its worker starts: from what the runtime still has, and from what the API was last told.
//!
//! Pure, but for what it looks up. The runtime is right about what runs; the API remembers what the runtime no longer can: restart counts, last states and the ends of
//! containers whose sandbox is gone. A container that the API says ran and nobody has any more is gone, with exit code 137.

use std::collections::BTreeMap;
use std::net::IpAddr;

use containers::runtime::{
    ContainerState as RuntimeState, ContainerStatus as Found, Event, Exit, Sandbox as FoundSandbox,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};

use super::apply::ended;
use super::start::name_of;
use crate::backoff::Backoff;
use crate::model::{Ended, PodState, Run, Running, Sandbox, Volumes};
use crate::resources;
use crate::spec::{self, Member, Role};

/// What is looked up elsewhere while a pod is taken over.
pub(crate) struct Lookup<'a> {
    /// How statuses name an image that the runtime knows by id.
    pub image_id: &'a dyn Fn(&str) -> String,
    /// The last words of a container's run, which may have been said while nobody listened.
    pub last_words: &'a dyn Fn(&Member<'_>, u32, &Exit) -> Option<String>,
}

/// The state of `pod`; `found` is its sandbox in the runtime, `ips` what its network record says.
pub(crate) fn adopt(
    pod: &Pod,
    found: Option<&FoundSandbox>,
    ips: &[IpAddr],
    look: &Lookup<'_>,
    now: Timestamp,
) -> PodState {
    let status = pod.status.clone().unwrap_or_default();
    let seen_at = status.start_time.as_ref().map_or(now, |t| t.0);
    let mut state = PodState::new(seen_at);
    let terminal = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    match found {
        Some(sandbox) if !sandbox.lost => {
            state.sandbox = Sandbox::Ready { ips: ips.to_vec() };
            state.volumes = Volumes::Mounted;
        }
        // Also of a pod that has ended: whether its network and volumes were cleared away before the daemon went, nobody has written down,
        // so they are cleared away once more.
        Some(_) | None => {}
    }
    if terminal && status.reason.is_some() {
        state.failed = Some((status.reason.clone().unwrap_or_default(), status.message.clone().unwrap_or_default()));
    }
    let runs = newest(found);
    let told = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let told = told.chain(status.ephemeral_container_statuses.iter().flatten());
    let told: BTreeMap<&str, &ContainerStatus> = told.map(|s| (s.name.as_str(), s)).collect();
    for member in spec::members(pod) {
        let name = member.name();
        let container = state.container_mut(name);
        let told = told.get(name).copied();
        if let Some(told) = told {
            container.restarts = u32::try_from(told.restart_count).unwrap_or(0);
            container.last = last_as_told(told);
        }
        match runs.get(name) {
            Some((attempt, run)) => {
                container.restarts = *attempt;
                container.run = run_of(run, &member, *attempt, told, look);
                let same = told.is_some_and(|t| t.container_id.as_ref() == Some(&shown_id(pod, &run.config.id)));
                if container.running().is_some() {
                    container.started = same && told.is_some_and(|t| t.started == Some(true))
                        || member.container.startup_probe.is_none();
                    container.ready = container.started
                        && matches!(member.role, Role::Main | Role::Sidecar)
                        && (member.container.readiness_probe.is_none() || same && told.is_some_and(|t| t.ready));
                }
            }
            None => container.run = told.map_or(Run::Never, |told| run_as_told(told, container.restarts, now)),
        }
        let began = match &container.run {
            Run::Running(running) | Run::Stopping(running) => Some(running.started_at),
            Run::Ended(ended) => Some(ended.started_at.unwrap_or(ended.finished_at)),
            Run::Never | Run::Starting | Run::Refused { .. } => None,
        };
        container.backoff = began.map_or(Backoff::new(), |began| Backoff::after(container.restarts, began));
    }
    state
}

/// Takes note of what happened to a sandbox that was found and that no worker has yet; gives back what concerns others.
pub(crate) fn note(found: &mut BTreeMap<String, FoundSandbox>, event: Event) -> Option<Event> {
    match event {
        Event::ContainerExited { sandbox, container, exit } => match found.get_mut(&sandbox) {
            Some(sandbox) => {
                let ended = sandbox.containers.iter_mut().find(|one| one.config.id == container);
                ended.into_iter().for_each(|one| one.state = RuntimeState::Exited(exit.clone()));
                None
            }
            None => Some(Event::ContainerExited { sandbox, container, exit }),
        },
        Event::SandboxLost { sandbox } => match found.get_mut(&sandbox) {
            Some(sandbox) => {
                sandbox.lost = true;
                None
            }
            None => Some(Event::SandboxLost { sandbox }),
        },
    }
}

fn shown_id(pod: &Pod, id: &str) -> String {
    crate::status::container_id(spec::uid(pod), id)
}

/// The last run of each container in the runtime.
fn newest(found: Option<&FoundSandbox>) -> BTreeMap<String, (u32, &Found)> {
    let mut runs: BTreeMap<String, (u32, &Found)> = BTreeMap::new();
    for run in found.into_iter().flat_map(|s| &s.containers) {
        let Some((name, attempt)) = name_of(&run.config.id) else { continue };
        if runs.get(&name).is_none_or(|(before, _)| *before <= attempt) {
            runs.insert(name, (attempt, run));
        }
    }
    runs
}

fn run_of(found: &Found, member: &Member<'_>, attempt: u32, told: Option<&ContainerStatus>, look: &Lookup<'_>) -> Run {
    let id = found.config.id.clone();
    match &found.state {
        // Made and never started: it is made anew under the same number.
        RuntimeState::Created => Run::Never,
        RuntimeState::Running { started_at, .. } => {
            // The spec may have changed while nobody looked.
            let same = found.config.resources == resources::of_container(&member.container);
            let has = if same { member.container.resources.clone() } else { told.and_then(|t| t.resources.clone()) };
            let (image_id, started_at) = ((look.image_id)(&found.image_id), *started_at);
            Run::Running(Running { id, image_id, started_at, resources: has.unwrap_or_default() })
        }
        RuntimeState::Exited(exit) => {
            let words = (look.last_words)(member, attempt, exit);
            Run::Ended(ended(&id, (look.image_id)(&found.image_id), exit, words))
        }
    }
}

fn run_as_told(told: &ContainerStatus, attempt: u32, now: Timestamp) -> Run {
    let state = told.state.clone().unwrap_or_default();
    if let Some(ended) = state.terminated.as_ref().and_then(|ended| ended_as_told(ended, &told.image_id)) {
        return Run::Ended(ended);
    }
    match (state.running, last_as_told(told)) {
        (Some(running), _) => Run::Ended(Ended {
            id: super::start::id_of(&told.name, attempt),
            image_id: told.image_id.clone(),
            code: 137,
            signal: None,
            reason: "ContainerStatusUnknown".to_owned(),
            message: Some(
                "The container could not be located when the pod was deleted.  The container used to be Running"
                    .to_owned(),
            ),
            started_at: running.started_at.map(|t| t.0),
            finished_at: now,
        }),
        // It was waiting for its next start.
        (None, Some(last)) => Run::Ended(last),
        (None, None) => Run::Never,
    }
}

fn last_as_told(told: &ContainerStatus) -> Option<Ended> {
    ended_as_told(told.last_state.as_ref()?.terminated.as_ref()?, &told.image_id)
}

fn ended_as_told(told: &ContainerStateTerminated, image_id: &str) -> Option<Ended> {
    let finished_at = told.finished_at.as_ref()?.0;
    let shown = told.container_id.clone().unwrap_or_default();
    // `portolan://<uid>.<id>`; the uid has no dots.
    let id = shown.split_once("://").and_then(|(_, rest)| rest.split_once('.')).map(|(_, id)| id.to_owned());
    Some(Ended {
        id: id.unwrap_or_default(),
        image_id: image_id.to_owned(),
        code: told.exit_code,
        signal: told.signal,
        reason: told.reason.clone().unwrap_or_default(),
        message: told.message.clone(),
        started_at: told.started_at.as_ref().map(|t| t.0).filter(|at| *at != Timestamp::UNIX_EPOCH),
        finished_at,
    })
}

#[cfg(test)]
mod tests {
    use containers::runtime::{ContainerConfig, SandboxConfig};

    use super::*;

    #[test]
    fn what_ends_before_its_worker_starts_is_not_forgotten() {
        let at = Timestamp::UNIX_EPOCH;
        let config = ContainerConfig { id: "c.0".to_owned(), ..ContainerConfig::default() };
        let state = RuntimeState::Running { pid: 1, started_at: at };
        let running = Found { config, image_id: "i".to_owned(), created_at: at, state };
        let config = SandboxConfig { id: "u".to_owned(), ..SandboxConfig::default() };
        let sandbox = FoundSandbox { config, created_at: at, lost: false, containers: vec![running] };
        let mut found = BTreeMap::from([("u".to_owned(), sandbox)]);
        let exit =
            Exit { code: 5, signal: None, oom_killed: false, started_at: Some(at), finished_at: at, message: None };
        let ended = |sandbox: &str| {
            let (sandbox, container) = (sandbox.to_owned(), "c.0".to_owned());
            Event::ContainerExited { sandbox, container, exit: exit.clone() }
        };
        assert!(note(&mut found, ended("u")).is_none());
        assert!(note(&mut found, ended("of another")).is_some(), "its worker is to be told");
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"uid": "u"},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}))
        .unwrap();
        let look = Lookup { image_id: &|id| id.to_owned(), last_words: &|_, _, _| None };
        let state = adopt(&pod, found.get("u"), &[], &look, at);
        assert_eq!(state.container("c").ended().unwrap().code, 5);
        assert!(note(&mut found, Event::SandboxLost { sandbox: "u".to_owned() }).is_none() && found["u"].lost);
    }
}
