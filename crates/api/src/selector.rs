//! Which objects a request or a Service means: label selectors and field selectors.
//!
//! A label selector comes as text (`app=a,tier in (x,y),!old`), as a `LabelSelector` object or as a plain map; all become requirements.
//! Grammar, order of checks and sentences follow `k8s.io/apimachinery/pkg/labels` and `…/fields`, which clients and people know.

mod field;
mod parse;

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;
use thiserror::Error;

use crate::{go, names};

pub use field::{FieldSelector, FieldTerm};

/// A selector that cannot be understood; the text is upstream's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// Requirements that must all hold; none selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// A selector that was never given selects nothing, unlike an empty one.
    nothing: bool,
}

/// What one label must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Equals,
    /// `==`, kept apart so that a selector prints as it was written.
    DoubleEquals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

impl LabelSelector {
    pub fn everything() -> Self {
        LabelSelector::default()
    }

    pub fn nothing() -> Self {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// From the text of a `labelSelector` parameter.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = parse::requirements(text)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// From a map as in a Service's `spec.selector`; not validated, as upstream does not either.
    pub fn from_map<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut requirements: Vec<Requirement> = labels
            .into_iter()
            .map(|(key, value)| Requirement {
                key: key.to_owned(),
                operator: Operator::Equals,
                values: BTreeSet::from([value.to_owned()]),
            })
            .collect();
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { requirements, nothing: false }
    }

    /// From a `LabelSelector` object; absent or null selects nothing, empty everything.
    pub fn from_object(object: Option<&Value>) -> Result<Self, SelectorError> {
        let Some(object) = object.filter(|object| !object.is_null()) else { return Ok(LabelSelector::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in object.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key.clone(), Operator::Equals, BTreeSet::from([value]))?);
        }
        for expression in object.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            requirements.push(Requirement::from_object(expression)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// Whether labels, looked up by key, satisfy every requirement.
    pub fn matches<'a>(&self, labels: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(labels(&requirement.key)))
    }

    /// The same for a JSON object such as `metadata.labels`; absent labels are none.
    pub fn matches_value(&self, labels: Option<&Value>) -> bool {
        self.matches(|key| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str))
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl Requirement {
    /// Checks key, number of values and values.
    pub fn new(key: String, operator: Operator, values: BTreeSet<String>) -> Result<Self, SelectorError> {
        check_key(&key)?;
        let list = || values.iter().cloned().collect::<Vec<_>>();
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                return Err(SelectorError(
                    "values: Required value: for 'in', 'notin' operators, values set can't be empty".into(),
                ));
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                let shown = Value::from(list());
                return Err(SelectorError(format!(
                    "values: Invalid value: {shown}: exact-match compatibility requires one single value"
                )));
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                let shown = Value::from(list());
                return Err(SelectorError(format!(
                    "values: Invalid value: {shown}: values set must be empty for exists and does not exist"
                )));
            }
            Operator::GreaterThan | Operator::LessThan => check_number(&values)?,
            Operator::In
            | Operator::NotIn
            | Operator::Equals
            | Operator::DoubleEquals
            | Operator::NotEquals
            | Operator::Exists
            | Operator::DoesNotExist => {}
        }
        for (i, value) in values.iter().enumerate() {
            let faults = names::label_value(value);
            if !faults.is_empty() {
                let faults = faults.join("; ");
                return Err(SelectorError(format!(
                    "values[{i}][{key}]: Invalid value: {}: {faults}",
                    go::quote(value)
                )));
            }
        }
        Ok(Requirement { key, operator, values })
    }

    fn from_object(expression: &Value) -> Result<Self, SelectorError> {
        let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
        let operator = match text("operator") {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => return Err(SelectorError(format!("{} is not a valid label selector operator", go::quote(other)))),
        };
        let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
        let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
        Requirement::new(text("key").to_owned(), operator, values)
    }

    fn matches(&self, value: Option<&str>) -> bool {
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => {
                value.is_some_and(|value| self.values.contains(value))
            }
            Operator::NotEquals | Operator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.numbers(value).is_some_and(|(value, bound)| value > bound),
            Operator::LessThan => self.numbers(value).is_some_and(|(value, bound)| value < bound),
        }
    }

    fn numbers(&self, value: Option<&str>) -> Option<(i64, i64)> {
        Some((value?.parse().ok()?, self.values.first()?.parse().ok()?))
    }
}

