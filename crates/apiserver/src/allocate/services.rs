//! What a Service takes and gives back, by its type: upstream's `allocateCreate` and `allocateUpdate`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::field::{FieldError, Path};
use rand::RngExt;
use serde_json::{Value, json};

use super::{Claim, Refusal};
use crate::kinds::service::{
    before_allocation, is_headless, may_have_node_ports, needs_cluster_ip, needs_health_check_port, wants_node_ports,
};

pub(super) fn create(families: &[&str], claim: &mut Claim, service: &mut Value) -> Result<(), Refusal> {
    ready(before_allocation(service, None, families))?;
    if needs_cluster_ip(service) && !is_headless(service) {
        take_addresses(claim, service, 0)?;
    }
    if may_have_node_ports(service) {
        take_ports(claim, service)?;
    }
    if needs_health_check_port(service) {
        take_health_check_port(claim, service)?;
    }
    Ok(())
}

pub(super) fn update(families: &[&str], claim: &mut Claim, new: &mut Value, old: &Value) -> Result<(), Refusal> {
    ready(before_allocation(new, Some(old), families))?;
    update_addresses(claim, new, old)?;
    if may_have_node_ports(new) {
        update_ports(claim, new, old)?;
    } else if may_have_node_ports(old) {
        claim.released_ports.extend(node_ports(old));
    }
    match (needs_health_check_port(old), needs_health_check_port(new)) {
        (false, true) => take_health_check_port(claim, new)?,
        (true, false) => claim.released_ports.extend(health_check_port(old)),
        (false, false) | (true, true) => {}
    }
    Ok(())
}

/// Everything that a Service holds goes back once it is gone.
pub(super) fn release_all(claim: &mut Claim, service: &Value) {
    if needs_cluster_ip(service) {
        claim.released_addresses.extend(addresses(service));
    }
    claim.released_ports.extend(node_ports(service));
    claim.released_ports.extend(health_check_port(service));
}

fn ready(faults: Vec<FieldError>) -> Result<(), Refusal> {
    if faults.is_empty() { Ok(()) } else { Err(Refusal::Invalid(faults)) }
}

fn update_addresses(claim: &mut Claim, new: &mut Value, old: &Value) -> Result<(), Refusal> {
    let had = if needs_cluster_ip(old) { addresses(old) } else { Vec::new() };
    if !needs_cluster_ip(new) {
        claim.released_addresses = had;
        return Ok(());
    }
    if is_headless(new) || is_headless(old) {
        return Ok(());
    }
    if had.is_empty() {
        return take_addresses(claim, new, 0);
    }
    // The first address never changes; the second may come and go with the families.
    let wanted = new["spec"]["ipFamilies"].as_array().map_or(1, Vec::len);
    let listed = addresses(new);
    if wanted > had.len() || listed.len() > had.len() {
        return take_addresses(claim, new, had.len());
    }
    claim.released_addresses =
        had.into_iter().filter(|address| !listed.contains(address)).skip_while(|_| wanted > 1).collect();
    Ok(())
}

/// One address for each family from number `from` on: the one that is listed, else any.
fn take_addresses(claim: &mut Claim, service: &mut Value, from: usize) -> Result<(), Refusal> {
    let families: Vec<String> = texts(&service["spec"]["ipFamilies"]).into_iter().map(str::to_owned).collect();
    let mut listed: Vec<String> = texts(&service["spec"]["clusterIPs"]).into_iter().map(str::to_owned).collect();
    for (index, family) in families.iter().enumerate().skip(from) {
        let asked = listed.get(index).filter(|text| !text.is_empty()).cloned();
        let address = match asked {
            Some(text) => take_address(claim, &text, &listed)?,
            None => take_any_address(claim, family)?,
        };
        match listed.get_mut(index) {
            Some(place) => *place = address.to_string(),
            None => listed.push(address.to_string()),
        }
    }
    service["spec"]["clusterIP"] = listed.first().cloned().unwrap_or_default().into();
    service["spec"]["clusterIPs"] = json!(listed);
    Ok(())
}

fn take_address(claim: &mut Claim, text: &str, listed: &[String]) -> Result<IpAddr, Refusal> {
    let refuse = |why: String| {
        let path = Path::new("spec").child("clusterIPs");
        let detail = format!("failed to allocate IP {text}: {why}");
        Refusal::Invalid(vec![FieldError::invalid(path, json!(listed), detail)])
    };
    let address: IpAddr = text.parse().map_err(|_| refuse("not an IP address".to_owned()))?;
    let taken = claim.with(|ranges| {
        let same = ranges.addresses.iter_mut().filter(|range| range.net.addr().is_ipv4() == address.is_ipv4());
        let mut last = Err(format!("no service range has addresses like {address}"));
        for range in same {
            let inside = range.net.contains(&address);
            last = range.take(address);
            if inside {
                break;
            }
        }
        if last.is_ok() {
            ranges.mark(address);
        }
        last
    });
    taken.unwrap_or(Ok(())).map_err(refuse)?;
    claim.taken_addresses.push(address);
    Ok(address)
}

