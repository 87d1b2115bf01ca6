//! Ending a container: its hook, its signal, and the time that both have, which can become less while they run.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use containers::runtime::{ContainerState, Exit};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use super::{Note, Worker};
use crate::context::Context;
use crate::events::Kind;
use crate::model::Cause;
use crate::{decide, hooks, spec};

impl Worker {
    pub(super) fn kill(&mut self, container: String, id: String, grace: Duration, cause: Cause) {
        let message = match cause {
            Cause::Pod => format!("Stopping container {container}"),
            Cause::LivenessProbe => format!("Container {container} failed liveness probe, will be restarted"),
            Cause::StartupProbe => format!("Container {container} failed startup probe, will be restarted"),
            Cause::Changed => format!("Container {container} definition changed, will be restarted"),
            Cause::Resized => format!("Container {container} resize requires restart"),
        };
        self.event(&container, Kind::Normal, "Killing", message);
        let (hurry, mut left) = watch::channel(grace);
        self.kills.insert(id.clone(), hurry);
        let (node, pod, ip) = (Arc::clone(&self.node), Arc::clone(&self.pod), self.ip());
        let ips = self.state.ips().to_vec();
        self.spawn(async move {
            let polite = async {
                let left = match cause {
                    Cause::Pod => node.drain.hold(&node, &pod, &ips, grace).await,
                    // It starts again in its place: its endpoint is not ready meanwhile and stays.
                    Cause::LivenessProbe | Cause::StartupProbe | Cause::Changed | Cause::Resized => grace,
                };
                politely(&node, &pod, &container, &id, ip, left).await
            };
            let exit = tokio::select! {
                exit = polite => exit,
                less = less_than(grace, &mut left) => stop(&node, spec::uid(&pod), &id, less).await,
            };
            Note::Exited { id, exit }
        });
    }

    /// The pod is given less time than was said before.
    pub(super) fn hurry(&mut self) {
        let grace = decide::grace(&self.pod, &self.state);
        for kill in self.kills.values() {
            kill.send_if_modified(|before| std::mem::replace(before, grace.min(*before)) > grace);
        }
    }
}

/// Waits until there is less time than `grace`.
async fn less_than(grace: Duration, left: &mut watch::Receiver<Duration>) -> Duration {
    let less = left.wait_for(|now| *now < grace).await.map(|now| *now).ok();
    match less {
        Some(less) => less,
        // Nobody is there any more who could say so.
        None => std::future::pending().await,
    }
}

async fn politely(node: &Context, pod: &Pod, container: &str, id: &str, ip: Option<IpAddr>, grace: Duration) -> Exit {
    let left = hooks::before_stop(node, pod, container, id, ip, grace).await;
    stop(node, spec::uid(pod), id, left).await
}

async fn stop(node: &Context, uid: &str, id: &str, grace: Duration) -> Exit {
    let runtime = &node.config.runtime;
    if let Err(error) = runtime.stop_container(uid, id, grace).await {
        tracing::warn!(container = id, %error, "container not stopped");
    }
    match runtime.container_status(uid, id).await.map(|status| status.state) {
        Ok(ContainerState::Exited(exit)) => exit,
        Ok(ContainerState::Created | ContainerState::Running { .. }) | Err(_) => Exit {
            code: 137,
            signal: Some(9),
            oom_killed: false,
            started_at: None,
            finished_at: Timestamp::now(),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
        },
    }
}
