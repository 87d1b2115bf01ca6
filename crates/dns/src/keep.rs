//! Sockets over a restart: a small process keeps copies of them, so that questions which come while no server reads wait in the kernel
//! instead of being refused, and the next server answers them.
//!
//! It holds what the server gave it, gives it to whoever takes over, and ends by itself soon after the last server has: whoever stops DNS for
//! good gets the port back, and a client that asked meanwhile has lost no more than its first timeout.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use linux::socket::{accept, connect_to, listen_at, receive, send};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{info, warn};

/// The first timeout of glibc's, musl's and Go's resolvers.
const HOLD: Duration = Duration::from_secs(5);
/// How long we wait for the keeper, which has nothing else to do.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

const TAKE: &[u8] = b"take";
const SOCKET: &[u8] = b"socket ";
const KEEP: &[u8] = b"keep";
const RELEASE: &[u8] = b"release";
const END: &[u8] = b"end";

/// How a server's sockets are kept.
#[derive(Debug, Clone)]
pub struct Keep {
    /// The keeper's own socket.
    pub path: PathBuf,
    /// The command that runs [`serve`] with that path as one more argument.
    pub command: Vec<String>,
}

/// Open sockets by what they are for.
pub(crate) type Kept = BTreeMap<String, OwnedFd>;

/// For as long as this lives, the keeper knows that there is a server.
#[derive(Debug)]
pub(crate) struct Held {
    _connection: OwnedFd,
}

impl Keep {
    /// What an earlier server left; nothing if no keeper is there.
    pub(crate) fn take(&self) -> Kept {
        let Ok(keeper) = connect_to(&self.path) else { return Kept::new() };
        match taken(&keeper) {
            Ok(kept) => kept,
            Err(error) => {
                warn!(%error, "the keeper of sockets does not give them, opening new ones");
                Kept::new()
            }
        }
    }

    /// Leaves copies with the keeper, which is started if there is none.
    ///
    /// # Errors
    /// When it cannot be started or reached.
    pub(crate) fn hold(&self, sockets: &[(String, &dyn AsFdDyn)]) -> io::Result<Held> {
        let keeper = match connect_to(&self.path) {
            Ok(keeper) => keeper,
            Err(_) => self.start()?,
        };
        for (label, socket) in sockets {
            let message = [SOCKET, label.as_bytes()].concat();
            send(&keeper, &message, &[socket.fd().as_raw_fd()])?;
        }
        send(&keeper, KEEP, &[])?;
        expect_end(&keeper)?;
        Ok(Held { _connection: keeper })
    }

