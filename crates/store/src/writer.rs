//! The one writer: takes whatever transactions wait, gives each its revision, and makes them durable with one `fsync`.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::disk::{Batch, Disk, Record};
use crate::history::{Event, Limits};
use crate::state::State;
use crate::{Check, Error, Key, Revision, Transaction, Write};

/// A transaction and where its answer goes.
pub(crate) type Request = (Transaction, oneshot::Sender<Result<Revision, Error>>);

/// So many transactions share a commit at most; what comes meanwhile shares the next.
const BATCH: usize = 512;
/// So many outdated records are removed in one commit at most, to keep its latency even.
const COMPACT: usize = 1024;
/// How often history is trimmed by age when nothing is written.
const IDLE: Duration = Duration::from_secs(60);

pub(crate) struct Writer {
    pub(crate) disk: Disk,
    pub(crate) state: Arc<RwLock<State>>,
    pub(crate) limits: Limits,
    pub(crate) requests: Receiver<Request>,
}

impl Writer {
    /// Runs until every sender is gone.
    pub(crate) fn run(mut self) {
        loop {
            match self.requests.recv_timeout(IDLE) {
                Ok(first) => {
                    let mut waiting = vec![first];
                    waiting.extend(self.requests.try_iter().take(BATCH - 1));
                    self.commit(waiting);
                }
                Err(RecvTimeoutError::Timeout) => self.commit(Vec::new()),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn commit(&mut self, waiting: Vec<Request>) {
        let since = self.state.read().unwrap_or_else(PoisonError::into_inner).revision;
        let mut plan = Plan { batch: Batch { revision: since, ..Batch::default() }, pending: HashMap::new() };
        let mut answers = Vec::with_capacity(waiting.len());
        {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            for (transaction, answer) in waiting {
                match plan.add(&state, transaction) {
                    Ok(revision) => answers.push((revision, answer)),
                    // The caller may have gone away; then nobody needs the answer.
                    Err(error) => drop(answer.send(Err(error))),
                }
            }
        }
        let forgotten = self.compaction(&mut plan.batch);
        if plan.batch.records.is_empty() && plan.batch.obsolete.is_empty() {
            answer_all(answers);
            return;
        }
        match self.make_durable(&plan.batch) {
            Ok(()) => {
                self.publish(plan.batch, &forgotten, since);
                answer_all(answers);
            }
            Err(error) => {
                tracing::error!(%error, transactions = answers.len(), "store write failed");
                for (_, answer) in answers {
                    drop(answer.send(Err(error.again())));
                }
            }
        }
    }

    /// Chooses history to forget, and the records that go with it.
    fn compaction(&self, batch: &mut Batch) -> Vec<Arc<Event>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let surplus = state.history.surplus(self.limits, Instant::now(), COMPACT);
        batch.compacted = surplus.last().map_or(state.history.oldest, |event| event.revision);
        for event in &surplus {
            batch.obsolete.extend(event.replaced);
            if event.change == crate::Change::Deleted {
                batch.obsolete.push(event.place);
            }
        }
        surplus
    }

    fn make_durable(&mut self, batch: &Batch) -> Result<(), Error> {
        if self.disk.is_closed() {
            self.recover()?;
            // What was planned assumed the state before the recovery; the caller tries again on the new one.
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if batch.records.first().is_some_and(|record| record.place.0 <= state.revision) {
                return Err(Error::Write(std::io::Error::other(
                    "an earlier write turned out to be durable, try again",
                )));
            }
        }
        self.disk.write(batch)
    }

    /// After a failed write: opens the file again. A write of which we could not know that it is durable, and is, takes effect now.
    fn recover(&mut self) -> Result<(), Error> {
        let since = self.state.read().unwrap_or_else(PoisonError::into_inner).revision;
        let mut found = Vec::new();
        self.disk.reopen(since, |_| {}, |record| found.push(record))?;
        let batch = Batch { records: found, revision: since, ..Batch::default() };
        self.publish(batch, &[], since);
        Ok(())
    }

    /// Makes durable records visible to readers and watches.
    fn publish(&self, batch: Batch, forgotten: &[Arc<Event>], since: Revision) {
        let now = Instant::now();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for record in batch.records {
            state.apply(record, now);
        }
        state.revision = state.revision.max(batch.revision);
        if let Some(last) = forgotten.last() {
            state.forget(forgotten, last.revision);
        }
        state.wake(since);
    }
}

fn answer_all(answers: Vec<(Revision, oneshot::Sender<Result<Revision, Error>>)>) {
    for (revision, answer) in answers {
        drop(answer.send(Ok(revision)));
    }
}

/// A batch while it grows, with what earlier transactions of it changed.
struct Plan {
    batch: Batch,
    /// Keys changed in this batch: their creation and latest revision, or absent.
    pending: HashMap<Key, Option<(Revision, Revision)>>,
}

impl Plan {
    /// Creation and latest revision of a key.
    fn found(&self, state: &State, key: &str) -> Option<(Revision, Revision)> {
        match self.pending.get(key) {
            Some(found) => *found,
            None => state.values.get(key).map(|kept| (kept.created, kept.place.0)),
        }
    }

    fn add(&mut self, state: &State, transaction: Transaction) -> Result<Revision, Error> {
        for Check { key, modified } in transaction.checks {
            let found = self.found(state, &key).map(|(_, modified)| modified);
            if found != modified {
                return Err(Error::Conflict { key, expected: modified, found });
            }
        }
        let revision = self.batch.revision + 1;
        let mut position = 0;
        for write in transaction.writes {
            let (key, body, deleted) = match write {
                Write::Put { key, body } => (key, body, false),
                Write::Delete { key, .. } if self.found(state, &key).is_none() => continue,
                Write::Delete { key, last } => (key, last, true),
            };
            let created = self.found(state, &key).map_or(revision, |(created, _)| created);
            self.pending.insert(key.clone(), (!deleted).then_some((created, revision)));
            let value = Bytes::from(body.at(revision).into_boxed_slice());
            self.batch.records.push(Record { place: (revision, position), created, key, value, deleted });
            position += 1;
        }
        if position == 0 {
            return Ok(self.batch.revision);
        }
        self.batch.revision = revision;
        Ok(revision)
    }
}
