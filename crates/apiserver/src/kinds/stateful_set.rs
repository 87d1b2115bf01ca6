//! StatefulSet: pods with names and volumes that stay.

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::common::errors::{non_negative, unsupported};
use super::common::internal::{ROLLING_SET, as_struct};
use super::common::{get, meta, selector, table, workload};
use super::{Column, Kind, NameRule, Rules, Scope, Subresource, pod};

pub const KIND: Kind = Kind {
    group: "apps",
    kind: "StatefulSet",
    plural: "statefulsets",
    singular: "statefulset",
    short_names: &["sts"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    columns: &[
        Column::NAME,
        Column::text("Ready", "Ready pods of those wanted"),
        Column::AGE,
        Column::wide("Containers", "Names of the template's containers"),
        Column::wide("Images", "Images of the template's containers"),
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
        name: NameRule::DnsLabel,
    },
    ..Kind::NAMESPACED
};

fn default(object: &mut Value) {
    pod::default::template(object, "/spec/template");
    get::set_default_text(object, "/spec/podManagementPolicy", "OrderedReady");
    get::object_at(object, "/spec/updateStrategy");
    get::set_default_text(object, "/spec/updateStrategy/type", "RollingUpdate");
    if get::text(object, "/spec/updateStrategy/type") == "RollingUpdate" {
        get::object_at(object, "/spec/updateStrategy/rollingUpdate");
        get::set_default(object, "/spec/updateStrategy/rollingUpdate/partition", 0);
    }
    get::object_at(object, "/spec/persistentVolumeClaimRetentionPolicy");
    get::set_default_text(object, "/spec/persistentVolumeClaimRetentionPolicy/whenDeleted", "Retain");
    get::set_default_text(object, "/spec/persistentVolumeClaimRetentionPolicy/whenScaled", "Retain");
    get::set_default(object, "/spec/replicas", 1);
    get::set_default(object, "/spec/revisionHistoryLimit", 10);
    for claim in get::list_mut(object, "/spec/volumeClaimTemplates").into_iter().flatten() {
        get::set(claim, "/apiVersion", "v1");
        get::set(claim, "/kind", "PersistentVolumeClaim");
        get::object_at(claim, "/metadata");
        get::object_at(claim, "/spec/resources");
        get::set_default(claim, "/spec/volumeMode", "Filesystem");
        get::object_at(claim, "/status");
        get::set_default_text(claim, "/status/phase", "Pending");
    }
    get::object_at(object, "/status");
    get::set_default(object, "/status/replicas", 0);
    get::set_default(object, "/status/availableReplicas", 0);
}

fn prepare_create(object: &mut Value) {
    meta::start(object, json!({"replicas": 0, "availableReplicas": 0}));
}

fn prepare_update(new: &mut Value, old: &Value) {
    meta::keep_status_move_generation(new, old, &["/spec"]);
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::check(object, NameRule::DnsLabel, Scope::Namespaced);
    errors.extend(spec(object));
    errors
}

/// What an update may change.
const MUTABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    errors.extend(spec(new));
    let rest = |object: &Value| {
        let mut spec = object.get("spec").cloned().unwrap_or(Value::Null);
        for field in MUTABLE {
            get::remove(&mut spec, &format!("/{field}"));
        }
        spec
    };
    if rest(new) != rest(old) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                      'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        errors.push(FieldError::forbidden(Path::new("spec"), detail));
    }
    errors
}

fn validate_status(new: &Value, old: &Value) -> Vec<FieldError> {
    const PARTS: &[&str] = &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    const COUNTS: &[&str] = &[
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ];
    workload::status(new, old, COUNTS, PARTS)
}

fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = pod::template_warnings(new, old, "/spec/template", "spec.template");
    if get::int(new, "/spec/revisionHistoryLimit") < 0 {
        warnings.push(
            "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"
                .to_owned(),
        );
    }
    warnings
}

/// Of the template only the metadata is judged: its volumes come from the claims.
fn spec(object: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    let policy = get::text(object, "/spec/podManagementPolicy");
    if !["OrderedReady", "Parallel"].contains(&policy) {
        let detail = "must be 'OrderedReady' or 'Parallel'";
        errors.push(FieldError::invalid(path.child("podManagementPolicy"), policy, detail));
    }
    strategy(object, &path.child("updateStrategy"), &mut errors);
    let retention = path.child("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        let policy = get::text(object, &format!("/spec/persistentVolumeClaimRetentionPolicy/{field}"));
        if !["Retain", "Delete"].contains(&policy) {
            errors.push(unsupported(retention.child(field), policy, &["Retain", "Delete"]));
        }
    }
    for field in ["replicas", "minReadySeconds"] {
        non_negative(&mut errors, path.child(field), get::int_opt(object, &format!("/spec/{field}")));
    }
    non_negative(&mut errors, path.child("ordinals").child("start"), get::int_opt(object, "/spec/ordinals/start"));
    workload::selector(&mut errors, object, &path, "empty selector is invalid for statefulset");
    template(object, &path.child("template"), &mut errors);
    errors
}

fn template(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let template = object.pointer("/spec/template").unwrap_or(&Value::Null);
    let chosen = object.pointer("/spec/selector");
    let labels = template.pointer("/metadata/labels");
    let everything = chosen.is_some_and(Value::is_object) && selector::is_empty(chosen);
    if !everything && !selector::matches(chosen, labels) {
        let shown = labels.cloned().unwrap_or(Value::Null);
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(path.child("metadata").child("labels"), shown, detail));
    }
    errors.extend(meta::labels(labels, &path.child("labels")));
    errors.extend(meta::annotations(template.pointer("/metadata/annotations"), &path.child("annotations")));
    let policy = get::text(template, "/spec/restartPolicy");
    if policy != "Always" {
        errors.push(unsupported(path.child("spec").child("restartPolicy"), policy, &["Always"]));
    }
    if get::has(template, "/spec/activeDeadlineSeconds") {
        let path = path.child("spec").child("activeDeadlineSeconds");
        errors.push(FieldError::forbidden(path, "activeDeadlineSeconds in StatefulSet is not Supported"));
    }
}

fn strategy(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let whole = object.pointer("/spec/updateStrategy").cloned().unwrap_or(Value::Null);
    let rolling = whole.get("rollingUpdate").filter(|rolling| rolling.is_object());
    let at = path.child("rollingUpdate");
    match (get::text(&whole, "/type"), rolling) {
        ("OnDelete", Some(rolling)) => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(as_struct(FieldError::invalid(at, rolling.clone(), detail), ROLLING_SET));
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        ("RollingUpdate", Some(rolling)) => {
            non_negative(errors, at.child("partition"), get::int_opt(rolling, "/partition"));
            if let Some(unavailable) = rolling.get("maxUnavailable") {
                let at = at.child("maxUnavailable");
                workload::int_or_percent(errors, &at, Some(unavailable));
                if workload::amount(Some(unavailable)) == 0 {
                    errors.push(FieldError::invalid(at.clone(), unavailable.clone(), "cannot be 0"));
                }
                workload::at_most_all(errors, &at, Some(unavailable));
            }
        }
        _ => errors.push(FieldError::invalid(path.clone(), whole, "must be 'RollingUpdate' or 'OnDelete'")),
    }
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    let ready = format!("{}/{}", get::int(object, "/status/readyReplicas"), get::int(object, "/spec/replicas"));
    let [names, images] = table::containers(object, "/spec/template/spec/containers");
    vec![table::name(object), ready.into(), table::age(object, now), names, images]
}
