//! Server-side apply: who owns which field, what an applied configuration changes, and what it conflicts with.
//!
//! The rules are those of `sigs.k8s.io/structured-merge-diff` within upstream's field manager: [`apply`] merges a configuration, removes what
//! its manager applied before and no longer does, and refuses to change what others own unless forced; [`track`] does the bookkeeping of every
//! other write. Both are pure; the time is an argument. Objects are canonical and carry defaults, but nothing that is allocated for them
//! later: fields that the server fills in after that have no owner.
//!
//! One difference: an entry written in another version of the group is compared in the version at hand, without conversion.

mod managers;
mod merge;
mod set;
mod typed;
mod validate;

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::canonical::canonicalize;
use crate::schema::Type;
use crate::status::{Cause, Status};

use managers::{Identity, Managers, Owned};
use set::{Set, Step, path_text};
use typed::Comparison;

pub use set::{Set as FieldSet, Step as FieldStep};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Who writes, to what, and when.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    pub of: &'static Type,
    /// The version of the request's path, such as `apps/v1`.
    pub api_version: &'a str,
    /// The field manager; see [`manager_name`].
    pub manager: &'a str,
    /// Such as `status`; empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339 with seconds.
    pub now: &'a str,
    /// Top-level fields that this endpoint does not write, and which therefore cannot be owned through it: `status` on the object itself,
    /// `spec` on its status.
    pub reset: &'a [&'a str],
}

/// The manager of a request: the one it names, else the program that its `User-Agent` begins with.
pub fn manager_name(field_manager: &str, user_agent: &str) -> String {
    if !field_manager.is_empty() {
        return field_manager.to_owned();
    }
    let program = user_agent.split('/').next().unwrap_or_default();
    let printable: String = program.chars().filter(|c| !c.is_control()).take(128).collect();
    if printable.is_empty() { "unknown".to_owned() } else { printable }
}

/// Sets `metadata.managedFields` of a new state that was created, updated or patched other than by apply. `live` is the stored state.
pub fn track(writer: &Writer<'_>, live: Option<&Value>, new: &mut Value) {
    let sent = take_entries(new);
    let stored = live.and_then(entries_of);
    let managers = if is_reset(sent.as_ref()) {
        Managers::new()
    } else {
        // Clients that know nothing of managed fields must not lose them by leaving them out, nor through a subresource.
        let sent = if writer.subresource.is_empty() {
            managers::read(sent.as_ref()).unwrap_or_default()
        } else {
            Managers::new()
        };
        if sent.is_empty() { managers::read(stored).unwrap_or_default() } else { sent }
    };
    // An object that nobody tracked when it was made is not tracked before it is applied to.
    if managers.is_empty() && live.is_some() {
        return;
    }
    // Entries that are still in the stored state are only a field that goes, and one that nobody owns.
    let live = live.map_or_else(|| Cow::Owned(empty(writer.of)), Cow::Borrowed);
    let managers = updated(writer, &live, new, managers, writer.manager);
    put_entries(new, &managers);
}

/// The state after applying a configuration to the stored state, if there is one, with its managed fields; or the conflict.
pub fn apply(writer: &Writer<'_>, live: Option<&Value>, config: &Value, force: bool) -> Result<Value, Status> {
    check_config(writer, config)?;
    let mut managers = live.and_then(|live| managers::read(entries_of(live))).unwrap_or_default();
    let live = live.map_or_else(|| empty(writer.of), without_entries);
    if managers.is_empty() {
        let nothing = empty(writer.of);
        managers = updated(writer, &nothing, &live, Managers::new(), "before-first-apply");
    }
    let outcome = match merge(writer, &live, config, managers.clone(), force) {
        Err(conflicts) => {
            let conflicts = not_by_client_side_apply(writer, &live, conflicts);
            if !conflicts.is_empty() {
                return Err(refuse(&conflicts));
            }
            merge(writer, &live, config, managers, true).map_err(|conflicts| refuse(&conflicts))?
        }
        Ok(outcome) => outcome,
    };
    let (mut object, managers) = outcome;
    keep_last_applied(writer, config, &mut object);
    put_entries(&mut object, &managers);
    Ok(object)
}

