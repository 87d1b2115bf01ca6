//! Acknowledgements over a real API server: who is waited for, who is not, and that nobody writes while nobody waits.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use apiserver::{ApiServer, User};
use client::drain::{Acknowledger, Drains, End, NAMESPACE, Patience, Silence, SliceAt, acknowledge};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

struct Lab {
    client: Client,
    shutdown: CancellationToken,
    _server: ApiServer,
    _folder: tempfile::TempDir,
}

impl Lab {
    async fn new() -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let server = ApiServer::open(apiserver::Config::new(folder.path())).await.unwrap();
        let client = client::in_process(server.service(User::admin()));
        Lab { client, shutdown: CancellationToken::new(), _server: server, _folder: folder }
    }

    /// Someone who acknowledges what the test tells it to have applied.
    async fn acknowledger(&self, name: &str, follows: &str, applied: u64) -> watch::Sender<u64> {
        let (tell, told) = watch::channel(applied);
        let who = Acknowledger { name: name.to_owned(), follows: follows.to_owned(), node: None, end: End::RulesStay };
        tokio::spawn(acknowledge(who, self.client.clone(), told, |revision| *revision, self.shutdown.clone()));
        self.said(name, applied).await;
        tell
    }

    async fn lease(&self, name: &str) -> Option<Lease> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        api.get_opt(&format!("drain-{name}")).await.unwrap()
    }

    /// Waits until the Lease says that revision.
    async fn said(&self, name: &str, revision: u64) {
        let start = Instant::now();
        loop {
            let lease = self.lease(name).await;
            let said = lease.as_ref().and_then(|lease| lease.annotations().get("portolan.dev/applied-revision"));
            if said == Some(&revision.to_string()) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{name} never said {revision}: {lease:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn drains(&self) -> Drains {
        Drains::start(self.client.clone(), "node", &self.shutdown)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn slice(labels: &[&str], revision: u64) -> SliceAt {
    SliceAt {
        labels: labels.iter().map(|label| ((*label).to_owned(), String::new())).collect::<BTreeMap<_, _>>(),
        revision,
    }
}

fn within(time: Duration) -> Patience {
    Silence::default().patience(time, Instant::now() + time)
}

fn later() -> Patience {
    within(PATIENCE)
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_who_follows_the_slice_is_waited_for() {
    let lab = Lab::new().await;
    let proxy = lab.acknowledger("proxy", "!headless", 5).await;
    let dns = lab.acknowledger("dns", "", 5).await;
    let drains = lab.drains();
    let waiting = tokio::spawn(async move { drains.passed(&[slice(&["web"], 10)], &later()).await });
    proxy.send(10).unwrap();
    lab.said("proxy", 10).await;
    dns.send(9).unwrap();
    assert!(!waiting.is_finished(), "dns has not reached it");
    dns.send(12).unwrap();
    assert_eq!(waiting.await.unwrap(), Ok(()));
    lab.said("dns", 12).await;
    // A headless Service's slice is not the proxy's.
    let drains = lab.drains();
    dns.send(20).unwrap();
    assert_eq!(drains.passed(&[slice(&["headless"], 20)], &later()).await, Ok(()));
    lab.said("proxy", 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_writes_while_nobody_waits() {
    let lab = Lab::new().await;
    let proxy = lab.acknowledger("proxy", "", 5).await;
    let before = lab.lease("proxy").await.unwrap().resource_version();
    for revision in 6..50 {
        proxy.send(revision).unwrap();
        tokio::task::yield_now().await;
    }
    let drains = lab.drains();
    assert_eq!(drains.passed(&[slice(&["web"], 5)], &later()).await, Ok(()), "5 was said already");
    assert_eq!(lab.lease("proxy").await.unwrap().resource_version(), before);
    // One write says all that was reached meanwhile.
    assert_eq!(drains.passed(&[slice(&["web"], 30)], &later()).await, Ok(()));
    lab.said("proxy", 49).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_late_is_named_once_and_waited_for_again_when_heard_of() {
    let lab = Lab::new().await;
    let gone = lab.acknowledger("gone", "", 5).await;
    let drains = lab.drains();
    let soon = || within(Duration::from_millis(300));
    let late = drains.passed(&[slice(&["web"], 10)], &soon()).await.unwrap_err();
    assert_eq!(late.names, ["gone"]);
    assert_eq!(drains.passed(&[slice(&["web"], 11)], &later()).await, Ok(()), "it is taken for gone");
    // It comes back, sees that 10 was asked for, and says what it has.
    gone.send(10).unwrap();
    lab.said("gone", 10).await;
    gone.send(12).unwrap();
    // Until the agent has heard of it, it goes on without.
    let start = Instant::now();
    while lab.lease("gone").await.unwrap().annotations()["portolan.dev/applied-revision"] != "12" {
        assert_eq!(drains.passed(&[slice(&["web"], 12)], &later()).await, Ok(()));
        assert!(start.elapsed() < PATIENCE, "never asked again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nobody_there_nothing_is_waited_for() {
    let lab = Lab::new().await;
    assert_eq!(lab.drains().passed(&[slice(&["web"], 10)], &later()).await, Ok(()));
}
