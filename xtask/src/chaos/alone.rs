//! Parts of the cluster that run as processes of their own beside the daemon, over TLS: each can be killed and cut off by itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Where the DNS server among them answers.
pub const DNS_PORT: &str = "5300";

/// (name, arguments)
pub const PARTS: &[(&str, &[&str])] = &[
    ("controllers", &["controllers", "--leader-elect=false"]),
    ("proxy", &["proxy", "--node-name", "outside", "--cluster-cidr", "10.244.0.0/16", "--metrics-bind-address", ""]),
    (
        "dns",
        &[
            "dns",
            "--listen",
            "127.0.0.1:5300",
            "--health",
            "off",
            "--ready",
            "off",
            "--metrics",
            "off",
            "--handover",
            "off",
        ],
    ),
];

/// Those that run.
#[derive(Default)]
pub struct Alone {
    running: BTreeMap<&'static str, Child>,
}

impl Alone {
    /// Starts a part with `command`, which already names the program and where it runs.
    pub fn start(&mut self, name: &'static str, mut command: Command, log: &std::path::Path) -> Result<()> {
        let log = File::options().create(true).append(true).open(log)?;
        let child =
            command.stdout(Stdio::null()).stderr(log).spawn().with_context(|| format!("cannot start {name}"))?;
        self.running.insert(name, child);
        Ok(())
    }

    /// Ends a part as a fault does, and waits for its end.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        let Some(mut child) = self.running.remove(name) else { return Ok(()) };
        // What entered the machine is the parent of the process itself.
        let pid = child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        for inner in children.split_whitespace() {
            testkit::said(Command::new("kill").args(["-9", inner]))?;
        }
        child.wait()?;
        Ok(())
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        for (name, _) in PARTS {
            let _ = self.kill(name);
        }
    }
}
