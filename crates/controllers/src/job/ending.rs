//! Whether a Job has come to its end, and how: upstream's conditions, reasons and messages.
//!
//! An end is told twice: first what it will be (`SuccessCriteriaMet`, `FailureTarget`), while pods are still there, then that it is so
//! (`Complete`, `Failed`), when every pod has ended and is counted.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::JobCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::pods;
use super::policy::{self, Verdict};
use super::state::State;

/// How a Job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    pub success: bool,
    pub reason: String,
    pub message: String,
}

impl Ending {
    fn failure(reason: &str, message: impl Into<String>) -> Option<Ending> {
        Some(Ending { success: false, reason: reason.to_owned(), message: message.into() })
    }

    fn success(reason: &str, message: impl Into<String>) -> Option<Ending> {
        Some(Ending { success: true, reason: reason.to_owned(), message: message.into() })
    }

    /// The condition that announces it.
    pub fn interim(&self, now: Timestamp) -> JobCondition {
        self.condition(if self.success { "SuccessCriteriaMet" } else { "FailureTarget" }, now)
    }

    /// The condition that a Job has for good.
    pub fn last(&self, now: Timestamp) -> JobCondition {
        self.condition(if self.success { "Complete" } else { "Failed" }, now)
    }

    fn condition(&self, r#type: &str, now: Timestamp) -> JobCondition {
        condition(r#type, "True", &self.reason, &self.message, now)
    }
}

pub fn condition(r#type: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: r#type.to_owned(),
        status: status.to_owned(),
        reason: (!reason.is_empty()).then(|| reason.to_owned()),
        message: (!message.is_empty()).then(|| message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// The end that the status announces already.
pub fn announced(state: &State<'_>) -> Option<Ending> {
    let conditions = state.old.conditions.as_deref().unwrap_or_default();
    let known = |name: &str| conditions.iter().find(|one| one.type_ == name && one.status == "True");
    let (success, told) = match (known("SuccessCriteriaMet"), known("FailureTarget")) {
        (Some(told), _) => (true, told),
        (None, Some(told)) => (false, told),
        (None, None) => return None,
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Some(Ending { success, reason: text(&told.reason), message: text(&told.message) })
}

/// The end that the pods' fates and the clock bring about, before it is asked whether all work is done.
pub fn due(state: &State<'_>) -> Option<Ending> {
    if let Some(message) = forbidden_failure(state) {
        return Ending::failure("PodFailurePolicy", message);
    }
    if state.failed > state.spec.backoff_limit.unwrap_or(6) || restarted_too_often(state) {
        return Ending::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if until_deadline(state).is_some_and(|left| left.is_zero()) {
        return Ending::failure("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    let indexed = state.indexed.as_ref()?;
    if let Some(failed) = indexed.failed.as_ref().map(|failed| failed.total()) {
        if state.spec.max_failed_indexes.is_some_and(|most| failed > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Ending::failure("MaxFailedIndexesExceeded", message);
        }
        if failed > 0 && failed + indexed.succeeded.total() >= indexed.completions {
            return Ending::failure("FailedIndexes", "Job has failed indexes");
        }
    }
    let enough = policy::is_enough(state.spec.success_policy.as_ref(), indexed.completions, &indexed.succeeded)?;
    Ending::success("SuccessPolicy", enough)
}

/// All work is done and nobody works any more.
pub fn complete(state: &State<'_>) -> Option<Ending> {
    let done = match state.spec.completions {
        // A queue of work is empty as soon as one of its workers says so.
        None => state.succeeded > 0,
        Some(completions) => state.succeeded >= completions,
    };
    if !done || !state.active.is_empty() {
        return None;
    }
    Ending::success("CompletionsReached", "Reached expected number of succeeded pods")
}

fn forbidden_failure(state: &State<'_>) -> Option<String> {
    let policy = state.spec.pod_failure_policy.as_ref()?;
    let failed = state.pods.iter().filter(|pod| pods::has_failed(pod, state.spec));
    failed.into_iter().find_map(|pod| match policy::verdict(Some(policy), pod) {
        Verdict::FailJob(message) => Some(message),
        Verdict::Count | Verdict::Ignore | Verdict::FailIndex => None,
    })
}

/// Where containers are restarted in their pods, the restarts are what the limit is about.
fn restarted_too_often(state: &State<'_>) -> bool {
    let template = state.spec.template.spec.as_ref();
    if template.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let running = state.pods.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
    let statuses = running.filter_map(|pod| pod.status.as_ref());
    let statuses =
        statuses.flat_map(|status| status.init_container_statuses.iter().chain(&status.container_statuses).flatten());
    let restarts: i32 = statuses.map(|status| status.restart_count).sum();
    match state.spec.backoff_limit.unwrap_or(6) {
        0 => restarts > 0,
        limit => restarts >= limit,
    }
}

/// How long the Job may still be active, if that is limited.
pub fn until_deadline(state: &State<'_>) -> Option<Duration> {
    let allowed = state.spec.active_deadline_seconds.filter(|_| !state.is_suspended())?;
    let started = state.old.start_time.as_ref()?.0;
    let left = SignedDuration::from_secs(allowed) - state.now.duration_since(started);
    Some(Duration::try_from(left).unwrap_or(Duration::ZERO))
}
