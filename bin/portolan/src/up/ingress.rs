//! The cluster's own ingress: ports 80 and 443 of each node, and names of Services on the machine's loopback.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use ingress::{CLASS, CONTROLLER, Config, Ingress};
use linux::NetNs;
use tokio_util::sync::CancellationToken;

use super::cluster::{Cluster, Made};
use crate::ingress::{ensure_class, names, warn_refused};

/// Below what the daemon allows its tasks to finish.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(3);

/// Starts the ingress. A port that another program has is told and left alone.
pub async fn start(cluster: &mut Cluster, made: Made<'_>, shutdown: &CancellationToken) -> Result<()> {
    let flags = &made.options.ingress;
    if flags.no_ingress {
        return Ok(());
    }
    let nodes = || made.record.nodes.iter().zip(made.namespaces);
    let all = || nodes().flat_map(|(node, ns)| node.addresses().into_iter().map(move |ip| (ns.clone(), ip)));
    let at = |port: u16| all().map(|(ns, ip)| (ns, SocketAddr::new(ip, port))).collect();
    let config = Config {
        cluster_domain: made.options.cluster_domain.clone(),
        http: at(80),
        https: at(443),
        names: names(&NetNs::current()?, flags.names_port),
        publish: all().map(|(_, ip)| ip).collect(),
        access_log: flags.ingress_access_log.clone(),
        drain: DRAIN,
        registry: cluster.registry.clone(),
        acknowledger: Some(ingress::acknowledger("ingress")),
        ..Config::default()
    };
    let ingress = Ingress::open(config)?;
    warn_refused(&ingress);
    let named = ingress.addresses().into_iter().any(|address| address.ip().is_loopback());
    let names_port = named.then_some(flags.names_port);
    let class = ensure_class(&cluster.admin, CONTROLLER, CLASS, true, names_port).await;
    class.with_context(|| format!("cannot make IngressClass `{CLASS}`"))?;
    let client = cluster.client("portolan:ingress", &[]);
    cluster.spawn("ingress", ingress.run(client, shutdown.clone()));
    Ok(())
}
