//! How long is waited for who must answer through the API: time in which the API server itself answers nobody does not count.
//!
//! A bound is there for one who has gone. While no write comes through (a disk that is busy, a server that starts anew), nobody can have heard
//! what is asked nor can say it, so that an end of the wait would be an end without a drain. Whether the server answers is seen by a request
//! that is made again and again anyway, such as the renewal of a node's Lease.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// So long an answer may take of a server that is well.
const USUAL: Duration = Duration::from_millis(250);

/// For how long the API server has been silent. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Silence(Arc<Mutex<Past>>);

#[derive(Debug, Default)]
struct Past {
    /// Before the request that is on its way.
    total: Duration,
    /// Since when a request is on its way.
    since: Option<Instant>,
}

impl Silence {
    // A poisoned lock means that somebody panicked while he held plain data: the data are whole.
    fn past(&self) -> MutexGuard<'_, Past> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is on its way, or goes on its way once more.
    pub fn asked(&self) {
        self.past().since.get_or_insert_with(Instant::now);
    }

    pub fn answered(&self) {
        let mut past = self.past();
        let silent = past.silent();
        *past = Past { total: past.total + silent, since: None };
    }

    /// All of it, up to now.
    fn lasted(&self) -> Duration {
        let past = self.past();
        past.total + past.silent()
    }

    /// Begins to wait: for `bound` and as long as the server is silent meanwhile, but not beyond `last`.
    pub fn patience(&self, bound: Duration, last: Instant) -> Patience {
        Patience { silence: self.clone(), before: self.lasted(), deadline: Instant::now() + bound, last }
    }
}

impl Past {
    fn silent(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed().saturating_sub(USUAL))
    }
}

/// A wait that has begun.
#[derive(Debug, Clone)]
pub struct Patience {
    silence: Silence,
    before: Duration,
    deadline: Instant,
    last: Instant,
}

impl Patience {
    fn deadline(&self) -> Instant {
        self.last.min(self.deadline + self.silence.lasted().saturating_sub(self.before))
    }

    /// Nothing if the time is over before `what` is done.
    pub async fn wait<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        let mut what = pin!(what);
        loop {
            let deadline = self.deadline();
            if let Ok(done) = timeout_at(deadline, &mut what).await {
                return Some(done);
            }
            if self.deadline() <= deadline {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::{advance, sleep};

    use super::*;

    const BOUND: Duration = Duration::from_secs(2);

    /// How many milliseconds are waited for what never comes, while the server is silent between these two moments.
    async fn waited(silence: &Silence, from: u64, to: u64, last: u64) -> u128 {
        let began = Instant::now();
        let patience = silence.patience(BOUND, began + Duration::from_millis(last));
        let asking = async {
            sleep(Duration::from_millis(from)).await;
            silence.asked();
            sleep(Duration::from_millis(to - from)).await;
            silence.answered();
            pending::<()>().await;
        };
        tokio::select! {
            () = asking => unreachable!("it never ends"),
            done = patience.wait(pending::<()>()) => assert_eq!(done, None),
        }
        began.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn silence_does_not_count() {
        let silence = Silence::default();
        assert_eq!(waited(&silence, 500, 510, 10_000).await, 2000, "an answer takes its time");
        assert_eq!(waited(&silence, 500, 1750, 10_000).await, 3000);
        assert_eq!(waited(&silence, 1000, 5250, 10_000).await, 6000, "it is silent when the time would be over");
        assert_eq!(waited(&silence, 0, 60_000, 10_000).await, 10_000, "nothing is waited for beyond the last moment");
        silence.answered();
        assert_eq!(
            waited(&silence, 1990, 9000, 10_000).await,
            2000,
            "what was before does not count, nor what has just been asked"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_done_in_time_is_given() {
        let silence = Silence::default();
        silence.asked();
        advance(Duration::from_secs(5)).await;
        // On its way still, and asked for once more.
        silence.asked();
        let patience = silence.patience(BOUND, Instant::now() + Duration::from_secs(60));
        assert_eq!(patience.wait(async { sleep(Duration::from_secs(30)).await }).await, Some(()));
        silence.answered();
        assert_eq!(patience.wait(pending::<()>()).await, None);
    }
}
