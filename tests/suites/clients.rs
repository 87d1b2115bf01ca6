//! Programs that no one here wrote follow objects through two deaths of the server, and miss nothing: the official Python and JavaScript
//! clients, and kubectl's own informers (client-go).
//!
//! `PYTHON_CLIENT` and `JAVASCRIPT_CLIENT` say where the clients' packages are; `cargo xtask test` fetches them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use testkit::{Machine, said, until};

const ROUNDS: usize = 30;
const NAMES: usize = 4;

/// A program that prints a line for each thing it learns.
struct Follower {
    name: &'static str,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Follower {
    fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {name}"))?;
        let out = child.stdout.take().context("no output")?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(line);
            }
        });
        let follower = Follower { name, child, lines };
        until("followed", || {
            ensure!(follower.said().iter().any(|line| line == "FOLLOWS - -"), "{name} has not begun");
            Ok(())
        })?;
        Ok(follower)
    }

    fn said(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Everything that happened, in its order, each thing once.
    fn must_have_seen(&self, history: &[String]) -> Result<()> {
        let seen = || self.said().into_iter().skip_while(|line| line != "FOLLOWS - -").skip(1).collect::<Vec<_>>();
        until("seen to the end", || {
            ensure!(seen().last() == history.last(), "{} saw {:#?}", self.name, seen());
            Ok(())
        })?;
        ensure!(seen() == history, "{} saw {:#?}\nwhat happened is {history:#?}", self.name, seen());
        Ok(())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // This is the way into the machine; the program itself ends with the machine at the latest.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn fetched(variable: &str) -> Result<std::ffi::OsString> {
    std::env::var_os(variable).with_context(|| format!("{variable} is not set\n  hint: `cargo xtask test` fetches it"))
}

fn script(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name).display().to_string()
}

fn kill_and_start(machine: &Machine) -> Result<()> {
    let lock = machine.data_dir().join("run/lock");
    let daemon = std::fs::read_to_string(&lock)?;
    let script = format!("kill -9 {}; until flock -n {} true; do sleep 0.01; done", daemon.trim(), lock.display());
    said(machine.command("sh").args(["-c", &script]))?.ok()?;
    machine.up(&[]).map(drop)
}

/// One change of one object: what a watch says of it.
fn change(machine: &Machine, round: usize) -> Result<String> {
    let name = format!("seen-{}", round % NAMES);
    match round / NAMES % 3 {
        0 => {
            let manifest = format!(
                "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}, labels: {{app: seen}}}}, data: {{round: '{round}'}}}}"
            );
            let manifest = machine.file("seen.yaml", &manifest)?;
            machine.kubectl(&["create", "-f", &manifest.to_string_lossy()])?.ok()?;
            Ok(format!("ADDED {name} {round}"))
        }
        1 => {
            let patch = format!("{{\"data\":{{\"round\":\"{round}\"}}}}");
            machine.kubectl(&["patch", "configmap", &name, "--patch", &patch])?.ok()?;
            Ok(format!("MODIFIED {name} {round}"))
        }
        _ => {
            machine.kubectl(&["delete", "configmap", &name])?.ok()?;
            Ok(format!("DELETED {name} {}", round - NAMES))
        }
    }
}

#[test]
fn foreign_clients_follow_through_deaths_of_the_server() -> Result<()> {
    let machine = Machine::new()?;
    machine.up(&[])?;
    machine.kubectl(&["create", "configmap", "goal"])?.ok()?;
    let mut python = machine.command("python3");
    python.arg(script("watch.py")).env("PYTHONPATH", fetched("PYTHON_CLIENT")?);
    // Packages are found from the script's own place upwards, so it is put beside them.
    let modules = fetched("JAVASCRIPT_CLIENT")?;
    let beside = machine.folder().join("watch.mjs");
    std::fs::copy(script("watch.mjs"), &beside)?;
    std::os::unix::fs::symlink(Path::new(&modules).join("node_modules"), machine.folder().join("node_modules"))?;
    let followers = [
        Follower::start("Python's client", &mut python)?,
        Follower::start("JavaScript's client", machine.command("node").arg(&beside))?,
    ];
    let kubectl = std::env::var_os("KUBECTL_NEWEST").unwrap_or_else(|| "kubectl".into());
    let mut waits = machine.command(kubectl);
    waits.args(["wait", "--for=jsonpath={.data.round}=last", "configmap/goal", "--timeout=300s"]);
    let waits = waits.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start kubectl")?;

    let mut history = Vec::new();
    for round in 0..ROUNDS {
        if round == ROUNDS / 3 || round == 2 * ROUNDS / 3 {
            kill_and_start(&machine)?;
        }
        history.push(change(&machine, round)?);
    }
    machine.kubectl(&["patch", "configmap", "goal", "--patch", r#"{"data":{"round":"last"}}"#])?.ok()?;
    for follower in &followers {
        follower.must_have_seen(&history)?;
    }
    let waited = waits.wait_with_output()?;
    let told = String::from_utf8_lossy(&[waited.stdout, waited.stderr].concat()).into_owned();
    ensure!(waited.status.success() && told.contains("configmap/goal condition met"), "kubectl wait said {told}");
    Ok(())
}
