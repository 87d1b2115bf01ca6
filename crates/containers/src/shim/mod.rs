//! The process that looks after one pod's containers, in our own binary.
//!
//! `main` must call [`main`] before it starts threads or a runtime when the first argument is `shim`: container
//! processes are cloned from here without exec, which only a process with one thread can do safely.
//!
//! It is one loop over poll(2), with no threads, no async runtime and as little memory as can be, since there is one for
//! each pod. It outlives the daemon: logs, exit codes and OOM kills go to disk, and a daemon that comes back reads them
//! there and connects again.

mod action;
mod container;
mod log;
mod notes;
mod pause;
pub(crate) mod protocol;
mod server;
pub(crate) mod spawner;

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::disk::{self, SandboxDir, SandboxRecord, ShimRecord};
use server::Server;

/// Runs the process that shims are copied from, until the daemon that started it ends; `args` are the arguments after
/// `shim`, of which there are none. The shims go on. Gives the exit code.
pub fn main(mut args: impl Iterator<Item = OsString>) -> i32 {
    if args.next().is_some() || std::io::stdin().is_terminal() {
        complain(&"the daemon starts this, people do not");
        return 2;
    }
    match spawner::run() {
        Ok(()) => 0,
        Err(e) => {
            complain(&e);
            1
        }
    }
}

/// Copies this process into a shim for the sandbox, and waits until that one listens.
fn launch(dir: SandboxDir) -> Result<(), String> {
    let text = |e: linux::Error| e.to_string();
    let record: Option<SandboxRecord> = disk::read(&dir.record()).map_err(|e| e.to_string())?;
    let record = record.ok_or_else(|| format!("no sandbox in `{}`", dir.0.display()))?;
    let listener = linux::socket::listen_at(&dir.socket()).map_err(text)?;
    let log = File::options().create(true).append(true).open(dir.shim_log()).map_err(|e| e.to_string())?;
    let (ready, tell) = linux::socket::pair().map_err(text)?;
    linux::process::fork(move || {
        let _ = linux::process::close_all_but(&[listener.as_raw_fd(), log.as_raw_fd(), tell.as_raw_fd()]);
        match serve(&dir, &record, listener, &log, &tell) {
            Ok(()) => 0,
            Err(e) => {
                complain(&e);
                let _ = linux::socket::send(&tell, e.as_bytes(), &[]);
                1
            }
        }
    })
    .map_err(text)?;
    wait_until_ready(&ready)
}

/// The shim proper, in its own process.
fn serve(
    dir: &SandboxDir,
    record: &SandboxRecord,
    listener: OwnedFd,
    log: &File,
    tell: &OwnedFd,
) -> Result<(), String> {
    let text = |e: linux::Error| e.to_string();
    linux::process::detach().map_err(text)?;
    linux::process::become_subreaper().map_err(text)?;
    let name: String = record.config.id.chars().take(10).collect();
    let _ = nix::sys::prctl::set_name(&CString::new(format!("shim-{name}")).unwrap_or_default());
    let null = File::options().read(true).write(true).open("/dev/null").map_err(|e| e.to_string())?;
    linux::process::redirect(&null, 0).map_err(text)?;
    linux::process::redirect(&null, 1).map_err(text)?;
    linux::process::redirect(log, 2).map_err(text)?;
    drop(null);
    // A shim that is killed for want of memory takes its pod's logs and exit codes with it. Best effort, see proc(5).
    let _ = std::fs::write("/proc/self/oom_score_adj", "-998");
    if record.config.share_pid && !record.config.host_pid {
        pause::start(dir, record)?;
    }
    disk::write(&dir.shim_record(), &ShimRecord::myself()).map_err(|e| e.to_string())?;
    let mut server = Server::new(dir.clone(), listener).map_err(text)?;
    let _ = linux::socket::send(tell, READY, &[]);
    if let Some(first) = std::path::Path::new(&record.config.cgroup).components().next() {
        // Out of the daemon's own group, whose end must not be ours.
        let group = linux::cgroup::Cgroup::at(first).map(|group| group.child("shims"));
        if let Err(e) = group.and_then(|group| group.track(std::process::id() as i32)) {
            complain(&e);
        }
    }
    server.run().map_err(text)
}

const READY: &[u8] = b"ready";

fn wait_until_ready(ready: &OwnedFd) -> Result<(), String> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut fds = [PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::NONE).map_err(|e| e.to_string())?;
    match linux::socket::receive(ready) {
        Ok((message, _)) if message == READY => Ok(()),
        Ok((message, _)) if !message.is_empty() => Err(String::from_utf8_lossy(&message).into_owned()),
        Ok(_) | Err(_) => Err("it died before it was ready; see shim.log".to_owned()),
    }
}

/// To the shim's log; before the shim is on its own, to the daemon's.
fn complain(what: &dyn std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{} {what}", jiff::Timestamp::now());
}
