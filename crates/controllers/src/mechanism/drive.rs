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

/// How many keys of one controller are at work at once.
const WORKERS: usize = 16;

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
    let workers = Arc::new(Semaphore::new(WORKERS));
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
