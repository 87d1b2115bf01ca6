//! Control groups: our own subtree below each hierarchy, with limits, figures, and an end for everything inside.
//!
//! Machines differ: version 1 (a hierarchy a controller), version 2 (one for all), or both at once ("hybrid", where
//! version 2 has whatever version 1 left over). [`Cgroup`] is one path in all of them. Nothing outside that path is
//! written, with one exception that version 2 forces on everybody: a controller must be enabled in each parent's
//! `cgroup.subtree_control`, and where nobody has done that for the root yet, we do.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::process::ProcessId;
use crate::{Error, Result};

/// What is limited and counted.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];

/// Every controller of version 1.
const CONTROLLERS_OF_V1: [&str; 12] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

/// Limits of one group; none is no limit, and a negative one takes away what there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<i64>,
    /// Relative weight, 2 to 262144 as in version 1.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time in each period.
    pub cpu_quota: Option<i64>,
    /// Microseconds; 100000 by default.
    pub cpu_period: Option<u64>,
    pub pids: Option<i64>,
}

/// What a group uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_nanos: u64,
    pub memory_bytes: u64,
    /// Charged file pages that are first to go under pressure.
    pub inactive_file_bytes: u64,
    pub pids: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The controllers are in hierarchies of their own, with or without a version 2 hierarchy beside them.
    V1,
    V2,
}

/// A mounted hierarchy.
#[derive(Clone, Debug)]
struct Hierarchy {
    mount: PathBuf,
    version: Version,
    controllers: Vec<String>,
}

/// A group by its path, which need not exist yet.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
    hierarchies: Vec<Hierarchy>,
}

