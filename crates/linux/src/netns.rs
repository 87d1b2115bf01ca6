//! Network namespaces as values: a handle that can be cloned, kept, entered and deleted.
//!
//! A node and a pod are each one of these. Sockets stay in the namespace in which they were opened, so callers enter
//! only to open something and use it from anywhere afterwards. Nobody's own thread ever changes its namespace: work
//! inside is done by a throw-away thread, because a thread of an async runtime must not be left somewhere else.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{io, panic, thread};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{Error, Result};

/// The namespace of the thread that asks, whichever thread of the process that is.
const OF_THIS_THREAD: &str = "/proc/thread-self/ns/net";

/// A handle on a network namespace. The namespace lives at least as long as any clone of the handle; one that was
/// made with [`NetNs::create`] also outlives the process, until [`NetNs::delete`].
#[derive(Clone, Debug)]
pub struct NetNs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    /// Where it is bind-mounted; none for the namespace of the process itself.
    path: Option<PathBuf>,
}

impl NetNs {
    /// Makes a new namespace, with its loopback up, and keeps it at `path`. Missing folders above `path` are made.
    /// A path that is already in use is an error (`AlreadyExists`): two owners of one namespace are always a mistake.
    pub fn create(path: impl AsRef<Path>) -> Result<NetNs> {
        let path = path.as_ref();
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::path("make the folder", parent, e))?;
        }
        File::options()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|e| Error::path("make the namespace file", path, e))?;
        let pinned = on_a_throwaway_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| Error::call("make a network namespace", e))?;
            loopback_up()?;
            pin(OF_THIS_THREAD, path)
        })
        .and_then(|done| done)
        .and_then(|()| NetNs::open(path));
        if pinned.is_err() {
            // The half-made file would make every later attempt fail with AlreadyExists.
            let _ = unpin(path);
        }
        pinned
    }

    /// Opens the namespace that is kept at `path`. A file that is not a namespace is refused.
    pub fn open(path: impl AsRef<Path>) -> Result<NetNs> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| Error::path("open the network namespace", path, e))?;
        if !is_namespace(&file) {
            let source = io::Error::new(io::ErrorKind::InvalidData, "the file is not a namespace");
            return Err(Error::path("open the network namespace", path, source));
        }
        Ok(NetNs { inner: Arc::new(Inner { fd: file.into(), path: Some(path.to_path_buf()) }) })
    }

    /// The namespace of the calling thread, which is the machine's for a process that was started there.
    pub fn current() -> Result<NetNs> {
        let file = File::open(OF_THIS_THREAD).map_err(|e| Error::path("open", OF_THIS_THREAD, e))?;
        Ok(NetNs { inner: Arc::new(Inner { fd: file.into(), path: None }) })
    }

    /// Runs `act` inside, on a thread of its own, and gives back what it returned. What `act` opens (sockets, netlink,
    /// listeners) stays inside for good. It blocks until `act` is done, so it is no place for waiting on the network.
    pub fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T> {
        on_a_throwaway_thread(|| {
            setns(&self.inner.fd, CloneFlags::CLONE_NEWNET)
                .map_err(|e| Error::call("enter the network namespace", e))?;
            Ok(act())
        })?
    }

    /// Writes a sysctl of this namespace, `net.ipv4.ip_forward` or `net/ipv4/ip_forward`. A key whose interface name
    /// holds a dot must be written with slashes.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = sysctl_path(key);
        self.run(|| fs::write(&path, value).map_err(|e| Error::path("write the sysctl", &path, e)))?
    }

    /// Reads a sysctl of this namespace.
    pub fn sysctl(&self, key: &str) -> Result<String> {
        let path = sysctl_path(key);
        self.run(|| {
            let value = fs::read_to_string(&path).map_err(|e| Error::path("read the sysctl", &path, e))?;
            Ok(value.trim_end().to_owned())
        })?
    }

    /// Where the namespace is kept; none for the process's own.
    pub fn path(&self) -> Option<&Path> {
        self.inner.path.as_deref()
    }

    /// The inode that names the namespace on this machine: two handles on the same namespace have the same.
    pub fn id(&self) -> Result<u64> {
        let stat = nix::sys::stat::fstat(&self.inner.fd).map_err(|e| Error::call("look at the namespace", e))?;
        Ok(stat.st_ino)
    }

    /// Gives up the place where it is kept. The kernel takes the namespace down, with its interfaces and rules, when
    /// the last handle, process and socket in it is gone. Deleting twice is no error.
    pub fn delete(&self) -> Result<()> {
        match &self.inner.path {
            Some(path) => unpin(path),
            None => Ok(()),
        }
    }

    /// As [`NetNs::delete`], for a path that may hold a namespace, the rest of one, or nothing.
    pub fn delete_at(path: impl AsRef<Path>) -> Result<()> {
        unpin(path.as_ref())
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.fd.as_fd()
    }
}

