//! Nobody gives rights that they do not have: who writes a role must hold what it grants, who binds one must hold what is in it.
//!
//! Exempt are `system:masters`, who may `escalate` roles, and who may `bind` that role.

use std::collections::BTreeSet;

use api::go::quote;
use serde_json::Value;

use super::User;
use super::rbac::{Attributes, Rule};
use crate::Server;
use crate::fault::{Fault, Outcome};
use crate::kinds::{Kind, Scope, find};
use crate::object;
use crate::write::WriteOptions;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Refuses a write of a role or binding that gives more than the writer has. `old` is what is stored.
pub(crate) fn check(
    server: &Server,
    kind: &'static Kind,
    options: &WriteOptions,
    new: &Value,
    old: Option<&Value>,
) -> Outcome<()> {
    let Some(user) = options.user.as_deref().filter(|user| kind.group == GROUP && !user.is_in("system:masters")) else {
        return Ok(());
    };
    let unchanged = |field: &str| old.is_some_and(|old| old.get(field) == new.get(field));
    let bound = matches!(kind.plural, "rolebindings" | "clusterrolebindings");
    let same = if bound { ["roleRef", "subjects"] } else { ["rules", "aggregationRule"] };
    if same.into_iter().all(unchanged) {
        return Ok(());
    }
    let namespace = if kind.scope == Scope::Cluster { "" } else { object::namespace(new) };
    let may = |verb: &str, resource: &str, name: &str| {
        let wanted = Attributes {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        server.access.reason(&*server.store, user, &wanted).is_some()
    };
    let granted = if bound {
        let (resource, name) = referred(new);
        if may("bind", resource, name) {
            return Ok(());
        }
        rules_of(server, resource, if resource == "roles" { namespace } else { "" }, name)?
    } else {
        if may("escalate", kind.plural, object::name(new)) {
            return Ok(());
        }
        let mut granted = rules(new);
        if new["aggregationRule"].is_object() {
            // What it will be made of is not known: it may become everything.
            granted.extend(Rule::everything());
        }
        granted
    };
    let held = server.access.held(&*server.store, user, namespace);
    let missing = missing(&held, &granted);
    if missing.is_empty() {
        return Ok(());
    }
    Err(Fault::forbidden(kind, object::name(new), &refusal(user, &missing)))
}

fn referred(binding: &Value) -> (&'static str, &str) {
    let resource = if binding["roleRef"]["kind"] == "Role" { "roles" } else { "clusterroles" };
    (resource, binding["roleRef"]["name"].as_str().unwrap_or_default())
}

fn rules(role: &Value) -> Vec<Rule> {
    serde_json::from_value(role["rules"].clone()).unwrap_or_default()
}

fn rules_of(server: &Server, resource: &str, namespace: &str, name: &str) -> Outcome<Vec<Rule>> {
    let kind = find(GROUP, "v1", resource).ok_or_else(|| Fault::internal("no such kind"))?;
    let entry = server.store.get(&object::key(kind, namespace, name)).ok_or_else(|| Fault::not_found(kind, name))?;
    Ok(rules(&object::decode(kind, &entry.value)?))
}

/// One right: a verb on one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Right {
    attributes: Attributes,
}

/// A rule as the rights that it is the product of.
fn rights(rule: &Rule) -> Vec<Right> {
    let mut rights = Vec::new();
    for path in &rule.paths {
        for verb in &rule.verbs {
            let attributes = Attributes { verb: verb.clone(), path: path.clone(), ..Attributes::default() };
            rights.push(Right { attributes });
        }
    }
    let any = vec![String::new()];
    let names = if rule.resource_names.is_empty() { &any } else { &rule.resource_names };
    for group in &rule.api_groups {
        for resource in &rule.resources {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            for name in names {
                for verb in &rule.verbs {
                    let attributes = Attributes {
                        verb: verb.clone(),
                        group: group.clone(),
                        resource: resource.to_owned(),
                        subresource: subresource.to_owned(),
                        name: name.clone(),
                        ..Attributes::default()
                    };
                    rights.push(Right { attributes });
                }
            }
        }
    }
    rights
}

fn missing(held: &[Rule], granted: &[Rule]) -> Vec<Right> {
    let mut missing: Vec<Right> = Vec::new();
    for right in granted.iter().flat_map(rights) {
        if !held.iter().any(|rule| rule.covers(&right.attributes)) && !missing.contains(&right) {
            missing.push(right);
        }
    }
    missing
}

fn refusal(user: &User, missing: &[Right]) -> String {
    let groups: Vec<String> = user.groups.iter().map(|group| quote(group)).collect();
    // Rights on one thing stand together, as upstream prints them.
    let mut things: Vec<(&Attributes, Vec<&str>)> = Vec::new();
    for Right { attributes } in missing {
        let same = |other: &Attributes| Attributes { verb: attributes.verb.clone(), ..other.clone() } == *attributes;
        match things.iter_mut().find(|(other, _)| attributes.path.is_empty() && same(other)) {
            Some((_, verbs)) => verbs.push(&attributes.verb),
            None => things.push((attributes, vec![&attributes.verb])),
        }
    }
    let lines: BTreeSet<String> = things.iter().map(|(thing, verbs)| described(thing, verbs)).collect();
    let lines: Vec<String> = lines.into_iter().collect();
    format!(
        "user {} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        quote(&user.name),
        groups.join(" "),
        lines.join("\n")
    )
}

fn described(thing: &Attributes, verbs: &[&str]) -> String {
    let verbs: Vec<String> = verbs.iter().map(|verb| quote(verb)).collect();
    let verbs = verbs.join(" ");
    if !thing.path.is_empty() {
        return format!("{{NonResourceURLs:[{}], Verbs:[{verbs}]}}", quote(&thing.path));
    }
    let resource = match thing.subresource.as_str() {
        "" => thing.resource.clone(),
        part => format!("{}/{part}", thing.resource),
    };
    let names = match thing.name.as_str() {
        "" => String::new(),
        name => format!(", ResourceNames:[{}]", quote(name)),
    };
    format!("{{APIGroups:[{}], Resources:[{}]{names}, Verbs:[{verbs}]}}", quote(&thing.group), quote(&resource))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(rules: Value) -> Vec<Rule> {
        serde_json::from_value(rules).unwrap()
    }

    #[test]
    fn what_is_missing_is_named_as_upstream_names_it() {
        let held = parsed(json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/scale"]}]));
        let granted = parsed(json!([
            {"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods/scale"], "resourceNames": ["a"]},
            {"verbs": ["get"], "nonResourceURLs": ["/x"]},
        ]));
        let missing = missing(&held, &granted);
        let text = refusal(&User::new("eve", &["g"]), &missing);
        assert_eq!(
            text,
            "user \"eve\" (groups=[\"g\" \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
             {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\" \"watch\"]}\n\
             {APIGroups:[\"\"], Resources:[\"pods/log\"], Verbs:[\"get\" \"list\" \"watch\"]}\n\
             {NonResourceURLs:[\"/x\"], Verbs:[\"get\"]}"
        );
    }

    #[test]
    fn everything_is_held_only_by_who_holds_everything() {
        let all: Vec<Rule> = Rule::everything().into_iter().collect();
        assert!(missing(&all, &all).is_empty());
        let most = parsed(json!([{"verbs": ["get"], "apiGroups": ["*"], "resources": ["*"]}]));
        assert!(!missing(&most, &all).is_empty());
        let one = parsed(json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]}]));
        let any = parsed(json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]));
        assert!(!missing(&one, &any).is_empty() && missing(&any, &one).is_empty());
    }
}
