//! Doing what was decided, each in a task of its own that ends with a note to the worker.

use std::fs;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use containers::images::{Auth, Error as ImageError};
use containers::runtime::SandboxConfig;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use tokio_util::task::AbortOnDropHandle;

use super::mounts::SUBPATHS;
use super::report::{self, Named};
use super::{Mounting, Note, Trouble, Worker};
use crate::backoff::go_duration;
use crate::context::Context;
use crate::events::Kind;
use crate::files;
use crate::model::Run;
use crate::podnet::Attachment;
use crate::podnet::hostports::HostPort;
use crate::probe::{self, Target};
use crate::spec::{self, ProbeKind, PullPolicy};
use crate::volumes::{self, Mounter};
use crate::{registry, resources};

/// In a network of its own, a pod may open any port and ping without being root, as with containerd since 2.0.
const UNPRIVILEGED: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];
const TRY_AGAIN: Duration = Duration::from_secs(2);

impl Worker {
    /// Runs `work` beside the worker; its note comes back to it.
    pub(super) fn spawn(&mut self, work: impl Future<Output = Note> + Send + 'static) {
        let to_self = self.to_self.clone();
        self.tasks.spawn(async move {
            // The worker may be gone by then; nobody needs the note any more.
            let _ = to_self.send(work.await);
        });
    }

    /// Does something a little later, in place of what just failed.
    pub(super) fn later(&mut self, act: impl FnOnce(&mut Worker)) {
        self.delay = TRY_AGAIN;
        act(self);
        self.delay = Duration::ZERO;
    }

    pub(super) fn event(&self, container: &str, kind: Kind, reason: &str, message: impl Into<String>) {
        self.node.recorder.container(&self.pod, &field_path(&self.pod, container), kind, reason, message);
    }

    pub(super) fn event_of_pod(&self, kind: Kind, reason: &str, message: &str) {
        self.node.recorder.pod(&self.pod, kind, reason, message);
    }

    pub(super) fn mount_volumes(&mut self) {
        if self.mounting != Mounting::Idle {
            self.mounting = Mounting::Again;
            return;
        }
        self.mounting = Mounting::Busy;
        let work = mount(Arc::clone(&self.node), Arc::clone(&self.pod), self.state.ips().to_vec());
        let volumes = Arc::clone(&self.volumes);
        self.spawn(async move {
            let _alone = volumes.lock().await;
            Note::Mounted(work.await)
        });
    }

    pub(super) fn create_sandbox(&mut self) {
        let (node, pod) = (Arc::clone(&self.node), Arc::clone(&self.pod));
        self.spawn(async move { Note::Sandboxed(sandbox(&node, &pod).await) });
    }

    pub(super) fn remove_sandbox(&mut self) {
        let (node, uid, delay) = (Arc::clone(&self.node), self.uid.clone(), self.delay);
        let volumes = Arc::clone(&self.volumes);
        self.spawn(async move {
            tokio::time::sleep(delay).await;
            let _alone = volumes.lock().await;
            Note::SandboxRemoved(remove(&node, &uid).await)
        });
    }

    pub(super) fn pull(&mut self, container: String) {
        let (node, pod, life) = (Arc::clone(&self.node), Arc::clone(&self.pod), self.life.clone());
        self.spawn(async move {
            let given_up = || Err(Trouble { reason: "ErrImagePull".into(), message: "canceled".into(), ended: None });
            let result = life.run_until_cancelled(find_image(&node, &pod, &container)).await.unwrap_or_else(given_up);
            Note::Pulled { container, result }
        });
    }

