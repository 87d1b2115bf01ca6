//! What the shim does with libcontainer, each time in a copy of itself that ends right after.
//!
//! libcontainer changes the current folder, marks its process as not dumpable, sets the OOM score of whoever calls it
//! and can wait for long: none of that may happen to the shim. The copy's children become the shim's, which is the
//! reaper of its descendants. What the copy learns comes back as one message over a socket pair.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::notes::{self, Notes};
use super::protocol::{self, Failure};
use crate::disk::{self, SandboxDir};
use crate::runtime::seccomp::Filters;

/// A copy at work.
#[derive(Debug)]
pub(super) struct Action {
    pub(super) kind: Kind,
    /// Who asked, and waits for the answer.
    pub(super) connection: u64,
    pub(super) copy: i32,
    /// Where the outcome comes from; it closes without one if the copy dies.
    pub(super) outcome: OwnedFd,
    /// Closes when the program is executed; what comes before is why it could not be.
    pub(super) refusal: File,
    /// What libcontainer has noted about a failure.
    pub(super) notes: Notes,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Start { container: String },
    Exec { container: String },
}

/// What a copy reports; the terminal's master comes with it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Outcome {
    Running { pid: i32 },
    Failed(Failure),
}

/// Descriptors for the program's standard streams; none reads as empty and writes to nowhere.
pub(super) type Standard = [Option<OwnedFd>; 3];

/// Makes and starts the container whose bundle lies ready.
pub(super) fn start(
    dir: &SandboxDir,
    container: &str,
    connection: u64,
    standard: Standard,
    tty: bool,
) -> io::Result<Action> {
    let kind = Kind::Start { container: container.to_owned() };
    let bundle = dir.container(container).0;
    let (state, id) = (dir.state(), container.to_owned());
    launch(kind, connection, standard, move |standard, mut executor| {
        executor.filters = filters(dir, container)?;
        let console = tty.then(|| Console::listen(&bundle)).transpose().map_err(Failure::Create)?;
        let spec = fs::read(bundle.join("config.json")).unwrap_or_default();
        let spec: Value = serde_json::from_slice(&spec).unwrap_or_default();
        set_oom_score(spec.pointer("/annotations/oom_score_adj"));
        let builder = builder(&id, &state, standard, executor, console.as_ref())?;
        let built = builder.as_init(&bundle).with_systemd(false).with_detach(true).build();
        let mut container = built.map_err(|e| refused(&e))?;
        let master = console.map(Console::master).transpose().map_err(Failure::Create)?;
        container.start().map_err(|e| Failure::Start(text_of(&e)))?;
        Ok((container.pid().map_or(0, |pid| pid.as_raw()), master))
    })
}

/// Runs `command` in a running container as its own program runs there: same user, environment, limits.
pub(super) fn exec(
    dir: &SandboxDir,
    container: &str,
    connection: u64,
    command: Vec<String>,
    standard: Standard,
    tty: bool,
) -> io::Result<Action> {
    let kind = Kind::Exec { container: container.to_owned() };
    let bundle = dir.container(container).0;
    let (state, id) = (dir.state(), container.to_owned());
    launch(kind, connection, standard, move |standard, mut executor| {
        executor.filters = filters(dir, container)?;
        let console = tty.then(|| Console::listen(&bundle)).transpose().map_err(Failure::Create)?;
        let process = process_of(&bundle, command, tty).map_err(Failure::Create)?;
        let builder = builder(&id, &state, standard, executor, console.as_ref())?;
        let built = builder.as_tenant().with_detach(true).with_process(Some(&process)).build();
        let _ = fs::remove_file(&process);
        let pid = built.map_err(|e| refused(&e))?;
        let master = console.map(Console::master).transpose().map_err(Failure::Create)?;
        Ok((pid.as_raw(), master))
    })
}

/// The filters that the daemon has compiled; a container of an older daemon, or a privileged one, has none.
fn filters(dir: &SandboxDir, container: &str) -> Result<Arc<Filters>, Failure> {
    let read = disk::read(&dir.container(container).seccomp()).map_err(|e| Failure::Create(e.to_string()))?;
    Ok(Arc::new(read.unwrap_or_default()))
}

