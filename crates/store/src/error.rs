//! What can go wrong with the store, and what the one who started us can do about it.

use std::io;
use std::path::PathBuf;

use crate::{Key, Revision};

/// A fault of a store operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("data directory `{}` is in use by process {holder}\nhint: stop it (`portolan down`), or choose another `--data-dir`", path.display())]
    InUse {
        path: PathBuf,
        /// Process id of the holder, or `unknown`.
        holder: String,
    },

    #[error("opening the store below `{}` failed", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error(
        "data file `{}` is damaged: {detail}; {readable} records before the damage can be read\nhint: restore a backup (`portolan restore FILE`), \
         or move the file away to start empty",
        path.display()
    )]
    Damaged { path: PathBuf, detail: String, readable: u64 },

    #[error("data file `{}` was written by another version: format {found}, this program knows {known}", path.display())]
    Format { path: PathBuf, found: u64, known: u64 },

    /// A check of the transaction did not hold; nothing was written.
    #[error("key `{key}` is at {found:?}, expected {expected:?}")]
    Conflict { key: Key, expected: Option<Revision>, found: Option<Revision> },

    /// The history asked for is gone; list again and start from there.
    #[error("revision {asked} is older than the oldest kept one, {oldest}")]
    Compacted { asked: Revision, oldest: Revision },

    #[error("revision {asked} is in the future, the latest is {latest}")]
    Future { asked: Revision, latest: Revision },

    #[error("disk full: writing the data file failed; nothing was changed")]
    Full(#[source] io::Error),

    #[error("writing the data file failed")]
    Write(#[source] io::Error),

    #[error("the store is closed")]
    Closed,
}

impl Error {
    /// A fault of the disk while writing, told apart by whether space would help.
    pub(crate) fn of_write(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Error::Full(source)
            }
            _ => Error::Write(source),
        }
    }

    /// The same answer for a further writer of the same batch; I/O errors cannot be cloned.
    pub(crate) fn again(&self) -> Self {
        match self {
            Error::Full(source) => Error::Full(io::Error::new(source.kind(), source.to_string())),
            Error::Write(source) => Error::Write(io::Error::new(source.kind(), source.to_string())),
            other => Error::Write(io::Error::other(other.to_string())),
        }
    }
}
