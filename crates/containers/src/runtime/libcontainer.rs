//! Our own runtime: OCI containers through one shim a pod, no program but ours.
//!
//! The daemon prepares (folders, mounts, cgroups, the specification), the shim runs. What is known about a sandbox is on
//! disk; the only thing kept in memory is one watching connection to each shim.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use linux::cgroup::Cgroup;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::client::Connection;
use super::prepare;
use super::spawner::Spawner;
use super::spec::Machine;
use super::{
    ContainerConfig, ContainerState, ContainerStatus, Event, Exec, ExecConfig, Resources, Runtime, Sandbox,
    SandboxConfig, Stats, Streams, lost, resize, streams,
};
use crate::Error;
use crate::disk::{self, ContainerRecord, SandboxDir, SandboxRecord};
use crate::images::ImageStore;
use crate::shim::protocol::{Reply, Request};

#[derive(Clone, Debug)]
pub struct Libcontainer {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) dir: PathBuf,
    pub(super) images: ImageStore,
    pub(super) spawner: Spawner,
    pub(super) machine: Machine,
    events: broadcast::Sender<Event>,
    /// Sandbox → the task that listens to its shim.
    watchers: Mutex<BTreeMap<String, JoinHandle<()>>>,
}

impl Libcontainer {
    /// `dir` holds bundles, shim state and sockets; it must stay the same over restarts. `images` is where containers'
    /// root filesystems come from. The running program itself is started as shim.
    pub fn new(dir: impl AsRef<Path>, images: ImageStore) -> Result<Libcontainer, Error> {
        Libcontainer::with_shim(dir, images, "/proc/self/exe")
    }

