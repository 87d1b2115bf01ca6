//! Wakes on Services, pods, nodes and slices; reads the views; decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Key;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use tokio::task::JoinHandle;

use super::decide::{MANAGED_BY, Observed, decide};
use crate::mechanism::{Controller, Decision, Drive, Informer, Informers, Queue, Write, drive};
use crate::slices::{MANAGED_BY_LABEL, SERVICE_NAME_LABEL};
use crate::{Error, membership};

#[derive(Debug)]
pub struct EndpointSlices {
    services: Arc<Informer<Service>>,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    slices: Arc<Informer<EndpointSlice>>,
    max_endpoints: usize,
}

pub fn start(max_endpoints: usize, with: &Drive) -> JoinHandle<()> {
    let (controller, queue) = EndpointSlices::new(max_endpoints, &with.informers);
    tokio::spawn(drive(Arc::new(controller), queue, with.clone()))
}

impl EndpointSlices {
    pub fn new(max_endpoints: usize, informers: &Informers) -> (Self, Queue<Key>) {
        let queue = Queue::default();
        let made = EndpointSlices {
            services: informers.of(),
            pods: informers.of(),
            nodes: informers.of(),
            slices: informers.of(),
            max_endpoints,
        };
        membership::follow(&made.services, &made.pods, &queue);
        membership::follow_zones(&made.nodes, &made.services, &made.pods, &queue);
        let wake = queue.clone();
        made.slices.subscribe(move |old, new| {
            for key in old.into_iter().chain(new).filter_map(|slice| service_of(slice)) {
                wake.add(key);
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
        let Some(service) = self.services.get(key) else {
            return slices.iter().map(|slice| Write::delete(slice.as_ref())).collect();
        };
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
        let pods = if selector.is_empty() { Vec::new() } else { self.pods.labelled(&key.namespace, &selector) };
        let zones = self.zones_of(&pods);
        let max_endpoints = self.max_endpoints;
        decide(&Observed { service: &service, pods: &pods, zones: &zones, slices: &slices, max_endpoints })
    }

    fn zones_of(&self, pods: &[Arc<Pod>]) -> BTreeMap<String, String> {
        let mut zones = BTreeMap::new();
        for name in pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.as_ref()) {
            if !zones.contains_key(name)
                && let Some(zone) = self.nodes.get(&Key::new("", name)).and_then(|node| membership::zone(&node))
            {
                zones.insert(name.clone(), zone);
            }
        }
        zones
    }
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let ours = slice.labels().get(MANAGED_BY_LABEL).is_some_and(|by| by == MANAGED_BY);
    let name = slice.labels().get(SERVICE_NAME_LABEL).filter(|_| ours)?;
    Some(Key::new(slice.namespace().unwrap_or_default(), name))
}

impl Controller for EndpointSlices {
    type Key = Key;

    fn name(&self) -> &'static str {
        "endpoint-slice-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        Ok(self.decide(key).into())
    }
}
