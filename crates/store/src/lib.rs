//! Objects by revision: the memory of the API server.
//!
//! One global revision counts every transaction. A transaction is answered after it is durable; concurrent ones share one
//! `fsync`. All current values and a window of history live in memory, so reads and watches never touch the disk. Values are
//! bytes: what they mean, and which keys exist, is the API server's business.
//!
//! [`Storage`] is what the API server asks for; [`Store`] is the embedded one, a single `redb` file. An etcd behind the same trait
//! would keep the same mirror in memory, fed by an etcd watch, and send `commit` as an etcd transaction.
#![forbid(unsafe_code)]

mod backup;
mod disk;
mod embedded;
mod error;
mod history;
mod lock;
mod salvage;
mod state;
mod transaction;
mod watch;
mod writer;

use std::future::Future;
use std::pin::Pin;

pub use backup::{Backup, BackupError};
pub use embedded::{Options, Store};
pub use error::Error;
pub use history::{Change, Event};
pub use salvage::{Salvaged, salvage};
pub use state::{Entry, Range, RangeOptions};
pub use transaction::{Body, Check, Key, Transaction, Write};
pub use watch::Watch;

/// A position in the one order of all writes; the first write is 1, the empty store is 0.
pub type Revision = u64;

/// What a commit answers.
pub type Commit<'a> = Pin<Box<dyn Future<Output = Result<Revision, Error>> + Send + 'a>>;

/// Objects by revision, wherever they are kept. Reads answer from memory, so they are plain functions; only a write waits.
pub trait Storage: Send + Sync + 'static {
    /// The revision of the latest durable transaction.
    fn revision(&self) -> Revision;

    /// The oldest revision that can still be read or watched from.
    fn oldest(&self) -> Revision;

    /// The current value of a key.
    fn get(&self, key: &str) -> Option<Entry>;

    /// Keys that start with `prefix`, in order, at the current or a past revision.
    fn range(&self, prefix: &str, options: RangeOptions<'_>) -> Result<Range, Error>;

    /// Applies all writes at one new revision, or none when a check fails. The answer comes after the write is durable.
    fn commit(&self, transaction: Transaction) -> Commit<'_>;

    /// Every change of keys that start with `prefix` after revision `after`, in order, none lost, none twice.
    fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error>;
}
