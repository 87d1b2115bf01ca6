//! What may change in a pod once it exists: images, a sooner deadline, more tolerations, fewer scheduling gates.

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::affinity::tolerations;
use super::qos;
use super::validate::metadata_and_spec;
use crate::kinds::common::{get, meta};

const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
    `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub fn validate(new: &Value, old: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = meta::validate_update(new, old);
    errors.extend(metadata_and_spec(new));
    for list in ["containers", "initContainers"] {
        let pointer = format!("/spec/{list}");
        let (after, before) = (get::list(new, &pointer), get::list(old, &pointer));
        if after.len() != before.len() {
            errors.push(FieldError::forbidden(path.child(list), "pod updates may not add or remove containers"));
            return errors;
        }
        for (index, container) in after.iter().enumerate() {
            let at = path.child(list).index(index);
            if get::text(container, "/image").is_empty() {
                errors.push(FieldError::required(at.child("image"), ""));
            }
            super::containers::image_space(container, &at, &mut errors);
        }
    }
    if !deadline(new, old, &path, &mut errors) {
        return errors;
    }
    only_more_tolerations(new, old, &path.child("tolerations"), &mut errors);
    only_fewer_gates(new, old, &path.child("schedulingGates"), &mut errors);
    if get::same(new, old, "/spec") {
        return errors;
    }
    if qos::class(new) != qos::class(old) {
        let class = get::text(new, "/status/qosClass");
        errors.push(FieldError::invalid(Path::new("metadata"), class, "Pod QoS is immutable"));
    }
    let mut rest = new.get("spec").cloned().unwrap_or(Value::Null);
    forget_mutable(&mut rest, old);
    if Some(&rest) != old.get("spec") {
        let before = old.get("spec").cloned().unwrap_or(Value::Null);
        errors.push(FieldError::forbidden(path, format!("{MUTABLE}\n{}", super::diff::of_specs(&before, &rest))));
    }
    errors
}

/// From none to some, and from some to fewer; whether the other rules are worth asking.
fn deadline(new: &Value, old: &Value, path: &Path, errors: &mut Vec<FieldError>) -> bool {
    let path = path.child("activeDeadlineSeconds");
    let before = get::int_opt(old, "/spec/activeDeadlineSeconds");
    let detail = match (get::int_opt(new, "/spec/activeDeadlineSeconds"), before) {
        (Some(after), _) if !(0..=i64::from(i32::MAX)).contains(&after) => {
            errors.push(FieldError::invalid(path, after, format!("must be between 0 and {}, inclusive", i32::MAX)));
            return false;
        }
        (Some(after), Some(before)) if before < after => {
            errors.push(FieldError::invalid(path, after, "must be less than or equal to previous value"));
            return false;
        }
        (None, Some(_)) => "must not update from a positive integer to nil value",
        (Some(_) | None, _) => return true,
    };
    errors.push(FieldError::invalid(path, Value::Null, detail));
    true
}

fn only_more_tolerations(new: &Value, old: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let after = get::list(new, "/spec/tolerations");
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        get::remove(&mut toleration, "/tolerationSeconds");
        toleration
    };
    let kept = get::list(old, "/spec/tolerations")
        .iter()
        .map(without_seconds)
        .all(|before| after.iter().any(|after| without_seconds(after) == before));
    if !kept {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(path.clone(), detail));
        return;
    }
    errors.extend(tolerations(after, path));
}

fn only_fewer_gates(new: &Value, old: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let before: Vec<&str> =
        get::list(old, "/spec/schedulingGates").iter().map(|gate| get::text(gate, "/name")).collect();
    for (index, gate) in get::list(new, "/spec/schedulingGates").iter().enumerate() {
        let name = get::text(gate, "/name");
        if !before.contains(&name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(FieldError::forbidden(path.index(index).child("name"), detail));
        }
    }
}

/// Makes what may change what it was, so that the rest can be compared.
fn forget_mutable(spec: &mut Value, old: &Value) {
    let before = old.get("spec").unwrap_or(&Value::Null);
    for list in ["/containers", "/initContainers"] {
        let images: Vec<&Value> =
            get::list(before, list).iter().map(|one| one.get("image").unwrap_or(&Value::Null)).collect();
        for (container, image) in get::list_mut(spec, list).into_iter().flatten().zip(images) {
            get::set(container, "/image", image.clone());
        }
    }
    for field in ["/activeDeadlineSeconds", "/tolerations", "/schedulingGates"] {
        get::copy(spec, before, field);
    }
    let grace = "/terminationGracePeriodSeconds";
    if get::int(before, grace) < 0 && spec.pointer(grace) == Some(&json!(1)) {
        get::copy(spec, before, grace);
    }
    if !get::list(before, "/schedulingGates").is_empty() {
        let kept = get::entries(before, "/nodeSelector")
            .all(|(key, value)| get::map(spec, "/nodeSelector").and_then(|all| all.get(key)) == Some(value));
        if kept {
            get::copy(spec, before, "/nodeSelector");
        }
    }
}
