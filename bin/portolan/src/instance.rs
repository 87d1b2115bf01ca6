//! An instance on disk: where everything of one cluster lies, what `up` made on the machine, and who runs it.
//!
//! `run/instance.json` names all that lies outside the data folder (interfaces, routes, a table, a sysctl), written before it is made, so
//! that `down` finds it after any crash.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use linux::FileLock;
use serde::{Deserialize, Serialize};

use crate::network::{Network6, WayOut};
use crate::ranges::Ranges;

/// How long a killed daemon may take to go.
const DYING: Duration = Duration::from_secs(1);

/// The folders below `--data-dir`.
#[derive(Debug, Clone)]
pub struct Layout {
    pub data_dir: PathBuf,
}

impl Layout {
    pub fn new(data_dir: &Path) -> Result<Self> {
        let data_dir = std::path::absolute(data_dir).context("cannot tell which folder --data-dir means")?;
        Ok(Layout { data_dir })
    }

    pub fn store(&self) -> PathBuf {
        self.data_dir.join("store")
    }
    pub fn pki(&self) -> PathBuf {
        self.data_dir.join("pki")
    }
    pub fn images(&self) -> PathBuf {
        self.data_dir.join("images")
    }
    pub fn containers(&self) -> PathBuf {
        self.data_dir.join("containers")
    }
    pub fn pods(&self) -> PathBuf {
        self.data_dir.join("pods")
    }
    /// Every folder that is ours.
    pub fn all(&self) -> Vec<PathBuf> {
        vec![self.store(), self.pki(), self.images(), self.containers(), self.pods(), self.run()]
    }
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }
    pub fn run(&self) -> PathBuf {
        self.data_dir.join("run")
    }
    pub fn log(&self) -> PathBuf {
        self.data_dir.join("portolan.log")
    }
    /// Held by the daemon for as long as it lives; holds its process id.
    pub fn lock(&self) -> PathBuf {
        self.run().join("lock")
    }
    /// The keeper of DNS' sockets over a restart of the daemon.
    pub fn dns_keeper(&self) -> PathBuf {
        self.run().join("dns.sock")
    }
    pub fn netns(&self, name: &str) -> PathBuf {
        self.run().join("netns").join(name)
    }
    fn record(&self) -> PathBuf {
        self.run().join("instance.json")
    }
}

/// What `up` was asked for and what it made outside the data folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// As printed by `portolan --version`.
    pub version: String,
    pub nodes: Vec<NodeRecord>,
    pub service_cidr: Ranges,
    pub pod_cidr: Ranges,
    pub api_port: u16,
    /// Whether the machine's forwarding was off before, and has to be off again afterwards.
    pub forwarding_was_off: bool,
    /// What Services of type LoadBalancer get, as flags write it.
    #[serde(default)]
    pub load_balancer_pools: Vec<String>,
    /// None with `--host-network`.
    pub uplink: Option<Uplink>,
    /// The user's kubeconfig that holds our context, if we put one there.
    pub merged_kubeconfig: Option<MergedKubeconfig>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub name: String,
    pub address: Ipv4Addr,
    pub address6: Option<Ipv6Addr>,
    pub pod_cidr: Ranges,
}

impl NodeRecord {
    /// The node's addresses, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        [IpAddr::V4(self.address)].into_iter().chain(self.address6.map(IpAddr::V6)).collect()
    }
}

/// The machine's side of the nodes' network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// The interface on the machine; its routes go with it.
    pub interface: String,
    pub network: Ipv4Net,
    /// The machine's own address in that network.
    pub machine: Ipv4Addr,
    /// The same for IPv6, in a dual-stack cluster.
    pub network6: Option<Network6>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergedKubeconfig {
    pub path: PathBuf,
    pub uid: u32,
    pub gid: u32,
}

impl Record {
    /// How the cluster's pods leave the machine.
    pub fn way_out(&self) -> WayOut<'_> {
        let pods = self.pod_cidr.v4;
        match &self.uplink {
            Some(uplink) => WayOut::Nodes { interface: &uplink.interface, network: uplink.network, pods },
            None => WayOut::Host { pods },
        }
    }
}

impl Layout {
    /// What the last `up` wrote down; none if there never was one, or `down` took it away.
    pub fn read(&self) -> Result<Option<Record>> {
        let path = self.record();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
        };
        let record = serde_json::from_slice(&text);
        record
            .map(Some)
            .with_context(|| format!("`{}` is damaged\n  hint: remove it, and what it names by hand", path.display()))
    }

    /// Writes the record so that a reader sees the old one or the new one.
    pub fn write(&self, record: &Record) -> Result<()> {
        let path = self.record();
        let failed = || format!("cannot write `{}`", path.display());
        let text = serde_json::to_vec_pretty(record).with_context(failed)?;
        let beside = path.with_extension("part");
        let mut file = fs::File::create(&beside).with_context(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).with_context(failed)?;
        fs::rename(&beside, &path).with_context(failed)
    }

    /// Makes the folders that hold secrets, objects and pods' files, closed to everybody else on the machine.
    pub fn close_to_others(&self) -> Result<()> {
        for folder in [self.store(), self.pki(), self.images(), self.containers(), self.pods()] {
            fs::create_dir_all(&folder)
                .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)))
                .with_context(|| {
                    format!("cannot make `{}`\n  hint: `df` shows whether its disk has room", folder.display())
                })?;
        }
        Ok(())
    }

    /// Takes the instance for this process, or says who has it.
    pub fn take(&self) -> Result<Result<FileLock, Option<u32>>> {
        fs::create_dir_all(self.run()).with_context(|| format!("cannot make `{}`", self.run().display()))?;
        let start = Instant::now();
        loop {
            match FileLock::try_exclusive(self.lock())? {
                Some(lock) => return Ok(Ok(lock)),
                // A daemon that was just killed holds its lock until the kernel has cleared it away.
                None if start.elapsed() < DYING => std::thread::sleep(Duration::from_millis(20)),
                None => return Ok(Err(self.written_pid())),
            }
        }
    }

    /// The daemon's process id, if one holds the lock.
    pub fn daemon(&self) -> Option<u32> {
        if !self.lock().exists() {
            return None;
        }
        match FileLock::try_exclusive(self.lock()) {
            Ok(None) => self.written_pid(),
            Ok(Some(_)) | Err(_) => None,
        }
    }

    fn written_pid(&self) -> Option<u32> {
        fs::read_to_string(self.lock()).ok()?.trim().parse().ok()
    }
}
