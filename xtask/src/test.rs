//! `cargo xtask test`: all that must hold before a change lands, in the order of what fails fastest.
//!
//! Property tests ask the same cases in each run, so that who sees a failure can have it again and a change is judged by what it changes;
//! `--seed` asks others.

use std::time::Instant;

use anyhow::Result;
use clap::Args;

use crate::command::{cargo, output, program, root, run as execute};
use crate::tools::{self, KUBECTL_NEWEST, KUBECTL_OLDEST};
use crate::{demo, tidy};

#[derive(Args)]
pub struct Options {
    /// Leave out the news demo in its lab, the longest part
    #[arg(long)]
    no_demo: bool,
    /// Where random cases begin: the same number asks the same cases, another one asks others
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How often the daemon is killed while pods come and go [default: 8]
    #[arg(long, value_name = "N")]
    kills: Option<u32>,
}

/// Debian packages that tests use, and what tells that each is there.
const PACKAGES: &[(&str, &str)] = &[
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("curl", "curl"),
    ("/bin/busybox", "busybox-static"),
    ("arping", "iputils-arping"),
    ("ndisc6", "ndisc6"),
    ("h2load", "nghttp2-client"),
    ("dig", "bind9-dnsutils"),
    ("dnsperf", "dnsperf"),
    ("musl-gcc", "musl-tools"),
    ("openssl", "openssl"),
    ("node", "nodejs"),
    ("npm", "npm"),
];

/// What is known of crates' faults (the RustSec advisory database).
const ADVISORIES: &str = "https://github.com/RustSec/advisory-db";

pub fn run(options: &Options) -> Result<()> {
    tools::need_root("test")?;
    tools::debian(PACKAGES)?;
    let oldest = tools::kubectl(KUBECTL_OLDEST)?;
    let newest = tools::kubectl(KUBECTL_NEWEST)?;
    let registry = tools::unpacked("docker-registry", "usr/bin/docker-registry")?;
    let (python, javascript) = (tools::python_client()?, tools::javascript_client()?);
    step("formatting", || execute(cargo().args(["fmt", "--all", "--check"])))?;
    step("tidy", tidy::run)?;
    step("clippy", || execute(cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])))?;
    step("dependencies", dependencies)?;
    // The binaries first, since end-to-end tests start them; with all that the tests need, so that nothing is built twice.
    step("build", || execute(cargo().args(["build", "--workspace", "--bins", "--tests"])))?;
    step("tests", || {
        let nextest = program("cargo", &["nextest", "--version"]).output().is_ok_and(|output| output.status.success());
        let mut tests = cargo();
        match nextest {
            true => tests.args(["nextest", "run", "--workspace", "--no-fail-fast"]),
            false => tests.args(["test", "--workspace", "--no-fail-fast"]),
        };
        let tests = tests.env("KUBECTL_OLDEST", &oldest).env("KUBECTL_NEWEST", &newest);
        let tests = tests.env("PYTHON_CLIENT", &python).env("JAVASCRIPT_CLIENT", &javascript);
        tests.env("PROPTEST_RNG_SEED", options.seed.to_string());
        if let Some(kills) = options.kills {
            tests.env("PORTOLAN_TEST_KILLS", kills.to_string());
        }
        execute(tests.env("DOCKER_REGISTRY", &registry))
    })?;
    if options.no_demo {
        return Ok(());
    }
    step("demo", demo::prove_once_in_lab)
}

/// Licenses, origins and, where the RustSec database is within reach, known vulnerabilities of all crates, by `deny.toml`.
fn dependencies() -> Result<()> {
    let deny = tools::cargo_deny()?;
    let check =
        |what: &[&str]| execute(program(&deny, &["--log-level", "error", "check"]).args(what).current_dir(root()));
    check(&["bans", "licenses", "sources"])?;
    let mut ask = program("timeout", &["20", "git", "ls-remote", "--quiet", ADVISORIES, "HEAD"]);
    match output(ask.env("GIT_TERMINAL_PROMPT", "0")) {
        Ok(_) => check(&["advisories"]),
        Err(_) => {
            println!("{ADVISORIES} is out of reach: not compared with known vulnerabilities");
            Ok(())
        }
    }
}

fn step(name: &str, act: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("== {name}");
    let start = Instant::now();
    act()?;
    println!("== {name}: {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}