    /// As [`Libcontainer::new`], with another program whose `main` calls [`crate::shim::main`] for its argument `shim`.
    pub fn with_shim(
        dir: impl AsRef<Path>,
        images: ImageStore,
        program: impl Into<PathBuf>,
    ) -> Result<Libcontainer, Error> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir).map_err(Error::disk("make the folder", dir))?;
        let dir = std::fs::canonicalize(dir).map_err(Error::disk("find", dir))?;
        let inner = Inner {
            dir,
            images,
            spawner: Spawner::new(program.into()),
            machine: prepare::look_at_the_machine(),
            events: broadcast::channel(1024).0,
            watchers: Mutex::default(),
        };
        Ok(Libcontainer { inner: Arc::new(inner) })
    }

    pub(super) fn sandbox_dir(&self, sandbox: &str) -> SandboxDir {
        SandboxDir(self.inner.dir.join(sandbox))
    }

    fn sandbox_record(&self, sandbox: &str) -> Result<(SandboxDir, SandboxRecord), Error> {
        disk::check_id(sandbox)?;
        let dir = self.sandbox_dir(sandbox);
        let record = disk::read(&dir.record())?;
        record.map(|record| (dir, record)).ok_or_else(|| Error::NoSuchSandbox(sandbox.to_owned()))
    }

    fn container_record(&self, sandbox: &str, container: &str) -> Result<(SandboxDir, ContainerRecord), Error> {
        disk::check_id(container)?;
        let (dir, _) = self.sandbox_record(sandbox)?;
        let record = disk::read(&dir.container(container).record())?;
        let (sandbox, container) = (sandbox.to_owned(), container.to_owned());
        record.map(|record| (dir, record)).ok_or(Error::NoSuchContainer { sandbox, container })
    }

    async fn ask(&self, sandbox: &str, request: Request) -> Result<Reply, Error> {
        let connection = Connection::open(sandbox, &self.sandbox_dir(sandbox))?;
        Ok(connection.ask(&request, &[]).await?.0)
    }

    /// Listens to the sandbox's shim until it ends or [`Libcontainer::ignore`] is called.
    pub(super) async fn watch(&self, sandbox: &str) -> Result<(), Error> {
        let connection = Connection::open(sandbox, &self.sandbox_dir(sandbox))?;
        connection.ask(&Request::Watch, &[]).await?;
        let (this, sandbox) = (self.clone(), sandbox.to_owned());
        let key = sandbox.clone();
        let task = tokio::spawn(async move {
            loop {
                match connection.next().await {
                    Ok(Reply::ContainerExited { container, exit }) => {
                        this.tell(Event::ContainerExited { sandbox: sandbox.clone(), container, exit });
                    }
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            tracing::warn!(%sandbox, "the shim of a sandbox has died");
            this.lose(&sandbox).await;
        });
        if let Some(old) = self.watchers().insert(key, task) {
            old.abort();
        }
        Ok(())
    }

    /// The shim's end is expected from now on.
    fn ignore(&self, sandbox: &str) {
        if let Some(task) = self.watchers().remove(sandbox) {
            task.abort();
        }
    }

    /// Settles what is left of a sandbox whose shim is dead or dying, and tells.
    pub(super) async fn lose(&self, sandbox: &str) {
        let dir = self.sandbox_dir(sandbox);
        let settled = tokio::task::spawn_blocking(move || lost::settle(&dir)).await;
        match settled {
            Ok(Ok(exits)) => {
                for (container, exit) in exits {
                    self.tell(Event::ContainerExited { sandbox: sandbox.to_owned(), container, exit });
                }
            }
            Ok(Err(e)) => tracing::error!(%sandbox, error = %e, "a dead sandbox could not be settled"),
            Err(e) => tracing::error!(%sandbox, error = %e, "a dead sandbox could not be settled"),
        }
        self.tell(Event::SandboxLost { sandbox: sandbox.to_owned() });
    }

    fn tell(&self, event: Event) {
        // Nobody may be listening yet; everything is on disk as well.
        let _ = self.inner.events.send(event);
    }

    fn watchers(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, JoinHandle<()>>> {
        self.inner.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn look(&self, dir: &SandboxDir) -> Result<Option<Sandbox>, Error> {
        let Some(record) = disk::read::<SandboxRecord>(&dir.record())? else { return Ok(None) };
        let mut containers = Vec::new();
        for id in disk::names(&dir.containers())? {
            // A folder without a record is a container that was never finished.
            if let Some(record) = disk::read(&dir.container(&id).record())? {
                containers.push(status(dir, &id, record)?);
            }
        }
        let lost = lost::shim(dir)?.is_none();
        Ok(Some(Sandbox { config: record.config, created_at: record.created_at, lost, containers }))
    }

    /// Waits until the container has ended; false when it has not after `patience`.
    async fn wait_for_exit(
        &self,
        events: &mut broadcast::Receiver<Event>,
        sandbox: &str,
        container: &str,
        patience: Duration,
    ) -> Result<bool, Error> {
        let ended = async {
            loop {
                if matches!(self.container_status(sandbox, container).await?.state, ContainerState::Exited(_)) {
                    return Ok(());
                }
                // Any event, and a lag too, is a reason to look again.
                let _ = events.recv().await;
            }
        };
        match tokio::time::timeout(patience, ended).await {
            Ok(ended) => ended.map(|()| true),
            Err(_) => Ok(false),
        }
    }
}

fn status(dir: &SandboxDir, id: &str, record: ContainerRecord) -> Result<ContainerStatus, Error> {
    let state = disk::read(&dir.container(id).state())?.unwrap_or(ContainerState::Created);
    let ContainerRecord { config, image_id, created_at, .. } = record;
    Ok(ContainerStatus { config, image_id, created_at, state })
}

/// Kernel work that may take milliseconds is done beside the async threads.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(act).await;
    done.map_err(|e| Error::Invalid(format!("the work was broken off: {e}")))?
}

#[async_trait]
impl Runtime for Libcontainer {
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<(), Error> {
        let (this, id) = (self.clone(), config.id.clone());
        blocking(move || prepare::make_sandbox(&this.inner, config)).await?;
        if let Err(e) = self.watch(&id).await {
            self.remove_sandbox(&id).await?;
            return Err(e);
        }
        Ok(())
    }

    async fn stop_sandbox(&self, sandbox: &str) -> Result<(), Error> {
        let (dir, _) = match self.sandbox_record(sandbox) {
            Err(Error::NoSuchSandbox(_)) => return Ok(()),
            found => found?,
        };
        self.ignore(sandbox);
        match self.ask(sandbox, Request::Shutdown).await {
            Ok(_) | Err(Error::ShimGone { .. }) => {}
            Err(e) => return Err(e),
        }
        for (container, exit) in blocking(move || lost::settle(&dir)).await? {
            self.tell(Event::ContainerExited { sandbox: sandbox.to_owned(), container, exit });
        }
        Ok(())
    }

    async fn remove_sandbox(&self, sandbox: &str) -> Result<(), Error> {
        disk::check_id(sandbox)?;
        self.stop_sandbox(sandbox).await?;
        let this = self.clone();
        let dir = self.sandbox_dir(sandbox);
        blocking(move || prepare::remove_sandbox(&this.inner, &dir)).await
    }

    async fn create_container(&self, sandbox: &str, config: ContainerConfig) -> Result<(), Error> {
        let (dir, record) = self.sandbox_record(sandbox)?;
        let this = self.clone();
        blocking(move || prepare::make_container(&this.inner, &dir, &record.config, config)).await
    }

    async fn start_container(&self, sandbox: &str, container: &str) -> Result<(), Error> {
        self.container_record(sandbox, container)?;
        self.ask(sandbox, Request::Start { container: container.to_owned() }).await.map(drop)
    }

    async fn stop_container(&self, sandbox: &str, container: &str, grace: Duration) -> Result<(), Error> {
        let (_, record) = self.container_record(sandbox, container)?;
        let mut events = self.events();
        let polite = self.signal_container(sandbox, container, record.stop_signal).await;
        match polite {
            Err(Error::NotRunning { .. } | Error::ShimGone { .. }) => return Ok(()),
            other => other?,
        }
        if self.wait_for_exit(&mut events, sandbox, container, grace).await? {
            return Ok(());
        }
        match self.signal_container(sandbox, container, libc::SIGKILL).await {
            Err(Error::NotRunning { .. } | Error::ShimGone { .. }) => return Ok(()),
            other => other?,
        }
        // The end of a killed process can wait for its disk; longer than this is worth an error, and another try.
        if self.wait_for_exit(&mut events, sandbox, container, Duration::from_secs(60)).await? {
            return Ok(());
        }
        Err(Error::Invalid(format!("container `{container}` does not die")))
    }

    async fn signal_container(&self, sandbox: &str, container: &str, signal: i32) -> Result<(), Error> {
        self.container_record(sandbox, container)?;
        self.ask(sandbox, Request::Signal { container: container.to_owned(), signal }).await.map(drop)
    }

    async fn remove_container(&self, sandbox: &str, container: &str) -> Result<(), Error> {
        let record = match self.container_record(sandbox, container) {
            Err(e) if e.is_gone() => None,
            found => Some(found?.1),
        };
        if record.is_some() {
            self.stop_container(sandbox, container, Duration::ZERO).await?;
            match self.ask(sandbox, Request::Forget { container: container.to_owned() }).await {
                Ok(_) | Err(Error::ShimGone { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        let (this, container) = (self.clone(), container.to_owned());
        let dir = self.sandbox_dir(sandbox);
        blocking(move || prepare::remove_container(&this.inner, &dir, &container, record.as_ref())).await
    }

    async fn update_resources(
        &self,
        sandbox: &str,
        whole: &Resources,
        containers: &[(String, Resources)],
    ) -> Result<(), Error> {
        let (dir, record) = self.sandbox_record(sandbox)?;
        let (whole, containers) = (*whole, containers.to_vec());
        blocking(move || resize::resize(&dir, record, whole, containers)).await
    }

    async fn container_status(&self, sandbox: &str, container: &str) -> Result<ContainerStatus, Error> {
        let (dir, record) = self.container_record(sandbox, container)?;
        status(&dir, container, record)
    }

    async fn container_stats(&self, sandbox: &str, container: &str) -> Result<Stats, Error> {
        let (_, record) = self.container_record(sandbox, container)?;
        let usage = Cgroup::at(&record.cgroup)?.usage();
        Ok(Stats {
            cpu_nanos: usage.cpu_nanos,
            memory_bytes: usage.memory_bytes,
            working_set_bytes: usage.memory_bytes.saturating_sub(usage.inactive_file_bytes),
            pids: usage.pids,
        })
    }

    async fn exec(&self, sandbox: &str, container: &str, config: ExecConfig) -> Result<Exec, Error> {
        self.container_record(sandbox, container)?;
        if config.command.is_empty() {
            return Err(Error::Invalid("no command specified".to_owned()));
        }
        let connection = Connection::open(sandbox, &self.sandbox_dir(sandbox))?;
        streams::exec(connection, container, config).await
    }

    async fn attach(&self, sandbox: &str, container: &str, stdin: bool) -> Result<Streams, Error> {
        self.container_record(sandbox, container)?;
        let connection = Connection::open(sandbox, &self.sandbox_dir(sandbox))?;
        streams::attach(connection, container, stdin).await
    }

    async fn reopen_log(&self, sandbox: &str, container: &str) -> Result<(), Error> {
        self.container_record(sandbox, container)?;
        self.ask(sandbox, Request::ReopenLog { container: container.to_owned() }).await.map(drop)
    }

    async fn list(&self) -> Result<Vec<Sandbox>, Error> {
        let this = self.clone();
        blocking(move || {
            let dirs = disk::names(&this.inner.dir)?.into_iter().map(|id| this.look(&this.sandbox_dir(&id)));
            dirs.filter_map(Result::transpose).collect()
        })
        .await
    }

    async fn adopt(&self) -> Result<Vec<Sandbox>, Error> {
        for id in disk::names(&self.inner.dir)? {
            let dir = self.sandbox_dir(&id);
            let found = match self.look(&dir) {
                // A loss of power leaves files that are empty, and no processes.
                Err(damaged @ Error::Damaged { .. }) if lost::shim(&dir)?.is_none() => {
                    tracing::warn!(sandbox = %id, error = %damaged, "clearing away what is left of a sandbox");
                    None
                }
                found => found?,
            };
            let Some(found) = found else {
                // It was never finished, or its removal was: either way nobody knows it.
                let this = self.clone();
                blocking(move || prepare::remove_sandbox(&this.inner, &dir)).await?;
                continue;
            };
            let this = self.clone();
            blocking(move || prepare::remove_unfinished(&this.inner, &dir)).await?;
            for container in &found.containers {
                self.inner.images.hold(&container.image_id, &prepare::user_of_image(&id, &container.config.id));
            }
            if found.lost || self.watch(&id).await.is_err() {
                self.lose(&id).await;
            }
        }
        self.list().await
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }
}
