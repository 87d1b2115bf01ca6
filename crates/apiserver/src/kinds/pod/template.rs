//! The template of pods, as workloads and PodTemplates hold it.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::spec::{self, Options};
use crate::kinds::common::{get, meta, selector};

const MISMATCH: &str = "`selector` does not match template `labels`";

/// A `PodTemplateSpec`.
pub fn validate(template: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = meta::labels(template.pointer("/metadata/labels"), &path.child("labels"));
    errors.extend(meta::annotations(template.pointer("/metadata/annotations"), &path.child("annotations")));
    let spec = template.get("spec").unwrap_or(&Value::Null);
    errors.extend(spec::validate(spec, &path.child("spec"), Options { pod_name: None }));
    if !get::list(spec, "/ephemeralContainers").is_empty() {
        let path = path.child("spec").child("ephemeralContainers");
        errors.push(FieldError::forbidden(path, "ephemeral containers not allowed in pod template"));
    }
    errors
}

/// The template of a workload that keeps pods running: its labels match the selector, its pods restart always and have no deadline.
pub fn validate_kept(template: &Value, chosen: Option<&Value>, path: &Path, kind: &str) -> Vec<FieldError> {
    let labels = template.pointer("/metadata/labels");
    let matches = if chosen.is_some_and(Value::is_object) {
        selector::is_empty(chosen) || selector::matches(chosen, labels)
    } else {
        // Upstream reads an absent selector as one that matches nothing.
        false
    };
    kept(template, matches, path, kind)
}

/// The same for the older selectors, which are maps of labels; an empty one is a fault of its own.
pub fn validate_kept_by_labels(template: &Value, chosen: Option<&Value>, path: &Path, kind: &str) -> Vec<FieldError> {
    let labels = get::map(template, "/metadata/labels");
    let wanted = chosen.and_then(Value::as_object);
    let matches = wanted.into_iter().flatten().all(|(key, value)| labels.and_then(|all| all.get(key)) == Some(value));
    kept(template, matches, path, kind)
}

fn kept(template: &Value, matches: bool, path: &Path, kind: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !matches {
        let labels = template.pointer("/metadata/labels").cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(path.child("metadata").child("labels"), labels, MISMATCH));
    }
    errors.extend(validate(template, path));
    let policy = get::text(template, "/spec/restartPolicy");
    if policy != "Always" {
        errors.push(FieldError::not_supported(path.child("spec").child("restartPolicy"), policy, &["Always"]));
    }
    if get::has(template, "/spec/activeDeadlineSeconds") {
        let path = path.child("spec").child("activeDeadlineSeconds");
        errors.push(FieldError::forbidden(path, format!("activeDeadlineSeconds in {kind} is not Supported")));
    }
    errors
}
