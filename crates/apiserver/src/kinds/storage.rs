//! Storage: volumes, claims on them and classes of them. Stored and judged, so that charts apply; nothing binds or provisions yet.

use api::field::{FieldError, Path};
use api::quantity::Quantity;
use serde_json::{Value, json};

use super::common::errors::{IMMUTABLE, immutable, invalid_all};
use super::common::{get, meta, names, resources, selector, table};
use super::stored::{default_status, idle, keep_status};
use super::{Column, Kind, NameRule, Rules, Scope, Subresource};

pub const PERSISTENT_VOLUME: Kind = Kind {
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    short_names: &["pv"],
    subresources: &[Subresource::Status],
    columns: &[
        Column::NAME,
        Column::text("Capacity", "Size"),
        Column::text("Access Modes", "How it may be mounted"),
        Column::text("Reclaim Policy", "What happens when it is released"),
        Column::text("Status", "State of the volume"),
        Column::text("Claim", "Claim that holds it"),
        Column::text("StorageClass", "Class it belongs to"),
        Column::text("VolumeAttributesClass", "Class of its attributes"),
        Column::text("Reason", "Why it is in its state"),
        Column::AGE,
        Column::wide("VolumeMode", "Filesystem or Block"),
    ],
    cells: volume_cells,
    rules: Rules {
        default: default_volume,
        prepare_create: |object| get::set(object, "/status", json!({"phase": "Pending"})),
        prepare_update: keep_status,
        validate_create: volume,
        validate_update: volume_updated,
        warnings: |new, old| idle(new, old, "PersistentVolume", "is bound to no claim"),
        ..Rules::CLUSTER
    },
    ..Kind::CLUSTER
};

pub const PERSISTENT_VOLUME_CLAIM: Kind = Kind {
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short_names: &["pvc"],
    subresources: &[Subresource::Status],
    columns: &[
        Column::NAME,
        Column::text("Status", "State of the claim"),
        Column::text("Volume", "Volume that it holds"),
        Column::text("Capacity", "Size"),
        Column::text("Access Modes", "How it may be mounted"),
        Column::text("StorageClass", "Class it asks for"),
        Column::text("VolumeAttributesClass", "Class of its attributes"),
        Column::AGE,
        Column::wide("VolumeMode", "Filesystem or Block"),
    ],
    cells: claim_cells,
    rules: Rules {
        default: default_claim,
        prepare_create: |object| get::set(object, "/status", json!({"phase": "Pending"})),
        prepare_update: keep_status,
        validate_create: |object| [meta::validate_create(object), claim(object)].concat(),
        validate_update: claim_updated,
        warnings: |new, old| idle(new, old, "PersistentVolumeClaim", "gets no volume"),
        ..Rules::GENERIC
    },
    ..Kind::NAMESPACED
};

