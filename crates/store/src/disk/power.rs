//! Power that fails: a disk that keeps what was synced, and of the rest whatever chance keeps, in pieces as small as a sector.
//!
//! Random histories are written to it, the power fails at a random operation, and the store is opened from what is left: it opens, has
//! every batch that was acknowledged, and of the one under way all or nothing.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use proptest::prelude::*;
use redb::StorageBackend;

use super::{Batch, Disk, Place, Record};
use crate::{Key, Revision};

/// What a disk writes at once.
const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Pending {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Debug, Default)]
struct Platter {
    /// What survives a power failure for certain.
    durable: Vec<u8>,
    /// What a reader sees while there is power.
    cached: Vec<u8>,
    /// What lies between both, in order.
    pending: Vec<Pending>,
    /// So many operations until the power fails.
    left: u64,
}

/// A disk, shared by whoever writes to it and whoever pulls the plug.
#[derive(Debug, Clone)]
pub(super) struct Simulated(Arc<Mutex<Platter>>);

fn gone() -> io::Error {
    io::Error::other("the power is gone")
}

impl Simulated {
    fn new(image: Vec<u8>, operations: u64) -> Self {
        let platter = Platter { cached: image.clone(), durable: image, pending: Vec::new(), left: operations };
        Simulated(Arc::new(Mutex::new(platter)))
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The platter after one more operation, if there is power for it.
    fn powered(&self) -> io::Result<MutexGuard<'_, Platter>> {
        let mut platter = self.platter();
        platter.left = platter.left.checked_sub(1).ok_or_else(gone)?;
        Ok(platter)
    }

    /// What is left after a power failure: each unsynced sector is there or not, as `chance` says.
    fn after_failure(&self, mut chance: impl FnMut() -> bool) -> Vec<u8> {
        let platter = self.platter();
        let mut image = platter.durable.clone();
        for pending in &platter.pending {
            match pending {
                Pending::Length(length) if chance() => image.resize(*length, 0),
                Pending::Length(_) => {}
                Pending::Write { offset, bytes } => {
                    let mut at = 0;
                    while at < bytes.len() {
                        // Up to the next border of a sector.
                        let end = bytes.len().min(at + SECTOR - (offset + at) % SECTOR);
                        if chance() {
                            if image.len() < offset + end {
                                image.resize(offset + end, 0);
                            }
                            image[offset + at..offset + end].copy_from_slice(&bytes[at..end]);
                        }
                        at = end;
                    }
                }
            }
        }
        image
    }
}

impl StorageBackend for Simulated {
    fn len(&self) -> io::Result<u64> {
        Ok(self.platter().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.platter();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let source = platter.cached.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(source);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut platter = self.powered()?;
        let length = usize::try_from(length).map_err(io::Error::other)?;
        platter.cached.resize(length, 0);
        platter.pending.push(Pending::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.powered()?;
        platter.durable = platter.cached.clone();
        platter.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut platter = self.powered()?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let target = platter.cached.get_mut(offset..offset + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        target.copy_from_slice(data);
        platter.pending.push(Pending::Write { offset, bytes: data.to_vec() });
        Ok(())
    }
}

/// Revision, key and value of a record.
type Found = (Revision, String, Vec<u8>);

fn open(simulated: &Simulated) -> (Disk, Vec<Found>, Revision) {
    let mut disk =
        Disk { path: PathBuf::from("simulated"), bytes: Place::Simulated(simulated.clone()), database: None };
    let mut found = Vec::new();
    let revision = disk
        .reopen(0, |_| {}, |record| found.push((record.place.0, record.key.to_string(), record.value.to_vec())))
        .expect("opens after any failure of power");
    (disk, found, revision)
}

/// A batch of some records, of which the sizes are given.
fn batch(revision: Revision, sizes: &[u16]) -> Batch {
    let records = sizes.iter().zip(0u32..).map(|(size, position)| Record {
        place: (revision, position),
        created: revision,
        key: Key::from(format!("/k/{revision}/{position}")),
        value: Bytes::from(vec![revision.to_le_bytes()[0]; usize::from(*size)]),
        deleted: false,
    });
    Batch { records: records.collect(), obsolete: Vec::new(), compacted: 0, revision }
}

fn written(batch: &Batch) -> Vec<Found> {
    batch.records.iter().map(|record| (record.place.0, record.key.to_string(), record.value.to_vec())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_acknowledged_survives_and_nothing_is_there_by_half(
        batches in prop::collection::vec(prop::collection::vec(0..6000u16, 1..6), 1..12),
        operations in 0..160u64,
        seed in any::<u64>(),
    ) {
        // The file itself is made with power: a cluster that was never up has nothing to lose.
        let fresh = Simulated::new(Vec::new(), u64::MAX);
        drop(open(&fresh));
        let image = fresh.platter().durable.clone();
        let simulated = Simulated::new(image, u64::MAX);
        let (mut disk, found, _) = open(&simulated);
        prop_assert!(found.is_empty());
        simulated.platter().left = operations;
        let (mut acknowledged, mut under_way) = (Vec::new(), Vec::new());
        for (revision, sizes) in (1..).zip(&batches) {
            let batch = batch(revision, sizes);
            match disk.write(&batch) {
                Ok(()) => acknowledged.extend(written(&batch)),
                Err(_) => {
                    under_way = written(&batch);
                    break;
                }
            }
        }
        // The plug is out before anything else could be written, by a destructor for one.
        simulated.platter().left = 0;
        let mut state = seed | 1;
        let image = simulated.after_failure(|| {
            // Marsaglia's xorshift: chance that a seed repeats.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state & 1 == 1
        });
        drop(disk);
        let (_disk, found, revision) = open(&Simulated::new(image, u64::MAX));
        let mut with_all = acknowledged.clone();
        with_all.extend(under_way);
        prop_assert!(found == acknowledged || found == with_all, "{} of {} records", found.len(), acknowledged.len());
        prop_assert_eq!(revision, found.last().map_or(0, |(revision, ..)| *revision));
    }
}
