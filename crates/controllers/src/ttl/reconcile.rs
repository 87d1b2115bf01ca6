//! Counts nodes; wakes on each, and on all of them when their number makes a difference.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use client::Key;
use k8s_openapi::api::core::v1::Node;
use tokio::task::JoinHandle;

use super::decide::{Size, decide};
use crate::Error;
use crate::mechanism::{Controller, Decision, Drive, Informer, Informers, Queue, drive};

struct Ttl {
    nodes: Arc<Informer<Node>>,
    size: Arc<Mutex<Size>>,
}

pub fn start(with: &Drive) -> JoinHandle<()> {
    let (controller, queue) = Ttl::new(&with.informers);
    tokio::spawn(drive(Arc::new(controller), queue, with.clone()))
}

impl Ttl {
    fn new(informers: &Informers) -> (Ttl, Queue<Key>) {
        let queue = Queue::default();
        let made = Ttl { nodes: informers.of(), size: Arc::default() };
        let (nodes, size, wake) = (Arc::clone(&made.nodes), Arc::clone(&made.size), queue.clone());
        made.nodes.subscribe(move |old, new| {
            let all = match (old, new) {
                (None, Some(_)) => lock(&size).grow(),
                (Some(_), None) => lock(&size).shrink(),
                (Some(_), Some(_)) | (None, None) => false,
            };
            let others = if all { nodes.list() } else { Vec::new() };
            for node in others.iter().chain(new) {
                wake.add(Key::of(node.as_ref()));
            }
        });
        (made, queue)
    }
}

// A poisoned lock means that a holder panicked while it counted: the count is whole.
fn lock(size: &Mutex<Size>) -> MutexGuard<'_, Size> {
    size.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Controller for Ttl {
    type Key = Key;

    fn name(&self) -> &'static str {
        "ttl-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
        let seconds = lock(&self.size).seconds();
        let write = self.nodes.get(key).and_then(|node| decide(&node, seconds));
        Ok(write.into_iter().collect::<Vec<_>>().into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::decide::TTL;
    use super::*;
    use crate::sim::Sim;

    async fn settle(sim: &mut Sim, controller: &Ttl, queue: &Queue<Key>) {
        sim.deliver_all();
        while let Some(key) = queue.try_next() {
            let decision = controller.reconcile(&key).await.unwrap();
            sim.execute(decision.writes).unwrap();
            queue.done(&key, false);
            sim.deliver_all();
        }
    }

    fn said(sim: &Sim, seconds: &str) -> usize {
        let nodes = sim.list::<Node>();
        nodes.iter().filter(|node| node.metadata.annotations.as_ref().is_some_and(|all| all[TTL] == seconds)).count()
    }

    #[tokio::test]
    async fn every_node_hears_of_a_cluster_that_grows_and_shrinks() {
        let mut sim = Sim::default();
        sim.follow::<Node>();
        let (controller, queue) = Ttl::new(&sim.informers);
        let node = |number: usize| -> Node {
            serde_json::from_value(json!({"metadata": {"name": format!("n{number}")}})).unwrap()
        };
        for number in 0..100 {
            sim.put(&node(number));
        }
        settle(&mut sim, &controller, &queue).await;
        assert_eq!(said(&sim, "0"), 100);
        sim.put(&node(100));
        settle(&mut sim, &controller, &queue).await;
        assert_eq!(said(&sim, "15"), 101);
        for number in 0..12 {
            sim.remove::<Node>(&Key::new("", format!("n{number}")));
        }
        settle(&mut sim, &controller, &queue).await;
        assert_eq!(said(&sim, "0"), 89);
        assert_eq!(sim.log.len(), 100 + 101 + 89, "each node is written once for each step");
    }
}
