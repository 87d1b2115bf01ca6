//! Event: what happened to an object, in the forms of core and of `events.k8s.io`; one set of objects, stored as core's.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::common::errors::{immutable, invalid_all};
use super::common::{get, meta, names, table};
use super::{Alias, Column, Kind, Rules, Selectable};

pub const CORE: Kind = Kind {
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    create_on_update: true,
    columns: COLUMNS,
    cells,
    rules: Rules { validate_create, validate_update, ..Rules::GENERIC },
    selectable: &[
        Selectable::text("involvedObject.kind", &["/involvedObject/kind"]),
        Selectable::text("involvedObject.namespace", &["/involvedObject/namespace"]),
        Selectable::text("involvedObject.name", &["/involvedObject/name"]),
        Selectable::text("involvedObject.uid", &["/involvedObject/uid"]),
        Selectable::text("involvedObject.apiVersion", &["/involvedObject/apiVersion"]),
        Selectable::text("involvedObject.resourceVersion", &["/involvedObject/resourceVersion"]),
        Selectable::text("involvedObject.fieldPath", &["/involvedObject/fieldPath"]),
        Selectable::text("reason", &["/reason"]),
        Selectable::text("reportingComponent", &["/reportingComponent"]),
        Selectable::text("source", &["/source/component", "/reportingComponent"]),
        Selectable::text("type", &["/type"]),
    ],
    ..Kind::NAMESPACED
};

/// The same objects with the names of `events.k8s.io`; tables and field selectors read the stored form.
pub const EVENTS: Kind = Kind {
    group: "events.k8s.io",
    rules: Rules { validate_create: validate_create_new, validate_update: validate_update_new, ..CORE.rules },
    selectable: &[
        Selectable::text("regarding.kind", &["/involvedObject/kind"]),
        Selectable::text("regarding.namespace", &["/involvedObject/namespace"]),
        Selectable::text("regarding.name", &["/involvedObject/name"]),
        Selectable::text("regarding.uid", &["/involvedObject/uid"]),
        Selectable::text("regarding.apiVersion", &["/involvedObject/apiVersion"]),
        Selectable::text("regarding.resourceVersion", &["/involvedObject/resourceVersion"]),
        Selectable::text("regarding.fieldPath", &["/involvedObject/fieldPath"]),
        Selectable::text("reason", &["/reason"]),
        Selectable::text("reportingController", &["/reportingComponent"]),
        Selectable::text("type", &["/type"]),
    ],
    alias: Some(Alias { group: "", version: "v1", kind: "Event", to_stored, from_stored }),
    ..CORE
};

const COLUMNS: &[Column] = &[
    Column::text("Last Seen", "Time since it last happened"),
    Column::text("Type", "Normal or Warning"),
    Column::text("Reason", "Why, in one word"),
    Column::text("Object", "What it happened to"),
    Column::wide("Subobject", "Which part of that"),
    Column::wide("Source", "Who says so"),
    Column::text("Message", "What happened"),
    Column::wide("First Seen", "Time since it first happened"),
    Column::wide("Count", "How often it happened"),
    Column::wide("Name", "Name of the event"),
];

/// The names of fields in `events.k8s.io/v1` and in core.
const RENAMED: &[(&str, &str)] = &[
    ("/regarding", "/involvedObject"),
    ("/note", "/message"),
    ("/reportingController", "/reportingComponent"),
    ("/deprecatedSource", "/source"),
    ("/deprecatedFirstTimestamp", "/firstTimestamp"),
    ("/deprecatedLastTimestamp", "/lastTimestamp"),
    ("/deprecatedCount", "/count"),
];

fn to_stored(event: &mut Value) {
    for (new, core) in RENAMED {
        rename(event, new, core);
    }
    get::set(event, "/apiVersion", "v1");
}

fn from_stored(event: &mut Value) {
    for (new, core) in RENAMED {
        rename(event, core, new);
    }
    get::set(event, "/apiVersion", "events.k8s.io/v1");
}

fn rename(event: &mut Value, from: &str, to: &str) {
    if let Some(value) = get::remove(event, from) {
        get::set(event, to, value);
    }
}

fn validate_create(event: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_create(event);
    errors.extend(judge(event, false));
    errors
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::update(new, old);
    errors.extend(judge(new, false));
    errors
}

/// What holds in both forms: an event of the older kind is where its object is, one with a time says who saw it and what was done.
fn judge(event: &Value, newer: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let object = if newer { "regarding" } else { "involvedObject" };
    let (own, of_object) = (get::text(event, "/metadata/namespace"), get::text(event, &format!("/{object}/namespace")));
    let timed = get::has(event, "/eventTime");
    let fits = match (timed, of_object.is_empty()) {
        // Those about objects without a namespace are in `default`.
        (false, true) => own.is_empty() || own == "default",
        (false, false) => own == of_object,
        (true, true) => matches!(own, "default" | "kube-system"),
        (true, false) => true,
    };
    if !fits {
        let path = Path::new("involvedObject").child("namespace");
        errors.push(FieldError::invalid(path, of_object, "does not match event.namespace"));
    }
    if timed {
        let controller = if newer { "reportingController" } else { "reportingComponent" };
        reporter(event, controller, &mut errors);
    }
    errors
}

