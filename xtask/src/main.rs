//! Developer commands: `cargo xtask demo | test | tidy | bench | chaos | soak | fuzz | codegen`.
//!
//! Everything a newcomer or the CI runs goes through here; what a command needs from the machine, it installs or says how.

mod bench;
mod chaos;
mod codegen;
mod command;
mod demo;
mod fuzz;
mod lab;
mod soak;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Portolan's developer commands")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build release, start the cluster, run the news example and prove that it works
    Demo(demo::Options),
    /// Everything CI checks: formatting, lints, tidy, unit, property and end-to-end tests
    Test(test::Options),
    /// Measure: a table for people, `--json` for programs
    Bench(bench::Options),
    /// Random faults against a running cluster, while a model checks what must never break
    Chaos(chaos::Options),
    /// Replace pods under load and count what is lost
    Soak(soak::Options),
    /// Inputs that nobody would send, for as long as asked, on the stable compiler
    Fuzz(fuzz::Options),
    /// The rules of the house that no compiler knows: layers, sizes, forbidden calls
    Tidy,
    /// Writes the table of API types from the sources of `k8s-pb` and `k8s-openapi`
    Codegen,
}

fn main() -> ExitCode {
    std::sync::LazyLock::force(&command::THIS_PROGRAM);
    let done = match Arguments::parse().task {
        Task::Demo(options) => demo::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Chaos(options) => chaos::run(&options),
        Task::Soak(options) => soak::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Tidy => tidy::run(),
        Task::Codegen => codegen::run(&command::root()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
