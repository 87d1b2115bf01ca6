//! Probes: when they run, what they ask, and how many answers make a verdict.
//!
//! Counting is pure ([`count`]); asking is the edge ([`ask`]). Network probes leave from the node's namespace, as the kubelet's do.

pub mod ask;
pub mod count;
mod grpc;
mod http;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Probe;
use tokio::time::Instant;

pub use ask::{Answer, Asker, Target};
use count::Counter;

/// A probe's verdict, after its thresholds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub passed: bool,
    /// What the failing answer said.
    pub message: String,
}

/// One answer, and the verdict if it settled one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub answer: Answer,
    pub verdict: Option<Verdict>,
}

/// Asks again and again for as long as `tell` says so; begins when the container has run for the initial delay.
pub async fn watch(
    probe: Probe,
    target: Target,
    asker: Asker,
    started_at: Timestamp,
    mut tell: impl FnMut(Report) -> bool,
) {
    let age = Timestamp::now().duration_since(started_at).max(SignedDuration::ZERO);
    let delay = Duration::from_secs(whole(probe.initial_delay_seconds, 0));
    tokio::time::sleep(delay.saturating_sub(age.unsigned_abs())).await;
    let period = Duration::from_secs(whole(probe.period_seconds, 10).max(1));
    let timeout = Duration::from_secs(whole(probe.timeout_seconds, 1).max(1));
    let mut counter = Counter::new(&probe);
    let mut next = Instant::now();
    loop {
        let answer = asker.ask(&probe, &target, timeout).await;
        let verdict = counter.observe(answer.passed).map(|passed| Verdict { passed, message: answer.message.clone() });
        if !tell(Report { answer, verdict }) {
            return;
        }
        next += period;
        // A probe that took longer than its period is not made up for.
        next = next.max(Instant::now());
        tokio::time::sleep_until(next).await;
    }
}

fn whole(value: Option<i32>, default: u64) -> u64 {
    value.and_then(|v| u64::try_from(v).ok()).unwrap_or(default)
}