/// Takes back what libcontainer keeps about a container that has ended.
pub(super) fn forget(dir: &SandboxDir, container: &str) {
    let _ = fs::remove_dir_all(dir.state().join(container));
}

fn launch(
    kind: Kind,
    connection: u64,
    standard: Standard,
    act: impl FnOnce(Standard, Runner) -> Result<(i32, Option<OwnedFd>), Failure>,
) -> io::Result<Action> {
    let (outcome, tell) = linux::socket::pair()?;
    let (notes, notebook) = notes::pipe()?;
    let (refusal, refuse) = io::pipe()?;
    let refusal = File::from(OwnedFd::from(refusal));
    let refuse = File::from(OwnedFd::from(refuse));
    let copy = linux::process::fork(|| {
        let keep: Vec<_> = standard.iter().flatten().map(AsRawFd::as_raw_fd).collect();
        let keep = [keep, vec![tell.as_raw_fd(), refuse.as_raw_fd(), notebook.file().as_raw_fd()]].concat();
        let _ = linux::process::close_all_but(&keep);
        let _ = linux::process::unblock_signals();
        notebook.open();
        let (outcome, master) = match act(standard, Runner { refuse: Arc::new(refuse), filters: Arc::default() }) {
            Ok((pid, master)) => (Outcome::Running { pid }, master),
            Err(failure) => (Outcome::Failed(failure), None),
        };
        let with: Vec<_> = master.iter().map(AsRawFd::as_raw_fd).collect();
        i32::from(protocol::send(&tell, &outcome, &with).is_err())
    })?;
    linux::process::set_nonblocking(&refusal)?;
    Ok(Action { kind, connection, copy, outcome, refusal, notes })
}

fn builder(
    id: &str,
    state: &Path,
    standard: Standard,
    executor: Runner,
    console: Option<&Console>,
) -> Result<ContainerBuilder, Failure> {
    let builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(state)
        .map_err(|e| Failure::Create(text_of(&e)))?
        .with_executor(executor);
    if let Some(console) = console {
        return Ok(builder.with_console_socket(Some(&console.path)));
    }
    let [stdin, stdout, stderr] = standard;
    let null = |write: bool| File::options().read(!write).write(write).open("/dev/null").map(OwnedFd::from);
    let or_null = |fd: Option<OwnedFd>, write| fd.map_or_else(|| null(write), Ok);
    let opened = or_null(stdin, false)
        .and_then(|stdin| Ok((stdin, or_null(stdout, true)?, or_null(stderr, true)?)))
        .map_err(|e| Failure::Create(format!("open /dev/null: {e}")))?;
    Ok(builder.with_stdin(opened.0).with_stdout(opened.1).with_stderr(opened.2))
}

/// The socket over which libcontainer hands out the master of the terminal that it makes inside the container.
struct Console {
    path: PathBuf,
    listener: OwnedFd,
}

impl Console {
    fn listen(bundle: &Path) -> Result<Console, String> {
        let path = bundle.join(format!("console-{}.sock", std::process::id()));
        let listener = linux::socket::listen_stream(&path).map_err(|e| e.to_string())?;
        Ok(Console { path, listener })
    }

    fn master(self) -> Result<OwnedFd, String> {
        let _ = fs::remove_file(&self.path);
        let failed = |e: &dyn std::fmt::Display| format!("the terminal did not arrive: {e}");
        let connection = linux::socket::accept(&self.listener).map_err(|e| failed(&e))?;
        let connection = connection.ok_or_else(|| failed(&"nobody connected"))?;
        let (_, mut descriptors) = linux::socket::receive(&connection).map_err(|e| failed(&e))?;
        descriptors.pop().ok_or_else(|| failed(&"no descriptor came"))
    }
}

