//! The trait that the node agent drives. It follows the shape of the CRI (sandbox, container, exec, attach, status), so
//! that containerd or CRI-O can stand behind it later; [`Libcontainer`] is our own runtime.
//!
//! Everything is told by the caller: ids, the network namespace, mounts, log paths, cgroup. The runtime remembers it on
//! disk, so that [`Runtime::adopt`] gives back after a restart what was running and what has ended meanwhile.

mod client;
mod config;
mod libcontainer;
mod lost;
mod prepare;
mod resize;
pub(crate) mod seccomp;
mod spawner;
mod spec;
mod status;
mod streams;
mod user;

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;

pub use config::{
    ContainerConfig, ExecConfig, Identity, Mount, Propagation, Resources, Rlimit, SandboxConfig, Seccomp, Security,
};
pub use libcontainer::Libcontainer;
pub use status::{ContainerState, ContainerStatus, Event, Exit, Sandbox, Stats};
pub use streams::{Exec, ExecOutput, Input, Output, Streams, Terminal};

use crate::Error;

/// A node's container runtime. Calls for one container may not be made at the same time; calls for different ones may.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Makes the sandbox of a pod: its namespaces, its cgroup, the process that looks after its containers. On an
    /// error nothing is left.
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<(), Error>;

    /// Kills what still runs in the sandbox. Its containers' exit codes and logs stay readable. Idempotent.
    async fn stop_sandbox(&self, sandbox: &str) -> Result<(), Error>;

    /// Stops the sandbox and removes every trace of it but the logs. Removing what is not there is no error.
    async fn remove_sandbox(&self, sandbox: &str) -> Result<(), Error>;

    /// Makes a container, ready to start: root filesystem mounted, limits set, process waiting.
    async fn create_container(&self, sandbox: &str, config: ContainerConfig) -> Result<(), Error>;

    /// Lets the container's command run. [`Error::Start`] when the command cannot be executed.
    async fn start_container(&self, sandbox: &str, container: &str) -> Result<(), Error>;

    /// Sends the container's stop signal, and after `grace` SIGKILL; returns when it has ended.
    async fn stop_container(&self, sandbox: &str, container: &str, grace: Duration) -> Result<(), Error>;

    /// Sends a signal (its number) to the container's first process.
    async fn signal_container(&self, sandbox: &str, container: &str, signal: i32) -> Result<(), Error>;

    /// Kills the container if it still runs and removes it; its log stays. Removing what is not there is no error.
    async fn remove_container(&self, sandbox: &str, container: &str) -> Result<(), Error>;

    /// Changes what a sandbox may use as a whole, and containers of it that run.
    async fn update_resources(
        &self,
        sandbox: &str,
        whole: &Resources,
        containers: &[(String, Resources)],
    ) -> Result<(), Error>;

    async fn container_status(&self, sandbox: &str, container: &str) -> Result<ContainerStatus, Error>;

    /// Memory and CPU that the container uses now.
    async fn container_stats(&self, sandbox: &str, container: &str) -> Result<Stats, Error>;

    /// Runs a further process in a running container.
    async fn exec(&self, sandbox: &str, container: &str, config: ExecConfig) -> Result<Exec, Error>;

    /// Joins the streams of a running container's first process: what it writes from now on; its stdin if it has one.
    async fn attach(&self, sandbox: &str, container: &str, stdin: bool) -> Result<Streams, Error>;

    /// Closes the container's log and goes on in a new file of the same name; the caller has renamed the old one.
    async fn reopen_log(&self, sandbox: &str, container: &str) -> Result<(), Error>;

    /// Everything that exists, as it is now.
    async fn list(&self) -> Result<Vec<Sandbox>, Error>;

    /// Takes over, after a restart of the daemon, what an earlier one left: sandboxes that run are connected to again,
    /// dead ones are reported with [`Sandbox::lost`], half-made ones are removed. To be called once, before all else.
    async fn adopt(&self) -> Result<Vec<Sandbox>, Error>;

    /// What happens from now on. A receiver that lags must look at [`Runtime::list`].
    fn events(&self) -> broadcast::Receiver<Event>;

    /// Runs a command to its end and collects what it wrote, at most `limit` bytes of each stream (the rest is read
    /// and dropped). After `timeout` the command is killed and `ExecOutput::timed_out` is set.
    async fn exec_sync(
        &self,
        sandbox: &str,
        container: &str,
        command: Vec<String>,
        timeout: Duration,
        limit: usize,
    ) -> Result<ExecOutput, Error> {
        let config = ExecConfig { command, stdout: true, stderr: true, ..ExecConfig::default() };
        let exec = self.exec(sandbox, container, config).await?;
        streams::collect(exec, timeout, limit).await
    }
}
