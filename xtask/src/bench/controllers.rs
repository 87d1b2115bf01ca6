//! `bench controllers`: how soon a change of a pod is in the slices, how long all of them take, how many pods a second find a node.

use anyhow::{Context, Result};

use super::Figures;
use crate::command::{cargo, output};

const KEYS: [&str; 5] = ["slice_p50_ms", "slice_p99_ms", "write_10000_s", "recompute_10000_s", "schedule_per_s"];

pub fn run(runs: usize, json: bool, per_cent: usize) -> Result<()> {
    let mut figures = Figures::default();
    let size = per_cent.to_string();
    for run in 1..=runs {
        println!("run {run} of {runs}");
        let what = ["run", "--release", "--package", "controllers", "--example", "controllers-bench", "--", &size];
        for line in output(cargo().args(what))?.lines() {
            let (key, value) = line.split_once(' ').with_context(|| format!("the benchmark printed `{line}`"))?;
            let value = value.parse().with_context(|| format!("{key} is not a number: `{value}`"))?;
            match KEYS.iter().find(|known| **known == key) {
                Some(key) => figures.add(key, value),
                // Of another size than the key says: shown, but no figure.
                None => println!("{line}"),
            }
        }
    }
    figures.print(json);
    Ok(())
}
