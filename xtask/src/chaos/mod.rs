//! `cargo xtask chaos`: random faults against a running cluster, while a model checks what must never break.
//!
//! A cluster of namespaces serves a Deployment behind a Service, with controllers, a DNS server and a second proxy as processes of their own
//! ([`alone`]); faults come one after the other ([`faults`]), and after each the cluster must converge to what the model says ([`check`]).
//! Fault number n follows from the seed and n alone: the same seed gives the same faults again, though not the same moments.

mod alone;
mod check;
mod clock;
mod disturb;
mod faults;
mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::command::{cargo, run as execute};
use crate::tools::{self, KUBECTL_NEWEST};

use faults::FAULTS;
use world::World;

/// Longer than a client waits for an answer. Who asked while packets were dropped hears of it so much later, and that is not the next fault's doing.
const ANSWERS_LAST: Duration = Duration::from_millis(3200);

/// Without another word.
const SOME: usize = 30;

#[derive(Args)]
pub struct Options {
    /// Faults to inject, one after the other [default: 30, or as many as the minutes allow]
    #[arg(long)]
    faults: Option<usize>,
    /// End after so many minutes
    #[arg(long, value_name = "N")]
    minutes: Option<u64>,
    /// Which faults, in which order; chosen and printed when not given
    #[arg(long)]
    seed: Option<u64>,
    /// Only faults whose name contains this
    #[arg(long, value_name = "WORD")]
    only: Option<String>,
    /// Nodes of the cluster
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    /// Use the binary of `cargo build` rather than that of `cargo build --release`
    #[arg(long)]
    debug: bool,
    /// Print one flat JSON object as the last line
    #[arg(long)]
    json: bool,
}

pub fn run(options: &Options) -> Result<()> {
    tools::need_root("chaos")?;
    tools::debian(&[
        ("nft", "nftables"),
        ("ip", "iproute2"),
        ("curl", "curl"),
        ("dig", "bind9-dnsutils"),
        ("/bin/busybox", "busybox-static"),
        ("faketime", "faketime"),
    ])?;
    let kubectl = tools::kubectl(KUBECTL_NEWEST)?;
    let mut build = cargo();
    build.args(["build", "--package", "portolan"]);
    if !options.debug {
        build.arg("--release");
    }
    execute(&mut build)?;
    let seed = options.seed.unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    println!("seed {seed}");
    let mut world = World::begin(options.nodes, options.debug, kubectl)?;
    check::settle(&mut world)?;
    let count = options.faults.or_else(|| options.minutes.is_none().then_some(SOME));
    let end = options.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let chosen: Vec<_> =
        FAULTS.iter().filter(|fault| options.only.as_ref().is_none_or(|word| fault.name.contains(word))).collect();
    let mut run = Run { seed, faults: 0, kinds: BTreeMap::new(), violations: Vec::new() };
    while !chosen.is_empty()
        && count.is_none_or(|count| run.faults < count)
        && end.is_none_or(|end| Instant::now() < end)
    {
        run.one(&mut world, &chosen)?;
    }
    run.tell(options.json)
}

struct Run {
    seed: u64,
    faults: usize,
    kinds: BTreeMap<&'static str, usize>,
    violations: Vec<String>,
}

impl Run {
    fn one(&mut self, world: &mut World, chosen: &[&faults::Fault]) -> Result<()> {
        self.faults += 1;
        // What an earlier fault drew from its generator depends on what it met; so each has its own.
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(self.faults as u64));
        let fault = chosen[random.random_range(0..chosen.len())];
        *self.kinds.entry(fault.name).or_default() += 1;
        let lost_before = world.lost()?;
        let told = (fault.inject)(world, &mut random);
        let checked = told.and_then(|told| check::settle(world).map(|took| (told, took)));
        let number = self.faults;
        match checked {
            Ok((told, took)) => println!("{number:>4}  {:<24} {told}; right again after {took:.1} s", fault.name),
            Err(error) => {
                println!("{number:>4}  {:<24} VIOLATION: {error:#}", fault.name);
                self.violations.push(format!("{}: {error:#}", fault.name));
            }
        }
        if !fault.control_plane_only {
            std::thread::sleep(ANSWERS_LAST);
        }
        let lost = world.lost()?.split_off(lost_before.len());
        if fault.control_plane_only && !lost.is_empty() {
            println!("      requests were lost though every endpoint was ready: {}", lost.join(", "));
            self.violations.push(format!("{}: {} requests lost", fault.name, lost.len()));
        }
        Ok(())
    }

    fn tell(&self, as_json: bool) -> Result<()> {
        for (kind, count) in &self.kinds {
            println!("{count:>4} × {kind}");
        }
        let (faults, seed, violations) = (self.faults, self.seed, self.violations.len());
        println!("{faults} faults, {violations} violations, seed {seed}");
        if as_json {
            println!("{}", json!({"faults": faults, "violations": violations, "seed": seed}));
        }
        match self.violations.first() {
            None => Ok(()),
            Some(first) => anyhow::bail!(
                "{violations} violations, the first: {first}\n  hint: `--seed {seed}` chooses the same faults"
            ),
        }
    }
}
