//! What a Service must be, in upstream's order and words (`ValidateService` and its parts).

use std::collections::BTreeSet;

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::{externally_accessible, is_external_name, is_headless, needs_cluster_ip, needs_health_check_port};
use crate::kinds::common::errors::{invalid_all, shown};
use crate::kinds::common::{get, meta, names, net};
use crate::kinds::{NameRule, Scope};

const KUBELET_PORT: i64 = 10_250;
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";
const BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";

pub fn create(service: &Value) -> Vec<FieldError> {
    let spec = Path::new("spec");
    let mut errors = meta::check(service, NameRule::DnsLabel, Scope::Namespaced);
    topology_annotations(service, &mut errors);
    if get::list(service, "/spec/ports").is_empty() && !is_headless(service) && !is_external_name(service) {
        errors.push(FieldError::required(spec.child("ports"), ""));
    }
    by_type(service, &spec, &mut errors);
    ports(service, &spec.child("ports"), &mut errors);
    errors.extend(meta::labels(service.pointer("/spec/selector"), &spec.child("selector")));
    affinity(service, &spec, &mut errors);
    errors.extend(cluster_ips_and_families(service));
    for (index, address) in get::texts(service, "/spec/externalIPs").into_iter().enumerate() {
        let path = spec.child("externalIPs").index(index);
        let mut faults = net::ip(address);
        if faults.is_empty() {
            faults = net::not_special(address);
        }
        invalid_all(&mut errors, &path, address, faults);
    }
    one_of(
        &mut errors,
        spec.child("type"),
        get::text(service, "/spec/type"),
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
    );
    port_numbers(service, &spec.child("ports"), &mut errors);
    source_ranges(service, &spec, &mut errors);
    balancer(service, &spec, &mut errors);
    external_traffic(service, &spec, &mut errors);
    internal_traffic(service, &spec, &mut errors);
    errors
}

pub fn update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    if !is_external_name(new) && !is_external_name(old) {
        changed_addresses(new, old, &mut errors);
        changed_families(new, old, &mut errors);
    }
    let spec = Path::new("spec");
    let balanced = |service: &Value| get::text(service, "/spec/type") == "LoadBalancer";
    if balanced(new) && balanced(old) && !get::same(new, old, "/spec/loadBalancerClass") {
        let class = new.pointer("/spec/loadBalancerClass").cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(spec.child("loadBalancerClass"), class, "may not change once set"));
    }
    class(new, &spec, &mut errors);
    if needs_health_check_port(new) && needs_health_check_port(old) && !get::same(new, old, "/spec/healthCheckNodePort")
    {
        errors.push(FieldError::forbidden(spec.child("healthCheckNodePort"), "field is immutable"));
    }
    errors.extend(create(new));
    errors
}

pub fn status(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let ingress = get::list(new, "/status/loadBalancer/ingress");
    if !ingress.is_empty() && get::text(new, "/spec/type") != "LoadBalancer" {
        errors.push(FieldError::forbidden(path, "may only be used when `spec.type` is \"LoadBalancer\""));
        return errors;
    }
    for (index, one) in ingress.iter().enumerate() {
        balancer_address(one, &path.index(index), &mut errors);
    }
    errors
}

fn balancer_address(one: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let (ip, host) = (get::text(one, "/ip"), get::text(one, "/hostname"));
    if !ip.is_empty() {
        invalid_all(errors, &path.child("ip"), ip, net::ip(ip));
    }
    match get::text_opt(one, "/ipMode") {
        None if !ip.is_empty() => {
            errors.push(FieldError::required(path.child("ipMode"), "must be specified when `ip` is set"));
        }
        None => {}
        Some(_) if ip.is_empty() => {
            errors.push(FieldError::forbidden(path.child("ipMode"), "may not be specified when `ip` is not set"));
        }
        Some(mode) => one_of(errors, path.child("ipMode"), mode, &["Proxy", "VIP"]),
    }
    if !host.is_empty() {
        invalid_all(errors, &path.child("hostname"), host, names::dns_subdomain(host));
        if net::parse_ip(host).is_some() {
            errors.push(FieldError::invalid(path.child("hostname"), host, "must be a DNS name, not an IP address"));
        }
    }
}