fn check_config(writer: &Writer<'_>, config: &Value) -> Result<(), Status> {
    let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let version = text("/apiVersion");
    if version != writer.api_version {
        let expected = writer.api_version;
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {expected}"
        )));
    }
    if config.pointer("/metadata/managedFields").is_some_and(|entries| !entries.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    validate::validate(writer.of, config).map_err(|fault| {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let (namespace, name, kind) = (text("/metadata/namespace"), text("/metadata/name"), text("/kind"));
        // Upstream answers 500; it is the caller's fault.
        Status::bad_request(format!(
            "failed to create typed patch object ({namespace}/{name}; {group}/{version}, Kind={kind}): {fault}"
        ))
    })
}

/// Fields of others that an apply would change.
type Conflicts = Vec<(Identity, Vec<Step>)>;

/// Merges, prunes and settles ownership. An object that does not change leaves its applier's time as it was.
fn merge(
    writer: &Writer<'_>,
    live: &Value,
    config: &Value,
    mut managers: Managers,
    force: bool,
) -> Result<(Value, Managers), Conflicts> {
    let me = Identity::applier(writer.manager, writer.subresource);
    let last = managers.get(&me).cloned();
    let fields = typed::fields_of(writer.of, config).without_fields(writer.reset);
    let time = last.as_ref().and_then(|last| last.time.clone());
    let owned = Owned { version: writer.api_version.to_owned(), time, fields };
    managers.insert(me.clone(), owned);
    let merged = merge::merge(writer.of, live, config);
    let mut new = match last.filter(|last| !last.fields.is_empty()) {
        Some(last) => prune(writer.of, merged, &managers, &last.fields),
        None => merged,
    };
    // So that `labels: {}`, or `0.1` where `100m` is stored, is no change.
    canonicalize(writer.of, &mut new);
    let comparison = typed::compare(writer.of, live, &new).without_fields(writer.reset);
    let changed = comparison.modified.union(&comparison.added);
    if !force {
        let conflicts: Conflicts = managers
            .iter()
            .filter(|(identity, _)| **identity != me)
            .flat_map(|(identity, owned)| {
                owned.fields.intersection(&changed).paths().into_iter().map(|path| (identity.clone(), path))
            })
            .collect();
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
    }
    take_from_others(&mut managers, &comparison, Some(&me));
    if let Some(mine) = managers.get_mut(&me) {
        mine.fields = mine.fields.difference(&unowned());
        if new != *live {
            mine.time = Some(writer.now.to_owned());
        }
    }
    managers.retain(|_, owned| !owned.fields.is_empty());
    Ok((new, managers))
}

/// Takes out what the manager applied last and does not apply now, unless another manager owns it.
fn prune(of: &'static Type, merged: Value, managers: &Managers, last: &Set) -> Value {
    let named = |set: &Set| typed::with_named_fields(of, set);
    let last = named(last);
    let all = named(&typed::fields_of(of, &merged));
    let pruned = merge::remove(of, &merged, &last);
    // Back come items that someone owns …
    let owned = managers.values().fold(Set::default(), |all, owned| all.union(&owned.fields));
    let kept = named(&typed::fields_of(of, &pruned)).union(&named(&owned));
    let pruned = merge::remove(of, &merged, &all.difference(&kept));
    // … and what went along with an item, though this manager had never applied it.
    let kept = named(&typed::fields_of(of, &pruned));
    merge::remove(of, &merged, &all.difference(&kept).intersection(&last))
}

/// The managers after an update by one of them, which takes what it changed from the others.
fn updated(writer: &Writer<'_>, live: &Value, new: &Value, mut managers: Managers, manager: &str) -> Managers {
    let comparison = typed::compare(writer.of, live, new).without_fields(writer.reset);
    take_from_others(&mut managers, &comparison, None);
    let taken = comparison.modified.union(&comparison.added).difference(&comparison.removed).difference(&unowned());
    if !taken.is_empty() {
        let me = Identity::updater(manager, writer.api_version, writer.subresource);
        let before = managers.remove(&me).map(|owned| owned.fields).unwrap_or_default();
        let fields = before.union(&taken);
        managers
            .insert(me, Owned { version: writer.api_version.to_owned(), time: Some(writer.now.to_owned()), fields });
    }
    managers.retain(|_, owned| !owned.fields.is_empty());
    managers::cap(&mut managers);
    managers
}

