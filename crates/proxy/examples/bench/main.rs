//! Measures the proxy as its users meet it: a process that starts beside a warm API server, and one endpoint that changes.
//!
//! `cargo xtask bench proxy` starts it in a lab (it writes to the network namespace that it runs in); `docs/bench.md` says what is measured.
//! `bench PORTOLAN KUBECONFIG SERVICES…` for the proxy, `bench ratios` for what packets cost, on whatever processors it may use; each figure is a
//! line `KEY VALUE` on standard output.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod watched;

mod ratios;

mod chains;
mod objects;
mod server;

use std::time::{Duration, Instant};

use linux::NetNs;
use objects::Cluster;
use server::Server;
use watched::{Running, Times};

/// Changes of one endpoint that are measured, after some that warm up.
const CHANGES: usize = 300;
const WARM_UP: usize = 20;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["ratios"] {
        return ratios::ratios();
    }
    let [portolan, kubeconfig, sizes @ ..] = &arguments[..] else { panic!("bench PORTOLAN KUBECONFIG SERVICES…") };
    let netns = NetNs::current().unwrap();
    Server::start(&netns).await;
    let mut cluster = Cluster::connect(kubeconfig).await;
    for size in sizes.iter().map(|size| size.parse::<usize>().unwrap()) {
        let began = Instant::now();
        cluster.grow(size).await;
        eprintln!("{size} Services are there after {:.1} s", began.elapsed().as_secs_f64());
        let running = Running::start(portolan, kubeconfig, size).await;
        println!("load_{size}_s {}", seconds(running.loaded));
        println!("kernel_load_{size}_s {}", running.kernel_seconds());
        // At rest: what the start alone needed has been given back.
        tokio::time::sleep(Duration::from_secs(1)).await;
        println!("rss_{size}_mb {}", running.resident_mb());
        changes(&mut cluster, running, size).await;
    }
}

/// One endpoint of one Service gives way to another, again and again.
async fn changes(cluster: &mut Cluster, mut running: Running, size: usize) {
    let mut times = Times::default();
    let before = running.cpu_seconds();
    for n in 0..WARM_UP + CHANGES {
        if n == WARM_UP {
            times = Times::default();
        }
        running.drain().await;
        let began = Instant::now();
        cluster.change(n * 7919 % size).await;
        let written = Instant::now();
        let committed = running.commit().await;
        times.whole.push(committed.saturating_duration_since(began));
        times.after_write.push(committed.saturating_duration_since(written));
        times.kernel.push(running.last_commit());
    }
    let cpu = (running.cpu_seconds() - before) / (WARM_UP + CHANGES) as f64;
    for (key, durations) in [("change", &mut times.after_write), ("change_with_write", &mut times.whole)] {
        durations.sort();
        println!("{key}_{size}_p50_ms {}", millis(durations[durations.len() / 2]));
        println!("{key}_{size}_p99_ms {}", millis(durations[durations.len() * 99 / 100]));
    }
    times.kernel.sort();
    println!("kernel_change_{size}_p50_ms {}", millis(times.kernel[times.kernel.len() / 2]));
    println!("cpu_change_{size}_ms {}", cpu * 1e3);
    running.stop();
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
