//! Measures ways to lay Services out in nf_tables: how long a kernel takes to load them, to change one, and to send the
//! first packet of a connection through them. `docs/notes/nft-layout.md` has what came of it.
//!
//! `cargo run --release -p netlink --example layouts -- [services=10000] [endpoints=10] [classes=1] [shards=1] [packets=50000]`
//! Everything happens in network namespaces of its own, and root is needed to make them. Times are the thread's processor
//! time, in which all that a send makes the kernel do is contained, so that other work on the machine disturbs little.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod lab;
mod layout;

use std::time::Duration;

use layout::{Layout, Plan};
use netlink::NfTables;
use nft::{Batch, Ruleset, diff};

fn main() {
    let plan = Plan {
        services: argument("services", 10_000),
        endpoints: argument("endpoints", 10),
        classes: argument("classes", 1),
        shards: argument("shards", 1),
    };
    let (packets, rounds) = (argument("packets", 50_000), argument("rounds", 3));
    println!("{plan:?}, {packets} first packets, the best of {rounds} rounds");
    println!(
        "{:<22} {:>8} {:>9} {:>8} {:>8} {:>12} {:>12} {:>8} {:>10}",
        "layout", "ops", "encode s", "load s", "dump s", "change p50", "change p99", "slab MB", "ns/packet"
    );
    let direct = best(rounds, || lab::first_packets(None, &plan, packets));
    println!("{:<22} {:>92}", "(no rules)", direct.as_nanos());
    for layout in Layout::ALL {
        if argument("only", layout as usize) != layout as usize {
            continue;
        }
        if layout == Layout::Chains && plan.services > argument("most_chains", 2_000) {
            continue;
        }
        measure(layout, &plan, packets, rounds);
    }
}

fn measure(layout: Layout, plan: &Plan, packets: usize, rounds: usize) {
    let desired = layout.ruleset(plan);
    let batch = diff(&Ruleset::default(), &desired);
    let encode = best(rounds, || time(|| drop(nft::wire::encode(&batch, 1, None))));
    let load = best(rounds, || {
        let lab = lab::Lab::new();
        let mut nft = NfTables::open(&lab.node).unwrap();
        time(|| nft.commit(&batch).unwrap())
    });
    let lab = lab::Lab::new();
    let before = lab::slab();
    let mut nft = NfTables::open(&lab.node).unwrap();
    nft.commit(&batch).unwrap();
    let slab = lab::slab().saturating_sub(before);
    let table = desired.tables.keys().next().unwrap();
    let dump = best(rounds, || time(|| drop(nft.dump(table).unwrap())));
    let mut changes: Vec<Duration> = (0..argument("changes", 200))
        .map(|n| {
            let batch: Batch = layout.change(plan, n);
            time(|| nft.commit(&batch).unwrap())
        })
        .collect();
    changes.sort();
    drop(lab);
    let packet = best(rounds, || lab::first_packets(Some(&desired), plan, packets));
    println!(
        "{:<22} {:>8} {:>9.3} {:>8.3} {:>8.3} {:>9.3} ms {:>9.3} ms {:>8.1} {:>10}",
        layout.name(),
        batch.ops.len() + batch.elements(),
        encode.as_secs_f64(),
        load.as_secs_f64(),
        dump.as_secs_f64(),
        changes[changes.len() / 2].as_secs_f64() * 1e3,
        changes[changes.len() * 99 / 100].as_secs_f64() * 1e3,
        slab as f64 / 1024.0,
        packet.as_nanos(),
    );
}

fn time(work: impl FnOnce()) -> Duration {
    let started = lab::processor_time();
    work();
    lab::processor_time().saturating_sub(started)
}

/// The shortest of several: a machine with other work adds time, and never takes any away.
fn best(rounds: usize, measure: impl FnMut() -> Duration) -> Duration {
    std::iter::repeat_with(measure).take(rounds.max(1)).min().unwrap()
}

/// `name=value` among the arguments.
fn argument(name: &str, default: usize) -> usize {
    let given = std::env::args().find_map(|argument| argument.strip_prefix(&format!("{name}=")).map(str::to_owned));
    given.map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("`{name}` takes a number")))
}
