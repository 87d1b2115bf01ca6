//! Faults that disturb rather than kill: cut watches, an API server out of reach, packets lost between nodes, foreign hands in our rules, a clock
//! that jumps.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngExt;
use rand::rngs::StdRng;
use testkit::{Said, said};

use super::alone::PARTS;
use super::world::World;

/// Where the API server answers on the machine.
const API_PORT: &str = "6443";

pub fn part_killed(world: &mut World, random: &mut StdRng) -> Result<String> {
    let (name, _) = PARTS[random.random_range(0..PARTS.len())];
    let seconds = random.random_range(0.0..2.0);
    world.alone.kill(name)?;
    // It matters only if something happens meanwhile.
    let promised = world.write()?;
    sleep(Duration::from_secs_f64(seconds));
    world.start_alone(name)?;
    Ok(format!("{name}, away for {seconds:.1} s{}", if promised { "" } else { ", and a write was refused" }))
}

/// Every connection to the API server is reset; whoever watches must begin again where it was.
pub fn watches_cut(world: &mut World, random: &mut StdRng) -> Result<String> {
    let times = random.random_range(1..4);
    for _ in 0..times {
        let ended = said(world.machine.command("ss").args(["-K", "-t", "dport", "=", &format!(":{API_PORT}")]))?;
        ended.ok()?;
        sleep(Duration::from_millis(random.random_range(0..700)));
    }
    Ok(format!("{times} times"))
}

/// Packets to the API server vanish, so nobody is told that a connection is dead.
pub fn api_out_of_reach(world: &mut World, random: &mut StdRng) -> Result<String> {
    let seconds = random.random_range(0.5..6.0);
    let rule = format!("tcp dport {API_PORT} drop");
    let chain = "{ type filter hook output priority 0; }";
    on_machine(
        world,
        &format!("add table inet chaos; add chain inet chaos out {chain}; add rule inet chaos out {rule}"),
    )?;
    sleep(Duration::from_secs_f64(seconds));
    on_machine(world, "delete table inet chaos")?;
    Ok(format!("for {seconds:.1} s"))
}

fn on_machine(world: &World, script: &str) -> Result<Said> {
    said(world.machine.command("nft").arg(script))?.ok()
}

/// A part of what a node gets by its uplink is lost.
pub fn packets_lost(world: &mut World, random: &mut StdRng) -> Result<String> {
    let nodes = world.node_names();
    let node = &nodes[random.random_range(0..nodes.len())];
    let (percent, seconds) = (random.random_range(5..60), random.random_range(1.0..5.0));
    let chain = "{ type filter hook prerouting priority -500; }";
    let rule = format!("iifname uplink numgen random mod 100 < {percent} drop");
    let script = format!("add table inet chaos; add chain inet chaos in {chain}; add rule inet chaos in {rule}");
    world.on_node(node, &["nft", &script])?.ok()?;
    sleep(Duration::from_secs_f64(seconds));
    world.on_node(node, &["nft", "delete table inet chaos"])?.ok()?;
    Ok(format!("{percent} % by {node} for {seconds:.1} s"))
}

/// Somebody else changes our table, on a node or on the machine.
pub fn foreign_edit(world: &mut World, random: &mut StdRng) -> Result<String> {
    let mut places: Vec<Option<String>> = world.node_names().into_iter().map(Some).collect();
    places.push(None);
    let place = places[random.random_range(0..places.len())].clone();
    let nft = |script: &str| match &place {
        Some(node) => world.on_node(node, &["nft", script])?.ok(),
        None => on_machine(world, script),
    };
    let table = nft("list table inet portolan")?.out;
    let named = |kind: &str| -> Vec<String> {
        let lines = table.lines().filter_map(|line| line.strip_prefix('\t')?.strip_prefix(kind)?.strip_suffix(" {"));
        lines.map(|name| name.trim().to_owned()).collect()
    };
    let (maps, chains) = (named("map "), named("chain "));
    let one = |names: &[String], random: &mut StdRng| {
        let number = random.random_range(0..names.len().max(1));
        names.get(number).cloned().context("the table has none")
    };
    let script = match random.random_range(0..5) {
        0 => "delete table inet portolan".to_owned(),
        1 => format!("flush map inet portolan {}", one(&maps, random)?),
        2 => format!("flush chain inet portolan {}", one(&chains, random)?),
        3 => format!("insert rule inet portolan {} drop", one(&chains, random)?),
        _ => "add chain inet portolan stranger".to_owned(),
    };
    nft(&script)?;
    Ok(format!("`{script}` on {}", place.as_deref().unwrap_or("the machine")))
}

pub fn clock_jumped(world: &mut World, random: &mut StdRng) -> Result<String> {
    // Never so far from the real time that certificates, which kubectl judges by that, are not valid yet.
    let seconds: i64 = random.random_range(-1800..1800);
    let back = if world.clock.ahead.abs() > 3600 { -world.clock.ahead } else { seconds };
    world.clock.jump(back)?;
    // Until everybody has looked at it again.
    sleep(Duration::from_millis(1100));
    world.write_surely()?;
    Ok(format!("by {back} s"))
}
