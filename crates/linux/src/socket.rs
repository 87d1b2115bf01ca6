//! Unix sockets that keep messages apart and carry descriptors, at paths of any length.
//!
//! A packet socket (`SOCK_SEQPACKET`) delivers each message whole, so its reader needs no framing. The kernel limits a
//! socket's path to 107 bytes; we name it through the open folder it lies in instead.

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect,
    listen, recvmsg, sendmsg, socket, socketpair,
};

use crate::{Error, Result};

/// The longest message, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;
const MAX_DESCRIPTORS: usize = 8;

/// Listens at `path`; a file that an earlier process left there is replaced.
pub fn listen_at(path: &Path) -> Result<OwnedFd> {
    listen_with(path, SockType::SeqPacket)
}

/// As [`listen_at`], for a byte stream: what libcontainer sends terminals over.
pub fn listen_stream(path: &Path) -> Result<OwnedFd> {
    listen_with(path, SockType::Stream)
}

fn listen_with(path: &Path, kind: SockType) -> Result<OwnedFd> {
    let fd = new_socket(kind)?;
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::path("remove the old socket", path, e)),
        Ok(()) | Err(_) => {}
    }
    with_address(path, |address| bind(fd.as_raw_fd(), address))?;
    listen(&fd, Backlog::MAXCONN).map_err(|e| Error::path("listen at", path, e))?;
    Ok(fd)
}

/// Connects to a listener at `path`.
pub fn connect_to(path: &Path) -> Result<OwnedFd> {
    let fd = new_socket(SockType::SeqPacket)?;
    with_address(path, |address| connect(fd.as_raw_fd(), address))?;
    Ok(fd)
}

/// Takes the next connection; `None` when none waits.
pub fn accept(listener: &impl AsFd) -> Result<Option<OwnedFd>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    match nix::sys::socket::accept4(listener.as_fd().as_raw_fd(), flags) {
        // SAFETY: accept4 has just made this descriptor for us and nobody else knows it.
        Ok(raw) => Ok(Some(unsafe { OwnedFd::from_raw_fd(raw) })),
        Err(Errno::EAGAIN | Errno::ECONNABORTED | Errno::EINTR) => Ok(None),
        Err(e) => Err(Error::call("accept a connection", e)),
    }
}

/// Sends one message, with descriptors if there are any. `WouldBlock` when the other end does not read.
pub fn send(socket: &impl AsFd, message: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
    let parts = [IoSlice::new(message)];
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control: &[ControlMessage<'_>] = if descriptors.is_empty() { &[] } else { &rights };
    sendmsg::<UnixAddr>(socket.as_fd().as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one message; an empty one means that the other end has closed. `WouldBlock` when none is there.
pub fn receive(socket: &impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut buffer = vec![0; MAX_MESSAGE];
    let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<UnixAddr>(socket.as_fd().as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raws) = message {
            // SAFETY: the kernel has just put these descriptors into our table for us; each appears once.
            descriptors.extend(raws.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
        }
    }
    if received.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
    }
    let length = received.bytes;
    buffer.truncate(length);
    Ok((buffer, descriptors))
}

/// Two connected ends within one process and its copies.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(|e| Error::call("make a socket pair", e))
}

fn new_socket(kind: SockType) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, kind, flags, None).map_err(|e| Error::call("open a socket", e))
}

fn with_address(path: &Path, act: impl FnOnce(&UnixAddr) -> nix::Result<()>) -> Result<()> {
    let name = path.file_name().ok_or_else(|| Error::path("use as a socket", path, Errno::EINVAL))?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = File::open(parent).map_err(|e| Error::path("open the folder", parent, e))?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    let address = UnixAddr::new(&short).map_err(|e| Error::path("use as a socket", path, e))?;
    act(&address).map_err(|e| Error::path("reach the socket", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn messages_stay_apart_and_carry_files_over_long_paths() {
        let base = std::env::temp_dir().join(format!("portolan-socket-{}", std::process::id()));
        let folder = base.join("x".repeat(120));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("s.sock");
        let listener = listen_at(&path).unwrap();
        let client = connect_to(&path).unwrap();
        let server = accept(&listener).unwrap().unwrap();
        let (mut read_end, write_end) = io::pipe().unwrap();
        send(&client, b"one", &[write_end.as_raw_fd()]).unwrap();
        send(&client, b"two", &[]).unwrap();
        drop(write_end);
        let (message, mut files) = receive(&server).unwrap();
        assert_eq!(message, b"one");
        assert_eq!(receive(&server).unwrap().0, b"two");
        assert_eq!(receive(&server).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        File::from(files.pop().unwrap()).write_all(b"through the pipe").unwrap();
        let mut text = String::new();
        read_end.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through the pipe");
        drop(client);
        assert!(receive(&server).unwrap().0.is_empty());
        fs::remove_dir_all(&base).unwrap();
    }
}
