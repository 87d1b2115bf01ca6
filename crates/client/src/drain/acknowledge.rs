//! acknowledge: what a proxy, a DNS server, an ingress or a load balancer says about itself.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{ACKNOWLEDGES, APPLIED, FOLLOWS, NAMESPACE, WAITS, asked, of_role, role};
use crate::Watched;

/// A write that failed is tried again after this: whoever waits does so for two seconds at most.
const AGAIN: Duration = Duration::from_millis(200);
/// One that was refused, after this: rights come by a person's hand.
const REFUSED: Duration = Duration::from_secs(30);
/// For the last word.
const FAREWELL: Duration = Duration::from_secs(1);
/// An agent of ours has written its Lease by then; without one, pods end as everywhere else.
const EXPECTED: Duration = Duration::from_secs(30);
const RIGHTS: &str = "allow list, watch, create, patch and delete of leases in kube-system, or switch it off with `--acknowledge-as off`";

/// Who acknowledges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledger {
    /// Unique in the cluster and part of a Lease's name, such as `proxy-node-1`.
    pub name: String,
    /// The label selector of its watch of EndpointSlices, empty for all of them.
    pub follows: String,
    /// The node that it serves, if it serves one: the Lease goes with it.
    pub node: Option<String>,
    pub end: End,
}

/// What its end in order means to those who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its rules stay in force, and so does its Lease: whoever waits must know that nothing changes any more.
    RulesStay,
    /// It sends to nobody any more: its Lease goes with it.
    Silence,
}

/// Publishes, until `shutdown`, what `applied` says whenever somebody waits for it; `revision` reads it, and 0 is nothing yet.
///
/// The Lease of one whose rules stay remains when this ends: while its holder restarts, they are in force. An agent that has waited in vain
/// once waits for it no more until it writes again. Where Leases cannot be read or written, that is said, and nobody waits.
pub async fn acknowledge<T>(
    who: Acknowledger,
    client: Client,
    applied: watch::Receiver<T>,
    revision: fn(&T) -> u64,
    shutdown: CancellationToken,
) {
    let api: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let waiting = Watched::start(api, of_role(WAITS), shutdown.clone());
    let mut speaker = Speaker { who, client, published: None, owner: None, refused: false };
    shutdown.run_until_cancelled(speaker.speak(waiting, applied, revision)).await;
    if speaker.who.end == End::Silence {
        shutdown.cancelled().await;
        // The API server may be gone as well; then it is waited for once.
        let _ = tokio::time::timeout(FAREWELL, speaker.withdraw()).await;
    }
}

struct Speaker {
    who: Acknowledger,
    client: Client,
    published: Option<u64>,
    /// The node that the Lease goes with, once that is known.
    owner: Option<OwnerReference>,
    /// The last write was refused, and that was said.
    refused: bool,
}

impl Speaker {
    async fn speak<T>(&mut self, waiting: Watched<Lease>, mut applied: watch::Receiver<T>, revision: fn(&T) -> u64) {
        let mut asks = waiting.changes();
        let expected = tokio::time::sleep(EXPECTED);
        tokio::pin!(expected);
        let mut looked = false;
        loop {
            let now = revision(&applied.borrow_and_update());
            let wanted = waiting.list().iter().map(|lease| asked(lease, &self.who.follows)).max().unwrap_or(0);
            let mut again = None;
            // Who cannot hear what is asked for gives nobody its name to wait for.
            if now > 0 && waiting.is_synced() && self.is_news(now, wanted) {
                again = self.publish(now).await.err();
            }
            tokio::select! {
                changed = applied.changed(), if again != Some(REFUSED) => if changed.is_err() { return },
                change = asks.recv(), if again != Some(REFUSED) => if change.is_none() { return },
                () = tokio::time::sleep(again.unwrap_or(AGAIN)), if again.is_some() => {}
                () = &mut expected, if !looked => {
                    looked = true;
                    self.tell_who_is_missing(&waiting);
                }
            }
            // What came besides is seen at the next look.
            while asks.try_recv().is_ok() {}
        }
    }

    fn tell_who_is_missing(&self, waiting: &Watched<Lease>) {
        let name = &self.who.name;
        if !waiting.is_synced() {
            warn!(%name, hint = RIGHTS, "cannot see who waits for acknowledgements: pods end without a drain");
        } else if waiting.is_empty() {
            info!(%name, "no node agent of this cluster waits for acknowledgements: pods end without a drain");
        }
    }

    /// Whether someone waits for what has been reached and not been said. The first word is said unasked: it is the name to wait for.
    fn is_news(&self, applied: u64, wanted: u64) -> bool {
        self.published.is_none_or(|published| wanted > published && applied >= wanted)
    }

    /// Says it; an error is how long to wait before the next attempt.
    async fn publish(&mut self, applied: u64) -> Result<(), Duration> {
        if self.owner.is_none() {
            // The proxy of a new node may be there before its Node is.
            self.owner = self.find_owner().await;
        }
        let name = &self.who.name;
        let manager = format!("portolan-{name}");
        let lease = Patch::Apply(self.lease(applied));
        match self.leases().patch(&self.lease_name(), &PatchParams::apply(&manager).force(), &lease).await {
            Ok(_) => {
                debug!(%name, revision = applied, "acknowledged");
                self.published = Some(applied);
                self.refused = false;
                Ok(())
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 400..=404 | 422) => {
                if !self.refused {
                    warn!(%name, error = %status, hint = RIGHTS, "cannot acknowledge: pods end without waiting for us");
                }
                self.refused = true;
                Err(REFUSED)
            }
            Err(error) => {
                debug!(%name, %error, "cannot acknowledge");
                Err(AGAIN)
            }
        }
    }

    async fn withdraw(&self) {
        if self.published.is_some()
            && let Err(error) = self.leases().delete(&self.lease_name(), &DeleteParams::default()).await
        {
            debug!(name = %self.who.name, %error, "cannot take back what was acknowledged");
        }
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    fn lease_name(&self) -> String {
        format!("drain-{}", self.who.name)
    }

    fn lease(&self, applied: u64) -> Lease {
        let annotations = [(APPLIED, applied.to_string()), (FOLLOWS, self.who.follows.clone())];
        Lease {
            metadata: ObjectMeta {
                name: Some(self.lease_name()),
                namespace: Some(NAMESPACE.to_owned()),
                labels: Some(role(ACKNOWLEDGES)),
                annotations: Some(annotations.map(|(name, value)| (name.to_owned(), value)).into()),
                owner_references: self.owner.clone().map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.who.name.clone()),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        }
    }

    async fn find_owner(&self) -> Option<OwnerReference> {
        let name = self.who.node.as_deref()?;
        let node = Api::<Node>::all(self.client.clone()).get_opt(name).await.ok()??;
        Some(OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: name.to_owned(),
            uid: node.uid()?,
            ..OwnerReference::default()
        })
    }
}