    fn start(&self) -> io::Result<OwnedFd> {
        use std::os::unix::process::CommandExt;
        let (program, arguments) = self.command.split_first().ok_or(ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).arg(&self.path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // The terminal's interrupt is for the server alone.
        command.process_group(0).spawn()?;
        let start = Instant::now();
        loop {
            match connect_to(&self.path) {
                Ok(keeper) => return Ok(keeper),
                Err(error) if start.elapsed() > ANSWER_WITHIN => return Err(io::Error::other(error)),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

/// Anything with a descriptor, whatever its type.
pub(crate) trait AsFdDyn {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl<T: AsFd> AsFdDyn for T {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.as_fd()
    }
}

/// Ends the keeper and lets its sockets go; fine if there is none.
pub fn release(path: &Path) {
    if let Ok(keeper) = connect_to(path)
        && send(&keeper, RELEASE, &[]).is_ok()
    {
        let _ = expect_end(&keeper);
    }
}

fn taken(keeper: &OwnedFd) -> io::Result<Kept> {
    send(keeper, TAKE, &[])?;
    let mut kept = Kept::new();
    loop {
        let (message, mut descriptors) = receive_within(keeper)?;
        match (message.strip_prefix(SOCKET), descriptors.pop()) {
            (Some(label), Some(socket)) => drop(kept.insert(String::from_utf8_lossy(label).into_owned(), socket)),
            (Some(_), None) => return Err(ErrorKind::InvalidData.into()),
            (None, _) => return Ok(kept),
        }
    }
}

fn expect_end(keeper: &OwnedFd) -> io::Result<()> {
    receive_within(keeper).map(drop)
}

fn receive_within(from: &OwnedFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let timeout = PollTimeout::try_from(ANSWER_WITHIN).map_err(io::Error::other)?;
    if poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], timeout)? == 0 {
        return Err(ErrorKind::TimedOut.into());
    }
    receive(from)
}

/// The keeper itself: holds what it is given until there has been no server for a while.
///
/// # Errors
/// When its own socket cannot be made or read.
pub fn serve(path: &Path) -> io::Result<()> {
    let listener = listen_at(path).map_err(io::Error::other)?;
    let mut keeper = Keeper { clients: Vec::new(), kept: Vec::new(), until: Some(Instant::now() + HOLD) };
    let served = keeper.run(&listener);
    // Whoever comes now must see that nobody is there.
    let _ = std::fs::remove_file(path);
    served
}

struct Keeper {
    clients: Vec<Client>,
    kept: Vec<(Vec<u8>, OwnedFd)>,
    /// When it ends; none while there is a server.
    until: Option<Instant>,
}

struct Client {
    connection: OwnedFd,
    /// What it has given so far.
    given: Vec<(Vec<u8>, OwnedFd)>,
    holds: bool,
}

impl Keeper {
    fn run(&mut self, listener: &OwnedFd) -> io::Result<()> {
        loop {
            let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(());
            }
            let timeout =
                left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            let connections = self.clients.iter().map(|client| &client.connection);
            let mut watched: Vec<PollFd<'_>> = std::iter::once(listener)
                .chain(connections)
                .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
                .collect();
            match poll(&mut watched, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            while let Some(connection) = accept(listener).map_err(io::Error::other)? {
                self.clients.push(Client { connection, given: Vec::new(), holds: false });
            }
            let mut at = 0;
            while at < self.clients.len() {
                match self.listen_to(at) {
                    Ok(Heard::Nothing) => at += 1,
                    Ok(Heard::Gone) | Err(_) => self.forget(at),
                    Ok(Heard::Release) => return Ok(()),
                }
            }
        }
    }

    fn listen_to(&mut self, at: usize) -> io::Result<Heard> {
        loop {
            let client = &mut self.clients[at];
            let (message, mut descriptors) = match receive(&client.connection) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Heard::Nothing),
                Err(error) => return Err(error),
            };
            if let Some(label) = message.strip_prefix(SOCKET) {
                client.given.extend(descriptors.pop().map(|socket| (label.to_vec(), socket)));
            } else if message == TAKE {
                for (label, socket) in &self.kept {
                    send(&client.connection, &[SOCKET, label].concat(), &[socket.as_raw_fd()])?;
                }
                send(&client.connection, END, &[])?;
            } else if message == KEEP {
                client.holds = true;
                self.kept = std::mem::take(&mut client.given);
                self.until = None;
                send(&client.connection, END, &[])?;
            } else if message == RELEASE {
                let _ = send(&client.connection, END, &[]);
                return Ok(Heard::Release);
            } else {
                return Ok(Heard::Gone);
            }
        }
    }

    fn forget(&mut self, at: usize) {
        let held = self.clients.swap_remove(at).holds;
        if held && !self.clients.iter().any(|client| client.holds) {
            self.until = Some(Instant::now() + HOLD);
        }
    }
}

enum Heard {
    Nothing,
    Gone,
    Release,
}

/// Says what came of keeping; serving goes on without it.
pub(crate) fn kept_or_not(held: io::Result<Held>) -> Option<Held> {
    match held {
        Ok(held) => Some(held),
        Err(error) => {
            info!(%error, "sockets are not kept over a restart");
            None
        }
    }
}
