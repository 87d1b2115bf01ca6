//! Job: pods that run to completion.

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::common::errors::{immutable, non_negative};
use super::common::{get, meta, names, selector, table, workload};
use super::{Column, Kind, NameRule, Rules, Scope, Selectable, Subresource, job_policy, pod};

pub const KIND: Kind = Kind {
    group: "batch",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    categories: &["all"],
    subresources: &[Subresource::Status],
    columns: &[
        Column::NAME,
        Column::text("Status", "State of the job"),
        Column::text("Completions", "Pods that succeeded of those wanted"),
        Column::text("Duration", "Time from start to completion"),
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
    selectable: &[Selectable { label: "status.successful", pointers: &["/status/succeeded"], absent: "0" }],
    ..Kind::NAMESPACED
};

const MOST_PARALLEL: i64 = 100_000;
/// Labels that tie pods to their job, old names first.
const JOB_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];

fn default(object: &mut Value) {
    pod::default::template(object, "/spec/template");
    if !get::has(object, "/spec/completions") && !get::has(object, "/spec/parallelism") {
        get::set(object, "/spec/completions", 1);
    }
    get::set_default(object, "/spec/parallelism", 1);
    let limit = if get::has(object, "/spec/backoffLimitPerIndex") { i64::from(i32::MAX) } else { 6 };
    get::set_default(object, "/spec/backoffLimit", limit);
    let labels = object.pointer("/spec/template/metadata/labels").cloned();
    if let Some(labels) = labels.filter(|_| get::entries(object, "/metadata/labels").next().is_none()) {
        get::set(object, "/metadata/labels", labels);
    }
    get::set_default(object, "/spec/completionMode", "NonIndexed");
    get::set_default(object, "/spec/suspend", false);
    get::set_default(object, "/spec/manualSelector", false);
    let replacement = if get::has(object, "/spec/podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    get::set_default(object, "/spec/podReplacementPolicy", replacement);
    get::object_at(object, "/status");
}

/// Without a selector of the writer's, the job selects its pods by its own UID.
fn prepare_create(object: &mut Value) {
    meta::start(object, json!({}));
    if get::flag(object, "/spec/manualSelector") {
        return;
    }
    let (name, uid) = (get::text(object, "/metadata/name").to_owned(), get::text(object, "/metadata/uid").to_owned());
    for (labels, value) in [(JOB_LABELS, &name), (UID_LABELS, &uid)] {
        for label in labels {
            if let Some(labels) = get::object_at(object, "/spec/template/metadata/labels") {
                labels.entry(label).or_insert_with(|| value.as_str().into());
            }
        }
    }
    if let Some(wanted) = get::object_at(object, "/spec/selector/matchLabels") {
        wanted.entry(UID_LABELS[1]).or_insert_with(|| uid.as_str().into());
    }
}

fn prepare_update(new: &mut Value, old: &Value) {
    meta::keep_status_move_generation(new, old, &["/spec"]);
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = meta::check(object, NameRule::DnsSubdomain, Scope::Namespaced);
    pod_names(object, &mut errors);
    generated_selector(object, &mut errors);
    errors.extend(spec(object.get("spec").unwrap_or(&Value::Null), &path));
    let chosen = object.pointer("/spec/selector");
    if chosen.is_none() {
        errors.push(FieldError::required(path.child("selector"), ""));
    }
    errors.extend(selector::validate(chosen, &path.child("selector")));
    let labels = object.pointer("/spec/template/metadata/labels");
    if !selector::matches(chosen, labels) {
        let path = path.child("template").child("metadata").child("labels");
        let shown = labels.cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(path, shown, "`selector` does not match template `labels`"));
    }
    errors
}

/// A pod of an indexed job has the job's name and its index as its hostname.
fn pod_names(object: &Value, errors: &mut Vec<FieldError>) {
    let completions = get::int(object, "/spec/completions");
    if get::text(object, "/spec/completionMode") != "Indexed" || completions < 1 {
        return;
    }
    let name = get::text(object, "/metadata/name");
    let last = format!("{name}-{}", completions - 1);
    if !names::dns_label(&last).is_empty() {
        let detail = format!("will not able to create pod with invalid DNS label: {last}");
        errors.push(FieldError::invalid(Path::new("metadata").child("name"), name, detail));
    }
}

/// The labels that tie the pods to the job may be given, but only as they would be made.
fn generated_selector(object: &Value, errors: &mut Vec<FieldError>) {
    if get::flag(object, "/spec/manualSelector") {
        return;
    }
    let path = Path::new("spec").child("template").child("metadata").child("labels");
    let labels = get::map(object, "/spec/template/metadata/labels");
    let wanted = [(UID_LABELS, "/metadata/uid"), (JOB_LABELS, "/metadata/name")];
    for (names, pointer) in wanted {
        let value = get::text(object, pointer);
        for name in names {
            let found = labels.and_then(|all| all.get(name)).and_then(Value::as_str);
            if let Some(found) = found.filter(|found| *found != value) {
                errors.push(FieldError::invalid(path.key(name), found, format!("must be '{value}'")));
            }
        }
    }
}

