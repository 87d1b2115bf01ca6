//! The roles that a cluster starts with, and who has them: upstream's for people, for each component and for each controller, and ours.
//!
//! They are tables of words. At each start what is missing is made, and what upstream's `autoupdate` annotation leaves to the server gets
//! the rules and subjects that it lacks; what someone added stays.

mod components;
mod controllers;
mod people;

use serde_json::{Value, json};

/// Group, version and plural.
pub(crate) type Resource = (&'static str, &'static str, &'static str);

const ROLES: Resource = ("rbac.authorization.k8s.io", "v1", "clusterroles");
const BINDINGS: Resource = ("rbac.authorization.k8s.io", "v1", "clusterrolebindings");
const LOCAL_ROLES: Resource = ("rbac.authorization.k8s.io", "v1", "roles");
const LOCAL_BINDINGS: Resource = ("rbac.authorization.k8s.io", "v1", "rolebindings");
const GROUP: &str = "rbac.authorization.k8s.io";

/// What may be done; each text is words with spaces between them.
#[derive(Debug, Clone, Copy)]
struct Grant {
    verbs: &'static str,
    /// API groups; core is `core`.
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
    paths: &'static str,
}

const fn grant(verbs: &'static str, groups: &'static str, resources: &'static str) -> Grant {
    Grant { verbs, groups, resources, names: "", paths: "" }
}

const fn named(verbs: &'static str, groups: &'static str, resources: &'static str, names: &'static str) -> Grant {
    Grant { verbs, groups, resources, names, paths: "" }
}

const fn paths(paths: &'static str) -> Grant {
    Grant { verbs: "get", groups: "", resources: "", names: "", paths }
}

/// Reporting what happened.
const EVENTS: Grant = grant("create patch update", "core events.k8s.io", "events");

/// A cluster role, and the roles that it is a part of or is made of.
#[derive(Debug, Clone, Copy)]
struct Role {
    name: &'static str,
    /// `view` for what everyone gets who has `view`.
    part_of: &'static str,
    /// The role is all that is part of this one.
    made_of: &'static str,
    grants: &'static [Grant],
}

const fn role(name: &'static str, grants: &'static [Grant]) -> Role {
    Role { name, part_of: "", made_of: "", grants }
}

/// Who has a role.
#[derive(Debug, Clone, Copy)]
enum Subject {
    User(&'static str),
    Group(&'static str),
    /// In `kube-system`.
    Account(&'static str),
}

/// A binding, its role and one who holds it; several rows of one name are one binding.
type Binding = (&'static str, &'static str, Subject);

/// Everything, as kind, namespace and object.
pub(crate) fn objects() -> impl Iterator<Item = (Resource, &'static str, Value)> {
    let roles = people::ROLES.iter().chain(components::ROLES).chain(controllers::ROLES);
    let roles = roles.map(|role| (ROLES, "", of_role(role)));
    let bindings = people::BINDINGS.iter().chain(components::BINDINGS).copied();
    let bindings = grouped(bindings.chain(controllers::bindings()));
    let bindings = bindings.into_iter().map(|(name, role, held_by)| {
        let object = binding(name, ("ClusterRole", role), &held_by);
        (BINDINGS, "", object)
    });
    let local_roles = components::LOCAL_ROLES.iter().map(|(namespace, role)| (LOCAL_ROLES, *namespace, of_role(role)));
    let local_bindings = components::LOCAL_BINDINGS.iter();
    let local_bindings = local_bindings.map(|(namespace, (name, role, subject))| {
        (LOCAL_BINDINGS, *namespace, binding(name, ("Role", role), &[*subject]))
    });
    roles.chain(bindings).chain(local_roles).chain(local_bindings)
}

fn grouped(rows: impl Iterator<Item = Binding>) -> Vec<(&'static str, &'static str, Vec<Subject>)> {
    let mut bindings: Vec<(&'static str, &'static str, Vec<Subject>)> = Vec::new();
    for (name, role, subject) in rows {
        match bindings.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, _, held_by)) => held_by.push(subject),
            None => bindings.push((name, role, vec![subject])),
        }
    }
    bindings
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn rule(grant: &Grant) -> Value {
    let mut rule = json!({"verbs": words(grant.verbs)});
    if !grant.paths.is_empty() {
        rule["nonResourceURLs"] = json!(words(grant.paths));
        return rule;
    }
    let groups = words(grant.groups).into_iter().map(|group| if group == "core" { "" } else { group });
    rule["apiGroups"] = groups.collect();
    rule["resources"] = json!(words(grant.resources));
    if !grant.names.is_empty() {
        rule["resourceNames"] = json!(words(grant.names));
    }
    rule
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    })
}

