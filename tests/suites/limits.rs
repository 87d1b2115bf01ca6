//! Limits that a user could run into: what a client does that never reads costs the server no more than its own history.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use testkit::{Machine, said, until};

/// Changes one ConfigMap again and again over one connection: the kubeconfig, how often, how many bytes.
const WRITER: &str = r#"
import base64, http.client, json, re, ssl, sys, tempfile
config, times, size = open(sys.argv[1]).read(), int(sys.argv[2]), int(sys.argv[3])
def part(name):
    file = tempfile.NamedTemporaryFile(delete=False)
    file.write(base64.b64decode(re.search(name + r': "?([A-Za-z0-9+/=]+)', config).group(1)))
    file.close()
    return file.name
context = ssl._create_unverified_context()
context.load_cert_chain(part('client-certificate-data'), part('client-key-data'))
connection = http.client.HTTPSConnection('127.0.0.1', 6443, context=context)
for number in range(times):
    body = json.dumps({'data': {'value': chr(97 + number % 26) * size}})
    path = '/api/v1/namespaces/default/configmaps/large'
    connection.request('PATCH', path, body, {'Content-Type': 'application/merge-patch+json'})
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200, answer.status
"#;
const TIMES: u64 = 600;
const SIZE: u64 = 250_000;

/// Resident memory of the daemon, in bytes.
fn memory(machine: &Machine) -> Result<u64> {
    let pid = said(machine.command("cat").arg(machine.data_dir().join("run/lock")))?.ok()?.out;
    let status = said(machine.command("cat").arg(format!("/proc/{}/status", pid.trim())))?.ok()?.out;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(1024 * line.trim().trim_end_matches(" kB").parse::<u64>()?)
}

#[test]
fn a_client_that_never_reads_costs_bounded_memory() -> Result<()> {
    let machine = Machine::new()?;
    machine.up(&[])?;
    machine.kubectl(&["create", "configmap", "large", "--from-literal=value=a"])?.ok()?;
    let kubectl = std::env::var_os("KUBECTL_NEWEST").unwrap_or_else(|| "kubectl".into());
    let mut watch = machine.command(kubectl);
    let log = machine.folder().join("watch");
    watch.args(["get", "configmaps", "--watch", "-o", "name"]).stdout(std::fs::File::create(&log)?);
    let mut watch = watch.stderr(Stdio::null()).spawn()?;
    until("watching", || {
        ensure!(std::fs::read_to_string(&log)?.contains("large"));
        Ok(())
    })?;
    let children = format!("/proc/{0}/task/{0}/children", watch.id());
    let stopped = std::fs::read_to_string(children)?;
    said(Command::new("kill").arg("-STOP").args(stopped.split_whitespace()))?.ok()?;
    let before = memory(&machine)?;
    let writer = machine.file("writer.py", WRITER)?;
    let mut write = machine.command("python3");
    write.arg(writer).arg(machine.data_dir().join("kubeconfig")).args([TIMES.to_string(), SIZE.to_string()]);
    said(&mut write)?.ok()?;
    let grown = memory(&machine)?.saturating_sub(before);
    said(Command::new("kill").arg("-KILL").args(stopped.split_whitespace()))?.ok()?;
    // What entered the machine for it has stopped with it.
    watch.kill()?;
    watch.wait()?;
    // The history of 32 MiB, once as objects and for a moment as text; far less than what was sent.
    ensure!(grown < TIMES * SIZE * 2 / 3, "{grown} bytes more after {} were written", TIMES * SIZE);
    Ok(())
}