fn topology_annotations(service: &Value, errors: &mut Vec<FieldError>) {
    let annotation = |name: &str| get::map(service, "/metadata/annotations")?.get(name)?.as_str();
    if let (Some(mode), Some(hints)) = (annotation(MODE), annotation(HINTS))
        && mode != hints
    {
        let path = Path::new("metadata").child("annotations").key(MODE);
        let detail = format!("must match annotations[{HINTS}] when both are specified");
        errors.push(FieldError::invalid(path, mode, detail));
    }
}

fn by_type(service: &Value, spec: &Path, errors: &mut Vec<FieldError>) {
    let kind = get::text(service, "/spec/type");
    if kind == "LoadBalancer" {
        for (index, port) in get::list(service, "/spec/ports").iter().enumerate() {
            if get::int(port, "/port") == KUBELET_PORT {
                let detail = format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet");
                errors.push(FieldError::invalid(spec.child("ports").index(index), KUBELET_PORT, detail));
            }
        }
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(service) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid(spec.child("clusterIPs").index(0), "None", detail));
        }
        "ExternalName" => external_name(service, spec, errors),
        _ => {}
    }
}

fn external_name(service: &Value, spec: &Path, errors: &mut Vec<FieldError>) {
    let mut without = |field: &str, is_set: bool| {
        if is_set {
            errors.push(FieldError::forbidden(spec.child(field), "may not be set for ExternalName services"));
        }
    };
    without("clusterIPs", !get::list(service, "/spec/clusterIPs").is_empty());
    without("ipFamilies", !get::list(service, "/spec/ipFamilies").is_empty());
    without("ipFamilyPolicy", get::has(service, "/spec/ipFamilyPolicy"));
    let name = get::text(service, "/spec/externalName");
    // A trailing dot says that the name is complete.
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        errors.push(FieldError::required(spec.child("externalName"), ""));
    } else {
        invalid_all(errors, &spec.child("externalName"), name, names::dns_subdomain(name));
    }
}

fn ports(service: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let ports = get::list(service, "/spec/ports");
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = get::text(port, "/name");
        if name.is_empty() {
            if ports.len() > 1 {
                errors.push(FieldError::required(path.child("name"), ""));
            }
        } else {
            invalid_all(errors, &path.child("name"), name, names::dns_label(name));
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(path.child("name"), name));
            }
        }
        let number = get::int(port, "/port");
        for fault in names::port_number(number) {
            errors.push(FieldError::invalid(path.child("port"), number, fault));
        }
        one_of(errors, path.child("protocol"), get::text(port, "/protocol"), &["SCTP", "TCP", "UDP"]);
        port_or_name(port.get("targetPort"), &path.child("targetPort"), errors);
        if let Some(protocol) = get::text_opt(port, "/appProtocol") {
            invalid_all(errors, &path.child("appProtocol"), protocol, names::qualified(protocol));
        }
    }
}

/// A port by its number or by the name that the pod gives it.
pub fn port_or_name(port: Option<&Value>, path: &Path, errors: &mut Vec<FieldError>) {
    match port {
        Some(Value::String(name)) => invalid_all(errors, path, name, names::port_name(name)),
        other => {
            let number = other.and_then(Value::as_i64).unwrap_or(0);
            for fault in names::port_number(number) {
                errors.push(FieldError::invalid(path.clone(), number, fault));
            }
        }
    }
}

