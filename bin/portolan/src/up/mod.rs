//! `portolan up`: a whole cluster in one process, step by step, each printed with its time.

mod access;
mod addons;
mod balancer;
mod cluster;
mod detach;
mod firewall;
mod ingress;
mod nodes;
mod preflight;

pub use access::CONTEXT;

use std::fs::File;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use linux::{FileLock, NetNs};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;

use crate::arguments::{UpOptions, cluster_dns};
use crate::instance::{Layout, NodeRecord, Record, Uplink};
use crate::network::{self, NodePlan, Plan, Wish};
use crate::ranges::Ranges;
use crate::terminal::{self, Steps};

pub fn run(options: &UpOptions) -> Result<()> {
    // A wrong name is told before anything is made.
    controllers::without(&options.disable_controllers)?;
    let layout = Layout::new(&options.data.data_dir)?;
    std::fs::create_dir_all(&layout.data_dir)
        .with_context(|| format!("cannot make `{}`\n  hint: choose another --data-dir", layout.data_dir.display()))?;
    if options.detach {
        return detach::run(&layout);
    }
    if options.detached {
        // A session of its own: the end of the caller's terminal or job is no signal to us.
        linux::process::detach()?;
    }
    let log = File::options().create(true).append(true).open(layout.log());
    let log = log.with_context(|| format!("cannot write `{}`", layout.log().display()))?;
    telemetry::init_logs(telemetry::LogFormat::Text, "info", Some(log));
    let (rest, disk_bound) = (runtime()?, runtime()?);
    rest.block_on(start(options, &layout, disk_bound.handle()))
}

fn runtime() -> Result<Runtime> {
    let runtime = Builder::new_multi_thread().worker_threads(workers()).enable_all().build();
    runtime.context("cannot start an async runtime")
}

/// The work is short and bursty: more threads than this cost memory and win nothing.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4)
}

async fn start(options: &UpOptions, layout: &Layout, disk_bound: &Handle) -> Result<()> {
    let mut steps = Steps::begin();
    let _lock = take(layout)?;
    layout.close_to_others()?;
    preflight::check()?;
    let listener = preflight::api_port(options.api_port)?;
    let (record, namespaces) = prepare_network(options, layout).await?;
    steps.done(shown_nodes(&record));
    if let Some(uplink) = &record.uplink {
        firewall::check(&uplink.interface, record.pod_cidr.v6.is_some());
    }

    let shutdown = CancellationToken::new();
    let made = cluster::Made { options, layout, record: &record, namespaces: &namespaces };
    let mut cluster = cluster::start(made, listener, disk_bound.clone(), &shutdown).await?;
    steps.done(format_args!("API server at https://127.0.0.1:{}", options.api_port));
    let record = write_access(options, layout, record, &cluster.access)?;
    let dns = cluster_dns(record.service_cidr);
    addons::ensure(&cluster.admin, &dns, &record.nodes).await?;
    if record.uplink.is_some() {
        for node in &namespaces {
            network::serve_on_node(node, &dns).await?;
        }
    }
    cluster.start_components(made_again(options, layout, &record, &namespaces), &shutdown).await?;
    ingress::start(&mut cluster, made_again(options, layout, &record, &namespaces), &shutdown).await?;
    steps.done("controllers, scheduler, proxy, DNS, load balancer, ingress and node agents");
    let mut stop = Stop::listen()?;
    tokio::select! {
        ready = nodes_ready(&cluster.admin, record.nodes.len()) => ready?,
        () = stop.asked() => bail!("interrupted before the node was ready"),
    }
    steps.done(match record.nodes.len() {
        1 => "node is Ready".to_owned(),
        several => format!("{several} nodes are Ready"),
    });
    terminal::text(next_steps(options, &record, steps.seconds()));
    if options.detached {
        terminal::line(detach::READY);
        detach::let_go(layout)?;
    }
    stop.asked().await;
    shutdown.cancel();
    cluster.stop().await;
    if !options.detached {
        terminal::line("stopped; pods and Services go on. `portolan up` takes them over, `portolan down` removes them");
    }
    Ok(())
}

