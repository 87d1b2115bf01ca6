//! Cells of tables, as upstream's printers write them: ages, labels, selectors, containers.

use serde_json::Value;

use super::get;
use crate::kinds::shape::Column;

pub const NAME_AGE: &[Column] = &[Column::NAME, Column::AGE];

pub fn name_age(object: &Value, now: i64) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

/// Kinds without columns of their own show the time itself.
pub const NAME_CREATED: &[Column] =
    &[Column::NAME, Column { r#type: "date", ..Column::text("Created At", "Time of the object's creation") }];

pub fn name_created(object: &Value, _now: i64) -> Vec<Value> {
    vec![name(object), get::text(object, "/metadata/creationTimestamp").into()]
}

pub fn name(object: &Value) -> Value {
    get::text(object, "/metadata/name").into()
}

/// Time since the object's creation.
pub fn age(object: &Value, now: i64) -> Value {
    since(get::text(object, "/metadata/creationTimestamp"), now).into()
}

/// Time since a timestamp, as `5s`, `3m20s` or `2d`.
pub fn since(timestamp: &str, now: i64) -> String {
    match seconds(timestamp) {
        Some(then) => duration(now - then),
        None => "<unknown>".to_owned(),
    }
}

/// Seconds since the epoch of an RFC 3339 timestamp.
pub fn seconds(timestamp: &str) -> Option<i64> {
    timestamp.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

/// A duration with two or three significant figures, as kubectl prints ages.
pub fn duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let pair = |large: i64, unit: &str, small: i64, below: &str| {
        if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{below}") }
    };
    match seconds {
        s if s < -1 => "<invalid>".to_owned(),
        s if s < 0 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => pair(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => pair(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => pair(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => pair(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

/// `<none>` where there is nothing to show.
pub fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// A map of labels as `a=b,c=d`, sorted, or `<none>`.
pub fn labels(value: Option<&Value>) -> Value {
    let pairs: Vec<String> = value
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    let mut sorted = pairs;
    sorted.sort_unstable();
    or_none(&sorted.join(","))
}

/// A `LabelSelector` as `a=b,c in (d,e)`, or `<none>`.
pub fn selector(value: Option<&Value>) -> Value {
    value.map_or_else(|| "<none>".into(), |selector| or_none(&selector_text(selector)))
}

/// A `LabelSelector` in the words of a selector query; empty for the empty selector.
pub fn selector_text(selector: &Value) -> String {
    let mut parts: Vec<(String, String)> = get::entries(selector, "/matchLabels")
        .map(|(key, value)| (key.clone(), format!("{key}={}", value.as_str().unwrap_or(""))))
        .collect();
    for expression in get::list(selector, "/matchExpressions") {
        let key = get::text(expression, "/key");
        let mut values = get::texts(expression, "/values");
        values.sort_unstable();
        let values = values.join(",");
        let part = match get::text(expression, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => continue,
        };
        parts.push((key.to_owned(), part));
    }
    parts.sort();
    parts.into_iter().map(|(_, part)| part).collect::<Vec<_>>().join(",")
}

/// The first three joined by commas, and how many more there are.
pub fn first_three(all: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = all.collect();
    match all.len() {
        0..=3 => all.join(","),
        count => format!("{} + {} more...", all[..3].join(","), count - 3),
    }
}

/// The addresses or host names in `status.loadBalancer`, sorted.
pub fn addresses(object: &Value) -> String {
    let of = |one: &Value| match get::text(one, "/ip") {
        "" => get::text(one, "/hostname").to_owned(),
        ip => ip.to_owned(),
    };
    let all: std::collections::BTreeSet<String> =
        get::list(object, "/status/loadBalancer/ingress").iter().map(of).filter(|one| !one.is_empty()).collect();
    all.into_iter().collect::<Vec<_>>().join(",")
}

/// The names and the images of a pod template's containers, each joined by commas.
pub fn containers(object: &Value, pointer: &str) -> [Value; 2] {
    let join = |field: &str| -> Value {
        get::list(object, pointer).iter().map(|one| get::text(one, field)).collect::<Vec<_>>().join(",").into()
    };
    [join("/name"), join("/image")]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, text) in [
            (5, "5s"),
            (119, "119s"),
            (120, "2m"),
            (131, "2m11s"),
            (3600, "60m"),
            (10_860, "3h1m"),
            (90_000, "25h"),
            (180_000, "2d2h"),
            (86_400 * 400, "400d"),
            (86_400 * 800, "2y70d"),
            (-1, "0s"),
            (-9, "<invalid>"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn selectors_are_sorted_and_read_as_queries() {
        let text = selector(Some(
            &json!({"matchLabels": {"b": "1"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}]}),
        ));
        assert_eq!(text, json!("a in (x,y),b=1"));
        assert_eq!(labels(None), json!("<none>"));
    }
}
