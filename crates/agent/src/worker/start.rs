//! Making and starting a run of a container: everything in the spec as the runtime is told it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use containers::Error as RuntimeError;
use containers::runtime::{ContainerConfig, ContainerState, Exit};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::Api;
use tokio_util::sync::CancellationToken;

use super::{Note, Trouble, Worker, mounts, resize};
use crate::context::Context;
use crate::env::{self, EnvError, Maps, Request};
use crate::events::Kind;
use crate::model::Running;
use crate::probe::Target;
use crate::spec::{self, Member};
use crate::volumes;
use crate::{hooks, references, resources, security};

/// Upstream's limits of a termination message.
const MESSAGE_LIMIT: u64 = 4096;
const LOG_TAIL_LIMIT: usize = 2048;
const LOG_TAIL_LINES: usize = 80;
/// A `postStart` hook has no deadline of its own; a stuck one must not hold a task for ever.
const HOOK_LIMIT: Duration = Duration::from_secs(3600);

/// The runtime's id of a container's run.
pub(crate) fn id_of(container: &str, attempt: u32) -> String {
    format!("{container}.{attempt}")
}

/// The container and number of the run with that id.
pub(crate) fn name_of(id: &str) -> Option<(String, u32)> {
    let (name, attempt) = id.rsplit_once('.')?;
    Some((name.to_owned(), attempt.parse().ok()?))
}

impl Worker {
    pub(super) fn start_container(&mut self, container: String, attempt: u32) {
        let start = Start {
            node: Arc::clone(&self.node),
            pod: Arc::clone(&self.pod),
            ips: self.state.ips().to_vec(),
            ip: self.ip(),
            attempt,
            pid_of: self.target_of(&container),
            life: self.life.clone(),
        };
        let stale = self.state.container(&container).last.as_ref().map(|ended| ended.id.clone());
        self.spawn(async move {
            let result = start.run(&container, stale).await;
            Note::Started { container, attempt, result }
        });
    }

    /// The run whose processes an ephemeral container is to see, or the name of the container that should run and does not.
    fn target_of(&self, container: &str) -> Option<Result<String, String>> {
        let target = spec::member(&self.pod, container)?.target?.to_owned();
        Some(self.state.container(&target).running().map(|running| running.id.clone()).ok_or(target))
    }

    /// What the run left as its last words, by `terminationMessagePolicy`.
    pub(super) fn termination_message(&self, name: &str, attempt: u32, exit: &Exit) -> Option<String> {
        last_words(&self.node, &self.pod, &spec::member(&self.pod, name)?, attempt, exit)
    }
}

/// What a run left as its last words, by `terminationMessagePolicy`.
pub(crate) fn last_words(node: &Context, pod: &Pod, member: &Member<'_>, attempt: u32, exit: &Exit) -> Option<String> {
    let (uid, name) = (spec::uid(pod), member.name());
    let written = beginning(&node.termination_log(uid, name, attempt));
    if !written.is_empty() {
        return Some(written);
    }
    let from_log = member.container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if from_log && exit.code != 0 {
        let log = fs::read(node.log(uid, name, attempt)).unwrap_or_default();
        return Some(tail(&text(&log))).filter(|t| !t.is_empty());
    }
    None
}

/// An image as statuses name it: by the digest that its registry knows, or by its id if it came from none.
pub(crate) fn image_id(node: &Context, image: &str) -> String {
    match node.config.images.get(image) {
        Ok(Some(found)) => found.digests.first().cloned().unwrap_or(found.id),
        Ok(None) | Err(_) => image.to_owned(),
    }
}

/// As much of a file as a message may have; the program may have written any amount.
fn beginning(file: &Path) -> String {
    let mut bytes = Vec::new();
    let read = fs::File::open(file).and_then(|file| file.take(MESSAGE_LIMIT).read_to_end(&mut bytes));
    if read.is_ok() { text(&bytes) } else { String::new() }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The last lines of a log in the CRI format, as the program wrote them.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let last = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
    let mut from = last.len().saturating_sub(LOG_TAIL_LIMIT);
    while !last.is_char_boundary(from) {
        from += 1;
    }
    if last.is_empty() { last } else { format!("{}\n", &last[from..]) }
}

struct Start {
    node: Arc<Context>,
    pod: Arc<Pod>,
    ips: Vec<IpAddr>,
    ip: Option<IpAddr>,
    attempt: u32,
    pid_of: Option<Result<String, String>>,
    /// Ends when the pod is deleted.
    life: CancellationToken,
}

