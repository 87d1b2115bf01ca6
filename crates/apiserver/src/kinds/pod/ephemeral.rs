//! Ephemeral containers: what `kubectl debug` adds to a pod that runs. They come by a subresource of their own, and stay as they came.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::validate::metadata_and_spec;
use crate::kinds::ObjectPart;
use crate::kinds::common::{get, meta};

pub const PART: ObjectPart = ObjectPart { name: "ephemeralcontainers", prepare, validate };

const LIST: &str = "/spec/ephemeralContainers";
/// Marks a pod that a node runs from a file: its spec is not the API's to change.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";

/// Of the new pod only the list counts, and its metadata.
fn prepare(new: &mut Value, old: &Value) {
    let list = new.pointer(LIST).cloned();
    get::copy(new, old, "/spec");
    match list {
        Some(list) => get::set(new, LIST, list),
        None => {
            get::remove(new, LIST);
        }
    }
    meta::keep_status_move_generation(new, old, &["/spec"]);
}

fn validate(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::update(new, old);
    errors.extend(metadata_and_spec(new));
    if get::map(old, "/metadata/annotations").is_some_and(|all| all.contains_key(MIRROR)) {
        errors.push(FieldError::forbidden(Path::root(), "static pods do not support ephemeral containers"));
        return errors;
    }
    let path = Path::new("spec").child("ephemeralContainers");
    let after = get::list(new, LIST);
    for before in get::list(old, LIST) {
        let name = get::text(before, "/name");
        // A patch does not keep the order, so each is looked for by its name.
        let detail = match after.iter().find(|one| get::text(one, "/name") == name) {
            None => format!("existing ephemeral containers {name:?} may not be removed\n"),
            Some(found) if found != before => {
                let changes = super::diff::of_ephemeral(before, found);
                format!("existing ephemeral containers {name:?} may not be changed\n{changes}")
            }
            Some(_) => continue,
        };
        errors.push(FieldError::forbidden(path.clone(), detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(ephemeral: Value) -> Value {
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "c", "image": "i"}], "ephemeralContainers": ephemeral},
        });
        super::super::default::default(&mut pod);
        pod
    }

    fn texts(new: &Value, old: &Value) -> Vec<String> {
        validate(new, old).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn containers_are_added_and_stay() {
        let old = pod(json!([{"name": "a", "image": "x"}]));
        let more = pod(json!([{"name": "b", "image": "y", "targetContainerName": "c"}, {"name": "a", "image": "x"}]));
        assert_eq!(texts(&more, &old), Vec::<String>::new());
        let gone = pod(json!([]));
        assert_eq!(
            texts(&gone, &old),
            ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"a\" may not be removed\n"]
        );
        let changed = pod(json!([{"name": "a", "image": "z"}]));
        let found = texts(&changed, &old).join("|");
        assert!(found.contains("existing ephemeral containers \"a\" may not be changed"), "{found}");
    }

    #[test]
    fn nothing_else_moves() {
        let old = pod(json!([]));
        let mut new = pod(json!([{"name": "a", "image": "x"}]));
        new["spec"]["hostname"] = "other".into();
        new["spec"]["containers"][0]["image"] = "other".into();
        prepare(&mut new, &old);
        assert_eq!(new["spec"]["containers"], old["spec"]["containers"]);
        assert_eq!((&new["spec"]["hostname"], &new["metadata"]["generation"]), (&Value::Null, &json!(1)));
    }
}
