//! The loop of one node's proxy: whatever is observed goes into the model, and from there to the kernel at once.

use std::time::Instant;

use kube::Client;
use linux::NetNs;
use netlink::links::LinkChanges;
use netlink::{Monitor, Notice as Heard};
use service_model::{Model, NodeView};
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Applied, Config, NodePortAddresses};
use crate::connections::Connections;
use crate::error::Error;
use crate::events::{Notice, Notices, by_culprit};
use crate::health::{CheckPorts, Health, listen, metrics_router};
use crate::kernel::NodeKernel;
use crate::layout::table_id;
use crate::metrics::{Metrics, now};
use crate::observe::{Feed, Observation, observe};
use crate::plan::Ranges;
use crate::sync::{Chain, Step, Sync};

/// How long the kernel remembers a TCP connection that was reset, ten seconds if nobody says otherwise. While it does, a client that comes by
/// the same port is taken for the old one and sent where that went, whatever the rules say and although the endpoint may have left.
/// At zero it is forgotten with the packet that reset it. Source: nf_conntrack-sysctl.rst in the kernel's documentation.
const RESET_IS_REMEMBERED: &str = "net.netfilter.nf_conntrack_tcp_timeout_close";

/// How many observations one transaction takes in at most, so that a flood does not postpone the kernel's turn.
const TOGETHER: usize = 512;

/// Proxies for one node until `shutdown`. Rules and flows stay when it ends: traffic goes on.
///
/// # Errors
/// When nf_tables of the node's namespace cannot be opened. Later faults are ridden out.
pub async fn run(config: Config, client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    let kernel = NodeKernel::open(&config.netns)?;
    let port = kernel.port();
    if let Err(error) = config.netns.set_sysctl(RESET_IS_REMEMBERED, "0") {
        warn!(parameter = RESET_IS_REMEMBERED, error = %Chain(&error), "connections that were reset are remembered: a client that comes by the same port is sent to the same endpoint");
    }
    let metrics = Metrics::register(&config.registry);
    let health = Health::default();
    let mut listeners = Vec::new();
    if let Some(address) = config.health {
        listeners.push(listen(&config.netns, address, health.router(&metrics)));
    }
    if let Some(address) = config.metrics {
        let connections = if config.count_connections {
            Some(Connections::open(&config.netns, metrics.connections.clone())?)
        } else {
            None
        };
        listeners.push(listen(&config.netns, address, metrics_router(config.registry.clone(), connections)));
    }
    let mut feed = Feed::default();
    let mut links = None;
    if let NodePortAddresses::Ranges(ranges) = &config.node_port_addresses {
        links = Some(LinkChanges::open(&config.netns).map_err(Error::Open)?);
        feed.present = addresses(&config.netns).await?;
        feed.ranges = Some(ranges.clone());
    }
    let node = NodeView { name: config.node_name.as_str().into(), ..NodeView::default() };
    let ranges = Ranges {
        cluster: config.cluster_cidrs.clone(),
        pods_by: config.pods_by.clone(),
        service: config.service_cidrs.clone(),
        masquerade_all: config.masquerade_all,
        count_connections: config.count_connections,
    };
    let work = Work { model: Model::new(node), sync: Sync::new(kernel, ranges), metrics: metrics.clone() };
    let proxy = Proxy {
        observations: observe(&client, &config.node_name, &shutdown),
        notices: Notices::start(client, &config.node_name),
        check_ports: CheckPorts::new(config.netns.clone(), health.clone()),
        hearing: Hearing::NotYet,
        links,
        netns: config.netns,
        node: config.node_name,
        applied: config.applied,
        work: Some(Box::new(work)),
        feed,
        metrics,
        health,
        port,
    };
    info!(node = %proxy.node, "proxy started");
    shutdown.run_until_cancelled_owned(proxy.serve()).await;
    Ok(())
}

async fn addresses(netns: &NetNs) -> Result<Vec<std::net::IpAddr>, Error> {
    let links = netlink::links::Links::open(netns).map_err(Error::Open)?;
    let addresses = links.addresses().await.map_err(Error::Read)?;
    Ok(addresses.into_iter().map(|address| address.address.addr()).collect())
}

/// What is lent to a thread that may block in the kernel.
struct Work {
    model: Model,
    sync: Sync<NodeKernel>,
    metrics: Metrics,
}

struct Proxy {
    observations: Receiver<Observation>,
    hearing: Hearing,
    /// Heard where node ports answer on addresses that may come and go.
    links: Option<LinkChanges>,
    netns: NetNs,
    /// Away only while a blocking thread has it.
    work: Option<Box<Work>>,
    feed: Feed,
    metrics: Metrics,
    health: Health,
    notices: Notices,
    check_ports: CheckPorts,
    node: String,
    applied: watch::Sender<Applied>,
    port: u32,
}

/// Whether foreign writes to our table are heard of. While the first, large transaction is under way nobody listens: the kernel would tell of
/// each of its elements, which takes it several times as long as all the rest.
enum Hearing {
    NotYet,
    Listening(Monitor),
    /// The proxy still works, it only does not notice.
    Deaf,
}

