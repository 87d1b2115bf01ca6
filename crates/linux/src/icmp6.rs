//! ICMPv6 messages of one type on one link: what neighbour discovery (RFC 4861) is spoken over.
//!
//! The kernel makes the IPv6 header and the checksum. Messages that came over a router (hop limit below 255) are dropped here, as RFC 4861
//! section 7.1 asks of everyone.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, bind,
    recvmsg, sendmsg, sendto, setsockopt, socket, sockopt,
};
use tokio::io::unix::AsyncFd;

use crate::{Error, NetNs, Result, readiness};

/// Neighbour solicitation: who has this address?
pub const SOLICITATION: u8 = 135;
/// Neighbour advertisement: I have it.
pub const ADVERTISEMENT: u8 = 136;

/// A raw ICMPv6 socket that hears some types of message on one link.
#[derive(Debug)]
pub struct Icmp6Socket {
    fd: AsyncFd<OwnedFd>,
    index: u32,
}

impl Icmp6Socket {
    /// Opens one inside `ns` on the link with that index and name, for messages of the types that are named. Must be called within a tokio
    /// runtime.
    pub fn open(ns: &NetNs, index: u32, name: &str, types: &[u8]) -> Result<Icmp6Socket> {
        let failed = |source: io::Error| Error::call("open an ICMPv6 socket", source);
        let fd = ns.run(|| opened(name, types))?.map_err(failed)?;
        Ok(Icmp6Socket { fd: readiness::register(fd).map_err(failed)?, index })
    }

    /// Hears what is sent to a multicast group on the link. Joining twice is no error.
    pub fn join(&self, group: Ipv6Addr) -> io::Result<()> {
        match self.membership(libc::IPV6_ADD_MEMBERSHIP, group) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => Ok(()),
            other => other,
        }
    }

    /// Stops hearing a multicast group.
    pub fn leave(&self, group: Ipv6Addr) -> io::Result<()> {
        self.membership(libc::IPV6_DROP_MEMBERSHIP, group)
    }

    fn membership(&self, option: libc::c_int, group: Ipv6Addr) -> io::Result<()> {
        let request = libc::ipv6_mreq {
            ipv6mr_multiaddr: libc::in6_addr { s6_addr: group.octets() },
            ipv6mr_interface: self.index,
        };
        let len = size_of_val(&request) as libc::socklen_t;
        // SAFETY: `request` is a whole ipv6_mreq of the length given, which setsockopt(2) only reads during the call.
        let set = unsafe {
            libc::setsockopt(self.fd.as_raw_fd(), libc::IPPROTO_IPV6, option, (&raw const request).cast(), len)
        };
        if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for the next message that did not cross a router; gives its length and its sender.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Ipv6Addr)> {
        loop {
            let mut ready = self.fd.readable().await?;
            match ready.try_io(|fd| receive(fd.get_ref(), buffer)) {
                Ok(Ok(Some(received))) => return Ok(received),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(None)) | Err(_) => {}
            }
        }
    }

    /// Sends a message, its checksum left zero, to an address on the link.
    pub fn send(&self, to: Ipv6Addr, message: &[u8]) -> io::Result<()> {
        let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, self.index));
        sendto(self.fd.as_raw_fd(), message, &to, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }

    /// As [`Icmp6Socket::send`], from an address that this machine need not have.
    pub fn send_as(&self, from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> io::Result<()> {
        let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, self.index));
        let from = libc::in6_addr { s6_addr: from.octets() };
        let source = libc::in6_pktinfo { ipi6_addr: from, ipi6_ifindex: self.index };
        let control = [ControlMessage::Ipv6PacketInfo(&source)];
        sendmsg(self.fd.as_raw_fd(), &[IoSlice::new(message)], &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
        Ok(())
    }
}

fn opened(name: &str, types: &[u8]) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet6, SockType::Raw, flags, SockProtocol::IcmpV6)?;
    filter(&fd, types)?;
    setsockopt(&fd, sockopt::Ipv6RecvHopLimit, &true)?;
    // RFC 4861: what does not come with 255 is not heard.
    setsockopt(&fd, sockopt::Ipv6MulticastHops, &255)?;
    setsockopt(&fd, sockopt::Ipv6Ttl, &255)?;
    free_bind(&fd)?;
    setsockopt(&fd, sockopt::BindToDevice, &std::ffi::OsString::from(name))?;
    bind(fd.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0)))?;
    Ok(fd)
}

/// Lets messages be sent from addresses that are not ours (ipv6(7)).
fn free_bind(fd: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let len = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the option's value is one int, which setsockopt(2) only reads during the call.
    let set = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, (&raw const on).cast(), len)
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets only those types through (RFC 3542 section 3.2): a set bit blocks.
fn filter(fd: &OwnedFd, types: &[u8]) -> io::Result<()> {
    const ICMP6_FILTER: libc::c_int = 1;
    let mut blocked = [u32::MAX; 8];
    for kind in types {
        blocked[usize::from(kind >> 5)] &= !(1 << (kind & 31));
    }
    let len = size_of_val(&blocked) as libc::socklen_t;
    // SAFETY: the filter is 32 bytes, as `struct icmp6_filter` is, and setsockopt(2) only reads them during the call.
    let set = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_ICMPV6, ICMP6_FILTER, (&raw const blocked).cast(), len)
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<(usize, Ipv6Addr)>> {
    let mut space = nix::cmsg_space!(libc::c_int);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrIn6>(fd.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
    let mut hops = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::Ipv6HopLimit(limit) = control {
            hops = Some(limit);
        }
    }
    let sender = message.address.map(|address| address.ip());
    Ok(sender.filter(|_| hops == Some(255)).map(|sender| (message.bytes, sender)))
}
