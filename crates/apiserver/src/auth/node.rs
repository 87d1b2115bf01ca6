//! What a node may see of other people's things: the Secrets and ConfigMaps that its own Pods use, and tokens for their accounts.
//!
//! The role of a node would let it read all of them, as upstream's node authorizer would not: a node that is taken over must not give away
//! the whole cluster.

use memchr::memmem;
use serde_json::{Value, json};
use store::{RangeOptions, Storage};

use super::User;
use super::rbac::Attributes;
use crate::kinds::find;
use crate::object;

const USER: &str = "system:node:";
const GROUP: &str = "system:nodes";

/// Whether the node authorizer has a say, and what it says: nothing where any node may.
pub(super) fn refuses(store: &dyn Storage, user: &User, wanted: &Attributes) -> bool {
    let Some(node) = user.name.strip_prefix(USER).filter(|_| user.is_in(GROUP)) else { return false };
    if !wanted.group.is_empty() || !wanted.path.is_empty() {
        return false;
    }
    let used: fn(&Value, &str) -> bool = match (wanted.resource.as_str(), wanted.subresource.as_str()) {
        ("secrets", _) => uses_secret,
        ("configmaps", _) => uses_config_map,
        ("serviceaccounts", "token") => uses_account,
        _ => return false,
    };
    // Without a name it would be all of them.
    wanted.name.is_empty() || !any_pod(store, node, wanted, used)
}

/// Whether a pod of the node uses what is wanted. It is asked for each volume of each pod that starts: only pods that hold both names are
/// decoded.
fn any_pod(store: &dyn Storage, node: &str, wanted: &Attributes, used: fn(&Value, &str) -> bool) -> bool {
    let Some(kind) = find("", "v1", "pods") else { return false };
    let range = store.range(&object::prefix(kind, &wanted.namespace), RangeOptions::default());
    let entries = range.map(|range| range.entries).unwrap_or_default();
    let names = [node, &wanted.name].map(|name| object::json_bytes(&json!(name)));
    let names = names.each_ref().map(memmem::Finder::new);
    entries.iter().filter(|entry| names.iter().all(|name| name.find(&entry.value).is_some())).any(|entry| {
        let pod = object::decode(kind, &entry.value);
        pod.is_ok_and(|pod| pod["spec"]["nodeName"] == node && used(&pod, &wanted.name))
    })
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[name].as_array().into_iter().flatten()
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let spec = &pod["spec"];
    list(spec, "containers").chain(list(spec, "initContainers")).chain(list(spec, "ephemeralContainers"))
}

fn uses_secret(pod: &Value, name: &str) -> bool {
    let spec = &pod["spec"];
    let by_volume = list(spec, "volumes").any(|volume| {
        volume["secret"]["secretName"] == name
            || list(&volume["projected"], "sources").any(|source| source["secret"]["name"] == name)
    });
    by_volume
        || list(spec, "imagePullSecrets").any(|secret| secret["name"] == name)
        || by_environment(pod, "secretKeyRef", "secretRef", name)
}

fn uses_config_map(pod: &Value, name: &str) -> bool {
    let by_volume = list(&pod["spec"], "volumes").any(|volume| {
        volume["configMap"]["name"] == name
            || list(&volume["projected"], "sources").any(|source| source["configMap"]["name"] == name)
    });
    by_volume || by_environment(pod, "configMapKeyRef", "configMapRef", name)
}

fn by_environment(pod: &Value, key: &str, whole: &str, name: &str) -> bool {
    containers(pod).any(|container| {
        list(container, "env").any(|variable| variable["valueFrom"][key]["name"] == name)
            || list(container, "envFrom").any(|source| source[whole]["name"] == name)
    })
}

fn uses_account(pod: &Value, name: &str) -> bool {
    pod["spec"]["serviceAccountName"] == name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_uses_what_it_names() {
        let pod = json!({"spec": {
            "serviceAccountName": "sa",
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "mounted"}},
                {"name": "b", "projected": {"sources": [{"configMap": {"name": "projected"}}]}},
            ],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "key"}}}], "envFrom": [{"configMapRef": {"name": "all"}}]}],
        }});
        for name in ["pull", "mounted", "key"] {
            assert!(uses_secret(&pod, name), "{name}");
        }
        for name in ["projected", "all"] {
            assert!(uses_config_map(&pod, name), "{name}");
        }
        assert!(!uses_secret(&pod, "all") && !uses_config_map(&pod, "key"));
        assert!(uses_account(&pod, "sa") && !uses_account(&pod, "default"));
    }
}
