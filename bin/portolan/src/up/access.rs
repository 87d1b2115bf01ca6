//! The kubeconfig of the cluster: its own file, and a context in the invoking user's.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use cli::kubeconfig::{self, Access, Owner};

use crate::instance::MergedKubeconfig;

/// The name of context, cluster and user.
pub const CONTEXT: &str = "portolan";

/// Puts the context into the kubeconfig of whoever called, who under sudo is not root.
pub fn merge(access: &Access) -> Result<MergedKubeconfig> {
    let caller = caller()?;
    // sudo may pass on root's own KUBECONFIG, or none; it is the caller's file only without sudo.
    let variable = std::env::var("KUBECONFIG").ok().filter(|_| std::env::var_os("SUDO_UID").is_none());
    let path = kubeconfig::users_file(variable.as_deref(), &caller.home);
    kubeconfig::merge(&path, access, Some(Owner { uid: caller.uid, gid: caller.gid }))?;
    Ok(MergedKubeconfig { path, uid: caller.uid, gid: caller.gid })
}

struct Caller {
    uid: u32,
    gid: u32,
    home: PathBuf,
}

fn caller() -> Result<Caller> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if let (Some(uid), Some(gid)) = (number("SUDO_UID"), number("SUDO_GID"))
        && let Some(home) = home_of(uid)
    {
        return Ok(Caller { uid, gid, home });
    }
    let home = PathBuf::from(std::env::var_os("HOME").context("HOME is not set\n  hint: or give --no-kubeconfig")?);
    let (uid, gid) = home.metadata().map_or((0, 0), |folder| (folder.uid(), folder.gid()));
    Ok(Caller { uid, gid, home })
}

/// The sixth field of the user's line in `/etc/passwd`.
fn home_of(uid: u32) -> Option<PathBuf> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut lines = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let line = lines.find(|fields| fields.get(2).and_then(|id| id.parse().ok()) == Some(uid))?;
    line.get(5).map(PathBuf::from)
}
