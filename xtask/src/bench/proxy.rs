//! `bench proxy`: from the start of `portolan proxy` to the last address that answers, one endpoint that changes, and new connections.
//!
//! The measuring program is an example of crate `proxy`; it runs in a lab, beside a cluster whose API server holds the Services.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Figures;
use crate::command::{cargo, output, program, run as execute, target};
use crate::{lab, tools};

pub fn run(sizes: &str, json: bool, inside_lab: bool, debug: bool) -> Result<()> {
    tools::need_root("bench proxy")?;
    let profile = if debug { "debug" } else { "release" };
    if inside_lab {
        lab::begin()?;
        return measure(sizes, profile, json);
    }
    tools::debian(&[("unshare", "util-linux"), ("ip", "iproute2")])?;
    let built = |arguments: &[&str]| {
        let mut build = cargo();
        build.args(arguments).args((!debug).then_some("--release"));
        execute(&mut build)
    };
    built(&["build", "--package", "portolan"])?;
    built(&["build", "--package", "proxy", "--example", "bench"])?;
    let mut arguments = vec!["bench", "proxy", "--services", sizes, "--inside-lab"];
    arguments.extend(json.then_some("--json"));
    arguments.extend(debug.then_some("--debug"));
    lab::enter(&arguments)
}

fn measure(sizes: &str, profile: &str, json: bool) -> Result<()> {
    let portolan = target().join(profile).join("portolan");
    let data = target().join("bench/proxy");
    let instance = |arguments: &[&str]| {
        let mut command = program(&portolan, arguments);
        command.env("PORTOLAN_DATA_DIR", &data);
        output(&mut command)
    };
    instance(&["down"])?;
    instance(&["up", "--detach", "--no-kubeconfig"])?;
    let measured = figures(sizes, profile, &data.join("kubeconfig"));
    instance(&["down"])?;
    measured?.print(json);
    Ok(())
}

fn figures(sizes: &str, profile: &str, kubeconfig: &Path) -> Result<Figures> {
    let bench = target().join(profile).join("examples/bench");
    let mut figures = Figures::default();
    let mut loads = program(&bench, &[]);
    loads.arg(target().join(profile).join("portolan")).arg(kubeconfig).args(sizes.split(','));
    let log = || kubeconfig.with_file_name("portolan.log");
    read(&mut loads, &mut figures).with_context(|| format!("hint: the cluster's log is {}", log().display()))?;
    // On one processor: where the scheduler puts client and server would count for more than the rules.
    read(program("taskset", &["--cpu-list", "0"]).arg(&bench).arg("ratios"), &mut figures)?;
    Ok(figures)
}

/// Takes in the figures that a measuring program prints, as it prints them.
fn read(bench: &mut Command, figures: &mut Figures) -> Result<()> {
    let mut running = bench.stdout(Stdio::piped()).spawn().context("cannot start the measuring program")?;
    for line in BufReader::new(running.stdout.take().context("no output")?).lines() {
        let line = line?;
        let (key, value) = line.split_once(' ').context("not a figure")?;
        // The key has no size in it.
        let key = if key == "kernel_change_10000_p50_ms" { "kernel_change_p50_ms" } else { key };
        figures.add(key, value.parse()?);
    }
    if !running.wait()?.success() {
        bail!("the measurement failed");
    }
    Ok(())
}
