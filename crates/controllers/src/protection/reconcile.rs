//! Wakes on claims, on volumes and on pods that go; before a claim is let go, the server itself is asked which pods there are.

use std::sync::Arc;

use client::{Client, Key};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use tokio::task::JoinHandle;

use super::decide::{CLAIM, VOLUME, claims_of, decide, is_bound, uses, waits};
use crate::Error;
use crate::mechanism::{Controller, Decision, Drive, Informer, Queue, drive};

struct Claims {
    claims: Arc<Informer<PersistentVolumeClaim>>,
    client: Client,
}

struct Volumes {
    volumes: Arc<Informer<PersistentVolume>>,
}

pub fn start_claims(with: &Drive) -> JoinHandle<()> {
    let queue = Queue::default();
    let made = Claims { claims: with.informers.of(), client: with.client.clone() };
    let wake = queue.clone();
    made.claims.subscribe(move |_, new| new.into_iter().for_each(|claim| wake.add(Key::of(claim.as_ref()))));
    let wake = queue.clone();
    with.informers.of::<Pod>().subscribe(move |old, new| {
        let (Some(pod), None) = (old, new) else { return };
        let namespace = pod.namespace().unwrap_or_default();
        claims_of(pod).for_each(|name| wake.add(Key::new(namespace.as_str(), &name)));
    });
    tokio::spawn(drive(Arc::new(made), queue, with.clone()))
}

pub fn start_volumes(with: &Drive) -> JoinHandle<()> {
    let queue = Queue::default();
    let made = Volumes { volumes: with.informers.of() };
    let wake = queue.clone();
    made.volumes.subscribe(move |_, new| new.into_iter().for_each(|volume| wake.add(Key::of(volume.as_ref()))));
    tokio::spawn(drive(Arc::new(made), queue, with.clone()))
}

impl Controller for Claims {
    type Key = Key;

    fn name(&self) -> &'static str {
        "persistentvolumeclaim-protection-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        let Some(claim) = self.claims.get(key) else { return Ok(Decision::default()) };
        if !waits(claim.as_ref(), CLAIM) {
            return Ok(decide(claim.as_ref(), CLAIM, false).into());
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let pods = api.list(&ListParams::default()).await.map_err(|source| Error::Read {
            what: format!("the pods of namespace {}", key.namespace),
            source: Box::new(source),
        })?;
        let in_use = pods.iter().any(|pod| uses(pod, &claim));
        Ok(decide(claim.as_ref(), CLAIM, in_use).into())
    }
}

impl Controller for Volumes {
    type Key = Key;

    fn name(&self) -> &'static str {
        "persistentvolume-protection-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        let Some(volume) = self.volumes.get(key) else { return Ok(Decision::default()) };
        Ok(decide(volume.as_ref(), VOLUME, is_bound(&volume)).into())
    }
}
