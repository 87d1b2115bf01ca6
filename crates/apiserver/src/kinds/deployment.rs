//! Deployment: replicas of a pod, rolled from one template to the next.

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::common::errors::{non_negative, unsupported};
use super::common::{get, meta, table, workload};
use super::{Column, Kind, NameRule, Rules, Scope, Subresource, pod};

pub const KIND: Kind = Kind {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    columns: &[
        Column::NAME,
        Column::text("Ready", "Ready pods of those wanted"),
        Column::text("Up-to-date", "Pods of the current template"),
        Column::text("Available", "Pods ready for long enough"),
        Column::AGE,
        Column::wide("Containers", "Names of the template's containers"),
        Column::wide("Images", "Images of the template's containers"),
        Column::wide("Selector", "Labels that select the pods"),
    ],
    cells,
    rules: Rules {
        default,
        prepare_create,
        prepare_update,
        prepare_status,
        validate_create,
        validate_update,
        validate_status,
        warnings,
        name: NameRule::DnsSubdomain,
    },
    ..Kind::NAMESPACED
};

fn default(object: &mut Value) {
    pod::default::template(object, "/spec/template");
    get::set_default(object, "/spec/replicas", 1);
    get::object_at(object, "/spec/strategy");
    get::set_default_text(object, "/spec/strategy/type", "RollingUpdate");
    if get::text(object, "/spec/strategy/type") == "RollingUpdate" {
        get::object_at(object, "/spec/strategy/rollingUpdate");
        get::set_default(object, "/spec/strategy/rollingUpdate/maxUnavailable", "25%");
        get::set_default(object, "/spec/strategy/rollingUpdate/maxSurge", "25%");
    }
    get::set_default(object, "/spec/revisionHistoryLimit", 10);
    get::set_default(object, "/spec/progressDeadlineSeconds", 600);
    get::object_at(object, "/status");
}

fn prepare_create(object: &mut Value) {
    meta::start(object, json!({}));
}

/// Annotations count too: a rollout's record is one.
fn prepare_update(new: &mut Value, old: &Value) {
    meta::keep_status_move_generation(new, old, &["/spec", "/metadata/annotations"]);
}

fn prepare_status(new: &mut Value, old: &Value) {
    meta::prepare_status(new, old);
    get::copy(new, old, "/metadata/labels");
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::check(object, NameRule::DnsSubdomain, Scope::Namespaced);
    errors.extend(spec(object));
    errors
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    errors.extend(spec(new));
    workload::same_selector(&mut errors, new, old);
    errors
}

fn validate_status(new: &Value, old: &Value) -> Vec<FieldError> {
    const COUNTS: &[&str] = &[
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "collisionCount",
    ];
    workload::status(new, old, COUNTS, &["updatedReplicas", "readyReplicas", "availableReplicas"])
}

fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    pod::template_warnings(new, old, "/spec/template", "spec.template")
}

fn spec(object: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    non_negative(&mut errors, path.child("replicas"), get::int_opt(object, "/spec/replicas"));
    workload::selector(&mut errors, object, &path, "empty selector is invalid for deployment");
    let template = object.pointer("/spec/template").unwrap_or(&Value::Null);
    let chosen = object.pointer("/spec/selector");
    errors.extend(pod::template::validate_kept(template, chosen, &path.child("template"), "ReplicaSet"));
    strategy(object, &path.child("strategy"), &mut errors);
    let ready = get::int(object, "/spec/minReadySeconds");
    non_negative(&mut errors, path.child("minReadySeconds"), Some(ready));
    non_negative(&mut errors, path.child("revisionHistoryLimit"), get::int_opt(object, "/spec/revisionHistoryLimit"));
    if let Some(deadline) = get::int_opt(object, "/spec/progressDeadlineSeconds") {
        let path = path.child("progressDeadlineSeconds");
        non_negative(&mut errors, path.clone(), Some(deadline));
        if deadline <= ready {
            errors.push(FieldError::invalid(path, deadline, "must be greater than minReadySeconds"));
        }
    }
    errors
}

fn strategy(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let rolling = object.pointer("/spec/strategy/rollingUpdate").filter(|rolling| rolling.is_object());
    let at = path.child("rollingUpdate");
    match (get::text(object, "/spec/strategy/type"), rolling) {
        ("Recreate", Some(_)) => {
            errors.push(FieldError::forbidden(at, "may not be specified when strategy `type` is 'Recreate'"));
        }
        ("Recreate", None) => {}
        ("RollingUpdate", None) => {
            errors.push(FieldError::required(at, "this should be defaulted and never be nil"));
        }
        ("RollingUpdate", Some(rolling)) => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            workload::int_or_percent(errors, &at.child("maxUnavailable"), unavailable);
            workload::int_or_percent(errors, &at.child("maxSurge"), surge);
            if workload::amount(unavailable) == 0 && workload::amount(surge) == 0 {
                let shown = unavailable.cloned().unwrap_or(Value::Null);
                let detail = "may not be 0 when `maxSurge` is 0";
                errors.push(FieldError::invalid(at.child("maxUnavailable"), shown, detail));
            }
            workload::at_most_all(errors, &at.child("maxUnavailable"), unavailable);
        }
        (other, _) => errors.push(unsupported(path.child("type"), other, &["Recreate", "RollingUpdate"])),
    }
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    let ready = format!("{}/{}", get::int(object, "/status/readyReplicas"), get::int(object, "/spec/replicas"));
    let [names, images] = table::containers(object, "/spec/template/spec/containers");
    vec![
        table::name(object),
        ready.into(),
        get::int(object, "/status/updatedReplicas").into(),
        get::int(object, "/status/availableReplicas").into(),
        table::age(object, now),
        names,
        images,
        object.pointer("/spec/selector").map(table::selector_text).unwrap_or_default().into(),
    ]
}