fn reporter(event: &Value, controller: &str, errors: &mut Vec<FieldError>) {
    let by = get::text(event, &format!("/{controller}"));
    if by.is_empty() {
        errors.push(FieldError::required(Path::new(controller), ""));
    }
    invalid_all(errors, &Path::new(controller), by, names::qualified(by));
    for field in ["reportingInstance", "action", "reason"] {
        let text = get::text(event, &format!("/{field}"));
        if text.is_empty() {
            errors.push(FieldError::required(Path::new(field), ""));
        }
        too_long(text, field, LONGEST, errors);
    }
    let note = if controller == "reportingController" { "/note" } else { "/message" };
    too_long(get::text(event, note), "message", LONGEST_NOTE, errors);
}

const LONGEST: usize = 128;
const LONGEST_NOTE: usize = 1024;

fn too_long(text: &str, field: &str, most: usize, errors: &mut Vec<FieldError>) {
    if text.len() > most {
        let detail = format!("can have at most {most} characters");
        errors.push(FieldError::invalid(Path::new(field), "", detail));
    }
}

/// The newer form asks for more, and has no use for what only the older one says.
fn validate_create_new(event: &Value) -> Vec<FieldError> {
    let mut errors = judge(event, true);
    errors.extend(meta::validate_create(event));
    series(event, &mut errors);
    if !get::has(event, "/eventTime") {
        errors.push(FieldError::required(Path::new("eventTime"), ""));
    }
    let kind = get::text(event, "/type");
    if !["Normal", "Warning"].contains(&kind) {
        errors.push(FieldError::invalid(Path::new("type"), "", format!("has invalid value: {kind}")));
    }
    let old = [
        ("firstTimestamp", get::has(event, "/deprecatedFirstTimestamp")),
        ("lastTimestamp", get::has(event, "/deprecatedLastTimestamp")),
        ("count", get::int(event, "/deprecatedCount") != 0),
        ("source", get::entries(event, "/deprecatedSource").next().is_some()),
    ];
    for (field, _) in old.iter().filter(|(_, is_set)| *is_set) {
        errors.push(FieldError::invalid(Path::new(field), "", "needs to be unset"));
    }
    errors
}

fn series(event: &Value, errors: &mut Vec<FieldError>) {
    let Some(series) = event.get("series").filter(|series| series.is_object()) else { return };
    let path = Path::new("series");
    if get::int(series, "/count") < 2 {
        errors.push(FieldError::invalid(path.child("count"), "", "should be at least 2"));
    }
    if !get::has(series, "/lastObservedTime") {
        errors.push(FieldError::required(path.child("lastObservedTime"), ""));
    }
}

/// What happened stays; that it happened again is added.
fn validate_update_new(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = judge(new, true);
    errors.extend(meta::update(new, old));
    series(new, &mut errors);
    const LASTING: &[(&str, &str)] = &[
        ("/regarding", "involvedObject"),
        ("/reason", "reason"),
        ("/note", "message"),
        ("/deprecatedSource", "source"),
        ("/deprecatedFirstTimestamp", "firstTimestamp"),
        ("/deprecatedLastTimestamp", "lastTimestamp"),
        ("/deprecatedCount", "count"),
        ("/type", "type"),
        ("/eventTime", "eventTime"),
        ("/action", "action"),
        ("/related", "related"),
        ("/reportingController", "reportingController"),
        ("/reportingInstance", "reportingInstance"),
    ];
    for (pointer, field) in LASTING {
        immutable(&mut errors, Path::new(field), new.pointer(pointer), old.pointer(pointer));
    }
    errors
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    let or_else = |time: &str, otherwise: String| if time.is_empty() { otherwise } else { table::since(time, now) };
    let first = or_else(get::text(object, "/firstTimestamp"), table::since(get::text(object, "/eventTime"), now));
    let mut last = or_else(get::text(object, "/lastTimestamp"), first.clone());
    let mut count = get::int(object, "/count").max(1);
    if get::has(object, "/series") {
        last = table::since(get::text(object, "/series/lastObservedTime"), now);
        count = get::int(object, "/series/count");
    }
    let kind = get::text(object, "/involvedObject/kind").to_lowercase();
    let target = match get::text(object, "/involvedObject/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let either = |a: &str, b: &str| {
        let first = get::text(object, a);
        (if first.is_empty() { get::text(object, b) } else { first }).to_owned()
    };
    let mut source = either("/source/component", "/reportingComponent");
    let instance = either("/source/host", "/reportingInstance");
    if !instance.is_empty() {
        source = format!("{source}, {instance}");
    }
    vec![
        last.into(),
        get::text(object, "/type").into(),
        get::text(object, "/reason").into(),
        target.into(),
        get::text(object, "/involvedObject/fieldPath").into(),
        source.into(),
        get::text(object, "/message").trim().into(),
        first.into(),
        count.into(),
        table::name(object),
    ]
}
