//! Counting pods that ended, each once: noted by UID in the status, then let go, then a number.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::ending::Ending;
use super::pods;
use super::state::{State, count, uid};
use crate::mechanism::Write;

/// How many UIDs the status holds at most at once.
const MOST_NOTED: usize = 500;

/// The counts of a status, and the pods that may go once it is written.
#[derive(Debug)]
pub struct Counted {
    pub status: JobStatus,
    pub release: Vec<Write>,
    /// Pods are left for the next time.
    pub is_full: bool,
}

pub fn count_ended(state: &State<'_>, ending: Option<&Ending>) -> Counted {
    let mut status = state.old.clone();
    let held: BTreeSet<&str> = state.pods.iter().filter(|pod| pods::is_tracked(pod)).map(|pod| uid(pod)).collect();
    let (gone, mut succeeded) = settle(&state.uncounted.succeeded, &held);
    status.succeeded = Some(status.succeeded.unwrap_or(0) + gone);
    let (gone, mut failed) = settle(&state.uncounted.failed, &held);
    status.failed = Some(status.failed.unwrap_or(0) + gone);
    let mut fresh = BTreeSet::new();
    let mut counted = Counted { status, release: Vec::new(), is_full: false };
    for pod in state.pods.iter().filter(|pod| pods::is_tracked(pod) && may_go(state, pod, ending)) {
        counted.release.push(pods::release(pod));
        match fate(state, pod, ending) {
            Fate::Succeeded => note(state, pod, &mut fresh, &mut succeeded),
            Fate::Failed if !failed.contains(&uid(pod).to_owned()) => failed.push(uid(pod).to_owned()),
            Fate::Failed | Fate::Uncounted => {}
        }
        if fresh.len() + succeeded.len() + failed.len() >= MOST_NOTED {
            counted.is_full = true;
            break;
        }
    }
    if let Some(indexed) = &state.indexed {
        let all = indexed.counted.with(&fresh);
        counted.status.succeeded = Some(all.total());
        counted.status.completed_indexes = Some(all.to_string()).filter(|text| !text.is_empty());
        counted.status.failed_indexes = indexed.failed.as_ref().map(ToString::to_string);
    }
    let list = |uids: Vec<String>| (!uids.is_empty()).then_some(uids);
    let noted = UncountedTerminatedPods { succeeded: list(succeeded), failed: list(failed) };
    counted.status.uncounted_terminated_pods = Some(noted);
    counted
}

/// How many noted pods have gone since, and those that are still held.
fn settle(noted: &BTreeSet<String>, held: &BTreeSet<&str>) -> (i32, Vec<String>) {
    let (held, gone): (Vec<&String>, Vec<&String>) = noted.iter().partition(|uid| held.contains(uid.as_str()));
    (count(gone), held.into_iter().cloned().collect())
}

fn may_go(state: &State<'_>, pod: &Arc<Pod>, ending: Option<&Ending>) -> bool {
    if state.is_going() || ending.is_some() || pods::has_succeeded(pod) {
        return true;
    }
    let waits = state
        .indexed
        .as_ref()
        .is_some_and(|indexed| indexed.waiting.values().any(|waiting| waiting.metadata.uid == pod.metadata.uid));
    pods::has_failed(pod, state.spec) && !waits
}

enum Fate {
    Succeeded,
    Failed,
    Uncounted,
}

fn fate(state: &State<'_>, pod: &Pod, ending: Option<&Ending>) -> Fate {
    if pods::has_succeeded(pod) && !state.uncounted.failed.contains(uid(pod)) {
        return Fate::Succeeded;
    }
    // Of a Job that failed, every pod has failed that had not come to its end.
    let failed = pods::has_failed(pod, state.spec) || ending.is_some_and(|ending| !ending.success);
    if failed && state.is_valid(pod) && state.counts(pod) { Fate::Failed } else { Fate::Uncounted }
}

/// An index is its own note: it cannot be counted twice.
fn note(state: &State<'_>, pod: &Pod, fresh: &mut BTreeSet<i32>, succeeded: &mut Vec<String>) {
    match &state.indexed {
        Some(indexed) => {
            let index = pods::index(pod).filter(|index| *index < indexed.completions);
            fresh.extend(index.filter(|index| !indexed.counted.contains(*index)));
        }
        None if succeeded.iter().any(|known| known == uid(pod)) => {}
        None => succeeded.push(uid(pod).to_owned()),
    }
}
