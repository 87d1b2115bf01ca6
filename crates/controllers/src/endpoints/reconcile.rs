//! Wakes on Services, pods and Endpoints; reads the views; decides.

use std::sync::Arc;

use client::Key;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use kube::ResourceExt;
use tokio::task::JoinHandle;

use super::decide::{MANAGED_BY, MANAGED_BY_LABEL, Observed, decide};
use crate::mechanism::{Controller, Decision, Drive, Informer, Informers, Queue, Write, drive};
use crate::{Error, membership};

#[derive(Debug)]
pub struct EndpointsController {
    services: Arc<Informer<Service>>,
    pods: Arc<Informer<Pod>>,
    endpoints: Arc<Informer<Endpoints>>,
}

pub fn start(with: &Drive) -> JoinHandle<()> {
    let (controller, queue) = EndpointsController::new(&with.informers);
    tokio::spawn(drive(Arc::new(controller), queue, with.clone()))
}

impl EndpointsController {
    pub fn new(informers: &Informers) -> (Self, Queue<Key>) {
        let queue = Queue::default();
        let made = EndpointsController { services: informers.of(), pods: informers.of(), endpoints: informers.of() };
        membership::follow(&made.services, &made.pods, &queue);
        let wake = queue.clone();
        made.endpoints.subscribe(move |old, new| {
            for endpoints in old.into_iter().chain(new) {
                wake.add(Key::of(endpoints.as_ref()));
            }
        });
        (made, queue)
    }

    pub fn decide(&self, key: &Key) -> Option<Write> {
        let endpoints = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            // Endpoints without a Service and without our mark are someone's own (a leader election of old, say).
            let left = endpoints.filter(|old| old.labels().get(MANAGED_BY_LABEL).is_some_and(|by| by == MANAGED_BY));
            return left.map(|old| Write::delete(old.as_ref()));
        };
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
        let pods = if selector.is_empty() { Vec::new() } else { self.pods.labelled(&key.namespace, &selector) };
        decide(&Observed { service: &service, pods: &pods, endpoints: endpoints.as_deref() })
    }
}

impl Controller for EndpointsController {
    type Key = Key;

    fn name(&self) -> &'static str {
        "endpoint-controller"
    }

    /// Nobody waits for these as proxies and pods that end wait for slices, whose writes are not to stand behind them.
    fn workers(&self) -> usize {
        8
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        Ok(self.decide(key).into_iter().collect::<Vec<_>>().into())
    }
}
