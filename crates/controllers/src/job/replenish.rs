//! How many pods of a Job should run now, which are too many, and the new ones.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use client::events::Draft;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::state::State;
use super::{backoff, pods};
use crate::mechanism::Write;
use crate::{names, workload};

/// How many pods are made or deleted in one go.
const BURST: usize = 500;

/// What is done about the number of pods.
#[derive(Debug, Default)]
pub struct Step {
    pub release: Vec<Write>,
    pub deletes: Vec<Write>,
    pub creates: Vec<Write>,
    pub events: Vec<Draft>,
    pub again: Option<Duration>,
}

/// Decides about the active pods of a Job that goes on.
pub fn decide(state: &State<'_>, is_taken: &dyn Fn(&str) -> bool) -> Step {
    let active = state.active.len();
    if state.is_suspended() {
        return remove(state, surplus(state, active));
    }
    // Those that were let go and, because something came between, not deleted: how they end would not be counted.
    let strays: Vec<Arc<Pod>> = state.active.iter().filter(|pod| !pods::is_tracked(pod)).cloned().collect();
    if !strays.is_empty() {
        return remove(state, strays);
    }
    let wanted = wanted(state);
    let too_many = surplus(state, active.saturating_sub(wanted));
    if !too_many.is_empty() {
        return remove(state, too_many);
    }
    let leaving =
        if pods::replaces_only_failed(state.spec) { usize::try_from(state.terminating).unwrap_or(0) } else { 0 };
    match wanted.saturating_sub(active + leaving) {
        0 => Step::default(),
        missing => make(state, missing.min(BURST), is_taken),
    }
}

fn wanted(state: &State<'_>) -> usize {
    let parallel = state.spec.parallelism.unwrap_or(1);
    let wanted = match state.spec.completions {
        // As soon as one worker found the queue empty, the others only finish what they have.
        None if state.succeeded > 0 => return state.active.len(),
        None => parallel,
        Some(completions) => (completions - state.succeeded).min(parallel),
    };
    usize::try_from(wanted).unwrap_or(0)
}

/// At least `count` active pods that are too many: doubles of an index first, then those that are missed least.
fn surplus(state: &State<'_>, count: usize) -> Vec<Arc<Pod>> {
    let mut ranked = state.active.clone();
    workload::rank_for_deletion(&mut ranked);
    let Some(indexed) = &state.indexed else {
        ranked.truncate(count.min(BURST));
        return ranked;
    };
    let (mut seen, mut doubles, mut rest) = (BTreeSet::new(), Vec::new(), Vec::new());
    // From the most missed on: the first of an index stays.
    for pod in ranked.into_iter().rev() {
        let index = pods::index(&pod).filter(|index| *index < indexed.completions);
        if index.is_some_and(|index| seen.insert(index)) { rest.push(pod) } else { doubles.push(pod) }
    }
    let more = count.saturating_sub(doubles.len());
    doubles.extend(rest.into_iter().rev().take(more));
    doubles.truncate(BURST);
    doubles
}

/// Pods that are deleted because they are too many are not counted as failed: they are let go first.
fn remove(state: &State<'_>, surplus: Vec<Arc<Pod>>) -> Step {
    let mut step = Step::default();
    for pod in surplus {
        if pods::is_tracked(&pod) {
            step.release.push(pods::release(&pod));
        }
        step.deletes.push(Write::delete(pod.as_ref()));
        step.events.push(pods::deleted(state.job, &pod));
    }
    step
}

fn make(state: &State<'_>, missing: usize, is_taken: &dyn Fn(&str) -> bool) -> Step {
    let mut step = Step::default();
    if !state.has_limit_per_index() {
        step.again = backoff::left(state);
        if step.again.is_some() {
            return step;
        }
    }
    let places: Vec<Option<i32>> = match pending(state, missing) {
        Some(indexes) => {
            let waiting = |index: &i32| state.indexed.as_ref().and_then(|indexed| indexed.waiting.get(index));
            let left = |index: &i32| backoff::left_for(waiting(index), state.now);
            step.again = indexes.iter().filter_map(left).min();
            indexes.into_iter().filter(|index| left(index).is_none()).map(Some).collect()
        }
        None => vec![None; missing],
    };
    let newest = state.pods.iter().filter_map(|pod| pod.resource_version()?.parse::<u64>().ok()).max().unwrap_or(0);
    let mut used = BTreeSet::new();
    for (ordinal, index) in places.into_iter().enumerate() {
        let name = name(state, index, (newest, ordinal), &|name| is_taken(name) || used.contains(name));
        used.insert(name.clone());
        let replaced = index.and_then(|index| state.indexed.as_ref()?.waiting.get(&index));
        step.events.push(pods::created(state.job, &name));
        step.creates.push(Write::create(&pods::make(state.job, name, index, replaced)));
    }
    step
}

/// The lowest indexes that nobody works at or has finished; none for a Job without indexes.
fn pending(state: &State<'_>, count: usize) -> Option<Vec<i32>> {
    let indexed = state.indexed.as_ref()?;
    let mut busy: BTreeSet<i32> = state.active.iter().filter_map(|pod| pods::index(pod)).collect();
    if pods::replaces_only_failed(state.spec) {
        busy.extend(state.pods.iter().filter(|pod| pods::is_leaving(pod)).filter_map(|pod| pods::index(pod)));
    }
    let mut taken = indexed.succeeded.with(&busy);
    if let Some(failed) = &indexed.failed {
        taken = taken.and(failed);
    }
    Some(taken.missing(indexed.completions).take(count).collect())
}

/// A name that follows from the facts: deciding twice on the same facts meets the name taken, and no pod too many comes about.
fn name(
    state: &State<'_>,
    index: Option<i32>,
    (newest, ordinal): (u64, usize),
    is_taken: &dyn Fn(&str) -> bool,
) -> String {
    let (meta, prefix) = (&state.job.metadata, pods::prefix(state.job, index));
    let mut attempt = 0_u64;
    loop {
        let mut hasher = names::Fnv::default();
        (&meta.uid, &meta.resource_version, newest, ordinal, index, attempt).hash(&mut hasher);
        let name = format!("{prefix}{}", names::suffix(hasher.finish()));
        if !is_taken(&name) {
            return name;
        }
        attempt += 1;
    }
}
