//! Giving running containers other resources, by the kernel's limits or, where a container asks for it, by a restart.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use super::{Note, Worker};
use crate::model::{Cause, Resize, Run};
use crate::spec::{self, Member};
use crate::{resize, resources};

/// What the node does not have, or the kernel does not take, is asked for again so soon.
const AGAIN: SignedDuration = SignedDuration::from_secs(5);

impl Worker {
    pub(super) fn resize(&mut self) {
        let others = (self.node.neighbours)(&self.uid);
        let others: Vec<&Pod> = others.iter().map(|pod| &**pod).collect();
        let retry_at = Timestamp::now() + AGAIN;
        if let Some((reason, message)) = resize::refusal(&self.pod, &others, &self.node.allocatable) {
            self.state.resize = Resize::Refused { reason, message, retry_at };
            return;
        }
        self.state.resize = Resize::Underway;
        let mut given = Vec::new();
        let mut limits = Vec::new();
        for member in self.to_resize() {
            let Run::Running(running) = &self.state.container(member.name()).run else { continue };
            if !resize::needs_restart(&running.resources, &member.container) {
                limits.push((running.id.clone(), resources::of_container(&member.container)));
                given.push((running.id.clone(), wanted(&member.container)));
            }
        }
        let (node, pod, uid) = (Arc::clone(&self.node), Arc::clone(&self.pod), self.uid.clone());
        self.spawn(async move {
            let whole = resources::of_pod(&pod);
            let done = node.config.runtime.update_resources(&uid, &whole, &limits).await;
            Note::Resized { given, result: done.map_err(|e| e.to_string()) }
        });
    }

    pub(super) fn resized(&mut self, given: &[(String, ResourceRequirements)], result: Result<(), String>) {
        if let Err(message) = result {
            self.state.resize = Resize::Failed { message, retry_at: Timestamp::now() + AGAIN };
            return;
        }
        self.state.resize = Resize::Settled;
        for container in self.state.containers.values_mut() {
            if let Run::Running(running) | Run::Stopping(running) = &mut container.run
                && let Some((_, resources)) = given.iter().find(|(id, _)| *id == running.id)
            {
                running.resources = resources.clone();
            }
        }
        let restart = |member: &Member<'_>| {
            let running = self.state.container(member.name()).running();
            running.is_some_and(|running| resize::needs_restart(&running.resources, &member.container))
        };
        let names: Vec<String> = self.to_resize().iter().filter(|m| restart(m)).map(|m| m.name().to_owned()).collect();
        let grace = spec::grace(&self.pod);
        for name in names {
            self.kill_one(name, grace, Cause::Resized);
        }
    }

    fn to_resize(&self) -> Vec<Member<'_>> {
        let members = spec::members(&self.pod).into_iter();
        members.filter(|member| resize::is_wanted(self.state.container(member.name()), member)).collect()
    }
}

pub(super) fn wanted(container: &Container) -> ResourceRequirements {
    container.resources.clone().unwrap_or_default()
}
