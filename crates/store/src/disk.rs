//! The data file: every change since the last compaction as one record, in one `redb` table ordered by revision.
//!
//! Writing appends at the right edge of the tree, so that a commit touches few pages. Opening reads all records once, in order,
//! and so rebuilds the values and the history alike. Each record has its own checksum, besides those of redb's pages.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use crate::history;
use crate::{Error, Key, Revision};

#[cfg(test)]
mod power;

/// (revision, position in its transaction) → record. See [`Record`].
const RECORDS: TableDefinition<'_, history::Place, &[u8]> = TableDefinition::new("records");
/// `format`, `revision`, `compacted`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

const FORMAT: u64 = 1;
/// Reads are answered from memory, so redb's own cache only needs to hold the tree's inner pages.
const CACHE_BYTES: usize = 4 << 20;

/// One change as it lies on disk: checksum, kind, revision of the key's creation, length of the key, key, value.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) place: history::Place,
    /// When the key came to be; older records of it may be gone.
    pub(crate) created: Revision,
    pub(crate) key: Key,
    pub(crate) value: Bytes,
    pub(crate) deleted: bool,
}

/// What one commit writes.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) records: Vec<Record>,
    /// Records that no current value and no history needs any more.
    pub(crate) obsolete: Vec<history::Place>,
    /// The history before and with this revision is gone.
    pub(crate) compacted: Revision,
    pub(crate) revision: Revision,
}

/// Where the bytes are.
#[derive(Debug)]
enum Place {
    File,
    /// A disk that a test loses power of.
    #[cfg(test)]
    Simulated(power::Simulated),
}

#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    bytes: Place,
    /// Absent after a failed write, until it could be opened again.
    database: Option<Database>,
}

impl Disk {
    /// Opens or creates the file; `begin` gets the compacted revision, then `each` every record in order. Answers the revision too.
    pub(crate) fn open(
        path: &Path,
        begin: impl FnMut(Revision),
        each: impl FnMut(Record),
    ) -> Result<(Self, Revision), Error> {
        let mut disk = Disk { path: path.to_owned(), bytes: Place::File, database: None };
        let revision = disk.reopen(0, begin, each)?;
        Ok((disk, revision))
    }

    /// Whether the last write failed in a way that closed the file.
    pub(crate) fn is_closed(&self) -> bool {
        self.database.is_none()
    }

    /// As [`Disk::open`] for the file that a failed write has closed, with the records after `after` only.
    pub(crate) fn reopen(
        &mut self,
        after: Revision,
        begin: impl FnMut(Revision),
        each: impl FnMut(Record),
    ) -> Result<Revision, Error> {
        let readable = Cell::new(0);
        let counted = {
            let mut each = each;
            let readable = &readable;
            move |record| {
                readable.set(readable.get() + 1);
                each(record);
            }
        };
        // redb panics on some pages that are garbage: that is damage as well, not a fault of ours.
        let opened = catch_unwind(AssertUnwindSafe(|| self.load(after, begin, counted)));
        let (database, revision) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(Fault::Format(found))) => {
                return Err(Error::Format { path: self.path.clone(), found, known: FORMAT });
            }
            Ok(Err(Fault::Redb(source))) => return Err(self.of_open(source, readable.get())),
            Err(_) => {
                let damage = redb::Error::Corrupted("a page cannot be read".to_owned());
                return Err(self.of_open(damage, readable.get()));
            }
        };
        self.database = Some(database);
        Ok(revision)
    }

    fn load(
        &self,
        after: Revision,
        begin: impl FnMut(Revision),
        each: impl FnMut(Record),
    ) -> Result<(Database, Revision), Fault> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let database = match &self.bytes {
            Place::File => builder.create(&self.path),
            #[cfg(test)]
            Place::Simulated(disk) => builder.create_with_backend(disk.clone()),
        };
        let database = database.map_err(redb::Error::from)?;
        let transaction = database.begin_write().map_err(redb::Error::from)?;
        let revision = match prepare(&transaction)? {
            Some(found) if found != FORMAT => return Err(Fault::Format(found)),
            Some(_) => {
                transaction.abort().map_err(redb::Error::from)?;
                read(&database, after, begin, each)?
            }
            None => {
                transaction.commit().map_err(redb::Error::from)?;
                0
            }
        };
        Ok((database, revision))
    }

    /// Makes a batch durable. After an error nothing of it is known to be on disk, and the file is closed.
    pub(crate) fn write(&mut self, batch: &Batch) -> Result<(), Error> {
        let Some(database) = &self.database else { return Err(Error::Closed) };
        match write(database, batch) {
            Ok(()) => Ok(()),
            Err(source) => {
                // redb refuses all further work after an I/O error, so the file is opened anew for the next write.
                self.database = None;
                Err(Error::of_write(as_io(source)))
            }
        }
    }

    /// Reads what can be read of a file that cannot be opened as it should: every record that matches its checksum. Answers the latest
    /// revision that the file speaks of, and how many records were unreadable.
    pub(crate) fn salvage(path: &Path, mut each: impl FnMut(Record)) -> Result<(Revision, u64), Error> {
        let disk = Disk { path: path.to_owned(), bytes: Place::File, database: None };
        let mut readable = 0;
        let read = catch_unwind(AssertUnwindSafe(|| {
            let database = Database::open(path).map_err(redb::Error::from)?;
            salvage(&database, |record| {
                readable += 1;
                each(record);
            })
        }));
        match read {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(source)) => Err(disk.of_open(source, readable)),
            Err(_) => Err(disk.of_open(redb::Error::Corrupted("a page cannot be read".to_owned()), readable)),
        }
    }

    fn of_open(&self, source: redb::Error, readable: u64) -> Error {
        match source {
            redb::Error::Corrupted(detail) => Error::Damaged { path: self.path.clone(), detail, readable },
            redb::Error::DatabaseAlreadyOpen => Error::InUse { path: self.path.clone(), holder: "unknown".to_owned() },
            // A foreign or cut file: redb says `InvalidData` for a wrong magic number.
            redb::Error::Io(source)
                if matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                Error::Damaged { path: self.path.clone(), detail: source.to_string(), readable }
            }
            other => Error::Open { path: self.path.clone(), source: as_io(other) },
        }
    }
}