impl Start {
    async fn run(&self, name: &str, stale: Option<String>) -> Result<Running, Trouble> {
        let runtime = &self.node.config.runtime;
        let uid = spec::uid(&self.pod);
        let Some(member) = spec::member(&self.pod, name) else {
            return Err(trouble("CreateContainerError", "the container is no longer in the pod's spec"));
        };
        let id = id_of(name, self.attempt);
        let config = self.config(&member, &id).await?;
        if let Some(stale) = stale {
            // Its exit code and log are known; only its root filesystem is still there.
            let _ = runtime.remove_container(uid, &stale).await;
        }
        self.forget_old_runs(name);
        // What a crash of ours left half made under the same id.
        let _ = runtime.remove_container(uid, &id).await;
        let image = config.image.clone();
        let image_id = image_id(&self.node, &image);
        runtime.create_container(uid, config).await.map_err(|error| trouble(create_reason(&error), error))?;
        self.say(&member, "Created", "Container created");
        if let Err(error) = runtime.start_container(uid, &id).await {
            let reason = if matches!(error, RuntimeError::Start(_)) { "StartError" } else { "RunContainerError" };
            let ended = matches!(error, RuntimeError::Start(_)).then_some((id, image_id));
            return Err(Trouble { reason: reason.into(), message: error.to_string(), ended });
        }
        self.say(&member, "Started", "Container started");
        let started_at = match runtime.container_status(uid, &id).await.map(|s| s.state) {
            Ok(ContainerState::Running { started_at, .. }) => started_at,
            Ok(ContainerState::Exited(exit)) => exit.started_at.unwrap_or_else(Timestamp::now),
            Ok(ContainerState::Created) | Err(_) => Timestamp::now(),
        };
        self.after_start(&member, &id).await;
        Ok(Running { id, image_id, started_at, resources: resize::wanted(&member.container) })
    }

