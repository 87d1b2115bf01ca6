//! The pause before something that failed is tried again: 10 s at first, doubled each time, at most 5 min, and forgotten after 10 quiet
//! minutes. Containers and image pulls keep one each; the figures are the kubelet's.

use jiff::{SignedDuration, Timestamp};

const FIRST: SignedDuration = SignedDuration::from_secs(10);
const MOST: SignedDuration = SignedDuration::from_secs(300);
const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_secs(600);
/// A failure may lie so far ahead and was still just now: shims note the time of an exit themselves.
const AHEAD: SignedDuration = SignedDuration::from_secs(1);

/// How patient we are now. A fresh one lets the first retry pass at once, as upstream does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    last: Option<(Timestamp, SignedDuration)>,
}

impl Backoff {
    /// One that knows of no failure.
    pub const fn new() -> Self {
        Backoff { last: None }
    }

    /// One that has let `restarts` retries pass, the last of which began at `since`: what is known after our own restart.
    pub fn after(restarts: u32, since: Timestamp) -> Self {
        let doublings = restarts.saturating_sub(1).min(10);
        let last = (restarts > 0).then(|| (since, (FIRST * (1 << doublings)).min(MOST)));
        Backoff { last }
    }

    /// Until when to wait after a failure at `failed_at`; none when the next try may begin.
    pub fn until(&self, failed_at: Timestamp, now: Timestamp) -> Option<(Timestamp, SignedDuration)> {
        let (since, delay) = self.last?;
        if failed_at.duration_since(since) > FORGOTTEN_AFTER {
            return None;
        }
        // The clock has been set back since then. How long ago it was nobody knows, and until the clock is there again it may be hours.
        if failed_at.duration_since(now) > AHEAD {
            return None;
        }
        let end = failed_at.saturating_add(delay).unwrap_or(failed_at);
        (end > now).then_some((end, delay))
    }

    /// Notes that a try begins after a failure at `failed_at`: the next pause is longer.
    pub fn next(&mut self, failed_at: Timestamp, now: Timestamp) {
        let delay = match self.last {
            Some((since, delay)) if failed_at.duration_since(since) <= FORGOTTEN_AFTER => (delay * 2).min(MOST),
            Some(_) | None => FIRST,
        };
        self.last = Some((now, delay));
    }
}

/// A duration as Go prints it, which is how every message of the kubelet has it: `10s`, `1m20s`, `5m0s`, `1.5s`, `12ms`.
pub fn go_duration(duration: SignedDuration) -> String {
    let nanos = duration.as_nanos().unsigned_abs();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let sign = if duration.is_negative() { "-" } else { "" };
    let decimal = |unit: u128, name: &str| {
        let digits = format!("{}.{:0width$}", nanos / unit, nanos % unit, width = unit.ilog10() as usize);
        format!("{sign}{}{name}", digits.trim_end_matches('0').trim_end_matches('.'))
    };
    match nanos {
        0..1_000 => format!("{sign}{nanos}ns"),
        1_000..1_000_000 => decimal(1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
            let seconds = format!("{}.{:09}", rest / 1_000_000_000, rest % 1_000_000_000);
            let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, m) => format!("{sign}{m}m{seconds}s"),
                (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_clock_that_was_set_back_is_not_waited_for() {
        let mut backoff = Backoff::default();
        backoff.next(at(5000), at(5000));
        // Of its time, and an hour later by a clock that is behind by an hour.
        assert_eq!(backoff.until(at(5100), at(5100)), Some((at(5110), FIRST)));
        assert_eq!(backoff.until(at(5100), at(5099)), Some((at(5110), FIRST)));
        assert_eq!(backoff.until(at(5100), at(1500)), None);
        backoff.next(at(5100), at(1500));
        assert_eq!(backoff.until(at(1520), at(1521)), Some((at(1540), FIRST * 2)), "it goes on from there");
    }

    #[test]
    fn the_pause_doubles_up_to_five_minutes_and_is_forgotten() {
        let mut backoff = Backoff::default();
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            // The container ends as soon as it starts.
            let wait = backoff.until(at(now), at(now)).map_or(0, |(end, _)| end.as_second() - at(now).as_second());
            pauses.push(wait);
            backoff.next(at(now), at(now + wait));
            now += wait;
        }
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert!(backoff.until(at(now + 600), at(now + 600)).is_some());
        assert!(backoff.until(at(now + 601), at(now + 601)).is_none());
        backoff.next(at(now + 601), at(now + 601));
        assert_eq!(backoff.until(at(now + 602), at(now + 602)).unwrap().1, FIRST);
    }

    #[test]
    fn patience_outlives_the_daemon() {
        assert_eq!(Backoff::after(0, at(0)), Backoff::default());
        let mut lived = Backoff::default();
        for restarts in 1..20 {
            lived.next(at(restarts), at(restarts));
            assert_eq!(Backoff::after(restarts as u32, at(restarts)), lived);
        }
    }

    #[test]
    fn durations_read_as_go_prints_them() {
        for (millis, text) in [
            (0, "0s"),
            (12, "12ms"),
            (1500, "1.5s"),
            (10_000, "10s"),
            (80_000, "1m20s"),
            (300_000, "5m0s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(SignedDuration::from_millis(millis)), text);
        }
        assert_eq!(go_duration(SignedDuration::from_micros(1234)), "1.234ms");
    }
}