/// The `process` of the container's own specification with another command, as a file that libcontainer reads.
fn process_of(bundle: &Path, command: Vec<String>, tty: bool) -> Result<PathBuf, String> {
    let spec = fs::read(bundle.join("config.json")).map_err(|e| format!("read the specification: {e}"))?;
    let spec: Value = serde_json::from_slice(&spec).map_err(|e| format!("read the specification: {e}"))?;
    let mut process = spec.get("process").cloned().unwrap_or_default();
    process["args"] = command.into();
    process["terminal"] = tty.into();
    let path = bundle.join(format!("exec-{}.json", std::process::id()));
    fs::write(&path, process.to_string()).map_err(|e| format!("write the process: {e}"))?;
    Ok(path)
}

/// Sets the score for this copy, from which the container's process inherits it. Best effort: a score below our own
/// needs a privilege. Without one the shim's own would be inherited, which is not meant for programs of users.
fn set_oom_score(wanted: Option<&Value>) {
    let wanted = wanted.and_then(Value::as_str).unwrap_or("0");
    let _ = fs::write("/proc/self/oom_score_adj", wanted);
}

/// Executes the program, and says in the runtimes' common words why it cannot be.
#[derive(Clone)]
struct Runner {
    refuse: Arc<File>,
    filters: Arc<Filters>,
}

impl Executor for Runner {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let (args, path) = command(spec).map_err(|_| ExecutorError::InvalidArg)?;
        let found = find(&args[0], &path).unwrap_or_else(|_| PathBuf::from(&args[0]));
        let program = cstring(&found.to_string_lossy());
        let arguments: Vec<CString> = args.iter().map(|a| cstring(a)).collect();
        if let Err(error) = self.filters.load() {
            let _ = (&*self.refuse).write_all(error.to_string().as_bytes());
            return Err(ExecutorError::Other(error.to_string()));
        }
        let errno = match nix::unistd::execv(&program, &arguments) {
            Err(errno) => errno,
            Ok(never) => match never {},
        };
        let text = format!("exec {}: {}", found.display(), errno.desc().to_lowercase());
        let _ = (&*self.refuse).write_all(text.as_bytes());
        Err(ExecutorError::Other(text))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let checked = command(spec).and_then(|(args, path)| find(&args[0], &path));
        checked.map(drop).map_err(|text| {
            let _ = (&*self.refuse).write_all(text.as_bytes());
            ExecutorValidationError::ArgValidationError(text)
        })
    }
}

fn command(spec: &Spec) -> Result<(Vec<String>, String), String> {
    let process = spec.process().as_ref().ok_or("no process")?;
    let args = process.args().clone().filter(|args| !args.is_empty()).ok_or("no command specified")?;
    let env = process.env().clone().unwrap_or_default();
    let path = env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
    Ok((args, path.to_owned()))
}

/// Finds the program as execvp(3) does, in the container, as the container's user.
fn find(program: &str, path: &str) -> Result<PathBuf, String> {
    use nix::unistd::{AccessFlags, access};
    let is_runnable = |p: &Path| access(p, AccessFlags::X_OK).is_ok() && p.is_file();
    if program.contains('/') {
        let found = Path::new(program);
        return match fs::metadata(found) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(format!("exec: \"{program}\": stat {program}: no such file or directory"))
            }
            Ok(m) if m.is_dir() => Err(format!("exec: \"{program}\": is a directory")),
            Ok(_) if is_runnable(found) => Ok(found.to_path_buf()),
            Ok(_) | Err(_) => Err(format!("exec: \"{program}\": permission denied")),
        };
    }
    let candidates = path.split(':').map(|folder| Path::new(folder).join(program));
    let found = candidates.into_iter().find(|candidate| is_runnable(candidate));
    found.ok_or_else(|| format!("exec: \"{program}\": executable file not found in $PATH"))
}

fn cstring(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// libcontainer wraps its errors deeply; people need the innermost and what it happened to.
fn text_of(error: &dyn std::error::Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut at = error.source();
    while let Some(inner) = at {
        let text = inner.to_string();
        if !texts.iter().any(|t| t.contains(&text)) {
            texts.push(text);
        }
        at = inner.source();
    }
    texts.join(": ")
}

fn refused(error: &dyn std::error::Error) -> Failure {
    Failure::Create(text_of(error))
}

/// Exits of children that nobody has asked for yet: a program can end before its copy has told its number.
pub(super) type Early = BTreeMap<i32, linux::process::Ended>;
