//! `cargo xtask fuzz`: builds the targets of `fuzz/` with the compiler that builds everything else, and runs them for a time.
//!
//! What `cargo fuzz` asks a nightly compiler for is the sanitizers; the crates that are fuzzed hold no unsafe code, so that panics,
//! overflows, memory and time are what there is to find, and the coverage that guides libFuzzer comes by stable options of code generation.

use std::fs;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::command::{cargo, output, program, root, run as execute, target};

/// Name, and the feature that brings what it needs beyond `api`.
const TARGETS: &[(&str, Option<&str>)] =
    &[("decode", None), ("patch", None), ("selector", None), ("field_paths", None), ("dns_packets", Some("dns"))];

const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks --cfg fuzzing";
/// More memory than any input may cost.
const MOST_MB: u32 = 2048;
/// Longer than any input may take, in seconds.
const LONGEST: u32 = 20;

#[derive(Args)]
pub struct Options {
    /// The targets; all of them when none is named
    targets: Vec<String>,
    /// How long each of them runs
    #[arg(long, default_value_t = 60)]
    minutes: u32,
}

pub fn run(options: &Options) -> Result<()> {
    if let Some(unknown) = options.targets.iter().find(|name| !TARGETS.iter().any(|(known, _)| known == name)) {
        let known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        bail!("no fuzz target `{unknown}`\n  hint: there are {}", known.join(", "));
    }
    let chosen = |name: &str| options.targets.is_empty() || options.targets.iter().any(|one| one == name);
    for (name, feature) in TARGETS.iter().filter(|(name, _)| chosen(name)) {
        fuzz(name, *feature, options.minutes)?;
    }
    Ok(())
}

fn fuzz(name: &str, feature: Option<&str>, minutes: u32) -> Result<()> {
    let folder = target().join("fuzz");
    let host = host()?;
    let mut build = cargo();
    build.args(["build", "--release", "--manifest-path", "fuzz/Cargo.toml", "--target", &host, "--bin", name]);
    build.arg("--target-dir").arg(&folder).env("RUSTFLAGS", COVERAGE);
    if let Some(feature) = feature {
        build.args(["--features", feature]);
    }
    execute(&mut build)?;
    let corpus = folder.join("corpus").join(name);
    let found = folder.join("artifacts").join(name);
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&found)?;
    println!("== {name}, {minutes} min");
    let binary = folder.join(&host).join("release").join(name);
    let mut fuzzer = program(binary, &["-print_final_stats=1"]);
    fuzzer.arg(format!("-max_total_time={}", minutes * 60)).arg(format!("-rss_limit_mb={MOST_MB}"));
    fuzzer.arg(format!("-timeout={LONGEST}")).arg(format!("-artifact_prefix={}/", found.display()));
    let seeds = root().join("fuzz/seeds").join(name);
    fuzzer.arg(corpus);
    if seeds.is_dir() {
        fuzzer.arg(seeds);
    }
    execute(&mut fuzzer).with_context(|| format!("`{name}` found something, kept in {}", found.display()))
}

/// With a target named, the flags are for the program alone and not for what builds it.
fn host() -> Result<String> {
    let said = output(&mut program("rustc", &["--version", "--verbose"]))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say its host")?.to_owned())
}