    /// The address that probes and hooks go to.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        if spec::on_host_network(&self.pod) {
            return self.node.config.node_ips.first().copied();
        }
        self.state.ips().first().copied()
    }

    /// The last word to the API, then no trace of the pod.
    pub(super) fn forget(&mut self) {
        let (node, pod, delay) = (Arc::clone(&self.node), Arc::clone(&self.pod), self.delay);
        let orphaned = self.state.orphaned;
        let last = self.reporter.finish(&self.pod, &self.state, &self.node.host_ips());
        self.spawn(async move {
            tokio::time::sleep(delay).await;
            if !orphaned && let Err(error) = let_go(&node, &Named::of(&pod), &last).await {
                return Note::Forgotten(Err(error.to_string()));
            }
            Note::Forgotten(erase(&node, spec::uid(&pod)))
        });
    }

    /// Starts the probes of runs that have none, and ends those of runs that are over.
    pub(super) fn tend_probes(&mut self) {
        let mut wanted = Vec::new();
        for member in spec::members(&self.pod) {
            let state = self.state.container(member.name());
            let Some(running) = state.running() else { continue };
            let stopping = matches!(state.run, Run::Stopping(_));
            for kind in ProbeKind::ALL {
                let due = match kind {
                    ProbeKind::Startup => !state.started && !stopping,
                    ProbeKind::Liveness => state.started && !stopping,
                    // Whether a terminating pod still serves is what its endpoints' `serving` says.
                    ProbeKind::Readiness => state.started,
                };
                if let Some(spec) = kind.of(&member.container).filter(|_| due) {
                    let container = Arc::new(member.container.clone().into_owned());
                    wanted.push((member.name().to_owned(), kind, running.clone(), spec.clone(), container));
                }
            }
        }
        self.probes.retain(|(name, kind), (id, _)| {
            wanted.iter().any(|(n, k, running, ..)| n == name && k == kind && running.id == *id)
        });
        for (name, kind, running, probe, container) in wanted {
            if self.probes.contains_key(&(name.clone(), kind)) {
                continue;
            }
            let ip = self.ip();
            let target = Target { sandbox: self.uid.clone(), container: running.id.clone(), spec: container, ip };
            let (to_self, asker, key) = (self.to_self.clone(), self.node.asker.clone(), (name.clone(), kind));
            let id = running.id.clone();
            let tell = move |report| {
                let (container, id) = (name.clone(), running.id.clone());
                to_self.send(Note::Probed { container, id, kind, report }).is_ok()
            };
            let task = tokio::spawn(probe::watch(probe, target, asker, running.started_at, tell));
            self.probes.insert(key, (id, AbortOnDropHandle::new(task)));
        }
    }
}

/// `spec.containers{web}`, as events name a container.
fn field_path(pod: &Pod, container: &str) -> String {
    let list = match spec::member(pod, container).map(|m| m.role) {
        Some(spec::Role::Init | spec::Role::Sidecar) => "initContainers",
        Some(spec::Role::Ephemeral) => "ephemeralContainers",
        Some(spec::Role::Main) | None => "containers",
    };
    format!("spec.{list}{{{container}}}")
}

async fn mount(node: Arc<Context>, pod: Arc<Pod>, ips: Vec<IpAddr>) -> Result<Option<Timestamp>, String> {
    let root = node.volumes(spec::uid(&pod));
    fs::create_dir_all(&root).map_err(|e| format!("cannot make `{}`: {e}", root.display()))?;
    mount_images(&node, &pod, &root).await?;
    let placement = node.placement(&pod, &ips);
    let mounter = Mounter { client: &node.client, pod: &pod, placement: &placement, root: &root };
    mounter.mount_all().await.map_err(|failure| failure.to_string())
}

/// Makes the pod's sandbox, in place of one whose shim died, or of what a try that failed could not clear away. The volumes stay: what
/// the pod has written there is still the pod's.
async fn sandbox(node: &Context, pod: &Pod) -> Result<Vec<IpAddr>, String> {
    let uid = spec::uid(pod);
    isolated(pod)?;
    dismantle(node, uid).await?;
    let folder = node.folder(uid);
    fs::create_dir_all(&folder).map_err(|e| format!("cannot make `{}`: {e}", folder.display()))?;
    let host = spec::on_host_network(pod);
    let names = files::names(pod, &node.config.cluster_domain, &node.config.node_name);
    let network = if host {
        None
    } else {
        let attached = node.network.attach(uid, &folder, published(pod)).await;
        Some(attached.map_err(|e| format!("failed to setup network for sandbox: {e}"))?)
    };
    let ips = network.as_ref().map_or_else(|| node.config.node_ips.clone(), |a| a.ips.clone());
    let made = async {
        write_files(node, pod, &folder, &names, &ips).map_err(|e| format!("cannot write the pod's files: {e}"))?;
        let config = sandbox_config(node, pod, &names, network.as_ref());
        node.config.runtime.run_sandbox(config).await.map_err(|e| e.to_string())
    };
    let made = made.await;
    if made.is_err()
        && !host
        && let Err(error) = node.network.detach(&folder).await
    {
        tracing::warn!(pod = %spec::long_name(pod), %error, "network of a failed sandbox is left");
    }
    made.map(|()| ips)
}

/// A pod that asks to be kept apart more than we can does not run at all.
fn isolated(pod: &Pod) -> Result<(), String> {
    let spec = pod.spec.as_ref();
    if let Some(class) = spec.and_then(|s| s.runtime_class_name.as_deref()).filter(|class| !class.is_empty()) {
        return Err(format!("failed to get sandbox runtime: no runtime for \"{class}\" is configured"));
    }
    if spec.and_then(|s| s.host_users) == Some(false) {
        return Err("user namespaces are not supported on this node (`hostUsers: false`)".to_owned());
    }
    Ok(())
}

