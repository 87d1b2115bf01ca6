//! What the daemon does on the machine for a sandbox or a container before its shim runs it, and undoes afterwards.
//! Every step that can fail is undone before the error is returned; removing tolerates that parts are not there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use linux::NetNs;
use linux::cgroup::{Cgroup, Limits, Version};
use linux::mounts::{self, Overlay};

use super::libcontainer::Inner;
use super::spec::{Ingredients, Machine, capabilities, spec, working_dir};
use super::{ContainerConfig, ContainerState, Resources, SandboxConfig, seccomp, user};
use crate::Error;
use crate::disk::{self, ContainerDir, ContainerRecord, SandboxDir, SandboxRecord};
use crate::images::{self, Image};

/// Of the pod's shared memory folder, as in containerd.
const SHM_BYTES: u64 = 64 << 20;

pub(super) fn look_at_the_machine() -> Machine {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let version = Cgroup::at("portolan").map(|group| group.version());
    let devices = fs::read_dir("/dev").map(|d| d.flatten().map(|e| e.path()).collect::<Vec<_>>()).unwrap_or_default();
    Machine {
        controls_devices: matches!(version, Ok(Version::V1)),
        capabilities: bounding.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0),
        devices: devices.into_iter().filter(|d| !OURS.contains(&d.to_string_lossy().as_ref())).collect(),
    }
}

/// Device files that every container gets anyway.
const OURS: [&str; 9] = [
    "/dev/console",
    "/dev/full",
    "/dev/null",
    "/dev/ptmx",
    "/dev/random",
    "/dev/tty",
    "/dev/urandom",
    "/dev/zero",
    "/dev/pts",
];

/// Makes the sandbox and starts its shim.
pub(super) fn make_sandbox(of: &Inner, mut config: SandboxConfig) -> Result<(), Error> {
    disk::check_id(&config.id)?;
    if config.cgroup.is_empty() {
        config.cgroup = format!("portolan/{}", config.id);
    }
    let dir = SandboxDir(of.dir.join(&config.id));
    match fs::create_dir(&dir.0) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(Error::AlreadyExists(config.id)),
        made => made.map_err(Error::disk("make the folder", &dir.0))?,
    }
    let made = fill_sandbox(of, &dir, config);
    if made.is_err() {
        // The first error is the one to tell; what is left is found again at the next adoption.
        let _ = remove_sandbox(of, &dir);
    }
    made
}

fn fill_sandbox(of: &Inner, dir: &SandboxDir, config: SandboxConfig) -> Result<(), Error> {
    let record = SandboxRecord { config, created_at: Timestamp::now() };
    disk::write(&dir.record(), &record).map_err(Error::disk("write", dir.record()))?;
    let config = &record.config;
    for folder in [dir.containers(), dir.state(), dir.shm()] {
        fs::create_dir(&folder).map_err(Error::disk("make the folder", &folder))?;
    }
    let (network, ipc): (Vec<_>, Vec<_>) =
        config.sysctls.clone().into_iter().partition(|(key, _)| key.starts_with("net.") || key.starts_with("net/"));
    linux::namespaces::create(&dir.namespaces(), !config.host_ipc, config.hostname.as_deref(), &ipc)?;
    if let Some(path) = config.network.as_ref().filter(|_| !network.is_empty()) {
        let network_namespace = NetNs::open(path)?;
        for (key, value) in &network {
            network_namespace.set_sysctl(key, value)?;
        }
    }
    mounts::tmpfs(&dir.shm(), Some(SHM_BYTES), 0o1777)?;
    Cgroup::at(&config.cgroup)?.create(&limits(&config.resources))?;
    of.spawner.spawn(dir)
}

pub(super) fn limits(of: &Resources) -> Limits {
    let Resources { memory, cpu_shares, cpu_quota, cpu_period, pids } = *of;
    Limits { memory, cpu_shares, cpu_quota, cpu_period, pids }
}

