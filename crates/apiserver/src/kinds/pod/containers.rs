//! A pod's containers: regular, init and ephemeral ones.

use std::collections::BTreeSet;

use api::field::{FieldError, Path};
use serde_json::Value;

use super::env::{env, env_from};
use super::spec::word;
use super::volumes::{Volumes, mounts};
use super::{probes, security};
use crate::kinds::common::errors::invalid_all;
use crate::kinds::common::{get, names, resources};

const NOT_SIDECAR: &str = "may not be set for init containers without restartPolicy=Always";
const NOT_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";
const RESTARTS: &[&str] = &["Always", "OnFailure", "Never"];

/// All of them, against each other and against the pod's volumes.
pub fn validate(spec: &Value, path: &Path, volumes: &Volumes<'_>, errors: &mut Vec<FieldError>) {
    let pod = Pod {
        volumes,
        claims: get::list(spec, "/resourceClaims").iter().map(|claim| get::text(claim, "/name")).collect(),
        grace: get::int_opt(spec, "/terminationGracePeriodSeconds"),
        restart: get::text(spec, "/restartPolicy"),
        host_users: get::flag_opt(spec, "/hostUsers").unwrap_or(true),
    };
    regular(spec, &path.child("containers"), &pod, errors);
    init(spec, &path.child("initContainers"), &pod, errors);
    ephemeral(spec, &path.child("ephemeralContainers"), &pod, errors);
}

/// What containers need to know of their pod.
struct Pod<'a> {
    volumes: &'a Volumes<'a>,
    claims: Vec<&'a str>,
    grace: Option<i64>,
    restart: &'a str,
    host_users: bool,
}

fn regular(spec: &Value, path: &Path, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    let containers = get::list(spec, "/containers");
    if containers.is_empty() {
        errors.push(FieldError::required(path.clone(), ""));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        let path = path.index(index);
        common(container, &path, pod, errors);
        let name = get::text(container, "/name");
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(path.child("name"), name));
        }
        probes::of_container(container, &path, pod.grace, errors);
        restart_policy(container, &path, errors);
    }
    host_ports(containers.iter().enumerate(), path, errors);
}

fn init(spec: &Value, path: &Path, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    let mut seen: BTreeSet<&str> = get::list(spec, "/containers").iter().map(|one| get::text(one, "/name")).collect();
    for (index, container) in get::list(spec, "/initContainers").iter().enumerate() {
        let at = path.index(index);
        common(container, &at, pod, errors);
        restart_policy(container, &at, errors);
        let name = get::text(container, "/name");
        if seen.contains(name) {
            errors.push(FieldError::duplicate(at.child("name"), name));
        } else if !name.is_empty() {
            seen.insert(name);
        }
        // They run one by one, so each may use a node's port.
        host_ports(std::iter::once((0, container)), path, errors);
        if get::text(container, "/restartPolicy") == "Always" {
            probes::of_container(container, &at, pod.grace, errors);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if get::has(container, &format!("/{field}")) {
                    errors.push(FieldError::forbidden(at.child(field), NOT_SIDECAR));
                }
            }
        }
    }
}

fn restart_policy(container: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(policy) = get::text_opt(container, "/restartPolicy") {
        word(errors, path.child("restartPolicy"), policy, RESTARTS);
    }
}

fn ephemeral(spec: &Value, path: &Path, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    let lasting: BTreeSet<&str> = ["/containers", "/initContainers"]
        .into_iter()
        .flat_map(|list| get::list(spec, list))
        .map(|one| get::text(one, "/name"))
        .collect();
    let mut seen = lasting.clone();
    for (index, container) in get::list(spec, "/ephemeralContainers").iter().enumerate() {
        let path = path.index(index);
        common(container, &path, pod, errors);
        image_space(container, &path, errors);
        let name = get::text(container, "/name");
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(path.child("name"), name));
        }
        let target = get::text(container, "/targetContainerName");
        if !target.is_empty() && !lasting.contains(target) {
            errors.push(FieldError::not_found(path.child("targetContainerName"), target));
        }
        const REFUSED: &[&str] =
            &["ports", "resources", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy"];
        for field in REFUSED {
            let set = container.get(*field).is_some_and(|value| match value {
                Value::Object(fields) => !fields.is_empty(),
                Value::Array(items) => !items.is_empty(),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
            });
            if set {
                errors.push(FieldError::forbidden(path.child(field), NOT_EPHEMERAL));
            }
        }
        for (index, mount) in get::list(container, "/volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !get::text(mount, &format!("/{field}")).is_empty() {
                    let path = path.child("volumeMounts").index(index).child(field);
                    errors.push(FieldError::forbidden(path, NOT_EPHEMERAL));
                }
            }
        }
    }
}

