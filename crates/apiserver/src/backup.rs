//! Backups of the whole server: every object, and the keys and certificates that clients and tokens are tied to.
//!
//! A running server answers `GET /portolan/backup` to whoever may do everything; of one that is stopped the same is read from its data
//! directory. A backup holds private keys: whoever writes it to a file makes that readable for its owner alone.

use std::fs;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use store::{Backup, RangeOptions, Storage, Store};

use crate::Server;
use crate::error::Error;
use crate::fault::{Fault, Outcome};
use crate::handle::{Answer, AnswerBody};

/// Keys and certificates, below the data directory.
const FILES: &str = "pki";

/// What a damaged store still gave.
#[derive(Debug)]
pub struct Saved {
    pub bytes: Vec<u8>,
    /// Objects in the backup.
    pub objects: usize,
    /// Records that could not be read.
    pub lost: u64,
}

/// What a restore made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    pub objects: usize,
    pub revision: u64,
}

/// The backup of a running server.
pub(crate) fn answer(server: &Server) -> Outcome<Answer> {
    let bytes = of_store(&*server.store, &server.config.data_dir).map_err(Fault::internal)?;
    Ok(Answer {
        code: StatusCode::OK,
        content_type: HeaderValue::from_static("application/octet-stream"),
        body: AnswerBody::Whole(Bytes::from(bytes)),
        warnings: Vec::new(),
    })
}

fn of_store(store: &dyn Storage, data_dir: &Path) -> Result<Vec<u8>, Error> {
    let range = store.range("", RangeOptions::default())?;
    written(Backup { revision: range.revision, entries: range.entries, files: files(data_dir)? })
}

fn written(backup: Backup) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    backup.write(&mut bytes)?;
    Ok(bytes)
}

fn files(data_dir: &Path) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let dir = data_dir.join(FILES);
    let failed = |source| Error::Pki { path: dir.clone(), source };
    let mut files = Vec::new();
    let listed = match fs::read_dir(&dir) {
        Ok(listed) => listed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(failed(error)),
    };
    for entry in listed {
        let path = entry.map_err(failed)?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name().and_then(|name| name.to_str())) {
            files.push((name.to_owned(), fs::read(&path).map_err(failed)?));
        }
    }
    files.sort();
    Ok(files)
}

/// The backup of a server that is stopped.
///
/// # Errors
/// When a server runs on the directory, or its store cannot be read.
pub fn of_stopped(data_dir: &Path) -> Result<Vec<u8>, Error> {
    of_store(&Store::open(data_dir.join("store"))?, data_dir)
}

/// What can be saved of a stopped server whose store is damaged.
///
/// # Errors
/// When a server runs on the directory, or nothing can be read.
pub fn of_damaged(data_dir: &Path) -> Result<Saved, Error> {
    let salvaged = store::salvage(data_dir.join("store"))?;
    let objects = salvaged.backup.entries.len();
    let backup = Backup { files: files(data_dir)?, ..salvaged.backup };
    Ok(Saved { bytes: written(backup)?, objects, lost: salvaged.lost })
}

/// Makes a data directory of a backup; the next server that starts on it goes on from there.
///
/// # Errors
/// When the backup is damaged, or the directory holds a store already. Then nothing was changed.
pub fn restore(from: impl Read, data_dir: &Path) -> Result<Restored, Error> {
    let backup = Backup::read(from)?;
    // Names that lead elsewhere are none of ours.
    let is_ours = |name: &str| !name.is_empty() && !name.contains(['/', '\0']) && !name.starts_with('.');
    if let Some((name, _)) = backup.files.iter().find(|(name, _)| !is_ours(name)) {
        return Err(store::BackupError::Damaged { what: format!("it holds a file named `{name}`") }.into());
    }
    let revision = backup.restore(&data_dir.join("store"))?;
    for (name, bytes) in &backup.files {
        crate::pki::put(&data_dir.join(FILES), name, bytes)?;
    }
    Ok(Restored { objects: backup.entries.len(), revision })
}
