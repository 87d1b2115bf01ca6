//! Where the runtime's files are, and how they are written: whole or not at all.
//!
//! ```text
//! <dir>/<sandbox>/sandbox.json          what the agent asked for                       (daemon)
//!                 shim.json             which process the shim is                      (shim)
//!                 shim.sock, shim.log
//!                 ns/ipc, ns/uts        the pod's namespaces, kept by bind mounts
//!                 shm/                  the pod's /dev/shm
//!                 state/                libcontainer's own
//!                 c/<container>/container.json   what the agent asked for              (daemon)
//!                               config.json      the OCI spec                          (daemon)
//!                               seccomp.json     its compiled filters                 (daemon)
//!                               state.json       created, running, exited              (shim)
//!                               rootfs/ upper/ work/
//! ```
//!
//! Each file has one writer, but that a dead shim's states are settled by whoever finds it first, be it two at once.
//! Nothing else about a sandbox is kept anywhere, so a restarted daemon knows what its predecessor knew.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use linux::ProcessId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::runtime::{ContainerConfig, SandboxConfig};

/// The folder of one sandbox.
#[derive(Clone, Debug)]
pub(crate) struct SandboxDir(pub(crate) PathBuf);

/// The folder of one container.
#[derive(Clone, Debug)]
pub(crate) struct ContainerDir(pub(crate) PathBuf);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) config: SandboxConfig,
    pub(crate) created_at: Timestamp,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) config: ContainerConfig,
    pub(crate) image_id: String,
    pub(crate) created_at: Timestamp,
    /// The signal that asks it to stop.
    pub(crate) stop_signal: i32,
    /// Its cgroup, relative to the root of every hierarchy.
    pub(crate) cgroup: PathBuf,
    /// Other processes than its own live in its PID namespace, so its end does not end them all.
    pub(crate) shares_pids: bool,
}

/// A shim cannot be confused with a later process, nor with one of the same number after a reboot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShimRecord {
    pid: i32,
    start_time: u64,
    boot: String,
}

impl SandboxDir {
    pub(crate) fn record(&self) -> PathBuf {
        self.0.join("sandbox.json")
    }
    pub(crate) fn shim_record(&self) -> PathBuf {
        self.0.join("shim.json")
    }
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("shim.sock")
    }
    pub(crate) fn shim_log(&self) -> PathBuf {
        self.0.join("shim.log")
    }
    pub(crate) fn namespaces(&self) -> PathBuf {
        self.0.join("ns")
    }
    pub(crate) fn shm(&self) -> PathBuf {
        self.0.join("shm")
    }
    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state")
    }
    pub(crate) fn containers(&self) -> PathBuf {
        self.0.join("c")
    }
    pub(crate) fn container(&self, id: &str) -> ContainerDir {
        ContainerDir(self.containers().join(id))
    }
}

impl ContainerDir {
    pub(crate) fn record(&self) -> PathBuf {
        self.0.join("container.json")
    }
    pub(crate) fn spec(&self) -> PathBuf {
        self.0.join("config.json")
    }
    pub(crate) fn seccomp(&self) -> PathBuf {
        self.0.join("seccomp.json")
    }
    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }
    pub(crate) fn upper(&self) -> PathBuf {
        self.0.join("upper")
    }
    pub(crate) fn work(&self) -> PathBuf {
        self.0.join("work")
    }
}

impl ShimRecord {
    pub(crate) fn myself() -> ShimRecord {
        let ProcessId { pid, start_time } = ProcessId::myself();
        ShimRecord { pid, start_time, boot: boot_id() }
    }

    /// The process, if it can still exist.
    pub(crate) fn process(&self) -> Option<ProcessId> {
        (self.boot == boot_id()).then_some(ProcessId { pid: self.pid, start_time: self.start_time })
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Ids become file names, cgroup names and arguments.
pub(crate) fn check_id(id: &str) -> Result<(), Error> {
    let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if plain && !id.is_empty() && !id.starts_with('.') && id.len() <= 200 {
        return Ok(());
    }
    Err(Error::Invalid(format!("`{id}` cannot be used as an id")))
}

/// Writes a file that is whole under its name also after a crash, and while others write it.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let partial = path.with_extension(format!("{}-{number}.partial", std::process::id()));
    let mut file = File::create(&partial)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    fs::rename(&partial, path)
}

/// Reads a file of ours; `None` when there is none.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::disk("read", path)(e)),
    };
    let value = serde_json::from_slice(&bytes);
    value.map(Some).map_err(|e| Error::Damaged { path: path.to_path_buf(), reason: e.to_string() })
}

/// As [`read`], and `None` also for one that a loss of power has left damaged.
pub(crate) fn read_whole<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match read(path) {
        Err(Error::Damaged { .. }) => Ok(None),
        read => read,
    }
}

/// What is in a folder, sorted; nothing if there is no folder.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::disk("list", folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(Error::disk("list", folder))?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_two_write_at_once_is_always_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let value = "x".repeat(100_000);
        write(&path, &value).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..200).for_each(|_| write(&path, &value).unwrap()));
            }
            for _ in 0..500 {
                assert_eq!(read::<String>(&path).unwrap().as_ref(), Some(&value));
            }
        });
        assert_eq!(names(folder.path()).unwrap(), ["state.json"]);
    }
}
