//! Query parameters, with upstream's words for those that do not parse.

use crate::fault::{Fault, Outcome};

/// The parameters of a request, in order, decoded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: Option<&str>) -> Self {
        let pairs = text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Query(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decoded(name, true), decoded(value, true))
                })
                .collect(),
        )
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Absent, `false` and `0` are false; upstream takes every other value for true.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    /// A flag that may be left open.
    pub(crate) fn choice(&self, name: &str) -> Option<bool> {
        self.get(name).map(|_| self.flag(name))
    }

    pub(crate) fn number(&self, name: &str) -> Outcome<Option<i64>> {
        match self.get(name) {
            None | Some("") => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| Fault::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
        }
    }

    /// All parameters, in order.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// Refuses a `timeout` that is no time, in upstream's words. One that is needs no deadline of its own: nothing here takes as long.
    pub(crate) fn check_timeout(&self) -> Outcome<()> {
        let Some(text) = self.get("timeout").filter(|text| !text.is_empty()) else { return Ok(()) };
        match duration_fault(text) {
            None => Ok(()),
            Some(fault) => Err(Fault::bad_request(format!(
                "invalid timeout specified in the request URL - time: {fault} {text:?}"
            ))),
        }
    }
}

/// What Go's `time.ParseDuration` has against a text: numbers, each with a unit behind it.
fn duration_fault(text: &str) -> Option<String> {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return None;
    }
    if rest.is_empty() {
        return Some("invalid duration".to_owned());
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, behind) = rest.split_at(number);
        if digits.parse::<f64>().is_err() {
            return Some("invalid duration".to_owned());
        }
        let unit = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, next) = behind.split_at(unit);
        match unit {
            "" => return Some("missing unit in duration".to_owned()),
            "ns" | "us" | "µs" | "μs" | "ms" | "s" | "m" | "h" => rest = next,
            other => return Some(format!("unknown unit {other:?} in duration")),
        }
    }
    None
}

/// Percent-encodes everything but letters, digits and `-._~`.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Undoes percent-encoding; what is not valid UTF-8 is replaced.
pub(crate) fn decoded(text: &str, plus_is_space: bool) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        let hex = || u8::from_str_radix(std::str::from_utf8(bytes.get(at..at + 2)?).ok()?, 16).ok();
        match byte {
            b'+' if plus_is_space => out.push(b' '),
            b'%' => match hex() {
                Some(value) => {
                    out.push(value);
                    at += 2;
                }
                None => out.push(b'%'),
            },
            other => out.push(other),
        }
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
