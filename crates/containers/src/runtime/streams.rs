//! Byte streams of an exec or an attach, as the agent reads and writes them.
//!
//! The daemon makes the pipes and hands the far ends to the shim, which gives them to the process: bytes of an exec pass
//! no process in between. With a terminal the shim hands back its master side, so resizing needs no message either.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::ExecConfig;
use super::client::Connection;
use crate::Error;
use crate::shim::protocol::{Reply, Request};

pub type Input = Box<dyn AsyncWrite + Send + Unpin>;
pub type Output = Box<dyn AsyncRead + Send + Unpin>;

/// The three streams, or a terminal's two. Dropping `stdin` closes it.
#[derive(Default)]
pub struct Streams {
    pub stdin: Option<Input>,
    pub stdout: Option<Output>,
    /// None with a terminal: both come by `stdout`.
    pub stderr: Option<Output>,
    /// To resize it; none without a terminal.
    pub terminal: Option<Terminal>,
}

/// A process in a container. Dropping `exit` kills the process if it still runs.
pub struct Exec {
    pub streams: Streams,
    /// The exit code, 128 + n after signal n.
    pub exit: Pin<Box<dyn Future<Output = Result<i32, Error>> + Send>>,
}

/// The master side of a terminal.
#[derive(Clone, Debug)]
pub struct Terminal {
    master: Arc<OwnedFd>,
}

impl Terminal {
    pub(crate) fn new(master: Arc<OwnedFd>) -> Terminal {
        Terminal { master }
    }

    /// Tells the programs on the terminal its size in characters.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<(), Error> {
        linux::terminal::resize(&self.master, columns, rows).map_err(Error::from)
    }
}

/// What a command wrote and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// 137 when it was killed for taking too long.
    pub exit_code: i32,
    pub timed_out: bool,
}

/// Starts a process in a container over a connection of its own, which then stands for the process.
pub(super) async fn exec(connection: Connection, container: &str, config: ExecConfig) -> Result<Exec, Error> {
    let ExecConfig { command, tty, stdin, stdout, stderr } = config;
    let wanted = if tty { [false; 3] } else { [stdin, stdout, stderr] };
    let mut streams = Streams::default();
    let mut far_ends = Vec::new();
    if wanted[0] {
        let (far, near) = io::pipe().map_err(no_pipe)?;
        streams.stdin = Some(writer(near.into())?);
        far_ends.push(far.into());
    }
    for (wanted, slot) in [(wanted[1], &mut streams.stdout), (wanted[2], &mut streams.stderr)] {
        if wanted {
            let (near, far) = io::pipe().map_err(no_pipe)?;
            *slot = Some(reader(near.into())?);
            far_ends.push(far.into());
        }
    }
    let request = Request::Exec { container: container.to_owned(), command, tty, streams: wanted };
    let (_, descriptors) = connection.ask(&request, &far_ends).await?;
    drop(far_ends);
    if let Some(master) = descriptors.into_iter().next() {
        streams = on_terminal(master, stdin, stdout)?;
    }
    let exit = Box::pin(async move {
        match connection.next().await? {
            Reply::Exited { code } => Ok(code),
            other => Err(Error::Invalid(format!("the shim answered {other:?}"))),
        }
    });
    Ok(Exec { streams, exit })
}

/// Joins a container's own streams.
pub(super) async fn attach(connection: Connection, container: &str, stdin: bool) -> Result<Streams, Error> {
    let (reply, descriptors) = connection.ask(&Request::Attach { container: container.to_owned(), stdin }, &[]).await?;
    let Reply::Attached { stdin: has_stdin, stdout, stderr, terminal } = reply else {
        return Err(Error::Invalid(format!("the shim answered {reply:?}")));
    };
    let mut descriptors = descriptors.into_iter();
    let mut take = |given: bool| if given { descriptors.next() } else { None };
    let (input, out, err) = (take(has_stdin), take(stdout), take(stderr));
    let mut streams = match (terminal, input) {
        (true, Some(master)) => on_terminal(master, stdin, false)?,
        (false, Some(input)) => Streams { stdin: Some(writer(input)?), ..Streams::default() },
        (_, None) => Streams::default(),
    };
    streams.stdout = out.map(reader).transpose()?;
    streams.stderr = err.map(reader).transpose()?;
    Ok(streams)
}

fn on_terminal(master: OwnedFd, stdin: bool, stdout: bool) -> Result<Streams, Error> {
    linux::process::set_nonblocking(&master)?;
    let master = Arc::new(master);
    let end = || Master::new(&master).map_err(no_pipe);
    Ok(Streams {
        stdin: if stdin { Some(Box::new(end()?)) } else { None },
        stdout: if stdout { Some(Box::new(end()?)) } else { None },
        stderr: None,
        terminal: Some(Terminal::new(Arc::clone(&master))),
    })
}

fn writer(pipe: OwnedFd) -> Result<Input, Error> {
    linux::process::set_nonblocking(&pipe)?;
    Ok(Box::new(tokio::net::unix::pipe::Sender::from_owned_fd(pipe).map_err(no_pipe)?))
}

fn reader(pipe: OwnedFd) -> Result<Output, Error> {
    linux::process::set_nonblocking(&pipe)?;
    Ok(Box::new(tokio::net::unix::pipe::Receiver::from_owned_fd(pipe).map_err(no_pipe)?))
}

fn no_pipe(error: io::Error) -> Error {
    Error::Invalid(format!("no pipe for a stream: {error}"))
}

/// A terminal's master as an async stream. Its end is when the last program has closed the other side, which the
/// kernel reports as an error.
struct Master {
    fd: AsyncFd<OwnedFd>,
}

impl Master {
    /// Each user has a descriptor of its own: one descriptor can be waited for in one place only.
    fn new(master: &OwnedFd) -> io::Result<Master> {
        Ok(Master { fd: linux::readiness::register(master.try_clone()?)? })
    }
}

impl AsyncRead for Master {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = std::task::ready!(self.fd.poll_read_ready(cx))?;
            let free = buffer.initialize_unfilled();
            match ready.try_io(|fd| nix::unistd::read(fd, free).map_err(io::Error::from)) {
                Ok(Ok(n)) => {
                    buffer.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Master {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = std::task::ready!(self.fd.poll_write_ready(cx))?;
            match ready.try_io(|fd| nix::unistd::write(fd, bytes).map_err(io::Error::from)) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Reads an exec to its end.
pub(crate) async fn collect(exec: Exec, timeout: Duration, limit: usize) -> Result<ExecOutput, Error> {
    let Exec { streams, exit } = exec;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let reading = async {
        let out = read_limited(streams.stdout, &mut stdout, limit);
        let err = read_limited(streams.stderr, &mut stderr, limit);
        tokio::join!(out, err, exit).2
    };
    match tokio::time::timeout(timeout, reading).await {
        Ok(code) => Ok(ExecOutput { exit_code: code?, stdout, stderr, timed_out: false }),
        Err(_) => Ok(ExecOutput { exit_code: 137, stdout, stderr, timed_out: true }),
    }
}

/// Reads to the end, keeps the first `limit` bytes: a command that writes more must not be blocked.
async fn read_limited(from: Option<Output>, into: &mut Vec<u8>, limit: usize) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let room = limit.saturating_sub(into.len());
        into.extend_from_slice(&buffer[..n.min(room)]);
    }
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("terminal", &self.terminal)
            .finish()
    }
}

impl std::fmt::Debug for Exec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exec").field("streams", &self.streams).finish_non_exhaustive()
    }
}
