//! The faults, a row each: what happens, and whether traffic to ready endpoints may notice.

use anyhow::{Context, Result, bail};
use rand::RngExt;
use rand::rngs::StdRng;
use testkit::said;

use super::disturb;
use super::world::World;

pub struct Fault {
    pub name: &'static str,
    /// Such a fault leaves endpoints and rules alone: not a single request may fail.
    pub control_plane_only: bool,
    pub inject: fn(&mut World, &mut StdRng) -> Result<String>,
}

pub const FAULTS: &[Fault] = &[
    Fault { name: "daemon killed", control_plane_only: true, inject: daemon_killed },
    Fault { name: "killed while writing", control_plane_only: true, inject: killed_while_writing },
    Fault { name: "daemon paused", control_plane_only: true, inject: daemon_paused },
    Fault { name: "disk full", control_plane_only: true, inject: disk_full },
    Fault { name: "part killed", control_plane_only: true, inject: disturb::part_killed },
    Fault { name: "watches cut", control_plane_only: true, inject: disturb::watches_cut },
    Fault { name: "API out of reach", control_plane_only: true, inject: disturb::api_out_of_reach },
    Fault { name: "clock jumped", control_plane_only: true, inject: disturb::clock_jumped },
    Fault { name: "packets lost", control_plane_only: false, inject: disturb::packets_lost },
    Fault { name: "foreign edit", control_plane_only: false, inject: disturb::foreign_edit },
    Fault { name: "shim killed", control_plane_only: false, inject: shim_killed },
    Fault { name: "container killed", control_plane_only: false, inject: container_killed },
    Fault { name: "rules flushed", control_plane_only: false, inject: rules_flushed },
    Fault { name: "pod deleted", control_plane_only: false, inject: pod_deleted },
    Fault { name: "scaled", control_plane_only: false, inject: scaled },
    Fault { name: "scaled, then killed", control_plane_only: false, inject: scaled_then_killed },
    Fault { name: "Service made anew", control_plane_only: true, inject: another_service },
];

fn kill_daemon(world: &World) -> Result<()> {
    world.signal("-9", &world.daemon()?)
}

fn daemon_killed(world: &mut World, _: &mut StdRng) -> Result<String> {
    kill_daemon(world)?;
    world.up()?;
    Ok("kill -9 and up".to_owned())
}

fn killed_while_writing(world: &mut World, random: &mut StdRng) -> Result<String> {
    let delay = format!("{:.3}", random.random_range(0.0..0.4));
    let pid = world.daemon()?;
    let killer = format!("sleep {delay}; kill -9 {pid}");
    let mut killer = world.machine.command("sh").args(["-c", &killer]).spawn()?;
    let mut acknowledged = 0;
    for _ in 0..8 {
        acknowledged += usize::from(world.write()?);
    }
    killer.wait()?;
    world.up()?;
    Ok(format!("{acknowledged} of 8 writes acknowledged before"))
}

fn daemon_paused(world: &mut World, random: &mut StdRng) -> Result<String> {
    let pid = world.daemon()?;
    let seconds = random.random_range(0.2..3.0);
    world.signal("-STOP", &pid)?;
    std::thread::sleep(std::time::Duration::from_secs_f64(seconds));
    world.signal("-CONT", &pid)?;
    Ok(format!("for {seconds:.1} s"))
}

fn disk_full(world: &mut World, _: &mut StdRng) -> Result<String> {
    let filler = world.machine.data_dir().join("filler").to_string_lossy().into_owned();
    let full = said(world.machine.command("dd").args(["if=/dev/zero", "bs=4k", &format!("of={filler}")]))?;
    if !full.err.contains("No space left") {
        bail!("the disk did not fill: {}", full.err);
    }
    let mut acknowledged = 0;
    for _ in 0..5 {
        acknowledged += usize::from(world.write()?);
    }
    said(world.machine.command("rm").arg(&filler))?.ok()?;
    Ok(format!("{acknowledged} of 5 writes acknowledged meanwhile"))
}

/// One of the processes for which `wanted` holds.
fn some_process(world: &World, random: &mut StdRng, wanted: impl Fn(&str) -> bool) -> Result<String> {
    let all = world.processes()?;
    let fit: Vec<_> = all.iter().filter(|(_, _, command)| wanted(command)).collect();
    if fit.is_empty() {
        bail!("no such process");
    }
    Ok(fit[random.random_range(0..fit.len())].0.clone())
}

fn shim_killed(world: &mut World, random: &mut StdRng) -> Result<String> {
    let pid = some_process(world, random, |command| command.starts_with("portolan-shims"))?;
    world.signal("-9", &pid)?;
    Ok(format!("process {pid}"))
}

fn container_killed(world: &mut World, random: &mut StdRng) -> Result<String> {
    let pid = some_process(world, random, |command| command.starts_with("httpd"))?;
    world.signal("-9", &pid)?;
    Ok(format!("process {pid}"))
}

fn rules_flushed(world: &mut World, random: &mut StdRng) -> Result<String> {
    let nodes = world.node_names();
    let node = &nodes[random.random_range(0..nodes.len())];
    world.on_node(node, &["nft", "flush", "ruleset"])?.ok()?;
    Ok(format!("on {node}"))
}

fn pod_deleted(world: &mut World, random: &mut StdRng) -> Result<String> {
    let pods = world.get(&["pods", "-l", "app=web"])?;
    let pods = pods["items"].as_array().context("no list of pods")?;
    if pods.is_empty() {
        return Ok("there was none".to_owned());
    }
    let name = pods[random.random_range(0..pods.len())]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    // It may be on its way already.
    world.kubectl(&["delete", "pod", &name, "--wait=false", "--ignore-not-found"])?.ok()?;
    Ok(name)
}

fn scaled(world: &mut World, random: &mut StdRng) -> Result<String> {
    let replicas = random.random_range(1..6);
    world.kubectl(&["scale", "deployment/web", &format!("--replicas={replicas}")])?.ok()?;
    world.replicas = replicas;
    Ok(format!("to {replicas}"))
}

fn scaled_then_killed(world: &mut World, random: &mut StdRng) -> Result<String> {
    let told = scaled(world, random)?;
    std::thread::sleep(std::time::Duration::from_millis(random.random_range(0..400)));
    kill_daemon(world)?;
    world.up()?;
    Ok(told)
}

/// A Service beside the one that is asked, deleted and made again: neither its address nor its rules may touch the other's.
fn another_service(world: &mut World, _: &mut StdRng) -> Result<String> {
    for _ in 0..3 {
        world.kubectl(&["delete", "service", "other", "--ignore-not-found"])?.ok()?;
        world.kubectl(&["create", "service", "clusterip", "other", "--tcp=80:8080"])?.ok()?;
    }
    world.write_surely()?;
    Ok("three times".to_owned())
}
