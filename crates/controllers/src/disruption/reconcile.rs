//! Wakes on budgets, pods and what keeps pods; finds out how many pods their keepers are for; decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Client, Key, Object};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use tokio::task::JoinHandle;

use super::decide::{Observed, Scale, decide};
use super::{scale, stale};
use crate::Error;
use crate::mechanism::{Controller, Decision, Drive, Informer, Informers, Queue, controller_of, drive};

#[derive(Debug)]
pub struct Budgets {
    budgets: Arc<Informer<PodDisruptionBudget>>,
    pods: Arc<Informer<Pod>>,
    sets: Arc<Informer<ReplicaSet>>,
    deployments: Arc<Informer<Deployment>>,
    stateful: Arc<Informer<StatefulSet>>,
    controllers: Arc<Informer<ReplicationController>>,
}

pub fn start(with: &Drive) -> JoinHandle<()> {
    let (budgets, queue) = Budgets::new(&with.informers);
    let budgets = Asking { budgets, client: with.client.clone() };
    let (stale, stale_queue) = Stale::new(&with.informers);
    let budgets = drive(Arc::new(budgets), queue, with.clone());
    let stale = drive(Arc::new(stale), stale_queue, with.clone());
    tokio::spawn(async move {
        tokio::join!(budgets, stale);
    })
}

impl Budgets {
    pub fn new(informers: &Informers) -> (Self, Queue<Key>) {
        let queue = Queue::default();
        let made = Budgets {
            budgets: informers.of(),
            pods: informers.of(),
            sets: informers.of(),
            deployments: informers.of(),
            stateful: informers.of(),
            controllers: informers.of(),
        };
        let wake = queue.clone();
        made.budgets.subscribe(move |_, new| {
            if let Some(budget) = new {
                wake.add(Key::of(budget.as_ref()));
            }
        });
        let (budgets, wake) = (Arc::clone(&made.budgets), queue.clone());
        made.pods.subscribe(move |old, new| {
            let Some(namespace) = old.or(new).and_then(|pod| pod.namespace()) else { return };
            for budget in budgets.in_namespace(&namespace) {
                if old.into_iter().chain(new).any(|pod| covers(&budget, pod)) {
                    wake.add(Key::of(budget.as_ref()));
                }
            }
        });
        follow_scale(&made.sets, &made.budgets, |set| set.spec.replicas, &queue);
        follow_scale(&made.deployments, &made.budgets, |one| one.spec.replicas, &queue);
        follow_scale(&made.stateful, &made.budgets, |set| set.spec.replicas, &queue);
        follow_scale(&made.controllers, &made.budgets, |one| one.spec.as_ref()?.replicas, &queue);
        (made, queue)
    }

    /// `custom` has the numbers of keepers of custom kinds, by UID.
    pub fn decide(&self, key: &Key, custom: &BTreeMap<String, i32>, now: Timestamp) -> Decision {
        let Some(budget) = self.budgets.get(key) else { return Decision::default() };
        decide(&Observed { budget: &budget, pods: self.covered(key), scale: &|pod| self.scale(pod, custom), now })
    }

    fn covered(&self, key: &Key) -> Vec<Arc<Pod>> {
        let budget = self.budgets.get(key);
        let selector = budget.as_ref().and_then(|budget| budget.spec.as_ref()?.selector.as_ref());
        selector.map(|selector| self.pods.selected(&key.namespace, selector)).unwrap_or_default()
    }

    fn scale(&self, pod: &Pod, custom: &BTreeMap<String, i32>) -> Scale {
        let Some(owner) = controller_of(pod) else { return Scale::Unmanaged };
        let key = Key::new(pod.namespace().unwrap_or_default(), &owner.name);
        let found = match owner.kind.as_str() {
            "ReplicaSet" => {
                self.sets.get(&key).filter(|set| set.metadata.uid.as_ref() == Some(&owner.uid)).and_then(|set| {
                    match controller_of(set.as_ref()).filter(|above| above.kind == "Deployment") {
                        Some(above) => {
                            let deployment = self.deployments.get(&Key::new(key.namespace.clone(), &above.name))?;
                            Some((above.uid.clone(), deployment.spec.replicas))
                        }
                        None => Some((owner.uid.clone(), set.spec.replicas)),
                    }
                })
            }
            "StatefulSet" => self.stateful.get(&key).map(|set| (owner.uid.clone(), set.spec.replicas)),
            "ReplicationController" => {
                let found = self.controllers.get(&key);
                found.map(|one| (owner.uid.clone(), one.spec.as_ref().and_then(|spec| spec.replicas)))
            }
            _ => custom.get(&owner.uid).map(|replicas| (owner.uid.clone(), Some(*replicas))),
        };
        match found {
            Some((uid, replicas)) => Scale::Of { uid, replicas: replicas.unwrap_or(1) },
            None => Scale::Unknown,
        }
    }
}

fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.clone());
    let selector = selector.and_then(|selector| Selector::try_from(selector).ok());
    selector.is_some_and(|selector| selector.matches(pod.labels()))
}

fn follow_scale<K: Object>(
    kept: &Informer<K>,
    budgets: &Arc<Informer<PodDisruptionBudget>>,
    replicas: impl Fn(&K) -> Option<i32> + Send + Sync + 'static,
    queue: &Queue<Key>,
) {
    let (budgets, wake) = (Arc::clone(budgets), queue.clone());
    kept.subscribe(move |old, new| {
        let same = old.zip(new).is_some_and(|(old, new)| replicas(old) == replicas(new));
        if let Some(namespace) = old.or(new).and_then(|one| one.namespace()).filter(|_| !same) {
            budgets.in_namespace(&namespace).iter().for_each(|budget| wake.add(Key::of(budget.as_ref())));
        }
    });
}

/// [`Budgets`], and whom to ask about keepers of custom kinds.
struct Asking {
    budgets: Budgets,
    client: Client,
}

impl Controller for Asking {
    type Key = Key;

    fn name(&self) -> &'static str {
        "controllermanager"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        let custom = scale::of_custom_kinds(&self.client, &self.budgets.covered(key)).await?;
        Ok(self.budgets.decide(key, &custom, Timestamp::now()))
    }
}

struct Stale {
    pods: Arc<Informer<Pod>>,
}

impl Stale {
    fn new(informers: &Informers) -> (Self, Queue<Key>) {
        let queue = Queue::default();
        let made = Stale { pods: informers.of() };
        let wake = queue.clone();
        made.pods.subscribe(move |_, new| {
            if let Some(pod) = new.filter(|pod| stale::is_told(pod)) {
                wake.add(Key::of(pod.as_ref()));
            }
        });
        (made, queue)
    }
}

impl Controller for Stale {
    type Key = Key;

    fn name(&self) -> &'static str {
        "controllermanager"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        Ok(self.pods.get(key).map(|pod| stale::decide(&pod, Timestamp::now())).unwrap_or_default())
    }
}
