//! One of many: whoever holds a Lease works, the others wait until it is free (`coordination.k8s.io`, as client-go's leader election).
//!
//! Whether another's Lease has run out is told by our own clock, from the moment on at which we saw it change: clocks of machines may
//! differ. A holder that cannot renew stops working before another may begin.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Who stands for what.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The Lease's namespace and name, such as `kube-system` and `kube-scheduler`.
    pub namespace: String,
    pub lease: String,
    /// Ours alone, among all that ever stand.
    pub identity: String,
    /// For how long a Lease holds that is not renewed.
    pub duration: Duration,
    /// A holder that could not renew for so long gives up; less than `duration`.
    pub deadline: Duration,
    /// How often a holder renews, and a candidate looks.
    pub retry: Duration,
}

impl Candidate {
    /// Upstream's times: 15, 10 and 2 seconds.
    pub fn new(lease: &str, identity: String) -> Candidate {
        Candidate {
            namespace: "kube-system".to_owned(),
            lease: lease.to_owned(),
            identity,
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }

    /// An identity as upstream makes it: the host's name and something that no other process has.
    pub fn unique_identity() -> String {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let unique = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
        format!("{}_{}", host.trim(), unique.trim())
    }
}

/// Works whenever we hold the Lease, until shutdown or until the work ends by itself. `work` is to end when its token says so.
pub async fn lead<F, W>(client: Client, candidate: Candidate, shutdown: CancellationToken, work: F)
where
    F: Fn(CancellationToken) -> W,
    W: Future<Output = ()> + Send + 'static,
{
    let mut race = Race { api: Api::namespaced(client, &candidate.namespace), candidate, seen: None };
    while shutdown.run_until_cancelled(race.win()).await.is_some() {
        info!(lease = %race.candidate.lease, identity = %race.candidate.identity, "leads");
        let term = shutdown.child_token();
        let mut working = tokio::spawn(work(term.clone()));
        tokio::select! {
            () = race.hold() => warn!(lease = %race.candidate.lease, "leads no more"),
            () = shutdown.cancelled() => {}
            _ = &mut working => return race.release().await,
        }
        term.cancel();
        // A panic in the work ends it as well.
        let _ = working.await;
        if shutdown.is_cancelled() {
            return race.release().await;
        }
    }
}

struct Race {
    api: Api<Lease>,
    candidate: Candidate,
    /// The Lease as last seen, and when it was first seen so.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Race {
    /// Waits until we hold the Lease.
    async fn win(&mut self) {
        loop {
            match self.claim().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => debug!(lease = %self.candidate.lease, %error, "cannot claim the lease"),
            }
            tokio::time::sleep(self.candidate.retry).await;
        }
    }

