//! What a note changes in what the worker knows. No waiting here; what follows from the change is `decide`'s.

use std::sync::Arc;

use containers::runtime::Exit;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{Mounting, Note, RETRY, Trouble, Worker};
use crate::decide;
use crate::events::Kind;
use crate::model::{Action, Cause, Ended, Image, Resize, Run, Running, Sandbox, Volumes};
use crate::probe::Report;
use crate::spec::{self, ProbeKind, Role};

impl Worker {
    pub(super) fn apply(&mut self, note: Note) {
        match note {
            Note::Pod(pod) => self.pod_changed(pod),
            Note::Gone => {
                self.end_life(|worker| worker.state.orphaned = true);
                self.hurry();
            }
            Note::Exited { id, exit } => self.exited(&id, exit),
            Note::Lost => self.lost(),
            Note::MapsChanged => self.refresh(),
            Note::Mounted(result) => self.mounted(result),
            Note::Sandboxed(result) => self.sandboxed(result),
            Note::Pulled { container, result } => self.pulled(&container, result),
            Note::Started { container, attempt, result } => self.started(&container, attempt, result),
            Note::Probed { container, id, kind, report } => self.probed(&container, &id, kind, report),
            Note::Resized { given, result } => self.resized(&given, result),
            Note::SandboxRemoved(Ok(())) => self.state.sandbox = Sandbox::Removed,
            Note::SandboxRemoved(Err(message)) => {
                // `Failed` leads to another try at once; the wait keeps that from spinning.
                self.warn_once("FailedKillPod", message);
                self.state.sandbox = Sandbox::Removing { ips: Vec::new() };
                self.later(|worker| worker.remove_sandbox());
            }
            Note::Forgotten(result) => {
                if let Err(error) = result {
                    tracing::warn!(pod = %spec::long_name(&self.pod), %error, "the last of a pod is not cleared away, trying again");
                }
                self.later(Worker::forget);
            }
        }
    }

    fn pod_changed(&mut self, pod: Arc<Pod>) {
        if pod.metadata.deletion_timestamp.is_some() && self.pod.metadata.deletion_timestamp.is_none() {
            self.pod = pod;
            self.end_life(|_| {});
        } else {
            let before = std::mem::replace(&mut self.pod, pod);
            self.adapt(&before);
        }
        if self.pod.metadata.deletion_timestamp.is_some() {
            self.hurry();
        }
    }

    /// The few things that may change in a pod that runs: what it says of itself, and its images.
    fn adapt(&mut self, before: &Pod) {
        let said = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
        if said(before) != said(&self.pod) && self.state.volumes == Volumes::Mounted {
            self.refresh();
        }
        if decide::ending(&self.pod, &self.state).is_some() {
            return;
        }
        if self.state.resize != Resize::Underway {
            // What was refused is asked for anew: it may be something else now.
            self.state.resize = Resize::Settled;
        }
        let grace = spec::grace(&self.pod);
        let other = |name: &str| {
            let image = |pod: &Pod| spec::member(pod, name).and_then(|m| m.container.image.clone());
            image(before) != image(&self.pod)
        };
        let names: Vec<String> = spec::members(&self.pod).iter().map(|m| m.name().to_owned()).collect();
        for name in names.into_iter().filter(|name| other(name)).collect::<Vec<_>>() {
            self.kill_one(name, grace, Cause::Changed);
        }
    }

    /// Ends one container, which is then started again; the pod goes on.
    pub(super) fn kill_one(&mut self, container: String, grace: std::time::Duration, cause: Cause) {
        let ending_since = self.state.ending_since;
        self.begin(Action::Kill { container, grace, cause });
        self.state.ending_since = ending_since;
    }

    /// The pod is wanted no more: what is being pulled or made for it is given up.
    fn end_life(&mut self, act: impl FnOnce(&mut Worker)) {
        self.life.cancel();
        for container in self.state.containers.values_mut() {
            if container.image == Image::Pulling {
                container.image = Image::Unknown;
            }
        }
        act(self);
    }

