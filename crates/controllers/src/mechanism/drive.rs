//! The loop of every controller: take a key, decide, write, wait until the views show it, let the key go.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use client::Client;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::informer::Informers;
use super::inventory::Inventory;
use super::queue::Queue;
use super::write::{Write, execute};
use crate::Error;
use client::events::{Draft, Recorder};

/// How many keys of one controller are at work at once, unless it says otherwise. Their writes share the store's commits, so that a pod that
/// belongs to many Services costs a slow disk hardly more than one that belongs to one.
const WORKERS: usize = 64;

/// What a controller wants done about one key.
#[derive(Debug, Default)]
pub struct Decision {
    /// In this order.
    pub writes: Vec<Write>,
    /// Told to people once the writes have succeeded.
    pub events: Vec<Draft>,
    /// The key is due again in this long even if nothing changes.
    pub again: Option<Duration>,
}

impl From<Vec<Write>> for Decision {
    fn from(writes: Vec<Write>) -> Self {
        Decision { writes, ..Decision::default() }
    }
}

/// One controller: observes through views, decides about a key.
pub trait Controller: Send + Sync + 'static {
    type Key: Ord + Clone + Debug + Display + Send + Sync + 'static;

    /// The name that is written to logs and events, as upstream calls it.
    fn name(&self) -> &'static str;

    /// Reads the views and decides. Most controllers do not wait for anything here.
    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Decision, Error>> + Send;

    /// How many keys may be at work at once.
    fn workers(&self) -> usize {
        WORKERS
    }

    /// What people are told when a write about the key was refused.
    fn refused(&self, _key: &Self::Key, _error: &Error) -> Option<Draft> {
        None
    }
}

/// What [`drive`] works with; clones share it.
#[derive(Clone)]
pub struct Drive {
    pub client: Client,
    pub informers: Arc<Informers>,
    pub inventory: Arc<Inventory>,
    pub shutdown: CancellationToken,
}

impl Debug for Drive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drive").field("informers", &self.informers).finish_non_exhaustive()
    }
}

/// Runs one controller until shutdown.
pub async fn drive<C: Controller>(controller: Arc<C>, queue: Queue<C::Key>, drive: Drive) {
    let Some(()) = drive.shutdown.run_until_cancelled(drive.informers.synced()).await else { return };
    let recorder = Recorder::start(drive.client.clone(), controller.name(), drive.shutdown.clone());
    let workers = Arc::new(Semaphore::new(controller.workers()));
    while let Some(key) = drive.shutdown.run_until_cancelled(queue.next()).await {
        let Ok(permit) = Arc::clone(&workers).acquire_owned().await else { return };
        let (controller, queue, drive) = (Arc::clone(&controller), queue.clone(), drive.clone());
        let recorder = recorder.clone();
        tokio::spawn(async move {
            let shutdown = drive.shutdown.clone();
            let work = async {
                let (written, failed) = attend(controller.as_ref(), &key, &queue, &drive, &recorder).await;
                drop(permit);
                drive.informers.shown(&written).await;
                queue.done(&key, failed);
            };
            shutdown.run_until_cancelled(work).await;
        });
    }
}

async fn attend<C: Controller>(
    controller: &C,
    key: &C::Key,
    queue: &Queue<C::Key>,
    drive: &Drive,
    recorder: &Recorder,
) -> (Vec<super::Awaited>, bool) {
    let decision = match controller.reconcile(key).await {
        Ok(decision) => decision,
        Err(error) => return (Vec::new(), log_failure(controller.name(), key, &error)),
    };
    for write in &decision.writes {
        debug!(controller = controller.name(), %key, %write, "write");
    }
    if let Some(delay) = decision.again {
        queue.add_after(key.clone(), delay);
    }
    let (written, result) = execute(&drive.client, decision.writes).await;
    match result {
        Ok(()) => {
            for event in decision.events {
                recorder.record(event);
            }
            (written, false)
        }
        Err(error) => {
            if let Some(event) = controller.refused(key, &error) {
                recorder.record(event);
            }
            (written, log_failure(controller.name(), key, &error))
        }
    }
}