impl Cgroup {
    /// `path` is relative to the root of every hierarchy, such as `portolan/pod1`. The root itself is refused.
    pub fn at(path: impl AsRef<Path>) -> Result<Cgroup> {
        let path: PathBuf = path.as_ref().components().filter(|c| !matches!(c, Component::RootDir)).collect();
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        if path.as_os_str().is_empty() || !plain {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "not a path below the root");
            return Err(Error::path("use as a cgroup", path, source));
        }
        Ok(Cgroup { path, hierarchies: hierarchies()?.to_vec() })
    }

    /// The group `name` inside this one.
    pub fn child(&self, name: &str) -> Cgroup {
        Cgroup { path: self.path.join(name), hierarchies: self.hierarchies.clone() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which version limits memory, CPU and processes here.
    pub fn version(&self) -> Version {
        match self.of("memory").or_else(|| self.of("pids")) {
            Some(hierarchy) => hierarchy.version,
            None => Version::V2,
        }
    }

    /// Makes the group where it is limited or counted, and sets its limits. One that exists gets the limits.
    pub fn create(&self, limits: &Limits) -> Result<()> {
        for hierarchy in self.hierarchies.iter().filter(|h| h.counts()) {
            if hierarchy.version == Version::V2 {
                self.enable_controllers(hierarchy)?;
            }
            let folder = hierarchy.mount.join(&self.path);
            fs::create_dir_all(&folder).map_err(|e| Error::path("make the cgroup", &folder, e))?;
        }
        self.limit(limits)
    }

    /// Sets limits; those that are none stay as they are. A limit whose controller the kernel does not have is an
    /// error, because a pod that relies on it would run without.
    pub fn limit(&self, limits: &Limits) -> Result<()> {
        let period = limits.cpu_period.unwrap_or(100_000);
        if let Some(bytes) = limits.memory {
            self.set("memory", ("memory.limit_in_bytes", bytes.to_string()), ("memory.max", or_max(bytes)))?;
        }
        if let Some(shares) = limits.cpu_shares {
            let shares = shares.clamp(2, 262_144);
            // The conversion that every runtime uses, so that weights compare across versions.
            let weight = 1 + ((shares - 2) * 9999) / 262_142;
            self.set("cpu", ("cpu.shares", shares.to_string()), ("cpu.weight", weight.to_string()))?;
        }
        if let Some(quota) = limits.cpu_quota.filter(|q| *q != 0) {
            let both = format!("{} {period}", or_max(quota));
            if self.of("cpu").is_some_and(|h| h.version == Version::V1) {
                self.set("cpu", ("cpu.cfs_period_us", period.to_string()), ("cpu.max", both.clone()))?;
            }
            self.set("cpu", ("cpu.cfs_quota_us", quota.to_string()), ("cpu.max", both))?;
        }
        if let Some(pids) = limits.pids {
            self.set("pids", ("pids.max", pids.to_string()), ("pids.max", pids.to_string()))?;
        }
        Ok(())
    }

    /// Moves a process into the group in the hierarchy by which service managers track processes, so that it survives
    /// the stop of the service that started it. Limits do not apply to it. (Each move costs milliseconds.)
    pub fn track(&self, pid: i32) -> Result<()> {
        let named = self.hierarchies.iter().find(|h| h.controllers.iter().any(|c| c == "name=systemd"));
        let Some(hierarchy) = named.or_else(|| self.hierarchies.iter().find(|h| h.version == Version::V2)) else {
            return Ok(());
        };
        let folder = hierarchy.mount.join(&self.path);
        fs::create_dir_all(&folder).map_err(|e| Error::path("make the cgroup", &folder, e))?;
        write(&folder.join("cgroup.procs"), &pid.to_string())
    }

    /// Moves a process into the group wherever it is limited or counted; it must have been created.
    pub fn add(&self, pid: i32) -> Result<()> {
        for hierarchy in self.hierarchies.iter().filter(|h| h.counts()) {
            write(&hierarchy.mount.join(&self.path).join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    pub fn exists(&self) -> bool {
        self.folders().any(|folder| folder.exists())
    }

    /// Every process in the group and the groups below it.
    pub fn processes(&self) -> Vec<i32> {
        let mut pids = BTreeSet::new();
        for folder in self.folders() {
            for group in groups_below(&folder) {
                let listed = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                // A process of another PID namespace is listed as 0.
                pids.extend(listed.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|pid| *pid > 0));
            }
        }
        pids.into_iter().collect()
    }

    /// Kills every process in the group and below, and waits until none is left or `patience` is over, which is then
    /// an error (a process in an uninterruptible wait).
    pub fn kill(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            for folder in self.folders() {
                // Version 2 kills a whole tree at once, forks included.
                let _ = fs::write(folder.join("cgroup.kill"), "1");
            }
            let pids = self.processes();
            let mut ours = pids.iter().filter_map(|pid| ProcessId::of(*pid)).filter(ProcessId::is_alive).peekable();
            if ours.peek().is_none() {
                return Ok(());
            }
            for process in ours {
                process.signal(libc::SIGKILL)?;
            }
            if Instant::now() > deadline {
                return Err(Error::path("kill the processes of", &self.path, io::Error::from(io::ErrorKind::TimedOut)));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Removes the group and those below it, which must hold no process. Removing what is not there is no error.
    pub fn remove(&self) -> Result<()> {
        for folder in self.folders() {
            for group in groups_below(&folder).iter().rev() {
                remove_folder(group)?;
            }
        }
        Ok(())
    }

    /// Removes the group itself if nothing is in it.
    pub fn remove_empty(&self) {
        for folder in self.folders() {
            let _ = fs::remove_dir(folder);
        }
    }

    /// Removes the groups above this one, up from the nearest, as long as they are empty.
    pub fn remove_empty_parents(&self) {
        for parent in self.path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            for hierarchy in &self.hierarchies {
                let _ = fs::remove_dir(hierarchy.mount.join(parent));
            }
        }
    }

    /// How often the kernel has killed a process in this group for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let Some(hierarchy) = self.of("memory") else { return 0 };
        let file = match hierarchy.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        keyed(&hierarchy.mount.join(&self.path).join(file), "oom_kill").unwrap_or(0)
    }

    /// What the group uses now; what cannot be read is 0.
    pub fn usage(&self) -> Usage {
        let read = |controller: &str, v1: &str, v2: &str| {
            let hierarchy = self.of(controller)?;
            let file = if hierarchy.version == Version::V1 { v1 } else { v2 };
            fs::read_to_string(hierarchy.mount.join(&self.path).join(file)).ok()?.trim().parse::<u64>().ok()
        };
        let keyed_in = |controller: &str, v1: (&str, &str), v2: (&str, &str)| {
            let hierarchy = self.of(controller)?;
            let (file, key) = if hierarchy.version == Version::V1 { v1 } else { v2 };
            keyed(&hierarchy.mount.join(&self.path).join(file), key)
        };
        let inactive = ("memory.stat", "inactive_file");
        Usage {
            cpu_nanos: read("cpuacct", "cpuacct.usage", "")
                .or_else(|| Some(keyed_in("cpu", ("", ""), ("cpu.stat", "usage_usec"))? * 1000))
                .unwrap_or(0),
            memory_bytes: read("memory", "memory.usage_in_bytes", "memory.current").unwrap_or(0),
            inactive_file_bytes: keyed_in("memory", ("memory.stat", "total_inactive_file"), inactive).unwrap_or(0),
            pids: read("pids", "pids.current", "pids.current").unwrap_or(0),
        }
    }

    /// The group's folder in the hierarchy of each version 1 controller; nothing where version 2 has them all.
    pub fn folders_by_controller(&self) -> Vec<(&'static str, PathBuf)> {
        let of = |name: &'static str| {
            let hierarchy = self.of(name).filter(|hierarchy| hierarchy.version == Version::V1)?;
            Some((name, hierarchy.mount.join(&self.path)))
        };
        CONTROLLERS_OF_V1.into_iter().filter_map(of).collect()
    }

    fn of(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.controllers.iter().any(|c| c == controller))
    }

    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(|h| h.mount.join(&self.path))
    }

    fn set(&self, controller: &'static str, v1: (&str, String), v2: (&str, String)) -> Result<()> {
        let Some(hierarchy) = self.of(controller) else {
            let source = io::Error::new(io::ErrorKind::Unsupported, "this kernel does not have the controller");
            return Err(Error::path("limit", Path::new(controller), source));
        };
        let (file, value) = if hierarchy.version == Version::V1 { v1 } else { v2 };
        write(&hierarchy.mount.join(&self.path).join(file), &value)
    }

    /// Version 2 hands a controller down from parent to child only where the parent says so.
    fn enable_controllers(&self, hierarchy: &Hierarchy) -> Result<()> {
        let parents: Vec<&Path> = self.path.ancestors().skip(1).collect();
        for parent in parents.into_iter().rev() {
            let folder = hierarchy.mount.join(parent);
            fs::create_dir_all(&folder).map_err(|e| Error::path("make the cgroup", &folder, e))?;
            let file = folder.join("cgroup.subtree_control");
            let enabled = fs::read_to_string(&file).map_err(|e| Error::path("read", &file, e))?;
            for controller in CONTROLLERS.iter().filter(|c| hierarchy.controllers.iter().any(|h| h == *c)) {
                if !enabled.split_whitespace().any(|e| e == *controller) {
                    write(&file, &format!("+{controller}"))?;
                }
            }
        }
        Ok(())
    }
}