    fn exited(&mut self, id: &str, exit: Exit) {
        let members = spec::members(&self.pod).iter().map(|m| m.name().to_owned()).collect::<Vec<_>>();
        let Some((name, attempt)) = super::start::name_of(id) else { return };
        if !members.contains(&name) {
            return;
        }
        self.kills.remove(id);
        let message = self.termination_message(&name, attempt, &exit);
        // Of a run that is over before its start was reported.
        let image = spec::member(&self.pod, &name).and_then(|member| member.container.image.clone());
        let image_id = super::image_id(&self.node, &image.unwrap_or_default());
        let state = self.state.container_mut(&name);
        let image_id = match &state.run {
            Run::Running(running) | Run::Stopping(running) if running.id == id => running.image_id.clone(),
            Run::Starting if state.restarts == attempt => image_id,
            Run::Never | Run::Starting | Run::Refused { .. } | Run::Running(_) | Run::Stopping(_) | Run::Ended(_) => {
                return;
            }
        };
        (state.started, state.ready, state.image) = (false, false, Image::Unknown);
        state.run = Run::Ended(ended(id, image_id, &exit, message));
        self.tell_of_backoff(&name);
    }

    /// `BackOff`, when the next start has to wait.
    fn tell_of_backoff(&mut self, name: &str) {
        let Some(member) = spec::member(&self.pod, name) else { return };
        let state = self.state.container(name);
        let Some(ended) = state.ended() else { return };
        let waits = state.backoff.until(ended.finished_at, Timestamp::now()).is_some();
        if waits && spec::restarts(&self.pod, &member, ended.code) && decide::ending(&self.pod, &self.state).is_none() {
            let message = format!("Back-off restarting failed container {name} in pod {}", spec::long_name(&self.pod));
            self.event(name, Kind::Warning, "BackOff", message);
        }
    }

    fn lost(&mut self) {
        let now = Timestamp::now();
        let names: Vec<String> = self.state.containers.keys().cloned().collect();
        for name in names {
            let state = self.state.container_mut(&name);
            if let Some(running) = state.running().cloned() {
                let exit = Exit {
                    code: 137,
                    signal: Some(9),
                    oom_killed: false,
                    started_at: Some(running.started_at),
                    finished_at: now,
                    message: Some("the pod's shim died".to_owned()),
                };
                self.exited(&running.id, exit);
            }
        }
        if let Sandbox::Ready { .. } = &self.state.sandbox {
            self.event_of_pod(Kind::Normal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
            self.state.sandbox = Sandbox::Creating;
            self.create_sandbox();
        }
    }

    fn mounted(&mut self, result: Result<Option<Timestamp>, String>) {
        let again = self.mounting == Mounting::Again;
        self.mounting = Mounting::Idle;
        if again && decide::ending(&self.pod, &self.state).is_none() {
            return self.mount_volumes();
        }
        match result {
            Ok(_) => {
                self.said.remove("FailedMount");
                if self.state.volumes == Volumes::Mounting {
                    self.state.volumes = Volumes::Mounted;
                }
            }
            Err(message) => {
                self.warn_once("FailedMount", message);
                if self.state.volumes == Volumes::Mounting {
                    self.state.volumes = Volumes::Failed { retry_at: Timestamp::now() + RETRY };
                }
            }
        }
    }

    fn sandboxed(&mut self, result: Result<Vec<std::net::IpAddr>, String>) {
        self.state.sandbox = match result {
            Ok(ips) => {
                self.said.remove("FailedCreatePodSandBox");
                Sandbox::Ready { ips }
            }
            Err(message) => {
                self.warn_once("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {message}"));
                Sandbox::Failed { retry_at: Timestamp::now() + RETRY }
            }
        };
    }

    fn pulled(&mut self, name: &str, result: Result<(), Trouble>) {
        if self.life.is_cancelled() {
            return;
        }
        let at = Timestamp::now();
        let state = self.state.container_mut(name);
        match result {
            Ok(()) => {
                state.image = Image::Present;
                state.pull_backoff = Default::default();
            }
            Err(trouble) => {
                state.pull_backoff.next(at, at);
                state.image = Image::Failed { reason: trouble.reason.clone(), message: trouble.message.clone(), at };
                let message = format!("Error: {}", trouble.reason);
                self.event(name, Kind::Warning, "Failed", message);
            }
        }
    }

