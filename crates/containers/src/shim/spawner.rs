//! The process that shims are copied from: our own binary once more, started by the daemon, which talks to it over its
//! standard input and ends it by closing that.
//!
//! A shim could be started by executing the binary for each, but each would then have its own relocated copy of
//! everything that the dynamic linker touches, megabytes in a program that is mostly something else, and would spend
//! most of its start there. Copies of one process share those pages, and are there in a millisecond.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::protocol;
use crate::disk::SandboxDir;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spawn {
    /// The sandbox's folder.
    pub(crate) dir: PathBuf,
}

/// Why there is no shim, if there is none.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spawned {
    pub(crate) failure: Option<String>,
}

/// Serves until the daemon closes the connection.
pub(super) fn run() -> Result<(), String> {
    let _ = nix::sys::prctl::set_name(c"portolan-shims");
    let children = linux::process::child_signals().map_err(|e| e.to_string())?;
    let stdin = io::stdin();
    let daemon: BorrowedFd<'_> = stdin.as_fd();
    loop {
        let mut fds = [PollFd::new(daemon, PollFlags::POLLIN), PollFd::new(children.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.to_string()),
        }
        while children.read_signal().is_ok_and(|signal| signal.is_some()) {}
        // Shims that have ended; what became of their containers is on disk.
        while linux::process::reap().is_some() {}
        match protocol::receive::<Spawn>(&daemon) {
            Ok(Some((spawn, _))) => {
                let failure = super::launch(SandboxDir(spawn.dir)).err();
                protocol::send(&daemon, &Spawned { failure }, &[]).map_err(|e| e.to_string())?;
            }
            Ok(None) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.to_string()),
        }
    }
}