/// Why the loop woke up.
enum Woken {
    Observed(Observation),
    /// Nothing will be observed any more: the watches have ended.
    Ended,
    /// Someone else wrote to our table.
    Disturbed,
    /// Notifications were lost.
    Lost,
    /// The node's addresses may be others.
    Addresses,
    Retry,
}

impl Proxy {
    async fn serve(mut self) {
        loop {
            let Some(mut work) = self.work.take() else { return };
            match self.wake(work.sync.retry_at().filter(|_| self.feed.complete())).await {
                Woken::Observed(observation) => self.take(observation, &mut work.model),
                Woken::Disturbed => work.sync.doubt(),
                Woken::Lost => work.sync.suspect(),
                Woken::Addresses => match addresses(&self.netns).await {
                    Ok(present) => self.feed.present(present, &mut work.model),
                    Err(fault) => warn!(error = %Chain(&fault), "node ports stay on the addresses that were known"),
                },
                Woken::Retry => {}
                Woken::Ended => return,
            }
            if !self.feed.complete() {
                self.work = Some(work);
                continue;
            }
            self.health.behind();
            let stepped = tokio::task::spawn_blocking(move || {
                let step = work.sync.step(&mut work.model, &work.metrics);
                (work, step)
            });
            match stepped.await {
                Ok((work, step)) => self.report(*work, &step),
                // A panic there is ours; swallowed, it would leave a proxy that looks alive and does nothing.
                Err(fault) => match fault.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return,
                },
            }
        }
    }

    /// Takes in what waits besides: one transaction for all of it.
    fn take(&mut self, first: Observation, model: &mut Model) {
        self.feed.take(first, model);
        for _ in 1..TOGETHER {
            match self.observations.try_recv() {
                Ok(observation) => self.feed.take(observation, model),
                Err(_) => break,
            }
        }
    }

    async fn wake(&mut self, retry_at: Option<Instant>) -> Woken {
        tokio::select! {
            observation = self.observations.recv() => observation.map_or(Woken::Ended, Woken::Observed),
            heard = self.hearing.foreign_change(self.port) => heard,
            () = changed(&mut self.links) => Woken::Addresses,
            () = sleep_until(retry_at) => Woken::Retry,
        }
    }

    fn report(&mut self, mut work: Work, step: &Step) {
        if work.sync.in_sync() && matches!(self.hearing, Hearing::NotYet) {
            self.settle(&mut work.sync);
        }
        if work.sync.in_sync() {
            self.health.up_to_date();
            self.tell_latency();
            let applied = Applied { slices: self.feed.slices_at };
            self.applied.send_if_modified(|last| std::mem::replace(last, applied) != applied);
        }
        if step.repaired {
            self.metrics.repairs.inc();
            self.notices.tell(Notice::Repaired { node: self.node.clone() });
        }
        self.metrics.faults.inc_by(step.new_faults.len() as u64);
        by_culprit(&step.new_faults).into_iter().for_each(|notice| self.notices.tell(notice));
        self.health.node_deleting(work.model.node().deleting);
        if step.health_checks {
            self.check_ports.follow(&work.model);
        }
        self.work = Some(Box::new(work));
    }
}

impl Proxy {
    /// The first table is written: the large work is over.
    fn settle(&mut self, sync: &mut Sync<NodeKernel>) {
        self.hearing = match Monitor::open(&self.netns) {
            Ok(monitor) => Hearing::Listening(monitor),
            Err(error) => Hearing::deaf(&error),
        };
        // Somebody may have written before we listened.
        sync.suspect();
        // The first lists and the first transaction are many times what is kept of them.
        linux::process::release_free_memory();
    }

    fn tell_latency(&mut self) {
        let pending = std::mem::take(&mut self.feed.pending);
        self.metrics.service_changes.inc_by(pending.services);
        self.metrics.slice_changes.inc_by(pending.slices);
        self.metrics.older.inc_by(pending.older);
        if let Some(since) = pending.since {
            let took = since.elapsed().as_secs_f64();
            self.metrics.latency.observe(took);
            self.metrics.last_queued.set(now() - took);
        }
        // A clock that another machine read may be ahead of ours.
        pending.triggers.iter().for_each(|time| self.metrics.programming.observe((now() - time).max(0.0)));
    }
}

impl Hearing {
    fn deaf(error: &netlink::Error) -> Self {
        warn!(error = %Chain(error), "cannot hear of foreign changes to the table");
        Hearing::Deaf
    }

    /// Waits until someone else writes to our table; for good if nobody listens.
    async fn foreign_change(&mut self, ours: u32) -> Woken {
        loop {
            let Hearing::Listening(monitor) = self else { return std::future::pending().await };
            match monitor.next().await {
                Ok(Heard::Change { port, change }) if port != ours && change.table() == Some(&table_id()) => {
                    return Woken::Disturbed;
                }
                Ok(Heard::Change { .. } | Heard::Commit { .. }) => {}
                Ok(Heard::Lost) => return Woken::Lost,
                Err(error) => *self = Hearing::deaf(&error),
            }
        }
    }
}

async fn changed(links: &mut Option<LinkChanges>) {
    match links {
        Some(links) => links.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
