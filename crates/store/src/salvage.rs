//! What can be saved of a damaged store: every value whose record is whole, and a word on what is not.

use std::path::Path;
use std::time::Instant;

use crate::disk::Disk;
use crate::lock::Lock;
use crate::state::State;
use crate::{Backup, Error};

/// What was found in a damaged data file.
#[derive(Debug)]
pub struct Salvaged {
    /// The values as of their latest readable records: one whose later record is lost is older than it should be, or should be gone.
    pub backup: Backup,
    /// Records that could not be read; further ones may be behind a page that could not.
    pub lost: u64,
}

/// Reads what can be read of the store in `dir`, and changes nothing.
///
/// # Errors
/// When another process has the store, or nothing of it can be read.
pub fn salvage(dir: impl AsRef<Path>) -> Result<Salvaged, Error> {
    let dir = dir.as_ref();
    let _lock = Lock::take(dir)?;
    // redb repairs a file that it opens, so that only a copy is opened.
    let copy = dir.join("salvage.redb");
    let failed = |source| Error::Open { path: dir.to_owned(), source };
    std::fs::copy(dir.join("data.redb"), &copy).map_err(failed)?;
    let mut state = State::empty(0);
    let now = Instant::now();
    let read = Disk::salvage(&copy, |record| state.apply(record, now));
    std::fs::remove_file(&copy).map_err(failed)?;
    let (revision, lost) = read?;
    let revision = revision.max(state.revision);
    state.revision = revision;
    let entries = state.range("", crate::RangeOptions::default())?.entries;
    Ok(Salvaged { backup: Backup { revision, entries, files: Vec::new() }, lost })
}