/// Why a file cannot be opened.
enum Fault {
    Format(u64),
    Redb(redb::Error),
}

impl From<redb::Error> for Fault {
    fn from(source: redb::Error) -> Self {
        Fault::Redb(source)
    }
}

fn read(
    database: &Database,
    after: Revision,
    mut begin: impl FnMut(Revision),
    mut each: impl FnMut(Record),
) -> Result<Revision, redb::Error> {
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let number = |name| -> Result<u64, redb::Error> { Ok(meta.get(name)?.map_or(0, |value| value.value())) };
    begin(number("compacted")?);
    for item in transaction.open_table(RECORDS)?.range((after + 1, 0)..)? {
        let (place, bytes) = item?;
        let place = place.value();
        let wrong = || redb::Error::Corrupted(format!("record {}.{} has a wrong checksum", place.0, place.1));
        each(decode(place, bytes.value()).ok_or_else(wrong)?);
    }
    number("revision")
}

fn salvage(database: &Database, mut each: impl FnMut(Record)) -> Result<(Revision, u64), redb::Error> {
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META).ok();
    let revision = meta.and_then(|meta| Some(meta.get("revision").ok()??.value())).unwrap_or(0);
    let mut lost = 0;
    for item in transaction.open_table(RECORDS)?.iter()? {
        // A page that cannot be read ends it: what was behind is not known to exist.
        let Ok((place, bytes)) = item else {
            lost += 1;
            break;
        };
        match decode(place.value(), bytes.value()) {
            Some(record) => each(record),
            None => lost += 1,
        }
    }
    Ok((revision, lost))
}

/// Makes the tables of a new file; answers the format of an existing one.
fn prepare(transaction: &redb::WriteTransaction) -> Result<Option<u64>, redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let found = meta.get("format")?.map(|value| value.value());
    if found.is_none() {
        meta.insert("format", FORMAT)?;
        transaction.open_table(RECORDS)?;
    }
    Ok(found)
}

fn write(database: &Database, batch: &Batch) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut records = transaction.open_table(RECORDS)?;
        for place in &batch.obsolete {
            records.remove(place)?;
        }
        let mut bytes = Vec::new();
        for record in &batch.records {
            encode(record, &mut bytes);
            records.insert(record.place, bytes.as_slice())?;
        }
        let mut meta = transaction.open_table(META)?;
        meta.insert("revision", batch.revision)?;
        meta.insert("compacted", batch.compacted)?;
    }
    transaction.commit()?;
    Ok(())
}

fn as_io(source: redb::Error) -> io::Error {
    match source {
        redb::Error::Io(source) => source,
        other => io::Error::other(other),
    }
}

fn encode(record: &Record, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; 4]);
    out.push(u8::from(record.deleted));
    out.extend_from_slice(&record.created.to_le_bytes());
    out.extend_from_slice(&(record.key.len() as u32).to_le_bytes());
    out.extend_from_slice(record.key.as_bytes());
    out.extend_from_slice(&record.value);
    let sum = checksum(record.place, &out[4..]);
    out[..4].copy_from_slice(&sum.to_le_bytes());
}

fn decode(place: history::Place, bytes: &[u8]) -> Option<Record> {
    let (sum, rest) = bytes.split_first_chunk::<4>()?;
    if checksum(place, rest) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (deleted, rest) = rest.split_first()?;
    let (created, rest) = rest.split_first_chunk::<8>()?;
    let created = u64::from_le_bytes(*created);
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (key, value) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let key = Key::from(std::str::from_utf8(key).ok()?);
    Some(Record { place, created, key, value: Bytes::copy_from_slice(value), deleted: *deleted != 0 })
}

fn checksum(place: history::Place, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&place.0.to_le_bytes());
    hasher.update(&place.1.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}
