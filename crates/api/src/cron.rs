//! Schedules in cron's form: five fields, or `@daily` and its like, read and followed as the parser that upstream uses does it.
//!
//! What is refused is refused in that parser's words, since they reach people in answers and events. Where a clock is set forward, times
//! that do not exist are skipped; where it is set back, times that come twice are met twice.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const DESCRIPTORS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
/// A schedule that meets no day for so many years never will.
const YEARS_AHEAD: i64 = 5;

/// What a field may hold: from, to, and names for the numbers from `from` on.
struct Bounds {
    from: u32,
    to: u32,
    names: &'static [&'static str],
}

const FIELDS: [Bounds; 5] = [
    Bounds { from: 0, to: 59, names: &[] },
    Bounds { from: 0, to: 23, names: &[] },
    Bounds { from: 1, to: 31, names: &[] },
    Bounds { from: 1, to: 12, names: MONTHS },
    Bounds { from: 0, to: 6, names: DAYS },
];

/// When something is to happen, again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At times that match all fields.
    Fields { minute: Field, hour: Field, day: Field, month: Field, weekday: Field },
    /// At a distance.
    Every(SignedDuration),
}

/// The numbers that a field allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Field {
    bits: u64,
    /// Written as `*`: says nothing about the day, where the other field for days does.
    any: bool,
}

impl Field {
    fn allows(self, number: i8) -> bool {
        u32::try_from(number).is_ok_and(|number| self.bits & (1 << number) != 0)
    }
}

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        if let Some(every) = text.strip_prefix("@every ") {
            let Some(pause) = duration(every) else {
                return Err(format!("failed to parse duration {text}: time: invalid duration {every:?}"));
            };
            // Whole seconds, and no less than one.
            return Ok(Schedule::Every(SignedDuration::from_secs(pause.as_secs().max(1))));
        }
        if text.starts_with('@') {
            let known = DESCRIPTORS.iter().find(|(name, _)| *name == text);
            return known
                .map_or_else(|| Err(format!("unrecognized descriptor: {text}")), |(_, same)| Self::parse(same));
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
        };
        Ok(Schedule::Fields {
            minute: field(minute, &FIELDS[0])?,
            hour: field(hour, &FIELDS[1])?,
            day: field(day, &FIELDS[2])?,
            month: field(month, &FIELDS[3])?,
            weekday: field(weekday, &FIELDS[4])?,
        })
    }

    /// The first time after `after`, by the clocks of `zone`; none if there is none within five years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let from = Timestamp::from_second(after.as_second()).ok()?;
        match self {
            Schedule::Every(pause) => from.checked_add(*pause).ok(),
            Schedule::Fields { .. } => {
                let from = from.checked_add(SignedDuration::from_secs(1)).ok()?;
                let first = from.to_zoned(zone.clone()).date();
                let last = first.checked_add(YEARS_AHEAD.years()).ok()?;
                let days = first.series(1.day()).take_while(|day| *day <= last).filter(|day| self.allows_day(*day));
                days.into_iter().find_map(|day| self.next_on(day, from, zone))
            }
        }
    }

    fn allows_day(&self, date: Date) -> bool {
        let Schedule::Fields { day, month, weekday, .. } = self else { return true };
        let by_day = day.allows(date.day());
        let by_weekday = weekday.allows(date.weekday().to_sunday_zero_offset());
        // With both written out, either is enough.
        let fits = if day.any || weekday.any { by_day && by_weekday } else { by_day || by_weekday };
        fits && month.allows(date.month())
    }

    fn next_on(&self, date: Date, from: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let Schedule::Fields { minute, hour, .. } = self else { return None };
        let midnight = date.to_zoned(zone.clone()).ok()?.timestamp();
        let mut time = from.max(midnight);
        loop {
            let clock = time.to_zoned(zone.clone());
            if clock.date() != date {
                return None;
            }
            let step = if clock.second() != 0 {
                60 - i64::from(clock.second())
            } else if !hour.allows(clock.hour()) {
                60 * (60 - i64::from(clock.minute()))
            } else if !minute.allows(clock.minute()) {
                60
            } else {
                return Some(time);
            };
            time = time.checked_add(SignedDuration::from_secs(step)).ok()?;
        }
    }
}

fn field(text: &str, bounds: &Bounds) -> Result<Field, String> {
    let mut field = Field::default();
    for part in text.split(',') {
        let part = range(part, bounds)?;
        field = Field { bits: field.bits | part.bits, any: field.any || part.any };
    }
    Ok(field)
}

