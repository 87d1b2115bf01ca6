//! A netfilter netlink socket: the few system calls that there are, and nothing that knows what the messages say.

#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use linux::NetNs;

use crate::{Error, Result};

/// As much as the kernel puts into one message of a dump, and more than any notification.
const RECEIVE: usize = 1 << 16;

/// A `NETLINK_NETFILTER` socket, bound, in the namespace that it was opened in.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    port: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub(crate) fn open(ns: &NetNs, purpose: &'static str) -> Result<Socket> {
        let fd = ns.run(netfilter_socket).map_err(Error::Enter)?;
        fd.and_then(|fd| {
            let port = port(&fd)?;
            // Acknowledgements need not repeat what they acknowledge, and may say more than a number.
            set_option(&fd, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1)?;
            set_option(&fd, libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1)?;
            Ok(Socket { fd, port, buffer: vec![0; RECEIVE] })
        })
        .map_err(|source| Error::Open { purpose, source })
    }

    /// The number by which the kernel tells this socket from others; messages that it causes carry it.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Asks for the notifications of a multicast group.
    pub(crate) fn join(&self, group: i32) -> io::Result<()> {
        set_option(&self.fd, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)
    }

    /// Makes room for one send of so many bytes, beyond the machine's limit.
    pub(crate) fn reserve_send(&self, bytes: usize) -> io::Result<()> {
        let wanted = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX / 2);
        set_option(&self.fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted)
    }

    /// Makes room for so many bytes that wait to be read, beyond the machine's limit.
    pub(crate) fn reserve_receive(&self, bytes: usize) -> io::Result<()> {
        let wanted = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX / 2);
        set_option(&self.fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted)
    }

    /// Sends all of it to the kernel, which works on it before this returns.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            // SAFETY: `bytes` is valid for reads of its length for the whole call, and the descriptor is owned and open.
            let sent = unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// What is there to be read, without waiting: `WouldBlock` when there is nothing.
    pub(crate) fn receive(&mut self) -> io::Result<&[u8]> {
        loop {
            // SAFETY: `buffer` is valid for writes of its length for the whole call, and the descriptor is owned and open.
            let received = unsafe {
                libc::recv(self.fd.as_raw_fd(), self.buffer.as_mut_ptr().cast(), self.buffer.len(), libc::MSG_DONTWAIT)
            };
            if let Ok(len) = usize::try_from(received) {
                return Ok(&self.buffer[..len]);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn netfilter_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket(2) takes plain numbers; the result is checked before it is owned.
    let raw = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` was just made by socket(2) and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    let address = empty_address();
    let len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    // SAFETY: `address` is a whole sockaddr_nl of the length given, and lives through the call.
    if unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

fn port(fd: &OwnedFd) -> io::Result<u32> {
    let mut address = empty_address();
    let mut len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    // SAFETY: `address` has room for the `len` bytes that the kernel may write, and both live through the call.
    if unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(address.nl_pid)
}

fn empty_address() -> libc::sockaddr_nl {
    // SAFETY: sockaddr_nl is plain data for which all zeroes is a valid value.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address
}

fn set_option(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is one C int of the length given, which setsockopt(2) only reads during the call.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
