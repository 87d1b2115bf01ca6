//! What a pod may say but should not, in upstream's order.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::kinds::common::{get, names, resources};

/// Labels of nodes whose names are old, and since when.
const OLD_LABELS: &[(&str, &str, &str)] = &[
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];
const OLD_ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];
const OLD_VOLUMES: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const SECCOMP: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APPARMOR_OF: &str = "container.apparmor.security.beta.kubernetes.io/";
const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";

pub fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some_and(|old| get::same(new, old, "/spec")) {
        return Vec::new();
    }
    let mut warnings = of_pod_or_template(new, "");
    let name = get::text(new, "/metadata/name");
    let faults = names::dns_label(name);
    if old.is_none() && !name.is_empty() && !faults.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            faults.join(" ")
        ));
    }
    warnings
}

/// Of the template at `pointer`, whose path is `path`.
pub fn of_template(new: &Value, old: Option<&Value>, pointer: &str, path: &str) -> Vec<String> {
    if old.is_some_and(|old| get::same(new, old, pointer)) {
        return Vec::new();
    }
    of_pod_or_template(new.pointer(pointer).unwrap_or(&Value::Null), path)
}

/// An empty path is an actual pod's.
fn of_pod_or_template(object: &Value, path: &str) -> Vec<String> {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
    let at = format!("{prefix}spec");
    let annotations = format!("{prefix}metadata.annotations");
    let mut warnings = Vec::new();
    placement(spec, &at, &mut warnings);
    for (key, text) in OLD_ANNOTATIONS.iter().filter(|(key, _)| annotated(object, key)) {
        warnings.push(format!("{annotations}[{key}]: {text}"));
    }
    volumes(spec, &at, &mut warnings);
    references(spec, &at, &mut warnings);
    fractions(spec.get("overhead"), &format!("{at}.overhead"), &mut warnings);
    if annotated(object, SECCOMP) && !get::has(spec, "/securityContext/seccompProfile") {
        warnings.push(format!("{annotations}[{SECCOMP}]: {}", functionless("seccompProfile")));
    }
    for (container, at) in containers(spec, &at) {
        let of_container = |prefix: &str| format!("{prefix}{}", get::text(container, "/name"));
        let key = of_container(SECCOMP_OF);
        if annotated(object, &key) && !get::has(container, "/securityContext/seccompProfile") {
            warnings.push(format!("{annotations}[{key}]: {}", functionless("seccompProfile")));
        }
        let key = of_container(APPARMOR_OF);
        let field = |of: &Value| get::has(of, "/securityContext/appArmorProfile");
        if !path.is_empty() && annotated(object, &key) && !field(spec) && !field(container) {
            let text = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
            warnings.push(format!("{annotations}[{key}]: {text}"));
        }
        for list in ["limits", "requests"] {
            let amounts = container.pointer(&format!("/resources/{list}"));
            fractions(amounts, &format!("{at}.resources.{list}"), &mut warnings);
        }
        environment(container, &at, &mut warnings);
    }
    ports(spec, &at, &mut warnings);
    if get::int(spec, "/terminationGracePeriodSeconds") < 0 {
        warnings.push(format!(
            "{at}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    affinities(spec, &at, &mut warnings);
    warnings
}

fn annotated(object: &Value, key: &str) -> bool {
    get::map(object, "/metadata/annotations").is_some_and(|all| all.contains_key(key))
}

fn functionless(field: &str) -> String {
    format!("non-functional in v1.27+; use the {field:?} field instead")
}

/// All containers with their paths, in the order in which they run.
fn containers<'a>(spec: &'a Value, at: &str) -> Vec<(&'a Value, String)> {
    let of = |list: &'static str| {
        let all = get::list(spec, &format!("/{list}")).iter().enumerate();
        all.map(|(index, one)| (one, format!("{at}.{list}[{index}]"))).collect::<Vec<_>>()
    };
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(of).collect()
}

fn old_label(key: &str) -> Option<String> {
    let (_, since, other) = OLD_LABELS.iter().find(|(old, ..)| *old == key)?;
    Some(format!("deprecated since {since}; use {other:?} instead"))
}

/// Where the pod wants to run.
fn placement(spec: &Value, at: &str, warnings: &mut Vec<String>) {
    for (key, _) in get::entries(spec, "/nodeSelector") {
        warnings.extend(old_label(key).map(|text| format!("{at}.nodeSelector[{key}]: {text}")));
    }
    let affinity = format!("{at}.affinity.nodeAffinity");
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = get::list(spec, &format!("/affinity/nodeAffinity/{required}/nodeSelectorTerms"));
    for (index, term) in terms.iter().enumerate() {
        node_term(term, &format!("{affinity}.{required}.nodeSelectorTerms[{index}]"), warnings);
    }
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    for (index, term) in get::list(spec, &format!("/affinity/nodeAffinity/{preferred}")).iter().enumerate() {
        let preference = term.get("preference").unwrap_or(&Value::Null);
        node_term(preference, &format!("{affinity}.{preferred}[{index}].preference"), warnings);
    }
    for (index, spread) in get::list(spec, "/topologySpreadConstraints").iter().enumerate() {
        let at = format!("{at}.topologySpreadConstraints[{index}]");
        let key = get::text(spread, "/topologyKey");
        warnings.extend(old_label(key).map(|text| format!("{at}.topologyKey: {key} is {text}")));
        if !get::has(spread, "/labelSelector") {
            warnings.push(format!("{at}.labelSelector: {NO_SELECTOR}"));
        }
    }
}

fn node_term(term: &Value, at: &str, warnings: &mut Vec<String>) {
    for (index, expression) in get::list(term, "/matchExpressions").iter().enumerate() {
        let key = get::text(expression, "/key");
        warnings.extend(old_label(key).map(|text| format!("{at}.matchExpressions[{index}].key: {key} is {text}")));
    }
}

fn volumes(spec: &Value, at: &str, warnings: &mut Vec<String>) {
    let volumes = get::list(spec, "/volumes");
    let mut tokens = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        for (source, text) in OLD_VOLUMES.iter().filter(|(source, _)| get::has(volume, &format!("/{source}"))) {
            // Upstream's path has a capital that the field has not.
            let shown = if *source == "storageos" { "storageOS" } else { source };
            warnings.push(format!("{at}.volumes[{index}].{shown}: {text}"));
        }
        let sources = get::list(volume, "/projected/sources").iter();
        tokens.extend(sources.filter_map(|source| get::text_opt(source, "/serviceAccountToken/path")));
    }
    for (index, volume) in volumes.iter().enumerate() {
        let at = format!("{at}.volumes[{index}].projected.sources");
        for source in get::list(volume, "/projected/sources") {
            // The names are upstream's, and so is the index, which is the item's.
            for (field, shown) in [("configMap", "configMap"), ("secret", "secrets"), ("downwardAPI", "downwardAPI")] {
                for (item, path) in get::list(source, &format!("/{field}/items")).iter().enumerate() {
                    let path = get::text(path, "/path");
                    if tokens.contains(path) {
                        warnings.push(format!("{at}.{shown}[{item}]: {}", duplicated(path)));
                    }
                }
            }
            let path = get::text(source, "/clusterTrustBundle/path");
            if get::has(source, "/clusterTrustBundle") && tokens.contains(path) {
                warnings.push(format!("{at}.ClusterTrustBundle: {}", duplicated(path)));
            }
        }
    }
}

