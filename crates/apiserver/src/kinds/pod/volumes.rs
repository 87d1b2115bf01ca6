//! A pod's volumes, and where its containers mount them.

use std::collections::{BTreeMap, BTreeSet};

use api::field::{FieldError, Path};
use serde_json::Value;

use super::env::{field_reference, resource_reference};
use crate::kinds::common::errors::invalid_all;
use crate::kinds::common::{get, names, paths, resources};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const DOWNWARD_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// In the order in which upstream looks at them, with the texts that each must have.
const SOURCES: &[(&str, &[&str])] = &[
    ("emptyDir", &[]),
    ("hostPath", &["path"]),
    ("gitRepo", &["repository"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("secret", &["secretName"]),
    ("nfs", &["server", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("glusterfs", &["endpoints", "path"]),
    ("flocker", &[]),
    ("persistentVolumeClaim", &["claimName"]),
    ("rbd", &["image"]),
    ("cinder", &["volumeID"]),
    ("cephfs", &[]),
    ("quobyte", &["registry", "volume"]),
    ("downwardAPI", &[]),
    ("fc", &[]),
    ("flexVolume", &["driver"]),
    ("configMap", &["name"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("storageos", &[]),
    ("projected", &[]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("csi", &["driver"]),
    ("ephemeral", &[]),
    ("image", &["reference"]),
];

/// The well-formed volumes by name.
pub type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

pub fn validate<'a>(spec: &'a Value, path: &Path, pod: Option<&str>, errors: &mut Vec<FieldError>) -> Volumes<'a> {
    let mut good = Volumes::new();
    for (index, volume) in get::list(spec, "/volumes").iter().enumerate() {
        let path = path.index(index);
        let name = get::text(volume, "/name");
        let mut faults = Vec::new();
        source(volume, name, &path, pod, &mut faults);
        if name.is_empty() {
            faults.push(FieldError::required(path.child("name"), ""));
        } else {
            invalid_all(&mut faults, &path.child("name"), name, names::dns_label(name));
        }
        if good.contains_key(name) {
            faults.push(FieldError::duplicate(path.child("name"), name));
        }
        if faults.is_empty() {
            good.insert(name, volume);
        }
        errors.append(&mut faults);
    }
    good
}

/// Exactly one source, well-formed.
fn source(volume: &Value, name: &str, path: &Path, pod: Option<&str>, errors: &mut Vec<FieldError>) {
    let mut found = 0;
    for (kind, required) in SOURCES {
        let Some(source) = volume.get(*kind).filter(|source| source.is_object()) else { continue };
        let path = path.child(kind);
        found += 1;
        if found > 1 {
            errors.push(FieldError::forbidden(path, "may not specify more than 1 volume type"));
            continue;
        }
        let missing = required.iter().filter(|field| get::text(source, &format!("/{field}")).is_empty());
        errors.extend(missing.map(|field| FieldError::required(path.child(field), "")));
        match *kind {
            "emptyDir" => empty_dir(source, &path, errors),
            "hostPath" => host_path(source, &path, errors),
            "nfs" if !get::text(source, "/path").starts_with('/') => {
                let detail = "must be an absolute path";
                errors.push(FieldError::invalid(path.child("path"), get::text(source, "/path"), detail));
            }
            "secret" | "configMap" => keys(source, &path, errors),
            "downwardAPI" => {
                mode(source, "defaultMode", &path, errors);
                for item in get::list(source, "/items") {
                    downward_file(item, &path, errors);
                }
            }
            "projected" => projected(source, &path, errors),
            "ephemeral" => ephemeral(source, name, &path, pod, errors),
            _ => {}
        }
    }
    if found == 0 {
        errors.push(FieldError::required(path.clone(), "must specify a volume type"));
    }
}

fn empty_dir(source: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if source.get("sizeLimit").is_some_and(|limit| resources::quantity(limit).is_negative()) {
        let detail = "SizeLimit field must be a valid resource quantity";
        errors.push(FieldError::forbidden(path.child("sizeLimit"), detail));
    }
}

fn host_path(source: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let (host, kind) = (get::text(source, "/path"), get::text(source, "/type"));
    if host.is_empty() {
        return;
    }
    invalid_all(errors, &path.child("path"), host, paths::no_backsteps(host));
    if !HOST_PATH_TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(path.child("type"), kind, HOST_PATH_TYPES));
    }
}

fn mode(object: &Value, field: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(mode) = get::int_opt(object, &format!("/{field}")).filter(|mode| !(0..=0o777).contains(mode)) {
        errors.push(FieldError::invalid(path.child(field), mode, MODE));
    }
}

fn keys(source: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    mode(source, "defaultMode", path, errors);
    for (index, item) in get::list(source, "/items").iter().enumerate() {
        key_to_path(item, &path.child("items").index(index), errors);
    }
}

fn key_to_path(item: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for field in ["key", "path"] {
        if get::text(item, &format!("/{field}")).is_empty() {
            errors.push(FieldError::required(path.child(field), ""));
        }
    }
    let target = get::text(item, "/path");
    invalid_all(errors, &path.child("path"), target, paths::not_reserved(target));
    mode(item, "mode", path, errors);
}

fn downward_file(item: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let target = get::text(item, "/path");
    if target.is_empty() {
        errors.push(FieldError::required(path.child("path"), ""));
    }
    invalid_all(errors, &path.child("path"), target, paths::not_reserved(target));
    let reference = |name: &str| item.get(name).filter(|found| found.is_object());
    match (reference("fieldRef"), reference("resourceFieldRef")) {
        (Some(field), resource) => {
            field_reference(field, DOWNWARD_FIELDS, &path.child("fieldRef"), errors);
            if resource.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(path.clone(), "resource", detail));
            }
        }
        (None, Some(resource)) => resource_reference(resource, true, &path.child("resourceFieldRef"), errors),
        (None, None) => {
            errors.push(FieldError::required(path.clone(), "one of fieldRef and resourceFieldRef is required"));
        }
    }
    mode(item, "mode", path, errors);
}

fn projected(volume: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    mode(volume, "defaultMode", path, errors);
    let mut seen = BTreeSet::new();
    for (index, source) in get::list(volume, "/sources").iter().enumerate() {
        let at = path.child("sources").index(index);
        let mut found = 0;
        for kind in ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle"] {
            let Some(one) = source.get(kind).filter(|one| one.is_object()) else { continue };
            found += 1;
            projection(kind, one, path, &at.child(kind), &mut seen, errors);
        }
        if found > 1 {
            errors.push(FieldError::forbidden(at, "may not specify more than 1 volume type"));
        }
    }
}

