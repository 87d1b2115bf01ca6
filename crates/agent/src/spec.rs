//! Reading a pod's spec: which containers there are, in which role, and what their policies come to.
//!
//! The API server has put in the defaults; where a test or an old object lacks one, the default is repeated here.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerPort, ContainerRestartRule, Pod, PodSpec, Probe};

/// What part a container plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Runs to its end before the next begins.
    Init,
    /// An init container that is restarted always: it runs beside all that follows.
    Sidecar,
    Main,
    /// Added by `kubectl debug`; never restarted.
    Ephemeral,
}

/// A container of a pod and its role.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    pub role: Role,
    pub container: Cow<'a, Container>,
    /// Of an ephemeral container: the container whose processes it sees.
    pub target: Option<&'a str>,
}

impl Member<'_> {
    pub fn name(&self) -> &str {
        &self.container.name
    }
}

/// All containers: init containers in their order, main ones, ephemeral ones.
pub fn members(pod: &Pod) -> Vec<Member<'_>> {
    let Some(spec) = pod.spec.as_ref() else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().map(|c| Member {
        role: if c.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init },
        container: Cow::Borrowed(c),
        target: None,
    });
    let main = spec.containers.iter().map(|c| Member { role: Role::Main, container: Cow::Borrowed(c), target: None });
    let ephemeral = spec.ephemeral_containers.iter().flatten().filter_map(|e| {
        // An ephemeral container has every field of a container but `target_container_name`; the two serialise alike.
        let container = serde_json::to_value(e).and_then(serde_json::from_value).ok()?;
        let target = e.target_container_name.as_deref().filter(|name| !name.is_empty());
        Some(Member { role: Role::Ephemeral, container: Cow::Owned(container), target })
    });
    init.chain(main).chain(ephemeral).collect()
}

/// The container of that name.
pub fn member<'a>(pod: &'a Pod, name: &str) -> Option<Member<'a>> {
    members(pod).into_iter().find(|m| m.name() == name)
}

/// Whether a container that ended with `code` is started again.
pub fn restarts(pod: &Pod, member: &Member<'_>, code: i32) -> bool {
    let own = member.container.restart_policy.as_deref().filter(|p| !p.is_empty());
    match member.role {
        Role::Ephemeral => return false,
        Role::Sidecar => return true,
        Role::Init | Role::Main => {}
    }
    if own.is_some() && member.container.restart_policy_rules.iter().flatten().any(|rule| applies(rule, code)) {
        return true;
    }
    let policy = own.or(pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()));
    match policy {
        Some("Never") => false,
        Some("OnFailure") => code != 0,
        // An init container that succeeded has done its work.
        Some(_) | None => member.role != Role::Init || code != 0,
    }
}

fn applies(rule: &ContainerRestartRule, code: i32) -> bool {
    rule.action == "Restart"
        && rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|v| *v == code);
            if codes.operator == "NotIn" { !listed } else { listed }
        })
}

/// How long the pod is given to end, in seconds: what its deletion says, or its spec.
pub fn grace(pod: &Pod) -> Duration {
    let deleting = pod.metadata.deletion_timestamp.as_ref().and(pod.metadata.deletion_grace_period_seconds);
    let seconds = deleting.or(pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds)).unwrap_or(30);
    // Even a forced deletion lets the kernel deliver a signal.
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1))
}

/// Whether the image is looked for in its registry before each start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// `imagePullPolicy`, or its default: `Always` for `:latest` and no tag at all.
pub fn pull_policy(image: &str, policy: Option<&str>) -> PullPolicy {
    match policy {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        Some(_) | None => {
            let last = image.rsplit('/').next().unwrap_or_default();
            let tagged = last.contains('@') || last.contains(':') && !last.ends_with(":latest");
            if tagged { PullPolicy::IfNotPresent } else { PullPolicy::Always }
        }
    }
}

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    pub const ALL: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];

    /// As messages name it.
    pub fn word(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }

    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            ProbeKind::Startup => container.startup_probe.as_ref(),
            ProbeKind::Liveness => container.liveness_probe.as_ref(),
            ProbeKind::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// A port of the node that a container asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// One address of the node; none is every one.
    pub host_ip: Option<IpAddr>,
    pub protocol: Protocol,
    pub host_port: u16,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// In the IP header.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

/// The node's ports that a pod asks for, of all containers that run beside each other.
pub fn host_ports(pod: &Pod) -> Vec<Port> {
    let members = members(pod);
    let beside = members.iter().filter(|m| matches!(m.role, Role::Main | Role::Sidecar));
    let ports = beside.flat_map(|m| m.container.ports.iter().flatten());
    let one = |port: &ContainerPort| {
        let host_ip = port.host_ip.as_deref().and_then(|ip| ip.parse().ok()).filter(|ip: &IpAddr| !ip.is_unspecified());
        Some(Port {
            host_ip,
            protocol: match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                Some(_) | None => Protocol::Tcp,
            },
            host_port: u16::try_from(port.host_port?).ok().filter(|port| *port > 0)?,
            port: u16::try_from(port.container_port).ok()?,
        })
    };
    ports.filter_map(one).collect()
}

/// `name_namespace(uid)`, as the kubelet's messages name a pod.
pub fn long_name(pod: &Pod) -> String {
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    let meta = &pod.metadata;
    format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid))
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Whether the pod lives in the node's own network.
pub fn on_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s: &PodSpec| s.host_network).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_restarted() {
        for (policy, role, code, again) in [
            ("Always", "main", 0, true),
            ("Always", "main", 1, true),
            ("OnFailure", "main", 0, false),
            ("OnFailure", "main", 2, true),
            ("Never", "main", 1, false),
            ("Always", "init", 0, false),
            ("Always", "init", 1, true),
            ("Never", "init", 1, false),
            ("Never", "side", 0, true),
        ] {
            let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"restartPolicy": policy,
                "containers": [{"name": "main"}],
                "initContainers": [{"name": "init"}, {"name": "side", "restartPolicy": "Always"}]}}))
            .unwrap();
            assert_eq!(restarts(&pod, &member(&pod, role).unwrap(), code), again, "{policy} {role} {code}");
        }
    }

    #[test]
    fn pull_policy_by_tag() {
        for (image, expected) in [
            ("nginx", PullPolicy::Always),
            ("nginx:latest", PullPolicy::Always),
            ("localhost:5000/nginx", PullPolicy::Always),
            ("nginx:1.27", PullPolicy::IfNotPresent),
            ("localhost:5000/nginx:1", PullPolicy::IfNotPresent),
            ("nginx@sha256:00", PullPolicy::IfNotPresent),
        ] {
            assert_eq!(pull_policy(image, None), expected, "{image}");
        }
    }
}
