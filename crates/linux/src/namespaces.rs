//! Namespaces of a pod other than its network: made once, kept by bind mounts, joined by each container.

use std::fs::{self, File};
use std::path::Path;

use nix::sched::{CloneFlags, unshare};

use crate::netns::{on_a_throwaway_thread, pin, sysctl_path, unpin};
use crate::{Error, Result};

/// Makes an IPC and, with a host name, a UTS namespace, keeps them as `ipc` and `uts` in `dir`, and sets sysctls in them
/// (`kernel.shm…`, `kernel.msg…`, `kernel.sem`, `fs.mqueue.…`).
pub fn create(dir: &Path, ipc: bool, hostname: Option<&str>, sysctls: &[(String, String)]) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| Error::path("make the folder", dir, e))?;
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWIPC, ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, hostname.is_some());
    if flags.is_empty() {
        return Ok(());
    }
    let made = on_a_throwaway_thread(|| {
        unshare(flags).map_err(|e| Error::call("make the pod's namespaces", e))?;
        if let Some(hostname) = hostname {
            nix::unistd::sethostname(hostname).map_err(|e| Error::call("set the host name", e))?;
            keep("/proc/thread-self/ns/uts", &dir.join("uts"))?;
        }
        if ipc {
            keep("/proc/thread-self/ns/ipc", &dir.join("ipc"))?;
            for (key, value) in sysctls {
                let path = sysctl_path(key);
                fs::write(&path, value).map_err(|e| Error::path("write the sysctl", &path, e))?;
            }
        }
        Ok(())
    })
    .and_then(|done| done);
    if made.is_err() {
        let _ = delete(dir);
    }
    made
}

/// The next child of the calling process becomes the first process of a new PID namespace.
pub fn enter_new_pid() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWPID).map_err(|e| Error::call("make a PID namespace", e))
}

/// Keeps the PID namespace of process `pid` at `target`. It can be joined as long as its first process lives.
pub fn keep_pid(pid: i32, target: &Path) -> Result<()> {
    keep(&format!("/proc/{pid}/ns/pid"), target)
}

/// Gives up what [`create`] and [`keep_pid`] kept in `dir`. Deleting twice is no error.
pub fn delete(dir: &Path) -> Result<()> {
    for name in ["ipc", "uts", "pid"] {
        unpin(&dir.join(name))?;
    }
    Ok(())
}

fn keep(source: &str, target: &Path) -> Result<()> {
    File::create(target).map_err(|e| Error::path("make the namespace file", target, e))?;
    pin(source, target)
}
