//! Jobs: pods that run to their end, as many as asked for, each counted exactly once.
//!
//! A pod is counted by its UID: it is noted in the Job's status while its finalizer still holds it, then the finalizer goes, then the
//! note becomes a number. Whatever is interrupted in between is finished by the next decision (KEP-2307).

mod backoff;
mod count;
mod decide;
mod ending;
mod indexes;
mod orphans;
mod pods;
mod policy;
mod reconcile;
mod replenish;
mod state;
#[cfg(test)]
mod tests;

use k8s_openapi::api::batch::v1::{Job, JobCondition};
pub use reconcile::start;

/// The condition by which a Job has ended, if it has.
pub fn finished(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().find(|one| matches!(one.type_.as_str(), "Complete" | "Failed") && one.status == "True")
}
