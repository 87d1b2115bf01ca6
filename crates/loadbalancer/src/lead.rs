//! One allotter a cluster: whoever holds its Lease, by the clock of whoever waits for it.
//!
//! The rules are client-go's leader election: a holder that cannot renew in time stops before another may begin.

use std::time::{Duration, Instant};

use client::Client;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use tracing::{info, warn};

/// Another may take over when the Lease has stood still for so long.
const DURATION: Duration = Duration::from_secs(6);
const SECONDS: i32 = 6;
const RENEW: Duration = Duration::from_secs(2);
/// A holder that could not renew for so long has to stop.
const STOP_AFTER: Duration = Duration::from_secs(4);

/// A candidate for the lead.
#[derive(Debug)]
pub(crate) struct Lead {
    api: Api<Lease>,
    namespace: String,
    name: String,
    me: String,
    /// What the Lease was when it last changed, and when we saw that.
    seen: Option<(String, Instant)>,
}

impl Lead {
    pub fn new(client: &Client, namespace: &str, name: &str, me: &str) -> Lead {
        Lead {
            api: Api::namespaced(client.clone(), namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            me: me.to_owned(),
            seen: None,
        }
    }

    /// Waits for the lead, again and again, and runs `work` while it is ours. Never ends by itself.
    pub async fn with<F: Future<Output = ()>>(mut self, mut work: impl FnMut() -> F) {
        loop {
            while !self.acquire().await {
                tokio::time::sleep(RENEW / 2).await;
            }
            info!(lease = %self.name, "leading");
            tokio::select! {
                () = self.hold() => warn!(lease = %self.name, "the lead is lost"),
                () = work() => {}
            }
        }
    }

    /// Renews until that fails for too long.
    async fn hold(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RENEW).await;
            let left = STOP_AFTER.saturating_sub(renewed.elapsed());
            if tokio::time::timeout(left, self.acquire()).await == Ok(true) {
                renewed = Instant::now();
            } else if renewed.elapsed() >= STOP_AFTER {
                return;
            }
        }
    }

    /// Takes the Lease or renews it, if it is free, ours, or has stood still too long. Says whether it is ours now.
    async fn acquire(&mut self) -> bool {
        let found = match self.api.get_opt(&self.name).await {
            Ok(found) => found,
            Err(error) => {
                warn!(lease = %self.name, error = %telemetry::chain(&error), "cannot ask for the lead");
                return false;
            }
        };
        let Some(found) = found else {
            let written = self.api.create(&PostParams::default(), &self.lease(None)).await;
            return written.is_ok();
        };
        let version = found.resource_version().unwrap_or_default();
        let holder = found.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(known, _)| *known != version) {
            self.seen = Some((version, Instant::now()));
        }
        let stood_still = self.seen.as_ref().is_some_and(|(_, since)| since.elapsed() > DURATION);
        if holder != self.me && !holder.is_empty() && !stood_still {
            return false;
        }
        let lease = self.lease(found.resource_version());
        // A conflict means that another was quicker.
        self.api.replace(&self.name, &PostParams::default(), &lease).await.is_ok()
    }

    fn lease(&self, version: Option<String>) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: Some(SECONDS),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        }
    }
}
