//! DaemonSet: one pod on each node.

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::common::errors::{non_negative, unsupported};
use super::common::{get, meta, selector, table, workload};
use super::{Column, Kind, NameRule, Rules, Scope, Subresource, pod};

pub const KIND: Kind = Kind {
    group: "apps",
    kind: "DaemonSet",
    plural: "daemonsets",
    singular: "daemonset",
    short_names: &["ds"],
    categories: &["all"],
    subresources: &[Subresource::Status],
    columns: &[
        Column::NAME,
        Column::int("Desired", "Nodes that should run the pod"),
        Column::int("Current", "Nodes that run the pod and should"),
        Column::int("Ready", "Nodes whose pod is ready"),
        Column::int("Up-to-date", "Nodes that run the updated pod"),
        Column::int("Available", "Nodes whose pod is available"),
        Column::text("Node Selector", "Labels of the nodes"),
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
        prepare_status: meta::prepare_status,
        validate_create,
        validate_update,
        validate_status,
        warnings,
        name: NameRule::DnsSubdomain,
    },
    ..Kind::NAMESPACED
};

/// Counts the template's changes, where older clients look for it.
const TEMPLATE_GENERATION: &str = "/metadata/annotations/deprecated.daemonset.template.generation";
const COUNTS: &[&str] = &["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"];

fn default(object: &mut Value) {
    pod::default::template(object, "/spec/template");
    get::object_at(object, "/spec/updateStrategy");
    get::set_default_text(object, "/spec/updateStrategy/type", "RollingUpdate");
    if get::text(object, "/spec/updateStrategy/type") == "RollingUpdate" {
        get::object_at(object, "/spec/updateStrategy/rollingUpdate");
        get::set_default(object, "/spec/updateStrategy/rollingUpdate/maxUnavailable", 1);
        get::set_default(object, "/spec/updateStrategy/rollingUpdate/maxSurge", 0);
    }
    get::set_default(object, "/spec/revisionHistoryLimit", 10);
    get::object_at(object, "/status");
    for count in COUNTS {
        get::set_default(object, &format!("/status/{count}"), 0);
    }
}

fn prepare_create(object: &mut Value) {
    meta::start(object, json!({}));
    for count in COUNTS {
        get::set(object, &format!("/status/{count}"), 0);
    }
    if generation(object) < 1 {
        get::set(object, TEMPLATE_GENERATION, "1");
    }
}

fn prepare_update(new: &mut Value, old: &Value) {
    let moved = i64::from(!get::same(new, old, "/spec/template"));
    let counted = generation(old) + moved;
    if counted > 0 {
        get::set(new, TEMPLATE_GENERATION, counted.to_string());
    }
    meta::keep_status_move_generation(new, old, &["/spec"]);
}

fn generation(object: &Value) -> i64 {
    get::text(object, TEMPLATE_GENERATION).parse().unwrap_or(0)
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
    const MORE: &[&str] = &[
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    workload::status(new, old, MORE, &[])
}

fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    pod::template_warnings(new, old, "/spec/template", "spec.template")
}

fn spec(object: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let chosen = object.pointer("/spec/selector");
    let template = object.pointer("/spec/template").unwrap_or(&Value::Null);
    let mut errors = selector::validate(chosen, &path.child("selector"));
    let labels = template.pointer("/metadata/labels");
    let at = path.child("template");
    if !selector::matches(chosen, labels) {
        let shown = labels.cloned().unwrap_or(Value::Null);
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(at.child("metadata").child("labels"), shown, detail));
    }
    if let Some(chosen) = chosen.filter(|chosen| chosen.is_object() && selector::is_empty(Some(chosen))) {
        let detail = "empty selector is invalid for daemonset";
        errors.push(FieldError::invalid(path.child("selector"), chosen.clone(), detail));
    }
    errors.extend(pod::template::validate(template, &at));
    let policy = get::text(template, "/spec/restartPolicy");
    if policy != "Always" {
        errors.push(unsupported(at.child("spec").child("restartPolicy"), policy, &["Always"]));
    }
    if get::has(template, "/spec/activeDeadlineSeconds") {
        let path = at.child("spec").child("activeDeadlineSeconds");
        errors.push(FieldError::forbidden(path, "activeDeadlineSeconds in DaemonSet is not Supported"));
    }
    non_negative(&mut errors, path.child("minReadySeconds"), get::int_opt(object, "/spec/minReadySeconds"));
    strategy(object, &path.child("updateStrategy"), &mut errors);
    non_negative(&mut errors, path.child("revisionHistoryLimit"), get::int_opt(object, "/spec/revisionHistoryLimit"));
    errors
}

fn strategy(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let rolling = object.pointer("/spec/updateStrategy/rollingUpdate").filter(|rolling| rolling.is_object());
    let at = path.child("rollingUpdate");
    match (get::text(object, "/spec/updateStrategy/type"), rolling) {
        ("OnDelete", _) => {}
        ("RollingUpdate", None) => errors.push(FieldError::required(at, "")),
        ("RollingUpdate", Some(rolling)) => {
            let bounds = ["maxUnavailable", "maxSurge"].map(|field| (at.child(field), rolling.get(field)));
            bounds.iter().for_each(|(path, bound)| workload::int_or_percent(errors, path, *bound));
            bounds.iter().for_each(|(path, bound)| workload::at_most_all(errors, path, *bound));
            let [(unavailable_at, unavailable), (surge_at, surge)] = bounds;
            match (workload::amount(unavailable) != 0, workload::amount(surge) != 0) {
                (true, true) => {
                    let shown = surge.cloned().unwrap_or(Value::Null);
                    errors.push(FieldError::invalid(surge_at, shown, "may not be set when maxUnavailable is non-zero"));
                }
                (false, false) => errors.push(FieldError::required(unavailable_at, "cannot be 0 when maxSurge is 0")),
                (true, false) | (false, true) => {}
            }
        }
        (other, _) => errors.push(unsupported(path.clone(), other, &["RollingUpdate", "OnDelete"])),
    }
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    let count = |field: &str| -> Value { get::int(object, field).into() };
    let [names, images] = table::containers(object, "/spec/template/spec/containers");
    vec![
        table::name(object),
        count("/status/desiredNumberScheduled"),
        count("/status/currentNumberScheduled"),
        count("/status/numberReady"),
        count("/status/updatedNumberScheduled"),
        count("/status/numberAvailable"),
        table::labels(object.pointer("/spec/template/spec/nodeSelector")),
        table::age(object, now),
        names,
        images,
        table::selector(object.pointer("/spec/selector")),
    ]
}
