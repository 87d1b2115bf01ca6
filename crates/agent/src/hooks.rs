//! Lifecycle hooks: what a container is given to do just after its start and just before its end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{LifecycleHandler, Pod};
use tokio::time::Instant;

use crate::context::Context;
use crate::events::Kind;
use crate::probe::{Answer, Target};
use crate::spec;

/// After the hook of a terminating container has used up the grace, so much is still left for it to end.
const LEAST: Duration = Duration::from_secs(2);

/// Runs `preStop` within the grace period; gives what is left of it.
pub(crate) async fn before_stop(
    node: &Context,
    pod: &Pod,
    container: &str,
    id: &str,
    ip: Option<IpAddr>,
    grace: Duration,
) -> Duration {
    let Some(member) = spec::member(pod, container) else { return grace };
    let Some(handler) = member.container.lifecycle.as_ref().and_then(|l| l.pre_stop.clone()) else { return grace };
    let began = Instant::now();
    let spec = Arc::new(member.container.into_owned());
    let target = Target { sandbox: spec::uid(pod).to_owned(), container: id.to_owned(), spec, ip };
    let answer = run(node, &handler, &target, grace).await;
    if !answer.passed {
        let path = format!("spec.containers{{{container}}}");
        let message = format!("PreStopHook failed: {}", answer.message);
        node.recorder.container(pod, &path, Kind::Warning, "FailedPreStopHook", message);
    }
    grace.saturating_sub(began.elapsed()).max(LEAST.min(grace))
}

/// Runs a hook to its end.
pub(crate) async fn run(node: &Context, handler: &LifecycleHandler, target: &Target, timeout: Duration) -> Answer {
    if let Some(exec) = &handler.exec {
        return node.asker.exec(exec, target, timeout).await;
    }
    if let Some(get) = &handler.http_get {
        return node.asker.get(get, target, timeout).await;
    }
    let passed = Answer { passed: true, message: String::new() };
    if let Some(sleep) = &handler.sleep {
        let wish = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
        tokio::time::sleep(wish.min(timeout)).await;
        return passed;
    }
    // A TCP handler is accepted for old manifests and does nothing, by the API reference.
    passed
}
