//! `bench proxy`: from the start of `portolan proxy` to the last address that answers, one endpoint that changes, and new connections.
//!
//! The measuring program is an example of crate `proxy`; it runs in a lab, beside an API server that holds the Services, and beside no other
//! proxy: the kernel tells of changes to nf_tables all over the machine as soon as anyone anywhere listens, which every proxy does.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Figures;
use crate::command::{cargo, program, run as execute, target};
use crate::{lab, tools};

const PORT: &str = "6443";

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
    built(&["build", "--package", "apiserver", "--example", "serve"])?;
    built(&["build", "--package", "proxy", "--example", "bench"])?;
    let mut arguments = vec!["bench", "proxy", "--services", sizes, "--inside-lab"];
    arguments.extend(json.then_some("--json"));
    arguments.extend(debug.then_some("--debug"));
    lab::enter(&arguments)
}

fn measure(sizes: &str, profile: &str, json: bool) -> Result<()> {
    let data = target().join("bench/proxy");
    let _ = fs::remove_dir_all(&data);
    fs::create_dir_all(&data)?;
    let mut server = program(target().join(profile).join("examples/serve"), &[]);
    let mut server =
        server.arg(&data).arg(PORT).stdout(Stdio::piped()).spawn().context("cannot start the API server")?;
    let mut ready = String::new();
    BufReader::new(server.stdout.take().context("no output")?).read_line(&mut ready)?;
    let measured = figures(sizes, profile, &data.join("kubeconfig"));
    server.kill()?;
    server.wait()?;
    measured?.print(json);
    Ok(())
}

fn figures(sizes: &str, profile: &str, kubeconfig: &Path) -> Result<Figures> {
    let bench = target().join(profile).join("examples/bench");
    let mut figures = Figures::default();
    let mut loads = program(&bench, &[]);
    loads.arg(target().join(profile).join("portolan")).arg(kubeconfig).args(sizes.split(','));
    read(&mut loads, &mut figures)?;
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
