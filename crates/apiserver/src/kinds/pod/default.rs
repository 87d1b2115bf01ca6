//! What a pod, and the template of one, has when its writer did not say.

use serde_json::{Value, json};

use crate::kinds::common::get;

const FILE_MODE: i64 = 0o644;
const TOKEN_SECONDS: i64 = 3600;

/// A Pod: what a template has, and what only an actual pod gets.
pub fn default(pod: &mut Value) {
    if !get::has(pod, "/spec") {
        get::set(pod, "/spec", json!({}));
    }
    if let Some(spec) = pod.pointer_mut("/spec") {
        requests_from_limits(spec);
        get::set_default(spec, "/enableServiceLinks", true);
        host_ports(spec);
        self::spec(spec);
    }
    get::object_at(pod, "/status");
}

/// The template at `pointer`: its metadata is always written, its spec is defaulted.
pub fn template(object: &mut Value, pointer: &str) {
    get::object_at(object, &format!("{pointer}/metadata"));
    get::object_at(object, &format!("{pointer}/spec"));
    if let Some(spec) = object.pointer_mut(&format!("{pointer}/spec")) {
        self::spec(spec);
    }
}

/// `spec` of a pod or template.
fn spec(spec: &mut Value) {
    for volume in get::list_mut(spec, "/volumes").into_iter().flatten() {
        self::volume(volume);
    }
    for containers in ["/initContainers", "/containers", "/ephemeralContainers"] {
        for container in get::list_mut(spec, containers).into_iter().flatten() {
            self::container(container);
        }
    }
    get::set_default_text(spec, "/dnsPolicy", "ClusterFirst");
    get::set_default_text(spec, "/restartPolicy", "Always");
    get::set_default(spec, "/securityContext", json!({}));
    get::set_default(spec, "/terminationGracePeriodSeconds", 30);
    get::set_default_text(spec, "/schedulerName", "default-scheduler");
    service_account(spec);
}

/// The old name of the field, always the same as the new one.
fn service_account(spec: &mut Value) {
    let old_name = get::text(spec, "/serviceAccount").to_owned();
    get::set_default_text(spec, "/serviceAccountName", &old_name);
    get::copy_within(spec, "/serviceAccountName", "/serviceAccount");
    for field in ["/serviceAccountName", "/serviceAccount"] {
        if get::text(spec, field).is_empty() {
            get::remove(spec, field);
        }
    }
}

fn container(container: &mut Value) {
    let policy = if is_latest(get::text(container, "/image")) { "Always" } else { "IfNotPresent" };
    get::set_default_text(container, "/imagePullPolicy", policy);
    get::set_default(container, "/resources", json!({}));
    get::set_default_text(container, "/terminationMessagePath", "/dev/termination-log");
    get::set_default_text(container, "/terminationMessagePolicy", "File");
    for port in get::list_mut(container, "/ports").into_iter().flatten() {
        get::set_default_text(port, "/protocol", "TCP");
    }
    for variable in get::list_mut(container, "/env").into_iter().flatten() {
        get::set_default_text(variable, "/valueFrom/fieldRef/apiVersion", "v1");
        get::set_default(variable, "/valueFrom/resourceFieldRef/divisor", "0");
    }
    for probe in ["/livenessProbe", "/readinessProbe", "/startupProbe"] {
        if let Some(probe) = container.pointer_mut(probe).filter(|probe| probe.is_object()) {
            self::probe(probe);
        }
    }
    for hook in ["/lifecycle/postStart/httpGet", "/lifecycle/preStop/httpGet"] {
        if let Some(request) = container.pointer_mut(hook).filter(|request| request.is_object()) {
            http_get(request);
        }
    }
}

fn probe(probe: &mut Value) {
    for (field, number) in
        [("/timeoutSeconds", 1), ("/periodSeconds", 10), ("/successThreshold", 1), ("/failureThreshold", 3)]
    {
        if get::int(probe, field) == 0 {
            get::set(probe, field, number);
        }
    }
    if let Some(request) = probe.pointer_mut("/httpGet").filter(|request| request.is_object()) {
        http_get(request);
    }
    get::set_default(probe, "/grpc/service", "");
}

