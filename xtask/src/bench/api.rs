//! `bench api`: the API server alone, through TLS: creates, lists, watches, memory, and a start after a crash with data.
//!
//! The load is a program of the crate that it measures (`examples/load.rs`), so that the server runs as a process of its own.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Figures;
use crate::command::{cargo, output, run as execute, target};

/// In the order of the budget; the load's names.
const KEYS: &[&str] = &[
    "create_p50_ms",
    "fsync_p50_ms",
    "create_p99_ms",
    "create_64_per_s",
    "list_10000_ms",
    "watch_1000_p99_ms",
    "rss_10000_mb",
    "restart_10000_s",
];
const PORT: u16 = 26_443;

pub struct Size {
    pub runs: usize,
    pub services: usize,
    pub watchers: usize,
    /// Measure the unoptimised build: a try of the benchmark itself.
    pub debug: bool,
}

pub fn run(size: &Size, json: bool) -> Result<()> {
    let profile = if size.debug { "debug" } else { "release" };
    let mut build = cargo();
    build.args(["build", "--package", "apiserver", "--examples"]);
    if !size.debug {
        build.arg("--release");
    }
    execute(&mut build)?;
    let programs = target().join(profile).join("examples");
    let mut figures = Figures::default();
    for run in 1..=size.runs {
        println!("run {run} of {}", size.runs);
        let dir = target().join("bench/api");
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        let mut load = Command::new(programs.join("load"));
        load.arg(&dir).arg(programs.join("serve")).arg(PORT.to_string());
        let said = output(load.arg(size.services.to_string()).arg(size.watchers.to_string()))?;
        let found: Value = serde_json::from_str(said.trim()).context("the load printed no figures")?;
        for key in KEYS {
            let Some(value) = found[*key].as_f64() else { bail!("the load printed no `{key}`") };
            figures.add(key, value);
        }
    }
    figures.print(json);
    Ok(())
}
