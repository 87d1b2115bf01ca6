//! delete: preconditions, grace, finalizers, propagation.

use api::field::{FieldError, Path};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use store::Transaction;

use crate::Server;
use crate::fault::{Fault, Outcome};
use crate::kinds::Kind;
use crate::kinds::common::errors::unsupported;
use crate::object;
use crate::query::Query;

/// Finalizers that tell the garbage collector how to treat dependents.
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Kinds whose dependents stay when the deleter does not say what becomes of them: upstream keeps what it promised before there was a choice.
const ORPHANING: &[(&str, &str)] = &[("", "replicationcontrollers"), ("batch", "jobs")];
/// Namespaces that are always there.
const FIXED_NAMESPACES: &[&str] = &["default", "kube-system", "kube-public"];

/// What a deleter asks for, from the body or, failing that, the query.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) dry_run: bool,
}

/// What becomes of the objects that this one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// How a delete ended.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Value),
    /// The object is on its way and stays until its agent or its finalizers let it go.
    Waiting(Value),
}

impl DeleteOptions {
    pub(crate) fn of(body: Option<&Value>, query: &Query) -> Outcome<DeleteOptions> {
        let none = Value::Null;
        let body = body.unwrap_or(&none);
        let grace = match body["gracePeriodSeconds"].as_i64() {
            Some(seconds) => Some(seconds),
            None => query.number("gracePeriodSeconds")?,
        };
        let policy = body["propagationPolicy"].as_str().or(query.get("propagationPolicy"));
        let orphans = body["orphanDependents"].as_bool().or(query.choice("orphanDependents"));
        let mut errors = Vec::new();
        let propagation = propagation(policy.filter(|policy| !policy.is_empty()), orphans, &mut errors);
        let in_body = body["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let dry_run = crate::write::dry_run(in_body.chain(query.all("dryRun")), &mut errors);
        if !errors.is_empty() {
            return Err(Fault::invalid_options("DeleteOptions", &errors));
        }
        let text = |field: &str| body["preconditions"][field].as_str().map(str::to_owned);
        Ok(DeleteOptions { grace, uid: text("uid"), revision: text("resourceVersion"), propagation, dry_run })
    }
}

/// The older way to say it is a flag; both at once is one too many.
fn propagation(policy: Option<&str>, orphans: Option<bool>, errors: &mut Vec<FieldError>) -> Option<Propagation> {
    let path = Path::new("propagationPolicy");
    if let Some(policy) = policy.filter(|_| orphans.is_some()) {
        let detail = "orphanDependents and deletionPropagation cannot be both set";
        errors.push(FieldError::invalid(path.clone(), policy, detail));
    }
    match (policy, orphans) {
        (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
        (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
        (Some("Foreground"), _) => Some(Propagation::Foreground),
        (None, None) => None,
        (Some(other), _) => {
            errors.push(unsupported(path, other, &["Foreground", "Background", "Orphan", "nil"]));
            None
        }
    }
}

pub(crate) async fn delete(
    server: &Server,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Outcome<Deleted> {
    if is_namespace(kind) && FIXED_NAMESPACES.contains(&name) {
        return Err(Fault::forbidden(kind, name, "this namespace may not be deleted"));
    }
    let key = object::key(kind, namespace, name);
    loop {
        let entry = server.store.get(&key).ok_or_else(|| Fault::not_found(kind, name))?;
        let old = object::decode(kind, &entry.value)?;
        preconditions(kind, name, &old, options)?;
        let mut last = old.clone();
        let grace = grace(kind, &old, options);
        let waits = grace > 0;
        propagate(kind, &mut last, options.propagation);
        if waits || object::has_finalizers(&last) || keeps(kind, &last) {
            mark(kind, &mut last, grace);
            if options.dry_run || last == old {
                return Ok(Deleted::Waiting(last));
            }
            let transaction = Transaction::new()
                .unchanged(key.as_str(), entry.modified)
                .put(key.as_str(), object::encode(kind, &last));
            match server.store.commit(transaction).await {
                Ok(revision) => {
                    object::set_meta(&mut last, "resourceVersion", revision.to_string());
                    return Ok(Deleted::Waiting(last));
                }
                Err(store::Error::Conflict { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        if options.dry_run {
            return Ok(Deleted::Gone(last));
        }
        let claim = server.allocate.delete(kind, &last);
        let transaction = Transaction::new()
            .unchanged(key.as_str(), entry.modified)
            .delete(key.as_str(), object::encode(kind, &last));
        match server.store.commit(claim.add_to(transaction)).await {
            Ok(revision) => {
                claim.keep();
                object::set_meta(&mut last, "resourceVersion", revision.to_string());
                return Ok(Deleted::Gone(last));
            }
            Err(store::Error::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn preconditions(kind: &Kind, name: &str, object: &Value, options: &DeleteOptions) -> Outcome<()> {
    let refuse = |what: &str, given: &str, found: &str| {
        let why = format!(
            "the {what} in the precondition ({given}) does not match the {what} in record ({found}). The object might have been {}",
            if what == "UID" { "deleted and then recreated" } else { "modified" }
        );
        Err(Fault::precondition(kind, name, &why))
    };
    let uid = object::meta(object, "uid");
    if let Some(given) = options.uid.as_deref().filter(|given| *given != uid) {
        return refuse("UID", given, uid);
    }
    let revision = object::meta(object, "resourceVersion");
    if let Some(given) = options.revision.as_deref().filter(|given| *given != revision) {
        return refuse("ResourceVersion", given, revision);
    }
    Ok(())
}

/// For how long the object may finish: only a Pod that runs somewhere gets time.
fn grace(kind: &Kind, pod: &Value, options: &DeleteOptions) -> i64 {
    if !(kind.group.is_empty() && kind.plural == "pods") {
        return 0;
    }
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
    let unscheduled = pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    if ended || unscheduled {
        return 0;
    }
    let asked = options.grace.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30);
    // Upstream takes a negative period for one second.
    let asked = if asked < 0 { 1 } else { asked };
    match pod["metadata"]["deletionGracePeriodSeconds"].as_i64() {
        // A deletion under way can be made shorter, never longer.
        Some(running) if object::is_deleting(pod) => options.grace.map_or(running, |_| asked.min(running)),
        _ => asked,
    }
}

/// Sets when the object is to be gone. An object that is being deleted already keeps its time unless the grace gets shorter.
fn mark(kind: &Kind, object: &mut Value, grace: i64) {
    let running = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
    if object::is_deleting(object) && running.is_some_and(|running| running <= grace) {
        return;
    }
    let at = Timestamp::now().saturating_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
    object::set_meta(object, "deletionTimestamp", object::timestamp(at));
    object::set_meta(object, "deletionGracePeriodSeconds", grace);
    if let Some(generation) = object["metadata"]["generation"].as_i64().filter(|generation| *generation > 0) {
        object::set_meta(object, "generation", generation + 1);
    }
    if is_namespace(kind) {
        object["status"]["phase"] = "Terminating".into();
    }
}

/// What there is to warn a deleter about who did not choose.
pub(crate) fn warnings(kind: &Kind, options: &DeleteOptions) -> Vec<String> {
    const PRESERVED: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or \
         set propagationPolicy=Orphan to suppress this warning";
    let warned = (kind.group, kind.plural) == ("batch", "jobs") && options.propagation.is_none();
    warned.then(|| PRESERVED.to_owned()).into_iter().collect()
}

fn propagate(kind: &Kind, object: &mut Value, propagation: Option<Propagation>) {
    let mut finalizers: Vec<Value> = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let decided = finalizers.iter().any(|finalizer| finalizer == ORPHAN || finalizer == FOREGROUND);
    let default = || (!decided && ORPHANING.contains(&(kind.group, kind.plural))).then_some(Propagation::Orphan);
    let Some(propagation) = propagation.or_else(default) else { return };
    finalizers.retain(|finalizer| finalizer != ORPHAN && finalizer != FOREGROUND);
    match propagation {
        Propagation::Orphan => finalizers.push(ORPHAN.into()),
        Propagation::Foreground => finalizers.push(FOREGROUND.into()),
        Propagation::Background => {}
    }
    if finalizers.is_empty() {
        object::remove_meta(object, "finalizers");
    } else {
        object::set_meta(object, "finalizers", finalizers);
    }
}

/// Whether the object itself says that it must stay: a Namespace with `spec.finalizers`.
pub(crate) fn keeps(kind: &Kind, object: &Value) -> bool {
    is_namespace(kind) && object["spec"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty())
}

pub(crate) fn is_namespace(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "namespaces"
}

/// What the deleter is told when the object is gone: the object for some kinds, else a `Status`.
pub(crate) fn answer(kind: &Kind, object: Value) -> Value {
    const ITSELF: &[&str] = &[
        "namespaces",
        "persistentvolumeclaims",
        "persistentvolumes",
        "pods",
        "podtemplates",
        "resourcequotas",
        "serviceaccounts",
        "services",
    ];
    if kind.group.is_empty() && ITSELF.contains(&kind.plural) {
        return object;
    }
    let mut details = json!({"name": object::name(&object), "kind": kind.plural, "uid": object::meta(&object, "uid")});
    if !kind.group.is_empty() {
        details["group"] = kind.group.into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
