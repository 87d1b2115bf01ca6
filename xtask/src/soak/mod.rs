//! `cargo xtask soak`: pods are replaced under load, and nothing may be lost.
//!
//! Three nodes, an app that ends at once on SIGTERM, clients on every way in that a Service or an Ingress has. What is lost all the same is told
//! with what the cluster said around it. The same is done a second time with pods that ask for no drain, for comparison. All of it in a lab
//! of its own.

mod clients;
mod cluster;
mod evidence;
mod grpc;
mod journal;
mod losses;
mod report;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use crate::command::{cargo, run as execute, target};
use crate::{lab, tools};
use clients::Run;
use cluster::Cluster;
use evidence::Evidence;
use journal::Journal;
use report::Report;

#[derive(Args)]
pub struct Options {
    /// Pods to replace, by rolling restarts
    #[arg(long, default_value_t = 1000)]
    replacements: usize,
    /// Pods to replace in the comparison without acknowledgement; 0 leaves it out
    #[arg(long, default_value_t = 60)]
    comparison: usize,
    /// End after so many minutes, with however many pods have been replaced
    #[arg(long, value_name = "N")]
    minutes: Option<u64>,
    /// Print one flat JSON object as the last line
    #[arg(long)]
    json: bool,
    /// Use the unoptimised build
    #[arg(long)]
    dev: bool,
    /// Where the plot goes [default: target/soak/soak.svg]
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Set for the command that runs inside the lab
    #[arg(long, hide = true)]
    inside_lab: bool,
}

pub fn run(options: &Options) -> Result<()> {
    tools::need_root("soak")?;
    if options.inside_lab {
        lab::begin()?;
        return soak(options);
    }
    tools::debian(&[("unshare", "util-linux"), ("ip", "iproute2"), ("/bin/busybox", "busybox-static")])?;
    tools::kubectl(tools::KUBECTL_NEWEST)?;
    let mut build = cargo();
    build.args(["build", "--package", "portolan", "--package", "soak-grpc"]);
    if !options.dev {
        build.arg("--release");
    }
    execute(&mut build)?;
    // Here, because the toolchain is found by the home folder, which is another one in the lab.
    cluster::make_app(&target().join("soak"), &built(options, "soak-grpc"))?;
    let (replacements, comparison) = (options.replacements.to_string(), options.comparison.to_string());
    let minutes = options.minutes.map(|minutes| minutes.to_string());
    let svg = plot(options).to_string_lossy().into_owned();
    let mut inside =
        vec!["soak", "--inside-lab", "--replacements", &replacements, "--comparison", &comparison, "--svg", &svg];
    inside.extend(minutes.iter().flat_map(|minutes| ["--minutes", minutes.as_str()]));
    inside.extend(options.json.then_some("--json"));
    inside.extend(options.dev.then_some("--dev"));
    lab::enter(&inside)
}

fn built(options: &Options, name: &str) -> PathBuf {
    target().join(if options.dev { "debug" } else { "release" }).join(name)
}

fn plot(options: &Options) -> PathBuf {
    options.svg.clone().unwrap_or_else(|| target().join("soak/soak.svg"))
}

fn soak(options: &Options) -> Result<()> {
    let folder = target().join("soak");
    fs::create_dir_all(&folder)?;
    let cluster = Cluster::up(built(options, "portolan"), &folder)?;
    let end = options.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let soak = Soak { cluster, grpc: built(options, "soak-grpc") };
    let with = soak.round("acknowledged", options.replacements, end)?;
    with.print("with acknowledgement");
    let without = match options.comparison {
        0 => None,
        count => Some(soak.round("none", count, None)?),
    };
    let mut runs = vec![("with acknowledgement", &with)];
    if let Some(without) = &without {
        without.print("without");
        runs.push(("without", without));
    }
    let plot = plot(options);
    fs::write(&plot, report::svg(&runs)).with_context(|| format!("cannot write {}", plot.display()))?;
    println!("plot: {}", plot.display());
    if options.json {
        println!("{}", figures(&with, without.as_ref()));
    }
    Ok(())
}

fn figures(with: &Report, without: Option<&Report>) -> serde_json::Value {
    let mut figures = json!({
        "replacements": with.replacements,
        "failed_connections": with.failed_connections,
        "failed_requests": with.failed_requests,
        "attempts": with.attempts,
        "late_drains": with.late
    });
    if let Some(without) = without {
        figures["without_replacements"] = json!(without.replacements);
        figures["without_failed_connections"] = json!(without.failed_connections);
        figures["without_failed_requests"] = json!(without.failed_requests);
    }
    figures
}

struct Soak {
    cluster: Cluster,
    grpc: PathBuf,
}

impl Soak {
    /// Replaces pods of one sort under load.
    fn round(&self, drain: &str, replacements: usize, end: Option<Instant>) -> Result<Report> {
        self.cluster.deploy(drain)?;
        let targets = self.cluster.targets()?;
        targets.iter().try_for_each(clients::served)?;
        let (samples, received) = mpsc::channel();
        let run = Run {
            began: Instant::now(),
            stop: Arc::new(AtomicBool::new(false)),
            samples,
            evidence: Evidence { namespaces: Arc::new(self.cluster.namespaces()?) },
        };
        let journal = Journal::start(&self.cluster.kubectl, &self.cluster.kubeconfig(), run.began)?;
        let clients = clients::start(&targets, &run);
        let grpc = grpc::Clients::start(&self.grpc, &self.cluster.grpc_targets()?, &run)?;
        let stop = Arc::clone(&run.stop);
        drop(run);
        // Counted as they come: an hour has millions.
        let counting = thread::spawn(move || Report::of(received));
        let replaced = self.cluster.replace(replacements, end);
        stop.store(true, Ordering::Relaxed);
        drop(grpc);
        for client in clients {
            let _ = client.join();
        }
        let Ok(mut report) = counting.join() else { bail!("the samples were not counted") };
        let lost = losses::tell(&report.lost, &journal, &target().join(format!("soak/losses-{drain}.txt")))?;
        if drain != "none" {
            print!("{lost}");
        }
        (report.replacements, report.late) = (replaced?, journal.late());
        Ok(report)
    }
}
