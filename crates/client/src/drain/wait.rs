//! wait: what a node agent does before it ends a pod.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::patience::Patience;
use super::{ACKNOWLEDGES, NAMESPACE, Said, WAITING_FOR, WAITS, of_role, role};
use crate::Watched;

const AGAIN: Duration = Duration::from_millis(200);

/// A slice from which an endpoint has gone, or in which it is marked as going, at that revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceAt {
    pub labels: BTreeMap<String, String>,
    pub revision: u64,
}

/// Who had not acknowledged when the time was over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Late {
    pub names: Vec<String>,
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names.join(", "))
    }
}

type Asks = BTreeMap<String, u64>;

/// Waits for acknowledgements, for all pods of one node. Clones share it.
#[derive(Clone)]
pub struct Drains {
    said: Watched<Lease>,
    asks: watch::Sender<Asks>,
    /// Who was late, and the version of its Lease then: until that changes it is not waited for again.
    late: Arc<Mutex<BTreeMap<String, String>>>,
}

impl fmt::Debug for Drains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drains").field("asks", &*self.asks.borrow()).finish_non_exhaustive()
    }
}

impl Drains {
    /// Starts to listen; writes the node's Lease once, so that everyone knows that somebody may wait here.
    pub fn start(client: Client, node: &str, shutdown: &CancellationToken) -> Drains {
        let api: Api<Lease> = Api::namespaced(client, NAMESPACE);
        let said = Watched::start(api.clone(), of_role(ACKNOWLEDGES), shutdown.clone());
        let (asks, asked) = watch::channel(Asks::new());
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(ask(api, node.to_owned(), asked)));
        Drains { said, asks, late: Arc::default() }
    }

    /// Waits until everyone who follows one of the slices has applied it as it was then. With nobody there it returns at once.
    ///
    /// # Errors
    /// Who had not when the patience was over. It is taken for gone, and not waited for again until it is heard of.
    pub async fn passed(&self, slices: &[SliceAt], patience: &Patience) -> Result<(), Late> {
        let mut changes = self.said.changes();
        if patience.wait(self.said.synced()).await.is_none() {
            return Err(Late { names: vec!["the API server".to_owned()] });
        }
        loop {
            let missing = self.missing(slices);
            if missing.is_empty() {
                return Ok(());
            }
            self.ask(&missing);
            match patience.wait(changes.recv()).await {
                Some(Some(_)) => while changes.try_recv().is_ok() {},
                // Nobody follows the Leases any more: we are shutting down, and end nothing.
                Some(None) => std::future::pending().await,
                None => return Err(self.give_up(self.missing(slices))),
            }
        }
    }

    /// Who has still to reach which revision.
    fn missing(&self, slices: &[SliceAt]) -> Vec<(Said, u64)> {
        let late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.said.list().into_iter().filter_map(|lease| Said::read(&lease));
        let heard_of = all.filter(|said| late.get(&said.name) != Some(&said.version));
        heard_of
            .filter_map(|said| said.needs(slices).map(|needs| (said, needs)))
            .filter(|(s, needs)| s.applied < *needs)
            .collect()
    }

    fn ask(&self, missing: &[(Said, u64)]) {
        self.asks.send_if_modified(|asks| {
            let mut more = false;
            for (said, needs) in missing {
                let asked = asks.entry(said.follows.clone()).or_insert(0);
                more |= *needs > *asked;
                *asked = (*asked).max(*needs);
            }
            more
        });
    }

    fn give_up(&self, missing: Vec<(Said, u64)>) -> Late {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let names = missing.iter().map(|(said, _)| said.name.clone()).collect();
        late.extend(missing.into_iter().map(|(said, _)| (said.name, said.version)));
        Late { names }
    }
}

/// Writes what is asked for, together what came together.
async fn ask(api: Api<Lease>, node: String, mut asked: watch::Receiver<Asks>) {
    let name = format!("drain-wait-{node}");
    loop {
        let asks = asked.borrow_and_update().clone();
        let annotation = serde_json::to_string(&asks).unwrap_or_default();
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(NAMESPACE.to_owned()),
                labels: Some(role(WAITS)),
                annotations: Some([(WAITING_FOR.to_owned(), annotation)].into()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(node.clone()),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        };
        if let Err(error) = api.patch(&name, &PatchParams::apply("portolan-agent").force(), &Patch::Apply(&lease)).await
        {
            debug!(%node, %error, "cannot ask for acknowledgements");
            tokio::time::sleep(AGAIN).await;
            continue;
        }
        if asked.changed().await.is_err() {
            return;
        }
    }
}