fn http_get(request: &mut Value) {
    get::set_default_text(request, "/path", "/");
    get::set_default_text(request, "/scheme", "HTTP");
}

fn volume(volume: &mut Value) {
    let sourceless =
        volume.as_object().is_some_and(|fields| fields.iter().all(|(name, value)| name == "name" || value.is_null()));
    if sourceless {
        get::set(volume, "/emptyDir", json!({}));
    }
    get::set_default(volume, "/hostPath/type", "");
    for source in ["/secret", "/configMap", "/downwardAPI", "/projected"] {
        get::set_default(volume, &format!("{source}/defaultMode"), FILE_MODE);
    }
    for item in get::list_mut(volume, "/downwardAPI/items").into_iter().flatten() {
        downward_item(item);
    }
    for source in get::list_mut(volume, "/projected/sources").into_iter().flatten() {
        get::set_default(source, "/serviceAccountToken/expirationSeconds", TOKEN_SECONDS);
        for item in get::list_mut(source, "/downwardAPI/items").into_iter().flatten() {
            downward_item(item);
        }
    }
    get::set_default(volume, "/ephemeral/volumeClaimTemplate/spec/volumeMode", "Filesystem");
    get::set_default_text(volume, "/iscsi/iscsiInterface", "default");
    if volume.get("image").is_some_and(Value::is_object) {
        let policy = if is_latest(get::text(volume, "/image/reference")) { "Always" } else { "IfNotPresent" };
        get::set_default_text(volume, "/image/pullPolicy", policy);
    }
}

fn downward_item(item: &mut Value) {
    get::set_default_text(item, "/fieldRef/apiVersion", "v1");
    get::set_default(item, "/resourceFieldRef/divisor", "0");
}

/// A container that limits a resource and asks for none asks for its limit.
fn requests_from_limits(spec: &mut Value) {
    for containers in ["/containers", "/initContainers"] {
        for container in get::list_mut(spec, containers).into_iter().flatten() {
            let limits = get::map(container, "/resources/limits").cloned().unwrap_or_default();
            if limits.is_empty() {
                continue;
            }
            if let Some(requests) = get::object_at(container, "/resources/requests") {
                for (name, limit) in limits {
                    requests.entry(name).or_insert(limit);
                }
            }
        }
    }
}

/// In the node's network a container's port is the node's.
fn host_ports(spec: &mut Value) {
    if !get::flag(spec, "/hostNetwork") {
        return;
    }
    for containers in ["/containers", "/initContainers"] {
        for container in get::list_mut(spec, containers).into_iter().flatten() {
            for port in get::list_mut(container, "/ports").into_iter().flatten() {
                if get::int(port, "/hostPort") == 0 {
                    let number = get::int(port, "/containerPort");
                    get::set(port, "/hostPort", number);
                }
            }
        }
    }
}

/// Whether an image's reference means the tag `latest`: it says so, or names neither a tag nor a digest. What is no reference does not.
fn is_latest(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or(name);
    let (repository, tag) = match last.split_once(':') {
        Some((before, tag)) => (&name[..name.len() - last.len() + before.len()], Some(tag)),
        None => (name, None),
    };
    let path = match repository.split_once('/') {
        // A registry may be in capitals.
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => path,
        _ => repository,
    };
    let good = !path.is_empty()
        && path.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'/'));
    good && (tag == Some("latest") || (tag.is_none() && !digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_latest_is_always_pulled() {
        for image in ["busybox", "busybox:latest", "registry:5000/a/b", "ghcr.io/a/b:latest"] {
            assert!(is_latest(image), "{image}");
        }
        for image in ["busybox:1.36", "registry:5000/a/b:1", "busybox@sha256:00", "", "Not an image", "localhost/a:v1"]
        {
            assert!(!is_latest(image), "{image}");
        }
    }
}
