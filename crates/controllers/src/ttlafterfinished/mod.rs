//! Finished Jobs go when their time to live is over.

use std::sync::Arc;
use std::time::Duration;

use client::Key;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use tokio::task::JoinHandle;

use crate::mechanism::{Controller, Decision, Drive, Informer, Queue, Write, drive};
use crate::{Error, job};

struct TtlAfterFinished {
    jobs: Arc<Informer<Job>>,
}

pub fn start(with: &Drive) -> JoinHandle<()> {
    let queue = Queue::default();
    let made = TtlAfterFinished { jobs: with.informers.of() };
    let wake = queue.clone();
    made.jobs.subscribe(move |_, new| {
        if let Some(job) = new.filter(|job| job.spec.as_ref().is_some_and(|s| s.ttl_seconds_after_finished.is_some())) {
            wake.add(Key::of(job.as_ref()));
        }
    });
    tokio::spawn(drive(Arc::new(made), queue, with.clone()))
}

impl Controller for TtlAfterFinished {
    type Key = Key;

    fn name(&self) -> &'static str {
        "ttl-after-finished-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        Ok(self.jobs.get(key).map(|job| decide(&job, Timestamp::now())).unwrap_or_default())
    }
}

fn decide(job: &Job, now: Timestamp) -> Decision {
    let ttl = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
    let (Some(ttl), Some(ended), None) = (ttl, job::finished(job), &job.metadata.deletion_timestamp) else {
        return Decision::default();
    };
    let since = ended.last_transition_time.as_ref().map_or(now, |time| time.0);
    let left = SignedDuration::from_secs(i64::from(ttl)) - now.duration_since(since);
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => Decision { again: Some(left), ..Decision::default() },
        // Its pods go first, so that none is left behind without it.
        Ok(_) | Err(_) => vec![Write::delete_last(job)].into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_finished_job_goes_when_its_time_is_over() {
        let job = |ttl: Option<i32>, ended: bool| -> Job {
            let status = if ended { "True" } else { "False" };
            let condition = json!({"type": "Complete", "status": status, "lastTransitionTime": "2026-01-02T03:04:05Z"});
            let spec = json!({"ttlSecondsAfterFinished": ttl, "template": {}});
            let object = json!({"metadata": {"name": "j", "namespace": "default", "uid": "j"}, "spec": spec,
                "status": {"conditions": [condition]}});
            serde_json::from_value(object).unwrap()
        };
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let told = |job: &Job, now: &str| {
            let decision = decide(job, at(now));
            (decision.writes.len(), decision.again.map(|left| left.as_secs()))
        };
        assert_eq!(told(&job(Some(10), true), "2026-01-02T03:04:06Z"), (0, Some(9)));
        assert_eq!(told(&job(Some(10), true), "2026-01-02T03:04:15Z"), (1, None));
        assert_eq!(told(&job(Some(0), true), "2026-01-02T03:04:05Z"), (1, None));
        assert_eq!(told(&job(None, true), "2026-01-02T03:04:15Z"), (0, None));
        assert_eq!(told(&job(Some(0), false), "2026-01-02T03:04:15Z"), (0, None));
    }
}
