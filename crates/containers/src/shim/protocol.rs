//! What daemon and shim say to each other: one JSON value a message, descriptors beside it.
//!
//! A daemon of a newer version must be able to talk to a shim of an older one, so requests and replies only ever grow.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::runtime::Exit;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Makes and starts the container whose bundle lies ready. Reply: `Started`.
    Start { container: String },
    /// Reply: `Done`.
    Signal { container: String, signal: i32 },
    /// Forgets a container that has ended. Reply: `Done`.
    Forget { container: String },
    /// With up to three descriptors, the process's standard streams in the order of `streams`. Replies: `Started`, with
    /// the terminal's master if there is one, and later, on the same connection, `Exited`. A connection that closes
    /// before kills the process.
    Exec { container: String, command: Vec<String>, tty: bool, streams: [bool; 3] },
    /// Reply: `Attached`, with descriptors in the order in which it names them.
    Attach { container: String, stdin: bool },
    /// Reply: `Done`.
    ReopenLog { container: String },
    /// Turns the connection into one that tells every exit from now on; `Done` comes first.
    Watch,
    /// Kills everything and ends the shim. Reply: `Done`, then the connection closes.
    Shutdown,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Done,
    Started {
        pid: i32,
    },
    Exited {
        code: i32,
    },
    Attached {
        stdin: bool,
        stdout: bool,
        stderr: bool,
        terminal: bool,
    },
    /// On a watching connection.
    ContainerExited {
        container: String,
        exit: Exit,
    },
    /// The request was understood and could not be carried out.
    Failed(Failure),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// The container could not be made.
    Create(String),
    /// Its command, or that of an exec, could not be run.
    Start(String),
    /// It is not in a state for this.
    NotRunning { state: String },
    /// The request makes no sense to this shim.
    Invalid(String),
}

pub(crate) fn send(socket: &impl AsFd, message: &impl Serialize, descriptors: &[RawFd]) -> io::Result<()> {
    linux::socket::send(socket, &serde_json::to_vec(message)?, descriptors)
}

/// The next message and what came with it; `None` when the other end has closed.
pub(crate) fn receive<T: DeserializeOwned>(socket: &impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let (bytes, descriptors) = linux::socket::receive(socket)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&bytes)?, descriptors)))
}
