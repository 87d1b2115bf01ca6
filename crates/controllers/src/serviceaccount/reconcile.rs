//! Wakes on namespaces and on what each should have; reads the views; decides.

use std::sync::Arc;

use client::{Key, Object};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::ResourceExt;
use tokio::task::JoinHandle;

use super::decide::{ACCOUNT, ROOT_CA, account, root};
use crate::Error;
use crate::mechanism::{Controller, Decision, Drive, Informer, Queue, drive};

struct Accounts {
    namespaces: Arc<Informer<Namespace>>,
    accounts: Arc<Informer<ServiceAccount>>,
}

struct Roots {
    namespaces: Arc<Informer<Namespace>>,
    maps: Arc<Informer<ConfigMap>>,
    certificate: String,
}

pub fn start_accounts(with: &Drive) -> JoinHandle<()> {
    let queue = Queue::default();
    let made = Accounts { namespaces: with.informers.of(), accounts: with.informers.of() };
    follow(&made.namespaces, &made.accounts, ACCOUNT, &queue);
    tokio::spawn(drive(Arc::new(made), queue, with.clone()))
}

pub fn start_roots(certificate: String, with: &Drive) -> JoinHandle<()> {
    let queue = Queue::default();
    let made = Roots { namespaces: with.informers.of(), maps: with.informers.of(), certificate };
    follow(&made.namespaces, &made.maps, ROOT_CA, &queue);
    tokio::spawn(drive(Arc::new(made), queue, with.clone()))
}

/// Wakes a namespace when it, or the object `name` in it, changes.
fn follow<K: Object>(namespaces: &Informer<Namespace>, kept: &Informer<K>, name: &'static str, queue: &Queue<Key>) {
    let wake = queue.clone();
    namespaces.subscribe(move |_, new| {
        if let Some(namespace) = new {
            wake.add(Key::of(namespace.as_ref()));
        }
    });
    let wake = queue.clone();
    kept.subscribe(move |old, new| {
        if let Some(object) = new.or(old).filter(|object| object.name_any() == name) {
            wake.add(Key::new("", object.namespace().unwrap_or_default()));
        }
    });
}

impl Controller for Accounts {
    type Key = Key;

    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(Decision::default()) };
        let present = self.accounts.get(&Key::new(&key.name, ACCOUNT));
        Ok(account(&namespace, present.as_deref()).into_iter().collect::<Vec<_>>().into())
    }
}

impl Controller for Roots {
    type Key = Key;

    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(Decision::default()) };
        let present = self.maps.get(&Key::new(&key.name, ROOT_CA));
        Ok(root(&namespace, present.as_deref(), &self.certificate).into_iter().collect::<Vec<_>>().into())
    }
}
