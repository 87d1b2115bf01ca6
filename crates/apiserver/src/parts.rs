//! Subresources that are not the object itself: streams, and writes with a body of their own. A row a part.

use crate::kinds::{Kind, Subresource};

/// A subresource as discovery lists it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) name: &'static str,
    /// Group and version when they are not those of the resource.
    pub(crate) group_version: Option<(&'static str, &'static str)>,
    pub(crate) kind: &'static str,
    pub(crate) verbs: &'static [&'static str],
}

const fn part(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Part {
    Part { name, group_version: None, kind, verbs }
}

const STREAM: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
const READ_WRITE: &[&str] = &["get", "patch", "update"];

const POD: &[Part] = &[
    part("attach", "PodAttachOptions", STREAM),
    part("binding", "Binding", &["create"]),
    part("ephemeralcontainers", "Pod", READ_WRITE),
    Part { name: "eviction", group_version: Some(("policy", "v1")), kind: "Eviction", verbs: &["create"] },
    part("exec", "PodExecOptions", STREAM),
    part("log", "Pod", &["get"]),
    part("portforward", "PodPortForwardOptions", STREAM),
    part("proxy", "PodProxyOptions", PROXY),
    part("resize", "Pod", READ_WRITE),
];
const SERVICE: &[Part] = &[part("proxy", "ServiceProxyOptions", PROXY)];
const NODE: &[Part] = &[part("proxy", "NodeProxyOptions", PROXY)];
const NAMESPACE: &[Part] = &[part("finalize", "Namespace", &["update"])];
const SERVICE_ACCOUNT: &[Part] = &[Part {
    name: "token",
    group_version: Some(("authentication.k8s.io", "v1")),
    kind: "TokenRequest",
    verbs: &["create"],
}];

/// The parts that only this kind has.
pub(crate) fn own(kind: &Kind) -> &'static [Part] {
    match (kind.group, kind.plural) {
        ("", "pods") => POD,
        ("", "services") => SERVICE,
        ("", "nodes") => NODE,
        ("", "namespaces") => NAMESPACE,
        ("", "serviceaccounts") => SERVICE_ACCOUNT,
        (_, _) => &[],
    }
}

/// All subresources of a kind, by name.
pub(crate) fn of(kind: &Kind) -> Vec<Part> {
    let common = kind.subresources.iter().map(|subresource| match subresource {
        Subresource::Status => part("status", kind.kind, READ_WRITE),
        Subresource::Scale => {
            Part { name: "scale", group_version: Some(("autoscaling", "v1")), kind: "Scale", verbs: READ_WRITE }
        }
    });
    let mut parts: Vec<Part> = common.chain(own(kind).iter().copied()).collect();
    parts.sort_by_key(|part| part.name);
    parts
}