fn log_failure(controller: &'static str, key: &impl Display, error: &Error) -> bool {
    if error.is_race() {
        debug!(controller, %key, %error, "the world moved on, deciding again");
    } else {
        warn!(controller, %key, error = %error.chain(), "failed, trying again");
    }
    true
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::convert::Infallible;
    use std::sync::Mutex;

    use client::Key;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::ResourceExt;
    use kube::client::Body;
    use serde_json::json;
    use tokio::sync::Barrier;

    use super::super::informer::Informer;
    use super::*;

    /// Longer than anything here takes: what never comes about is told, not waited for without an end.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Counts up the object of its key until that has `target`, and notes who was at work together and on what it was decided.
    struct Counter {
        objects: Arc<Informer<ConfigMap>>,
        target: u64,
        at_work: Mutex<BTreeSet<Key>>,
        /// By key, the counts that decisions were taken on.
        decided_on: Mutex<BTreeMap<Key, Vec<u64>>>,
    }

    fn count(object: &ConfigMap) -> u64 {
        object.data.iter().flatten().find(|(name, _)| *name == "count").and_then(|(_, text)| text.parse().ok()).unwrap()
    }

    fn object(name: &str, count: u64, revision: u64) -> ConfigMap {
        let meta = json!({"name": name, "namespace": "default", "uid": name, "resourceVersion": revision.to_string()});
        serde_json::from_value(json!({"metadata": meta, "data": {"count": count.to_string()}})).unwrap()
    }

    impl Controller for Counter {
        type Key = Key;

        fn name(&self) -> &'static str {
            "counter"
        }

        async fn reconcile(&self, key: &Key) -> Result<Decision, Error> {
            assert!(self.at_work.lock().unwrap().insert(key.clone()), "{key} is at work twice");
            tokio::task::yield_now().await;
            let seen = self.objects.get(key).map(|object| count(&object));
            self.at_work.lock().unwrap().remove(key);
            let Some(seen) = seen else { return Ok(Decision::default()) };
            self.decided_on.lock().unwrap().entry(key.clone()).or_default().push(seen);
            if seen >= self.target {
                return Ok(Decision::default());
            }
            Ok(vec![Write::replace(&object(&key.name, seen + 1, 0))].into())
        }
    }

    /// A server that holds every write until `together` of them are there, then gives each a revision. The view hears of them in that order,
    /// some time after the answer.
    fn server(together: usize, objects: Arc<Informer<ConfigMap>>) -> Client {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel::<ConfigMap>();
        let (barrier, last) = (Arc::new(Barrier::new(together)), Arc::new(Mutex::new((1000, tell))));
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (barrier, last) = (Arc::clone(&barrier), Arc::clone(&last));
            async move {
                let body = request.into_body().collect_bytes().await.unwrap();
                let mut written: ConfigMap = serde_json::from_slice(&body).unwrap();
                barrier.wait().await;
                let mut last = last.lock().unwrap();
                last.0 += 1;
                written.metadata.resource_version = Some(last.0.to_string());
                let answer = serde_json::to_vec(&written).unwrap();
                last.1.send(written).unwrap();
                Ok::<_, Infallible>(http::Response::new(Body::from(answer)))
            }
        });
        tokio::spawn(async move {
            while let Some(written) = told.recv().await {
                // The watch is behind the answers, by more for some than for others.
                for _ in 0..count(&written) * 13 % 50 {
                    tokio::task::yield_now().await;
                }
                objects.applied(Arc::new(written));
            }
        });
        client::in_process(service)
    }

    struct Run {
        counter: Arc<Counter>,
        objects: Arc<Informer<ConfigMap>>,
        queue: Queue<Key>,
        shutdown: CancellationToken,
    }

    /// Drives `keys` objects from nothing to `target`, with a server whose writes come `together`.
    fn start(keys: usize, target: u64, together: usize) -> Run {
        let informers = Arc::new(Informers::default());
        let (objects, queue) = (informers.of::<ConfigMap>(), Queue::default());
        let wake = queue.clone();
        objects.subscribe(move |_, new| new.into_iter().for_each(|object| wake.add(Key::of(object.as_ref()))));
        let at_work = Mutex::default();
        let counter =
            Arc::new(Counter { objects: Arc::clone(&objects), target, at_work, decided_on: Mutex::default() });
        let (shutdown, inventory) = (CancellationToken::new(), Arc::default());
        let client = server(together, Arc::clone(&objects));
        (0..keys).for_each(|number| objects.applied(Arc::new(object(&format!("o{number}"), 0, 1))));
        objects.mark_synced();
        let with = Drive { client, informers, inventory, shutdown: shutdown.clone() };
        tokio::spawn(drive(Arc::clone(&counter), queue.clone(), with));
        Run { counter, objects, queue, shutdown }
    }

    impl Run {
        /// Waits until all objects have reached the target, and wakes keys at random meanwhile.
        async fn done(&self) {
            let reached = async {
                let mut number = 0;
                while self.objects.list().iter().any(|object| count(object) < self.counter.target) {
                    let all = self.objects.list();
                    self.queue.add(Key::of(all[number % all.len()].as_ref()));
                    number += 7;
                    tokio::task::yield_now().await;
                }
            };
            let reached = tokio::time::timeout(PATIENCE, reached).await;
            self.shutdown.cancel();
            let counts: Vec<String> =
                self.objects.list().iter().map(|object| format!("{}={}", object.name_any(), count(object))).collect();
            assert!(reached.is_ok(), "the writes of different keys wait for each other: {}", counts.join(" "));
        }
    }

    /// A pod that belongs to many Services is as many keys: their writes are on their way together.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn different_keys_are_written_at_the_same_time() {
        start(WORKERS, 1, WORKERS).done().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_key_is_never_at_work_twice_nor_decided_on_what_its_own_write_has_changed() {
        let run = start(2 * WORKERS, 20, 1);
        run.done().await;
        for (key, seen) in run.counter.decided_on.lock().unwrap().iter() {
            let mut rising = seen.clone();
            rising.dedup();
            let expected: Vec<u64> = (0..=rising.last().copied().unwrap()).collect();
            assert_eq!(rising, expected, "{key} went back or left something out");
            // What was seen before the last write is seen once: afterwards it is out of date.
            let writes = seen.iter().filter(|count| **count < run.counter.target).count();
            assert_eq!(writes, 20, "{key} was written twice from the same state: {seen:?}");
        }
    }
}
