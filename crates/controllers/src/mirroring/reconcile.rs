//! Wakes on Endpoints, Services and mirroring slices; reads the views; decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Key;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use tokio::task::JoinHandle;

use super::decide::{MANAGED_BY, Observed, decide};
use crate::Error;
use crate::mechanism::{Controller, Decision, Drive, Informer, Informers, Queue, Write, drive};
use crate::slices::{MANAGED_BY_LABEL, SERVICE_NAME_LABEL};

#[derive(Debug)]
pub struct Mirroring {
    services: Arc<Informer<Service>>,
    endpoints: Arc<Informer<Endpoints>>,
    slices: Arc<Informer<EndpointSlice>>,
}

pub fn start(with: &Drive) -> JoinHandle<()> {
    let (controller, queue) = Mirroring::new(&with.informers);
    tokio::spawn(drive(Arc::new(controller), queue, with.clone()))
}

impl Mirroring {
    pub fn new(informers: &Informers) -> (Self, Queue<Key>) {
        let queue = Queue::default();
        let made = Mirroring { services: informers.of(), endpoints: informers.of(), slices: informers.of() };
        let wake = queue.clone();
        made.endpoints.subscribe(move |old, new| {
            if let Some(endpoints) = new.or(old) {
                wake.add(Key::of(endpoints.as_ref()));
            }
        });
        let wake = queue.clone();
        made.services.subscribe(move |old, new| {
            if let Some(service) = new.or(old) {
                wake.add(Key::of(service.as_ref()));
            }
        });
        let wake = queue.clone();
        made.slices.subscribe(move |old, new| {
            for slice in old.into_iter().chain(new) {
                let ours = slice.labels().get(MANAGED_BY_LABEL).is_some_and(|by| by == MANAGED_BY);
                if let Some(name) = slice.labels().get(SERVICE_NAME_LABEL).filter(|_| ours) {
                    wake.add(Key::new(slice.namespace().unwrap_or_default(), name));
                }
            }
        });
        (made, queue)
    }

    pub fn decide(&self, key: &Key) -> Vec<Write> {
        let found_by = BTreeMap::from([
            (SERVICE_NAME_LABEL.to_owned(), key.name.clone()),
            (MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned()),
        ]);
        let slices = self.slices.labelled(&key.namespace, &found_by);
        let (endpoints, service) = (self.endpoints.get(key), self.services.get(key));
        decide(&Observed { endpoints: endpoints.as_deref(), service: service.as_deref(), slices: &slices })
    }
}

impl Controller for Mirroring {
    type Key = Key;

    fn name(&self) -> &'static str {
        "endpoint-slice-mirroring-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        Ok(self.decide(key).into())
    }
}
