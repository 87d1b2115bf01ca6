//! Workers: a thread a processor, each with its own runtime, connections and backends, sharing only the routing table and counters.
//!
//! A connection stays with its worker, so that a request neither takes a lock nor wakes another thread. New connections go to the
//! worker with the fewest.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::backend::{BackendTls, Pool};
use super::client::Door;
use super::connection;
use super::downstream::Patience;
use crate::log::AccessLog;
use crate::metrics::Metrics;
use crate::routes::{Credentials, Table, Users};

/// How often kept connections are looked through.
const SWEEP: Duration = Duration::from_secs(5);
/// Passwords that were right, remembered so that bcrypt is asked once.
const REMEMBERED: usize = 1024;

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub table: Arc<ArcSwap<Table>>,
    pub server_tls: Arc<rustls::ServerConfig>,
    pub backend_tls: BackendTls,
    pub metrics: Metrics,
    pub log: Option<AccessLog>,
    pub patience: Patience,
    pub trusted: Vec<IpNet>,
    /// Where redirects to HTTPS lead.
    pub https_port: u16,
    pub max_connections: usize,
    pub started: Instant,
    /// Set before `draining`, for those who have registered with it and look again.
    pub ending: AtomicBool,
    /// No new connections; those that are open end after their request.
    pub draining: CancellationToken,
    /// What is still open is closed.
    pub drained: CancellationToken,
}

/// A connection that was accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    pub door: Arc<Door>,
}

enum Order {
    Serve(Accepted),
    /// Endpoints have left.
    Sweep,
}

/// All workers, as those see them who have something for them to do.
#[derive(Debug, Clone)]
pub(crate) struct Workers {
    each: Arc<[Handle]>,
    max: usize,
}

#[derive(Debug)]
struct Handle {
    orders: mpsc::UnboundedSender<Order>,
    open: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts that many threads; they end after `drained`, or once `draining` and idle.
    pub fn start(count: usize, shared: &Arc<Shared>) -> io::Result<(Self, Vec<std::thread::JoinHandle<()>>)> {
        let (mut each, mut threads) = (Vec::new(), Vec::new());
        for number in 0..count.max(1) {
            let (orders, received) = mpsc::unbounded_channel();
            let open = Arc::new(AtomicUsize::new(0));
            let (shared, counted) = (Arc::clone(shared), Arc::clone(&open));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let thread = std::thread::Builder::new().name(format!("ingress-{number}"));
            threads.push(thread.spawn(move || {
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, run(shared, counted, received));
            })?);
            each.push(Handle { orders, open });
        }
        Ok((Workers { each: each.into(), max: shared.max_connections }, threads))
    }

    /// Gives a connection to the worker with the fewest. More than the limit are closed at once, so that memory is bounded.
    pub fn serve(&self, accepted: Accepted) {
        let open = |handle: &&Handle| handle.open.load(Ordering::Relaxed);
        let total: usize = self.each.iter().map(|handle| open(&handle)).sum();
        let Some(least) = self.each.iter().min_by_key(open).filter(|_| total < self.max) else { return };
        least.open.fetch_add(1, Ordering::Relaxed);
        // Refused only when the worker has ended, and with it what we serve.
        let _ = least.orders.send(Order::Serve(accepted));
    }

    pub fn sweep(&self) {
        for handle in self.each.iter() {
            let _ = handle.orders.send(Order::Sweep);
        }
    }
}

/// What one thread has for itself.
#[derive(Debug)]
pub(crate) struct Worker {
    pub shared: Arc<Shared>,
    /// Those of all workers, but asked without getting into each other's way.
    pub draining: CancellationToken,
    pub drained: CancellationToken,
    pub pool: RefCell<Pool>,
    admitted: RefCell<HashMap<[u8; 32], ()>>,
}

impl Worker {
    /// Milliseconds since the start: the clock of endpoints that are avoided.
    pub fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.shared.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether this password is right. bcrypt takes long on purpose, so it is asked elsewhere, and once.
    pub async fn admit(&self, users: &Arc<Users>, shown: Credentials) -> bool {
        let set = Arc::as_ptr(users).addr().to_le_bytes();
        let digest = Sha256::new().chain_update(set).chain_update(&shown.user).chain_update([0]);
        let key: [u8; 32] = digest.chain_update(&shown.password).finalize().into();
        if self.admitted.borrow().contains_key(&key) {
            return true;
        }
        let asked = Arc::clone(users);
        let right = tokio::task::spawn_blocking(move || asked.admit(&shown)).await.unwrap_or(false);
        if right {
            let mut admitted = self.admitted.borrow_mut();
            if admitted.len() >= REMEMBERED {
                admitted.clear();
            }
            admitted.insert(key, ());
        }
        right
    }
}

async fn run(shared: Arc<Shared>, open: Arc<AtomicUsize>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let (draining, drained) = (shared.draining.child_token(), shared.drained.child_token());
    let worker = Rc::new(Worker {
        shared,
        draining: draining.clone(),
        drained: drained.clone(),
        pool: RefCell::default(),
        admitted: RefCell::default(),
    });
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Serve(accepted)) => take(&worker, &open, accepted),
                Some(Order::Sweep) => worker.pool.borrow_mut().sweep(),
                None => break,
            },
            _ = sweep.tick() => worker.pool.borrow_mut().sweep(),
            () = draining.cancelled() => break,
        }
    }
    // What was accepted before the end is still served.
    while let Ok(order) = orders.try_recv() {
        if let Order::Serve(accepted) = order {
            take(&worker, &open, accepted);
        }
    }
    let mut look = tokio::time::interval(Duration::from_millis(10));
    while open.load(Ordering::Relaxed) > 0 {
        tokio::select! {
            _ = look.tick() => {}
            () = drained.cancelled() => break,
        }
    }
}

fn take(worker: &Rc<Worker>, open: &Arc<AtomicUsize>, accepted: Accepted) {
    let (worker, open) = (Rc::clone(worker), Opened::count(open, &worker.shared.metrics));
    let stream = match tokio::net::TcpStream::from_std(accepted.stream) {
        Ok(stream) => stream,
        Err(error) => return error!(%error, "a connection was lost"),
    };
    tokio::task::spawn_local(async move {
        connection::serve(&worker, stream, accepted.peer, accepted.door).await;
        drop(open);
    });
}

/// A connection that is open, for the counts.
struct Opened {
    open: Arc<AtomicUsize>,
    gauge: telemetry::prometheus_client::metrics::gauge::Gauge,
}

impl Opened {
    fn count(open: &Arc<AtomicUsize>, metrics: &Metrics) -> Self {
        metrics.connections.inc();
        metrics.open.inc();
        Opened { open: Arc::clone(open), gauge: metrics.open.clone() }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
    }
}

/// Runs hyper's tasks on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
