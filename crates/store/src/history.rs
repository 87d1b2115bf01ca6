//! The window of recent changes: what watches read from, and what lets a list be answered as of a past revision.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{Key, Revision};

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Created,
    Updated,
    Deleted,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub key: Key,
    pub revision: Revision,
    pub change: Change,
    /// The value after the change; for a deletion the last state that the deleter left.
    pub value: Bytes,
    /// The value before the change.
    pub previous: Option<Bytes>,
    /// Where the value before the change is recorded, to be dropped with this event.
    pub(crate) replaced: Option<Place>,
    /// Revision at which the key came to be, for reading the past.
    pub(crate) created: Revision,
    /// Where this change is recorded.
    pub(crate) place: Place,
}

/// A record on disk: revision and position in its transaction.
pub(crate) type Place = (Revision, u32);

/// How much history is kept. Whatever is reached first drops the oldest.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub events: usize,
    pub bytes: usize,
    pub age: Duration,
}

/// Recent events in order. Volatile: read again from the records at open.
#[derive(Debug)]
pub(crate) struct History {
    events: VecDeque<(Arc<Event>, Instant)>,
    /// Sum of the values' lengths.
    bytes: usize,
    /// Everything after this revision is still here.
    pub(crate) oldest: Revision,
}

impl History {
    pub(crate) fn starting_at(oldest: Revision) -> Self {
        History { events: VecDeque::new(), bytes: 0, oldest }
    }

    pub(crate) fn push(&mut self, event: Arc<Event>, now: Instant) {
        self.bytes += event.value.len();
        self.events.push_back((event, now));
    }

    /// Events after `after`, oldest first.
    pub(crate) fn after(&self, after: Revision) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        let start = self.events.partition_point(|(event, _)| event.revision <= after);
        self.events.range(start..).map(|(event, _)| event)
    }

    /// The events that the limits no longer allow, whole revisions only, at most about `most`. Nothing is dropped yet.
    pub(crate) fn surplus(&self, limits: Limits, now: Instant, most: usize) -> Vec<Arc<Event>> {
        let mut out: Vec<Arc<Event>> = Vec::new();
        let mut bytes = self.bytes;
        for (index, (event, at)) in self.events.iter().enumerate() {
            let begun = out.last().is_some_and(|last| last.revision == event.revision);
            let over = self.events.len() - index > limits.events
                || bytes > limits.bytes
                || now.saturating_duration_since(*at) > limits.age;
            if !begun && (!over || out.len() >= most) {
                break;
            }
            bytes -= event.value.len();
            out.push(event.clone());
        }
        out
    }

    /// Forgets everything up to and with `revision`.
    pub(crate) fn drop_through(&mut self, revision: Revision) {
        while let Some((event, _)) = self.events.front()
            && event.revision <= revision
        {
            self.bytes -= event.value.len();
            self.events.pop_front();
        }
        self.oldest = self.oldest.max(revision);
    }
}