    /// Renews until that fails for too long, or another holds the Lease.
    async fn hold(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.candidate.retry).await;
            let left = self.candidate.deadline.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.claim()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(error)) => debug!(lease = %self.candidate.lease, %error, "cannot renew the lease"),
            }
        }
    }

    /// Takes or renews the Lease if we may. False when another holds it.
    async fn claim(&mut self) -> kube::Result<bool> {
        let post = PostParams::default();
        let Some(mut lease) = self.api.get_opt(&self.candidate.lease).await? else {
            let spec = self.claimed(&LeaseSpec::default());
            let metadata = ObjectMeta { name: Some(self.candidate.lease.clone()), ..ObjectMeta::default() };
            self.api.create(&post, &Lease { metadata, spec: Some(spec) }).await?;
            return Ok(true);
        };
        let old = lease.spec.take().unwrap_or_default();
        if !self.may_take(&old) {
            return Ok(false);
        }
        lease.spec = Some(self.claimed(&old));
        // At the revision that we saw: of two that try at once, one is refused.
        self.api.replace(&self.candidate.lease, &post, &lease).await?;
        Ok(true)
    }

    fn may_take(&mut self, lease: &LeaseSpec) -> bool {
        let since = match &self.seen {
            Some((seen, since)) if seen == lease => *since,
            Some(_) | None => {
                let now = Instant::now();
                self.seen = Some((lease.clone(), now));
                now
            }
        };
        let holder = lease.holder_identity.as_deref().unwrap_or_default();
        // The time that the holder itself said; a Lease that says none gets ours.
        let said = lease.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let allowed = said.map_or(self.candidate.duration, Duration::from_secs);
        holder.is_empty() || holder == self.candidate.identity || since.elapsed() >= allowed
    }

    fn claimed(&self, old: &LeaseSpec) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = old.holder_identity.as_deref() == Some(&self.candidate.identity);
        let seconds = i32::try_from(self.candidate.duration.as_secs()).unwrap_or(i32::MAX).max(1);
        LeaseSpec {
            holder_identity: Some(self.candidate.identity.clone()),
            lease_duration_seconds: Some(seconds),
            acquire_time: if ours { old.acquire_time.clone() } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(old.lease_transitions.map_or(0, |count| count + i32::from(!ours))),
            ..old.clone()
        }
    }

    /// Gives the Lease back, so that the next need not wait for it to run out.
    async fn release(&self) {
        let released = async {
            let Some(mut lease) = self.api.get_opt(&self.candidate.lease).await? else { return Ok(()) };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(&self.candidate.identity) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            self.api.replace(&self.candidate.lease, &PostParams::default(), &lease).await.map(drop)
        };
        let released: Result<kube::Result<()>, _> = tokio::time::timeout(self.candidate.retry, released).await;
        if !matches!(released, Ok(Ok(()))) {
            debug!(lease = %self.candidate.lease, "the lease is left to run out");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tokio::sync::mpsc;

    use super::*;

    /// An API server that holds one Lease and can be cut off.
    #[derive(Default)]
    struct Server {
        lease: Option<Value>,
        revision: u64,
        refuses: Vec<String>,
    }

    fn answer(code: u16, body: &Value) -> http::Response<Full<Bytes>> {
        http::Response::builder().status(code).body(Full::new(Bytes::from(body.to_string()))).unwrap()
    }

    fn client(server: &Arc<Mutex<Server>>, name: &'static str) -> Client {
        let server = Arc::clone(server);
        crate::in_process(tower::service_fn(move |request: http::Request<Body>| {
            let server = Arc::clone(&server);
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let mut server = server.lock().unwrap();
                let status = |code: u16, reason: &str| {
                    answer(code, &json!({"kind": "Status", "status": "Failure", "reason": reason, "code": code}))
                };
                if server.refuses.iter().any(|one| one == name) {
                    return Ok::<_, Infallible>(status(503, "ServiceUnavailable"));
                }
                let known = server.lease.clone();
                if method == http::Method::GET {
                    return Ok(known.map_or_else(|| status(404, "NotFound"), |lease| answer(200, &lease)));
                }
                let mut lease: Value = serde_json::from_slice(&body).unwrap();
                let same = known.as_ref().map(|old| &old["metadata"]["resourceVersion"]);
                if method == http::Method::POST && known.is_some()
                    || method == http::Method::PUT && same != Some(&lease["metadata"]["resourceVersion"])
                {
                    return Ok(status(409, "Conflict"));
                }
                server.revision += 1;
                lease["metadata"]["resourceVersion"] = json!(server.revision.to_string());
                server.lease = Some(lease.clone());
                Ok(answer(200, &lease))
            }
        }))
    }

    struct Runner {
        shutdown: CancellationToken,
        begun: mpsc::UnboundedReceiver<&'static str>,
        ended: mpsc::UnboundedReceiver<&'static str>,
        running: tokio::task::JoinHandle<()>,
    }

    fn stand(server: &Arc<Mutex<Server>>, name: &'static str) -> Runner {
        let shutdown = CancellationToken::new();
        let ((begin, begun), (end, ended)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let work = move |term: CancellationToken| {
            let (begin, end) = (begin.clone(), end.clone());
            async move {
                begin.send(name).unwrap();
                term.cancelled().await;
                end.send(name).unwrap();
            }
        };
        let candidate = Candidate::new("test", name.to_owned());
        let running = tokio::spawn(lead(client(server, name), candidate, shutdown.clone(), work));
        Runner { shutdown, begun, ended, running }
    }

    fn holder(server: &Arc<Mutex<Server>>) -> String {
        let lease = server.lock().unwrap().lease.clone().unwrap_or_default();
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn one_leads_and_the_next_takes_over_when_it_leaves() {
        let server = Arc::default();
        let mut first = stand(&server, "a");
        assert_eq!(first.begun.recv().await, Some("a"));
        let mut second = stand(&server, "b");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(second.begun.try_recv().is_err() && first.ended.try_recv().is_err());
        first.shutdown.cancel();
        first.running.await.unwrap();
        assert_eq!((first.ended.try_recv(), holder(&server)), (Ok("a"), String::new()));
        let left = Instant::now();
        assert_eq!(second.begun.recv().await, Some("b"));
        assert!(left.elapsed() <= Duration::from_secs(3), "a lease that was given back is not waited for");
        let lease = server.lock().unwrap().lease.clone().unwrap();
        assert_eq!(lease["spec"]["leaseTransitions"], 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_cut_off_stops_before_the_next_begins() {
        let server: Arc<Mutex<Server>> = Arc::default();
        let mut first = stand(&server, "a");
        assert_eq!(first.begun.recv().await, Some("a"));
        let mut second = stand(&server, "b");
        tokio::time::sleep(Duration::from_secs(5)).await;
        server.lock().unwrap().refuses.push("a".to_owned());
        assert_eq!(first.ended.recv().await, Some("a"));
        assert!(second.begun.try_recv().is_err());
        assert_eq!(second.begun.recv().await, Some("b"));
        server.lock().unwrap().refuses.clear();
        second.shutdown.cancel();
        assert_eq!(first.begun.recv().await, Some("a"), "it stands again");
    }
}
