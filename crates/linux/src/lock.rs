//! One owner of a folder at a time, across processes.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::Path;

use crate::{Error, Result};

/// An exclusive lock on a file. The kernel gives it up when the last descriptor closes, so a crash leaves none.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

impl FileLock {
    /// Takes the lock, or gives `None` when another process has it. The file then holds our process id, for people.
    pub fn try_exclusive(path: impl AsRef<Path>) -> Result<Option<FileLock>> {
        let path = path.as_ref();
        let mut file = File::options()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(path)
            .map_err(|e| Error::path("open the lock file", path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(Error::path("lock", path, e)),
        }
        file.set_len(0).map_err(|e| Error::path("write the lock file", path, e))?;
        writeln!(file, "{}", std::process::id()).map_err(|e| Error::path("write the lock file", path, e))?;
        Ok(Some(FileLock { _file: file }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_told() {
        let path = std::env::temp_dir().join(format!("portolan-lock-{}", std::process::id()));
        let first = FileLock::try_exclusive(&path).unwrap();
        assert!(first.is_some());
        assert!(FileLock::try_exclusive(&path).unwrap().is_none());
        drop(first);
        assert!(FileLock::try_exclusive(&path).unwrap().is_some());
        std::fs::remove_file(&path).unwrap();
    }
}
