//! Many datagrams in one call: `recvmmsg(2)` and `sendmmsg(2)` over buffers that are used again and again.
//!
//! A server of small questions spends most of its time in the kernel; taking what has arrived together and answering it together halves the
//! calls. Safe wrappers that exist either keep stale lengths between calls or do not say how many messages were sent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{fmt, mem, ptr};

/// Room for one `IP_PKTINFO` or `IPV6_PKTINFO`, aligned as control messages must be.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Buffers for a batch of datagrams, and what the last [`Datagrams::receive`] put into them.
pub struct Datagrams {
    size: usize,
    bytes: Vec<u8>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    /// What each received message measured: bytes, name, control.
    lengths: Vec<(usize, libc::socklen_t, usize)>,
}

impl Datagrams {
    /// Buffers for `messages` datagrams of at most `size` bytes; what is longer is cut off.
    pub fn new(messages: usize, size: usize) -> Self {
        // SAFETY: all three are plain data of the C library, for which all zeros are a valid value.
        let (name, header, iovec) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        Datagrams {
            size,
            bytes: vec![0; messages * size],
            names: vec![name; messages],
            controls: vec![Control([0; 64]); messages],
            iovecs: vec![iovec; messages],
            headers: vec![header; messages],
            lengths: Vec::with_capacity(messages),
        }
    }

