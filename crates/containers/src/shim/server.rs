//! The shim's loop: waits for requests, for what programs write, for the end of children; answers.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use linux::cgroup::Cgroup;
use linux::process::Ended;
use linux::{ProcessId, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;

use super::action::{self, Action, Early, Kind, Outcome};
use super::complain;
use super::container::Container;
use super::log::Stream;
use super::protocol::{self, Failure, Reply, Request};
use crate::disk::{self, SandboxDir, SandboxRecord};
use crate::runtime::Exit;

#[derive(Debug)]
pub(super) struct Server {
    dir: SandboxDir,
    listener: OwnedFd,
    children: SignalFd,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    containers: BTreeMap<String, Container>,
    actions: Vec<Action>,
    early: Early,
    finished: bool,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    watches: bool,
    /// The process of an exec that was asked for here.
    exec: Option<ProcessId>,
}

/// What became ready.
#[derive(Clone, Debug)]
enum Ready {
    Listener,
    Children,
    Connection(u64),
    Outcome(i32),
    Output(String, Stream),
    Attached(String),
}

impl Server {
    pub(super) fn new(dir: SandboxDir, listener: OwnedFd) -> Result<Server> {
        Ok(Server {
            dir,
            listener,
            children: linux::process::child_signals()?,
            connections: BTreeMap::new(),
            next_connection: 0,
            containers: BTreeMap::new(),
            actions: Vec::new(),
            early: Early::new(),
            finished: false,
        })
    }

    pub(super) fn run(&mut self) -> Result<()> {
        while !self.finished {
            for ready in self.wait() {
                self.attend(ready);
            }
        }
        Ok(())
    }

    fn wait(&self) -> Vec<Ready> {
        let read = PollFlags::POLLIN;
        let mut waited: Vec<(BorrowedFd<'_>, PollFlags, Ready)> =
            vec![(self.listener.as_fd(), read, Ready::Listener), (self.children.as_fd(), read, Ready::Children)];
        waited.extend(self.connections.iter().map(|(id, c)| (c.socket.as_fd(), read, Ready::Connection(*id))));
        waited.extend(self.actions.iter().map(|a| (a.outcome.as_fd(), read, Ready::Outcome(a.copy))));
        for container in self.containers.values() {
            let id = || container.id.clone();
            waited.extend(container.readable().map(|(stream, fd)| (fd, read, Ready::Output(id(), stream))));
            waited.extend(container.writable().map(|fd| (fd, PollFlags::POLLOUT, Ready::Attached(id()))));
        }
        let mut fds: Vec<PollFd<'_>> = waited.iter().map(|(fd, flags, _)| PollFd::new(*fd, *flags)).collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => complain(&format!("poll: {e}")),
        }
        let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        fds.iter().zip(&waited).filter(|(fd, _)| is_ready(fd)).map(|(_, (_, _, ready))| ready.clone()).collect()
    }

    fn attend(&mut self, ready: Ready) {
        match ready {
            Ready::Listener => self.accept(),
            Ready::Children => {
                while self.children.read_signal().is_ok_and(|signal| signal.is_some()) {}
                while let Some(ended) = linux::process::reap() {
                    self.child_ended(ended);
                }
            }
            Ready::Connection(id) => self.read_request(id),
            Ready::Outcome(copy) => self.finish_action(copy),
            Ready::Output(container, stream) => {
                if let Some(container) = self.containers.get_mut(&container) {
                    container.pump(stream);
                }
            }
            Ready::Attached(container) => {
                if let Some(container) = self.containers.get_mut(&container) {
                    container.flush();
                }
            }
        }
    }

    fn accept(&mut self) {
        match linux::socket::accept(&self.listener) {
            Ok(Some(socket)) => {
                let connection = Connection { socket, watches: false, exec: None };
                self.connections.insert(self.next_connection, connection);
                self.next_connection += 1;
            }
            Ok(None) => {}
            Err(e) => complain(&e),
        }
    }

    fn read_request(&mut self, id: u64) {
        let Some(connection) = self.connections.get(&id) else { return };
        match protocol::receive::<Request>(&connection.socket) {
            Ok(Some((request, descriptors))) => {
                if let Some(reply) = self.carry_out(id, request, descriptors) {
                    self.reply(id, &reply, &[]);
                }
            }
            Ok(None) => self.hang_up(id),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => {
                self.reply(id, &Reply::Failed(Failure::Invalid(e.to_string())), &[]);
                self.hang_up(id);
            }
        }
    }

    fn hang_up(&mut self, id: u64) {
        let connection = self.connections.remove(&id);
        if let Some(process) = connection.and_then(|connection| connection.exec) {
            let _ = process.signal(libc::SIGKILL);
        }
    }

    fn reply(&mut self, id: u64, reply: &Reply, descriptors: &[RawFd]) {
        let Some(connection) = self.connections.get(&id) else { return };
        if let Err(e) = protocol::send(&connection.socket, reply, descriptors) {
            // Whoever does not read its answers learns the rest from the disk.
            if e.kind() != io::ErrorKind::BrokenPipe {
                complain(&format!("answer: {e}"));
            }
            self.hang_up(id);
        }
    }

    /// Carries out a request; none when the answer comes later.
    fn carry_out(&mut self, id: u64, request: Request, descriptors: Vec<OwnedFd>) -> Option<Reply> {
        let done = match request {
            Request::Start { container } => self.start(id, &container),
            Request::Exec { container, command, tty, streams } => {
                self.exec(id, &container, command, tty, streams, descriptors)
            }
            Request::Attach { container, stdin } => return self.attach(id, &container, stdin),
            Request::Signal { container, signal } => Some(self.signal(&container, signal)),
            Request::Forget { container } => Some(self.forget(&container)),
            Request::ReopenLog { container } => {
                let log = self.containers.get_mut(&container).map(Container::reopen_log);
                log.map(|reopened| reopened.map_err(|e| Failure::Invalid(e.to_string())))
            }
            Request::Watch => {
                let connection = self.connections.get_mut(&id);
                Some(connection.map(|c| c.watches = true).ok_or(Failure::Invalid("closed".to_owned())))
            }
            Request::Shutdown => {
                self.shut_down();
                Some(Ok(()))
            }
        };
        done.map(|done| done.map_or_else(Reply::Failed, |()| Reply::Done))
    }

    fn start(&mut self, id: u64, container: &str) -> Option<Result<(), Failure>> {
        if self.containers.contains_key(container) {
            return Some(Err(Failure::Invalid("it was started before".to_owned())));
        }
        let (prepared, standard) = match Container::prepare(container, self.dir.container(container)) {
            Ok(prepared) => prepared,
            Err(e) => return Some(Err(Failure::Create(e))),
        };
        match action::start(&self.dir, container, id, standard, prepared.has_terminal()) {
            Ok(action) => self.actions.push(action),
            Err(e) => return Some(Err(Failure::Create(e.to_string()))),
        }
        self.containers.insert(container.to_owned(), prepared);
        None
    }

    fn exec(
        &mut self,
        id: u64,
        container: &str,
        command: Vec<String>,
        tty: bool,
        streams: [bool; 3],
        descriptors: Vec<OwnedFd>,
    ) -> Option<Result<(), Failure>> {
        if let Err(failure) = self.running(container) {
            return Some(Err(failure));
        }
        let mut descriptors = descriptors.into_iter();
        let standard = streams.map(|given| if given { descriptors.next() } else { None });
        match action::exec(&self.dir, container, id, command, standard, tty) {
            Ok(action) => self.actions.push(action),
            Err(e) => return Some(Err(Failure::Start(e.to_string()))),
        }
        None
    }

    fn attach(&mut self, id: u64, container: &str, stdin: bool) -> Option<Reply> {
        if let Err(failure) = self.running(container) {
            return Some(Reply::Failed(failure));
        }
        let attached = self.containers.get_mut(container).map(|container| container.attach(stdin))?;
        match attached {
            Ok((terminal, far_ends)) => {
                let [stdin, stdout, stderr] = far_ends.each_ref().map(Option::is_some);
                let fds: Vec<RawFd> = far_ends.iter().flatten().map(AsRawFd::as_raw_fd).collect();
                self.reply(id, &Reply::Attached { stdin, stdout, stderr, terminal }, &fds);
                None
            }
            Err(e) => Some(Reply::Failed(Failure::Invalid(e.to_string()))),
        }
    }

    fn running(&self, container: &str) -> Result<i32, Failure> {
        let state = self.containers.get(container).map_or("created", |c| c.state.name());
        let pid = self.containers.get(container).and_then(Container::pid);
        pid.ok_or(Failure::NotRunning { state: state.to_owned() })
    }

    fn signal(&self, container: &str, signal: i32) -> Result<(), Failure> {
        // The child is not reaped yet, so its number is still its own.
        let process = ProcessId::of(self.running(container)?);
        let sent = process.map(|process| process.signal(signal)).transpose();
        sent.map(drop).map_err(|e| Failure::Invalid(e.to_string()))
    }

    fn forget(&mut self, container: &str) -> Result<(), Failure> {
        if self.running(container).is_ok() || self.actions.iter().any(|a| a.kind.container() == container) {
            return Err(Failure::Invalid("it still runs".to_owned()));
        }
        self.containers.remove(container);
        action::forget(&self.dir, container);
        Ok(())
    }

    /// A copy has told its outcome, or died without one.
    fn finish_action(&mut self, copy: i32) {
        let Some(at) = self.actions.iter().position(|a| a.copy == copy) else { return };
        let outcome = match protocol::receive::<Outcome>(&self.actions[at].outcome) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            Ok(Some(told)) => told,
            Ok(None) | Err(_) => {
                (Outcome::Failed(Failure::Create("the process that should make it died".to_owned())), Vec::new())
            }
        };
        let mut action = self.actions.remove(at);
        let (outcome, mut descriptors) = outcome;
        let outcome = match (outcome, action.refused()) {
            (Outcome::Failed(_), Some(refusal)) => Outcome::Failed(Failure::Start(refusal)),
            (outcome, Some(refusal)) if action.kind.is_start() => {
                // The program's process ends by itself, with a code that says nothing.
                drop(outcome);
                Outcome::Failed(Failure::Start(refusal))
            }
            (Outcome::Failed(Failure::Create(text)), None) => {
                Outcome::Failed(Failure::Create(match action.notes.first() {
                    Some(note) => format!("{text}: {note}"),
                    None => text,
                }))
            }
            (outcome, _) => outcome,
        };
        let master = descriptors.pop();
        match (&action.kind, outcome) {
            (Kind::Start { container }, Outcome::Running { pid }) => {
                self.container_started(&container.clone(), pid, master, action.connection);
            }
            (Kind::Start { container }, Outcome::Failed(failure)) => {
                let container = container.clone();
                self.start_failed(&container, &failure);
                self.reply(action.connection, &Reply::Failed(failure), &[]);
            }
            (Kind::Exec { .. }, Outcome::Running { pid }) => self.exec_started(pid, master, action.connection),
            (Kind::Exec { .. }, Outcome::Failed(failure)) => {
                self.reply(action.connection, &Reply::Failed(failure), &[]);
            }
        }
        if self.actions.is_empty() {
            self.early.clear();
        }
    }

    fn container_started(&mut self, id: &str, pid: i32, master: Option<OwnedFd>, connection: u64) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if let Err(e) = container.started(pid, master) {
            complain(&format!("container `{id}`: {e}"));
        }
        self.reply(connection, &Reply::Started { pid }, &[]);
        if let Some(ended) = self.early.remove(&pid) {
            self.child_ended(ended);
        }
    }

    /// Nothing of a container that could not be started may go on.
    fn start_failed(&mut self, id: &str, failure: &Failure) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let text = match failure {
            Failure::Create(text) | Failure::Start(text) | Failure::Invalid(text) => text.clone(),
            Failure::NotRunning { state } => state.clone(),
        };
        let exit = container.ended(Ended { pid: 0, code: 128, signal: None }, Some(text));
        self.tell_watchers(id, exit);
        action::forget(&self.dir, id);
    }

    fn exec_started(&mut self, pid: i32, master: Option<OwnedFd>, id: u64) {
        let process = ProcessId::of(pid);
        let fds: Vec<RawFd> = master.iter().map(AsRawFd::as_raw_fd).collect();
        match self.connections.get_mut(&id) {
            Some(connection) => connection.exec = process,
            // Nobody waits for it any more.
            None => drop(process.map(|process| process.signal(libc::SIGKILL))),
        }
        self.reply(id, &Reply::Started { pid }, &fds);
        if let Some(ended) = self.early.remove(&pid) {
            self.exec_ended(id, ended);
        }
    }

    fn exec_ended(&mut self, id: u64, ended: Ended) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.exec = None;
        }
        self.reply(id, &Reply::Exited { code: ended.code }, &[]);
    }

    fn child_ended(&mut self, ended: Ended) {
        if let Some(container) = self.containers.values_mut().find(|c| c.pid() == Some(ended.pid)) {
            let (id, exit) = (container.id.clone(), container.ended(ended, None));
            self.tell_watchers(&id, exit);
            return;
        }
        let exec = self.connections.iter().find(|(_, c)| c.exec.is_some_and(|p| p.pid == ended.pid));
        if let Some(id) = exec.map(|(id, _)| *id) {
            self.exec_ended(id, ended);
            return;
        }
        if self.actions.iter().any(|a| a.copy == ended.pid) {
            // Its outcome is there by now, or will never be.
            self.finish_action(ended.pid);
        } else if !self.actions.is_empty() {
            self.early.insert(ended.pid, ended);
        }
    }

    fn tell_watchers(&mut self, container: &str, exit: Exit) {
        let told = Reply::ContainerExited { container: container.to_owned(), exit };
        let watchers: Vec<u64> = self.connections.iter().filter(|(_, c)| c.watches).map(|(id, _)| *id).collect();
        for id in watchers {
            self.reply(id, &told, &[]);
        }
    }

    /// Kills everything; exits are still written and told.
    fn shut_down(&mut self) {
        let record: Option<SandboxRecord> = disk::read(&self.dir.record()).unwrap_or_default();
        let group = record.map(|record| Cgroup::at(&record.config.cgroup));
        if let Some(Err(e)) = group.map(|group| group.and_then(|g| g.kill(Duration::from_secs(5)))) {
            complain(&e);
        }
        let running: Vec<i32> = self.containers.values().filter_map(Container::pid).collect();
        for pid in running {
            // Killed with the group, or at the latest here; both are its children, so the wait ends.
            let _ = ProcessId::of(pid).map(|process| process.signal(libc::SIGKILL));
            if let Ok(ended) = linux::process::wait_for(pid) {
                self.child_ended(ended);
            }
        }
        self.finished = true;
    }
}

impl Kind {
    fn container(&self) -> &str {
        match self {
            Kind::Start { container } | Kind::Exec { container } => container,
        }
    }

    fn is_start(&self) -> bool {
        matches!(self, Kind::Start { .. })
    }
}

impl Action {
    /// Why the program could not be executed. Waits until that is decided, which is a matter of microseconds: the pipe
    /// closes when the program is executed or its process ends.
    fn refused(&mut self) -> Option<String> {
        let mut fds = [PollFd::new(self.refusal.as_fd(), PollFlags::POLLIN)];
        let mut text = String::new();
        loop {
            match poll(&mut fds, PollTimeout::from(5000u16)) {
                Err(Errno::EINTR) => continue,
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            let mut buffer = [0; 4096];
            match (&self.refusal).read(&mut buffer) {
                Ok(n @ 1..) => text.push_str(&String::from_utf8_lossy(&buffer[..n])),
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        Some(text).filter(|text| !text.is_empty())
    }
}
