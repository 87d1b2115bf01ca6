//! One container as its shim sees it: its streams, its log, who is attached, and its state on disk.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use jiff::Timestamp;
use linux::cgroup::Cgroup;
use linux::process::Ended;

use super::action::Standard;
use super::log::{Log, Stream};
use crate::disk::{self, ContainerDir, ContainerRecord};
use crate::runtime::{ContainerState, Exit};

/// A client that reads slower than the program writes is cut off after so many bytes: the program must not wait for it.
const MOST_BACKLOG: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: String,
    dir: ContainerDir,
    record: ContainerRecord,
    pub(super) state: ContainerState,
    log: Log,
    /// What the program writes: standard output or the terminal, and standard error.
    outputs: [Option<File>; 2],
    /// The far end of the program's standard input, if it was asked for.
    stdin: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    attached: Vec<Attached>,
}

/// Somebody who reads along.
#[derive(Debug)]
struct Attached {
    stream: Stream,
    pipe: File,
    backlog: Vec<u8>,
}

impl Container {
    /// Reads what the daemon has prepared, and makes the program's ends of its streams.
    pub(super) fn prepare(id: &str, dir: ContainerDir) -> Result<(Container, Standard), String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let record: ContainerRecord =
            disk::read(&dir.record()).map_err(|e| text(&e))?.ok_or("the container is not prepared")?;
        let config = &record.config;
        let log = Log::open(&config.log_path, config.log_max_bytes, config.log_max_files)
            .map_err(|e| format!("open the log `{}`: {e}", config.log_path.display()))?;
        let mut outputs = [None, None];
        let mut standard = [None, None, None];
        let mut stdin = None;
        if !config.tty {
            for (n, output) in outputs.iter_mut().enumerate() {
                let (ours, its) = pipe().map_err(|e| text(&e))?;
                *output = Some(File::from(ours));
                standard[n + 1] = Some(its);
            }
            if config.stdin {
                let (its, ours) = io::pipe().map_err(|e| text(&e))?;
                linux::process::set_nonblocking(&ours).map_err(|e| text(&e))?;
                standard[0] = Some(its.into());
                stdin = Some(ours.into());
            }
        }
        let state = ContainerState::Created;
        let (id, attached) = (id.to_owned(), Vec::new());
        Ok((Container { id, dir, record, state, log, outputs, stdin, terminal: None, attached }, standard))
    }

    pub(super) fn has_terminal(&self) -> bool {
        self.record.config.tty
    }

    pub(super) fn pid(&self) -> Option<i32> {
        match &self.state {
            ContainerState::Running { pid, .. } => Some(*pid),
            ContainerState::Created | ContainerState::Exited(_) => None,
        }
    }

    /// The program runs, in a terminal if it asked for one.
    pub(super) fn started(&mut self, pid: i32, terminal: Option<OwnedFd>) -> Result<(), String> {
        if let Some(terminal) = terminal {
            linux::process::set_nonblocking(&terminal).map_err(|e| e.to_string())?;
            self.outputs[0] = Some(File::from(terminal.try_clone().map_err(|e| e.to_string())?));
            self.terminal = Some(terminal);
        }
        self.enter(ContainerState::Running { pid, started_at: Timestamp::now() });
        Ok(())
    }

    /// The program has ended. Nothing else in its namespace lives any more, so what it wrote is all there to be read.
    pub(super) fn ended(&mut self, ended: Ended, message: Option<String>) -> Exit {
        let group = Cgroup::at(&self.record.cgroup).ok();
        if let Some(group) = group.as_ref().filter(|_| self.record.shares_pids) {
            // In a shared PID namespace the end of one process is not the end of its children.
            let _ = group.kill(std::time::Duration::from_secs(2));
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.outputs[stream as usize].is_some() && self.pump(stream) {}
            self.close(stream);
        }
        let started_at = match &self.state {
            ContainerState::Running { started_at, .. } => Some(*started_at),
            ContainerState::Created | ContainerState::Exited(_) => None,
        };
        let oom_killed = ended.code != 0 && group.is_some_and(|group| group.oom_kills() > 0);
        let finished_at = Timestamp::now();
        let exit = Exit { code: ended.code, signal: ended.signal, oom_killed, started_at, finished_at, message };
        self.stdin = None;
        self.terminal = None;
        self.attached.clear();
        self.enter(ContainerState::Exited(exit.clone()));
        exit
    }

    fn enter(&mut self, state: ContainerState) {
        self.state = state;
        if let Err(e) = disk::write(&self.dir.state(), &self.state) {
            super::complain(&format!("container `{}`: its state could not be written: {e}", self.id));
        }
    }

    /// What to wait for: the program's output.
    pub(super) fn readable(&self) -> impl Iterator<Item = (Stream, BorrowedFd<'_>)> {
        let open = |stream: Stream| Some((stream, self.outputs[stream as usize].as_ref()?.as_fd()));
        [Stream::Stdout, Stream::Stderr].into_iter().filter_map(open)
    }

    /// Who could not take all that was written, and must be told when there is room.
    pub(super) fn writable(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.attached.iter().filter(|a| !a.backlog.is_empty()).map(|a| a.pipe.as_fd())
    }

    /// Reads once from the program; false when there is nothing to read now, or ever again.
    pub(super) fn pump(&mut self, stream: Stream) -> bool {
        let mut buffer = [0; 32 * 1024];
        let Some(output) = &mut self.outputs[stream as usize] else { return false };
        match output.read(&mut buffer) {
            Ok(n @ 1..) => {
                if let Err(e) = self.log.take(stream, &buffer[..n], Timestamp::now()) {
                    super::complain(&format!("container `{}`: its log could not be written: {e}", self.id));
                }
                self.tell_attached(stream, &buffer[..n]);
                true
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => false,
            // A terminal whose last program has left reads as EIO.
            Ok(_) | Err(_) => {
                self.close(stream);
                false
            }
        }
    }

    fn close(&mut self, stream: Stream) {
        if self.outputs[stream as usize].take().is_some() {
            let _ = self.log.end(stream, Timestamp::now());
        }
        self.flush();
        self.attached.retain(|a| a.stream != stream);
    }

    fn tell_attached(&mut self, stream: Stream, bytes: &[u8]) {
        for attached in self.attached.iter_mut().filter(|a| a.stream == stream) {
            attached.backlog.extend_from_slice(bytes);
        }
        self.flush();
    }

    /// Hands on what waits, and lets those go who have left or do not keep up.
    pub(super) fn flush(&mut self) {
        self.attached.retain_mut(|attached| attached.flush().is_ok() && attached.backlog.len() <= MOST_BACKLOG);
    }

    /// Lets somebody read along. Gives what to send: standard input if it is wanted and there is one (with a terminal:
    /// its master, which is also for resizing), then output, then errors.
    pub(super) fn attach(&mut self, stdin: bool) -> io::Result<(bool, [Option<OwnedFd>; 3])> {
        let mut far_ends = [None, None, None];
        let terminal = self.terminal.is_some();
        if let Some(terminal) = &self.terminal {
            far_ends[0] = Some(terminal.try_clone()?);
        } else if stdin && let Some(writer) = &self.stdin {
            far_ends[0] = Some(writer.try_clone()?);
            if self.record.config.stdin_once {
                // The program reads the end when this client leaves.
                self.stdin = None;
            }
        }
        let streams: &[Stream] = if terminal { &[Stream::Stdout] } else { &[Stream::Stdout, Stream::Stderr] };
        for stream in streams.iter().filter(|s| self.outputs[**s as usize].is_some()) {
            let (theirs, ours) = io::pipe()?;
            linux::process::set_nonblocking(&ours)?;
            let pipe = File::from(OwnedFd::from(ours));
            self.attached.push(Attached { stream: *stream, pipe, backlog: Vec::new() });
            far_ends[*stream as usize + 1] = Some(theirs.into());
        }
        Ok((terminal, far_ends))
    }

    pub(super) fn reopen_log(&mut self) -> io::Result<()> {
        self.log.reopen()
    }
}

impl Attached {
    fn flush(&mut self) -> io::Result<()> {
        while !self.backlog.is_empty() {
            match self.pipe.write(&self.backlog) {
                Ok(n) => drop(self.backlog.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// A pipe whose reading end does not block.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = io::pipe()?;
    linux::process::set_nonblocking(&read)?;
    Ok((read.into(), write.into()))
}