fn sandbox_config(node: &Context, pod: &Pod, names: &files::Names, network: Option<&Attachment>) -> SandboxConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let node_ns = node.config.netns.path().map(Path::to_path_buf);
    let sysctls = spec.security_context.as_ref().and_then(|s| s.sysctls.clone()).unwrap_or_default();
    let given = sysctls.into_iter().map(|s| (s.name.replace('/', "."), s.value));
    let usual = UNPRIVILEGED.iter().filter(|_| network.is_some()).map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    SandboxConfig {
        id: spec::uid(pod).to_owned(),
        hostname: network.map(|_| names.kernel.clone()),
        network: network.map(|a| a.namespace.clone()).or(node_ns),
        host_pid: spec.host_pid.unwrap_or(false),
        host_ipc: spec.host_ipc.unwrap_or(false),
        share_pid: spec.share_process_namespace.unwrap_or(false),
        cgroup: format!("{}/{}/pod{}", node.config.cgroup, resources::qos_folder(pod), spec::uid(pod)),
        resources: resources::of_pod(pod),
        sysctls: usual.chain(given).collect(),
        labels: [("namespace", text(&pod.metadata.namespace)), ("name", text(&pod.metadata.name))]
            .map(|(k, v)| (k.to_owned(), v))
            .into(),
    }
}

fn published(pod: &Pod) -> Vec<HostPort> {
    let one = |port: spec::Port| HostPort {
        host_ip: port.host_ip,
        protocol: port.protocol.number(),
        host_port: port.host_port,
        port: port.port,
    };
    spec::host_ports(pod).into_iter().map(one).collect()
}

fn write_files(node: &Context, pod: &Pod, folder: &Path, names: &files::Names, ips: &[IpAddr]) -> io::Result<()> {
    let aliases = pod.spec.as_ref().and_then(|s| s.host_aliases.clone()).unwrap_or_default();
    let hosts = if spec::on_host_network(pod) {
        files::hosts_of_host(&fs::read_to_string("/etc/hosts").unwrap_or_default(), &aliases)
    } else {
        files::hosts(&ips.iter().map(ToString::to_string).collect::<Vec<_>>(), names, &aliases)
    };
    fs::write(folder.join("etc-hosts"), hosts)?;
    fs::write(folder.join("hostname"), format!("{}\n", names.kernel))?;
    fs::write(folder.join("resolv.conf"), files::resolv_conf(pod, &node.dns()).render())
}

/// Takes a pod's sandbox and network away.
async fn dismantle(node: &Context, uid: &str) -> Result<(), String> {
    node.config.runtime.remove_sandbox(uid).await.map_err(|e| e.to_string())?;
    node.network.detach(&node.folder(uid)).await.map_err(|e| e.to_string())
}

/// Takes a pod's sandbox, network and volumes away; its logs stay.
pub(crate) async fn remove(node: &Context, uid: &str) -> Result<(), String> {
    dismantle(node, uid).await?;
    // Before the volumes, so that nothing is removed through them.
    linux::mounts::unmount_all(&node.folder(uid).join(SUBPATHS)).map_err(|e| e.to_string())?;
    let volumes = node.volumes(uid);
    volumes::image::release_all(&node.config.images, &volumes);
    erase_folder(&volumes)
}

/// Takes away what is left of a pod once it has been removed: its folder, with the logs.
pub(crate) fn erase(node: &Context, uid: &str) -> Result<(), String> {
    erase_folder(&node.folder(uid))
}

/// Unmounts first: what is mounted there is somebody else's.
fn erase_folder(folder: &Path) -> Result<(), String> {
    if !folder.exists() {
        return Ok(());
    }
    linux::mounts::unmount_all(folder).map_err(|e| e.to_string())?;
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("cannot remove `{}`: {error}", folder.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// An image that a container or a volume asks for.
struct Wanted<'a> {
    image: &'a str,
    policy: PullPolicy,
    /// Where events say that it is asked for; none is the pod.
    path: Option<String>,
}

async fn find_image(node: &Context, pod: &Pod, name: &str) -> Result<(), Trouble> {
    let Some(member) = spec::member(pod, name) else { return Ok(()) };
    let image = member.container.image.as_deref().unwrap_or_default();
    let policy = spec::pull_policy(image, member.container.image_pull_policy.as_deref());
    find(node, pod, Wanted { image, policy, path: Some(field_path(pod, name)) }).await
}

/// Finds the images of volumes, and mounts them.
async fn mount_images(node: &Context, pod: &Pod, root: &Path) -> Result<(), String> {
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let Some(source) = &volume.image else { continue };
        let name = source.reference.as_deref().unwrap_or_default();
        let failed =
            |e: &dyn std::fmt::Display| format!("MountVolume.SetUp failed for volume \"{}\" : {e}", volume.name);
        let target = root.join(&volume.name);
        if !target.exists() {
            let policy = spec::pull_policy(name, source.pull_policy.as_deref());
            let found = find(node, pod, Wanted { image: name, policy, path: None }).await;
            found.map_err(|trouble| failed(&format!("{}: {}", trouble.reason, trouble.message)))?;
        }
        let image = node.config.images.get(name).map_err(|e| failed(&e))?;
        let image = image.ok_or_else(|| failed(&"the image has gone"))?;
        volumes::image::mount(&node.config.images, &image, &target).map_err(|e| failed(&e))?;
    }
    Ok(())
}

