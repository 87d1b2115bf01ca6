//! The API server's way to the agents in this process: the same HTTP over a pipe in memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::{PoisonError, RwLock};

use apiserver::nodes::{Dial, NodeDialer, NodeStream};
use axum::Router;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::core::v1::Node;

/// Bytes that may wait in the pipe, each way.
const PIPE: usize = 256 * 1024;

/// The kubelet APIs of the nodes in this process, by node name.
#[derive(Debug, Default)]
pub struct InProcess {
    nodes: RwLock<BTreeMap<String, Router>>,
}

impl InProcess {
    pub fn add(&self, node: &str, api: Router) {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned(), api);
    }

    fn connect(&self, node: &str) -> io::Result<Box<dyn NodeStream>> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let Some(api) = nodes.get(node).cloned() else {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("node {node} has no agent here")));
        };
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