fn duplicated(path: &str) -> String {
    format!("has duplicated path with ServiceAccountToken {path:?}")
}

/// Aliases of hosts and secrets for pulling images, named twice or not at all.
fn references(spec: &Value, at: &str, warnings: &mut Vec<String>) {
    for (list, field, what) in [("hostAliases", "ip", "ip"), ("imagePullSecrets", "name", "name")] {
        let mut seen = BTreeSet::new();
        for (index, one) in get::list(spec, &format!("/{list}")).iter().enumerate() {
            let value = get::text(one, &format!("/{field}"));
            if !seen.insert(value) {
                warnings.push(format!("{at}.{list}[{index}].{field}: duplicate {what} {value:?}"));
            }
        }
    }
    for (index, secret) in get::list(spec, "/imagePullSecrets").iter().enumerate() {
        if get::text(secret, "/name").is_empty() {
            warnings.push(format!("{at}.imagePullSecrets[{index}].name: invalid empty name \"\""));
        }
    }
}

/// There is no half a byte.
fn fractions(amounts: Option<&Value>, at: &str, warnings: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        let Some(amount) = amounts.and_then(|amounts| amounts.get(name)).map(resources::quantity) else { continue };
        if amount.milli_value() % 1000 != 0 {
            warnings.push(format!("{at}[{name}]: fractional byte value \"{amount}\" is invalid, must be an integer"));
        }
    }
}

