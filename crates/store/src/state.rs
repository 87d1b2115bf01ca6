//! The state in memory: every current value, the history window, and who waits for which prefix.
//!
//! All of it is volatile and is rebuilt from the records on disk at open; it changes only after those are durable.

use std::collections::{BTreeMap, HashMap, btree_map};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::watch;

use crate::disk::Record;
use crate::history::{Change, Event, History, Place};
use crate::{Error, Key, Revision};

/// A key with its current (or past) value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub value: Bytes,
    /// The revision that created the key.
    pub created: Revision,
    /// The revision that changed it last.
    pub modified: Revision,
}

/// Which part of a range is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct RangeOptions<'a> {
    /// Start after this key.
    pub after: Option<&'a str>,
    /// At most so many; 0 is all.
    pub limit: usize,
    /// As of this revision; the current one when absent.
    pub at: Option<Revision>,
}

/// An answer to a range.
#[derive(Debug, Clone)]
pub struct Range {
    pub entries: Vec<Entry>,
    /// The revision that the entries are as of.
    pub revision: Revision,
    /// How many further keys follow the last entry.
    pub remaining: usize,
}

#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) value: Bytes,
    pub(crate) created: Revision,
    pub(crate) place: Place,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) values: BTreeMap<Key, Kept>,
    pub(crate) revision: Revision,
    pub(crate) history: History,
    /// For each watched prefix what happened below it; receivers are the watches.
    waiting: HashMap<Arc<str>, watch::Sender<Below>>,
}

/// What a watch must know about its prefix without looking at the history.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Below {
    /// Revision of the latest event.
    pub(crate) latest: Revision,
    /// Revision of the latest event that the history no longer holds: who is not beyond it has missed something.
    pub(crate) dropped: Revision,
}

impl State {
    pub(crate) fn empty(oldest: Revision) -> Self {
        State {
            values: BTreeMap::new(),
            revision: oldest,
            history: History::starting_at(oldest),
            waiting: HashMap::new(),
        }
    }

    /// Applies one change that is durable, and remembers it for watches when it is within the history window.
    pub(crate) fn apply(&mut self, record: Record, now: Instant) {
        let Record { place, created, key, value, deleted } = record;
        let revision = place.0;
        let old = if deleted {
            self.values.remove(&key)
        } else {
            self.values.insert(key.clone(), Kept { value: value.clone(), created, place })
        };
        let change = match (&old, deleted) {
            (_, true) => Change::Deleted,
            (None, false) => Change::Created,
            (Some(_), false) => Change::Updated,
        };
        self.revision = self.revision.max(revision);
        if revision > self.history.oldest {
            let replaced = old.as_ref().map(|old| old.place);
            let previous = old.map(|old| old.value);
            let event = Event { key, revision, change, value, previous, replaced, created, place };
            self.history.push(Arc::new(event), now);
        }
    }

    /// Wakes every watch whose prefix has an event after `since`.
    pub(crate) fn wake(&mut self, since: Revision) {
        let history = &self.history;
        self.waiting.retain(|prefix, sender| {
            let latest = history.after(since).rev().find(|event| event.key.starts_with(&**prefix));
            if let Some(event) = latest {
                let latest = event.revision;
                sender.send_modify(|below| below.latest = latest);
            }
            sender.receiver_count() > 0
        });
    }

    /// Forgets the history up to and with `through`, of which `events` are the events.
    pub(crate) fn forget(&mut self, events: &[Arc<Event>], through: Revision) {
        for (prefix, sender) in &self.waiting {
            if let Some(event) = events.iter().rev().find(|event| event.key.starts_with(&**prefix)) {
                let dropped = event.revision;
                // Who is too slow learns it when it next looks; nobody is woken for that.
                sender.send_if_modified(|below| {
                    below.dropped = dropped;
                    false
                });
            }
        }
        self.history.drop_through(through);
    }

