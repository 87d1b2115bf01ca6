//! The first process of a PID namespace that a pod's containers share. A namespace lives only as long as its first
//! process, and that one inherits orphans, so here, and only here, a process does nothing but wait and reap.

use std::path::Path;
use std::time::Duration;

use linux::ProcessId;
use linux::cgroup::{Cgroup, Limits};

use super::protocol;
use crate::disk::{SandboxDir, SandboxRecord};

/// Makes the namespace and keeps it at `ns/pid`.
pub(super) fn start(dir: &SandboxDir, record: &SandboxRecord) -> Result<(), String> {
    let text = |e: linux::Error| e.to_string();
    let (told, tell) = linux::socket::pair().map_err(text)?;
    let copy = linux::process::fork(|| {
        let made = linux::namespaces::enter_new_pid().and_then(|()| linux::process::fork(wait_for_ever));
        let pid = made.map_err(|e| e.to_string());
        i32::from(protocol::send(&tell, &pid, &[]).is_err())
    })
    .map_err(text)?;
    linux::process::wait_for(copy).map_err(text)?;
    let (made, _) = protocol::receive::<Result<i32, String>>(&told).map_err(|e| e.to_string())?.ok_or("no answer")?;
    let pid = made?;
    let group = Cgroup::at(&record.config.cgroup).map_err(text)?.child("pause");
    group.create(&Limits::default()).and_then(|()| group.add(pid)).map_err(text)?;
    linux::namespaces::keep_pid(pid, Path::new(&dir.namespaces().join("pid"))).map_err(text)?;
    let process = ProcessId::of(pid).ok_or("the pause process has died")?;
    if process.wait(Duration::ZERO).map_err(text)? {
        return Err("the pause process has died".to_owned());
    }
    Ok(())
}

fn wait_for_ever() -> i32 {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let _ = linux::process::close_all_but(&[]);
    let _ = nix::sys::prctl::set_name(c"pause");
    let Ok(children) = linux::process::child_signals() else { return 1 };
    loop {
        let _ = poll(&mut [PollFd::new(children.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
        while children.read_signal().is_ok_and(|signal| signal.is_some()) {}
        while linux::process::reap().is_some() {}
    }
}
