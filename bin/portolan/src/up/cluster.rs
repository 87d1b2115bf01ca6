//! The components of a cluster in one process, each with an identity and a client of its own, none aware of the others.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use agent::Agent;
use anyhow::{Context, Result};
use apiserver::{ApiServer, User};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cli::kubeconfig::Access;
use containers::images::ImageStore;
use containers::runtime::Libcontainer;
use kube::Client;
use linux::NetNs;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::access::CONTEXT;
use super::balancer;
use super::nodes::InProcess;
use crate::acknowledge;
use crate::arguments::{UpOptions, cluster_dns};
use crate::instance::{Layout, NodeRecord, Record};
use crate::metrics;

/// Where ingress-nginx has its metrics; ours are those of load balancer and ingress.
const METRICS_PORT: u16 = 10254;
/// Where CoreDNS has its metrics.
const DNS_METRICS_PORT: u16 = 9153;

/// What the components are started with.
#[derive(Clone, Copy)]
pub struct Made<'a> {
    pub options: &'a UpOptions,
    pub layout: &'a Layout,
    pub record: &'a Record,
    /// The nodes' namespaces, in the order of the record.
    pub namespaces: &'a [NetNs],
}

/// A running cluster.
pub struct Cluster {
    pub admin: Client,
    pub access: Access,
    server: ApiServer,
    nodes: Arc<InProcess>,
    tasks: JoinSet<()>,
    /// Where the agents run: they make, write and remove files, and a disk that is slow at that must not hold up anyone else.
    disk_bound: Handle,
    /// What load balancer and ingress count.
    pub(super) registry: telemetry::Registry,
}

const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Opens the API server and serves it on the machine's loopback and on the first node.
pub async fn start(
    made: Made<'_>,
    machine: TcpListener,
    disk_bound: Handle,
    shutdown: &CancellationToken,
) -> Result<Cluster> {
    let nodes = Arc::new(InProcess::default());
    let server = ApiServer::open(api_config(made, Arc::clone(&nodes))).await?;
    let mut listeners = vec![machine];
    if let (Some(node), Some(namespace)) = (made.record.nodes.first(), made.namespaces.first()) {
        let address = SocketAddr::new(node.address.into(), node_api_port(made));
        let listener = namespace.run(|| TcpListener::bind(address))?;
        let hint = "another program has it (`ss -ltnp`); choose another with --api-port";
        let listener = listener.with_context(|| format!("cannot listen on {address} for pods\n  hint: {hint}"))?;
        listener.set_nonblocking(true)?;
        listeners.push(listener);
    }
    let mut tasks = JoinSet::new();
    for listener in listeners {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (server, shutdown) = (server.clone(), shutdown.clone());
        tasks.spawn(async move {
            if let Err(error) = server.serve_tls(listener, shutdown).await {
                error!(%error, "the API server stopped serving");
            }
        });
    }
    let admin = client::in_process(server.service(User::admin()));
    let access = access(&server, made.options.api_port);
    Ok(Cluster { admin, access, server, nodes, tasks, disk_bound, registry: telemetry::Registry::default() })
}

/// The API server's port in a node's namespace.
const API_PORT: u16 = 6443;

/// Where pods reach the API server on the first node, through Service `kubernetes`.
fn node_api_port(made: Made<'_>) -> u16 {
    if made.record.uplink.is_some() { API_PORT } else { made.options.api_port }
}

fn api_config(made: Made<'_>, nodes: Arc<InProcess>) -> apiserver::Config {
    let Made { options, layout, record, .. } = made;
    let mut config = apiserver::Config::new(&layout.data_dir);
    config.service_cidrs = record.service_cidr.all();
    config.node_ports = options.service_node_port_range.first..=options.service_node_port_range.last;
    config.cluster_domain = options.cluster_domain.clone();
    config.nodes = nodes;
    if let Some(node) = record.nodes.first() {
        config.advertise_addresses = vec![IpAddr::V4(node.address)];
        config.advertise_port = node_api_port(made);
    }
    config.server_names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    config
}

fn agent_config(made: Made<'_>, node: &NodeRecord, namespace: &NetNs) -> Result<agent::Config> {
    let images = ImageStore::open(made.layout.images())?;
    let runtime = Libcontainer::new(made.layout.containers().join(&node.name), images.clone())?;
    Ok(agent::Config {
        node_name: node.name.clone(),
        labels: BTreeMap::new(),
        netns: namespace.clone(),
        pods_dir: made.layout.pods().join(&node.name),
        namespaces_dir: made.layout.run().join("netns"),
        pod_cidrs: node.pod_cidr.all(),
        node_ips: node.addresses(),
        // One resolver is enough: a second one would be asked only after the first's timeout, and is the same server.
        cluster_dns: cluster_dns(made.record.service_cidr).into_iter().take(1).collect(),
        cluster_domain: made.options.cluster_domain.clone(),
        resolv_conf: "/etc/resolv.conf".into(),
        runtime: Arc::new(runtime),
        images,
        pull: made.options.registries.pull_options(),
        kubelet_port: 0,
        max_pods: made.options.max_pods,
        drain_bound: Duration::from_secs(made.options.drain_bound),
        cgroup: format!("portolan/{}", node.name),
    })
}

fn access(server: &ApiServer, port: u16) -> Access {
    let credentials = server.credentials();
    let encode = |pem: &str| STANDARD.encode(pem);
    Access {
        name: CONTEXT.to_owned(),
        server: format!("https://127.0.0.1:{port}"),
        certificate_authority: encode(&credentials.ca_pem),
        client_certificate: encode(&credentials.certificate_pem),
        client_key: encode(&credentials.key_pem),
    }
}