    fn started(&mut self, name: &str, attempt: u32, result: Result<Running, Trouble>) {
        let state = self.state.container_mut(name);
        if state.restarts != attempt {
            return;
        }
        match (&mut state.run, result) {
            (Run::Starting, Ok(running)) => {
                self.said.clear();
                self.run_begins(name, running);
            }
            // It ended before its start was reported.
            (Run::Ended(ended), Ok(running)) => ended.image_id = running.image_id,
            (Run::Ended(ended), Err(trouble)) => {
                if let Some((_, image_id)) = trouble.ended {
                    ended.image_id = image_id;
                }
                self.event(name, Kind::Warning, "Failed", format!("Error: {}", trouble.message));
            }
            (Run::Starting, Err(trouble)) => {
                let now = Timestamp::now();
                state.image = Image::Unknown;
                state.run = match &trouble.ended {
                    Some((id, image_id)) => Run::Ended(Ended {
                        id: id.clone(),
                        image_id: image_id.clone(),
                        code: 128,
                        signal: None,
                        reason: trouble.reason.clone(),
                        message: Some(trouble.message.clone()),
                        started_at: None,
                        finished_at: now,
                    }),
                    None => {
                        let (reason, message) = (trouble.reason.clone(), trouble.message.clone());
                        Run::Refused { reason, message, retry_at: now + RETRY * 5 }
                    }
                };
                self.event(name, Kind::Warning, "Failed", format!("Error: {}", trouble.message));
                self.tell_of_backoff(name);
            }
            (Run::Never | Run::Refused { .. } | Run::Running(_) | Run::Stopping(_), _) => {}
        }
    }

    fn run_begins(&mut self, name: &str, running: Running) {
        let Some(member) = spec::member(&self.pod, name) else { return };
        let started = member.container.startup_probe.is_none();
        let ready =
            started && member.container.readiness_probe.is_none() && matches!(member.role, Role::Main | Role::Sidecar);
        let state = self.state.container_mut(name);
        state.run = Run::Running(running);
        (state.started, state.ready) = (started, ready);
    }

    fn probed(&mut self, name: &str, id: &str, kind: ProbeKind, report: Report) {
        if !report.answer.passed && !self.life.is_cancelled() {
            let message = format!("{} probe failed: {}", kind.word(), report.answer.message);
            self.event(name, Kind::Warning, "Unhealthy", message);
        }
        let Some(member) = spec::member(&self.pod, name) else { return };
        let state = self.state.container_mut(name);
        if state.running().is_none_or(|running| running.id != id) {
            return;
        }
        let Some(verdict) = report.verdict else { return };
        match (kind, verdict.passed) {
            (ProbeKind::Readiness, passed) => state.ready = passed && state.started,
            (ProbeKind::Startup, true) => {
                state.started = true;
                state.ready = member.container.readiness_probe.is_none();
            }
            (ProbeKind::Liveness, true) => {}
            (ProbeKind::Liveness | ProbeKind::Startup, false) => {
                let cause = if kind == ProbeKind::Startup { Cause::StartupProbe } else { Cause::LivenessProbe };
                let own = kind.of(&member.container).and_then(|p| p.termination_grace_period_seconds);
                let own = own.and_then(|s| u64::try_from(s).ok()).map(std::time::Duration::from_secs);
                let grace = own.unwrap_or_else(|| spec::grace(&self.pod));
                self.kill_one(name.to_owned(), grace, cause);
            }
        }
    }

    fn warn_once(&mut self, reason: &str, message: String) {
        if self.said.get(reason) != Some(&message) {
            self.event_of_pod(Kind::Warning, reason, &message);
            self.said.insert(reason.to_owned(), message);
        }
    }
}

/// An exit as the status words it.
pub(super) fn ended(id: &str, image_id: String, exit: &Exit, message: Option<String>) -> Ended {
    let reason = match (exit.oom_killed, exit.code, exit.started_at) {
        (true, ..) => "OOMKilled",
        (false, 0, _) => "Completed",
        (false, _, None) => "StartError",
        (false, _, Some(_)) => "Error",
    };
    Ended {
        id: id.to_owned(),
        image_id,
        code: exit.code,
        // Upstream gives the signal by the code alone.
        signal: None,
        reason: reason.to_owned(),
        message: message.or_else(|| exit.message.clone()),
        started_at: exit.started_at,
        finished_at: exit.finished_at,
    }
}
