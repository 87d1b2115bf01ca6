//! The lab: namespaces that stand for a whole machine (network, mounts, processes), which end with the command that runs in them.

use anyhow::Result;

use crate::command::{THIS_PROGRAM, output, program, run, target};

/// Runs this program again inside a lab, with `arguments`.
pub fn enter(arguments: &[&str]) -> Result<()> {
    let mut inside = program(
        "unshare",
        &["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"],
    );
    run(inside.arg(THIS_PROGRAM.as_path()).args(arguments).env("HOME", target().join("demo")))
}

/// The first act inside: a namespace is born with its loopback down.
pub fn begin() -> Result<()> {
    output(&mut program("ip", &["link", "set", "lo", "up"])).map(drop)
}
