//! Processes: named so that a reused number is never mistaken, signalled through pidfds, forked safely, reaped.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use crate::{Error, Result};

/// Whether we may do what needs root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Gives memory that was freed back to the kernel: for after a burst, such as the first list of a large cluster.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointers and locks the allocator's own structures itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Asks the scheduler for short turns for the calling thread: it waits less until it runs, and is interrupted sooner. For a thread that does
/// little at a time and is waited for. Kernels before 6.12 know no such wish and leave everything as it is.
///
/// # Errors
/// When the kernel refuses.
pub fn prefer_short_turns() -> io::Result<()> {
    /// `struct sched_attr` as it first was (sched_setattr(2)).
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        /// Of SCHED_OTHER: the length of a turn in nanoseconds.
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    /// The shortest that the kernel gives.
    const TURN: u64 = 100_000;
    let size = size_of::<Attributes>() as u32;
    let mut attributes = Attributes { size, ..Attributes::default() };
    let this_thread = 0;
    let check = |result: libc::c_long| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: the kernel writes `size` bytes at most, which is what the structure has; it outlives the call.
    check(unsafe { libc::syscall(libc::SYS_sched_getattr, this_thread, &raw mut attributes, size, 0) })?;
    (attributes.size, attributes.flags, attributes.runtime) = (size, 0, TURN);
    // SAFETY: the kernel reads `size` bytes of a structure that outlives the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, this_thread, &raw const attributes, 0) })
}

/// A process that cannot be confused with a later one of the same number: the kernel's start time is part of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId {
    pub pid: i32,
    /// Clock ticks since boot, the 22nd field of `/proc/<pid>/stat`.
    pub start_time: u64,
}

impl ProcessId {
    /// The process that has this number now.
    pub fn of(pid: i32) -> Option<ProcessId> {
        Some(ProcessId { pid, start_time: stat(pid)?.1 })
    }

    pub fn myself() -> ProcessId {
        let pid = std::process::id() as i32;
        ProcessId { pid, start_time: stat(pid).map_or(0, |(_, start)| start) }
    }

    /// Whether it still runs. One that has ended and waits to be reaped does not.
    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|(state, start)| start == self.start_time && !matches!(state, b'Z' | b'X'))
    }

    /// A descriptor that names the process for good, or `None` when it is gone.
    pub fn open(&self) -> Result<Option<OwnedFd>> {
        let fd = match pidfd_open(self.pid) {
            Ok(fd) => fd,
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(e) => return Err(Error::call("open the process", e)),
        };
        // The number may have been taken over between the start of this call and the open: look after, not before.
        Ok(ProcessId::of(self.pid).filter(|now| now == self).map(|_| fd))
    }

    /// Sends a signal; false when the process is gone.
    pub fn signal(&self, signal: i32) -> Result<bool> {
        let Some(fd) = self.open()? else { return Ok(false) };
        // SAFETY: the descriptor is open, the info pointer may be null, and flags must be 0; see pidfd_send_signal(2).
        let sent =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, std::ptr::null::<()>(), 0) };
        if sent == 0 {
            return Ok(true);
        }
        match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            e => Err(Error::call("signal the process", e)),
        }
    }

    /// Waits for its end; false when it still runs after `timeout`. Blocks the calling thread.
    pub fn wait(&self, timeout: Duration) -> Result<bool> {
        let Some(fd) = self.open()? else { return Ok(true) };
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        let ended = poll(&mut fds, timeout).map_err(|e| Error::call("wait for the process", e))?;
        Ok(ended > 0)
    }
}

fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two plain numbers.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as i32) })
}

/// State and start time. The second field, the name, may hold anything, so count from its closing bracket.
fn stat(pid: i32) -> Option<(u8, u64)> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after = text.iter().rposition(|b| *b == b')')? + 2;
    let rest = std::str::from_utf8(&text[after..]).ok()?;
    let mut fields = rest.split(' ');
    let state = *fields.next()?.as_bytes().first()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Descendants whose parent dies become our children, so that we learn how they end.
pub fn become_subreaper() -> Result<()> {
    nix::sys::prctl::set_child_subreaper(true).map_err(|e| Error::call("become the reaper of descendants", e))
}

/// Blocks SIGCHLD and gives a descriptor that is readable when a child may have ended.
pub fn child_signals() -> Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.thread_block().map_err(|e| Error::call("block SIGCHLD", e))?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|e| Error::call("watch for SIGCHLD", e))
}

/// Undoes what [`child_signals`] changed for this thread; a process started from here must not inherit it.
pub fn unblock_signals() -> Result<()> {
    SigSet::all().thread_unblock().map_err(|e| Error::call("unblock signals", e))
}

/// Child `pid` has ended, by its own will with `code`, or by `signal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub pid: i32,
    pub code: i32,
    pub signal: Option<i32>,
}

