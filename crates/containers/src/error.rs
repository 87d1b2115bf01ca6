//! What can go wrong with containers, named after the act, with whose fault it is.

use std::io;
use std::path::{Path, PathBuf};

use crate::images;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's: it was never made, or is already removed.
    #[error("sandbox `{0}` is not known")]
    NoSuchSandbox(String),
    #[error("container `{container}` is not known in sandbox `{sandbox}`")]
    NoSuchContainer { sandbox: String, container: String },
    #[error("`{0}` exists already")]
    AlreadyExists(String),
    /// The container is not in a state in which this can be done.
    #[error("container `{container}` is {state}, not running")]
    NotRunning { container: String, state: String },
    /// The request itself cannot be carried out as it is written; asking again is useless.
    #[error("{0}")]
    Invalid(String),
    /// The container could not be made from its configuration: mounts, user, limits, namespaces.
    #[error("OCI runtime create failed: {0}")]
    Create(String),
    /// The container was made, and its command could not be run.
    #[error("OCI runtime create failed: unable to start container process: {0}")]
    Start(String),
    /// The command of an exec could not be run.
    #[error("failed to exec in container: failed to start exec: OCI runtime exec failed: {0}")]
    Exec(String),
    /// The pod's shim is dead: its containers are lost. Remove the sandbox and make another.
    #[error("the shim of sandbox `{sandbox}` is gone: {reason}")]
    ShimGone { sandbox: String, reason: String },
    #[error(transparent)]
    Image(#[from] images::Error),
    #[error(transparent)]
    Kernel(#[from] linux::Error),
    #[error("could not {act} `{}`: {source}", path.display())]
    Disk { act: &'static str, path: PathBuf, source: io::Error },
    /// A file of ours does not hold what we wrote there.
    #[error("`{}` is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
}

impl Error {
    pub(crate) fn disk(act: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Disk { act, path: path.as_ref().to_path_buf(), source }
    }

    /// Whether what was asked for is simply not there (any more).
    pub fn is_gone(&self) -> bool {
        matches!(self, Error::NoSuchSandbox(_) | Error::NoSuchContainer { .. } | Error::ShimGone { .. })
    }
}
