//! What the machine must have, asked before anything is made, so that nothing is ever half done.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result, bail};

/// Root, and a kernel with what we need.
pub fn check() -> Result<()> {
    if !linux::process::is_root() {
        bail!("a cluster needs root: it makes network namespaces, mounts and kernel rules\n  hint: run it with sudo");
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let overlay = filesystems.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay");
    if !overlay {
        bail!(
            "this kernel has no overlayfs, which container images need\n  hint: `modprobe overlay`, or a kernel with CONFIG_OVERLAY_FS"
        );
    }
    // The socket belongs to all of netfilter; only who answers a question is nf_tables.
    let asked = netlink::NfTables::open(&linux::NetNs::current()?).and_then(|mut tables| tables.generation());
    asked.context(
        "this kernel has no nf_tables, which Services need\n  hint: `modprobe nf_tables`, or a kernel with CONFIG_NF_TABLES",
    )?;
    Ok(())
}

/// The API server's port on this machine; bound here, so that no one takes it in between.
pub fn api_port(port: u16) -> Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(address).with_context(|| {
        format!("cannot listen on {address} for the API server\n  hint: another program has it (`ss -ltnp`); choose another with --api-port")
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
