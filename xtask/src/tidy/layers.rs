//! Layers: each crate's place in the house, held against what cargo says it depends on.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Fault;
use crate::command::{cargo, output};

/// Every crate of the workspace with its layer; a new crate is placed here first.
const LAYERS: &[(u8, &[&str])] = &[
    (0, &["api", "service-model", "nft"]),
    (1, &["client", "store", "netlink", "linux", "containers", "streams", "telemetry"]),
    (2, &["apiserver", "controllers", "scheduler", "agent", "proxy", "dns", "loadbalancer", "ingress", "cli"]),
    (3, &["portolan"]),
];

/// Crates beside the house: they may use it, nothing in it uses them but tests.
const BESIDE: &[&str] = &["testkit", "xtask", "newsproducer", "e2e", "soak-grpc"];

/// (crate, the only crates that may depend on it)
const PRIVATE: &[(&str, &[&str])] = &[("store", &["apiserver", "portolan"])];

/// What layer 0 must not reach, at any depth: it is values only.
const NOT_IN_VALUES: &[&str] = &["tokio", "hyper", "socket2", "mio", "kube-client"];

/// Arrows inside layer 1 that the design draws.
const WITHIN: &[(&str, &str)] = &[("netlink", "linux"), ("containers", "linux")];

pub fn check() -> Result<Vec<Fault>> {
    let metadata = output(cargo().args(["metadata", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
    let members = metadata["workspace_members"].as_array().context("no members")?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let ours: Vec<&Value> = packages.iter().filter(|package| members.contains(&package["id"])).collect();
    let mut faults = Vec::new();
    for package in &ours {
        let name = package["name"].as_str().unwrap_or_default();
        let place = format!("{name}/Cargo.toml");
        if layer(name).is_none() && !BESIDE.contains(&name) {
            faults.push(Fault { place: place.clone(), rule: "this crate has no layer; give it one in xtask".into() });
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            if dependency["kind"].as_str() != Some("dev")
                && let Some(rule) = refuse(name, on)
            {
                faults.push(Fault { place: place.clone(), rule });
            }
        }
    }
    faults.extend(values_only()?);
    Ok(faults)
}

fn layer(name: &str) -> Option<u8> {
    LAYERS.iter().find(|(_, crates)| crates.contains(&name)).map(|(layer, _)| *layer)
}

fn refuse(name: &str, on: &str) -> Option<String> {
    let below = layer(on)?;
    if let Some((_, allowed)) = PRIVATE.iter().find(|(private, _)| *private == on)
        && !allowed.contains(&name)
    {
        return Some(format!("only {} may use `{on}`", allowed.join(" and ")));
    }
    let above = layer(name)?;
    let down = above > below || (above == 0 && below == 0) || WITHIN.contains(&(name, on));
    (!down).then(|| format!("`{name}` (layer {above}) must not depend on `{on}` (layer {below})"))
}

fn values_only() -> Result<Vec<Fault>> {
    let mut faults = Vec::new();
    for name in LAYERS[0].1 {
        let tree = output(cargo().args(["tree", "--package", name, "--edges", "normal", "--prefix", "none"]))?;
        for reached in NOT_IN_VALUES {
            if tree.lines().any(|line| line.split(' ').next() == Some(reached)) {
                let rule = format!("layer 0 is values only, but `{reached}` is in its dependency tree");
                faults.push(Fault { place: format!("{name}/Cargo.toml"), rule });
            }
        }
    }
    Ok(faults)
}