/// `*`, `n`, `n-m`, each with `/step`.
fn range(text: &str, bounds: &Bounds) -> Result<Field, String> {
    let mut parts = text.split('/');
    let (span, step, more) = (parts.next().unwrap_or(""), parts.next(), parts.next());
    let mut ends = span.split('-');
    let (low, high, third) = (ends.next().unwrap_or(""), ends.next(), ends.next());
    let any = low == "*" || low == "?";
    let (start, end) = if any {
        (bounds.from, bounds.to)
    } else {
        let start = number(low, bounds)?;
        let end = high.map_or(Ok(start), |high| number(high, bounds))?;
        if third.is_some() {
            return Err(format!("too many hyphens: {text}"));
        }
        (start, end)
    };
    let (step, end) = match step.map(|step| number(step, &Bounds { names: &[], ..*bounds })).transpose()? {
        None => (1, end),
        // `n/step` goes on to the last.
        Some(step) if high.is_none() => (step, bounds.to),
        Some(step) => (step, end),
    };
    if more.is_some() {
        return Err(format!("too many slashes: {text}"));
    }
    let Bounds { from, to, .. } = bounds;
    if start < *from {
        return Err(format!("beginning of range ({start}) below minimum ({from}): {text}"));
    }
    if end > *to {
        return Err(format!("end of range ({end}) above maximum ({to}): {text}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let steps = (start..=end).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    Ok(Field { bits: steps.fold(0, |bits, number| bits | 1 << number), any: any && step == 1 })
}

fn number(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let name = text.to_lowercase();
    if let Some(index) = bounds.names.iter().position(|known| *known == name) {
        return Ok(bounds.from + u32::try_from(index).unwrap_or(0));
    }
    match text.parse::<i64>() {
        Ok(number) if number < 0 => Err(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
        Err(_) => Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")),
    }
}

/// A Go duration such as `1h30m`.
fn duration(text: &str) -> Option<SignedDuration> {
    const UNITS: [(&str, f64); 6] = [("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let after = &rest[digits..];
        let (unit, size) = UNITS.into_iter().find(|(unit, _)| {
            after
                .strip_prefix(unit)
                .is_some_and(|next| next.is_empty() || next.starts_with(|c: char| c.is_ascii_digit()))
        })?;
        seconds += rest[..digits].parse::<f64>().ok()? * size;
        rest = &after[unit.len()..];
    }
    (!text.is_empty()).then(|| SignedDuration::try_from_secs_f64(seconds).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_judged_field_by_field() {
        for good in ["*/5 * * * *", "0 0 1 jan-MAR mon,fri", "@hourly", "@every 1h30m", "5/15 0-23/2 * * 0"] {
            assert!(Schedule::parse(good).is_ok(), "{good}");
        }
        for (bad, text) in [
            ("often", "expected exactly 5 fields, found 1: [often]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@sometimes", "unrecognized descriptor: @sometimes"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
        ] {
            assert_eq!(Schedule::parse(bad).err().as_deref(), Some(text));
        }
    }

    fn check(schedule: &str, after: &str, zone: &TimeZone, expected: &str) {
        let next = Schedule::parse(schedule).unwrap().next(after.parse().unwrap(), zone);
        assert_eq!(next.map(|time| time.to_string()).as_deref(), Some(expected), "{schedule} after {after}");
    }

    #[test]
    fn the_next_time_matches_all_fields() {
        let utc = &TimeZone::UTC;
        check("* * * * *", "2026-01-02T03:04:05Z", utc, "2026-01-02T03:05:00Z");
        check("* * * * *", "2026-01-02T03:04:59.9Z", utc, "2026-01-02T03:05:00Z");
        check("*/15 * * * *", "2026-01-02T03:45:00Z", utc, "2026-01-02T04:00:00Z");
        check("0 0 * * *", "2026-12-31T00:00:00Z", utc, "2027-01-01T00:00:00Z");
        check("30 6 29 feb *", "2026-01-01T00:00:00Z", utc, "2028-02-29T06:30:00Z");
        check("0 9 * * mon", "2026-01-02T00:00:00Z", utc, "2026-01-05T09:00:00Z");
        // Either of two fields for days is enough, unless one of them is `*`.
        check("0 0 13 * fri", "2026-01-02T01:00:00Z", utc, "2026-01-09T00:00:00Z");
        check("0 0 13 * fri", "2026-01-09T01:00:00Z", utc, "2026-01-13T00:00:00Z");
        check("0 0 */2 * fri", "2026-01-02T01:00:00Z", utc, "2026-01-03T00:00:00Z");
        check("@every 90s", "2026-01-02T03:04:05.5Z", utc, "2026-01-02T03:05:35Z");
        let never = Schedule::parse("0 0 31 2 *").unwrap();
        assert_eq!(never.next("2026-01-01T00:00:00Z".parse().unwrap(), utc), None);
    }

    #[test]
    fn zones_and_their_summers_count() {
        // An hour ahead of UTC; two in summer, from the last Sunday of March to that of October.
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        check("0 0 * * *", "2026-01-02T12:00:00Z", &zone, "2026-01-02T23:00:00Z");
        check("0 0 * * *", "2026-07-02T12:00:00Z", &zone, "2026-07-02T22:00:00Z");
        // 02:30 does not exist on that day.
        check("30 2 * * *", "2026-03-28T12:00:00Z", &zone, "2026-03-30T00:30:00Z");
        // And here it comes twice.
        check("30 2 * * *", "2026-10-24T12:00:00Z", &zone, "2026-10-25T00:30:00Z");
        check("30 2 * * *", "2026-10-25T00:30:00Z", &zone, "2026-10-25T01:30:00Z");
    }
}
