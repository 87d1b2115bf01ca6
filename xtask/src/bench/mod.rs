//! `cargo xtask bench`: figures by a stated method, as a table and with `--json` as one flat object on the last line.
//!
//! Whatever needs a machine runs in a lab. `docs/bench.md` says how each figure is measured.

mod api;
mod controllers;
mod dns;
mod ingress;
mod ingress_peers;
mod pods;
mod proxy;
mod start;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Map, Value};

#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    what: What,
    /// Print one flat JSON object as the last line
    #[arg(long, global = true)]
    json: bool,
    /// Set for the command that runs inside the lab
    #[arg(long, hide = true, global = true)]
    inside_lab: bool,
}

#[derive(Subcommand)]
enum What {
    /// The API server alone: creates, lists, watches, memory, a start with data
    Api {
        /// Runs, of which the median is taken
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// Services, each with a slice of ten endpoints
        #[arg(long, default_value_t = 10_000)]
        services: usize,
        #[arg(long, default_value_t = 1_000)]
        watchers: usize,
        /// Measure the debug build
        #[arg(long)]
        debug: bool,
    },
    /// From a pod's change to its slice; all slices anew; pods that find a node
    Controllers {
        /// Runs, of which the median is taken
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// Per cent of the full size, to try it
        #[arg(long, default_value_t = 100)]
        per_cent: usize,
    },
    /// Requests a second through the ingress, beside nginx and haproxy; a change of routes; idle memory
    Ingress {
        /// Rounds, of which the median is taken
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Seconds of load for each figure of a round
        #[arg(long, default_value_t = 5)]
        seconds: usize,
        /// Measure the debug build: only to try the benchmark itself
        #[arg(long)]
        debug: bool,
    },
    /// From `portolan up` to API, node and pod ready; idle memory and CPU; size of the binary
    Start {
        /// Runs, of which the median is taken
        #[arg(long, default_value_t = 10)]
        runs: usize,
    },
    /// Questions a second of processor time beside Knot DNS, waiting at half load, memory, a change
    Dns {
        /// Runs, of which the median is taken
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// Services, each with ten endpoints
        #[arg(long, default_value_t = 10_000)]
        services: usize,
        /// Length of each measurement
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Measure the debug binary that is there: for trying the benchmark out
        #[arg(long)]
        debug: bool,
    },
    /// The service proxy: start, changes, memory, new connections
    Proxy {
        /// Numbers of Services, ascending
        #[arg(long, default_value = "1000,10000,50000")]
        services: String,
        /// Measure a debug build, to try the measurement itself
        #[arg(long)]
        debug: bool,
    },
    /// Pods: start, a hundred at once, memory of a shim, exec, idle CPU
    Pods {
        /// Pods and execs that are measured one by one, of which the median is taken
        #[arg(long, default_value_t = 20)]
        runs: usize,
        /// Profile of the binary; figures are taken with `release`
        #[arg(long, default_value = "release", value_parser = ["release", "debug"])]
        binary: String,
    },
}

pub fn run(options: &Options) -> Result<()> {
    match &options.what {
        What::Api { runs, services, watchers, debug } => {
            let size = api::Size { runs: *runs, services: *services, watchers: *watchers, debug: *debug };
            api::run(&size, options.json)
        }
        What::Controllers { runs, per_cent } => controllers::run(*runs, options.json, *per_cent),
        What::Ingress { runs, seconds, debug } => {
            ingress::run(*runs, *seconds, *debug, options.json, options.inside_lab)
        }
        What::Start { runs } => start::run(*runs, options.json, options.inside_lab),
        What::Proxy { services, debug } => proxy::run(services, options.json, options.inside_lab, *debug),
        What::Pods { runs, binary } => pods::run(*runs, binary, options.json, options.inside_lab),
        What::Dns { runs, services, seconds, debug } => {
            let sizes = dns::Sizes { runs: *runs, services: *services, seconds: *seconds, debug: *debug };
            dns::run(&sizes, options.json, options.inside_lab)
        }
    }
}

/// Figures of one benchmark, in the order of their keys' first mention.
#[derive(Default)]
struct Figures(Vec<(String, Vec<f64>)>);

impl Figures {
    fn add(&mut self, key: &str, value: f64) {
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some((_, values)) => values.push(value),
            None => self.0.push((key.to_owned(), vec![value])),
        }
    }

    fn print(&self, json: bool) {
        println!("{:<32} {:>10} {:>10} {:>10}", "", "min", "median", "max");
        for (key, values) in &self.0 {
            let sorted = sorted(values);
            let (min, max) = (sorted.first().copied().unwrap_or(0.0), sorted.last().copied().unwrap_or(0.0));
            println!("{key:<32} {min:>10.3} {:>10.3} {max:>10.3}", median(values));
        }
        if json {
            let flat: Map<String, Value> =
                self.0.iter().map(|(key, values)| (key.clone(), rounded(median(values)))).collect();
            println!("{}", Value::Object(flat));
        }
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => 0.0,
        (length, half) if length % 2 == 1 => sorted[half],
        (_, half) => (sorted[half - 1] + sorted[half]) / 2.0,
    }
}

fn rounded(value: f64) -> Value {
    serde_json::json!((value * 10_000.0).round() / 10_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