/// Removes everything that a sandbox has, whether or not all of it is there. Its shim must be gone.
pub(super) fn remove_sandbox(of: &Inner, dir: &SandboxDir) -> Result<(), Error> {
    if !dir.0.exists() {
        return Ok(());
    }
    for id in disk::names(&dir.containers())? {
        let record: Option<ContainerRecord> = disk::read(&dir.container(&id).record()).unwrap_or_default();
        remove_container(of, dir, &id, record.as_ref())?;
    }
    // Where the record is damaged the machine has lost its power, and with it the control group.
    if let Some(record) = disk::read_whole::<SandboxRecord>(&dir.record())? {
        let group = Cgroup::at(&record.config.cgroup)?;
        group.kill(Duration::from_secs(10))?;
        group.remove()?;
        if let Some(first) = group.path().components().next() {
            // Shared by all sandboxes; it goes with the last.
            let _ = Cgroup::at(first).map(|root| root.child("shims").remove_empty());
        }
        group.remove_empty_parents();
    }
    linux::namespaces::delete(&dir.namespaces())?;
    mounts::unmount_all(&dir.0)?;
    // The record goes last: without it nobody would know the cgroup.
    let record = dir.record();
    for name in disk::names(&dir.0)?.iter().map(|name| dir.0.join(name)).filter(|path| *path != record) {
        let removed = if name.is_dir() { fs::remove_dir_all(&name) } else { fs::remove_file(&name) };
        removed.map_err(Error::disk("remove", &name))?;
    }
    fs::remove_dir_all(&dir.0).map_err(Error::disk("remove", &dir.0))
}

/// Makes the container's root filesystem and specification.
pub(super) fn make_container(
    of: &Inner,
    sandbox_dir: &SandboxDir,
    sandbox: &SandboxConfig,
    config: ContainerConfig,
) -> Result<(), Error> {
    disk::check_id(&config.id)?;
    let image = of.images.get(&config.image)?.ok_or_else(|| images::Error::NotPresent(config.image.clone()))?;
    let dir = sandbox_dir.container(&config.id);
    match fs::create_dir(&dir.0) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(Error::AlreadyExists(config.id)),
        made => made.map_err(Error::disk("make the folder", &dir.0))?,
    }
    of.images.hold(&image.id, &user_of_image(&sandbox.id, &config.id));
    let id = config.id.clone();
    let made = fill_container(of, sandbox_dir, sandbox, &dir, config, &image);
    if made.is_err() {
        let _ = remove_container(of, sandbox_dir, &id, None);
        of.images.release(&image.id, &user_of_image(&sandbox.id, &id));
    }
    made
}

fn fill_container(
    of: &Inner,
    sandbox_dir: &SandboxDir,
    sandbox: &SandboxConfig,
    dir: &ContainerDir,
    config: ContainerConfig,
    image: &Image,
) -> Result<(), Error> {
    for folder in [dir.rootfs(), dir.upper(), dir.work()] {
        fs::create_dir(&folder).map_err(Error::disk("make the folder", &folder))?;
    }
    mounts::overlay(&Overlay {
        base: &of.images.layers_dir(),
        lower: &of.images.lower_dirs(image),
        upper_and_work: Some((&dir.upper(), &dir.work())),
        target: &dir.rootfs(),
    })?;
    let user = user::resolve(&dir.rootfs(), &image.config.user, &config.identity)?;
    linux::rooted::create_dir_all(&dir.rootfs(), Path::new(&working_dir(&config, &image.config)), 0o755)?;
    if !config.security.privileged {
        let filters = seccomp::filters(&config.security.seccomp, &capabilities(&config.security, &of.machine))?;
        disk::write(&dir.seccomp(), &filters).map_err(Error::disk("write", dir.seccomp()))?;
    }
    let cgroup = PathBuf::from(&sandbox.cgroup).join(&config.id);
    let pid_namespace = config.pid_of.as_ref().map(|target| pid_namespace_of(sandbox_dir, target)).transpose()?;
    let specification = spec(&Ingredients {
        sandbox,
        container: &config,
        image: &image.config,
        user: &user,
        rootfs: &dir.rootfs(),
        namespaces: &sandbox_dir.namespaces(),
        pid_namespace: pid_namespace.as_deref(),
        shm: &sandbox_dir.shm(),
        cgroup: &cgroup,
        cgroup_folders: &Cgroup::at(&cgroup)?.folders_by_controller(),
        machine: &of.machine,
    })?;
    disk::write(&dir.spec(), &specification).map_err(Error::disk("write", dir.spec()))?;
    let record = ContainerRecord {
        stop_signal: stop_signal(&config, image)?,
        config,
        image_id: image.id.clone(),
        created_at: Timestamp::now(),
        cgroup,
        shares_pids: sandbox.host_pid || sandbox.share_pid || pid_namespace.is_some(),
    };
    disk::write(&dir.record(), &record).map_err(Error::disk("write", dir.record()))
}