fn made_again<'a>(
    options: &'a UpOptions,
    layout: &'a Layout,
    record: &'a Record,
    namespaces: &'a [NetNs],
) -> cluster::Made<'a> {
    cluster::Made { options, layout, record, namespaces }
}

fn take(layout: &Layout) -> Result<FileLock> {
    match layout.take()? {
        Ok(lock) => Ok(lock),
        Err(holder) => {
            let who = holder.map_or_else(String::new, |pid| format!(" (process {pid})"));
            let dir = layout.data_dir.display();
            bail!(
                "a cluster already runs on `{dir}`{who}\n  hint: `portolan status` shows it; another one needs its own --data-dir and --api-port"
            )
        }
    }
}

/// The network as recorded by an earlier run, or a new one.
async fn prepare_network(options: &UpOptions, layout: &Layout) -> Result<(Record, Vec<NetNs>)> {
    let before = layout.read()?;
    if options.host_network {
        return host_network(options, layout, before).await;
    }
    let ours = before.as_ref().and_then(|record| record.uplink.as_ref()).map(|uplink| uplink.interface.as_str());
    let facts = network::facts(ours).await?;
    let plan = match before.as_ref().and_then(|record| Some((record, record.uplink.as_ref()?))) {
        Some((record, uplink)) => recorded(options, record, uplink)?,
        None => {
            let wish = Wish {
                nodes: options.nodes,
                service_cidr: options.service_cidr,
                pod_cidr: options.pod_cidr,
                node_cidr: options.node_cidr,
            };
            network::plan(wish, &facts)?
        }
    };
    let uplink = Uplink {
        interface: plan.interface.clone(),
        network: plan.network,
        machine: plan.machine,
        network6: plan.network6,
    };
    let record = new_record(options, &plan.nodes, Some(uplink), before)?;
    // Written first: whatever happens while it is made, `down` knows what to look for.
    layout.write(&record)?;
    let namespaces =
        network::make(layout, &plan, record.service_cidr).await.context("cannot make the nodes' network")?;
    network::open_way_out(record.way_out()).context("cannot open the way out for pods")?;
    Ok((record, namespaces))
}

async fn host_network(options: &UpOptions, layout: &Layout, before: Option<Record>) -> Result<(Record, Vec<NetNs>)> {
    if options.nodes > 1 {
        bail!("--host-network has one node: the machine itself\n  hint: leave out --nodes");
    }
    let machine = NetNs::current()?;
    let address = network::primary_address().await?;
    if options.pod_cidr.v6.is_some() || options.service_cidr.v6.is_some() {
        bail!("--host-network serves IPv4 only\n  hint: leave out the ranges of IPv6");
    }
    let v4 = options.pod_cidr.v4.subnets(24).ok().and_then(|mut subnets| subnets.next());
    let v4 = v4.context("--pod-cidr is too small: the node takes a /24 of it")?;
    let pod_cidr = Ranges { v4, v6: None };
    let node = NodePlan { name: "portolan".to_owned(), address, address6: None, pod_cidr };
    let record = new_record(options, &[node], None, before)?;
    layout.write(&record)?;
    network::open_way_out(record.way_out()).context("cannot open the way out for pods")?;
    Ok((record, vec![machine]))
}

