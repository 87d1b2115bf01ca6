//! Resizing a pod that runs: other amounts of CPU and memory for its containers, by a subresource of its own. Whether the node can do it
//! is read off the pod: a kubelet that can reports the resources that each running container has.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::ephemeral::MIRROR;
use super::qos;
use super::validate::metadata_and_spec;
use crate::kinds::ObjectPart;
use crate::kinds::common::{get, meta};

pub const PART: ObjectPart = ObjectPart { name: "resize", prepare, validate };

const LISTS: &[&str] = &["containers", "initContainers"];

/// Of the new pod only the containers' resources count, and its metadata.
fn prepare(new: &mut Value, old: &Value) {
    let asked = new.get("spec").cloned().unwrap_or(Value::Null);
    get::copy(new, old, "/spec");
    for list in LISTS {
        let pointer = format!("/{list}");
        for container in get::list_mut(new, &format!("/spec/{list}")).into_iter().flatten() {
            let name = get::text(container, "/name").to_owned();
            if let Some(given) = get::list(&asked, &pointer).iter().find(|one| get::text(one, "/name") == name) {
                get::copy(container, given, "/resources");
                get::copy(container, given, "/resizePolicy");
            }
        }
    }
    meta::keep_status_move_generation(new, old, &["/spec"]);
}

fn validate(new: &Value, old: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = meta::update(new, old);
    errors.extend(metadata_and_spec(new));
    if get::map(old, "/metadata/annotations").is_some_and(|all| all.contains_key(MIRROR)) {
        errors.push(FieldError::forbidden(Path::root(), "static pods cannot be resized"));
        return errors;
    }
    if !node_can(old) {
        errors.push(FieldError::forbidden(path.clone(), "Pod running on node without support for resize"));
    }
    if qos::class(new) != qos::class(old) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid(path.clone(), get::text(new, "/status/qosClass"), detail));
    }
    for list in LISTS {
        let pointer = format!("/spec/{list}");
        for (index, (after, before)) in get::list(new, &pointer).iter().zip(get::list(old, &pointer)).enumerate() {
            let path = path.child(list).index(index).child("resources");
            kept(after, before, "limits", &path, &mut errors);
            kept(after, before, "requests", &path, &mut errors);
        }
    }
    if others_changed(new, old) {
        errors.push(FieldError::forbidden(path, "only cpu and memory resources are mutable"));
    }
    errors
}

/// Before anything runs nobody can tell, and the node that comes will start with the new amounts.
fn node_can(pod: &Value) -> bool {
    let running = get::list(pod, "/status/containerStatuses").iter().find(|status| get::has(status, "/state/running"));
    running.is_none_or(|status| get::has(status, "/resources"))
}

/// An amount that is there may change and not go.
fn kept(after: &Value, before: &Value, what: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let pointer = format!("/resources/{what}");
    let gone = |name: &&str| get::map(after, &pointer).is_none_or(|all| !all.contains_key(*name));
    let had = get::map(before, &pointer);
    if ["cpu", "memory"].iter().any(|name| had.is_some_and(|had| had.contains_key(*name)) && gone(name)) {
        errors.push(FieldError::forbidden(path.child(what), format!("resource {what} cannot be removed")));
    }
}

/// Whether anything differs but amounts of CPU and memory, and the policies of resizing.
fn others_changed(new: &Value, old: &Value) -> bool {
    let rest = |pod: &Value| {
        let mut spec = pod.get("spec").cloned().unwrap_or(Value::Null);
        for list in LISTS {
            for container in get::list_mut(&mut spec, &format!("/{list}")).into_iter().flatten() {
                for amount in ["limits/cpu", "limits/memory", "requests/cpu", "requests/memory"] {
                    get::remove(container, &format!("/resources/{amount}"));
                }
                for emptied in ["/resources/limits", "/resources/requests"] {
                    if get::map(container, emptied).is_some_and(serde_json::Map::is_empty) {
                        get::remove(container, emptied);
                    }
                }
                get::remove(container, "/resizePolicy");
            }
        }
        spec
    };
    rest(new) != rest(old)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(resources: Value, reported: bool) -> Value {
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]},
            "status": {"containerStatuses": [{"name": "c", "state": {"running": {}}}]},
        });
        if reported {
            pod["status"]["containerStatuses"][0]["resources"] = json!({});
        }
        super::super::default::default(&mut pod);
        pod
    }

    fn check(name: &str, new: Value, reported: bool, expected: &[&str]) {
        let old = pod(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}), reported);
        let mut new = pod(new, reported);
        prepare(&mut new, &old);
        let texts: Vec<String> = validate(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(texts, expected, "{name}");
    }

    #[test]
    fn cpu_and_memory_move_and_nothing_else() {
        let more = json!({"requests": {"cpu": "2"}, "limits": {"cpu": "3"}});
        check("more", more.clone(), true, &[]);
        check("old node", more, false, &["spec: Forbidden: Pod running on node without support for resize"]);
        let gone = json!({"requests": {"cpu": "1"}});
        check(
            "removed",
            gone,
            true,
            &["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"],
        );
        let other = json!({"requests": {"cpu": "1", "ephemeral-storage": "1Gi"}, "limits": {"cpu": "2"}});
        check("storage", other, true, &["spec: Forbidden: only cpu and memory resources are mutable"]);
    }

    #[test]
    fn only_the_resources_are_taken() {
        let old = pod(json!({}), true);
        let mut new = pod(json!({"requests": {"cpu": "1"}}), true);
        new["spec"]["containers"][0]["image"] = "other".into();
        prepare(&mut new, &old);
        let container = &new["spec"]["containers"][0];
        assert_eq!((&container["image"], &container["resources"]["requests"]["cpu"]), (&json!("i"), &json!("1")));
    }
}
