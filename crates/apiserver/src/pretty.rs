//! JSON over several lines, for people: asked for with `?pretty=true`, and what browsers and command-line tools get without asking.
//! Scripts look for `"allowed": true` in what curl printed.

use http::HeaderMap;
use http::header::USER_AGENT;

use crate::query::Query;

/// Programs that people read over the shoulder of, as upstream has them.
const READ_BY_PEOPLE: &[&str] = &["curl", "Wget", "Mozilla/5.0"];

/// Whether an answer is to be written over several lines.
pub(crate) fn wanted(headers: &HeaderMap, query: &Query) -> bool {
    match query.text("pretty") {
        "" => {
            let agent = headers.get(USER_AGENT).map(|agent| agent.as_bytes()).unwrap_or_default();
            READ_BY_PEOPLE.iter().any(|program| agent.starts_with(program.as_bytes()))
        }
        // What Go's `strconv.ParseBool` takes for true.
        asked => matches!(asked, "1" | "t" | "T" | "true" | "TRUE" | "True"),
    }
}

/// Lays out JSON as Go's `json.MarshalIndent` with two spaces does. What is no JSON comes out with other white space at worst.
pub(crate) fn lay_out(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut place = Place::Between;
    let mut opened = false;
    for byte in json.iter().copied() {
        let between = place == Place::Between;
        place = place.after(byte);
        if !between {
            out.push(byte);
            continue;
        }
        if byte.is_ascii_whitespace() {
            continue;
        }
        let closes = matches!(byte, b'}' | b']');
        if closes {
            depth = depth.saturating_sub(1);
        }
        // Before the first thing within, and before the end of what has something within.
        if opened != closes {
            break_line(&mut out, depth);
        }
        out.push(byte);
        opened = matches!(byte, b'{' | b'[');
        match byte {
            b'{' | b'[' => depth += 1,
            b',' => break_line(&mut out, depth),
            b':' => out.push(b' '),
            _ => {}
        }
    }
    out
}

/// Where in the text we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Between,
    Text,
    /// Behind a backslash in a text.
    Escaped,
}

impl Place {
    fn after(self, byte: u8) -> Place {
        match (self, byte) {
            (Place::Between, b'"') | (Place::Escaped, _) => Place::Text,
            (Place::Text, b'"') => Place::Between,
            (Place::Text, b'\\') => Place::Escaped,
            (place, _) => place,
        }
    }
}

fn break_line(out: &mut Vec<u8>, depth: usize) {
    out.push(b'\n');
    out.extend(std::iter::repeat_n(b' ', 2 * depth));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn check(value: &Value) {
        let written = lay_out(value.to_string().as_bytes());
        assert_eq!(String::from_utf8(written).unwrap(), serde_json::to_string_pretty(value).unwrap());
    }

    #[test]
    fn is_laid_out_as_serde_would() {
        for value in [
            json!({}),
            json!([]),
            json!(1),
            json!("a: {b}, [c] \\\" d"),
            json!({"a": [], "b": {}, "c": [1, 2, {"d": null}], "e": {"f": true}}),
            json!([[[]], {"a": {}}]),
        ] {
            check(&value);
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<i64>().prop_map(Value::from), "[a\"\\\\{}:, ]{0,6}".prop_map(Value::from)];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-c]", inner, 0..4).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_value_is(value in any_json()) {
            check(&value);
        }
    }

    #[test]
    fn is_for_people_and_for_who_asks() {
        let agent = |agent: &str| HeaderMap::from_iter([(USER_AGENT, agent.parse().unwrap())]);
        let (none, yes, no) = (Query::parse(None), Query::parse(Some("pretty=true")), Query::parse(Some("pretty=0")));
        assert!(wanted(&agent("curl/8.5.0"), &none) && !wanted(&agent("curl/8.5.0"), &no));
        assert!(wanted(&agent("kubectl/v1.37.0"), &yes) && !wanted(&agent("kubectl/v1.37.0"), &none));
        assert!(wanted(&HeaderMap::new(), &yes) && !wanted(&HeaderMap::new(), &none));
    }
}