async fn find(node: &Context, pod: &Pod, wanted: Wanted<'_>) -> Result<(), Trouble> {
    let Wanted { image, policy, path } = wanted;
    let say = |kind, reason: &str, message: String| match &path {
        Some(path) => node.recorder.container(pod, path, kind, reason, message),
        None => node.recorder.pod(pod, kind, reason, message),
    };
    let present = node.config.images.get(image);
    if let Err(ImageError::InvalidName { name, reason }) = &present {
        let message =
            format!("Failed to apply default image tag \"{name}\": couldn't parse image name \"{name}\": {reason}");
        say(Kind::Warning, "InspectFailed", message.clone());
        return Err(Trouble { reason: "InvalidImageName".into(), message, ended: None });
    }
    match (policy, matches!(present, Ok(Some(_)))) {
        (PullPolicy::IfNotPresent | PullPolicy::Never, true) => {
            let message =
                format!("Container image \"{image}\" already present on machine and can be accessed by the pod");
            say(Kind::Normal, "Pulled", message);
            return Ok(());
        }
        (PullPolicy::Never, false) => {
            let message = format!("Container image \"{image}\" is not present with pull policy of Never");
            say(Kind::Warning, "ErrImageNeverPull", message.clone());
            return Err(Trouble { reason: "ErrImageNeverPull".into(), message, ended: None });
        }
        (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, false) => {}
    }
    say(Kind::Normal, "Pulling", format!("Pulling image \"{image}\""));
    let began = Timestamp::now();
    let auths = credentials(node, pod, image).await;
    let mut outcome = None;
    for auth in auths.iter().chain([&Auth::Anonymous]) {
        let pulled = node.config.images.pull(image, auth, &node.config.pull, |_| {}).await;
        let done = pulled.is_ok();
        outcome = Some(pulled);
        if done {
            break;
        }
    }
    match outcome {
        Some(Err(error)) => {
            let (reason, message) = (error.reason().to_owned(), error.to_string());
            say(Kind::Warning, "Failed", format!("Failed to pull image \"{image}\": {message}"));
            Err(Trouble { reason, message, ended: None })
        }
        Some(Ok(found)) => {
            let took = Timestamp::now().duration_since(began);
            let took = go_duration(SignedDuration::from_millis(i64::try_from(took.as_millis()).unwrap_or(0)));
            let message = format!(
                "Successfully pulled image \"{image}\" in {took} ({took} including waiting). Image size: {} bytes.",
                found.size
            );
            say(Kind::Normal, "Pulled", message);
            Ok(())
        }
        None => Ok(()),
    }
}

async fn credentials(node: &Context, pod: &Pod, image: &str) -> Vec<Auth> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let api: Api<Secret> = Api::namespaced(node.client.clone(), namespace);
    let mut found = Vec::new();
    for reference in pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()) {
        if let Ok(Some(secret)) = api.get_opt(&reference.name).await {
            found.extend(registry::auths(&secret, image));
        }
    }
    found
}

async fn let_go(node: &Context, pod: &Named, last: &k8s_openapi::api::core::v1::PodStatus) -> kube::Result<()> {
    match report::write(&node.client, pod, last).await {
        Err(kube::Error::Api(refused)) if matches!(refused.code, 404 | 409) => return Ok(()),
        Ok(()) => {}
        Err(error) => return Err(error),
    }
    let api: Api<Pod> = Api::namespaced(node.client.clone(), &pod.namespace);
    let preconditions = Preconditions { uid: Some(pod.uid.clone()), ..Preconditions::default() };
    let now = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }.grace_period(0);
    match api.delete(&pod.name, &now).await {
        Err(kube::Error::Api(refused)) if matches!(refused.code, 404 | 409) => Ok(()),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}