impl Cluster {
    /// Starts what works through the API: controllers, scheduler, and on each node proxy, DNS and agent.
    pub async fn start_components(&mut self, made: Made<'_>, shutdown: &CancellationToken) -> Result<()> {
        let controllers = controllers::Config {
            enabled: controllers::without(&made.options.disable_controllers)?,
            root_ca: Some(self.server.ca_pem()),
            ..controllers::Config::default()
        };
        let client = self.client("system:kube-controller-manager", &[]);
        self.spawn("controllers", controllers::run(controllers, client, shutdown.clone()));
        let client = self.client("system:kube-scheduler", &[]);
        self.spawn("scheduler", scheduler::run(scheduler::Config::default(), client, shutdown.clone()));
        self.start_dns(made, shutdown)?;
        self.start_balancer(made, shutdown).await?;
        if let (Some(node), Some(namespace)) = (made.record.nodes.first(), made.namespaces.first()) {
            let address = SocketAddr::new(node.address.into(), METRICS_PORT);
            // Another program may have the port on a machine that is its own node; the cluster does without.
            if let Err(error) = metrics::serve(namespace, address, self.registry.clone(), shutdown.clone()).await {
                crate::terminal::warn(&error);
            }
        }
        for (number, (node, namespace)) in made.record.nodes.iter().zip(made.namespaces).enumerate() {
            let up = match number {
                0 => super::nodes::always_up(),
                _ => super::nodes::link_of(&node.name, namespace, shutdown.clone()).await?,
            };
            self.start_node(made, (node, namespace), &up, shutdown)?;
        }
        Ok(())
    }

    /// DNS on each node: at the node's own address, and at the Service's where the node's network is ours.
    fn start_dns(&mut self, made: Made<'_>, shutdown: &CancellationToken) -> Result<()> {
        let mut config = dns::Config::new(&made.options.cluster_domain);
        let nodes = made.record.nodes.iter().zip(made.namespaces);
        let service = made.record.uplink.as_ref().map(|_| cluster_dns(made.record.service_cidr)).unwrap_or_default();
        for (node, namespace) in nodes {
            let addresses = service.iter().copied().chain(node.addresses());
            config.listen.extend(addresses.map(|ip| (namespace.clone(), SocketAddr::new(ip, 53))));
        }
        if let (Some(node), Some(namespace)) = (made.record.nodes.first(), made.namespaces.first()) {
            config.http.namespace = Some(namespace.clone());
            config.http.metrics = Some(SocketAddr::new(node.address.into(), DNS_METRICS_PORT));
        }
        // Pods get the machine's search domains after the cluster's.
        config.search = Some(dns::machine_search_domains(&dns::RESOLV_CONF.into()));
        config.keep = Some(crate::dns::keeper_at(made.layout.dns_keeper()));
        config.acknowledger = Some(dns::acknowledger("dns"));
        let server = dns::Server::open(config)?;
        let client = self.client("system:kube-dns", &[]);
        self.spawn("dns", server.run(client, shutdown.clone()));
        Ok(())
    }

    async fn start_balancer(&mut self, made: Made<'_>, shutdown: &CancellationToken) -> Result<()> {
        let (mut config, followed) = balancer::config(made)?;
        config.registry = self.registry.clone();
        let way = balancer::lead_machine(made, followed, shutdown.clone()).await?;
        let client = self.client("portolan:loadbalancer", &[]);
        self.spawn("loadbalancer", balancer::run(config, client, way, shutdown.clone()));
        Ok(())
    }

    /// What each node runs: its proxy and its agent.
    fn start_node(
        &mut self,
        made: Made<'_>,
        (node, namespace): (&NodeRecord, &NetNs),
        up: &watch::Receiver<bool>,
        shutdown: &CancellationToken,
    ) -> Result<()> {
        let client = |user: &str, groups: &[&str]| {
            client::in_process_over(self.server.service(User::new(user, groups)), up.clone())
        };
        let (of_proxy, of_agent) =
            (client("system:kube-proxy", &[]), client(&format!("system:node:{}", node.name), &["system:nodes"]));
        let mut proxy = proxy::Config::new(&node.name, namespace.clone());
        proxy.cluster_cidrs = made.record.pod_cidr.all();
        proxy.service_cidrs = made.record.service_cidr.all();
        let name = format!("proxy-{}", node.name);
        self.tasks.spawn(acknowledge::proxy(name, &proxy, of_proxy.clone(), shutdown.clone()));
        self.spawn("proxy", proxy::run(proxy, of_proxy, shutdown.clone()));
        let agent = Agent::new(agent_config(made, node, namespace)?);
        self.nodes.add(&node.name, agent.kubelet_api(), up.clone());
        let shutdown = shutdown.clone();
        let running = async move { agent.run(of_agent, shutdown).await };
        self.tasks.spawn_on(told("agent", running), &self.disk_bound);
        Ok(())
    }

    pub(super) fn client(&self, user: &str, groups: &[&str]) -> Client {
        client::in_process(self.server.service(User::new(user, groups)))
    }

    pub(super) fn spawn<E: std::error::Error + 'static>(
        &mut self,
        component: &'static str,
        running: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.tasks.spawn(told(component, running));
    }

    /// Waits until everything has stopped, but not for ever.
    pub async fn stop(mut self) {
        self.server.shut_down();
        let stopped = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_WITHIN, stopped).await.is_err() {
            error!("some components did not stop in time");
        }
    }
}

/// A component until it ends, which is logged.
async fn told<E: std::error::Error + 'static>(component: &'static str, running: impl Future<Output = Result<(), E>>) {
    match running.await {
        Ok(()) => info!(component, "stopped"),
        Err(error) => error!(component, error = %telemetry::chain(&error), "component failed"),
    }
}