/// `JobSpec`, also a CronJob's, but for its selector.
pub fn spec(spec: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    const COUNTS: &[&str] =
        &["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"];
    for field in COUNTS {
        non_negative(&mut errors, path.child(field), get::int_opt(spec, &format!("/{field}")));
    }
    completion_mode(spec, path, &mut errors);
    job_policy::failure(spec, path, &mut errors);
    job_policy::success(spec, path, &mut errors);
    job_policy::manager(spec, path, &mut errors);
    let template = spec.get("template").unwrap_or(&Value::Null);
    let at = path.child("template");
    errors.extend(pod::template::validate(template, &at));
    let policy = get::text(template, "/spec/restartPolicy");
    let at = at.child("spec").child("restartPolicy");
    job_policy::restart(policy, get::has(spec, "/podFailurePolicy"), at, &mut errors);
    errors
}

fn completion_mode(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let mode = get::text_opt(spec, "/completionMode");
    match mode {
        Some("Indexed") => {
            if !get::has(spec, "/completions") {
                errors.push(FieldError::required(path.child("completions"), "when completion mode is Indexed"));
            }
            if let Some(parallel) = get::int_opt(spec, "/parallelism").filter(|count| *count > MOST_PARALLEL) {
                let detail = format!("must be less than or equal to {MOST_PARALLEL} when completion mode is Indexed");
                errors.push(FieldError::invalid(path.child("parallelism"), parallel, detail));
            }
        }
        Some("NonIndexed") | None => {}
        Some(other) => {
            errors.push(FieldError::not_supported(path.child("completionMode"), other, &["Indexed", "NonIndexed"]));
        }
    }
    for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
        let count = get::int_opt(spec, &format!("/{field}"));
        non_negative(errors, path.child(field), count);
        if count.is_some() && mode != Some("Indexed") {
            let detail = "requires indexed completion mode";
            errors.push(FieldError::invalid(path.child(field), count, detail));
        }
    }
    by_index(spec, path, errors);
    if let Some(policy) = get::text_opt(spec, "/podReplacementPolicy") {
        const POLICIES: &[&str] = &["Failed", "TerminatingOrFailed"];
        if !POLICIES.contains(&policy) {
            errors.push(FieldError::not_supported(path.child("podReplacementPolicy"), policy, POLICIES));
        }
    }
}

/// Failures that are counted index by index.
fn by_index(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let (completions, most) = (get::int(spec, "/completions"), get::int_opt(spec, "/maxFailedIndexes"));
    let (limit, path) = (path.child("backoffLimitPerIndex"), path.child("maxFailedIndexes"));
    if let Some(most) = most.filter(|most| get::has(spec, "/completions") && *most > completions) {
        errors.push(FieldError::invalid(path.clone(), most, "must be less than or equal to completions"));
    }
    if let Some(most) = most.filter(|most| *most > MOST_PARALLEL) {
        let detail = format!("must be less than or equal to {MOST_PARALLEL}");
        errors.push(FieldError::invalid(path.clone(), most, detail));
    }
    let has_limit = get::has(spec, "/backoffLimitPerIndex");
    if most.is_some() && !has_limit {
        errors.push(FieldError::required(limit, "when maxFailedIndexes is specified"));
    }
    if has_limit && completions > MOST_PARALLEL && most.is_none() {
        let detail = format!("must be specified when completions is above {MOST_PARALLEL}");
        errors.push(FieldError::required(path, detail));
    }
}

/// What a job is does not change; how fast, how long and whether it runs may.
fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = meta::validate_update(new, old);
    errors.extend(spec(new.get("spec").unwrap_or(&Value::Null), &path));
    let elastic = get::text(new, "/spec/completionMode") == "Indexed"
        && get::same(old, &json!({"spec": {"completions": old.pointer("/spec/parallelism")}}), "/spec/completions")
        && new.pointer("/spec/completions") == new.pointer("/spec/parallelism");
    // A job that was suspended before it started may still change its template.
    let waiting = get::flag(old, "/spec/suspend") && !get::has(old, "/status/startTime");
    const LASTING: &[&str] = &[
        "completions",
        "selector",
        "template",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ];
    for field in LASTING.iter().copied() {
        if (field == "completions" && elastic) || (field == "template" && waiting) {
            continue;
        }
        let pointer = format!("/spec/{field}");
        immutable(&mut errors, path.child(field), new.pointer(&pointer), old.pointer(&pointer));
    }
    errors
}

fn validate_status(new: &Value, old: &Value) -> Vec<FieldError> {
    workload::status(new, old, &["active", "succeeded", "failed", "terminating", "ready"], &[])
}

fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    pod::template_warnings(new, old, "/spec/template", "spec.template")
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    let succeeded = get::int(object, "/status/succeeded");
    let completions = match (get::int_opt(object, "/spec/completions"), get::int(object, "/spec/parallelism")) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let time = |field: &str| table::seconds(get::text(object, field));
    let took =
        time("/status/startTime").map(|start| table::duration(time("/status/completionTime").unwrap_or(now) - start));
    let [containers, images] = table::containers(object, "/spec/template/spec/containers");
    vec![
        table::name(object),
        state(object).into(),
        completions.into(),
        took.unwrap_or_default().into(),
        table::age(object, now),
        containers,
        images,
        table::selector(object.pointer("/spec/selector")),
    ]
}

fn state(object: &Value) -> &'static str {
    let is = |kind: &str| {
        let conditions = get::list(object, "/status/conditions").iter();
        conditions.into_iter().any(|one| get::text(one, "/type") == kind && get::text(one, "/status") == "True")
    };
    if is("Complete") {
        return "Complete";
    }
    if is("Failed") {
        return "Failed";
    }
    if get::has(object, "/metadata/deletionTimestamp") {
        return "Terminating";
    }
    ["Suspended", "FailureTarget", "SuccessCriteriaMet"].into_iter().find(|kind| is(kind)).unwrap_or("Running")
}