fn projection<'a>(
    kind: &str,
    source: &'a Value,
    volume: &Path,
    path: &Path,
    seen: &mut BTreeSet<&'a str>,
    errors: &mut Vec<FieldError>,
) {
    let name = get::text(source, "/name");
    match kind {
        "secret" | "configMap" => {
            if name.is_empty() {
                errors.push(FieldError::required(path.child("name"), ""));
            }
            for (index, item) in get::list(source, "/items").iter().enumerate() {
                key_to_path(item, &path.child("items").index(index), errors);
                twice(get::text(item, "/path"), name, volume, seen, errors);
            }
        }
        "downwardAPI" => {
            for item in get::list(source, "/items") {
                let target = get::text(item, "/path");
                downward_file(item, path, errors);
                twice(target, target, volume, seen, errors);
            }
        }
        "serviceAccountToken" => token(source, volume, path, errors),
        _ => {
            let target = get::text(source, "/path");
            if target.is_empty() {
                errors.push(FieldError::required(path.child("path"), ""));
            }
            invalid_all(errors, &path.child("path"), target, paths::not_reserved(target));
            twice(target, target, volume, seen, errors);
        }
    }
}

/// Two sources may not write the same file.
fn twice<'a>(target: &'a str, shown: &str, volume: &Path, seen: &mut BTreeSet<&'a str>, errors: &mut Vec<FieldError>) {
    if !target.is_empty() && !seen.insert(target) {
        errors.push(FieldError::invalid(volume.clone(), shown, "conflicting duplicate paths"));
    }
}