impl Hierarchy {
    fn counts(&self) -> bool {
        self.controllers.iter().any(|c| CONTROLLERS.contains(&c.as_str()))
    }
}

/// Every hierarchy that is mounted, version 1 before version 2. They are mounted when a machine starts, so they are looked for once: the
/// table of mounts grows with each pod, and for the kernel to write it down is dear.
fn hierarchies() -> Result<&'static [Hierarchy]> {
    static FOUND: OnceLock<Vec<Hierarchy>> = OnceLock::new();
    match FOUND.get() {
        Some(found) => Ok(found),
        None => find().map(|found| FOUND.get_or_init(|| found).as_slice()),
    }
}

fn find() -> Result<Vec<Hierarchy>> {
    let table =
        fs::read_to_string("/proc/self/mountinfo").map_err(|e| Error::path("read", "/proc/self/mountinfo", e))?;
    let mut found: Vec<Hierarchy> = table.lines().filter_map(hierarchy).collect();
    for hierarchy in found.iter_mut().filter(|h| h.version == Version::V2) {
        let listed = fs::read_to_string(hierarchy.mount.join("cgroup.controllers")).unwrap_or_default();
        hierarchy.controllers = listed.split_whitespace().map(str::to_owned).collect();
    }
    found.sort_by_key(|h| h.version == Version::V2);
    if found.is_empty() {
        let source = io::Error::new(io::ErrorKind::Unsupported, "no cgroup file system is mounted");
        return Err(Error::path("find the cgroups below", "/sys/fs/cgroup", source));
    }
    Ok(found)
}

/// A line of mountinfo: `… root mount-point options … - type source super-options`, see proc(5).
fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let version = match after.next()? {
        "cgroup" => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    let options = after.nth(1)?;
    Some(Hierarchy {
        mount: PathBuf::from(before.split(' ').nth(4)?),
        version,
        controllers: match version {
            Version::V1 => options.split(',').filter(|o| !matches!(*o, "rw" | "ro")).map(str::to_owned).collect(),
            Version::V2 => Vec::new(),
        },
    })
}

/// The folder and all below it, parents first.
fn groups_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(group) = open.pop() {
        let Ok(entries) = fs::read_dir(&group) else { continue };
        open.extend(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        found.push(group);
    }
    found
}

