//! The daemon's end of the conversation with a shim.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;

use crate::Error;
use crate::disk::SandboxDir;
use crate::shim::protocol::{self, Failure, Reply, Request};

/// Longer than anything that a shim does; one that takes longer is stuck, and so is whoever waits.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection: requests go one by one.
#[derive(Debug)]
pub(super) struct Connection {
    socket: AsyncFd<OwnedFd>,
    sandbox: String,
}

impl Connection {
    pub(super) fn open(sandbox: &str, dir: &SandboxDir) -> Result<Connection, Error> {
        let gone = |reason: String| Error::ShimGone { sandbox: sandbox.to_owned(), reason };
        let socket = linux::socket::connect_to(&dir.socket()).map_err(|e| gone(e.to_string()))?;
        let socket = linux::readiness::register(socket).map_err(|e| gone(e.to_string()))?;
        Ok(Connection { socket, sandbox: sandbox.to_owned() })
    }

    /// Asks, and waits for the answer; a refusal becomes an error.
    pub(super) async fn ask(&self, request: &Request, descriptors: &[OwnedFd]) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let asked = async {
            self.send(request, &raw).await?;
            self.receive().await
        };
        let answered = tokio::time::timeout(PATIENCE, asked).await;
        let (reply, descriptors) = answered.map_err(|_| self.gone(format!("no answer in {PATIENCE:?}")))??;
        match reply {
            Reply::Failed(failure) => Err(self.failed(request, failure)),
            reply => Ok((reply, descriptors)),
        }
    }

    /// What the shim says next.
    pub(super) async fn next(&self) -> Result<Reply, Error> {
        Ok(self.receive().await?.0)
    }

    async fn send(&self, message: &impl Serialize, descriptors: &[RawFd]) -> Result<(), Error> {
        loop {
            let mut ready = self.socket.writable().await.map_err(|e| self.gone(e.to_string()))?;
            match ready.try_io(|socket| protocol::send(socket, message, descriptors)) {
                Ok(sent) => return sent.map_err(|e| self.unsent(e)),
                Err(_would_block) => {}
            }
        }
    }

    async fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), Error> {
        loop {
            let mut ready = self.socket.readable().await.map_err(|e| self.gone(e.to_string()))?;
            match ready.try_io(|socket| protocol::receive(socket)) {
                Ok(Ok(Some(message))) => return Ok(message),
                Ok(Ok(None)) => return Err(self.gone("it hung up".to_owned())),
                Ok(Err(e)) => return Err(self.gone(e.to_string())),
                Err(_would_block) => {}
            }
        }
    }

    fn gone(&self, reason: String) -> Error {
        Error::ShimGone { sandbox: self.sandbox.clone(), reason }
    }

    fn unsent(&self, error: io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::EMSGSIZE) => Error::Exec("argument list too long".to_owned()),
            _ => self.gone(error.to_string()),
        }
    }

    fn failed(&self, request: &Request, failure: Failure) -> Error {
        let is_exec = matches!(request, Request::Exec { .. });
        let container = match request {
            Request::Start { container }
            | Request::Signal { container, .. }
            | Request::Forget { container }
            | Request::Exec { container, .. }
            | Request::Attach { container, .. }
            | Request::ReopenLog { container } => container.clone(),
            Request::Watch | Request::Shutdown => self.sandbox.clone(),
        };
        match failure {
            Failure::Create(text) | Failure::Start(text) if is_exec => Error::Exec(text),
            Failure::Create(text) => Error::Create(text),
            Failure::Start(text) => Error::Start(text),
            Failure::NotRunning { state } => Error::NotRunning { container, state },
            Failure::Invalid(text) => Error::Invalid(format!("container `{container}`: {text}")),
        }
    }
}
