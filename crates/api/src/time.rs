//! The two times of the API: `Time` with seconds and `MicroTime` with microseconds, RFC 3339 in UTC as JSON writes them.

use jiff::Timestamp;

/// Parses a time in any offset.
pub fn parse(text: &str) -> Option<Timestamp> {
    // The library accepts more forms than RFC 3339, such as a space for the `T`.
    let bytes = text.as_bytes();
    let dated = bytes.len() >= 20
        && bytes.get(4) == Some(&b'-')
        && bytes.get(10) == Some(&b'T')
        && bytes.get(13) == Some(&b':');
    if !dated || text.contains('[') {
        return None;
    }
    text.parse().ok()
}

/// `2026-11-23T13:29:00Z`
pub fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-11-23T13:29:00.000000Z`
pub fn micros(time: Timestamp) -> String {
    format!("{}.{:06}Z", time.strftime("%Y-%m-%dT%H:%M:%S"), time.subsec_nanosecond().unsigned_abs() / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_in_utc() {
        let time = parse("2026-11-23T15:29:00.1234567+02:00").unwrap();
        assert_eq!(seconds(time), "2026-11-23T13:29:00Z");
        assert_eq!(micros(time), "2026-11-23T13:29:00.123456Z");
        assert_eq!(micros(parse("2026-11-23T13:29:00Z").unwrap()), "2026-11-23T13:29:00.000000Z");
    }

    #[test]
    fn other_texts_are_no_times() {
        for text in
            ["", "yesterday", "2026-11-23", "2026-11-23 13:29:00Z", "2026-11-23T13:29:00", "2026-11-23T13:29:00Z[UTC]"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