    /// Waits for one datagram (for as long as the socket's own timeout says) and takes all that are there. With `wait` off, takes what is
    /// there. Gives how many there are.
    ///
    /// # Errors
    /// `WouldBlock` when nothing came, or what the socket reports.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, wait: bool) -> io::Result<usize> {
        self.receive_with(socket, wait, 0)
    }

    /// As [`Datagrams::receive`], but leaves them in the socket until [`Datagrams::discard`]: whoever holds the socket after us finds them
    /// again. The socket must have been given to [`Datagrams::peek_from_start`].
    ///
    /// # Errors
    /// As there.
    pub fn peek(&mut self, socket: BorrowedFd<'_>, wait: bool) -> io::Result<usize> {
        // With MSG_TRUNC the place moves on by a datagram's whole length, also if it is longer than our buffer.
        self.receive_with(socket, wait, libc::MSG_PEEK | libc::MSG_TRUNC)
    }

    /// Makes the next peek begin at the oldest datagram, and each further one behind the last (SO_PEEK_OFF, socket(7)).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn peek_from_start(socket: BorrowedFd<'_>) -> io::Result<()> {
        let place: libc::c_int = 0;
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the option's value is one int, which outlives the call.
        let result = unsafe {
            let value = ptr::from_ref(&place).cast();
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, value, length)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Takes what was peeked last out of the socket.
    ///
    /// # Errors
    /// What the socket reports; then some of it may come again.
    pub fn discard(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let (mut left, mut bytes) = (self.lengths.len(), self.lengths.iter().map(|(length, ..)| length).sum::<usize>());
        // Empty datagrams that an earlier process peeked are passed over by a peek, but not by what takes them out: bytes count too.
        while left > 0 || bytes > 0 {
            let headers = &mut self.headers[..left.max(1)];
            for header in &mut *headers {
                // SAFETY: plain data of the C library, for which all zeros are a valid value: no buffers at all.
                header.msg_hdr = unsafe { mem::zeroed() };
            }
            let count = headers.len() as libc::c_uint;
            let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
            // SAFETY: there are `count` headers, and none of them has a buffer. The timeout may be null.
            let taken =
                unsafe { libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, flags, ptr::null_mut()) };
            match usize::try_from(taken) {
                Ok(taken) if taken > 0 => {
                    left = left.saturating_sub(taken);
                    let lengths = headers.iter().take(taken).map(|header| header.msg_len as usize);
                    bytes = bytes.saturating_sub(lengths.sum());
                }
                Ok(_) | Err(_) => {
                    let error = io::Error::last_os_error();
                    Self::peek_from_start(socket)?;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn receive_with(&mut self, socket: BorrowedFd<'_>, wait: bool, how: libc::c_int) -> io::Result<usize> {
        self.lengths.clear();
        let parts = self.bytes.chunks_exact_mut(self.size).zip(&mut self.names).zip(&mut self.controls);
        for (((bytes, name), control), (iovec, header)) in parts.zip(self.iovecs.iter_mut().zip(&mut self.headers)) {
            *iovec = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            let message = &mut header.msg_hdr;
            message.msg_name = ptr::from_mut(name).cast();
            message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            message.msg_iov = iovec;
            message.msg_iovlen = 1;
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = control.0.len() as _;
            message.msg_flags = 0;
        }
        let flags = how | if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        let count = self.headers.len() as libc::c_uint;
        // SAFETY: every header's pointers were set above to buffers of `self` with their own lengths, `self` is borrowed mutably until the
        // call returns, and there are `count` headers. The timeout may be null.
        let received =
            unsafe { libc::recvmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count, flags, ptr::null_mut()) };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        let headers = self.headers.iter().take(received);
        self.lengths.extend(headers.map(|h| (h.msg_len as usize, h.msg_hdr.msg_namelen, h.msg_hdr.msg_controllen)));
        Ok(received)
    }

    /// The bytes of a received datagram.
    pub fn message(&self, at: usize) -> &[u8] {
        &self.bytes[at * self.size..][..self.lengths[at].0.min(self.size)]
    }

    /// Who sent it; none for what is no IP address.
    pub fn sender(&self, at: usize) -> Option<SocketAddr> {
        address(&self.names[at], self.lengths[at].1)
    }

    /// Which address of this machine it was sent to; none unless the socket was asked to tell (`IP_PKTINFO`, `IPV6_RECVPKTINFO`).
    pub fn receiver(&self, at: usize) -> Option<IpAddr> {
        let control = &self.controls[at].0[..self.lengths[at].2.min(64)];
        let (header, data) = control.split_at_checked(size_of::<libc::cmsghdr>())?;
        // cmsghdr: a length of a word, the level, the type.
        let word = size_of::<usize>();
        let number = |at: usize| header.get(at..)?.first_chunk().map(|bytes| libc::c_int::from_ne_bytes(*bytes));
        match (number(word)?, number(word + 4)?) {
            // in_pktinfo: interface, our address as a source, the packet's destination.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let octets: [u8; 4] = *data.get(4..)?.first_chunk()?;
                Some(Ipv4Addr::from(octets).into())
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let octets: [u8; 16] = *data.first_chunk()?;
                Some(Ipv6Addr::from(octets).into())
            }
            _ => None,
        }
    }

    /// Sends answers to the senders of received datagrams, each given with the place of its question. What cannot be sent (a client that
    /// has gone) is passed over. Not for sockets that are bound to no address: the source would be the kernel's choice.
    pub fn reply(&mut self, socket: BorrowedFd<'_>, answers: &[(usize, &[u8])]) {
        for ((at, answer), (iovec, header)) in answers.iter().zip(self.iovecs.iter_mut().zip(&mut self.headers)) {
            // The kernel only reads what is sent, whatever the type of the pointer says.
            *iovec = libc::iovec { iov_base: answer.as_ptr().cast_mut().cast(), iov_len: answer.len() };
            let message = &mut header.msg_hdr;
            message.msg_name = ptr::from_mut(&mut self.names[*at]).cast();
            message.msg_namelen = self.lengths[*at].1;
            message.msg_iov = iovec;
            message.msg_iovlen = 1;
            message.msg_control = ptr::null_mut();
            message.msg_controllen = 0;
            message.msg_flags = 0;
        }
        let count = answers.len().min(self.headers.len());
        let mut sent = 0;
        while sent < count {
            let headers = &mut self.headers[sent..count];
            // SAFETY: the headers up to `count` were set above; they point to buffers of `self` and to the answers, all of which are borrowed
            // until this function returns.
            let result =
                unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), headers.len() as libc::c_uint, 0) };
            // An error is that of the first message: it is left out.
            sent += usize::try_from(result).unwrap_or(0).max(1);
        }
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").field("received", &self.lengths.len()).finish_non_exhaustive()
    }
}