/// What holds for every container.
fn common(container: &Value, path: &Path, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    let name = get::text(container, "/name");
    if name.is_empty() {
        errors.push(FieldError::required(path.child("name"), ""));
    } else {
        invalid_all(errors, &path.child("name"), name, names::dns_label(name));
    }
    if get::text(container, "/image").is_empty() {
        errors.push(FieldError::required(path.child("image"), ""));
    }
    let policy = get::text(container, "/terminationMessagePolicy");
    word(errors, path.child("terminationMessagePolicy"), policy, &["File", "FallbackToLogsOnError"]);
    ports(container, &path.child("ports"), errors);
    env(container, &path.child("env"), errors);
    env_from(container, &path.child("envFrom"), errors);
    mounts(container, path, pod.volumes, errors);
    let pull = get::text(container, "/imagePullPolicy");
    word(errors, path.child("imagePullPolicy"), pull, &["Always", "IfNotPresent", "Never"]);
    let resources = container.get("resources").unwrap_or(&Value::Null);
    errors.extend(resources::requirements(resources, &pod.claims, &path.child("resources")));
    resize_policy(container, &path.child("resizePolicy"), pod, errors);
    security::of_container(container, &path.child("securityContext"), pod.host_users, errors);
}

fn ports(container: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, port) in get::list(container, "/ports").iter().enumerate() {
        let path = path.index(index);
        let name = get::text(port, "/name");
        if !name.is_empty() {
            let faults = names::port_name(name);
            if faults.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(path.child("name"), name));
            }
            invalid_all(errors, &path.child("name"), name, faults);
        }
        let (inside, host) = (get::int(port, "/containerPort"), get::int(port, "/hostPort"));
        if inside == 0 {
            errors.push(FieldError::required(path.child("containerPort"), ""));
        }
        for (field, number) in
            [("containerPort", inside), ("hostPort", host)].into_iter().filter(|(_, number)| *number != 0)
        {
            let faults = names::port_number(number).into_iter();
            errors.extend(faults.map(|fault| FieldError::invalid(path.child(field), number, fault)));
        }
        word(errors, path.child("protocol"), get::text(port, "/protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

/// Two containers may not take the same port of the node.
fn host_ports<'a>(containers: impl Iterator<Item = (usize, &'a Value)>, path: &Path, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, container) in containers {
        for (port_index, port) in get::list(container, "/ports").iter().enumerate() {
            let number = get::int(port, "/hostPort");
            let taken = format!("{}/{}/{number}", get::text(port, "/protocol"), get::text(port, "/hostIP"));
            if number != 0 && !seen.insert(taken.clone()) {
                let path = path.index(index).child("ports").index(port_index).child("hostPort");
                errors.push(FieldError::duplicate(path, taken));
            }
        }
    }
}

fn resize_policy(container: &Value, path: &Path, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, policy) in get::list(container, "/resizePolicy").iter().enumerate() {
        let (resource, restart) = (get::text(policy, "/resourceName"), get::text(policy, "/restartPolicy"));
        if !seen.insert(resource) {
            errors.push(FieldError::duplicate(path.index(index), resource));
        }
        word(errors, path.clone(), resource, &["cpu", "memory"]);
        word(errors, path.clone(), restart, &["NotRequired", "RestartContainer"]);
        if pod.restart == "Never" && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(path.clone(), restart, detail));
        }
    }
}

/// An actual pod's image has no spaces around it; templates may, for old times' sake.
pub fn image_space(container: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let image = get::text(container, "/image");
    if image.trim() != image {
        errors.push(FieldError::invalid(path.child("image"), image, "must not have leading or trailing whitespace"));
    }
}
