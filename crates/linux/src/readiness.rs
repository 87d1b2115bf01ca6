//! Waiting for a descriptor from async code.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime that calls; it must be non-blocking.
pub fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor must stay open and the same for as long as the `AsyncFd` lives. It is owned, moved in, and
    // `AsyncFd` gives out only shared references, through which an `OwnedFd` can be neither closed nor replaced.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}
