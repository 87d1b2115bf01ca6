//! `portolan status`: what runs, where it answers, what it weighs.

use std::fs;

use anyhow::{Context, Result};
use indicatif::HumanBytes;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::api::{Api, ListParams};

use crate::arguments::StatusOptions;
use crate::instance::{Layout, Record};
use crate::terminal;

pub fn run(options: &StatusOptions) -> Result<()> {
    let layout = Layout::new(&options.data.data_dir)?;
    let Some(record) = layout.read()? else {
        terminal::line(format_args!("no cluster in {}", layout.data_dir.display()));
        terminal::line("  hint: `portolan up` starts one");
        return Ok(());
    };
    let daemon = layout.daemon();
    let rows = match daemon {
        Some(pid) => running(&layout, &record, pid)?,
        None => {
            vec![("daemon".to_owned(), "stopped; pods and Services go on (`portolan up` takes them over)".to_owned())]
        }
    };
    for (what, value) in rows {
        terminal::line(format_args!("{what:<12} {value}"));
    }
    Ok(())
}

fn running(layout: &Layout, record: &Record, pid: u32) -> Result<Vec<(String, String)>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let counted = runtime.context("cannot start an async runtime")?.block_on(count(layout));
    let mut rows = vec![
        ("daemon".to_owned(), format!("running, process {pid}, version {}", record.version)),
        ("data".to_owned(), layout.data_dir.display().to_string()),
        ("api server".to_owned(), format!("https://127.0.0.1:{}", record.api_port)),
        ("services".to_owned(), record.service_cidr.to_string()),
        ("pods".to_owned(), record.pod_cidr.to_string()),
    ];
    for node in &record.nodes {
        rows.push(("node".to_owned(), format!("{} at {}, pods {}", node.name, node.address, node.pod_cidr)));
    }
    if !record.load_balancer_pools.is_empty() {
        rows.push(("balancer".to_owned(), record.load_balancer_pools.join(", ")));
    }
    match counted {
        Ok(text) => rows.push(("objects".to_owned(), text)),
        Err(error) => rows.push(("objects".to_owned(), format!("the API server does not answer: {error:#}"))),
    }
    let (processes, bytes) = memory(pid);
    rows.push(("memory".to_owned(), format!("{} in {processes} processes", HumanBytes(bytes))));
    Ok(rows)
}

async fn count(layout: &Layout) -> Result<String> {
    let client = client::from_kubeconfig(Some(&layout.kubeconfig()), None).await?;
    let version = client.apiserver_version().await?;
    let all = ListParams::default();
    let nodes = Api::<Node>::all(client.clone()).list_metadata(&all).await?.items.len();
    let pods = Api::<Pod>::all(client.clone()).list_metadata(&all).await?.items.len();
    let services = Api::<Service>::all(client).list_metadata(&all).await?.items.len();
    Ok(format!("{services} services, {pods} pods, {nodes} nodes; Kubernetes {}", version.git_version))
}

/// Resident memory of the daemon and the shims that it started, shared pages counted once each process.
fn memory(daemon: u32) -> (usize, u64) {
    let program = fs::read_link(format!("/proc/{daemon}/exe")).ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let myself = std::process::id();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).filter(|pid| *pid != myself);
    let ours = pids.filter(|pid| program.is_some() && fs::read_link(format!("/proc/{pid}/exe")).ok() == program);
    ours.filter_map(resident).fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes))
}

fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}