/// Keeps the namespace that `source` (a file under `/proc/*/ns`) names alive at `target`, an existing empty file.
pub(crate) fn pin(source: &str, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|e| Error::path("keep the namespace at", target, e))
}

/// Takes away whatever is kept at `target`: also several mounts on top of each other, also none.
pub(crate) fn unpin(target: &Path) -> Result<()> {
    use nix::errno::Errno;
    loop {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(e) => return Err(Error::path("unmount the namespace", target, e)),
        }
    }
    match fs::remove_file(target) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::path("remove the namespace file", target, e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Runs `act` on a thread that ends right after, so that what it does to its own namespaces or credentials is gone
/// with it. A panic inside is passed on.
pub(crate) fn on_a_throwaway_thread<T: Send>(act: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("in-namespace".into())
            .spawn_scoped(scope, act)
            .map_err(|e| Error::call("start a thread", e))?;
        thread.join().map_err(|panic| panic::resume_unwind(panic))
    })
}

pub(crate) fn sysctl_path(key: &str) -> PathBuf {
    let relative = if key.contains('/') { key.trim_matches('/').to_owned() } else { key.replace('.', "/") };
    Path::new("/proc/sys").join(relative)
}

/// `NS_GET_NSTYPE` succeeds on a namespace file and on nothing else.
fn is_namespace(file: &File) -> bool {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: the descriptor is open for the length of the call, and this request takes no argument and writes no memory.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as _) };
    kind == libc::CLONE_NEWNET
}

/// Sets `lo` up in the namespace of the calling thread. A new namespace has it down, and nothing works without it.
fn loopback_up() -> Result<()> {
    // SAFETY: socket(2) takes plain numbers; the result is checked before it is owned.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(Error::call("open a socket", io::Error::last_os_error()));
    }
    // SAFETY: `raw` was just made by socket(2) and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which lives on this stack for the length of the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) } < 0 {
        return Err(Error::call("set the loopback up", io::Error::last_os_error()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn kept_in(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("portolan-netns-{}-{name}", std::process::id()))
    }

    /// Deletes at the end of a test also when the test fails.
    struct Deleted(NetNs);
    impl Drop for Deleted {
        fn drop(&mut self) {
            let _ = self.0.delete();
        }
    }

    #[test]
    fn sockets_stay_where_they_were_opened() {
        let ns = Deleted(NetNs::create(kept_in("sockets")).unwrap());
        let listener = ns.0.run(|| TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        assert!(TcpStream::connect(address).is_err(), "the machine's loopback is another one");
        ns.0.run(|| TcpStream::connect(address).unwrap()).unwrap();
    }

    #[test]
    fn the_callers_thread_stays_outside() {
        let before = NetNs::current().unwrap().id().unwrap();
        let ns = Deleted(NetNs::create(kept_in("stays")).unwrap());
        let inside = ns.0.run(|| NetNs::current().unwrap().id().unwrap()).unwrap();
        assert_eq!(inside, ns.0.id().unwrap());
        assert_ne!(inside, before);
        assert_eq!(NetNs::current().unwrap().id().unwrap(), before);
    }

    #[test]
    fn a_second_owner_is_refused_and_delete_is_idempotent() {
        let path = kept_in("owner");
        let ns = Deleted(NetNs::create(&path).unwrap());
        assert_eq!(NetNs::create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(NetNs::open(&path).unwrap().id().unwrap(), ns.0.id().unwrap());
        ns.0.delete().unwrap();
        ns.0.delete().unwrap();
        assert!(!path.exists());
        assert_eq!(NetNs::open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_plain_file_is_no_namespace() {
        let path = kept_in("plain");
        fs::write(&path, "").unwrap();
        assert_eq!(NetNs::open(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
        NetNs::delete_at(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn sysctls_are_of_the_namespace() {
        let ns = Deleted(NetNs::create(kept_in("sysctl")).unwrap());
        let outside = fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap();
        ns.0.set_sysctl("net.ipv4.ip_default_ttl", "77").unwrap();
        assert_eq!(ns.0.sysctl("net/ipv4/ip_default_ttl").unwrap(), "77");
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap(), outside);
    }
}
