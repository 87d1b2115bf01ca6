//! A backup: all current values of a store in one file, and files that belong to them, with a checksum for each and one for all.
//!
//! It is read whole before anything of it is used, so that a file that is cut short or damaged restores nothing. What is restored keeps its
//! values, but the count of revisions leaps ahead: a client that saw more than the backup holds is told to list again, instead of
//! being given other changes under revisions that it has seen.

use std::io::{self, Read, Write};
use std::path::Path;

use bytes::Bytes;

use crate::disk::{Batch, Disk, Record};
use crate::lock::Lock;
use crate::{Entry, Error, Key, Revision};

const MAGIC: &[u8] = b"portolan-backup 1\n";
/// So far ahead of the backup the restored store counts on.
const LEAP: Revision = 1_000_000;
/// So many values are written at once when a store is restored.
const BATCH: usize = 4096;
/// No part of a backup is longer.
const LONGEST: u32 = 1 << 30;

/// What a backup holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backup {
    pub revision: Revision,
    /// In order of their keys.
    pub entries: Vec<Entry>,
    /// Files that go with the values, by name.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Why a backup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("reading or writing the backup failed")]
    Io(#[from] io::Error),
    #[error("this is no backup of Portolan, or one of a newer version")]
    Foreign,
    #[error("the backup is damaged: {what}\nhint: nothing was changed; use an older backup")]
    Damaged { what: String },
    #[error("`{}` holds data already\nhint: restore into an empty `--data-dir`, or move that one away", path.display())]
    NotEmpty { path: std::path::PathBuf },
    #[error(transparent)]
    Store(#[from] Error),
}

/// A writer that sums what it writes.
struct Summed<W> {
    to: W,
    sum: crc32fast::Hasher,
}

impl<W: Write> Summed<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.to.write_all(bytes)
    }

    /// Length, bytes.
    fn part(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.put(&length.to_le_bytes())?;
        self.put(bytes)
    }
}

impl Backup {
    /// Writes the backup; the caller makes the file durable.
    ///
    /// # Errors
    /// When writing fails.
    pub fn write(&self, to: impl Write) -> Result<(), BackupError> {
        let mut to = Summed { to, sum: crc32fast::Hasher::new() };
        to.put(MAGIC)?;
        for number in [self.revision, self.entries.len() as u64, self.files.len() as u64] {
            to.put(&number.to_le_bytes())?;
        }
        for entry in &self.entries {
            to.put(&entry.created.to_le_bytes())?;
            to.put(&entry.modified.to_le_bytes())?;
            to.part(entry.key.as_bytes())?;
            to.part(&entry.value)?;
            to.put(&crc32fast::hash(&entry.value).to_le_bytes())?;
        }
        for (name, bytes) in &self.files {
            to.part(name.as_bytes())?;
            to.part(bytes)?;
        }
        let sum = to.sum.clone().finalize();
        to.put(&sum.to_le_bytes())?;
        to.to.flush()?;
        Ok(())
    }

    /// Reads a whole backup and checks it.
    ///
    /// # Errors
    /// When it cannot be read, is none, or does not match its checksums.
    pub fn read(from: impl Read) -> Result<Backup, BackupError> {
        let mut from = Checked { from, sum: crc32fast::Hasher::new() };
        let mut magic = [0; MAGIC.len()];
        from.fill(&mut magic).map_err(|_| BackupError::Foreign)?;
        if magic != MAGIC {
            return Err(BackupError::Foreign);
        }
        let (revision, values, files) = (from.number()?, from.number()?, from.number()?);
        let mut backup = Backup { revision, ..Backup::default() };
        for _ in 0..values {
            let (created, modified) = (from.number()?, from.number()?);
            let key = from.text()?;
            let value = from.part()?;
            if from.short()? != crc32fast::hash(&value) {
                return Err(damaged(format!("the value of `{key}` does not match its checksum")));
            }
            backup.entries.push(Entry { key: Key::from(key), value: Bytes::from(value), created, modified });
        }
        for _ in 0..files {
            backup.files.push((from.text()?, from.part()?));
        }
        let expected = from.sum.clone().finalize();
        if from.short()? != expected {
            return Err(damaged("the whole does not match its checksum".to_owned()));
        }
        Ok(backup)
    }

    /// Makes a store of the values in `dir`, which must hold none. Answers the revision that it counts on from.
    ///
    /// # Errors
    /// When there is a store already, or writing fails; then nothing is left behind.
    pub fn restore(&self, dir: &Path) -> Result<Revision, BackupError> {
        std::fs::create_dir_all(dir)?;
        let _lock = Lock::take(dir)?;
        let path = dir.join("data.redb");
        if path.exists() {
            return Err(BackupError::NotEmpty { path: dir.to_owned() });
        }
        let part = dir.join("restoring.redb");
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        let revision = self.revision + LEAP;
        self.fill(&part, revision)?;
        // Only a store that is whole gets the name by which it is opened.
        std::fs::rename(&part, &path)?;
        std::fs::File::open(dir)?.sync_all()?;
        Ok(revision)
    }

    fn fill(&self, path: &Path, revision: Revision) -> Result<(), BackupError> {
        let (mut disk, _) = Disk::open(path, |_| {}, |_| {})?;
        // Several values may share a revision: their place in it is their order here.
        let mut places = std::collections::HashMap::<Revision, u32>::new();
        for entries in self.entries.chunks(BATCH) {
            let records = entries.iter().map(|entry| {
                let position = places.entry(entry.modified).or_default();
                let place = (entry.modified, *position);
                *position += 1;
                Record {
                    place,
                    created: entry.created,
                    key: entry.key.clone(),
                    value: entry.value.clone(),
                    deleted: false,
                }
            });
            let records = records.collect();
            disk.write(&Batch { records, obsolete: Vec::new(), compacted: revision, revision })?;
        }
        Ok(disk.write(&Batch { compacted: revision, revision, ..Batch::default() })?)
    }
}

fn damaged(what: String) -> BackupError {
    BackupError::Damaged { what }
}

/// A reader that sums what it reads.
struct Checked<R> {
    from: R,
    sum: crc32fast::Hasher,
}

impl<R: Read> Checked<R> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), BackupError> {
        self.from.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it ends too early".to_owned()),
            _ => error.into(),
        })?;
        self.sum.update(bytes);
        Ok(())
    }

    fn number(&mut self) -> Result<u64, BackupError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn short(&mut self) -> Result<u32, BackupError> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn part(&mut self) -> Result<Vec<u8>, BackupError> {
        let length = self.short()?;
        if length > LONGEST {
            return Err(damaged(format!("a part of {length} bytes is too long")));
        }
        // What a damaged length promises is not made room for before it is there.
        let mut bytes = Vec::new();
        let mut piece = [0; 64 << 10];
        let mut left = length as usize;
        while left > 0 {
            let now = left.min(piece.len());
            let room = piece.get_mut(..now).unwrap_or_default();
            self.fill(room)?;
            bytes.extend_from_slice(room);
            left -= now;
        }
        Ok(bytes)
    }

    fn text(&mut self) -> Result<String, BackupError> {
        String::from_utf8(self.part()?).map_err(|_| damaged("a key is no text".to_owned()))
    }
}