fn take_any_address(claim: &mut Claim, family: &str) -> Result<IpAddr, Refusal> {
    let chance = rand::rng().random();
    let found = claim.with(|ranges| {
        let mut same = ranges.addresses.iter_mut().filter(|range| range.family() == family);
        let address = same.find_map(|range| range.take_any(chance))?;
        ranges.mark(address);
        Some(address)
    });
    let full = || Refusal::Full("failed to allocate a serviceIP: range is full".to_owned());
    let address = found.flatten().ok_or_else(full)?;
    claim.taken_addresses.push(address);
    Ok(address)
}

/// Node ports of a new Service. Ports of one number share a node port, as DNS wants it for TCP and UDP.
fn take_ports(claim: &mut Claim, service: &mut Value) -> Result<(), Refusal> {
    let wanted = wants_node_ports(service);
    let asked: Vec<(i64, i64)> = ports(service).map(|port| (number(port, "port"), number(port, "nodePort"))).collect();
    let mut by_port: BTreeMap<i64, i64> = BTreeMap::new();
    for (index, (port, given)) in asked.iter().copied().enumerate() {
        if given == 0 && !wanted {
            continue;
        }
        let chosen = match by_port.get(&port).copied() {
            Some(same) if given == 0 || given == same => same,
            Some(_) => take_port(claim, given, index)?,
            None => {
                let requested = asked[index..].iter().find(|(other, node)| *other == port && *node != 0);
                let node_port = match requested {
                    Some((_, node)) => take_port(claim, *node, index)?,
                    None => take_any_port(claim)?,
                };
                by_port.insert(port, node_port);
                node_port
            }
        };
        service["spec"]["ports"][index]["nodePort"] = chosen.into();
    }
    Ok(())
}

/// Node ports of a changed Service: those it had stay its own, new ones are taken, the rest is released.
fn update_ports(claim: &mut Claim, new: &mut Value, old: &Value) -> Result<(), Refusal> {
    let had = if may_have_node_ports(old) { node_ports(old) } else { Vec::new() };
    let wanted = wants_node_ports(new);
    let asked: Vec<i64> = ports(new).map(|port| number(port, "nodePort")).collect();
    let mut taken: Vec<i64> = Vec::new();
    for (index, given) in asked.into_iter().enumerate() {
        if given == 0 {
            if wanted {
                new["spec"]["ports"][index]["nodePort"] = take_any_port(claim)?.into();
            }
        } else if !had.contains(&given) && !taken.contains(&given) {
            taken.push(take_port(claim, given, index)?);
        }
    }
    let kept = node_ports(new);
    claim.released_ports.extend(had.into_iter().filter(|port| !kept.contains(port)));
    Ok(())
}

fn take_port(claim: &mut Claim, port: i64, index: usize) -> Result<i64, Refusal> {
    let taken = claim.with(|ranges| ranges.ports.take(port)).unwrap_or(Ok(()));
    taken.map_err(|why| {
        let path = Path::new("spec").child("ports").index(index).child("nodePort");
        Refusal::Invalid(vec![FieldError::invalid(path, port, why)])
    })?;
    claim.taken_ports.push(port);
    Ok(port)
}

fn take_any_port(claim: &mut Claim) -> Result<i64, Refusal> {
    let chance = rand::rng().random();
    let found = claim.with(|ranges| ranges.ports.take_any(chance)).flatten();
    let port = found.ok_or_else(|| Refusal::Full("failed to allocate a nodePort: range is full".to_owned()))?;
    claim.taken_ports.push(port);
    Ok(port)
}

fn take_health_check_port(claim: &mut Claim, service: &mut Value) -> Result<(), Refusal> {
    let Some(&given) = health_check_port(service).first() else {
        let port = take_any_port(claim)?;
        service["spec"]["healthCheckNodePort"] = port.into();
        return Ok(());
    };
    let taken = claim.with(|ranges| ranges.ports.take(given)).unwrap_or(Ok(()));
    taken.map_err(|why| Refusal::Full(format!("failed to allocate requested HealthCheck NodePort {given}: {why}")))?;
    claim.taken_ports.push(given);
    Ok(())
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn ports(service: &Value) -> impl Iterator<Item = &Value> {
    service["spec"]["ports"].as_array().into_iter().flatten()
}

fn number(value: &Value, field: &str) -> i64 {
    value[field].as_i64().unwrap_or(0)
}

/// The numbers of all node ports, each once.
pub(super) fn node_ports(service: &Value) -> Vec<i64> {
    let mut numbers: Vec<i64> = ports(service).map(|port| number(port, "nodePort")).filter(|port| *port != 0).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn health_check_port(service: &Value) -> Vec<i64> {
    service["spec"]["healthCheckNodePort"].as_i64().into_iter().filter(|port| *port != 0).collect()
}

/// The addresses that a Service holds; a headless one holds none.
pub(super) fn addresses(service: &Value) -> Vec<IpAddr> {
    texts(&service["spec"]["clusterIPs"]).into_iter().filter_map(|text| text.parse().ok()).collect()
}