/// What is written down; what only the first `up` could see is kept from before.
fn new_record(
    options: &UpOptions,
    nodes: &[NodePlan],
    uplink: Option<Uplink>,
    before: Option<Record>,
) -> Result<Record> {
    let (forwarding_was_off, merged_kubeconfig) = match before {
        Some(before) => (before.forwarding_was_off, before.merged_kubeconfig),
        None => (network::forwarding_is_off()?, None),
    };
    let node = |plan: &NodePlan| NodeRecord {
        name: plan.name.clone(),
        address: plan.address,
        address6: plan.address6,
        pod_cidr: plan.pod_cidr,
    };
    let mut record = Record {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        nodes: nodes.iter().map(node).collect(),
        service_cidr: options.service_cidr,
        pod_cidr: options.pod_cidr,
        api_port: options.api_port,
        forwarding_was_off,
        load_balancer_pools: Vec::new(),
        uplink,
        merged_kubeconfig,
    };
    record.load_balancer_pools = balancer::pools(&options.load_balancer_pool, &record);
    Ok(record)
}

/// The plan of the cluster that is here; flags that ask for another are refused rather than half applied.
fn recorded(options: &UpOptions, record: &Record, uplink: &Uplink) -> Result<Plan> {
    let other = |flag: &str, have: String| {
        bail!(
            "the cluster in `{}` has {flag} {have}\n  hint: give the same, or `portolan down` first",
            options.data.data_dir.display()
        )
    };
    if record.service_cidr != options.service_cidr {
        return other("--service-cidr", record.service_cidr.to_string());
    }
    if record.pod_cidr != options.pod_cidr {
        return other("--pod-cidr", record.pod_cidr.to_string());
    }
    if record.nodes.len() != usize::from(options.nodes) {
        return other("--nodes", record.nodes.len().to_string());
    }
    let node = |node: &NodeRecord| NodePlan {
        name: node.name.clone(),
        address: node.address,
        address6: node.address6,
        pod_cidr: node.pod_cidr,
    };
    Ok(Plan {
        interface: uplink.interface.clone(),
        network: uplink.network,
        machine: uplink.machine,
        network6: uplink.network6,
        nodes: record.nodes.iter().map(node).collect(),
    })
}

fn write_access(
    options: &UpOptions,
    layout: &Layout,
    mut record: Record,
    access: &cli::kubeconfig::Access,
) -> Result<Record> {
    cli::kubeconfig::write(&layout.kubeconfig(), access, None)?;
    if options.no_kubeconfig {
        return Ok(record);
    }
    match access::merge(access) {
        Ok(merged) => record.merged_kubeconfig = Some(merged),
        // The cluster is none the worse for it.
        Err(error) => terminal::warn(&error.context("the user's kubeconfig was left as it is")),
    }
    layout.write(&record)?;
    Ok(record)
}

async fn nodes_ready(client: &kube::Client, expected: usize) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut changes = tokio::time::interval(std::time::Duration::from_millis(5));
    loop {
        changes.tick().await;
        let listed = nodes.list(&ListParams::default()).await?;
        if listed.items.iter().filter(|node| is_ready(node)).count() >= expected {
            return Ok(());
        }
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn shown_nodes(record: &Record) -> String {
    let shown: Vec<String> = record.nodes.iter().map(|node| format!("{} at {}", node.name, node.address)).collect();
    match shown.as_slice() {
        [only] => format!("node {only}"),
        several => format!("{} nodes: {}", several.len(), several.join(", ")),
    }
}

fn next_steps(options: &UpOptions, record: &Record, seconds: f64) -> String {
    let kubectl = match &record.merged_kubeconfig {
        Some(_) => "kubectl get nodes".to_owned(),
        None => format!("kubectl --kubeconfig {}/kubeconfig get nodes", options.data.data_dir.display()),
    };
    let end = if options.detached {
        "`portolan down` removes it all"
    } else {
        "Ctrl-C stops the daemon; `portolan down` removes it all"
    };
    format!(
        "\nThe cluster is ready after {seconds:.2} s. Try:\n  {kubectl}\n  kubectl create deployment web --image=nginx --port=80\n  \
         kubectl expose deployment web --type=LoadBalancer\n  portolan service web\n{end}\n"
    )
}

/// Ctrl-C, or a polite kill.
pub struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    pub fn listen() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Stop { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