    /// A receiver that changes whenever a key below `prefix` does.
    pub(crate) fn wait_for(&mut self, prefix: &str) -> watch::Receiver<Below> {
        match self.waiting.get(prefix) {
            Some(sender) => sender.subscribe(),
            None => {
                let (sender, receiver) = watch::channel(Below::default());
                self.waiting.insert(Arc::from(prefix), sender);
                receiver
            }
        }
    }

    pub(crate) fn entry(&self, key: &str) -> Option<Entry> {
        let (key, kept) = self.values.get_key_value(key)?;
        Some(entry(key, kept))
    }

    pub(crate) fn range(&self, prefix: &str, options: RangeOptions<'_>) -> Result<Range, Error> {
        let at = options.at.unwrap_or(self.revision);
        if at > self.revision {
            return Err(Error::Future { asked: at, latest: self.revision });
        }
        if at < self.history.oldest {
            return Err(Error::Compacted { asked: at, oldest: self.history.oldest });
        }
        let past = self.past(prefix, at);
        let start = match options.after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let mut below = self.below(prefix, start);
        if past.is_empty() {
            let entries: Vec<Entry> = below.by_ref().take(limit).map(|(key, kept)| entry(key, kept)).collect();
            // A list goes by pages, and each counts what is left: it must not cost a look at every key.
            return Ok(Range { entries, revision: at, remaining: below.count() });
        }
        let mut entries = Vec::new();
        let mut remaining = 0;
        let mut take = |make: &dyn Fn() -> Entry| {
            if entries.len() < limit { entries.push(make()) } else { remaining += 1 }
        };
        let mut past = past.range::<str, _>((start, Bound::Unbounded)).peekable();
        for (key, kept) in below {
            while let Some((before, old)) = past.next_if(|(other, _)| *other < key) {
                if let Some(old) = old {
                    take(&|| Entry { key: before.clone(), ..old.clone() });
                }
            }
            match past.next_if(|(other, _)| *other == key) {
                Some((_, Some(old))) => take(&|| old.clone()),
                Some((_, None)) => {}
                None => take(&|| entry(key, kept)),
            }
        }
        past.filter_map(|(_, old)| old.as_ref()).for_each(|old| take(&|| old.clone()));
        Ok(Range { entries, revision: at, remaining })
    }

    /// The keys that begin with `prefix`, from `start` on.
    fn below<'a>(&'a self, prefix: &str, start: Bound<&str>) -> btree_map::Range<'a, Key, Kept> {
        let end = past_prefix(prefix);
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        match (start, end) {
            // A map panics at a range that ends before it starts; a token may say to go on after the last key.
            (Bound::Excluded(start) | Bound::Included(start), Bound::Excluded(end)) if start >= end => {
                self.values.range::<str, _>((Bound::Included(end), Bound::Excluded(end)))
            }
            bounds => self.values.range::<str, _>(bounds),
        }
    }

    /// What the keys that changed after `at` were at `at`: absent, or this entry.
    fn past(&self, prefix: &str, at: Revision) -> BTreeMap<Key, Option<Entry>> {
        let mut past = BTreeMap::new();
        for event in self.history.after(at).rev().filter(|event| event.key.starts_with(prefix)) {
            let before = event.previous.as_ref().map(|value| Entry {
                key: event.key.clone(),
                value: value.clone(),
                created: event.created,
                modified: event.replaced.map_or(0, |place| place.0),
            });
            past.insert(event.key.clone(), before);
        }
        past
    }
}

/// The first text after all that begin with `prefix`; none when nothing comes after them.
fn past_prefix(prefix: &str) -> Option<String> {
    let mut end: Vec<char> = prefix.chars().collect();
    while let Some(last) = end.pop() {
        // `char` counts over the gap of surrogates, as the order of strings does.
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return Some(end.into_iter().collect());
        }
    }
    None
}

fn entry(key: &Key, kept: &Kept) -> Entry {
    Entry { key: key.clone(), value: kept.value.clone(), created: kept.created, modified: kept.place.0 }
}
