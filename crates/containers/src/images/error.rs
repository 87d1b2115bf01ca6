//! What can go wrong with images, sorted by what a pod's status must say.

use std::io;
use std::path::{Path, PathBuf};

use super::LayerError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not {act} `{}`: {source}", path.display())]
    Disk { act: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Kernel(#[from] linux::Error),
    /// Bytes are not those that their name promises.
    #[error("{what} has digest {found}, expected {expected}")]
    WrongDigest { what: String, expected: String, found: String },
    #[error("layer {layer} cannot be unpacked: {source}")]
    Layer { layer: String, source: LayerError },
    /// A file of the store or an archive does not hold what it should.
    #[error("{what} is damaged or not an image: {reason}")]
    Damaged { what: String, reason: String },
    #[error("couldn't parse image name \"{name}\": {reason}")]
    InvalidName { name: String, reason: String },
    #[error("image \"{0}\" is not present")]
    NotPresent(String),
    /// For another machine.
    #[error("no match for platform in manifest: image is for {found}, this machine is {wanted}")]
    WrongPlatform { found: String, wanted: String },
    #[error("image \"{name}\" is in use by {by}")]
    InUse { name: String, by: String },
}

impl Error {
    pub(crate) fn disk(act: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Disk { act, path: path.as_ref().to_path_buf(), source }
    }

    pub(crate) fn damaged(what: impl Into<String>, reason: impl std::fmt::Display) -> Error {
        Error::Damaged { what: what.into(), reason: reason.to_string() }
    }
}

/// Why an image could not be pulled, in the words that `kubectl describe pod` shows on any cluster.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// `InvalidImageName`: no attempt was made, and none will help.
    #[error("Failed to apply default image tag \"{name}\": couldn't parse image name \"{name}\": {reason}")]
    InvalidName { name: String, reason: String },
    /// `ErrImagePull`: there is no such repository or tag, or one must log in to see it.
    #[error(
        "failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": pull access denied, repository does not exist or may require authorization: {reason}"
    )]
    Denied { name: String, reason: String },
    #[error("failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": {name}: not found")]
    NotFound { name: String },
    /// `ErrImagePull`: the registry cannot be reached, is too slow or answers nonsense; a later try may work.
    #[error("failed to pull and unpack image \"{name}\": {reason}")]
    Registry { name: String, reason: String },
    /// `ErrImagePull`: the image arrived and is refused.
    #[error("failed to pull and unpack image \"{name}\": {source}")]
    Refused { name: String, source: Error },
}

impl PullError {
    /// The reason that a waiting container's status names for the first failure.
    pub fn reason(&self) -> &'static str {
        match self {
            PullError::InvalidName { .. } => "InvalidImageName",
            PullError::Denied { .. }
            | PullError::NotFound { .. }
            | PullError::Registry { .. }
            | PullError::Refused { .. } => "ErrImagePull",
        }
    }
}
