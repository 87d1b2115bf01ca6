//! The ways between the API server and the agents in this process: the same HTTP over a pipe in memory, as long as the node's network is there.
//!
//! Nothing but [`link_of`] would keep a node that has lost its network from going on as if nothing had happened. So its agent and its proxy
//! neither hear nor say anything while its uplink has no carrier, and the API server does not reach its agent: to the cluster it is lost, as
//! a machine would be. The first node is where the API server is, and needs no network for that.

use std::collections::BTreeMap;
use std::io;
use std::sync::{PoisonError, RwLock};

use apiserver::nodes::{Dial, NodeDialer, NodeStream};
use axum::Router;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::core::v1::Node;
use linux::NetNs;
use netlink::links::{LinkChanges, Links};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::network::UPLINK;

/// Bytes that may wait in the pipe, each way.
const PIPE: usize = 256 * 1024;

/// A link that is never cut.
pub fn always_up() -> watch::Receiver<bool> {
    watch::channel(true).1
}

/// Whether a node has its network, from now on until `shutdown`.
///
/// # Errors
/// When the kernel does not tell of links.
pub async fn link_of(
    node: &str,
    namespace: &NetNs,
    shutdown: CancellationToken,
) -> netlink::Result<watch::Receiver<bool>> {
    let (mut changes, links) = (LinkChanges::open(namespace)?, Links::open(namespace)?);
    let (tell, up) = watch::channel(links.link(UPLINK).await?.carrier);
    let node = node.to_owned();
    tokio::spawn(shutdown.run_until_cancelled_owned(async move {
        loop {
            changes.next().await;
            let now = match links.find_link(UPLINK).await {
                Ok(link) => link.is_some_and(|link| link.carrier),
                Err(error) => {
                    error!(node, error = %telemetry::chain(&error), "cannot see whether the node has its network");
                    continue;
                }
            };
            if tell.send_if_modified(|up| std::mem::replace(up, now) != now) {
                if now {
                    info!(node, "the node has its network again")
                } else {
                    warn!(node, "the node has lost its network")
                }
            }
        }
    }));
    Ok(up)
}

/// The kubelet APIs of the nodes in this process, by node name.
#[derive(Debug, Default)]
pub struct InProcess {
    nodes: RwLock<BTreeMap<String, (Router, watch::Receiver<bool>)>>,
}

impl InProcess {
    pub fn add(&self, node: &str, api: Router, up: watch::Receiver<bool>) {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned(), (api, up));
    }

    fn connect(&self, node: &str) -> io::Result<Box<dyn NodeStream>> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let Some((api, up)) = nodes.get(node).cloned() else {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("node {node} has no agent here")));
        };
        if !*up.borrow() {
            return Err(io::Error::new(
                io::ErrorKind::HostUnreachable,
                format!("dial {node}: connect: no route to host"),
            ));
        }
        let (ours, theirs) = tokio::io::duplex(PIPE);
        tokio::spawn(async move {
            let serving = hyper::server::conn::http1::Builder::new();
            // The connection ends with either side; there is nobody to tell.
            let _ = serving.serve_connection(TokioIo::new(theirs), TowerToHyperService::new(api)).with_upgrades().await;
        });
        Ok(Box::new(ours))
    }
}

impl NodeDialer for InProcess {
    fn dial<'a>(&'a self, node: &'a Node) -> Dial<'a> {
        Box::pin(async { self.connect(node.metadata.name.as_deref().unwrap_or_default()) })
    }
}
