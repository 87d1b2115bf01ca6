//! Metadata: what every object has, and the rules of kinds that know nothing else.
//!
//! Upstream judges the metadata of an update twice (once for every kind, once in most kinds' own rules), and clients see both causes;
//! [`update`] does the first, [`validate_update`] both.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::errors::{immutable, invalid_all};
use super::internal::{OWNER, as_struct};
use super::{get, names};
use crate::kinds::shape::{NameRule, Scope};

const ANNOTATIONS_LIMIT: usize = 256 * 1024;

pub fn default(_object: &mut Value) {}

pub fn prepare_create(_object: &mut Value) {}

/// Kinds without generations keep whatever the first writer gave.
pub fn prepare_update(new: &mut Value, old: &Value) {
    get::copy(new, old, "/metadata/generation");
}

/// Only status moves; metadata does, but not generation.
pub fn prepare_status(new: &mut Value, old: &Value) {
    for field in ["/spec", "/metadata/generation", "/metadata/deletionTimestamp", "/metadata/ownerReferences"] {
        get::copy(new, old, field);
    }
}

pub fn validate_create(object: &Value) -> Vec<FieldError> {
    check(object, NameRule::DnsSubdomain, Scope::Namespaced)
}

pub fn validate_create_cluster(object: &Value) -> Vec<FieldError> {
    check(object, NameRule::DnsSubdomain, Scope::Cluster)
}

/// The rules of every update, then those that a kind's own update rules repeat.
pub fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = update(new, old);
    errors.extend(update(new, old));
    errors
}

pub fn warnings(_new: &Value, _old: Option<&Value>) -> Vec<String> {
    Vec::new()
}

/// For kinds with status and generation: a new object has generation 1 and the empty status that upstream's encoder writes.
pub fn start(object: &mut Value, status: Value) {
    get::set(object, "/metadata/generation", 1);
    get::set(object, "/status", status);
}

/// Status stays, and generation moves by one if anything at `pointers` differs.
pub fn keep_status_move_generation(new: &mut Value, old: &Value, pointers: &[&str]) {
    get::copy(new, old, "/status");
    move_generation(new, old, pointers);
}

/// Generation moves by one if anything at `pointers` differs, and stays otherwise.
pub fn move_generation(new: &mut Value, old: &Value, pointers: &[&str]) {
    get::copy(new, old, "/metadata/generation");
    if pointers.iter().any(|pointer| !get::same(new, old, pointer)) {
        get::set(new, "/metadata/generation", get::int(old, "/metadata/generation") + 1);
    }
}

/// The rules of a name by kind; `prefix` is true for a `generateName`.
pub fn name_faults(name: &str, rule: NameRule, prefix: bool) -> Vec<String> {
    let judged = if prefix { names::mask_trailing_dash(name) } else { name.to_owned() };
    match rule {
        NameRule::DnsSubdomain => names::dns_subdomain(&judged),
        NameRule::DnsLabel => names::dns_label(&judged),
        NameRule::PathSegment => names::path_segment(name),
        NameRule::Address => super::net::canonical_ip(name),
    }
}

/// Metadata of an object that is created, or written again whole.
pub fn check(object: &Value, rule: NameRule, scope: Scope) -> Vec<FieldError> {
    let path = Path::new("metadata");
    let mut errors = Vec::new();
    let (name, prefix) = (get::text(object, "/metadata/name"), get::text(object, "/metadata/generateName"));
    if !prefix.is_empty() {
        invalid_all(&mut errors, &path.child("generateName"), prefix, name_faults(prefix, rule, true));
    }
    if name.is_empty() {
        errors.push(FieldError::required(path.child("name"), "name or generateName is required"));
    } else {
        invalid_all(&mut errors, &path.child("name"), name, name_faults(name, rule, false));
    }
    let namespace = get::text(object, "/metadata/namespace");
    match scope {
        Scope::Namespaced if namespace.is_empty() => errors.push(FieldError::required(path.child("namespace"), "")),
        Scope::Namespaced => {
            invalid_all(&mut errors, &path.child("namespace"), namespace, names::dns_label(namespace));
        }
        Scope::Cluster if !namespace.is_empty() => {
            errors.push(FieldError::forbidden(path.child("namespace"), "not allowed on this type"));
        }
        Scope::Cluster => {}
    }
    super::errors::non_negative(&mut errors, path.child("generation"), get::int_opt(object, "/metadata/generation"));
    errors.extend(labels_and_owners(object, &path));
    let mut finalizers = finalizers(object, &path.child("finalizers"));
    errors.append(&mut finalizers);
    errors
}