    /// Keeps the output and last words of the run before this one, and no older.
    fn forget_old_runs(&self, name: &str) {
        let uid = spec::uid(&self.pod);
        let is_old = |number: &str| number.parse::<u32>().is_ok_and(|n| n + 1 < self.attempt);
        let entries = |file: &Path| fs::read_dir(file.parent().unwrap_or(file)).into_iter().flatten().flatten();
        // `<n>.log`, and rotated ones with a time behind it.
        for entry in entries(&self.node.log(uid, name, 0)) {
            if entry.file_name().to_string_lossy().split('.').next().is_some_and(is_old) {
                let _ = fs::remove_file(entry.path());
            }
        }
        for entry in entries(&self.node.termination_log(uid, name, 0)) {
            let file = entry.file_name().to_string_lossy().into_owned();
            if name_of(&file).is_some_and(|(of, attempt)| of == name && attempt + 1 < self.attempt) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn say(&self, member: &Member<'_>, reason: &str, message: &str) {
        let path = format!("spec.{}{{{}}}", list_of(member), member.name());
        self.node.recorder.container(&self.pod, &path, Kind::Normal, reason, message);
    }

    /// A failed `postStart` ends the container, as upstream has it.
    async fn after_start(&self, member: &Member<'_>, id: &str) {
        let Some(handler) = member.container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return };
        let uid = spec::uid(&self.pod).to_owned();
        let spec = Arc::new(member.container.clone().into_owned());
        let target = Target { sandbox: uid.clone(), container: id.to_owned(), spec, ip: self.ip };
        let hook = hooks::run(&self.node, handler, &target, HOOK_LIMIT);
        // A pod that is to go does not wait for it.
        let Some(answer) = self.life.run_until_cancelled(hook).await else { return };
        if !answer.passed {
            let path = format!("spec.{}{{{}}}", list_of(member), member.name());
            let message = format!("PostStartHook failed: {}", answer.message);
            self.node.recorder.container(&self.pod, &path, Kind::Warning, "FailedPostStartHook", message);
            let grace = spec::grace(&self.pod);
            let _ = self.node.config.runtime.stop_container(&uid, id, grace).await;
        }
    }

    async fn config(&self, member: &Member<'_>, id: &str) -> Result<ContainerConfig, Trouble> {
        let container = &*member.container;
        let environment = self.environment(container).await?;
        let mounts = mounts::mounts(&self.node, &self.pod, container, self.attempt, &environment)
            .map_err(|e| trouble("CreateContainerConfigError", e))?;
        let uid = spec::uid(&self.pod);
        let pid_of = self.pid_of.clone().transpose().map_err(|target| {
            trouble("CreateContainerError", format!("target container \"{target}\" is not running"))
        })?;
        let words = |w: &Option<Vec<String>>| env::expand_all(w.as_ref(), &environment).unwrap_or_default();
        let memory = self.node.allocatable.get("memory").and_then(crate::quantity::parse).map_or(0, |m| m.units());
        Ok(ContainerConfig {
            id: id.to_owned(),
            image: container.image.clone().unwrap_or_default(),
            command: words(&container.command),
            args: words(&container.args),
            working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
            identity: security::identity(&self.pod, container).map_err(|e| trouble("CreateContainerConfigError", e))?,
            mounts,
            security: security::security(&self.pod, container),
            resources: resources::of_container(container),
            oom_score_adj: Some(resources::oom_score_adj(&self.pod, container, memory)),
            tty: container.tty.unwrap_or(false),
            stdin: container.stdin.unwrap_or(false),
            pid_of,
            stdin_once: container.stdin_once.unwrap_or(false),
            log_path: self.node.log(uid, member.name(), self.attempt),
            stop_signal: container.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
            labels: BTreeMap::from([("name".to_owned(), member.name().to_owned())]),
            env: environment,
            ..ContainerConfig::default()
        })
    }

    async fn environment(&self, container: &Container) -> Result<Vec<(String, String)>, Trouble> {
        let wrong = |error: EnvError| trouble("CreateContainerConfigError", error);
        self.node.services.synced().await;
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or("default");
        let maps = self.maps(container, namespace).await?;
        let placement = self.node.placement(&self.pod, &self.ips);
        let root = self.node.volumes(spec::uid(&self.pod));
        let volumes = self.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        let volumes = volumes.map(|v| (v.name.clone(), volumes::source(v, &root))).collect();
        let services = self.node.services_for(namespace);
        let request = Request {
            pod: &self.pod,
            container,
            placement: &placement,
            services: &services,
            maps: &maps,
            volumes: &volumes,
        };
        let mut all = env::compose(&request).map_err(wrong)?;
        let names = crate::files::names(&self.pod, &self.node.config.cluster_domain, &self.node.config.node_name);
        // The runtime would say it; first, so that the pod's own wins.
        all.insert(0, ("HOSTNAME".to_owned(), names.kernel));
        Ok(all)
    }

    /// Fetches what the environment refers to; what does not exist is left out.
    async fn maps(&self, container: &Container, namespace: &str) -> Result<Maps, Trouble> {
        let client = &self.node.client;
        let failed = |error: kube::Error| trouble("CreateContainerConfigError", error);
        let mut maps = Maps::default();
        let (config_maps, secrets) = references::of_environment(container);
        for name in config_maps {
            let found = Api::namespaced(client.clone(), namespace).get_opt(&name).await.map_err(failed)?;
            maps.config_maps.extend(found.map(|map| (name, Arc::new(map))));
        }
        for name in secrets {
            let found = Api::namespaced(client.clone(), namespace).get_opt(&name).await.map_err(failed)?;
            maps.secrets.extend(found.map(|secret| (name, Arc::new(secret))));
        }
        Ok(maps)
    }
}

fn list_of(member: &Member<'_>) -> &'static str {
    match member.role {
        spec::Role::Init | spec::Role::Sidecar => "initContainers",
        spec::Role::Main => "containers",
        spec::Role::Ephemeral => "ephemeralContainers",
    }
}

fn trouble(reason: &str, error: impl ToString) -> Trouble {
    Trouble { reason: reason.to_owned(), message: error.to_string(), ended: None }
}

fn create_reason(error: &RuntimeError) -> &'static str {
    match error {
        RuntimeError::Invalid(_) => "CreateContainerConfigError",
        RuntimeError::NoSuchSandbox(_)
        | RuntimeError::NoSuchContainer { .. }
        | RuntimeError::AlreadyExists(_)
        | RuntimeError::NotRunning { .. }
        | RuntimeError::Create(_)
        | RuntimeError::Start(_)
        | RuntimeError::Exec(_)
        | RuntimeError::ShimGone { .. }
        | RuntimeError::Image(_)
        | RuntimeError::Kernel(_)
        | RuntimeError::Disk { .. }
        | RuntimeError::Damaged { .. } => "CreateContainerError",
    }
}
