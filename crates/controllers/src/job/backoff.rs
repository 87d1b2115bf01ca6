//! How long a Job waits before it tries again: ten seconds after a failure, twice as long after each further one, never
//! more than ten minutes.
//!
//! The failures are read off the pods that are there, those since the last success, so a restart of ours forgets nothing.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::pods;
use super::state::State;

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);

/// What is left of the pause before any pod of the Job may be made.
pub fn left(state: &State<'_>) -> Option<Duration> {
    let valid = || state.pods.iter().filter(|pod| state.is_valid(pod));
    let success = valid().filter(|pod| pods::has_succeeded(pod)).filter_map(|pod| pods::ended(pod)).max();
    let failed = valid().filter(|pod| pods::has_failed(pod, state.spec)).filter_map(|pod| pods::ended(pod));
    let since: Vec<Timestamp> = failed.filter(|ended| success.is_none_or(|success| *ended > success)).collect();
    remaining(u32::try_from(since.len()).unwrap_or(u32::MAX), since.into_iter().max()?, state.now)
}

/// What is left of the pause before the pod of an index that failed may be made again.
pub fn left_for(failed: Option<&Arc<Pod>>, now: Timestamp) -> Option<Duration> {
    let failed = failed?;
    let failures = u32::try_from(pods::all_earlier_failures(failed)).unwrap_or(0).saturating_add(1);
    remaining(failures, pods::ended(failed)?, now)
}

fn remaining(failures: u32, last: Timestamp, now: Timestamp) -> Option<Duration> {
    let doublings = failures.checked_sub(1)?;
    let pause = FIRST.saturating_mul(1 << doublings.min(10)).min(LONGEST);
    let left = SignedDuration::try_from(pause).ok()? - now.duration_since(last);
    Duration::try_from(left).ok().filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_ten_minutes() {
        let last = Timestamp::UNIX_EPOCH;
        let pause = |failures| remaining(failures, last, last).map_or(0, |left| left.as_secs());
        assert_eq!([0, 1, 2, 3, 6, 7, 50].map(pause), [0, 10, 20, 40, 320, 600, 600]);
        assert_eq!(remaining(1, last, last + SignedDuration::from_secs(10)), None);
    }
}
