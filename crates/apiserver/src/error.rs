//! Why an API server cannot start or serve.

use std::io;
use std::path::PathBuf;

/// Why an API server cannot start or serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),

    #[error(transparent)]
    Backup(#[from] store::BackupError),

    #[error("making the objects that every cluster has failed: {0}")]
    Bootstrap(String),

    #[error("reading or writing `{}` failed", path.display())]
    Pki {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("making a certificate failed: {0}")]
    Certificate(String),

    #[error("listening failed")]
    Listen(#[source] io::Error),
}