fn environment(container: &Value, at: &str, warnings: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (index, variable) in get::list(container, "/env").iter().enumerate() {
        let (name, value) = (get::text(variable, "/name"), get::text(variable, "/value"));
        let reference = format!("$({name})");
        let builds_on = value.contains(&reference) && value != reference && !get::has(variable, "/valueFrom");
        if !seen.insert(name) && !builds_on {
            warnings.push(format!(
                "{at}.env[{index}]: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
}

/// One port of all containers: where it stands, its address and port on the node.
struct Port<'a> {
    at: String,
    ip: &'a str,
    host: i64,
}

fn ports(spec: &Value, at: &str, warnings: &mut Vec<String>) {
    let mut seen: BTreeMap<(i64, &str), Vec<Port<'_>>> = BTreeMap::new();
    for (container, at) in containers(spec, at) {
        for (index, port) in get::list(container, "/ports").iter().enumerate() {
            let at = format!("{at}.ports[{index}]");
            let (ip, host) = (get::text(port, "/hostIP"), get::int(port, "/hostPort"));
            let (number, protocol) = (get::int(port, "/containerPort"), get::text(port, "/protocol"));
            if !ip.is_empty() && host == 0 {
                let name = get::text(port, "/name");
                // Upstream prints its struct here.
                warnings.push(format!(
                    "{at}: hostIP set without hostPort: {{Name:{name} HostPort:{host} ContainerPort:{number} Protocol:{protocol} HostIP:{ip}}}"
                ));
            }
            let others = seen.entry((number, protocol)).or_default();
            for other in others.iter() {
                let what = if ip == other.ip && host == other.host {
                    "duplicate"
                } else if host == 0 || other.host == 0 {
                    "overlapping"
                } else if host == other.host && ip.is_empty() != other.ip.is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                warnings.push(format!("{at}: {what} port definition with {}", other.at));
            }
            others.push(Port { at, ip, host });
        }
    }
}

fn affinities(spec: &Value, at: &str, warnings: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let lists = [
            ("requiredDuringSchedulingIgnoredDuringExecution", "labelSelector"),
            ("preferredDuringSchedulingIgnoredDuringExecution", "podAffinityTerm.labelSelector"),
        ];
        for (list, selector) in lists {
            for (index, term) in get::list(spec, &format!("/affinity/{kind}/{list}")).iter().enumerate() {
                if !get::has(term, &format!("/{}", selector.replace('.', "/"))) {
                    warnings.push(format!("{at}.affinity.{kind}.{list}[{index}].{selector}: {NO_SELECTOR}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: Value, expected: &[&str]) {
        assert_eq!(warnings(&json!({"metadata": {"name": "p"}, "spec": spec}), None), expected);
    }

    #[test]
    fn what_is_old_or_double_is_named() {
        check(
            json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}}),
            &["spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead"],
        );
        check(
            json!({"topologySpreadConstraints": [{"topologyKey": "zone"}]}),
            &["spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod"],
        );
        check(
            json!({"containers": [{"resources": {"limits": {"memory": "100m"}}}]}),
            &[
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            ],
        );
        let env = json!([{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "A", "value": "$(A)"}]);
        check(
            json!({"containers": [{"env": env}]}),
            &["spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply"],
        );
        let port = |host: i64| json!({"containerPort": 80, "protocol": "TCP", "hostPort": host});
        check(
            json!({"containers": [{"ports": [port(0)]}, {"ports": [port(0), port(8080)]}]}),
            &[
                "spec.containers[1].ports[0]: duplicate port definition with spec.containers[0].ports[0]",
                "spec.containers[1].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
                "spec.containers[1].ports[1]: overlapping port definition with spec.containers[1].ports[0]",
            ],
        );
        check(
            json!({"volumes": [{"gitRepo": {"repository": "x"}}]}),
            &["spec.volumes[0].gitRepo: deprecated in v1.11"],
        );
    }
}
