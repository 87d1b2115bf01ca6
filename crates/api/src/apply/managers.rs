//! Who owns which fields: the entries of `metadata.managedFields`, keyed by manager, operation and subresource.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::set::Set;
use crate::go;

/// How fields came to be owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// What tells one entry from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    pub operation: Operation,
    pub manager: String,
    /// The version that an updater wrote; an applier is the same in every version, so it is empty there.
    pub version: String,
    pub subresource: String,
}

impl Identity {
    pub fn applier(manager: &str, subresource: &str) -> Self {
        let (manager, subresource) = (manager.to_owned(), subresource.to_owned());
        Identity { operation: Operation::Apply, manager, version: String::new(), subresource }
    }

    pub fn updater(manager: &str, version: &str, subresource: &str) -> Self {
        let (manager, version, subresource) = (manager.to_owned(), version.to_owned(), subresource.to_owned());
        Identity { operation: Operation::Update, manager, version, subresource }
    }

    /// `"u" using v1`, as conflicts name it.
    pub fn shown(&self) -> String {
        let mut text = go::quote(&self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {}", go::quote(&self.subresource)));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.version));
        }
        text
    }
}

/// The fields of one manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    pub version: String,
    /// Absent while the manager has changed nothing.
    pub time: Option<String>,
    pub fields: Set,
}

pub type Managers = BTreeMap<Identity, Owned>;

/// Reads `metadata.managedFields`; `None` if an entry is malformed.
pub fn read(entries: Option<&Value>) -> Option<Managers> {
    let mut managers = Managers::new();
    for entry in entries.and_then(Value::as_array).into_iter().flatten() {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let identity = match text("operation") {
            "Apply" => Identity::applier(text("manager"), text("subresource")),
            "Update" => Identity::updater(text("manager"), text("apiVersion"), text("subresource")),
            _ => return None,
        };
        if text("fieldsType") != "FieldsV1" {
            return None;
        }
        let fields = Set::parse(entry.get("fieldsV1").unwrap_or(&json!({})))?;
        let time = Some(text("time")).filter(|time| !time.is_empty()).map(str::to_owned);
        managers.insert(identity, Owned { version: text("apiVersion").to_owned(), time, fields });
    }
    Some(managers)
}

/// Writes them in upstream's order: appliers first, then by time, those without one before all.
pub fn write(managers: &Managers) -> Value {
    let mut entries: Vec<(&Identity, &Owned)> = managers.iter().collect();
    entries.sort_by_key(|(identity, owned)| {
        (
            identity.operation,
            owned.time.clone(),
            identity.manager.clone(),
            owned.version.clone(),
            identity.subresource.clone(),
        )
    });
    entries
        .into_iter()
        .map(|(identity, owned)| {
            let mut entry = Map::new();
            entry.insert("manager".to_owned(), identity.manager.as_str().into());
            entry.insert("operation".to_owned(), identity.operation.name().into());
            entry.insert("apiVersion".to_owned(), owned.version.as_str().into());
            if let Some(time) = &owned.time {
                entry.insert("time".to_owned(), time.as_str().into());
            }
            entry.insert("fieldsType".to_owned(), "FieldsV1".into());
            entry.insert("fieldsV1".to_owned(), owned.fields.to_value());
            if !identity.subresource.is_empty() {
                entry.insert("subresource".to_owned(), identity.subresource.as_str().into());
            }
            Value::Object(entry)
        })
        .collect()
}

/// So many updaters are told apart; older ones are put together.
const MAX_UPDATERS: usize = 10;

/// Puts the oldest updaters of a version together under one name, until there are few enough.
pub fn cap(managers: &mut Managers) {
    let mut updaters: Vec<Identity> =
        managers.keys().filter(|identity| identity.operation == Operation::Update).cloned().collect();
    if updaters.len() <= MAX_UPDATERS {
        return;
    }
    updaters.sort_by_key(|identity| (managers.get(identity).and_then(|owned| owned.time.clone()), identity.clone()));
    let mut count = updaters.len();
    let mut first: BTreeMap<String, Identity> = BTreeMap::new();
    for identity in updaters {
        if count <= MAX_UPDATERS {
            return;
        }
        let bucket = Identity::updater("ancient-changes", &identity.version, "");
        let Some(oldest) = first.get(&identity.version) else {
            first.insert(identity.version.clone(), identity);
            continue;
        };
        if !managers.contains_key(&bucket)
            && let Some(owned) = managers.remove(oldest)
        {
            managers.insert(bucket.clone(), owned);
        }
        if identity == bucket {
            continue;
        }
        if let (Some(owned), Some(old)) = (managers.remove(&identity), managers.get_mut(&bucket)) {
            old.fields = old.fields.union(&owned.fields);
            old.time = owned.time;
            count -= 1;
        }
    }
}
