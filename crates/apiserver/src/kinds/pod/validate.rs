//! A Pod on its own: on create, and its status.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::containers::image_space;
use super::spec::{self, Options};
use crate::kinds::common::errors::invalid_all;
use crate::kinds::common::internal::{ADDRESS, as_struct};
use crate::kinds::common::{get, meta, names, net};
use crate::kinds::{NameRule, Scope};

pub fn create(pod: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = metadata_and_spec(pod);
    if !get::list(pod, "/spec/ephemeralContainers").is_empty() {
        errors.push(FieldError::forbidden(path.child("ephemeralContainers"), "cannot be set on create"));
    }
    if !get::text(pod, "/spec/nodeName").is_empty() && !get::list(pod, "/spec/schedulingGates").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden(path.child("nodeName"), detail));
    }
    errors
}

/// What holds for a pod at any time.
pub fn metadata_and_spec(pod: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = meta::check(pod, NameRule::DnsSubdomain, Scope::Namespaced);
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let options = Options { pod_name: Some(get::text(pod, "/metadata/name")) };
    errors.extend(spec::validate(spec, &path, options));
    if get::text(spec, "/serviceAccountName").is_empty() {
        tokens_without_account(spec, &path, &mut errors);
    }
    for list in ["containers", "initContainers"] {
        for (index, container) in get::list(spec, &format!("/{list}")).iter().enumerate() {
            image_space(container, &path.child(list).index(index), &mut errors);
        }
    }
    errors
}

fn tokens_without_account(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for (index, volume) in get::list(spec, "/volumes").iter().enumerate() {
        for (source_index, source) in get::list(volume, "/projected/sources").iter().enumerate() {
            if get::has(source, "/serviceAccountToken") {
                let path = path.child("volumes").index(index).child("projected");
                let path = path.child("sources").index(source_index).child("serviceAccountToken");
                let detail = "must not be specified when serviceAccountName is not set";
                errors.push(FieldError::forbidden(path, detail));
            }
        }
    }
}

pub fn status(new: &Value, old: &Value) -> Vec<FieldError> {
    let path = Path::new("status");
    let mut errors = meta::validate_update(new, old);
    for (index, condition) in get::list(new, "/status/conditions").iter().enumerate() {
        let kind = get::text(condition, "/type");
        if !["PodScheduled", "Ready", "Initialized"].contains(&kind) {
            // The path is upstream's.
            let path = Path::new("metadata").child("conditions").index(index).child("Type");
            invalid_all(&mut errors, &path, kind, names::qualified(kind));
        }
    }
    if !get::same(new, old, "/spec/nodeName") {
        errors.push(FieldError::forbidden(path.child("nodeName"), "may not be changed directly"));
    }
    let nominated = get::text(new, "/status/nominatedNodeName");
    if !nominated.is_empty() && !get::same(new, old, "/status/nominatedNodeName") {
        invalid_all(&mut errors, &path.child("nominatedNodeName"), nominated, names::dns_subdomain(nominated));
    }
    let restart = get::text(old, "/spec/restartPolicy");
    transitions(new, old, "containerStatuses", restart, &mut errors);
    transitions(new, old, "initContainerStatuses", restart, &mut errors);
    transitions(new, old, "ephemeralContainerStatuses", "Never", &mut errors);
    addresses(new, "podIPs", &mut errors);
    addresses(new, "hostIPs", &mut errors);
    errors
}

/// A container that ended for good does not run again.
fn transitions(new: &Value, old: &Value, list: &str, restart: &str, errors: &mut Vec<FieldError>) {
    if restart == "Always" {
        return;
    }
    let pointer = format!("/status/{list}");
    let sidecar = |name: &str| {
        let mut specs = get::list(old, "/spec/initContainers").iter();
        specs.any(|spec| get::text(spec, "/name") == name && get::text(spec, "/restartPolicy") == "Always")
    };
    for (index, before) in get::list(old, &pointer).iter().enumerate() {
        let name = get::text(before, "/name");
        let failed = get::int(before, "/state/terminated/exitCode") != 0;
        if !get::has(before, "/state/terminated") || (failed && restart == "OnFailure") || sidecar(name) {
            continue;
        }
        let after = get::list(new, &pointer).iter().find(|status| get::text(status, "/name") == name);
        if after.is_some_and(|status| !get::has(status, "/state/terminated")) {
            let path = Path::new("status").child(list).index(index).child("state");
            errors.push(FieldError::forbidden(path, "may not be transitioned to non-terminated state"));
        }
    }
}

fn addresses(pod: &Value, list: &str, errors: &mut Vec<FieldError>) {
    let path = Path::new("status").child(list);
    let all: Vec<&str> = get::list(pod, &format!("/status/{list}")).iter().map(|one| get::text(one, "/ip")).collect();
    for (index, ip) in all.iter().enumerate() {
        invalid_all(errors, &path.index(index), ip, net::ip(ip));
    }
    let families =
        usize::from(all.iter().any(|ip| net::is_ipv4(ip))) + usize::from(all.iter().any(|ip| net::is_ipv6(ip)));
    if all.len() > 1 && all.len() != families {
        let value = pod.pointer(&format!("/status/{list}")).cloned().unwrap_or(Value::Null);
        let fault = FieldError::invalid(path, value, "may specify no more than one IP for each IP family");
        errors.push(as_struct(fault, ADDRESS));
    }
}
