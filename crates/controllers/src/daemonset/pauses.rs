//! A node that refuses each pod anew gets the next one later each time: a second after the first failure, at most a quarter of an hour.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use client::Key;
use jiff::{SignedDuration, Timestamp};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(900);

/// By set and node: what was waited for last.
#[derive(Debug, Default)]
pub struct Pauses(Mutex<BTreeMap<Key, BTreeMap<String, Pause>>>);

#[derive(Debug, Clone, Copy)]
struct Pause {
    since: Timestamp,
    length: Duration,
}

impl Pauses {
    /// A pod of the set has failed on the node. Nothing when it may be removed now, and the pause before the next one begins; else what is
    /// left of the last.
    pub fn left(&self, set: &Key, node: &str, now: Timestamp) -> Option<Duration> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_set = all.entry(set.clone()).or_default();
        let last = of_set.get(node).copied();
        let since = last.map(|pause| now.duration_since(pause.since));
        let length = last.map_or(Duration::ZERO, |pause| pause.length);
        if let Some(left) =
            since.and_then(|since| Duration::try_from(SignedDuration::try_from(length).ok()? - since).ok())
            && !left.is_zero()
        {
            return Some(left);
        }
        // A node that was well for long enough begins anew.
        let forgotten = since.is_none_or(|since| since > SignedDuration::from_secs(2 * 900));
        let length = if forgotten { FIRST } else { length.saturating_mul(2).min(LONGEST) };
        of_set.insert(node.to_owned(), Pause { since: now, length });
        None
    }

    pub fn forget(&self, set: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_fails_again_and_again_waits_longer_each_time() {
        let (pauses, set) = (Pauses::default(), Key::new("default", "d"));
        let at = |millis: i64| Timestamp::from_millisecond(millis).unwrap();
        let millis = |left: Option<Duration>| left.map(|left| left.as_millis());
        assert_eq!(pauses.left(&set, "n", at(0)), None);
        assert_eq!(millis(pauses.left(&set, "n", at(400))), Some(600));
        assert_eq!(pauses.left(&set, "n", at(1000)), None);
        assert_eq!(millis(pauses.left(&set, "n", at(1000))), Some(2000));
        assert_eq!(pauses.left(&set, "other", at(1000)), None, "each node by itself");
        let mut now = 3000;
        for _ in 0..20 {
            assert_eq!(pauses.left(&set, "n", at(now)), None);
            now += i64::try_from(pauses.left(&set, "n", at(now)).unwrap().as_millis()).unwrap();
        }
        assert_eq!(pauses.left(&set, "n", at(now)), None);
        assert_eq!(pauses.left(&set, "n", at(now)), Some(LONGEST));
        now += 1_900_000;
        assert_eq!(pauses.left(&set, "n", at(now)), None);
        assert_eq!(pauses.left(&set, "n", at(now)), Some(FIRST), "it was well in between");
        pauses.forget(&set);
        assert_eq!(pauses.left(&set, "n", at(now)), None);
    }
}
