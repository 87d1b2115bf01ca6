//! What a pod needs next: (spec, what is known, time) → actions. Pure.
//!
//! Called after every change. An action that has begun shows in the state (`Mounting`, `Starting`, …), so deciding twice asks for nothing
//! twice. The order of a pod's life is upstream's: volumes, sandbox, init containers one by one, main containers together; at the end main
//! containers, then sidecars from the last to the first, then the sandbox.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::model::{Action, Cause, ContainerState, Decision, Image, PodState, Resize, Run, Sandbox, Volumes};
use crate::resize;
use crate::spec::{self, Member, Role};

/// How long a failed pull is shown as `ErrImagePull` before the wait is shown as `ImagePullBackOff`.
pub const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(3);

/// Even what is forced away gets its signal before it is killed.
const FORCED_GRACE: Duration = Duration::from_secs(1);

/// The next steps of `pod`.
pub fn decide(pod: &Pod, state: &PodState, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    if let Some(why) = ending(pod, state) {
        end(pod, state, why, now, &mut decision);
    } else {
        live(pod, state, now, &mut decision);
    }
    decision
}

/// Why a pod is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The API wants it gone.
    Deleted,
    /// It has done its work, or failed for good; the object stays.
    Finished,
}

/// Whether the pod is ending.
pub fn ending(pod: &Pod, state: &PodState) -> Option<Ending> {
    if state.orphaned || pod.metadata.deletion_timestamp.is_some() {
        return Some(Ending::Deleted);
    }
    (state.failed.is_some() || outcome(pod, state).is_some()).then_some(Ending::Finished)
}

/// How a pod that needs no more of us has ended: true if well.
pub fn outcome(pod: &Pod, state: &PodState) -> Option<bool> {
    let members = spec::members(pod);
    let mains: Vec<_> = members.iter().filter(|m| m.role == Role::Main).collect();
    let settled = |m: &Member<'_>| {
        let ended = state.container(m.name()).ended()?;
        (!spec::restarts(pod, m, ended.code)).then_some(ended.code)
    };
    let init_failed = members.iter().filter(|m| m.role == Role::Init).any(|m| settled(m).is_some_and(|code| code != 0));
    if init_failed && !mains.iter().any(|m| state.container(m.name()).is_live()) {
        return Some(false);
    }
    let codes: Option<Vec<i32>> = mains.iter().map(|m| settled(m)).collect();
    codes.filter(|codes| !codes.is_empty()).map(|codes| codes.iter().all(|code| *code == 0))
}

fn live(pod: &Pod, state: &PodState, now: Timestamp, decision: &mut Decision) {
    if let Some(seconds) = pod.spec.as_ref().and_then(|s| s.active_deadline_seconds) {
        let deadline = state.seen_at.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
        if deadline <= now {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            decision.actions.push(Action::Fail { reason: "DeadlineExceeded".to_owned(), message });
            return;
        }
        decision.wake(deadline);
    }
    match &state.volumes {
        Volumes::Unmounted => decision.actions.push(Action::MountVolumes),
        Volumes::Failed { retry_at } if *retry_at <= now => decision.actions.push(Action::MountVolumes),
        Volumes::Failed { retry_at } => decision.wake(*retry_at),
        Volumes::Mounting => {}
        Volumes::Mounted => with_volumes(pod, state, now, decision),
    }
}

fn with_volumes(pod: &Pod, state: &PodState, now: Timestamp, decision: &mut Decision) {
    match &state.sandbox {
        Sandbox::Absent => decision.actions.push(Action::CreateSandbox),
        Sandbox::Failed { retry_at } if *retry_at <= now => decision.actions.push(Action::CreateSandbox),
        Sandbox::Failed { retry_at } => decision.wake(*retry_at),
        Sandbox::Ready { .. } => with_sandbox(pod, state, now, decision),
        Sandbox::Creating | Sandbox::Removing { .. } | Sandbox::Removed => {}
    }
}

fn with_sandbox(pod: &Pod, state: &PodState, now: Timestamp, decision: &mut Decision) {
    let members = spec::members(pod);
    if members.iter().any(|member| resize::is_wanted(state.container(member.name()), member)) {
        match &state.resize {
            Resize::Refused { retry_at, .. } | Resize::Failed { retry_at, .. } if *retry_at > now => {
                decision.wake(*retry_at);
            }
            Resize::Settled | Resize::Refused { .. } | Resize::Failed { .. } => decision.actions.push(Action::Resize),
            Resize::Underway => {}
        }
    }
    if init_done(&members, state, |m| {
        keep_running(pod, state.container(m.name()), m, now, decision);
    }) {
        for member in members.iter().filter(|m| m.role == Role::Main) {
            keep_running(pod, state.container(member.name()), member, now, decision);
        }
    }
    // They are for looking at what goes wrong, which may be an init container.
    for member in members.iter().filter(|m| m.role == Role::Ephemeral) {
        keep_running(pod, state.container(member.name()), member, now, decision);
    }
}

