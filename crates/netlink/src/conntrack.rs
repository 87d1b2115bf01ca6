//! The connections that the kernel tracks in a network namespace: list them, and make it forget some.
//!
//! A UDP flow lives on in conntrack after the endpoint that it was sent to has gone, because its client goes on sending;
//! only forgetting it lets the next packet choose anew. Calls block for as long as the kernel takes.

mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use linux::NetNs;
use nft::wire::Messages;
use nft::{CtStatus, Errno};

use crate::socket::Socket;
use crate::{Error, Result};

/// The conntrack socket of one namespace.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
    sequence: u32,
}

/// A tracked connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// 17 for UDP; only protocols with ports are listed.
    pub protocol: u8,
    /// As the client sent it.
    pub original: Tuple,
    /// As the answer comes: its source is where DNAT sent the packets, its destination what masquerade made of the client.
    pub reply: Tuple,
    /// `IPS_*` bits, see [`nft::CtStatus`].
    pub status: u32,
    pub mark: u32,
    /// How much longer it is remembered without another packet.
    pub expires: Duration,
    /// The kernel's number of the flow: two flows with the same addresses, one after the other, differ in it.
    pub id: u32,
    /// `TCP_CONNTRACK_*`, for TCP.
    tcp_state: Option<u8>,
    zone: Option<u16>,
}

impl Flow {
    /// Whether packets are still to be expected: for TCP, from the first one until both sides have ended it.
    pub fn is_open(&self) -> bool {
        // Source: nf_conntrack_tcp.h; 6 is LAST_ACK, 7 TIME_WAIT, 8 CLOSE.
        self.tcp_state.is_none_or(|state| (1..=5).contains(&state))
    }

    /// Whether the other side has sent a packet.
    pub fn is_answered(&self) -> bool {
        self.status & CtStatus::SEEN_REPLY.0 != 0
    }
}

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

impl Conntrack {
    /// Opens a socket inside `ns`.
    pub fn open(ns: &NetNs) -> Result<Conntrack> {
        Ok(Conntrack { socket: Socket::open(ns, "conntrack")?, sequence: 1 })
    }

    /// The flows of a protocol, of both address families, that `wanted` picks. Flows come and go while it lists them.
    pub fn list(&mut self, protocol: u8, mut wanted: impl FnMut(&Flow) -> bool) -> Result<Vec<Flow>> {
        let mut flows = Vec::new();
        for ipv6 in [false, true] {
            let mut take = |flow: Flow| {
                if flow.protocol == protocol && wanted(&flow) {
                    flows.push(flow);
                }
            };
            match self.dump(Some(ipv6), Some(protocol), &mut take) {
                // Kernels before 5.8 do not filter.
                Err(error) if matches!(error.errno(), Some(Errno::EINVAL | Errno::EOPNOTSUPP)) => {
                    self.dump(Some(ipv6), None, &mut take)?;
                }
                other => other?,
            }
        }
        Ok(flows)
    }

    /// How many flows of any protocol and family `wanted` picks. The kernel goes once through its table for this, which takes it the longer
    /// the larger the machine's is, and for [`Conntrack::list`] twice.
    pub fn count(&mut self, mut wanted: impl FnMut(&Flow) -> bool) -> Result<usize> {
        let mut count = 0;
        self.dump(None, None, &mut |flow| count += usize::from(wanted(&flow)))?;
        Ok(count)
    }

    /// Makes the kernel forget a flow. Says whether it was still there; one with the same addresses that began since is
    /// left alone.
    pub fn delete(&mut self, flow: &Flow) -> Result<bool> {
        let sequence = self.next();
        let failed = |errno| Error::Dump { act: "delete a tracked connection", errno };
        let io = |error: std::io::Error| failed(Errno(error.raw_os_error().unwrap_or(0)));
        self.socket.send(&wire::delete(flow, sequence)).map_err(io)?;
        loop {
            let bytes = self.socket.receive().map_err(io)?;
            for reply in Messages(bytes).filter(|reply| reply.sequence == sequence) {
                match reply.errno() {
                    Some(0) => return Ok(true),
                    Some(libc::ENOENT) => return Ok(false),
                    Some(errno) => return Err(failed(Errno(errno))),
                    None => {}
                }
            }
        }
    }

    /// Makes the kernel forget all flows of a protocol that `wanted` picks, and says how many there were.
    pub fn delete_where(&mut self, protocol: u8, wanted: impl FnMut(&Flow) -> bool) -> Result<usize> {
        let mut deleted = 0;
        for flow in self.list(protocol, wanted)? {
            deleted += usize::from(self.delete(&flow)?);
        }
        Ok(deleted)
    }

    fn dump(&mut self, ipv6: Option<bool>, protocol: Option<u8>, take: &mut dyn FnMut(Flow)) -> Result<()> {
        let sequence = self.next();
        let failed = |errno| Error::Dump { act: "list tracked connections", errno };
        let io = |error: std::io::Error| failed(Errno(error.raw_os_error().unwrap_or(0)));
        self.socket.send(&wire::dump(ipv6, protocol, sequence)).map_err(io)?;
        loop {
            let bytes = self.socket.receive().map_err(io)?;
            for message in Messages(bytes).filter(|message| message.sequence == sequence) {
                match message.errno() {
                    Some(0) => return Ok(()),
                    Some(errno) => return Err(failed(Errno(errno))),
                    None => wire::flow(message.body).into_iter().for_each(&mut *take),
                }
            }
        }
    }

    fn next(&mut self) -> u32 {
        while self.socket.receive().is_ok() {}
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}
