//! The whole: arguments, composition, exit codes.
//!
//! The pod shim is dispatched before anything else, because it must not inherit a runtime, threads or open files. Every other command
//! parses its arguments, runs, and prints an error as object, cause and hint.
#![forbid(unsafe_code)]

mod acknowledge;
mod alone;
mod arguments;
mod backup;
mod dig;
mod dns;
mod down;
mod host;
mod image;
mod ingress;
mod instance;
mod loadbalancer;
mod metrics;
mod network;
mod proxy;
mod ranges;
mod registries;
mod render;
mod service;
mod status;
mod terminal;
mod trace;
mod up;

use std::process::ExitCode;

use arguments::{Arguments, Command};
use clap::Parser;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let first = words.next();
    if first.as_deref() == Some("shim".as_ref()) {
        return ExitCode::from(u8::try_from(containers::shim::main(words)).unwrap_or(1));
    }
    if first.as_deref() == Some(dns::KEEPER.as_ref()) {
        return dns::keep_sockets(words.next());
    }
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(options) => up::run(&options),
        Command::Backup(options) => backup::run(&options),
        Command::Restore(options) => backup::restore(&options),
        Command::Down(options) => down::run(&options),
        Command::Status(options) => status::run(&options),
        Command::Controllers(options) => alone::controllers(&options),
        Command::Scheduler(options) => alone::scheduler(&options),
        Command::Service(options) => service::run(&options),
        Command::Image(options) => image::run(&options),
        Command::LoadBalancer(options) => loadbalancer::run(&options),
        Command::Dns(options) => dns::run(&options),
        Command::Dig(options) => dig::run(&options),
        Command::Proxy(options) => proxy::run(&options),
        Command::Render(options) => render::run(&options),
        Command::Trace(options) => trace::run(&options),
        Command::Ingress(options) => ingress::run(&options),
    }
}
