//! Sets of fields, as `metadata.managedFields` holds them: paths through objects, and the JSON form `FieldsV1`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value, json};

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A field of a struct or an entry of a map: `f:name`.
    Field(String),
    /// An item of a list, by its keys and their values as JSON texts: `k:{"port":80}`.
    Key(Vec<(String, String)>),
    /// An item of a set, as JSON text: `v:"x"`.
    Value(String),
    /// An item of an atomic list: `i:0`.
    Index(usize),
}

impl Step {
    fn parse(text: &str) -> Option<Step> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Step::Field(rest.to_owned())),
            "k" => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(rest).ok()?;
                Some(Step::Key(keys.into_iter().map(|(name, value)| (name, value.to_string())).collect()))
            }
            "v" => Some(Step::Value(serde_json::from_str::<Value>(rest).ok()?.to_string())),
            "i" => rest.parse().ok().map(Step::Index),
            _ => None,
        }
    }

    fn to_text(&self) -> String {
        match self {
            Step::Field(name) => format!("f:{name}"),
            Step::Key(keys) => {
                let keys: Vec<String> =
                    keys.iter().map(|(name, value)| format!("{}:{value}", Value::from(name.as_str()))).collect();
                format!("k:{{{}}}", keys.join(","))
            }
            Step::Value(value) => format!("v:{value}"),
            Step::Index(at) => format!("i:{at}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Field(name) => write!(f, ".{name}"),
            Step::Key(keys) => {
                let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "[{}]", keys.join(","))
            }
            Step::Value(value) => write!(f, "[={value}]"),
            Step::Index(at) => write!(f, "[{at}]"),
        }
    }
}

/// Fields at one level, and sets of fields below. A field can be a member and have members below it; the two are apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    pub(super) members: BTreeSet<Step>,
    /// Never holds an empty set.
    pub(super) children: BTreeMap<Step, Set>,
}

impl Set {
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    /// Adds the field at a path; the root is no field.
    pub fn insert(&mut self, path: &[Step]) {
        match path {
            [] => {}
            [last] => drop(self.members.insert(last.clone())),
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    /// The set below one step.
    pub fn below(&self, step: &Step) -> Option<&Set> {
        self.children.get(step)
    }

    pub fn union(&self, other: &Set) -> Set {
        let mut all = self.clone();
        all.members.extend(other.members.iter().cloned());
        for (step, below) in &other.children {
            let merged = all.children.get(step).map_or_else(|| below.clone(), |mine| mine.union(below));
            all.children.insert(step.clone(), merged);
        }
        all
    }

    pub fn intersection(&self, other: &Set) -> Set {
        let members = self.members.intersection(&other.members).cloned().collect();
        let both = |(step, below): (&Step, &Set)| Some((step.clone(), below.intersection(other.children.get(step)?)));
        let children = self.children.iter().filter_map(both).filter(|(_, below)| !below.is_empty()).collect();
        Set { members, children }
    }

    /// What is here and not there, path by path: a member there does not take what is below it here.
    pub fn difference(&self, other: &Set) -> Set {
        let members = self.members.difference(&other.members).cloned().collect();
        let rest = |(step, below): (&Step, &Set)| {
            (step.clone(), other.children.get(step).map_or_else(|| below.clone(), |theirs| below.difference(theirs)))
        };
        let children = self.children.iter().map(rest).filter(|(_, below)| !below.is_empty()).collect();
        Set { members, children }
    }

    /// The set without the named top-level fields and all below them.
    pub fn without_fields(mut self, names: &[&str]) -> Set {
        let named = |step: &Step| matches!(step, Step::Field(name) if names.contains(&name.as_str()));
        self.members.retain(|step| !named(step));
        self.children.retain(|step, _| !named(step));
        self
    }

    /// Every path, members of a level first.
    pub fn paths(&self) -> Vec<Vec<Step>> {
        let mut all = Vec::new();
        self.collect(&mut Vec::new(), &mut all);
        all
    }

    fn collect(&self, at: &mut Vec<Step>, all: &mut Vec<Vec<Step>>) {
        for member in &self.members {
            all.push(at.iter().chain([member]).cloned().collect());
        }
        for (step, below) in &self.children {
            at.push(step.clone());
            below.collect(at, all);
            at.pop();
        }
    }

    /// From `FieldsV1`; `None` if it is none.
    pub fn parse(fields: &Value) -> Option<Set> {
        let mut set = Set::default();
        for (text, below) in fields.as_object()? {
            // A dot is the parent's own membership, which the parent reads.
            if text == "." {
                continue;
            }
            let step = Step::parse(text)?;
            let object = below.as_object()?;
            if object.is_empty() || object.contains_key(".") {
                set.members.insert(step.clone());
            }
            let below = Set::parse(below)?;
            if !below.is_empty() {
                set.children.insert(step, below);
            }
        }
        Some(set)
    }

    /// As `FieldsV1`.
    pub fn to_value(&self) -> Value {
        let mut object = Map::new();
        for member in &self.members {
            object.insert(member.to_text(), json!({}));
        }
        for (step, below) in &self.children {
            let mut value = below.to_value();
            if let (true, Value::Object(fields)) = (self.members.contains(step), &mut value) {
                fields.insert(".".to_owned(), json!({}));
            }
            object.insert(step.to_text(), value);
        }
        Value::Object(object)
    }
}

/// `.spec.ports[port=80,protocol="TCP"].name`
pub fn path_text(path: &[Step]) -> String {
    path.iter().map(Step::to_string).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            "[ab]".prop_map(Step::Field),
            (0..2u8).prop_map(|port| Step::Key(vec![("port".to_owned(), port.to_string())])),
            "[xy]".prop_map(|text| Step::Value(Value::from(text).to_string())),
        ]
    }

    fn set() -> impl Strategy<Value = Set> {
        let path = proptest::collection::vec(step(), 1..4);
        proptest::collection::vec(path, 0..8).prop_map(|paths| {
            let mut set = Set::default();
            paths.iter().for_each(|path| set.insert(path));
            set
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn json_form_is_the_identity(set in set()) {
            prop_assert_eq!(Set::parse(&set.to_value()), Some(set));
        }

        #[test]
        fn sets_obey_their_laws(a in set(), b in set()) {
            prop_assert_eq!(a.union(&b), b.union(&a));
            prop_assert_eq!(a.intersection(&b), b.intersection(&a));
            prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
            prop_assert!(a.difference(&b).intersection(&b).is_empty());
            prop_assert!(a.difference(&a).is_empty());
        }
    }

    #[test]
    fn paths_read_as_upstream_prints_them() {
        let fields = json!({"f:spec": {"f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}}}, "f:metadata": {"f:finalizers": {"v:\"a\"": {}}}});
        let set = Set::parse(&fields).unwrap();
        assert_eq!(set.to_value(), fields);
        let paths: Vec<String> = set.paths().iter().map(|path| path_text(path)).collect();
        assert_eq!(
            paths,
            [
                ".metadata.finalizers[=\"a\"]",
                ".spec.ports",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].name"
            ]
        );
        for bad in [json!([]), json!({"x:y": {}}), json!({"k:no": {}}), json!({"f:a": 1}), json!({"plain": {}})] {
            assert_eq!(Set::parse(&bad), None, "{bad}");
        }
    }
}
