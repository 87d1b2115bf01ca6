//! `spec` of a pod or of a template, in upstream's order (`ValidatePodSpec`).

use api::field::{FieldError, Path};
use serde_json::Value;

use super::{affinity, containers, security, volumes};
use crate::kinds::common::errors::{invalid_all, unsupported};
use crate::kinds::common::internal::{POD_CLAIM, as_struct};
use crate::kinds::common::{get, meta, names, net, resources};

const MAX_I32: i64 = i32::MAX as i64;

/// What differs between a pod and a template of one.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// The pod's name; templates have none.
    pub pod_name: Option<&'a str>,
}

pub fn validate(spec: &Value, path: &Path, options: Options<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !get::has(spec, "/terminationGracePeriodSeconds") {
        errors.push(FieldError::required(path.child("terminationGracePeriodSeconds"), ""));
    }
    let volumes = volumes::validate(spec, &path.child("volumes"), options.pod_name, &mut errors);
    claims(spec, &path.child("resourceClaims"), &mut errors);
    containers::validate(spec, path, &volumes, &mut errors);
    host_network(spec, &path.child("containers"), options, &mut errors);
    word(
        &mut errors,
        path.child("restartPolicy"),
        get::text(spec, "/restartPolicy"),
        &["Always", "OnFailure", "Never"],
    );
    const DNS: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    word(&mut errors, path.child("dnsPolicy"), get::text(spec, "/dnsPolicy"), DNS);
    errors.extend(meta::labels(spec.get("nodeSelector"), &path.child("nodeSelector")));
    security::of_pod(spec, path, &mut errors);
    affinity::validate(spec, path, &mut errors);
    dns_config(spec, &path.child("dnsConfig"), &mut errors);
    gates(spec, path, &mut errors);
    affinity::spread(spec, &path.child("topologySpreadConstraints"), &mut errors);
    host_users(spec, path, &mut errors);
    names_of(spec, path, &mut errors);
    rest(spec, path, &mut errors);
    errors
}

/// Required, and one of these, which are listed as upstream lists them.
pub fn word(errors: &mut Vec<FieldError>, path: Path, value: &str, supported: &[&str]) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !supported.contains(&value) {
        errors.push(unsupported(path, value, supported));
    }
}

fn claims(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let mut seen = Vec::new();
    for (index, claim) in get::list(spec, "/resourceClaims").iter().enumerate() {
        let path = path.index(index);
        let name = get::text(claim, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(path.child("name"), ""));
        } else if seen.contains(&name) {
            errors.push(FieldError::duplicate(path.child("name"), name));
        } else {
            invalid_all(errors, &path.child("name"), name, names::dns_label(name));
            seen.push(name);
        }
        match (get::has(claim, "/resourceClaimName"), get::has(claim, "/resourceClaimTemplateName")) {
            (true, true) => {
                let detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.push(as_struct(FieldError::invalid(path, claim.clone(), detail), POD_CLAIM));
            }
            (false, false) => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.push(as_struct(FieldError::invalid(path, claim.clone(), detail), POD_CLAIM));
            }
            _ => {}
        }
    }
}

/// In the node's network a port's number is the node's; a template may leave it to the pod's defaults.
fn host_network(spec: &Value, path: &Path, options: Options<'_>, errors: &mut Vec<FieldError>) {
    if !get::flag(spec, "/hostNetwork") {
        return;
    }
    for (index, container) in get::list(spec, "/containers").iter().enumerate() {
        for (port_index, port) in get::list(container, "/ports").iter().enumerate() {
            let (host, inside) = (get::int(port, "/hostPort"), get::int(port, "/containerPort"));
            if (options.pod_name.is_some() || host != 0) && host != inside {
                let path = path.index(index).child("ports").index(port_index).child("hostPort");
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(path, host, detail));
            }
        }
    }
}

