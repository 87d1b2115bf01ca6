//! The node agent, in place of the kubelet and a CNI plugin: the pods that are bound to a node, run for real.
//!
//! Decisions are pure (`env`, `files`, `status`, `decide`, `probe::count`, `podnet::pool`); the edges (`worker`, `volumes`, `podnet`,
//! `kubelet_api`) only read and write. The containers themselves are the runtime's, behind the trait of the `containers` crate.
#![forbid(unsafe_code)]

mod agent;
mod config;
mod context;
mod drain;
pub mod node;
mod worker;

pub mod admit;
pub mod decide;
pub mod model;
pub mod spec;
pub mod status;

pub mod backoff;
pub mod env;
pub mod files;
pub mod quantity;
pub mod references;
pub mod registry;
mod resize;
pub mod resources;
mod security;

pub mod events;
mod hooks;
pub mod kubelet_api;
pub mod podnet;
pub mod probe;
pub mod volumes;

use std::io;
use std::path::PathBuf;

use kube::Client;
use tokio_util::sync::CancellationToken;

pub use agent::Agent;
pub use config::Config;

/// Why a node cannot be run at all. Faults of single pods are in their status and events.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use the folder `{path}`")]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot take over the containers of an earlier run")]
    Adopt(#[source] containers::Error),
    #[error("cannot open the pod network")]
    Network(#[source] podnet::Error),
    #[error("cannot unmount a pod's volumes")]
    Unmount(#[source] linux::Error),
}

/// Runs one node until `shutdown`. Who also wants its logs and streams makes an [`Agent`] and serves its [`Agent::kubelet_api`].
///
/// # Errors
/// As [`Agent::run`].
pub async fn run(config: Config, client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    Agent::new(config).run(client, shutdown).await
}
