//! Following the config maps and secrets that a pod's volumes are made of, one watch an object, so that a change is there at once.
//!
//! Only objects that the pod names are watched: that is all that a node may read on a real cluster. The cluster's own certificates, which are
//! in every pod and hardly ever change, are left to the periodic refresh.

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::Api;
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{Note, Worker};
use crate::model::Volumes;
use crate::references;

/// In every pod.
const LEFT_TO_REFRESH: [&str; 2] = ["kube-root-ca.crt", "openshift-service-ca.crt"];

impl Worker {
    /// Begins to follow what the volumes are made of, once they are mounted.
    pub(super) fn follow_maps(&mut self) {
        if self.state.volumes != Volumes::Mounted || self.follows.is_some() {
            return;
        }
        let (config_maps, secrets) = references::of_volumes(&self.pod);
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or("default");
        let client = &self.node.client;
        let watched = |name: &&String| !LEFT_TO_REFRESH.contains(&name.as_str());
        let mut follows = Vec::new();
        for name in config_maps.iter().filter(watched) {
            follows.push(follow::<ConfigMap>(client, namespace, name, &self.to_self));
        }
        for name in secrets.iter().filter(watched) {
            follows.push(follow::<Secret>(client, namespace, name, &self.to_self));
        }
        self.follows = Some(follows);
    }
}

fn follow<K: Resource<DynamicType = ()>>(
    client: &Client,
    namespace: &str,
    name: &str,
    worker: &mpsc::UnboundedSender<Note>,
) -> AbortOnDropHandle<()> {
    // That something changed is enough; whoever mounts reads what.
    let kind = ApiResource::erase::<K>(&());
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::namespaced_with(client.clone(), namespace, &kind);
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let worker = worker.clone();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut events = watcher::watcher(api, only).default_backoff().boxed();
        while let Some(event) = events.next().await {
            let news = matches!(event, Ok(Event::Apply(_) | Event::Delete(_) | Event::InitDone));
            if news && worker.send(Note::MapsChanged).is_err() {
                return;
            }
        }
    }))
}