fn take_from_others(managers: &mut Managers, comparison: &Comparison, me: Option<&Identity>) {
    let changed = comparison.modified.union(&comparison.added);
    for (_, owned) in managers.iter_mut().filter(|(identity, _)| Some(*identity) != me) {
        owned.fields = owned.fields.difference(&changed).difference(&comparison.removed);
    }
}

/// Fields that identify an object or that the server keeps: nobody owns them.
fn unowned() -> Set {
    let mut set = Set::default();
    let field = |name: &str| Step::Field(name.to_owned());
    for name in ["apiVersion", "kind", "metadata"] {
        set.insert(&[field(name)]);
    }
    for name in [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ] {
        set.insert(&[field("metadata"), field(name)]);
    }
    set
}

/// kubectl's server-side apply takes over what its client-side apply had set, as far as the object still has it.
fn not_by_client_side_apply(writer: &Writer<'_>, live: &Value, conflicts: Conflicts) -> Conflicts {
    if writer.manager != "kubectl" {
        return conflicts;
    }
    let last = last_applied(live).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let Some(last) = last.filter(|last| last.get("apiVersion").and_then(Value::as_str) == Some(writer.api_version))
    else {
        return conflicts;
    };
    let since = typed::compare(writer.of, &last, live);
    let allowed = typed::fields_of(writer.of, &last)
        .difference(&since.modified)
        .difference(&since.added)
        .difference(&since.removed)
        .paths();
    conflicts.into_iter().filter(|(_, path)| !allowed.contains(path)).collect()
}

fn last_applied(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str().filter(|text| !text.is_empty())
}

/// Where client-side apply left its annotation, kubectl's server-side apply keeps it true.
fn keep_last_applied(writer: &Writer<'_>, config: &Value, object: &mut Value) {
    if writer.manager != "kubectl" || last_applied(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(Value::Object(annotations)) = config.pointer_mut("/metadata/annotations") {
        annotations.remove(LAST_APPLIED);
    }
    if let Some(Value::Object(annotations)) = object.pointer_mut("/metadata/annotations") {
        annotations.insert(LAST_APPLIED.to_owned(), format!("{config}\n").into());
    }
}

fn refuse(conflicts: &Conflicts) -> Status {
    let causes = conflicts
        .iter()
        .map(|(identity, path)| Cause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {}", identity.shown()),
            field: path_text(path),
        })
        .collect();
    let message = match conflicts.as_slice() {
        [(identity, path)] => {
            format!("Apply failed with 1 conflict: conflict with {}: {}", identity.shown(), path_text(path))
        }
        several => {
            let mut lines: Vec<String> = Vec::new();
            let mut identities: Vec<&Identity> = several.iter().map(|(identity, _)| identity).collect();
            identities.sort_by_key(|identity| (&identity.manager, *identity));
            identities.dedup();
            for identity in identities {
                lines.push(format!("conflicts with {}:", identity.shown()));
                lines.extend(
                    several.iter().filter(|(of, _)| of == identity).map(|(_, path)| format!("- {}", path_text(path))),
                );
            }
            format!("Apply failed with {} conflicts: {}", several.len(), lines.join("\n"))
        }
    };
    Status::apply_conflict(message, causes)
}

/// The object that has nothing but what its type always writes.
fn empty(of: &'static Type) -> Value {
    let mut object = Value::Object(Map::new());
    canonicalize(of, &mut object);
    object
}

fn entries_of(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("managedFields")
}

fn take_entries(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

fn without_entries(object: &Value) -> Value {
    let mut object = object.clone();
    take_entries(&mut object);
    object
}

/// A single empty entry asks for a fresh start.
fn is_reset(entries: Option<&Value>) -> bool {
    entries.is_some_and(|entries| *entries == json!([{}]) || *entries == json!([]))
}

fn put_entries(object: &mut Value, managers: &Managers) {
    if managers.is_empty() {
        return;
    }
    if let Some(object) = object.as_object_mut() {
        let metadata = object.entry("metadata").or_insert_with(|| json!({}));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("managedFields".to_owned(), managers::write(managers));
        }
    }
}

#[cfg(test)]
mod tests;
