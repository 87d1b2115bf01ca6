//! One error type for the crate: the act that failed, on what, and the kernel's reason.

use std::io;
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused an act on a path.
    #[error("could not {act} `{}`: {source}", path.display())]
    Path { act: &'static str, path: PathBuf, source: io::Error },
    /// The kernel refused an act that has no path.
    #[error("could not {act}: {source}")]
    Call { act: &'static str, source: io::Error },
}

impl Error {
    pub(crate) fn path(act: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Error {
        Error::Path { act, path: path.as_ref().to_path_buf(), source: source.into() }
    }

    pub(crate) fn call(act: &'static str, source: impl Into<io::Error>) -> Error {
        Error::Call { act, source: source.into() }
    }

    /// The kernel's own reason.
    pub fn kind(&self) -> io::ErrorKind {
        self.io().kind()
    }

    /// The errno behind it, where there is one.
    pub fn errno(&self) -> Option<i32> {
        self.io().raw_os_error()
    }

    fn io(&self) -> &io::Error {
        match self {
            Error::Path { source, .. } | Error::Call { source, .. } => source,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        io::Error::new(error.kind(), error)
    }
}
