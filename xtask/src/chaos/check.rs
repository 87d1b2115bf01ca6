//! What must hold again after each fault, asked until it does or for long enough that it never will.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::{said, until};

use super::alone::DNS_PORT;
use super::world::World;

/// How addresses of pods begin.
const PODS: &str = "10.244.";

/// Waits until everything holds; answers how many seconds it took.
pub fn settle(world: &mut World) -> Result<f64> {
    let start = Instant::now();
    promises_are_kept(world)?;
    until("right again", || {
        let ready = pods_are_as_wanted(world)?;
        endpoints_are(world, &ready)?;
        rules_are(world, &ready)?;
        nothing_leaks(world)
    })?;
    until("answers", || answers(world))?;
    Ok(start.elapsed().as_secs_f64())
}

/// At once, not in the end: an acknowledged write is there whenever somebody asks.
fn promises_are_kept(world: &World) -> Result<()> {
    let maps = world.get(&["configmaps"])?;
    for (name, value) in &world.acknowledged {
        let found = items(&maps).find(|map| map["metadata"]["name"] == name.as_str());
        let found = found.with_context(|| format!("ConfigMap {name} was acknowledged and is not there"))?;
        ensure!(found["data"]["value"] == value.as_str(), "ConfigMap {name} is not what was acknowledged");
    }
    let services = world.get(&["services", "--all-namespaces"])?;
    let addresses: Vec<&str> = items(&services).filter_map(|service| service["spec"]["clusterIP"].as_str()).collect();
    let distinct: BTreeSet<&&str> = addresses.iter().collect();
    ensure!(distinct.len() == addresses.len(), "an address was given twice: {addresses:?}");
    Ok(())
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

/// As many pods as wanted, all ready, no address twice. Answers their addresses.
fn pods_are_as_wanted(world: &World) -> Result<BTreeSet<String>> {
    let pods = world.get(&["pods", "-l", "app=web"])?;
    let mut addresses = BTreeSet::new();
    let mut number = 0;
    for pod in items(&pods) {
        let name = &pod["metadata"]["name"];
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        ensure!(ready && pod["metadata"]["deletionTimestamp"].is_null(), "pod {name} is not ready");
        let address = pod["status"]["podIP"].as_str().unwrap_or_default().to_owned();
        ensure!(addresses.insert(address.clone()), "pods share {address}");
        number += 1;
    }
    ensure!(number == world.replicas, "{number} pods of {}", world.replicas);
    Ok(addresses)
}

fn endpoints_are(world: &World, ready: &BTreeSet<String>) -> Result<()> {
    let slices = world.get(&["endpointslices", "-l", "kubernetes.io/service-name=web"])?;
    let endpoints = items(&slices).flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let used: BTreeSet<String> = endpoints
        .filter(|endpoint| endpoint["conditions"]["ready"] != false)
        .filter_map(|endpoint| endpoint["addresses"][0].as_str().map(str::to_owned))
        .collect();
    ensure!(used == *ready, "endpoints are {used:?}, ready pods are {ready:?}");
    Ok(())
}

/// In every kernel, on nodes and machine, the Service leads to the ready pods and to no other.
fn rules_are(world: &World, ready: &BTreeSet<String>) -> Result<()> {
    let list = ["nft", "list", "table", "inet", "portolan"];
    let mut tables = vec![("the machine".to_owned(), said(world.machine.command(list[0]).args(&list[1..]))?.ok()?.out)];
    for node in world.node_names() {
        let table = world.on_node(&node, &list)?.ok()?.out;
        tables.push((node, table));
    }
    for (place, table) in tables {
        let words = table.split(|c: char| !c.is_ascii_digit() && c != '.' && c != '/');
        // Whole addresses of pods, not their ranges.
        let used: BTreeSet<String> =
            words.filter(|word| word.starts_with(PODS) && !word.contains('/')).map(str::to_owned).collect();
        ensure!(used == *ready, "the rules of {place} lead to {used:?}, ready pods are {ready:?}");
    }
    Ok(())
}

/// Namespaces, links and containers are those of the pods that there are.
fn nothing_leaks(world: &World) -> Result<()> {
    let listed = said(world.machine.command("ls").arg(world.machine.data_dir().join("run/netns")))?.ok()?.out;
    let namespaces = listed.lines().filter(|name| name.starts_with("pod-")).count();
    ensure!(namespaces == world.replicas, "{namespaces} pod namespaces for {} pods", world.replicas);
    let mut links = 0;
    for node in world.node_names() {
        let listed = world.on_node(&node, &["ip", "-br", "link"])?.ok()?.out;
        links += listed.lines().filter(|line| line.starts_with("pod")).count();
    }
    ensure!(links == world.replicas, "{links} pod links for {} pods", world.replicas);
    let mounts = said(world.machine.command("cat").arg("/proc/mounts"))?.ok()?.out;
    let roots = mounts.lines().filter(|line| line.starts_with("overlay") && line.contains("portolan-test")).count();
    ensure!(roots <= world.replicas, "{roots} root filesystems for {} pods", world.replicas);
    Ok(())
}

/// By the rules of the machine, by those of a node, and by name.
fn answers(world: &World) -> Result<()> {
    let vip = world.vip()?;
    let nodes = world.get(&["nodes"])?;
    let mut urls = vec![format!("http://{vip}/")];
    for node in items(&nodes) {
        urls.push(format!("http://{}:30080/", node["status"]["addresses"][0]["address"].as_str().unwrap_or_default()));
    }
    for url in urls {
        let answer = said(world.machine.command("curl").args(["-sf", "--max-time", "3", &url]))?;
        ensure!(answer.code == Some(0), "{url} does not answer: {answer:?}");
    }
    let name = ["+short", "+time=2", "+tries=1", "-p", DNS_PORT, "@127.0.0.1", "web.default.svc.cluster.local"];
    let answer = said(world.machine.command("dig").args(name))?.out;
    ensure!(answer.trim() == vip, "the name answers {answer:?}, not {vip}");
    Ok(())
}
