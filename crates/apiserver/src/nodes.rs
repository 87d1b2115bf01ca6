//! The way to a node: how the server reaches the HTTP API of a node's agent.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Who does not answer a connection by then is not there.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a node's agent.
pub trait NodeStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> NodeStream for T {}

/// What [`NodeDialer::dial`] answers.
pub type Dial<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn NodeStream>>> + Send + 'a>>;

/// Opens connections to agents. Plain HTTP/1.1 is spoken over them; whoever dials adds TLS where the way is not our own machine.
pub trait NodeDialer: Debug + Send + Sync + 'static {
    fn dial<'a>(&'a self, node: &'a Node) -> Dial<'a>;

    /// Opens a connection to a pod's address, for the subresource `proxy`.
    fn dial_address(&self, address: SocketAddr) -> Dial<'_> {
        Box::pin(async move {
            let dialed = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await;
            let stream = dialed.map_err(|_| io::Error::from(io::ErrorKind::TimedOut)).and_then(|stream| stream);
            let stream =
                stream.map_err(|error| io::Error::new(error.kind(), format!("dial tcp {address}: {error}")))?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn NodeStream>)
        })
    }
}

/// For a server without nodes.
#[derive(Debug, Clone, Copy)]
pub struct NoNodes;

impl NodeDialer for NoNodes {
    fn dial<'a>(&'a self, _node: &'a Node) -> Dial<'a> {
        Box::pin(async { Err(io::Error::new(io::ErrorKind::NotConnected, "this API server has no way to nodes")) })
    }
}
