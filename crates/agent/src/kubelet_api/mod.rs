//! The kubelet's HTTP API: what the API server asks a node for when a user types `logs`, `exec`, `attach` or `port-forward`.
//!
//! It speaks the kubelet's own paths, so that another API server's requests fit too, and WebSocket channels for streams. It knows pods only
//! through [`Pods`]; who may ask is the API server's to decide, and the way here is not open to anyone else.

mod channels;
mod conversation;
mod exec;
mod logs;
mod portforward;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use containers::runtime::Runtime;
use linux::NetNs;

/// A container of a pod on this node, as the runtime names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    pub sandbox: String,
    pub container: String,
    pub log_path: PathBuf,
    /// Log of the instance before this one, if it was restarted.
    pub previous_log_path: Option<PathBuf>,
    pub running: bool,
    pub tty: bool,
    pub stdin: bool,
}

/// Why a container cannot be spoken to; the text goes to the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error("pod \"{0}\" not found")]
    Pod(String),
    #[error("container {container} is not valid for pod {pod}")]
    Container { pod: String, container: String },
    /// There, but not started; the reason as the pod's status gives it.
    #[error("container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}")]
    Waiting { pod: String, container: String, reason: String },
    #[error("unable to forward port because pod is not running. Current status={phase}")]
    NotRunning { phase: String },
    #[error("previous terminated container \"{container}\" in pod \"{pod}\" not found")]
    Previous { pod: String, container: String },
}

impl Missing {
    fn code(&self) -> StatusCode {
        match self {
            Missing::Pod(_) => StatusCode::NOT_FOUND,
            Missing::Container { .. }
            | Missing::Waiting { .. }
            | Missing::NotRunning { .. }
            | Missing::Previous { .. } => StatusCode::BAD_REQUEST,
        }
    }
}

impl IntoResponse for Missing {
    fn into_response(self) -> Response {
        (self.code(), self.to_string()).into_response()
    }
}

/// The pods of this node, as the agent knows them.
pub trait Pods: Send + Sync + 'static {
    /// The newest instance of a container, running or ended.
    fn locate(&self, namespace: &str, pod: &str, container: &str) -> Result<Located, Missing>;

    /// The network of a pod that runs.
    fn network(&self, namespace: &str, pod: &str) -> Result<NetNs, Missing>;
}

#[derive(Clone)]
struct Node {
    pods: Arc<dyn Pods>,
    runtime: Arc<dyn Runtime>,
}

/// The API of one node.
pub fn router(pods: Arc<dyn Pods>, runtime: Arc<dyn Runtime>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::logs))
        .route("/exec/{namespace}/{pod}/{container}", any(exec::exec))
        .route("/portForward/{namespace}/{pod}", any(portforward::port_forward))
        .route("/attach/{namespace}/{pod}/{container}", any(exec::attach))
        .with_state(Node { pods, runtime })
}

/// A query's parameters in order; names may repeat.
#[derive(Debug, Default)]
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn parse(query: Option<&str>) -> Self {
        Parameters(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    /// The kubelet writes `1`, the API server `true`.
    fn is_set(&self, names: [&str; 2]) -> bool {
        names.into_iter().any(|name| matches!(self.get(name), Some("1" | "true")))
    }
}
