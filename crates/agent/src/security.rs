//! `securityContext`, of the pod and of a container, as the runtime is told it. Pure.

use std::path::Path;

use containers::runtime::{Identity, Seccomp, Security};
use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};

/// Where profiles of the node are, as for the kubelet.
const PROFILES: &str = "/var/lib/kubelet/seccomp";

/// As whom a container runs.
pub(crate) fn identity(pod: &Pod, container: &Container) -> Result<Identity, String> {
    let whole = pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let number =
        |n: Option<i64>| n.map(|n| u32::try_from(n).map_err(|_| format!("{n} is not a user or group id"))).transpose();
    let mut groups: Vec<u32> = Vec::new();
    for group in whole.supplemental_groups.iter().flatten().chain(&whole.fs_group) {
        groups.extend(number(Some(*group))?);
    }
    Ok(Identity {
        uid: number(own.run_as_user.or(whole.run_as_user))?,
        gid: number(own.run_as_group.or(whole.run_as_group))?,
        groups,
        strict_groups: whole.supplemental_groups_policy.as_deref() == Some("Strict"),
        must_not_be_root: own.run_as_non_root.or(whole.run_as_non_root).unwrap_or(false),
    })
}

/// What a container may do.
pub(crate) fn security(pod: &Pod, container: &Container) -> Security {
    let whole = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let own = container.security_context.clone().unwrap_or_default();
    let capabilities = own.capabilities.unwrap_or_default();
    let privileged = own.privileged.unwrap_or(false);
    let profile = own.seccomp_profile.as_ref().or(whole.and_then(|w| w.seccomp_profile.as_ref()));
    Security {
        privileged,
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        seccomp: if privileged { Seccomp::Unconfined } else { seccomp(profile) },
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    }
}

fn seccomp(profile: Option<&SeccompProfile>) -> Seccomp {
    match profile.map(|p| (p.type_.as_str(), &p.localhost_profile)) {
        Some(("RuntimeDefault", _)) => Seccomp::RuntimeDefault,
        Some(("Localhost", Some(file))) => Seccomp::Localhost(Path::new(PROFILES).join(file)),
        Some(_) | None => Seccomp::Unconfined,
    }
}
