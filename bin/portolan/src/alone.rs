//! Components alone, against any API server: `portolan controllers` and `portolan scheduler`, each in place of its upstream counterpart.
//!
//! Where several stand ready, one works: the Lease says which. It is the Lease that upstream's program holds, so that the two never work
//! at the same time either.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{ArgAction, Args};
use client::Client;
use client::election::{Candidate, lead};
use tokio_util::sync::CancellationToken;
use tracing::error;

/// What every component needs that runs alone.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Cluster to work for [default: KUBECONFIG, ~/.kube/config, or the pod's service account]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Work only while holding the Lease, so that several may stand ready
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub leader_elect: bool,
    /// Namespace of the Lease
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    pub leader_elect_resource_namespace: String,
    /// Name of the Lease [default: that of the upstream component]
    #[arg(long, value_name = "NAME")]
    pub leader_elect_resource_name: Option<String>,
    /// Seconds for which a Lease holds that is not renewed
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..))]
    pub leader_elect_lease_duration: u32,
}

#[derive(Debug, Clone, Args)]
pub struct ControllersOptions {
    #[command(flatten)]
    pub common: Common,
    /// Controllers to run by upstream's names: `*` is all, `foo` names one, `-foo` leaves one out
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    pub controllers: Vec<String>,
    /// Certificates (PEM) that every namespace gets as ConfigMap `kube-root-ca.crt` [default: those of the kubeconfig]
    #[arg(long, value_name = "FILE")]
    pub root_ca_file: Option<PathBuf>,
    /// Endpoints that an EndpointSlice holds at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub max_endpoints_per_slice: u16,
}

#[derive(Debug, Clone, Args)]
pub struct SchedulerOptions {
    #[command(flatten)]
    pub common: Common,
    /// Pods that name this scheduler are ours
    #[arg(long, value_name = "NAME", default_value = "default-scheduler")]
    pub scheduler_name: String,
}

pub fn controllers(options: &ControllersOptions) -> Result<()> {
    let enabled = controllers::selected(&options.controllers)?;
    let root_ca = match options.root_ca_file.as_deref() {
        Some(file) => Some(read(file)?),
        None => authority(options.common.kubeconfig.as_deref())?,
    };
    let max_endpoints_per_slice = usize::from(options.max_endpoints_per_slice);
    let config = controllers::Config { enabled, max_endpoints_per_slice, root_ca };
    run(&options.common, "kube-controller-manager", move |client, stop| {
        let config = config.clone();
        async move { controllers::run(config, client, stop).await.context("controllers failed") }
    })
}

pub fn scheduler(options: &SchedulerOptions) -> Result<()> {
    let config = scheduler::Config { scheduler_name: options.scheduler_name.clone(), ..scheduler::Config::default() };
    run(&options.common, "kube-scheduler", move |client, stop| {
        let config = config.clone();
        async move { scheduler::run(config, client, stop).await.context("the scheduler failed") }
    })
}

fn authority(kubeconfig: Option<&Path>) -> Result<Option<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.context("cannot start an async runtime")?.block_on(client::authority(kubeconfig))?)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))
}

/// Runs a component until a signal, at once or when its turn has come.
fn run<F, W>(common: &Common, lease: &str, component: F) -> Result<()>
where
    F: Fn(Client, CancellationToken) -> W,
    W: Future<Output = Result<()>> + Send + 'static,
{
    telemetry::init_logs(telemetry::LogFormat::Text, "info", None);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start an async runtime")?.block_on(async {
        let client = client::from_kubeconfig(common.kubeconfig.as_deref(), None).await?;
        let shutdown = CancellationToken::new();
        stop_at_signal(shutdown.clone())?;
        if !common.leader_elect {
            return component(client, shutdown).await;
        }
        let work = |stop| {
            let working = component(client.clone(), stop);
            async move {
                if let Err(fault) = working.await {
                    error!(error = %format!("{fault:#}"), "component failed");
                }
            }
        };
        lead(client.clone(), candidate(common, lease), shutdown, work).await;
        Ok(())
    })
}

fn candidate(common: &Common, lease: &str) -> Candidate {
    let name = common.leader_elect_resource_name.as_deref().unwrap_or(lease);
    let duration = Duration::from_secs(common.leader_elect_lease_duration.into());
    Candidate {
        namespace: common.leader_elect_resource_namespace.clone(),
        duration,
        // Upstream's proportions.
        deadline: duration * 2 / 3,
        retry: duration * 2 / 15,
        ..Candidate::new(name, Candidate::unique_identity())
    }
}

/// Ctrl-C, or a polite kill.
fn stop_at_signal(shutdown: CancellationToken) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}
