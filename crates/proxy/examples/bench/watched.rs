//! A proxy process and what can be seen of it from outside: commits, log lines, memory and processor time.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use linux::NetNs;
use netlink::{Monitor, Notice};

use crate::{objects, server};

/// Nothing takes so long but a fault.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
pub struct Times {
    pub whole: Vec<Duration>,
    pub after_write: Vec<Duration>,
    pub kernel: Vec<Duration>,
}

pub struct Running {
    child: Child,
    monitor: Monitor,
    /// The kernel's part of each commit, from the proxy's log.
    commits: Receiver<Duration>,
    first_commit: Duration,
    pub loaded: Duration,
}

impl Running {
    /// Starts it and waits until the last Service's address answers by its rules.
    pub async fn start(portolan: &str, kubeconfig: &str, size: usize) -> Self {
        let netns = NetNs::current().unwrap();
        proxy::cleanup(&netns).unwrap();
        let began = Instant::now();
        let mut proxy = Command::new(portolan);
        proxy.args(["proxy", "--node-name", objects::NODE, "--kubeconfig", kubeconfig]);
        let mut child = proxy.env("NO_COLOR", "1").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = child.stderr.take().unwrap();
        let (sender, commits) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                let micros = line.split_once("commit_us=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
                if let Some(micros) = micros {
                    let _ = sender.send(Duration::from_micros(micros));
                }
            }
        });
        // By its log, since other tables of the lab know the address as well.
        let first_commit = commits.recv_timeout(PATIENCE).unwrap();
        server::until_answers(objects::vip(size - 1));
        let loaded = began.elapsed();
        // Not before: the kernel would tell us too of each element, and take its time for it.
        let monitor = Monitor::open(&netns).unwrap();
        Running { child, monitor, commits, first_commit, loaded }
    }

    pub fn kernel_seconds(&self) -> f64 {
        self.first_commit.as_secs_f64()
    }

    /// Lets go of what was heard so far.
    pub async fn drain(&mut self) {
        while let Ok(heard) = tokio::time::timeout(Duration::from_millis(1), self.monitor.next()).await {
            drop(heard);
        }
        while self.commits.try_recv().is_ok() {}
    }

    /// When the next commit was heard of.
    pub async fn commit(&mut self) -> Instant {
        committed(&mut self.monitor).await
    }

    /// How long the kernel worked for the last commit.
    pub fn last_commit(&self) -> Duration {
        self.commits.recv_timeout(PATIENCE).unwrap()
    }

    pub fn resident_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0 / 1e6
    }

    pub fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        // Linux counts in hundredths of a second for user space, whatever its own clock.
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }

    pub fn stop(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

async fn committed(monitor: &mut Monitor) -> Instant {
    let heard = async {
        loop {
            match monitor.next().await.unwrap() {
                Notice::Commit { .. } | Notice::Lost => return Instant::now(),
                Notice::Change { .. } => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.unwrap()
}
