//! Keys that wait to be looked at: each at most once in the queue, never twice at work, later when it failed or asked for it.
//!
//! A key that is added while it is at work is taken again afterwards. Due times are the runtime's clock, so a paused clock in a test
//! decides when they come.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

const FIRST_RETRY: Duration = Duration::from_millis(5);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// A queue of keys. Clones share it.
#[derive(Debug)]
pub struct Queue<Q> {
    shared: Arc<Shared<Q>>,
}

#[derive(Debug)]
struct Shared<Q> {
    state: Mutex<State<Q>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<Q> {
    ready: VecDeque<Q>,
    /// The keys of `ready`, to find them.
    queued: BTreeSet<Q>,
    at_work: BTreeSet<Q>,
    /// Keys at work that were added again.
    again: BTreeSet<Q>,
    later: BTreeMap<Q, Instant>,
    failures: BTreeMap<Q, u32>,
}

impl<Q> Clone for Queue<Q> {
    fn clone(&self) -> Self {
        Queue { shared: Arc::clone(&self.shared) }
    }
}

impl<Q: Ord + Clone + Debug> Default for Queue<Q> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            queued: BTreeSet::new(),
            at_work: BTreeSet::new(),
            again: BTreeSet::new(),
            later: BTreeMap::new(),
            failures: BTreeMap::new(),
        };
        Queue { shared: Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }) }
    }
}

impl<Q: Ord + Clone + Debug> Queue<Q> {
    fn state(&self) -> MutexGuard<'_, State<Q>> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key is to be looked at now.
    pub fn add(&self, key: Q) {
        self.state().add(key);
        self.shared.changed.notify_one();
    }

    /// The key is to be looked at in `delay`, or earlier if something else asks for it.
    pub fn add_after(&self, key: Q, delay: Duration) {
        self.state().postpone(key, Instant::now() + delay);
        self.shared.changed.notify_one();
    }

    /// The next key that is due; it stays at work until [`Queue::done`].
    pub async fn next(&self) -> Q {
        loop {
            let due = {
                let mut state = self.state();
                state.wake(Instant::now());
                if let Some(key) = state.take() {
                    return key;
                }
                state.later.values().min().copied()
            };
            match due {
                Some(due) => {
                    // Either is a reason to look again; which one it was does not matter.
                    let _ = tokio::time::timeout_at(due, self.shared.changed.notified()).await;
                }
                None => self.shared.changed.notified().await,
            }
        }
    }

    /// A key that is due now, if there is one; for tests that drive a controller by hand.
    #[cfg(test)]
    pub fn try_next(&self) -> Option<Q> {
        let mut state = self.state();
        state.wake(Instant::now());
        state.take()
    }

    /// The key has been looked at. `failed` brings it back after a pause that doubles with each failure in a row.
    pub fn done(&self, key: &Q, failed: bool) {
        let mut state = self.state();
        state.at_work.remove(key);
        if failed {
            let failures = state.failures.entry(key.clone()).or_default();
            *failures += 1;
            let pause = FIRST_RETRY.saturating_mul(1 << (*failures - 1).min(16)).min(LAST_RETRY);
            state.postpone(key.clone(), Instant::now() + pause);
        } else {
            state.failures.remove(key);
        }
        // After a failure the pause holds even if the world moved on meanwhile: most failures are conflicts with that very move.
        if state.again.remove(key) && !failed {
            state.add(key.clone());
        }
        drop(state);
        self.shared.changed.notify_one();
    }
}

impl<Q: Ord + Clone> State<Q> {
    fn add(&mut self, key: Q) {
        if self.at_work.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.later.remove(&key);
            self.ready.push_back(key);
        }
    }

    fn postpone(&mut self, key: Q, due: Instant) {
        if !self.queued.contains(&key) {
            self.later.entry(key).and_modify(|old| *old = (*old).min(due)).or_insert(due);
        }
    }

    fn wake(&mut self, now: Instant) {
        let due: Vec<Q> = self.later.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.later.remove(&key);
            self.add(key);
        }
    }

    fn take(&mut self) -> Option<Q> {
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.at_work.insert(key.clone());
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_waits_once_however_often_it_is_added() {
        let queue = Queue::default();
        queue.add(1);
        queue.add(1);
        assert_eq!(queue.try_next(), Some(1));
        assert_eq!(queue.try_next(), None);
    }

    #[test]
    fn a_key_added_at_work_comes_again_only_when_done() {
        let queue = Queue::default();
        queue.add(1);
        assert_eq!(queue.try_next(), Some(1));
        queue.add(1);
        assert_eq!(queue.try_next(), None);
        queue.done(&1, false);
        assert_eq!(queue.try_next(), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_pause_longer_each_time() {
        let queue = Queue::default();
        queue.add(1);
        let mut pauses = Vec::new();
        for _ in 0..4 {
            let before = Instant::now();
            let key = queue.next().await;
            pauses.push(before.elapsed().as_millis());
            queue.done(&key, true);
        }
        // The runtime's timer rounds up to whole milliseconds.
        assert!(pauses[0] == 0 && (5..8).contains(&pauses[1]) && (10..13).contains(&pauses[2]), "{pauses:?}");
        assert!((20..23).contains(&pauses[3]), "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_key_is_taken_at_once_when_the_world_moves() {
        let queue = Queue::default();
        queue.add_after(1, Duration::from_secs(30));
        assert_eq!(queue.try_next(), None);
        queue.add(1);
        assert_eq!(queue.try_next(), Some(1));
        queue.done(&1, false);
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(queue.try_next(), None, "the delay was used up");
    }
}
