//! `portolan ingress`: the ingress controller alone, for any cluster; and the flags that `up` has for its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use ingress::{Config, Ingress};
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::IngressClass;
use kube::api::{Api, Patch, PatchParams, PostParams};
use linux::NetNs;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::acknowledge::AcknowledgeAs;
use crate::{host, metrics, terminal};

/// Says on our IngressClass at which port of the machine Services have names.
const NAMES_PORT: &str = cli::service::NAMES_PORT;

/// What `up` is told of its ingress.
#[derive(Debug, Clone, Args)]
pub struct UpFlags {
    /// Serve no Ingresses
    #[arg(long)]
    pub no_ingress: bool,
    /// Port of this machine's loopback where HTTP Services have names: http://SERVICE.NAMESPACE.localhost:PORT; 0: nowhere
    #[arg(long, value_name = "PORT", default_value_t = 8090)]
    pub names_port: u16,
    /// Write a line for each request of an Ingress
    #[arg(long, value_name = "FILE")]
    pub ingress_access_log: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct IngressOptions {
    /// Cluster to serve [default: KUBECONFIG, ~/.kube/config, or the pod's own]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long)]
    pub context: Option<String>,
    /// Addresses to listen on
    #[arg(long, value_name = "ADDRESS", default_values_t = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)])]
    pub listen: Vec<IpAddr>,
    #[arg(long, value_name = "PORT", default_value_t = 80)]
    pub http_port: u16,
    #[arg(long, value_name = "PORT", default_value_t = 443)]
    pub https_port: u16,
    /// Addresses for the status of Ingresses [default: this machine's]
    #[arg(long, value_name = "ADDRESS")]
    pub publish_address: Vec<IpAddr>,
    /// IngressClasses with this spec.controller are served
    #[arg(long, value_name = "NAME", default_value = ingress::CONTROLLER)]
    pub controller: String,
    /// IngressClass to make if it is not there, and the value of the old annotation that means us
    #[arg(long, value_name = "NAME", default_value = ingress::CLASS)]
    pub class: String,
    /// Domain of the cluster's names, for Services of type ExternalName
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Proxies whose X-Forwarded headers are believed
    #[arg(long, value_name = "CIDR")]
    pub trust: Vec<IpNet>,
    /// Write a line for each request; `-` is the standard output
    #[arg(long, value_name = "FILE")]
    pub access_log: Option<PathBuf>,
    /// Where /metrics and /healthz answer
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:10254")]
    pub metrics_address: SocketAddr,
    /// Port of the loopback where HTTP Services have names; 0: nowhere
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub names_port: u16,
    /// Threads that serve [default: one a processor]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    #[command(flatten)]
    pub acknowledge: AcknowledgeAs,
}

pub fn run(options: &IngressOptions) -> Result<()> {
    telemetry::init_logs(telemetry::LogFormat::Text, "info", None);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("cannot start an async runtime")?.block_on(serve(options))
}

async fn serve(options: &IngressOptions) -> Result<()> {
    let client = client::from_kubeconfig(options.kubeconfig.as_deref(), options.context.as_deref()).await?;
    let here = NetNs::current()?;
    let at = |port: u16| options.listen.iter().map(|ip| (here.clone(), SocketAddr::new(*ip, port))).collect::<Vec<_>>();
    let mut config = Config {
        controller: options.controller.clone(),
        class: options.class.clone(),
        cluster_domain: options.cluster_domain.clone(),
        http: at(options.http_port),
        https: at(options.https_port),
        names: names(&here, options.names_port),
        publish: options.publish_address.clone(),
        trusted: options.trust.clone(),
        access_log: options.access_log.clone(),
        drain: std::time::Duration::from_secs(30),
        acknowledger: options.acknowledge.name("ingress", host::name)?.map(ingress::acknowledger),
        ..Config::default()
    };
    if let Some(threads) = options.threads {
        config.workers = threads;
    }
    if config.publish.is_empty() {
        let address = crate::network::primary_address().await;
        config.publish =
            vec![address.context("this machine's address is not clear\n  hint: give --publish-address")?.into()];
    }
    let registry = config.registry.clone();
    let ingress = Ingress::open(config)?;
    warn_refused(&ingress);
    if ingress.addresses().is_empty() {
        bail!(
            "nothing can be listened on\n  hint: another program has the ports (`ss -ltnp`); choose others with --http-port and --https-port"
        );
    }
    if let Err(error) = ensure_class(&client, &options.controller, &options.class, false, None).await {
        terminal::warn(&error.context(format!("IngressClass `{}` was not made", options.class)));
    }
    let shutdown = CancellationToken::new();
    let served = metrics::serve(&here, options.metrics_address, registry, shutdown.clone()).await;
    served.context("choose another address with --metrics-address")?;
    for address in ingress.addresses() {
        terminal::line(format_args!("listening on {address}"));
    }
    let running = tokio::spawn(ingress.run(client, shutdown.clone()));
    stop_asked().await?;
    shutdown.cancel();
    Ok(running.await??)
}

async fn stop_asked() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Where Services have names: both loopbacks.
pub fn names(here: &NetNs, port: u16) -> Vec<(NetNs, SocketAddr)> {
    let loopbacks = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let at = |ip: IpAddr| (here.clone(), SocketAddr::new(ip, port));
    if port == 0 { Vec::new() } else { loopbacks.into_iter().map(at).collect() }
}

/// Says which sockets could not be opened; the rest is served all the same.
pub fn warn_refused(ingress: &Ingress) {
    for error in ingress.refused() {
        if let ingress::Error::Listen { address, source } = error {
            // A machine without IPv6 has nothing to be told of it.
            if address.is_ipv6() && source.kind() != std::io::ErrorKind::AddrInUse {
                continue;
            }
            let hint = "another program has the port (`ss -ltnp`)";
            terminal::warn(&anyhow::anyhow!("the ingress does not listen on {address}: {source}\n  hint: {hint}"));
        }
    }
}

/// Makes our IngressClass, or renews what it says about names.
pub async fn ensure_class(
    client: &kube::Client,
    controller: &str,
    name: &str,
    default: bool,
    names_port: Option<u16>,
) -> Result<()> {
    let classes: Api<IngressClass> = Api::all(client.clone());
    let port: Value = names_port.map_or(Value::Null, |port| json!(port.to_string()));
    if classes.get_opt(name).await?.is_some() {
        let patch = json!({"metadata": {"annotations": {NAMES_PORT: port}}});
        classes.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        return Ok(());
    }
    let mut annotations = serde_json::Map::new();
    if default {
        annotations.insert("ingressclass.kubernetes.io/is-default-class".into(), json!("true"));
    }
    if names_port.is_some() {
        annotations.insert(NAMES_PORT.into(), port);
    }
    let class = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"controller": controller}
    });
    classes.create(&PostParams::default(), &serde_json::from_value(class)?).await?;
    Ok(())
}