fn address(name: &libc::sockaddr_storage, length: libc::socklen_t) -> Option<SocketAddr> {
    let length = length as usize;
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET if length >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: the kernel wrote a whole sockaddr_in, as family and length say; the storage is large and aligned enough for it.
            let name = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let address = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
            Some((address, u16::from_be(name.sin_port)).into())
        }
        libc::AF_INET6 if length >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above, for a sockaddr_in6.
            let name = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let address = Ipv6Addr::from(name.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(address, u16::from_be(name.sin6_port), 0, name.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;

    #[test]
    fn what_arrived_together_is_taken_and_answered_together() {
        for (local, any) in [("127.0.0.1:0", "0.0.0.0:0"), ("[::1]:0", "[::]:0")] {
            let server = UdpSocket::bind(any).unwrap();
            match server.local_addr().unwrap() {
                SocketAddr::V4(_) => setsockopt(&server, sockopt::Ipv4PacketInfo, &true).unwrap(),
                SocketAddr::V6(_) => setsockopt(&server, sockopt::Ipv6RecvPacketInfo, &true).unwrap(),
            }
            let client = UdpSocket::bind(local).unwrap();
            let to = SocketAddr::new(client.local_addr().unwrap().ip(), server.local_addr().unwrap().port());
            let mut batch = Datagrams::new(4, 8);
            assert_eq!(batch.receive(server.as_fd(), false).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            for round in 0u8..3 {
                for n in 0..3 + round {
                    client.send_to(&vec![n; usize::from(n) * 3], to).unwrap();
                }
                let taken = batch.receive(server.as_fd(), true).unwrap();
                assert_eq!(taken, usize::from(3 + round).min(4));
                for at in 0..taken {
                    assert_eq!(batch.message(at).len(), (at * 3).min(8));
                    assert_eq!(batch.sender(at), Some(client.local_addr().unwrap()));
                    assert_eq!(batch.receiver(at), Some(to.ip()));
                }
                batch.reply(server.as_fd(), &[(0, b"zero"), (2, b"two")]);
                let mut buffer = [0; 16];
                for expected in [&b"zero"[..], b"two"] {
                    let length = client.recv(&mut buffer).unwrap();
                    assert_eq!(&buffer[..length], expected);
                }
                let _ = batch.receive(server.as_fd(), false);
            }
        }
    }

    /// A process that dies with datagrams in its hands leaves them to the next one that has the socket.
    #[test]
    fn what_was_peeked_is_there_until_it_is_discarded() {
        let (server, client) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let send = |text: &str| client.send_to(text.as_bytes(), server.local_addr().unwrap()).unwrap();
        let mut batch = Datagrams::new(3, 4);
        let peek = |batch: &mut Datagrams| -> Vec<String> {
            let count = batch.peek(server.as_fd(), false).unwrap_or(0);
            (0..count).map(|at| String::from_utf8_lossy(batch.message(at)).into_owned()).collect()
        };
        for _ in 0..2 {
            Datagrams::peek_from_start(server.as_fd()).unwrap();
            for text in ["one", "", "longer", "four"] {
                send(text);
            }
            assert_eq!(peek(&mut batch), ["one", "", "long"]);
            // The next process: the kernel gives it everything again but what is empty.
            Datagrams::peek_from_start(server.as_fd()).unwrap();
            assert_eq!(peek(&mut batch), ["one", "long", "four"]);
            batch.discard(server.as_fd()).unwrap();
            send("five");
            send("six");
            assert_eq!(peek(&mut batch), ["five", "six"]);
            batch.discard(server.as_fd()).unwrap();
            assert_eq!(peek(&mut batch), [""; 0]);
            batch.discard(server.as_fd()).unwrap();
        }
    }
}