pub const STORAGE_CLASS: Kind = Kind {
    group: "storage.k8s.io",
    kind: "StorageClass",
    plural: "storageclasses",
    singular: "storageclass",
    short_names: &["sc"],
    columns: &[
        Column::NAME,
        Column::text("Provisioner", "Who makes the volumes"),
        Column::text("ReclaimPolicy", "What happens when one is released"),
        Column::text("VolumeBindingMode", "When a claim is bound"),
        Column { r#type: "boolean", ..Column::text("AllowVolumeExpansion", "Whether volumes may grow") },
        Column::AGE,
    ],
    cells: class_cells,
    rules: Rules {
        default: default_class,
        validate_create: class,
        validate_update: class_updated,
        warnings: |new, old| idle(new, old, "StorageClass", "provisions nothing"),
        ..Rules::CLUSTER
    },
    ..Kind::CLUSTER
};

fn default_volume(object: &mut Value) {
    default_status(object);
    get::set_default_text(object, "/status/phase", "Pending");
    get::set_default_text(object, "/spec/persistentVolumeReclaimPolicy", "Retain");
    get::set_default(object, "/spec/volumeMode", "Filesystem");
}

fn default_claim(object: &mut Value) {
    default_status(object);
    get::set_default_text(object, "/status/phase", "Pending");
    get::object_at(object, "/spec/resources");
    get::set_default(object, "/spec/volumeMode", "Filesystem");
}

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
const POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
/// Where a volume may come from, in the order in which upstream looks.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flocker",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

fn access_modes(object: &Value, path: &Path, missing: &str, errors: &mut Vec<FieldError>) {
    let path = path.child("accessModes");
    let modes = get::texts(object, "/spec/accessModes");
    if modes.is_empty() {
        errors.push(FieldError::required(path.clone(), missing));
    }
    for mode in modes.iter().filter(|mode| !MODES.contains(mode)) {
        errors.push(FieldError::not_supported(path.clone(), *mode, MODES));
    }
    if modes.contains(&"ReadWriteOncePod") && modes.len() > 1 {
        errors.push(FieldError::forbidden(path, "may not use ReadWriteOncePod with other access modes"));
    }
}

fn class_and_mode(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let class = get::text(object, "/spec/storageClassName");
    if !class.is_empty() {
        invalid_all(errors, &path.child("storageClassName"), class, names::dns_subdomain(class));
    }
    if let Some(mode) = get::text_opt(object, "/spec/volumeMode").filter(|mode| !VOLUME_MODES.contains(mode)) {
        errors.push(FieldError::not_supported(path.child("volumeMode"), mode, VOLUME_MODES));
    }
}

fn positive_amount(amount: &Value, path: Path, errors: &mut Vec<FieldError>) {
    let amount = resources::quantity(amount);
    if amount <= Quantity::from_units(0) {
        errors.push(FieldError::invalid(path, amount.to_string(), "must be greater than zero"));
    }
}

fn volume(object: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = meta::check(object, NameRule::DnsSubdomain, Scope::Cluster);
    access_modes(object, &path, "", &mut errors);
    let capacity = path.child("capacity");
    let amounts: Vec<(&String, &Value)> = get::entries(object, "/spec/capacity").collect();
    if amounts.is_empty() {
        errors.push(FieldError::required(capacity.clone(), ""));
    } else if !get::has(object, "/spec/capacity/storage") || amounts.len() > 1 {
        let shown = object.pointer("/spec/capacity").cloned().unwrap_or(Value::Null);
        errors.push(FieldError::not_supported(capacity.clone(), shown, &["storage"]));
    }
    for (name, amount) in amounts {
        positive_amount(amount, capacity.key(name), &mut errors);
    }
    let policy = get::text(object, "/spec/persistentVolumeReclaimPolicy");
    if !policy.is_empty() && !POLICIES.contains(&policy) {
        errors.push(FieldError::not_supported(path.child("persistentVolumeReclaimPolicy"), policy, POLICIES));
    }
    sources(object, &path, &mut errors);
    if get::text(object, "/spec/hostPath/path") == "/" && policy == "Recycle" {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden(path.child("persistentVolumeReclaimPolicy"), detail));
    }
    class_and_mode(object, &path, &mut errors);
    errors
}

fn sources(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let mut found = 0;
    for source in SOURCES.iter().filter(|source| get::has(object, &format!("/spec/{source}"))) {
        found += 1;
        if found > 1 {
            errors.push(FieldError::forbidden(path.child(source), "may not specify more than 1 volume type"));
            continue;
        }
        let required: &[&str] = match *source {
            "hostPath" | "local" => &["path"],
            "nfs" => &["server", "path"],
            "csi" => &["driver", "volumeHandle"],
            _ => &[],
        };
        for field in required.iter().filter(|field| get::text(object, &format!("/spec/{source}/{field}")).is_empty()) {
            errors.push(FieldError::required(path.child(source).child(field), ""));
        }
        if *source == "local" && !get::has(object, "/spec/nodeAffinity") {
            errors.push(FieldError::required(path.child("nodeAffinity"), "Local volume requires node affinity"));
        }
    }
    if found == 0 {
        errors.push(FieldError::required(path.clone(), "must specify a volume type"));
    }
}

