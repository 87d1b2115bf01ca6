//! What was served for one Ingress: counters that every worker adds to without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets of response times, in microseconds; above the last is infinity.
const BOUNDS_US: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

/// Counters of one Ingress.
#[derive(Debug, Default)]
pub struct Stats {
    /// By the hundreds of the status: 1xx to 5xx.
    classes: [AtomicU64; 5],
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Stats {
    pub fn count(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.classes[class].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS_US.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// Responses with a status of `hundreds`, such as 2 for 2xx.
    pub fn responses(&self, hundreds: usize) -> u64 {
        self.classes.get(hundreds.wrapping_sub(1)).map_or(0, |class| class.load(Ordering::Relaxed))
    }

    /// Sum in seconds, and (upper bound in seconds, count) of each bucket.
    pub fn durations(&self) -> (f64, Vec<(f64, u64)>) {
        let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::MAX]);
        let buckets = bounds.zip(&self.buckets).map(|(bound, count)| (bound, count.load(Ordering::Relaxed))).collect();
        (self.sum_us.load(Ordering::Relaxed) as f64 / 1e6, buckets)
    }
}