/// Reaps one child that has ended, if there is one.
pub fn reap() -> Option<Ended> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(status) => match ended(status) {
                Some(ended) => return Some(ended),
                None if status == WaitStatus::StillAlive => return None,
                None => {}
            },
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// Waits for one child to end and reaps it.
pub fn wait_for(pid: i32) -> Result<Ended> {
    loop {
        match waitpid(Pid::from_raw(pid), None) {
            Ok(status) => {
                if let Some(ended) = ended(status) {
                    return Ok(ended);
                }
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(Error::call("wait for the child", e)),
        }
    }
}

fn ended(status: WaitStatus) -> Option<Ended> {
    match status {
        WaitStatus::Exited(pid, code) => Some(Ended { pid: pid.as_raw(), code, signal: None }),
        WaitStatus::Signaled(pid, signal, _) => {
            Some(Ended { pid: pid.as_raw(), code: 128 + signal as i32, signal: Some(signal as i32) })
        }
        WaitStatus::Stopped(..)
        | WaitStatus::Continued(_)
        | WaitStatus::StillAlive
        | WaitStatus::PtraceEvent(..)
        | WaitStatus::PtraceSyscall(_) => None,
    }
}

/// Copies this process and runs `child` in the copy, which ends with the code that it returns. Gives the copy's number.
/// Only a process with one thread may do this: with more, the copy could inherit a lock that nobody will release.
pub fn fork(child: impl FnOnce() -> i32) -> Result<i32> {
    let threads = fs::read_dir("/proc/self/task").map_err(|e| Error::path("read", "/proc/self/task", e))?.count();
    if threads != 1 {
        return Err(Error::call("fork", io::Error::other(format!("the process has {threads} threads"))));
    }
    // SAFETY: this process has one thread, as was just counted, so the copy is complete: no lock is held by a thread
    // that does not exist in it, and any function may be called there.
    match unsafe { nix::unistd::fork() }.map_err(|e| Error::call("fork", e))? {
        ForkResult::Parent { child } => Ok(child.as_raw()),
        ForkResult::Child => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(101);
            // SAFETY: _exit ends the process at once; buffers and exit handlers belong to the original.
            unsafe { libc::_exit(code) }
        }
    }
}

/// Closes every descriptor from 3 on but those in `keep`. Only for a copy of the process that is about to end or to
/// execute another program: values that own the others are left with numbers that mean nothing.
pub fn close_all_but(keep: &[RawFd]) -> Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut first = 3;
    for last in keep.iter().map(|fd| fd - 1).chain([u32::MAX]) {
        if first <= last {
            // SAFETY: close_range takes plain numbers; the caller promises that nothing uses what is closed.
            if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } < 0 {
                return Err(Error::call("close descriptors", io::Error::last_os_error()));
            }
        }
        first = last.saturating_add(2);
    }
    Ok(())
}

pub fn set_nonblocking(fd: &impl AsFd) -> Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(|e| Error::call("look at a descriptor", e))?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(fd, FcntlArg::F_SETFL(flags)).map(drop).map_err(|e| Error::call("make a descriptor non-blocking", e))
}

/// Cuts the process off from the session, terminal and folder that it was started from.
pub fn detach() -> Result<()> {
    nix::unistd::setsid().map_err(|e| Error::call("start a session", e))?;
    nix::unistd::chdir("/").map_err(|e| Error::path("enter", "/", e))
}

/// Makes descriptor 0, 1 or 2 of this process the same as `fd`.
pub fn redirect(fd: &impl AsFd, standard: i32) -> Result<()> {
    // SAFETY: both numbers are plain; `fd` is open, and descriptors 0 to 2 are owned by nobody in Rust's terms.
    if !(0..=2).contains(&standard) || unsafe { libc::dup2(fd.as_fd().as_raw_fd(), standard) } < 0 {
        return Err(Error::call("redirect a standard stream", io::Error::last_os_error()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_thread_may_ask_for_short_turns() {
        let asked = std::thread::spawn(|| prefer_short_turns().map_err(|error| error.to_string()));
        assert_eq!(asked.join().unwrap(), Ok(()));
    }

    #[test]
    fn a_reused_number_is_never_signalled() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let real = ProcessId::of(child.id() as i32).unwrap();
        let impostor = ProcessId { start_time: real.start_time + 1, ..real };
        assert!(!impostor.is_alive());
        assert!(!impostor.signal(libc::SIGKILL).unwrap());
        assert!(real.is_alive());
        assert!(!real.wait(Duration::ZERO).unwrap());
        assert!(real.signal(libc::SIGKILL).unwrap());
        assert!(real.wait(Duration::from_secs(10)).unwrap());
        child.wait().unwrap();
        assert!(!real.is_alive());
        assert!(!real.signal(libc::SIGKILL).unwrap());
    }

    #[test]
    fn a_process_with_threads_may_not_fork() {
        // The test harness runs every test on a thread of its own.
        assert!(fork(|| 0).is_err());
    }
}