fn check_number(values: &BTreeSet<String>) -> Result<(), SelectorError> {
    match (values.len(), values.first()) {
        (1, Some(value)) if value.parse::<i64>().is_ok() => Ok(()),
        (1, Some(value)) => Err(SelectorError(format!(
            "values[0]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an integer",
            go::quote(value)
        ))),
        _ => Err(SelectorError(
            "values: Required value: for 'Gt', 'Lt' operators, exactly one value is required".to_owned(),
        )),
    }
}

/// The key's path is absent upstream, which prints as `<nil>`.
fn check_key(key: &str) -> Result<(), SelectorError> {
    let faults = names::qualified_name(key);
    if faults.is_empty() {
        return Ok(());
    }
    Err(SelectorError(format!("<nil>: Invalid value: {}: {}", go::quote(key), faults.join("; "))))
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let key = &self.key;
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(selector: &str, selected: &[&str]) {
        let objects = [
            ("plain", json!({})),
            ("app-a", json!({"app": "a"})),
            ("app-b", json!({"app": "b", "tier": "x"})),
            ("old", json!({"app": "a", "old": "", "n": "5"})),
        ];
        let parsed = LabelSelector::parse(selector).unwrap();
        let names: Vec<&str> =
            objects.iter().filter(|(_, labels)| parsed.matches_value(Some(labels))).map(|(name, _)| *name).collect();
        assert_eq!(names, selected, "{selector}");
        assert_eq!(LabelSelector::parse(&parsed.to_string()).unwrap(), parsed, "prints as it parses");
    }

    #[test]
    fn text_selects() {
        check("", &["plain", "app-a", "app-b", "old"]);
        check("app=a", &["app-a", "old"]);
        check("app==a,!old", &["app-a"]);
        check("app!=a", &["plain", "app-b"]);
        check("app in (a, b),tier", &["app-b"]);
        check("app notin (a)", &["plain", "app-b"]);
        check("old=", &["old"]);
        check("n>4", &["old"]);
        check("n<4", &[]);
        check("app in (a,,b)", &["app-a", "app-b", "old"]);
        check("tier notin ()", &["plain", "app-a", "app-b", "old"]);
    }

    #[track_caller]
    fn refuse(selector: &str, text: &str) {
        assert_eq!(LabelSelector::parse(selector).unwrap_err().to_string(), text, "{selector}");
    }

    #[test]
    fn refusals_are_upstreams() {
        refuse("k===1", "unable to parse requirement: found '=', expected: identifier");
        refuse("k in (", "unable to parse requirement: found '', expected: ',', ')' or identifier");
        refuse("a=b,", "found '', expected: identifier after ','");
        refuse("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
        refuse("=a", "found '=', expected: !, identifier, or 'end of string'");
        refuse(
            "n>x",
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
        );
        assert!(
            LabelSelector::parse("a=-b")
                .unwrap_err()
                .0
                .starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid")
        );
        assert!(
            LabelSelector::parse("a/b/c")
                .unwrap_err()
                .0
                .starts_with("unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a qualified")
        );
    }

    #[test]
    fn objects_select_and_absent_ones_do_not() {
        let selector = json!({"matchLabels": {"app": "b"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["x", "y"]}]});
        let selector = LabelSelector::from_object(Some(&selector)).unwrap();
        assert_eq!(selector.to_string(), "app=b,tier in (x,y)");
        assert!(!LabelSelector::from_object(None).unwrap().matches_value(None));
        assert!(LabelSelector::from_object(Some(&json!({}))).unwrap().matches_value(None));
        let bad = json!({"matchExpressions": [{"key": "a", "operator": "Near"}]});
        assert_eq!(
            LabelSelector::from_object(Some(&bad)).unwrap_err().0,
            "\"Near\" is not a valid label selector operator"
        );
    }
}
