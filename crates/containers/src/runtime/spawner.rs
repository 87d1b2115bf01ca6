//! The daemon's end of the process that shims are copied from: started when first needed, again if it has died.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Error;
use crate::disk::SandboxDir;
use crate::shim::protocol;
use crate::shim::spawner::{Spawn, Spawned};

/// Milliseconds; a copy takes one or two.
const PATIENCE: u16 = 30_000;

#[derive(Debug)]
pub(super) struct Spawner {
    /// The program that has the shim in it.
    program: PathBuf,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    process: Child,
    connection: OwnedFd,
}

impl Spawner {
    pub(super) fn new(program: PathBuf) -> Spawner {
        Spawner { program, running: Mutex::new(None) }
    }

    /// Starts a shim for the sandbox and waits until it listens.
    pub(super) fn spawn(&self, dir: &SandboxDir) -> Result<(), Error> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = match running.as_mut() {
            Some(spawner) => spawner.ask(dir),
            None => Err("it is not started".to_owned()),
        };
        let spawned = match asked {
            Ok(spawned) => spawned,
            // It has died, or has never lived; whatever it was, a new one knows nothing of it.
            Err(_) => {
                if let Some(mut old) = running.take() {
                    let _ = old.process.kill();
                    let _ = old.process.wait();
                }
                let spawner = running.insert(Running::start(&self.program)?);
                spawner.ask(dir).map_err(|e| Error::Create(format!("the shim did not start: {e}")))?
            }
        };
        match spawned.failure {
            None => Ok(()),
            Some(reason) => Err(Error::Create(format!("the shim did not start: {reason}"))),
        }
    }
}

impl Running {
    fn start(program: &Path) -> Result<Running, Error> {
        let (connection, its) = linux::socket::pair()?;
        let process = Command::new(program)
            .arg0("portolan-shims")
            .arg("shim")
            .env_clear()
            .stdin(Stdio::from(its))
            .stdout(Stdio::null())
            .spawn()
            .map_err(Error::disk("start the shims by", program))?;
        Ok(Running { process, connection })
    }

    fn ask(&mut self, dir: &SandboxDir) -> Result<Spawned, String> {
        protocol::send(&self.connection, &Spawn { dir: dir.0.clone() }, &[]).map_err(|e| e.to_string())?;
        let mut fds = [PollFd::new(self.connection.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(PATIENCE)).map_err(|e| e.to_string())?;
        match protocol::receive(&self.connection) {
            Ok(Some((spawned, _))) => Ok(spawned),
            Ok(None) => Err("it has ended".to_owned()),
            Err(e) => Err(e.to_string()),
        }
    }
}

impl Drop for Running {
    /// Closing the connection would end it as well; waiting for it leaves no zombie in a daemon that goes on.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