fn dns_config(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let servers = get::texts(spec, "/dnsConfig/nameservers");
    if get::text(spec, "/dnsPolicy") == "None" {
        if !get::has(spec, "/dnsConfig") {
            errors.push(FieldError::required(path.clone(), "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(FieldError::required(path.child("nameservers"), detail));
            return;
        }
    }
    if servers.len() > 3 {
        let detail = "must not have more than 3 nameservers";
        errors.push(FieldError::invalid(path.child("nameservers"), servers.clone(), detail));
    }
    for (index, server) in servers.iter().enumerate() {
        invalid_all(errors, &path.child("nameservers").index(index), server, net::ip(server));
    }
    let searches = get::texts(spec, "/dnsConfig/searches");
    if searches.len() > 32 {
        let detail = "must not have more than 32 search paths";
        errors.push(FieldError::invalid(path.child("searches"), searches.clone(), detail));
    }
    if searches.join(" ").len() > 2048 {
        let detail = "must not have more than 2048 characters (including spaces) in the search list";
        errors.push(FieldError::invalid(path.child("searches"), searches.clone(), detail));
    }
    for (index, search) in searches.iter().enumerate() {
        let search = search.strip_suffix('.').unwrap_or(search);
        invalid_all(errors, &path.child("searches").index(index), search, names::dns_subdomain(search));
    }
    for (index, option) in get::list(spec, "/dnsConfig/options").iter().enumerate() {
        if get::text(option, "/name").is_empty() {
            errors.push(FieldError::required(path.child("options").index(index), "must not be empty"));
        }
    }
}

fn gates(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for (index, gate) in get::list(spec, "/readinessGates").iter().enumerate() {
        let kind = get::text(gate, "/conditionType");
        let path = path.child("readinessGates").index(index).child("conditionType");
        invalid_all(errors, &path, kind, names::qualified(kind));
    }
    let mut seen = Vec::new();
    for (index, gate) in get::list(spec, "/schedulingGates").iter().enumerate() {
        let name = get::text(gate, "/name");
        let path = path.child("schedulingGates").index(index);
        invalid_all(errors, &path, name, names::qualified(name));
        if seen.contains(&name) {
            errors.push(FieldError::duplicate(path, name));
        }
        seen.push(name);
    }
}

fn host_users(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if get::flag_opt(spec, "/hostUsers") != Some(false) {
        return;
    }
    // The capitals are upstream's.
    for (field, shown) in [("/hostNetwork", "hostNetwork"), ("/hostPID", "HostPID"), ("/hostIPC", "HostIPC")] {
        if get::flag(spec, field) {
            errors.push(FieldError::forbidden(path.child(shown), "when `pod.Spec.HostUsers` is false"));
        }
    }
}

fn names_of(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let mut named = |field: &str, faults: fn(&str) -> Vec<String>| {
        let value = get::text(spec, &format!("/{field}"));
        if !value.is_empty() {
            invalid_all(errors, &path.child(field), value, faults(value));
        }
    };
    named("serviceAccountName", names::dns_subdomain);
    named("nodeName", names::dns_subdomain);
    if let Some(seconds) = get::int_opt(spec, "/activeDeadlineSeconds").filter(|value| !(1..=MAX_I32).contains(value)) {
        let detail = format!("must be between 1 and {MAX_I32}, inclusive");
        errors.push(FieldError::invalid(path.child("activeDeadlineSeconds"), seconds, detail));
    }
    let mut named = |field: &str, faults: fn(&str) -> Vec<String>| {
        let value = get::text(spec, &format!("/{field}"));
        if !value.is_empty() {
            invalid_all(errors, &path.child(field), value, faults(value));
        }
    };
    named("hostname", names::dns_label);
    named("subdomain", names::dns_label);
}

fn rest(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    errors.extend(affinity::tolerations(get::list(spec, "/tolerations"), &path.child("tolerations")));
    for (index, alias) in get::list(spec, "/hostAliases").iter().enumerate() {
        let path = path.child("hostAliases").index(index);
        let ip = get::text(alias, "/ip");
        invalid_all(errors, &path.child("ip"), ip, net::ip(ip));
        for (index, host) in get::texts(alias, "/hostnames").into_iter().enumerate() {
            invalid_all(errors, &path.child("hostnames").index(index), host, names::dns_subdomain(host));
        }
    }
    for field in ["priorityClassName", "runtimeClassName"] {
        let name = get::text(spec, &format!("/{field}"));
        if !name.is_empty() {
            invalid_all(errors, &path.child(field), name, names::dns_subdomain(name));
        }
    }
    if let Some(policy) = get::text_opt(spec, "/preemptionPolicy") {
        word(errors, path.child("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    }
    for (name, amount) in get::entries(spec, "/overhead") {
        errors.extend(resources::amount_of(name, resources::quantity(amount), &path.child("overhead").key(name)));
    }
    if get::has(spec, "/os") {
        let os = path.child("os");
        match get::text(spec, "/os/name") {
            "" => errors.push(FieldError::required(os.child("name"), "cannot be empty")),
            "linux" | "windows" => {}
            other => errors.push(unsupported(os, other, &["linux", "windows"])),
        }
    }
}
