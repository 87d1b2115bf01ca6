//! `portolan down`: stops the daemon and removes every trace: pods, mounts, namespaces, routes, the uplink table, the kubeconfig's context.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use agent::podnet::PodNet;
use anyhow::{Context, Result, bail};
use cli::kubeconfig::{self, Owner};
use containers::images::ImageStore;
use containers::runtime::{Libcontainer, Runtime};
use linux::NetNs;
use linux::process::ProcessId;

use crate::arguments::DownOptions;
use crate::instance::{Layout, Record};
use crate::terminal::{self, Steps};
use crate::{network, up};

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// Above what the daemon allows its tasks to finish.
const STOP_WITHIN: Duration = Duration::from_secs(15);

pub fn run(options: &DownOptions) -> Result<()> {
    if !linux::process::is_root() {
        bail!("removing a cluster needs root\n  hint: run it with sudo");
    }
    let layout = Layout::new(&options.data.data_dir)?;
    if !layout.data_dir.exists() {
        terminal::line(format_args!("no cluster in {}", layout.data_dir.display()));
        return Ok(());
    }
    let mut steps = Steps::begin();
    stop_daemon(&layout)?;
    ::dns::keep::release(&layout.dns_keeper());
    steps.done("daemon stopped");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start an async runtime")?;
    runtime.block_on(remove_containers(&layout))?;
    steps.done("containers, mounts and cgroups removed");
    let record = layout.read()?;
    if let Some(record) = &record {
        runtime.block_on(remove_network(&layout, record))?;
        steps.done("network, routes and rules removed");
        forget_context(record)?;
    }
    remove_data(&layout, options.keep_data)?;
    steps.done(if options.keep_data { "data kept" } else { "data removed" });
    Ok(())
}

fn stop_daemon(layout: &Layout) -> Result<()> {
    let Some(pid) = layout.daemon().and_then(|pid| i32::try_from(pid).ok()) else { return Ok(()) };
    let Some(daemon) = ProcessId::of(pid) else { return Ok(()) };
    // The lock told us who it is; the start time makes sure that it is still the same process.
    daemon.signal(SIGTERM)?;
    if !daemon.wait(STOP_WITHIN)? {
        daemon.signal(SIGKILL)?;
        daemon.wait(STOP_WITHIN)?;
    }
    Ok(())
}

async fn remove_containers(layout: &Layout) -> Result<()> {
    if !layout.containers().exists() {
        return Ok(());
    }
    let images = ImageStore::open(layout.images())?;
    // A folder a node.
    for node in fs::read_dir(layout.containers()).context("cannot list the nodes' containers")? {
        let runtime = Libcontainer::new(node?.path(), images.clone())?;
        for sandbox in runtime.adopt().await? {
            let id = &sandbox.config.id;
            runtime.remove_sandbox(id).await.with_context(|| format!("cannot remove pod {id}"))?;
        }
    }
    Ok(())
}

async fn remove_network(layout: &Layout, record: &Record) -> Result<()> {
    match &record.uplink {
        Some(uplink) => {
            let nodes: Vec<String> = record.nodes.iter().map(|node| node.name.clone()).collect();
            network::remove(layout, &uplink.interface, &nodes).await?;
        }
        None => {
            remove_pod_links(layout).await?;
            network::remove_service_rules()?;
        }
    }
    network::close_way_out(record.way_out(), record.forwarding_was_off).await
}

/// A pod's link goes with its namespace, but in the kernel's own time; one on the machine itself must be gone when we are.
async fn remove_pod_links(layout: &Layout) -> Result<()> {
    let pods = PodNet::open(NetNs::current()?, &[], layout.run().join("netns")).await?;
    for node in fs::read_dir(layout.pods()).into_iter().flatten().flatten() {
        for pod in fs::read_dir(node.path()).into_iter().flatten().flatten() {
            pods.detach(&pod.path()).await?;
        }
    }
    // No pod is left that could have a port of the machine.
    Ok(pods.settle_host_ports()?)
}

fn forget_context(record: &Record) -> Result<()> {
    let Some(merged) = &record.merged_kubeconfig else { return Ok(()) };
    kubeconfig::remove(&merged.path, up::CONTEXT, Some(Owner { uid: merged.uid, gid: merged.gid }))?;
    Ok(())
}

fn remove_data(layout: &Layout, keep: bool) -> Result<()> {
    // Nothing may be mounted below when files are removed: what is mounted there is not ours to delete.
    linux::mounts::unmount_all(&layout.data_dir)?;
    let folders = if keep { vec![layout.run(), layout.containers(), layout.pods()] } else { layout.all() };
    for folder in folders {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove `{}`", folder.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    if keep {
        return Ok(());
    }
    for file in [layout.kubeconfig(), layout.log()] {
        let _ = fs::remove_file(file);
    }
    // Only if it is empty: a folder that the user put other things into stays.
    let _ = fs::remove_dir(&layout.data_dir);
    Ok(())
}
