//! gRPC clients: processes of `soak-grpc`, whose lines become samples.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::clients::{Outcome, PAUSE, Run, Sample, Target};
use crate::command::program;

/// The clients; they end when this is dropped.
pub struct Clients {
    processes: Vec<Child>,
}

impl Clients {
    pub fn start(grpc: &Path, targets: &[Target], run: &Run) -> Result<Clients> {
        let mut clients = Clients { processes: Vec::new() };
        for target in targets {
            let pause = PAUSE.as_millis().to_string();
            let mut process = program(grpc, &["ask", &target.address.to_string(), &target.host, &pause]);
            let mut process = process.stdout(Stdio::piped()).spawn().context("cannot start a gRPC client")?;
            let output = process.stdout.take().context("no output")?;
            clients.processes.push(process);
            let (run, target) = (run.clone(), target.clone());
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if let Some(sample) = sample(&line, &target, &run) {
                        let _ = run.samples.send(sample);
                    }
                }
            });
        }
        Ok(clients)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A line is the client, microseconds, how it ended, and why.
fn sample(line: &str, target: &Target, run: &Run) -> Option<Sample> {
    let mut words = line.splitn(4, ' ');
    let (client, took) = (words.next()?, Duration::from_micros(words.next()?.parse().ok()?));
    let outcome = match words.next()? {
        "answered" => Outcome::Answered,
        "again" => Outcome::Again,
        "not-connected" => Outcome::NotConnected,
        _ => Outcome::NotAnswered,
    };
    let failed = matches!(outcome, Outcome::NotConnected | Outcome::NotAnswered);
    let why =
        words.next().filter(|_| failed).map(|why| format!("{why}{}", run.evidence.of(target.address, false, None)));
    let at = run.began.elapsed().saturating_sub(took);
    Some(Sample { at, took, outcome, target: Arc::from(format!("{} {client}", target.name)), why })
}
