//! The embedded store: a directory with one data file, one writer thread, and the state in memory.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::disk::Disk;
use crate::history::Limits;
use crate::lock::Lock;
use crate::state::State;
use crate::writer::{Request, Writer};
use crate::{Commit, Entry, Error, Range, RangeOptions, Revision, Storage, Transaction, Watch};

/// How much of the past is kept. The defaults fit a cluster of one machine.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Changes to remember at most.
    pub history_events: usize,
    /// Bytes of values to remember at most.
    pub history_bytes: usize,
    /// Age of a change to remember at most.
    pub history_age: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options { history_events: 50_000, history_bytes: 32 << 20, history_age: Duration::from_secs(600) }
    }
}

/// A store in a directory of its own. Dropping it waits for the writes under way.
#[derive(Debug)]
pub struct Store {
    /// Volatile; rebuilt from the data file at open.
    state: Arc<RwLock<State>>,
    /// Volatile: transactions on their way to the writer, which no one was told are done.
    requests: Mutex<Option<Sender<Request>>>,
    writer: Option<JoinHandle<()>>,
    /// The lock file beside the data file.
    _lock: Lock,
}

impl Store {
    /// Opens the store in `dir`, which is made when absent.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(dir, Options::default())
    }

    /// As [`Store::open`], with other limits of history.
    pub fn open_with(dir: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir).map_err(|source| Error::Open { path: dir.to_owned(), source })?;
        let lock = Lock::take(dir)?;
        let (disk, state) = load(&dir.join("data.redb"))?;
        let state = Arc::new(RwLock::new(state));
        let (requests, receiver) = channel();
        let limits = Limits { events: options.history_events, bytes: options.history_bytes, age: options.history_age };
        let writer = Writer { disk, state: state.clone(), limits, requests: receiver };
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| Error::Open { path: dir.to_owned(), source })?;
        Ok(Store { state, requests: Mutex::new(Some(requests)), writer: Some(writer), _lock: lock })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn load(path: &Path) -> Result<(Disk, State), Error> {
    let state = std::cell::RefCell::new(State::empty(0));
    let now = Instant::now();
    let begin = |compacted| *state.borrow_mut() = State::empty(compacted);
    let (disk, revision) = Disk::open(path, begin, |record| {
        state.borrow_mut().apply(record, now);
    })?;
    let mut state = state.into_inner();
    state.revision = state.revision.max(revision);
    Ok((disk, state))
}

impl Storage for Store {
    fn revision(&self) -> Revision {
        self.read().revision
    }

    fn oldest(&self) -> Revision {
        self.read().history.oldest
    }

    fn get(&self, key: &str) -> Option<Entry> {
        self.read().entry(key)
    }

    fn range(&self, prefix: &str, options: RangeOptions<'_>) -> Result<Range, Error> {
        self.read().range(prefix, options)
    }

    fn commit(&self, transaction: Transaction) -> Commit<'_> {
        let (sender, receiver) = oneshot::channel();
        let sent = match &*self.requests.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(requests) => requests.send((transaction, sender)).is_ok(),
            None => false,
        };
        Box::pin(async move {
            if !sent {
                return Err(Error::Closed);
            }
            receiver.await.unwrap_or(Err(Error::Closed))
        })
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        Watch::start(self.state.clone(), prefix, after)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer died");
        }
    }
}
