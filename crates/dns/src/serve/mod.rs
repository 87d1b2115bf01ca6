//! The sockets: UDP and TCP on each address, opened inside the namespace that has it or taken over from whoever kept them.

mod tcp;
mod udp;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use linux::NetNs;
use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::Error;
use crate::keep::{AsFdDyn, Kept};
use crate::metrics::Metrics;
use crate::respond::Responder;
use crate::wire::Rcode;

/// What serving one socket needs.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) responder: Arc<Responder>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) log_queries: bool,
    pub(crate) shutdown: CancellationToken,
}

/// The open sockets of one address.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) udp: Vec<UdpSocket>,
    pub(crate) tcp: TcpListener,
}

impl Sockets {
    /// What each socket is for: the place of its address in the list, the address, and among several its number.
    pub(crate) fn labelled(&self, number: usize) -> Vec<(String, &dyn AsFdDyn)> {
        let Ok(address) = self.tcp.local_addr() else { return Vec::new() };
        let udp = self.udp.iter().enumerate();
        let udp = udp.map(|(n, socket)| (label(number, address, Some(n)), socket as &dyn AsFdDyn));
        udp.chain([(label(number, address, None), &self.tcp as &dyn AsFdDyn)]).collect()
    }

    /// The sockets of an address from those that an earlier server left; none unless all of them are there.
    pub(crate) fn adopt(left: &mut Kept, number: usize, address: SocketAddr, threads: usize) -> Option<Self> {
        let tcp = TcpListener::from(left.remove(&label(number, address, None))?);
        let udp = (0..threads.max(1)).map(|n| left.remove(&label(number, address, Some(n))).map(UdpSocket::from));
        Some(Sockets { udp: udp.collect::<Option<Vec<_>>>()?, tcp })
    }
}

fn label(number: usize, address: SocketAddr, udp: Option<usize>) -> String {
    udp.map_or_else(|| format!("{number} {address} tcp"), |n| format!("{number} {address} udp {n}"))
}

/// Opens `threads` UDP sockets, among which the kernel spreads clients, and one for TCP.
pub(crate) fn open(namespace: &NetNs, address: SocketAddr, threads: usize) -> Result<Sockets, Error> {
    let failed = |source| Error::Listen { address, source };
    let open = || {
        // The first one chooses the port if none is given.
        let tcp = tcp_listener(address)?;
        let address = tcp.local_addr()?;
        let udp = (0..threads.max(1)).map(|_| udp_socket(address)).collect::<io::Result<Vec<_>>>()?;
        Ok(Sockets { udp, tcp })
    };
    namespace.run(open)?.map_err(failed)
}

fn udp_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A burst of questions waits in the kernel rather than being lost, also while nobody reads.
    socket.set_recv_buffer_size(4 << 20)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn tcp_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// Serves until shutdown; the threads end after they have answered all that had arrived. `kept`: somebody else has copies of the sockets.
pub(crate) fn serve(sockets: Sockets, kept: bool, service: &Service) -> io::Result<Vec<JoinHandle<()>>> {
    let Sockets { udp, tcp } = sockets;
    tcp.set_nonblocking(true)?;
    info!(address = %tcp.local_addr()?, threads = udp.len(), "serving DNS");
    let listener = tokio::net::TcpListener::from_std(tcp)?;
    tokio::spawn(tcp::serve(listener, service.clone()));
    udp.into_iter().map(|socket| udp::spawn(socket, kept, service.clone())).collect()
}

/// One line a question, on request: the fields of CoreDNS' `log` plugin.
#[derive(Debug)]
struct Logged<'a> {
    client: SocketAddr,
    question: &'a [u8],
    proto: &'static str,
    size: usize,
    code: Rcode,
    took: Duration,
}

impl Logged<'_> {
    fn log(&self) {
        let (name, kind, id) = match crate::wire::request::Request::read(self.question) {
            Ok(request) => {
                let id = u16::from_be_bytes([self.question[0], self.question[1]]);
                (crate::wire::name::to_text(request.name.as_slice()), request.kind, id)
            }
            Err(_) => ("-".to_owned(), 0, 0),
        };
        let kind = hickory_proto::rr::RecordType::from(kind);
        info!(
            target: "dns::query",
            client = %self.client, id, %name, r#type = %kind, proto = self.proto, size = self.question.len(),
            rcode = self.code.text(), answer = self.size, took = ?self.took, "query"
        );
    }
}
