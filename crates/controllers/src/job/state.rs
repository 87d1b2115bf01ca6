//! What a decision about a Job looks at, worked out once: its pods by what they are, and the counts with those not yet in the status.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::indexes::Indexes;
use super::pods::{self, Specified};
use super::policy::{self, Verdict};
use crate::{membership, workload};

#[derive(Debug)]
pub struct State<'a> {
    pub job: &'a Job,
    pub spec: &'a JobSpec,
    pub old: JobStatus,
    /// All pods of the Job, in the order of their indexes and names.
    pub pods: Vec<Arc<Pod>>,
    pub active: Vec<Arc<Pod>>,
    pub ready: i32,
    pub terminating: i32,
    pub uncounted: Uncounted,
    /// With those that the status does not count yet.
    pub succeeded: i32,
    pub failed: i32,
    pub indexed: Option<Indexed>,
    pub now: Timestamp,
}

/// UIDs that the status notes as ended but has not made numbers of.
#[derive(Debug, Default)]
pub struct Uncounted {
    pub succeeded: BTreeSet<String>,
    pub failed: BTreeSet<String>,
}

/// What a Job whose pods have indexes knows beside.
#[derive(Debug)]
pub struct Indexed {
    pub completions: i32,
    /// As the status has it.
    pub counted: Indexes,
    pub succeeded: Indexes,
    /// Indexes that are not tried again; only with `backoffLimitPerIndex`.
    pub failed: Option<Indexes>,
    /// The failed pod of each index that waits for its replacement, which is to carry its failures on.
    pub waiting: BTreeMap<i32, Arc<Pod>>,
}

impl<'a> State<'a> {
    pub fn new(job: &'a Job, mut pods: Vec<Arc<Pod>>, now: Timestamp) -> State<'a> {
        let spec = job.spec_or_default();
        let old = job.status.clone().unwrap_or_default();
        pods.sort_by_key(|pod| (pods::index(pod), pod.name_any()));
        let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| workload::is_active(pod)).cloned().collect();
        let noted = old.uncounted_terminated_pods.clone().unwrap_or_default();
        let set = |uids: Option<Vec<String>>| uids.into_iter().flatten().collect();
        let uncounted = Uncounted { succeeded: set(noted.succeeded), failed: set(noted.failed) };
        let mut state = State {
            ready: count(active.iter().filter(|pod| membership::is_ready(pod))),
            terminating: count(pods.iter().filter(|pod| pods::is_leaving(pod))),
            succeeded: old.succeeded.unwrap_or(0),
            failed: old.failed.unwrap_or(0),
            indexed: None,
            job,
            spec,
            old,
            pods,
            active,
            uncounted,
            now,
        };
        if spec.completion_mode.as_deref() == Some("Indexed") {
            state.indexed = Some(index(&state, spec.completions.unwrap_or(0)));
        }
        state.succeeded = state.all_succeeded();
        state.failed += count(&state.uncounted.failed) + count(state.newly_failed().filter(|pod| state.counts(pod)));
        state
    }

    /// Whether a pod is one of those that the Job can have: with indexes, only those below `completions`.
    pub fn is_valid(&self, pod: &Pod) -> bool {
        self.spec.completion_mode.as_deref() != Some("Indexed")
            || pods::index(pod).is_some_and(|index| index < self.spec.completions.unwrap_or(0))
    }

    pub fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    pub fn is_going(&self) -> bool {
        self.job.metadata.deletion_timestamp.is_some()
    }

    pub fn has_limit_per_index(&self) -> bool {
        self.spec.backoff_limit_per_index.is_some() && self.indexed.is_some()
    }

    fn all_succeeded(&self) -> i32 {
        if let Some(indexed) = &self.indexed {
            return indexed.succeeded.total();
        }
        let fresh = self.pods.iter().filter(|pod| pods::is_tracked(pod) && pods::has_succeeded(pod));
        let fresh = fresh.filter(|pod| !self.uncounted.succeeded.contains(uid(pod)));
        self.succeeded + count(&self.uncounted.succeeded) + count(fresh)
    }

    fn newly_failed(&self) -> impl Iterator<Item = &Arc<Pod>> {
        let fresh = self.pods.iter().filter(|pod| pods::is_tracked(pod) && self.is_valid(pod));
        fresh.filter(|pod| pods::has_failed(pod, self.spec) && !self.uncounted.failed.contains(uid(pod)))
    }

    /// Whether the failure of a pod counts towards the limits.
    pub fn counts(&self, pod: &Pod) -> bool {
        policy::verdict(self.spec.pod_failure_policy.as_ref(), pod).counts()
    }
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub fn count<T>(items: impl IntoIterator<Item = T>) -> i32 {
    i32::try_from(items.into_iter().count()).unwrap_or(i32::MAX)
}

fn index(state: &State<'_>, completions: i32) -> Indexed {
    let counted = Indexes::parse(state.old.completed_indexes.as_deref().unwrap_or_default(), completions);
    let valid = || state.pods.iter().filter(|pod| state.is_valid(pod));
    let done = valid().filter(|pod| pods::is_tracked(pod) && pods::has_succeeded(pod));
    let succeeded = counted.with(&done.filter_map(|pod| pods::index(pod)).collect());
    let mut indexed = Indexed { completions, counted, succeeded, failed: None, waiting: BTreeMap::new() };
    let Some(limit) = state.spec.backoff_limit_per_index else { return indexed };
    let known = Indexes::parse(state.old.failed_indexes.as_deref().unwrap_or_default(), completions);
    let given_up = |pod: &&Arc<Pod>| match policy::verdict(state.spec.pod_failure_policy.as_ref(), pod) {
        Verdict::FailIndex => true,
        Verdict::Count | Verdict::FailJob(_) => pods::earlier_failures(pod) >= limit,
        Verdict::Ignore => false,
    };
    let failed = || valid().filter(|pod| pods::is_tracked(pod) && pods::has_failed(pod, state.spec));
    let lost = known.with(&failed().filter(given_up).filter_map(|pod| pods::index(pod)).collect());
    let busy: BTreeSet<i32> = state.active.iter().filter_map(|pod| pods::index(pod)).collect();
    for pod in failed() {
        let Some(index) = pods::index(pod) else { continue };
        if indexed.succeeded.contains(index) || lost.contains(index) || busy.contains(&index) {
            continue;
        }
        let key = |pod: &Pod| (pods::all_earlier_failures(pod), pods::ended(pod));
        if indexed.waiting.get(&index).is_none_or(|other| key(other) <= key(pod)) {
            indexed.waiting.insert(index, Arc::clone(pod));
        }
    }
    indexed.failed = Some(lost);
    indexed
}
