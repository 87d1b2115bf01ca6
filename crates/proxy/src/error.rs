//! Why the proxy could not do something. Nothing of this ends it: it says so, reads the kernel again and goes on.

use std::net::SocketAddr;

use nft::Errno;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot open the node's network namespace for nf_tables")]
    Open(#[source] netlink::Error),
    #[error("cannot listen on {address} in the node's network namespace")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot enter the node's network namespace")]
    Enter(#[source] linux::Error),
    #[error("read of the table failed")]
    Read(#[source] netlink::Error),
    #[error("commit of {operations} nftables operations failed")]
    Commit { operations: usize, source: netlink::Error },
    #[error("deletion of stale UDP flows failed")]
    Flows(#[source] netlink::Error),
}

impl Error {
    /// Whether the kernel had no room for a transaction, and may have for a smaller one.
    pub(crate) fn is_too_large(&self) -> bool {
        let Error::Commit { source, .. } = self else { return false };
        source.errno().is_some_and(|errno| [Errno::EMSGSIZE, Errno::ENOMEM, Errno::ENOBUFS].contains(&errno))
    }
}