/// A group is busy for a moment after its last process has been reaped.
fn remove_folder(group: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match fs::remove_dir(group) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(e) => return Err(Error::path("remove the cgroup", group, e)),
        }
    }
}

/// As version 2 writes a limit; a negative one is none.
fn or_max(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

fn write(file: &Path, value: &str) -> Result<()> {
    fs::write(file, value).map_err(|e| Error::path("write", file, e))
}

/// The number after `key` in a file of `key number` lines.
fn keyed(file: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    struct Removed(Cgroup);
    impl Drop for Removed {
        fn drop(&mut self) {
            let _ = self.0.kill(Duration::from_secs(5));
            let _ = self.0.remove();
            self.0.remove_empty_parents();
        }
    }

    #[test]
    fn the_root_and_the_outside_are_refused() {
        for path in ["", "/", "..", "a/../../b"] {
            assert!(Cgroup::at(path).is_err(), "{path}");
        }
    }

    /// What is written to the files of a version 2 hierarchy, and read from them, whatever this machine has.
    #[test]
    fn version_two_is_spoken_to_in_its_own_words() {
        let mount = std::env::temp_dir().join(format!("portolan-cgroup2-{}", std::process::id()));
        let folder = mount.join("portolan/pod");
        fs::create_dir_all(&folder).unwrap();
        for parent in [&mount, &mount.join("portolan")] {
            fs::write(parent.join("cgroup.subtree_control"), "cpu").unwrap();
        }
        let controllers = ["cpu", "io", "memory", "pids"].map(str::to_owned).into();
        let hierarchies = vec![Hierarchy { mount: mount.clone(), version: Version::V2, controllers }];
        let group = Cgroup { path: PathBuf::from("portolan/pod"), hierarchies };
        assert_eq!((group.version(), group.folders_by_controller()), (Version::V2, Vec::new()));
        let limits = Limits {
            memory: Some(1 << 20),
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            cpu_period: None,
            pids: Some(7),
        };
        group.create(&limits).unwrap();
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
        let written = ["memory.max", "cpu.weight", "cpu.max", "pids.max"].map(read);
        assert_eq!(written, ["1048576", "39", "50000 100000", "7"]);
        // A file keeps the last of what was asked for; the kernel adds each.
        assert_eq!(fs::read_to_string(mount.join("portolan/cgroup.subtree_control")).unwrap(), "+pids");
        group.limit(&Limits { memory: Some(-1), cpu_quota: Some(-1), ..Limits::default() }).unwrap();
        assert_eq!(["memory.max", "cpu.max"].map(read), ["max", "max 100000"]);
        for (file, text) in [
            ("cpu.stat", "usage_usec 12\nuser_usec 3\n"),
            ("memory.current", "4096\n"),
            ("memory.stat", "anon 1\ninactive_file 1024\n"),
            ("pids.current", "2\n"),
            ("memory.events", "low 0\noom 1\noom_kill 3\noom_group_kill 0\n"),
        ] {
            fs::write(folder.join(file), text).unwrap();
        }
        let usage = Usage { cpu_nanos: 12_000, memory_bytes: 4096, inactive_file_bytes: 1024, pids: 2 };
        assert_eq!((group.usage(), group.oom_kills()), (usage, 3));
        group.kill(Duration::ZERO).unwrap();
        assert_eq!(read("cgroup.kill"), "1");
        fs::remove_dir_all(mount).unwrap();
    }

    #[test]
    fn a_group_limits_counts_kills_and_goes() {
        let group = Removed(Cgroup::at(format!("portolan-linux-test-{}/pod", std::process::id())).unwrap());
        let limits = Limits { memory: Some(64 << 20), cpu_shares: Some(512), pids: Some(20), ..Limits::default() };
        group.0.create(&limits).unwrap();
        group.0.limit(&Limits { cpu_quota: Some(50_000), ..Limits::default() }).unwrap();
        let inner = group.0.child("container");
        inner.create(&Limits::default()).unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        for folder in inner.folders().filter(|f| f.exists()) {
            write(&folder.join("cgroup.procs"), &child.id().to_string()).unwrap();
        }
        assert_eq!(group.0.processes(), vec![child.id() as i32]);
        assert_eq!(inner.usage().pids, 1);
        assert_eq!(inner.oom_kills(), 0);
        group.0.kill(Duration::from_secs(5)).unwrap();
        child.wait().unwrap();
        group.0.remove().unwrap();
        assert!(!group.0.exists());
        group.0.remove().unwrap();
    }
}
