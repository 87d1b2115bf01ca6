//! A machine of namespaces: what runs inside sees its own interfaces, mounts and process ids, and the host's files.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// A namespace that stands for a machine, with a folder for the cluster that runs on it.
#[derive(Debug)]
pub struct Machine {
    first: Child,
    /// The first process as the host sees it.
    pid: u32,
    folder: TempDir,
    /// Our binary.
    portolan: PathBuf,
}

/// What a program said, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Machine {
    /// Makes the namespaces, with the loopback up and nothing else.
    pub fn new() -> Result<Self> {
        Machine::of(built("portolan"))
    }

    /// The same for this very binary, which need not be the one beside the test.
    pub fn of(portolan: PathBuf) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("portolan-test-").tempdir()?;
        let mut first = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"])
            .args(["sh", "-c", "ip link set lo up && echo up && exec cat > /dev/null"])
            // The first process reads until we are gone, also when we are killed: then the kernel ends all the others.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start `unshare` (package util-linux); tests need root")?;
        let output = first.stdout.take().context("no output of the first process")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line != "up\n" {
            bail!("the namespaces could not be made (root? package iproute2?)");
        }
        let pid = child_of(first.id()).context("the first process has gone")?;
        Ok(Machine { first, pid, folder, portolan })
    }

    /// The cluster's `--data-dir`.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A file of the test beside the data.
    pub fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A program to be run on the machine.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--net", "--mount", "--pid", "--"]).arg(program);
        command.env("HOME", self.folder.path()).env("PORTOLAN_DATA_DIR", self.data_dir());
        command.env("KUBECONFIG", self.data_dir().join("kubeconfig")).env_remove("SUDO_UID").stdin(Stdio::null());
        command
    }

    /// Our binary, to be run on the machine.
    pub fn portolan(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&self.portolan);
        command.args(arguments);
        command
    }

    /// The newest kubectl that we promise to serve (`KUBECTL_NEWEST`), or the one on the path.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Said> {
        let kubectl = std::env::var_os("KUBECTL_NEWEST").unwrap_or_else(|| "kubectl".into());
        said(self.command(kubectl).args(arguments))
    }

    /// Has a workload's pods replaced. kubectl tells one restart from another by the second, and refuses another within the same one: that is
    /// waited for, whatever else it refuses is an error.
    pub fn rollout_restart(&self, workload: &str) -> Result<()> {
        loop {
            let said = self.kubectl(&["rollout", "restart", workload])?;
            if said.code != Some(0) && said.err.contains("already been triggered within the past second") {
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            return said.ok().map(drop);
        }
    }

    /// Starts the cluster in the background and waits until it is ready.
    pub fn up(&self, flags: &[&str]) -> Result<Said> {
        said(self.portolan(&["up", "--detach", "--no-kubeconfig"]).args(flags))?.ok()
    }

    /// A machine with [`Machine::busybox_image`] on which a cluster runs.
    pub fn with_cluster(flags: &[&str]) -> Result<Self> {
        let machine = Machine::new()?;
        machine.busybox_image()?;
        machine.up(flags)?;
        Ok(machine)
    }

    /// An image `localhost/busybox:test` with a shell, for pods.
    pub fn busybox_image(&self) -> Result<()> {
        let root = self.folder.path().join("busybox");
        for folder in ["bin", "tmp", "etc"] {
            fs::create_dir_all(root.join(folder))?;
        }
        let busybox = Path::new("/bin/busybox");
        fs::copy(busybox, root.join("bin/busybox")).context("no /bin/busybox (package busybox-static)")?;
        let applets = said(Command::new(busybox).arg("--list"))?.ok()?.out;
        for applet in applets.lines().filter(|applet| *applet != "busybox") {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
        }
        let root = root.to_string_lossy().into_owned();
        said(&mut self.portolan(&["image", "import", "--name", "localhost/busybox:test", &root]))?.ok()?;
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Cgroups are the one thing that does not end with the namespaces.
        let _ = said(&mut self.portolan(&["down"]));
        let _ = self.first.kill();
        let _ = self.first.wait();
    }
}

impl Said {
    /// This, if the program succeeded.
    pub fn ok(self) -> Result<Said> {
        match self.code {
            Some(0) => Ok(self),
            code => bail!("exit code {code:?}\n{}{}", self.out, self.err),
        }
    }
}

/// Runs to the end and keeps what was said.
pub fn said(command: &mut Command) -> Result<Said> {
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Said { code: status.code(), out: text(stdout), err: text(stderr) })
}

/// A binary of the workspace beside the test that runs.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let folder = test.ancestors().find(|folder| folder.join(name).is_file());
    folder.map_or_else(|| name.into(), |folder| folder.join(name))
}

fn child_of(parent: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
