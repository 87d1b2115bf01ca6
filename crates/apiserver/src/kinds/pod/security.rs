//! Security contexts of pods and containers.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::spec::word;
use crate::kinds::common::errors::invalid_all;
use crate::kinds::common::internal::{PROFILE, SECURITY_CONTEXT, as_struct};
use crate::kinds::common::{get, paths};

const ID: &str = "must be between 0 and 2147483647, inclusive";
const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const SYSCTL: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

pub fn of_pod(spec: &Value, spec_path: &Path, errors: &mut Vec<FieldError>) {
    let Some(context) = spec.get("securityContext").filter(|context| context.is_object()) else { return };
    let path = spec_path.child("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(context.get(field), &path.child(field), errors);
    }
    for (index, group) in get::list(context, "/supplementalGroups").iter().enumerate() {
        id(Some(group), &path.child("supplementalGroups").index(index), errors);
    }
    if get::flag(spec, "/shareProcessNamespace") && get::flag(spec, "/hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(path.child("shareProcessNamespace"), true, detail));
    }
    sysctls(context, &path.child("sysctls"), errors);
    if let Some(policy) = get::text_opt(context, "/fsGroupChangePolicy") {
        listed(errors, path.child("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    }
    profiles(context, &path, errors);
    if let Some(policy) = get::text_opt(context, "/supplementalGroupsPolicy") {
        listed(errors, path.child("supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    }
}

pub fn of_container(container: &Value, path: &Path, host_users: bool, errors: &mut Vec<FieldError>) {
    let Some(context) = container.get("securityContext").filter(|context| context.is_object()) else { return };
    for field in ["runAsUser", "runAsGroup"] {
        id(context.get(field), &path.child(field), errors);
    }
    if let Some(mount) = get::text_opt(context, "/procMount") {
        listed(errors, path.child("procMount"), mount, &["Default", "Unmasked"]);
        if host_users && mount == "Unmasked" {
            let detail = "`hostUsers` must be false to use `Unmasked`";
            errors.push(FieldError::invalid(path.child("procMount"), mount, detail));
        }
    }
    profiles(context, path, errors);
    if get::flag_opt(context, "/allowPrivilegeEscalation") == Some(false) {
        let mut conflict = |what: &str| {
            let detail = format!("cannot set `allowPrivilegeEscalation` to false and {what}");
            let fault = FieldError::invalid(path.clone(), context.clone(), detail);
            errors.push(as_struct(fault, SECURITY_CONTEXT));
        };
        if get::flag(context, "/privileged") {
            conflict("`privileged` to true");
        }
        if get::texts(context, "/capabilities/add").contains(&"CAP_SYS_ADMIN") {
            conflict("`capabilities.Add` CAP_SYS_ADMIN");
        }
    }
}

fn id(value: Option<&Value>, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(id) = value.and_then(Value::as_i64).filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        errors.push(FieldError::invalid(path.clone(), id, ID));
    }
}

fn listed(errors: &mut Vec<FieldError>, path: Path, value: &str, supported: &[&str]) {
    if !supported.contains(&value) {
        errors.push(FieldError::not_supported(path, value, supported));
    }
}

fn sysctls(context: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let mut seen = Vec::new();
    for (index, sysctl) in get::list(context, "/sysctls").iter().enumerate() {
        let name = get::text(sysctl, "/name");
        let path = path.index(index).child("name");
        if name.is_empty() {
            errors.push(FieldError::required(path, ""));
        } else if !is_sysctl(name) {
            let detail = format!("must have at most 253 characters and match regex {SYSCTL}");
            errors.push(FieldError::invalid(path, name, detail));
        } else if seen.contains(&name) {
            errors.push(FieldError::duplicate(path, name));
        }
        seen.push(name);
    }
}

fn is_sysctl(name: &str) -> bool {
    let good = |part: &str| {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = part.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner)
    };
    name.len() <= 253 && name.split(['.', '/']).all(good)
}

/// Seccomp and AppArmor.
fn profiles(context: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(profile) = context.get("seccompProfile").filter(|profile| profile.is_object()) {
        let path = path.child("seccompProfile");
        let (kind, local) = (get::text(profile, "/type"), get::text_opt(profile, "/localhostProfile"));
        if kind.is_empty() {
            errors.push(FieldError::required(path.child("type"), "type is required when seccompProfile is set"));
        } else {
            word(errors, path.child("type"), kind, PROFILES);
        }
        let path = path.child("localhostProfile");
        match (kind == "Localhost", local) {
            (true, None) => errors.push(FieldError::required(path, "must be set when seccomp type is Localhost")),
            (true, Some(local)) => invalid_all(errors, &path, local, paths::descending(local)),
            (false, Some(_)) => {
                let detail = "can only be set when seccomp type is Localhost";
                errors.push(as_struct(FieldError::invalid(path, profile.clone(), detail), PROFILE));
            }
            (false, None) => {}
        }
    }
    if let Some(profile) = context.get("appArmorProfile").filter(|profile| profile.is_object()) {
        let path = path.child("appArmorProfile");
        let (kind, local) = (get::text(profile, "/type"), get::text_opt(profile, "/localhostProfile"));
        let at = path.child("localhostProfile");
        match (kind, local) {
            ("Localhost", None | Some("")) => {
                errors.push(FieldError::required(at, "must be set when AppArmor type is Localhost"));
            }
            ("Localhost", Some(local)) if local.trim() != local => {
                errors.push(FieldError::invalid(at, local, "must not be padded with whitespace"));
            }
            ("RuntimeDefault" | "Unconfined", Some(local)) => {
                errors.push(FieldError::invalid(at, local, "can only be set when AppArmor type is Localhost"));
            }
            ("", _) => {
                errors.push(FieldError::required(path.child("type"), "type is required when appArmorProfile is set"));
            }
            (other, _) => word(errors, path.child("type"), other, PROFILES),
        }
    }
}
