//! This machine's name.

use anyhow::{Context, Result};

/// As kubelet names a node that nobody named: the host's name in lower case.
pub fn name() -> Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the host's name")?;
    Ok(name.trim().to_lowercase())
}
