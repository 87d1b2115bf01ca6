//! Listening sockets: opened inside the namespace that has the address, accepted from anywhere.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use linux::NetNs;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::client::Door;
use super::worker::{Accepted, Workers};
use crate::Error;

const BACKLOG: i32 = 4096;
/// Finds peers that are gone without a word, on connections that may be silent for long.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A socket that listens already; nobody is accepted before it is served.
#[derive(Debug)]
pub(crate) struct Bound {
    listener: TcpListener,
    door: Arc<Door>,
    pub address: SocketAddr,
}

/// Opens a socket on `address` in `namespace`.
pub(crate) fn bind(namespace: &NetNs, address: SocketAddr, mut door: Door) -> Result<Bound, Error> {
    let failed = |source| Error::Listen { address, source };
    let listener = namespace.run(|| open(address))?.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    door.port = address.port();
    Ok(Bound { listener, door: Arc::new(door), address })
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        // An address that was just given cannot be bound for a second otherwise: it is still asked for on the link (RFC 4862, 5.4).
        socket.set_freebind_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Bound {
    pub fn is_tls(&self) -> bool {
        self.door.tls
    }

    /// Accepts until `stop`; connections that the kernel has taken by then are served too.
    pub async fn accept(self, workers: Workers, stop: CancellationToken) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => give(&workers, stream, peer, &self.door),
                Err(error) if is_of_one(&error) => {}
                Err(error) => {
                    // Out of descriptors or memory: others may let go of some.
                    warn!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        let listener = listener.into_std()?;
        while let Ok((stream, peer)) = listener.accept() {
            stream.set_nonblocking(true)?;
            give(&workers, tokio::net::TcpStream::from_std(stream)?, peer, &self.door);
        }
        Ok(())
    }
}

fn give(workers: &Workers, stream: tokio::net::TcpStream, peer: SocketAddr, door: &Arc<Door>) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    let set = stream.set_nodelay(true).and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&keepalive));
    // The worker registers it with its own runtime.
    let Ok(stream) = set.and_then(|()| stream.into_std()) else { return };
    workers.serve(Accepted { stream, peer, door: Arc::clone(door) });
}

/// A fault of the connection that would have been accepted, not of the listener (accept(2)).
fn is_of_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    [ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted].contains(&error.kind())
}
