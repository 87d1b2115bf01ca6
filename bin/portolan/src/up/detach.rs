//! `--detach`: the cluster goes on in a process of its own; this one relays its steps until it is ready.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::instance::Layout;
use crate::terminal;

/// The line by which the child says that it is ready; not shown.
pub const READY: &str = "portolan: ready";

/// Starts the same command again in the background and waits until it is ready or has failed.
pub fn run(layout: &Layout) -> Result<()> {
    let mut child = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1).filter(|word| word != "--detach"))
        .arg("--detached")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the background process")?;
    let Some(output) = child.stdout.take() else { bail!("the background process has no output") };
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read what the background process says")?;
        if line == READY {
            return Ok(());
        }
        terminal::line(line);
    }
    // It has said on standard error what was wrong.
    let status = child.wait().context("cannot wait for the background process")?;
    bail!("the cluster did not start ({status})\n  hint: more may be in {}", layout.log().display())
}

/// Lets go of the caller's output, so that nobody waits for its end: from here on both streams are the log.
pub fn let_go(layout: &Layout) -> Result<()> {
    let log = std::fs::File::options().create(true).append(true).open(layout.log());
    let log = log.with_context(|| format!("cannot write `{}`", layout.log().display()))?;
    linux::process::redirect(&log, 1)?;
    Ok(linux::process::redirect(&log, 2)?)
}