/// Whether the main containers may run. `tend` is called for each init container that needs attention up to the first that is not done.
fn init_done(members: &[Member<'_>], state: &PodState, mut tend: impl FnMut(&Member<'_>)) -> bool {
    let past_init = members.iter().any(|m| m.role == Role::Main && state.container(m.name()).run != Run::Never);
    for member in members {
        let container = state.container(member.name());
        match member.role {
            Role::Init if past_init || container.ended().is_some_and(|ended| ended.code == 0) => {}
            Role::Init => {
                tend(member);
                return false;
            }
            Role::Sidecar => {
                tend(member);
                if !past_init && !container.started {
                    return false;
                }
            }
            Role::Main | Role::Ephemeral => {}
        }
    }
    true
}

/// Whether every init container has done its part: the pod condition `Initialized`.
pub fn initialized(pod: &Pod, state: &PodState) -> bool {
    init_done(&spec::members(pod), state, |_| {})
}

fn keep_running(pod: &Pod, state: &ContainerState, member: &Member<'_>, now: Timestamp, decision: &mut Decision) {
    let attempt = match &state.run {
        Run::Starting | Run::Running(_) | Run::Stopping(_) => return,
        Run::Never => 0,
        Run::Refused { retry_at, .. } if *retry_at > now => return decision.wake(*retry_at),
        Run::Refused { .. } => state.restarts,
        Run::Ended(ended) => {
            if !spec::restarts(pod, member, ended.code) {
                return;
            }
            if let Some((until, _)) = state.backoff.until(ended.finished_at, now) {
                return decision.wake(until);
            }
            state.restarts + 1
        }
    };
    let container = member.name().to_owned();
    match &state.image {
        Image::Present => decision.actions.push(Action::Start { container, attempt }),
        Image::Unknown => decision.actions.push(Action::Pull { container }),
        Image::Pulling => {}
        Image::Failed { at, .. } => match state.pull_backoff.until(*at, now) {
            None => decision.actions.push(Action::Pull { container }),
            Some((until, _)) => {
                let shown = at.saturating_add(PULL_ERROR_SHOWN).unwrap_or(until);
                decision.wake(if shown > now { shown.min(until) } else { until });
            }
        },
    }
}

/// How long the pod is given to end. One whose object has gone was forced away: nobody waits for it.
pub fn grace(pod: &Pod, state: &PodState) -> Duration {
    if state.orphaned { FORCED_GRACE } else { spec::grace(pod) }
}

fn end(pod: &Pod, state: &PodState, why: Ending, now: Timestamp, decision: &mut Decision) {
    let members = spec::members(pod);
    let (sidecars, others): (Vec<_>, Vec<_>) = members.iter().partition(|m| m.role == Role::Sidecar);
    let live = |m: &&&Member<'_>| state.container(m.name()).is_live();
    let since = state.ending_since.unwrap_or(now);
    let used = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    let grace = grace(pod, state).saturating_sub(used).max(Duration::from_secs(1));
    let wave: Vec<_> = if others.iter().any(|m| live(&m)) {
        others
    } else {
        // Each sidecar outlives those that were started after it.
        sidecars.iter().rev().find(live).into_iter().copied().collect()
    };
    let mut waiting = false;
    for member in wave.iter().filter(live) {
        waiting = true;
        if matches!(state.container(member.name()).run, Run::Running(_)) {
            decision.actions.push(Action::Kill { container: member.name().to_owned(), grace, cause: Cause::Pod });
        }
    }
    if !waiting {
        let busy = state.volumes == Volumes::Mounting
            || state.sandbox == Sandbox::Creating
            || state.containers.values().any(|c| c.image == Image::Pulling && why == Ending::Finished);
        match &state.sandbox {
            Sandbox::Removed if why == Ending::Deleted => decision.actions.push(Action::Forget),
            Sandbox::Removed | Sandbox::Removing { .. } | Sandbox::Creating => {}
            Sandbox::Absent | Sandbox::Failed { .. } | Sandbox::Ready { .. } if busy => {}
            Sandbox::Absent | Sandbox::Failed { .. } | Sandbox::Ready { .. } => {
                decision.actions.push(Action::RemoveSandbox);
            }
        }
    }
}

impl Decision {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }
}

#[cfg(test)]
mod tests;