fn volume_updated(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::update(new, old);
    errors.extend(volume(new));
    let path = Path::new("spec");
    if SOURCES.iter().any(|source| !get::same(new, old, &format!("/spec/{source}"))) {
        let detail = "spec.persistentvolumesource is immutable after creation";
        errors.push(FieldError::forbidden(path.child("persistentvolumesource"), detail));
    }
    let mode = "/spec/volumeMode";
    immutable(&mut errors, path.child("volumeMode"), new.pointer(mode), old.pointer(mode));
    let affinity = "/spec/nodeAffinity";
    if get::has(old, affinity) && !get::same(new, old, affinity) {
        let shown = new.pointer(affinity).cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(path.child("nodeAffinity"), shown, IMMUTABLE));
    }
    errors
}

fn claim(object: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    access_modes(object, &path, "at least 1 access mode is required", &mut errors);
    errors.extend(selector::validate(object.pointer("/spec/selector"), &path.child("selector")));
    let at = path.child("resources").key("storage");
    match object.pointer("/spec/resources/requests/storage") {
        None => errors.push(FieldError::required(at, "")),
        Some(amount) => positive_amount(amount, at, &mut errors),
    }
    class_and_mode(object, &path, &mut errors);
    errors
}

/// A claim stays as it was made; it may grow once it is bound, and it is told which volume it got.
fn claim_updated(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    errors.extend(claim(new));
    let bound = !get::text(old, "/spec/volumeName").is_empty();
    let rest = |object: &Value| {
        let mut spec = object.get("spec").cloned().unwrap_or(Value::Null);
        if bound {
            get::remove(&mut spec, "/resources/requests");
            get::remove(&mut spec, "/volumeAttributesClassName");
        } else {
            get::remove(&mut spec, "/volumeName");
        }
        if get::has(old, "/spec/storageClassName") {
            return spec;
        }
        get::remove(&mut spec, "/storageClassName");
        spec
    };
    let path = Path::new("spec");
    if rest(new) != rest(old) {
        let detail =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.push(FieldError::forbidden(path.clone(), detail));
    }
    let size = |object: &Value, pointer: &str| object.pointer(pointer).map(resources::quantity);
    let storage = "/spec/resources/requests/storage";
    if let (Some(after), Some(before)) = (size(new, storage), size(old, storage))
        && after < before
        && size(old, "/status/capacity/storage").is_none_or(|held| after <= held)
    {
        let at = path.child("resources").child("requests").child("storage");
        errors.push(FieldError::forbidden(at, "field can not be less than status.capacity"));
    }
    errors
}

fn default_class(object: &mut Value) {
    get::set_default(object, "/reclaimPolicy", "Delete");
    get::set_default(object, "/volumeBindingMode", "Immediate");
}

fn class(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::check(object, NameRule::DnsSubdomain, Scope::Cluster);
    let mut word = |field: &str, supported: &[&str]| {
        let value = get::text(object, &format!("/{field}"));
        if !supported.contains(&value) {
            errors.push(FieldError::not_supported(Path::new(field), value, supported));
        }
    };
    word("reclaimPolicy", &["Delete", "Retain"]);
    word("volumeBindingMode", &["Immediate", "WaitForFirstConsumer"]);
    if get::text(object, "/provisioner").is_empty() {
        errors.push(FieldError::required(Path::new("provisioner"), ""));
    }
    errors
}

fn class_updated(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    for field in ["parameters", "provisioner"] {
        if new.get(field) != old.get(field) {
            let detail = "updates to ".to_owned() + field + " are forbidden.";
            errors.push(FieldError::forbidden(Path::new(field), detail));
        }
    }
    for field in ["reclaimPolicy", "volumeBindingMode"] {
        immutable(&mut errors, Path::new(field), new.get(field), old.get(field));
    }
    errors
}

fn map_text<'a>(object: &'a Value, pointer: &str, key: &str) -> &'a str {
    get::map(object, pointer).and_then(|map| map.get(key)).and_then(Value::as_str).unwrap_or("")
}

