//! Packets of one protocol on one link, below IP: what ARP is spoken over.
//!
//! The kernel writes and strips the Ethernet header (packet(7), `SOCK_DGRAM`); callers see payloads and MAC addresses. The socket stays in
//! the namespace and on the link that it was opened for.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use tokio::io::unix::AsyncFd;

use crate::{Error, NetNs, Result, readiness};

/// ARP, as Ethernet numbers it.
pub const ARP: u16 = 0x0806;
/// Everyone on the link.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// A socket for the packets of one protocol on one link.
#[derive(Debug)]
pub struct PacketSocket {
    fd: AsyncFd<OwnedFd>,
    index: i32,
    protocol: u16,
}

impl PacketSocket {
    /// Opens one inside `ns` on the link with that index. Must be called within a tokio runtime.
    pub fn open(ns: &NetNs, index: u32, protocol: u16) -> Result<PacketSocket> {
        let failed = |source: io::Error| Error::call("open a packet socket", source);
        let index = i32::try_from(index).map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
        let fd = ns.run(|| bound(index, protocol))?.map_err(failed)?;
        Ok(PacketSocket { fd: readiness::register(fd).map_err(failed)?, index, protocol })
    }

    /// Waits for the next packet and says how long its payload is; what does not fit is cut off.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.fd.readable().await?;
            match ready.try_io(|fd| receive(fd.get_ref(), buffer)) {
                Ok(received) => return received,
                Err(_would_block) => {}
            }
        }
    }

    /// Sends a payload to a MAC address. It does not wait: a full queue is an error, as on the wire.
    pub fn send(&self, to: [u8; 6], payload: &[u8]) -> io::Result<()> {
        let mut address = address(self.index, self.protocol);
        address.sll_halen = 6;
        address.sll_addr[..6].copy_from_slice(&to);
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: `payload` and `address` are valid for reads of the lengths given, and live through the call.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                payload.as_ptr().cast(),
                payload.len(),
                libc::MSG_DONTWAIT,
                (&raw const address).cast(),
                len,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn bound(index: i32, protocol: u16) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // Protocol 0: nothing arrives before it is bound to the link, so that no other link's packets wait in it.
    // SAFETY: socket(2) takes plain numbers; the result is checked before it is owned.
    let raw = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` was just made by socket(2) and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    let address = address(index, protocol);
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is a whole sockaddr_ll of the length given, and lives through the call.
    if unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `buffer` is valid for writes of its length for the whole call, and the descriptor is owned and open.
    let received = unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

fn address(index: i32, protocol: u16) -> libc::sockaddr_ll {
    // SAFETY: sockaddr_ll is plain data for which all zeroes is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index;
    address
}
