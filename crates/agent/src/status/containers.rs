//! Container statuses: state, last state, readiness, image.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState as State, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, Pod, VolumeMount, VolumeMountStatus,
};

use super::time;
use crate::backoff::go_duration;
use crate::decide::{self, PULL_ERROR_SHOWN};
use crate::model::{ContainerState, Ended, Image, PodState, Run};
use crate::spec::{self, Member, Role};

#[derive(Debug, Default)]
pub(super) struct Statuses {
    pub init: Vec<ContainerStatus>,
    pub main: Vec<ContainerStatus>,
    pub ephemeral: Vec<ContainerStatus>,
}

/// The id that the API shows for a runtime's container id.
pub fn container_id(pod_uid: &str, id: &str) -> String {
    format!("portolan://{pod_uid}.{id}")
}

pub(super) fn statuses(pod: &Pod, state: &PodState, now: Timestamp) -> Statuses {
    let mut all = Statuses::default();
    let initialized = decide::initialized(pod, state);
    for member in spec::members(pod) {
        let status = one(pod, state, &member, initialized, now);
        match member.role {
            Role::Init | Role::Sidecar => all.init.push(status),
            Role::Main => all.main.push(status),
            Role::Ephemeral => all.ephemeral.push(status),
        }
    }
    all
}

fn one(pod: &Pod, all: &PodState, member: &Member<'_>, initialized: bool, now: Timestamp) -> ContainerStatus {
    let state = all.container(member.name());
    let uid = spec::uid(pod);
    let (mut shown, mut last) = (State::default(), state.last.as_ref().map(|e| terminated(uid, e)));
    match &state.run {
        Run::Running(run) | Run::Stopping(run) => {
            shown.running = Some(ContainerStateRunning { started_at: Some(time(run.started_at)) });
        }
        Run::Ended(ended) => match crash_loop(pod, all, member, state, ended, now) {
            Some(waiting) => {
                shown.waiting = Some(waiting);
                last = Some(terminated(uid, ended));
            }
            None => shown.terminated = terminated(uid, ended).terminated,
        },
        Run::Never | Run::Starting => shown.waiting = Some(waiting(pod, state, member, initialized, now)),
        Run::Refused { reason, message, .. } => {
            shown.waiting =
                Some(ContainerStateWaiting { reason: Some(reason.clone()), message: Some(message.clone()) });
        }
    }
    let current = match &state.run {
        Run::Running(run) | Run::Stopping(run) => Some((&run.id, &run.image_id)),
        Run::Ended(ended) => Some((&ended.id, &ended.image_id)),
        Run::Never | Run::Starting | Run::Refused { .. } => state.last.as_ref().map(|e| (&e.id, &e.image_id)),
    };
    let has = state.running().map(|running| &running.resources).filter(|r| **r != Default::default());
    let done = member.role == Role::Init && state.ended().is_some_and(|e| e.code == 0);
    ContainerStatus {
        name: member.name().to_owned(),
        image: image(&member.container),
        image_id: current.map(|(_, image)| image.clone()).unwrap_or_default(),
        container_id: current.map(|(id, _)| container_id(uid, id)),
        ready: state.ready || done,
        started: (member.role != Role::Ephemeral).then_some(state.started),
        restart_count: i32::try_from(state.restarts).unwrap_or(i32::MAX),
        state: Some(shown),
        last_state: last,
        volume_mounts: volume_mounts(&member.container),
        allocated_resources: has.and_then(|r| r.requests.clone()),
        resources: has.cloned(),
        ..ContainerStatus::default()
    }
}

fn volume_mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let one = |mount: &VolumeMount| {
        let read_only = mount.read_only.unwrap_or(false);
        let recursive = match mount.recursive_read_only.as_deref() {
            Some("Enabled" | "IfPossible") => "Enabled",
            Some(_) | None => "Disabled",
        };
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: Some(read_only),
            recursive_read_only: read_only.then(|| recursive.to_owned()),
            ..VolumeMountStatus::default()
        }
    };
    container.volume_mounts.as_ref().map(|mounts| mounts.iter().map(one).collect())
}

fn image(container: &Container) -> String {
    container.image.clone().unwrap_or_default()
}

fn terminated(uid: &str, ended: &Ended) -> State {
    let terminated = ContainerStateTerminated {
        container_id: Some(container_id(uid, &ended.id)),
        exit_code: ended.code,
        signal: ended.signal,
        reason: Some(ended.reason.clone()),
        message: ended.message.clone(),
        started_at: ended.started_at.or_else(|| never_started(ended)).map(time),
        finished_at: Some(time(ended.finished_at)),
    };
    State { terminated: Some(terminated), ..State::default() }
}

/// A container that was made and never started says that it did in 1970, as with every other runtime.
fn never_started(ended: &Ended) -> Option<Timestamp> {
    (ended.reason == "StartError").then_some(Timestamp::UNIX_EPOCH)
}

fn crash_loop(
    pod: &Pod,
    all: &PodState,
    member: &Member<'_>,
    state: &ContainerState,
    ended: &Ended,
    now: Timestamp,
) -> Option<ContainerStateWaiting> {
    if decide::ending(pod, all).is_some() || !spec::restarts(pod, member, ended.code) {
        return None;
    }
    match state.backoff.until(ended.finished_at, now) {
        Some((_, delay)) => Some(ContainerStateWaiting {
            reason: Some("CrashLoopBackOff".to_owned()),
            message: Some(format!(
                "back-off {} restarting failed container={} pod={}",
                go_duration(delay),
                member.name(),
                spec::long_name(pod)
            )),
        }),
        None => image_waiting(state, member, now),
    }
}

fn waiting(
    pod: &Pod,
    state: &ContainerState,
    member: &Member<'_>,
    initialized: bool,
    now: Timestamp,
) -> ContainerStateWaiting {
    if let Some(waiting) = image_waiting(state, member, now) {
        return waiting;
    }
    let has_init = pod.spec.as_ref().and_then(|s| s.init_containers.as_ref()).is_some_and(|list| !list.is_empty());
    let behind_init = has_init && !initialized && state.run == Run::Never;
    let reason = if behind_init { "PodInitializing" } else { "ContainerCreating" };
    ContainerStateWaiting { reason: Some(reason.to_owned()), message: None }
}

/// What a failed pull is shown as: first the error, then that we wait before the next try.
fn image_waiting(state: &ContainerState, member: &Member<'_>, now: Timestamp) -> Option<ContainerStateWaiting> {
    let Image::Failed { reason, message, at } = &state.image else { return None };
    let shown_until = at.saturating_add(PULL_ERROR_SHOWN).unwrap_or(*at);
    let (reason, message) = if reason == "ErrImagePull" && now >= shown_until {
        let text = format!("Back-off pulling image \"{}\": ErrImagePull: {message}", image(&member.container));
        ("ImagePullBackOff".to_owned(), text)
    } else {
        (reason.clone(), message.clone())
    };
    Some(ContainerStateWaiting { reason: Some(reason), message: Some(message) })
}