fn pid_namespace_of(sandbox: &SandboxDir, container: &str) -> Result<PathBuf, Error> {
    match disk::read(&sandbox.container(container).state())? {
        Some(ContainerState::Running { pid, .. }) => Ok(PathBuf::from(format!("/proc/{pid}/ns/pid"))),
        Some(ContainerState::Created | ContainerState::Exited(_)) | None => {
            Err(Error::Create(format!("container `{container}`, whose processes should be seen, does not run")))
        }
    }
}

/// Removes everything that a container has but its log. It must have ended.
pub(super) fn remove_container(
    of: &Inner,
    sandbox_dir: &SandboxDir,
    id: &str,
    record: Option<&ContainerRecord>,
) -> Result<(), Error> {
    let dir = sandbox_dir.container(id);
    if let Some(record) = record {
        let group = Cgroup::at(&record.cgroup)?;
        group.kill(Duration::from_secs(10))?;
        group.remove()?;
    }
    if dir.0.exists() {
        mounts::unmount_all(&dir.0)?;
        fs::remove_dir_all(&dir.0).map_err(Error::disk("remove", &dir.0))?;
    }
    if let Some(record) = record {
        let sandbox = sandbox_dir.0.file_name().unwrap_or_default().to_string_lossy();
        of.images.release(&record.image_id, &user_of_image(&sandbox, id));
    }
    Ok(())
}

/// Removes containers whose making, or removal, was cut short: those without a record.
pub(super) fn remove_unfinished(of: &Inner, dir: &SandboxDir) -> Result<(), Error> {
    let Some(sandbox) = disk::read::<SandboxRecord>(&dir.record())? else { return Ok(()) };
    for id in disk::names(&dir.containers())? {
        if !dir.container(&id).record().exists() {
            let group = Cgroup::at(&sandbox.config.cgroup)?.child(&id);
            group.kill(Duration::from_secs(10))?;
            group.remove()?;
            remove_container(of, dir, &id, None)?;
        }
    }
    Ok(())
}

/// By what name a container holds its image.
pub(super) fn user_of_image(sandbox: &str, container: &str) -> String {
    format!("container {sandbox}/{container}")
}

/// The number of the signal that asks the container to stop: the pod's choice, the image's, or TERM.
fn stop_signal(config: &ContainerConfig, image: &Image) -> Result<i32, Error> {
    let Some(name) = config.stop_signal.as_ref().or(image.config.stop_signal.as_ref()) else {
        return Ok(libc::SIGTERM);
    };
    if let Ok(number @ 1..=64) = name.parse() {
        return Ok(number);
    }
    let full = if name.starts_with("SIG") { name.clone() } else { format!("SIG{name}") };
    if let Some(offset) = full.strip_prefix("SIGRTMIN+") {
        return offset.parse::<i32>().map(|n| 34 + n).map_err(|_| Error::Invalid(format!("no signal `{name}`")));
    }
    let parsed: Result<nix::sys::signal::Signal, _> = full.parse();
    parsed.map(|signal| signal as i32).map_err(|_| Error::Invalid(format!("no signal `{name}`")))
}