fn affinity(service: &Value, spec: &Path, errors: &mut Vec<FieldError>) {
    let affinity = get::text(service, "/spec/sessionAffinity");
    one_of(errors, spec.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    let path = spec.child("sessionAffinityConfig");
    let config = service.pointer("/spec/sessionAffinityConfig");
    match affinity {
        "ClientIP" => match config.and_then(|config| get::int_opt(config, "/clientIP/timeoutSeconds")) {
            None => errors.push(FieldError::required(path, "when session affinity type is ClientIP")),
            Some(seconds) if !(1..=86_400).contains(&seconds) => {
                let path = path.child("clientIP").child("timeoutSeconds");
                errors.push(FieldError::invalid(path, seconds, "must be greater than 0 and less than 86400"));
            }
            Some(_) => {}
        },
        "None" if config.is_some() => {
            errors.push(FieldError::forbidden(path, "must not be set when session affinity is None"));
        }
        _ => {}
    }
}

/// Node ports on a type that has none, and the same number twice for one protocol.
fn port_numbers(service: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let ports = get::list(service, "/spec/ports");
    let node_ports = || ports.iter().enumerate().filter(|(_, port)| get::int(port, "/nodePort") != 0);
    if get::text(service, "/spec/type") == "ClusterIP" {
        for (index, _) in node_ports() {
            let path = path.index(index).child("nodePort");
            errors.push(FieldError::forbidden(path, "may not be used when `type` is 'ClusterIP'"));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, port) in node_ports() {
        let number = get::int(port, "/nodePort");
        if !seen.insert((get::text(port, "/protocol"), number)) {
            errors.push(FieldError::duplicate(path.index(index).child("nodePort"), number));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let (protocol, number) = (get::text(port, "/protocol"), get::int(port, "/port"));
        if !seen.insert((protocol, number)) {
            // Upstream shows its internal struct here.
            let text = format!(
                r#"{{"Name":"","Protocol":{protocol:?},"AppProtocol":null,"Port":{number},"TargetPort":0,"NodePort":0}}"#
            );
            errors.push(shown(FieldError::duplicate(path.index(index), Value::Null), text));
        }
    }
}

fn source_ranges(service: &Value, spec: &Path, errors: &mut Vec<FieldError>) {
    let balanced = get::text(service, "/spec/type") == "LoadBalancer";
    let ranges = get::texts(service, "/spec/loadBalancerSourceRanges");
    let annotation = get::map(service, "/metadata/annotations").and_then(|all| all.get(SOURCE_RANGES)?.as_str());
    if !ranges.is_empty() {
        // The capital letter is upstream's.
        let path = spec.child("LoadBalancerSourceRanges");
        if !balanced {
            errors.push(FieldError::forbidden(path.clone(), BALANCER_ONLY));
        }
        for (index, range) in ranges.into_iter().map(str::trim).enumerate() {
            invalid_all(errors, &path.index(index), range, net::cidr(range));
        }
    } else if let Some(annotation) = annotation {
        let path = Path::new("metadata").child("annotations").key(SOURCE_RANGES);
        if !balanced {
            errors.push(FieldError::forbidden(path.clone(), BALANCER_ONLY));
        }
        if !annotation.trim().is_empty() {
            for range in annotation.trim().split(',').map(str::trim) {
                invalid_all(errors, &path, range, net::cidr(range));
            }
        }
    }
}

fn balancer(service: &Value, spec: &Path, errors: &mut Vec<FieldError>) {
    let balanced = get::text(service, "/spec/type") == "LoadBalancer";
    match get::flag_opt(service, "/spec/allocateLoadBalancerNodePorts") {
        Some(_) if !balanced => {
            errors.push(FieldError::forbidden(spec.child("allocateLoadBalancerNodePorts"), BALANCER_ONLY));
        }
        None if balanced => errors.push(FieldError::required(Path::new("allocateLoadBalancerNodePorts"), "")),
        Some(_) | None => {}
    }
    class(service, spec, errors);
}

fn class(service: &Value, spec: &Path, errors: &mut Vec<FieldError>) {
    let Some(class) = get::text_opt(service, "/spec/loadBalancerClass") else { return };
    let path = spec.child("loadBalancerClass");
    if get::text(service, "/spec/type") == "LoadBalancer" {
        invalid_all(errors, &path, class, names::qualified(class));
    } else {
        errors.push(FieldError::forbidden(path, BALANCER_ONLY));
    }
}

fn external_traffic(service: &Value, spec: &Path, errors: &mut Vec<FieldError>) {
    let policy = get::text(service, "/spec/externalTrafficPolicy");
    let path = spec.child("externalTrafficPolicy");
    if externally_accessible(service) {
        one_of(errors, path, policy, &["Cluster", "Local"]);
    } else if !policy.is_empty() {
        errors.push(FieldError::invalid(path, policy, "may only be set for externally-accessible services"));
    }
    let port = get::int(service, "/spec/healthCheckNodePort");
    let path = spec.child("healthCheckNodePort");
    if needs_health_check_port(service) {
        if port == 0 {
            errors.push(FieldError::required(path, ""));
        } else {
            errors.extend(
                names::port_number(port).into_iter().map(|fault| FieldError::invalid(path.clone(), port, fault)),
            );
        }
    } else if port != 0 {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid(path, port, detail));
    }
}

fn internal_traffic(service: &Value, spec: &Path, errors: &mut Vec<FieldError>) {
    let path = spec.child("internalTrafficPolicy");
    match get::text_opt(service, "/spec/internalTrafficPolicy") {
        None if needs_cluster_ip(service) => errors.push(FieldError::required(path, "")),
        None => {}
        Some(policy) if ["Cluster", "Local"].contains(&policy) => {}
        Some(policy) => errors.push(FieldError::not_supported(path, policy, &["Cluster", "Local"])),
    }
    const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameNode", "PreferSameZone"];
    if let Some(wish) = get::text_opt(service, "/spec/trafficDistribution").filter(|wish| !DISTRIBUTIONS.contains(wish))
    {
        errors.push(FieldError::not_supported(spec.child("trafficDistribution"), wish, DISTRIBUTIONS));
    }
}

/// `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` against each other; also judged before addresses are allocated.
pub fn cluster_ips_and_families(service: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if is_external_name(service) {
        return errors;
    }
    let spec = Path::new("spec");
    let path = spec.child("clusterIPs");
    let one = get::text(service, "/spec/clusterIP");
    let all = get::texts(service, "/spec/clusterIPs");
    match all.first() {
        None if !one.is_empty() => errors.push(FieldError::required(path.clone(), "")),
        Some(_) if one.is_empty() => {
            errors.push(FieldError::invalid(
                path.clone(),
                json!(all),
                "must be empty when `clusterIP` is not specified",
            ));
        }
        Some(first) if *first != one => {
            errors.push(FieldError::invalid(path.clone(), json!(all), "first value must match `clusterIP`"));
        }
        Some(_) | None => {}
    }
    families_and_policy(service, &spec, &mut errors);
    let before = errors.len();
    for (index, address) in all.iter().enumerate() {
        if index > 0 || *address != "None" {
            invalid_all(&mut errors, &path.index(index), address, net::ip(address));
        } else if all.len() > 1 {
            errors.push(FieldError::invalid(path.clone(), json!(all), "'None' must be the first and only value"));
        }
    }
    let any_invalid = errors.len() > before;
    if all.len() > 2 {
        errors.push(FieldError::invalid(path.clone(), json!(all), "may only hold up to 2 values"));
    }
    if any_invalid {
        return errors;
    }
    if all.len() > 1 && !(all.iter().any(|ip| net::is_ipv6(ip)) && all.iter().any(|ip| net::is_ipv4(ip))) {
        errors.push(FieldError::invalid(
            path.clone(),
            json!(all),
            "may specify no more than one IP for each IP family",
        ));
    }
    if !is_headless(service) {
        for (index, (address, family)) in all.iter().zip(get::texts(service, "/spec/ipFamilies")).enumerate() {
            let actual = if net::is_ipv6(address) { "IPv6" } else { "IPv4" };
            if ["IPv4", "IPv6"].contains(&family) && family != actual {
                let detail = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
                errors.push(FieldError::invalid(path.index(index), *address, detail));
            }
        }
    }
    errors
}

fn families_and_policy(service: &Value, spec: &Path, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, family) in get::texts(service, "/spec/ipFamilies").into_iter().enumerate() {
        let path = spec.child("ipFamilies").index(index);
        if !["IPv4", "IPv6"].contains(&family) {
            errors.push(FieldError::not_supported(path.clone(), family, &["IPv4", "IPv6"]));
        }
        if !seen.insert(family) {
            errors.push(FieldError::duplicate(path, family));
        }
    }
    const POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
    if let Some(policy) = get::text_opt(service, "/spec/ipFamilyPolicy").filter(|policy| !POLICIES.contains(policy)) {
        errors.push(FieldError::not_supported(spec.child("ipFamilyPolicy"), policy, POLICIES));
    }
}

/// The first address stays for life; a second may come, and go if `ipFamilyPolicy` says so.
fn changed_addresses(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if is_headless(new) && is_headless(old) {
        return;
    }
    let (after, before) = (get::texts(new, "/spec/clusterIPs"), get::texts(old, "/spec/clusterIPs"));
    let path = Path::new("spec").child("clusterIPs");
    let fault = |index: usize, detail: &str| FieldError::invalid(path.index(index), json!(after), detail);
    let compared = if after.len() == before.len() { before.len() } else { before.len().min(after.len()).min(1) };
    if after.is_empty() && !before.is_empty() {
        errors.push(fault(0, "primary clusterIP can not be unset"));
    }
    for index in (0..compared).filter(|index| after[*index] != before[*index]) {
        errors.push(fault(index, "may not change once set"));
    }
    if before.len() > after.len() && after.len() == 1 && get::text(new, "/spec/ipFamilyPolicy") != "SingleStack" {
        errors.push(released(new, "clusterIP"));
    }
}

fn changed_families(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if is_headless(new) || is_headless(old) {
        return;
    }
    let (after, before) = (get::texts(new, "/spec/ipFamilies"), get::texts(old, "/spec/ipFamilies"));
    let path = Path::new("spec").child("ipFamilies").index(0);
    let changed = |errors: &mut Vec<FieldError>, shown: &[&str]| {
        errors.push(FieldError::invalid(path.clone(), json!(shown), "may not change once set"));
    };
    if after.len() == before.len() {
        for _ in before.iter().zip(&after).filter(|(before, after)| before != after) {
            changed(errors, &after);
        }
        return;
    }
    let addresses = get::texts(new, "/spec/clusterIPs");
    if before.len() > after.len() && addresses.is_empty() {
        errors.push(FieldError::invalid(path.clone(), json!(after), "primary ipFamily can not be unset"));
    }
    if after.first().zip(before.first()).is_some_and(|(after, before)| after != before) {
        changed(errors, &addresses);
    }
    if before.len() > after.len() && after.len() == 1 && get::text(new, "/spec/ipFamilyPolicy") != "SingleStack" {
        errors.push(released(new, "ipFamily"));
    }
}

fn released(service: &Value, what: &str) -> FieldError {
    let policy = service.pointer("/spec/ipFamilyPolicy").cloned().unwrap_or(Value::Null);
    let detail = format!("must be set to 'SingleStack' when releasing the secondary {what}");
    FieldError::invalid(Path::new("spec").child("ipFamilyPolicy"), policy, detail)
}

/// Required, and one of these.
fn one_of(errors: &mut Vec<FieldError>, path: Path, value: &str, supported: &[&str]) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !supported.contains(&value) {
        errors.push(FieldError::not_supported(path, value, supported));
    }
}