fn of_role(role: &Role) -> Value {
    let mut object =
        json!({"metadata": metadata(role.name), "rules": role.grants.iter().map(rule).collect::<Vec<_>>()});
    let label = |of: &str| format!("{GROUP}/aggregate-to-{of}");
    if !role.part_of.is_empty() {
        object["metadata"]["labels"][label(role.part_of)] = "true".into();
    }
    if !role.made_of.is_empty() {
        let mut labels = json!({});
        labels[label(role.made_of)] = "true".into();
        object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
    }
    object
}

fn binding(name: &str, (kind, role): (&str, &str), held_by: &[Subject]) -> Value {
    let subjects = held_by.iter().map(|subject| match subject {
        Subject::User(name) => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
        Subject::Group(name) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
        Subject::Account(name) => json!({"kind": "ServiceAccount", "name": name, "namespace": "kube-system"}),
    });
    json!({
        "metadata": metadata(name),
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role},
        "subjects": subjects.collect::<Vec<Value>>(),
    })
}

/// The stored role or binding with what it lacks of the wanted one; nothing when it lacks nothing, or is not to be touched.
pub(crate) fn completed(stored: &Value, wanted: &Value) -> Option<Value> {
    let annotation = &stored["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"];
    // What is made of others has no rules of its own to lack.
    if annotation == "false" || stored["aggregationRule"].is_object() {
        return None;
    }
    let mut new = stored.clone();
    for list in ["rules", "subjects"] {
        let lacking = wanted[list].as_array().into_iter().flatten();
        let lacking: Vec<Value> = lacking.filter(|one| !contains(&stored[list], one)).cloned().collect();
        if lacking.is_empty() {
            continue;
        }
        match new[list].as_array_mut() {
            Some(items) => items.extend(lacking),
            None => new[list] = lacking.into(),
        }
    }
    (new != *stored).then_some(new)
}

fn contains(list: &Value, item: &Value) -> bool {
    list.as_array().is_some_and(|items| items.contains(item))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_role_and_binding_is_valid_and_has_a_name_of_its_own() {
        let mut seen = BTreeSet::new();
        let mut roles = BTreeSet::new();
        for ((group, version, plural), namespace, object) in objects() {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            assert!(seen.insert((plural, namespace, name.clone())), "{plural} {name}");
            if plural.ends_with("roles") {
                roles.insert((namespace, name));
            }
            let kind = crate::kinds::find(group, version, plural).unwrap();
            let mut object = object;
            if !namespace.is_empty() {
                object["metadata"]["namespace"] = namespace.into();
            }
            (kind.rules.default)(&mut object);
            let faults = (kind.rules.validate_create)(&object);
            assert!(faults.is_empty(), "{object}: {faults:?}");
        }
        for ((_, _, plural), namespace, object) in objects().filter(|(kind, _, _)| kind.2.ends_with("bindings")) {
            let role = object["roleRef"]["name"].as_str().unwrap().to_owned();
            assert!(roles.contains(&(namespace, role.clone())), "{plural} of {role}");
        }
    }

    #[test]
    fn what_is_lacking_is_added_and_what_was_added_stays() {
        let (one, two) = (json!({"verbs": ["get"]}), json!({"verbs": ["list"]}));
        let wanted = json!({"rules": [one]});
        let stored = json!({"metadata": {}, "rules": [two]});
        assert_eq!(completed(&stored, &wanted).unwrap()["rules"], json!([two, one]));
        assert_eq!(completed(&json!({"rules": [one, two]}), &wanted), None);
        let frozen = json!({
            "metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}, "rules": [two],
        });
        assert_eq!(completed(&frozen, &wanted), None);
    }
}
