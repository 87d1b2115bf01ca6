//! Which time of a schedule is due, and when to look again.

use std::time::Duration;

use api::cron::Schedule;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Looking a little late never finds that it is too early.
const AFTER: SignedDuration = SignedDuration::from_millis(100);
/// From so many missed times on people are told.
const MANY: i64 = 100;

/// A schedule with the clock that it goes by.
#[derive(Debug)]
pub struct Clock<'a> {
    pub schedule: &'a Schedule,
    pub zone: &'a TimeZone,
    /// When the schedule was last met, or the CronJob came about.
    pub since: Timestamp,
    pub starting_deadline: Option<i64>,
}

/// What the clock says.
#[derive(Debug, PartialEq, Eq)]
pub struct Due {
    /// The latest time that has come and was not met.
    pub time: Option<Timestamp>,
    pub missed_many: bool,
}

impl Clock<'_> {
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.schedule.next(after, self.zone)
    }

    /// The time that is due.
    ///
    /// # Errors
    /// When the schedule never comes, or comes at no distance.
    pub fn due(&self, now: Timestamp) -> Result<Due, String> {
        let deadline = self.starting_deadline.map(|seconds| now - SignedDuration::from_secs(seconds));
        self.latest(deadline.map_or(self.since, |deadline| deadline.max(self.since)), now)
    }

    /// The latest time after `from` that is not after `now`.
    fn latest(&self, from: Timestamp, now: Timestamp) -> Result<Due, String> {
        const NEVER: &str = "time difference between two schedules is less than 1 second";
        let Some(first) = self.next(from) else { return Err(NEVER.to_owned()) };
        let none = Due { time: None, missed_many: false };
        if now < first {
            return Ok(none);
        }
        let Some(second) = self.next(first) else { return Ok(Due { time: Some(first), ..none }) };
        if now < second {
            return Ok(Due { time: Some(first), ..none });
        }
        let distance = second.duration_since(first).as_secs();
        if distance < 1 {
            return Err(NEVER.to_owned());
        }
        let missed = now.duration_since(first).as_secs() / distance + 1;
        // Most of the way in one step, the rest time by time: distances differ.
        let near = first + SignedDuration::from_secs((missed - 2) * distance);
        let mut times = std::iter::successors(self.next(near.max(first)), |time| self.next(*time));
        let mut latest = if near <= first { Some(second) } else { None };
        while let Some(time) = times.next().filter(|time| *time <= now) {
            latest = Some(time);
        }
        Ok(Due { time: latest, missed_many: missed > MANY })
    }

    /// How long until the next time.
    pub fn pause(&self, now: Timestamp) -> Option<Duration> {
        let latest = self.latest(self.since, now).ok().and_then(|due| due.time);
        let next = self.next(latest.unwrap_or(self.since)).filter(|next| *next > now).or_else(|| self.next(now))?;
        Duration::try_from(next.duration_since(now) + AFTER).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(schedule: &str, since: &str, now: &str, deadline: Option<i64>) -> (Option<String>, bool) {
        let schedule = Schedule::parse(schedule).unwrap();
        let since = since.parse().unwrap();
        let clock = Clock { schedule: &schedule, zone: &TimeZone::UTC, since, starting_deadline: deadline };
        let due = clock.due(now.parse().unwrap()).unwrap();
        (due.time.map(|time| time.to_string()), due.missed_many)
    }

    #[test]
    fn the_latest_missed_time_is_due() {
        let at = |text: &str| Some(text.to_owned());
        let since = "2026-01-02T10:00:00Z";
        assert_eq!(due("*/10 * * * *", since, "2026-01-02T10:09:59Z", None), (None, false));
        assert_eq!(due("*/10 * * * *", since, "2026-01-02T10:10:00Z", None), (at("2026-01-02T10:10:00Z"), false));
        assert_eq!(due("*/10 * * * *", since, "2026-01-02T10:35:00Z", None), (at("2026-01-02T10:30:00Z"), false));
        assert_eq!(due("*/10 * * * *", since, "2026-01-03T10:35:00Z", None), (at("2026-01-03T10:30:00Z"), true));
        assert_eq!(due("*/10 * * * *", since, "2026-01-02T10:35:00Z", Some(60)), (None, false));
        assert_eq!(due("*/10 * * * *", since, "2026-01-03T10:30:30Z", Some(60)), (at("2026-01-03T10:30:00Z"), false));
        assert_eq!(due("0 9 * * mon-fri", since, "2026-01-06T10:00:00Z", None), (at("2026-01-06T09:00:00Z"), false));
        assert_eq!(due("* * * * *", since, "2026-01-02T10:02:00Z", None), (at("2026-01-02T10:02:00Z"), false));
    }

    #[test]
    fn a_schedule_that_never_comes_is_told() {
        let schedule = Schedule::parse("0 0 31 2 *").unwrap();
        let since = "2026-01-02T10:00:00Z".parse().unwrap();
        let clock = Clock { schedule: &schedule, zone: &TimeZone::UTC, since, starting_deadline: None };
        assert!(clock.due(since).is_err());
        assert_eq!(clock.pause(since), None);
    }
}