/// Metadata of an update against what it was.
pub fn update(new: &Value, old: &Value) -> Vec<FieldError> {
    let path = Path::new("metadata");
    let mut errors = Vec::new();
    if get::has(old, "/metadata/deletionTimestamp") {
        let known = get::texts(old, "/metadata/finalizers");
        let mut added = get::texts(new, "/metadata/finalizers");
        added.retain(|finalizer| !known.contains(finalizer));
        added.sort_unstable();
        if !added.is_empty() {
            let listed = added.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", ");
            errors.push(FieldError::forbidden(
                path.child("finalizers"),
                format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{listed}}}"),
            ));
        }
    }
    let generation = get::int(new, "/metadata/generation");
    super::errors::non_negative(&mut errors, path.child("generation"), Some(generation));
    if generation < get::int(old, "/metadata/generation") {
        errors.push(FieldError::invalid(path.child("generation"), generation, "must not be decremented"));
    }
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let pointer = format!("/metadata/{field}");
        immutable(&mut errors, path.child(field), new.pointer(&pointer), old.pointer(&pointer));
    }
    errors.extend(labels_and_owners(new, &path));
    errors
}

fn labels_and_owners(object: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = labels(object.pointer("/metadata/labels"), &path.child("labels"));
    errors.extend(annotations(object.pointer("/metadata/annotations"), &path.child("annotations")));
    errors.extend(owners(object, &path.child("ownerReferences")));
    errors
}

/// A map of labels, wherever one stands.
pub fn labels(map: Option<&Value>, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in map.and_then(Value::as_object).into_iter().flatten() {
        invalid_all(&mut errors, path, key, names::qualified(key));
        let value = value.as_str().unwrap_or("");
        invalid_all(&mut errors, path, value, names::label_value(value));
    }
    errors
}

/// A map of annotations, wherever one stands.
pub fn annotations(map: Option<&Value>, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in map.and_then(Value::as_object).into_iter().flatten() {
        invalid_all(&mut errors, path, key, names::qualified(&key.to_lowercase()));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_LIMIT {
        errors.push(FieldError::too_long(path.clone(), ANNOTATIONS_LIMIT));
    }
    errors
}

fn owners(object: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controller: Option<&str> = None;
    let owners = get::list(object, "/metadata/ownerReferences");
    for owner in owners {
        let (api_version, kind) = (get::text(owner, "/apiVersion"), get::text(owner, "/kind"));
        if api_version.rsplit('/').next().unwrap_or("").is_empty() {
            errors.push(FieldError::invalid(path.child("apiVersion"), api_version, "version must not be empty"));
        }
        for (field, value) in [("kind", kind), ("name", get::text(owner, "/name")), ("uid", get::text(owner, "/uid"))] {
            if value.is_empty() {
                errors.push(FieldError::invalid(path.child(field), value, "must not be empty"));
            }
        }
        if kind == "Event" && api_version == "v1" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(as_struct(FieldError::invalid(path.clone(), owner.clone(), detail), OWNER));
        }
        if get::flag(owner, "/controller") {
            let name = get::text(owner, "/name");
            match controller {
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                    );
                    errors.push(as_struct(FieldError::invalid(path.clone(), owners.to_vec(), detail), OWNER));
                }
                None => controller = Some(name),
            }
        }
    }
    errors
}

fn finalizers(object: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let finalizers = get::texts(object, "/metadata/finalizers");
    for finalizer in &finalizers {
        invalid_all(&mut errors, path, finalizer, names::qualified(finalizer));
    }
    if finalizers.contains(&"orphan") && finalizers.contains(&"foregroundDeletion") {
        let both = get::list(object, "/metadata/finalizers").to_vec();
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path.clone(), both, detail));
    }
    for (index, finalizer) in finalizers.iter().enumerate() {
        if !finalizer.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(finalizer) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(path.index(index), *finalizer, detail));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_meta(name: &str, metadata: Value, expected: &[&str]) {
        let errors = check(&json!({"metadata": metadata}), NameRule::DnsSubdomain, Scope::Namespaced);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts, expected, "{name}");
    }

    #[test]
    fn metadata_is_judged_as_upstream_does() {
        check_meta("good", json!({"name": "a.b", "namespace": "n", "finalizers": ["e.com/x"]}), &[]);
        check_meta(
            "no name",
            json!({"namespace": "n"}),
            &["metadata.name: Required value: name or generateName is required"],
        );
        check_meta(
            "bare finalizer",
            json!({"name": "a", "namespace": "n", "finalizers": ["x"]}),
            &[
                "metadata.finalizers[0]: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified",
            ],
        );
    }

    #[test]
    fn an_update_keeps_identity_and_is_judged_twice() {
        let old = json!({"metadata": {"name": "a", "namespace": "n", "uid": "1"}});
        let new = json!({"metadata": {"name": "a", "namespace": "n", "uid": "2"}});
        let texts: Vec<String> = validate_update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["metadata.uid: Invalid value: \"2\": field is immutable"; 2]);
    }
}