/// `RWO,ROX`: the modes' initials in upstream's order.
fn modes(object: &Value, pointer: &str) -> String {
    let known =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let asked = get::texts(object, pointer);
    known.iter().filter(|(mode, _)| asked.contains(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

fn unset_or(text: Option<&str>) -> Value {
    text.unwrap_or("<unset>").into()
}

fn volume_cells(object: &Value, now: i64) -> Vec<Value> {
    let part = |field: &str| get::text(object, field);
    let claim = match part("/spec/claimRef/name") {
        "" => String::new(),
        name => format!("{}/{name}", part("/spec/claimRef/namespace")),
    };
    let phase = if get::has(object, "/metadata/deletionTimestamp") { "Terminating" } else { part("/status/phase") };
    vec![
        table::name(object),
        map_text(object, "/spec/capacity", "storage").into(),
        modes(object, "/spec/accessModes").into(),
        part("/spec/persistentVolumeReclaimPolicy").into(),
        phase.into(),
        claim.into(),
        part("/spec/storageClassName").into(),
        unset_or(get::text_opt(object, "/spec/volumeAttributesClassName")),
        part("/status/reason").into(),
        table::age(object, now),
        unset_or(get::text_opt(object, "/spec/volumeMode")),
    ]
}

fn claim_cells(object: &Value, now: i64) -> Vec<Value> {
    let part = |field: &str| get::text(object, field);
    let bound = !part("/spec/volumeName").is_empty();
    let phase = if get::has(object, "/metadata/deletionTimestamp") { "Terminating" } else { part("/status/phase") };
    vec![
        table::name(object),
        phase.into(),
        part("/spec/volumeName").into(),
        (if bound { map_text(object, "/status/capacity", "storage") } else { "" }).into(),
        (if bound { modes(object, "/status/accessModes") } else { String::new() }).into(),
        part("/spec/storageClassName").into(),
        unset_or(get::text_opt(object, "/spec/volumeAttributesClassName")),
        table::age(object, now),
        unset_or(get::text_opt(object, "/spec/volumeMode")),
    ]
}

fn class_cells(object: &Value, now: i64) -> Vec<Value> {
    let name = get::text(object, "/metadata/name");
    let is_default = get::map(object, "/metadata/annotations")
        .and_then(|all| all.get("storageclass.kubernetes.io/is-default-class"))
        .is_some_and(|value| value == "true");
    let name = if is_default { format!("{name} (default)") } else { name.to_owned() };
    let or =
        |field: &str, otherwise: &'static str| -> Value { get::text_opt(object, field).unwrap_or(otherwise).into() };
    vec![
        name.into(),
        get::text(object, "/provisioner").into(),
        or("/reclaimPolicy", "Delete"),
        or("/volumeBindingMode", "Immediate"),
        get::flag(object, "/allowVolumeExpansion").into(),
        table::age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_volume_has_a_size_modes_and_one_source() {
        let judged = |spec: Value| texts(volume(&json!({"metadata": {"name": "v"}, "spec": spec})));
        let good =
            json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}});
        assert!(judged(good).is_empty());
        assert_eq!(
            judged(json!({})),
            [
                "spec.accessModes: Required value",
                "spec.capacity: Required value",
                "spec: Required value: must specify a volume type",
            ]
        );
    }

    #[test]
    fn a_claim_grows_only_when_it_is_bound() {
        let claim = |size: &str, volume: &str| {
            json!({
                "metadata": {"name": "c", "namespace": "n", "uid": "u"},
                "spec": {
                    "accessModes": ["ReadWriteOnce"], "volumeName": volume,
                    "resources": {"requests": {"storage": size}},
                },
            })
        };
        assert!(texts(claim_updated(&claim("2Gi", "v"), &claim("1Gi", "v"))).is_empty());
        assert!(texts(claim_updated(&claim("1Gi", "v"), &claim("1Gi", ""))).is_empty());
        let fault = "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        assert_eq!(texts(claim_updated(&claim("2Gi", ""), &claim("1Gi", ""))), [fault]);
        assert_eq!(
            texts(claim_updated(&claim("1Gi", "v"), &claim("2Gi", "v"))),
            ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
        );
    }
}
