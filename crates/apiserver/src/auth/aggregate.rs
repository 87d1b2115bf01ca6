//! Cluster roles that are made of others: `admin`, `edit`, `view` and whatever has an `aggregationRule` hold the rules of all roles that
//! it selects, in the order of their names, and follow them.

use std::sync::Arc;

use api::selector::LabelSelector;
use serde_json::Value;
use store::RangeOptions;

use crate::Server;
use crate::fault::Outcome;
use crate::kinds::{Kind, find};
use crate::object;
use crate::update::{Part, update};
use crate::write::WriteOptions;

/// A role may be part of one that is part of another; deeper than this is a ring.
const DEEPEST: usize = 8;

/// Follows the roles until the server stops.
pub(crate) fn follow(server: &Arc<Server>) {
    let Some(kind) = find("rbac.authorization.k8s.io", "v1", "clusterroles") else { return };
    let (shutdown, server) = (server.shutdown.clone(), Arc::downgrade(server));
    tokio::spawn(async move {
        loop {
            let Some(upgraded) = server.upgrade() else { return };
            let Ok(mut watch) = upgraded.store.watch(&object::prefix(kind, ""), upgraded.store.revision()) else {
                return;
            };
            if let Err(fault) = settle(&upgraded).await {
                tracing::warn!(message = fault.0.message, "aggregated cluster roles could not be kept");
            }
            drop(upgraded);
            tokio::select! {
                events = watch.next() => if events.is_err() { continue },
                () = shutdown.cancelled() => return,
            }
        }
    });
}

/// Makes every aggregated role what its parts make it.
pub(crate) async fn settle(server: &Server) -> Outcome<()> {
    let Some(kind) = find("rbac.authorization.k8s.io", "v1", "clusterroles") else { return Ok(()) };
    for _ in 0..DEEPEST {
        let range = server.store.range(&object::prefix(kind, ""), RangeOptions::default())?;
        let roles = range.entries.iter().map(|entry| object::decode(kind, &entry.value));
        let roles = roles.collect::<Outcome<Vec<Value>>>()?;
        let stale: Vec<(&Value, Vec<Value>)> = roles
            .iter()
            .filter_map(|role| Some((role, aggregated(role, &roles)?)))
            .filter(|(role, rules)| role["rules"].as_array().is_none_or(|held| held != rules))
            .collect();
        if stale.is_empty() {
            return Ok(());
        }
        for (role, rules) in stale {
            put(server, kind, object::name(role), rules).await?;
        }
    }
    Ok(())
}

async fn put(server: &Server, kind: &'static Kind, name: &str, rules: Vec<Value>) -> Outcome<()> {
    let edit = |old: &Value| {
        let mut new = old.clone();
        if old["aggregationRule"].is_object() {
            new["rules"] = rules.clone().into();
        }
        Ok(new)
    };
    match update(server, kind, ("", name), Part::Whole, &edit, &WriteOptions::own()).await {
        Ok(_) => Ok(()),
        Err(fault) if fault.is("NotFound") => Ok(()),
        Err(fault) => Err(fault),
    }
}

/// The rules of an aggregated role; nothing for a role that has its own.
fn aggregated(role: &Value, roles: &[Value]) -> Option<Vec<Value>> {
    let selectors = role["aggregationRule"]["clusterRoleSelectors"].as_array()?;
    let mut rules: Vec<Value> = Vec::new();
    for selector in selectors {
        let Ok(selector) = LabelSelector::from_object(Some(selector)) else { continue };
        for part in roles.iter().filter(|part| object::name(part) != object::name(role)) {
            if selector.matches_value(part["metadata"].get("labels")) {
                let more = part["rules"].as_array().into_iter().flatten();
                let more: Vec<Value> = more.filter(|rule| !rules.contains(rule)).cloned().collect();
                rules.extend(more);
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_role_is_what_its_parts_are() {
        let part = |name: &str, label: &str, verb: &str| json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": [{"verbs": [verb]}]});
        let whole = json!({
            "metadata": {"name": "whole", "labels": {"x": "true"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"x": "true"}}]},
            "rules": [{"verbs": ["old"]}],
        });
        let roles =
            [part("a", "x", "get"), part("b", "y", "list"), part("c", "x", "get"), part("d", "x", "watch"), whole];
        assert_eq!(aggregated(&roles[4], &roles), Some(vec![json!({"verbs": ["get"]}), json!({"verbs": ["watch"]})]));
        assert_eq!(aggregated(&roles[0], &roles), None);
    }
}