fn token(source: &Value, volume: &Path, path: &Path, errors: &mut Vec<FieldError>) {
    let seconds = get::int(source, "/expirationSeconds");
    let at = path.child("expirationSeconds");
    if seconds < 600 {
        errors.push(FieldError::invalid(at, seconds, "may not specify a duration less than 10 minutes"));
    } else if seconds > 1 << 32 {
        errors.push(FieldError::invalid(at, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    let target = get::text(source, "/path");
    if target.is_empty() {
        errors.push(FieldError::required(volume.child("path"), ""));
    } else {
        invalid_all(errors, &volume.child("path"), target, paths::not_reserved(target));
    }
}

fn ephemeral(source: &Value, name: &str, path: &Path, pod: Option<&str>, errors: &mut Vec<FieldError>) {
    if !get::has(source, "/volumeClaimTemplate") {
        errors.push(FieldError::required(path.child("volumeClaimTemplate"), ""));
    }
    if let Some(pod) = pod.filter(|pod| !pod.is_empty() && !name.is_empty()) {
        let claim = format!("{pod}-{name}");
        for fault in names::dns_subdomain(&claim) {
            let detail = format!("PVC name {claim:?}: {fault}");
            errors.push(FieldError::invalid(path.child("name"), name, detail));
        }
    }
}

/// `volumeMounts` and `volumeDevices` of a container at `path`.
pub fn mounts(container: &Value, path: &Path, volumes: &Volumes<'_>, errors: &mut Vec<FieldError>) {
    let (mounts, devices) = (get::list(container, "/volumeMounts"), get::list(container, "/volumeDevices"));
    let all = path.child("volumeMounts");
    let mut points = BTreeSet::new();
    for (index, mount) in mounts.iter().enumerate() {
        let at = all.index(index);
        let (name, point) = (get::text(mount, "/name"), get::text(mount, "/mountPath"));
        if name.is_empty() {
            errors.push(FieldError::required(at.child("name"), ""));
        }
        if !volumes.contains_key(name) {
            errors.push(FieldError::not_found(at.child("name"), name));
        }
        if point.is_empty() {
            errors.push(FieldError::required(at.child("mountPath"), ""));
        }
        if !points.insert(point) {
            errors.push(FieldError::invalid(at.child("mountPath"), point, "must be unique"));
        }
        if devices.iter().any(|device| get::text(device, "/name") == name) {
            errors.push(FieldError::invalid(at.child("name"), name, "must not already exist in volumeDevices"));
        }
        if devices.iter().any(|device| get::text(device, "/devicePath") == point) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.push(FieldError::invalid(at.child("mountPath"), point, detail));
        }
        how(mount, container, &all, &at, errors);
    }
    self::devices(devices, mounts, volumes, &path.child("volumeDevices"), errors);
}

/// Upstream names these without the mount's index.
fn how(mount: &Value, container: &Value, all: &Path, at: &Path, errors: &mut Vec<FieldError>) {
    let (sub, expression) = (get::text(mount, "/subPath"), get::text(mount, "/subPathExpr"));
    if !sub.is_empty() {
        invalid_all(errors, &all.child("subPath"), sub, paths::descending(sub));
    }
    if !expression.is_empty() {
        if !sub.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(at.child("subPathExpr"), expression, detail));
        }
        invalid_all(errors, &all.child("subPathExpr"), expression, paths::descending(expression));
    }
    const PROPAGATIONS: &[&str] = &["Bidirectional", "HostToContainer", "None"];
    if let Some(propagation) = get::text_opt(mount, "/mountPropagation") {
        let path = all.child("mountPropagation");
        if !PROPAGATIONS.contains(&propagation) {
            errors.push(FieldError::not_supported(path.clone(), propagation, PROPAGATIONS));
        }
        if propagation == "Bidirectional" && !get::flag(container, "/securityContext/privileged") {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            errors.push(FieldError::forbidden(path, detail));
        }
    }
    let path = all.child("recursiveReadOnly");
    match get::text(mount, "/recursiveReadOnly") {
        "" | "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !get::flag(mount, "/readOnly") {
                errors.push(FieldError::forbidden(path.clone(), "may only be specified when readOnly is true"));
            }
            if !matches!(get::text(mount, "/mountPropagation"), "" | "None") {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.push(FieldError::forbidden(path, detail));
            }
        }
        other => errors.push(FieldError::not_supported(path, other, &["Disabled", "Enabled", "IfPossible"])),
    }
}

fn devices(devices: &[Value], mounts: &[Value], volumes: &Volumes<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    let (mut names, mut points) = (BTreeSet::new(), BTreeSet::new());
    for (index, device) in devices.iter().enumerate() {
        let path = path.index(index);
        let (name, point) = (get::text(device, "/name"), get::text(device, "/devicePath"));
        if name.is_empty() {
            errors.push(FieldError::required(path.child("name"), ""));
        } else if !names.insert(name) {
            errors.push(FieldError::invalid(path.child("name"), name, "must be unique"));
        }
        match volumes.get(name) {
            None => errors.push(FieldError::not_found(path.child("name"), name)),
            Some(volume) if get::has(volume, "/persistentVolumeClaim") || get::has(volume, "/ephemeral") => {}
            Some(_) => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(FieldError::invalid(path.child("name"), name, detail));
            }
        }
        if point.is_empty() {
            errors.push(FieldError::required(path.child("devicePath"), ""));
        }
        if !points.insert(point) {
            errors.push(FieldError::invalid(path.child("devicePath"), point, "must be unique"));
        }
        if point.split('/').any(|part| part == "..") {
            let detail = "can not contain backsteps ('..')";
            errors.push(FieldError::invalid(path.child("devicePath"), point, detail));
        }
        if mounts.iter().any(|mount| get::text(mount, "/name") == name) {
            errors.push(FieldError::invalid(path.child("name"), name, "must not already exist in volumeMounts"));
        }
    }
}
