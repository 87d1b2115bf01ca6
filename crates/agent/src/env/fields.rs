//! The downward API: what a pod may ask of itself, by field path or by resource.
//!
//! One set of rules for environment variables and for volumes; the values are those of the moment of asking.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::{self, Milli};

/// Why a reference to the pod's own fields has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    #[error("container {0} not found")]
    Container(String),
    #[error("unsupported container resource : {0}")]
    Resource(String),
    #[error("`{0}` is not a quantity")]
    Quantity(String),
}

/// What a pod is told about where it runs, before its status says so.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    pub node_name: String,
    pub host_ips: Vec<String>,
    pub pod_ips: Vec<String>,
    /// What the node can give: the limit of a container that names none.
    pub allocatable: BTreeMap<String, Quantity>,
}

/// The value at `path`.
pub fn field(pod: &Pod, at: &Placement, path: &str) -> Result<String, FieldError> {
    if let Some((map, key)) = subscript(path) {
        let from = match map {
            "metadata.labels" => pod.metadata.labels.as_ref(),
            "metadata.annotations" => pod.metadata.annotations.as_ref(),
            _ => return Err(FieldError::Path(path.to_owned())),
        };
        return Ok(from.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let first = |all: &[String]| all.first().cloned().unwrap_or_default();
    Ok(match path {
        "metadata.name" => pod.metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => pod.metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => pod.metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => all_pairs(pod.metadata.labels.as_ref()),
        "metadata.annotations" => all_pairs(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => at.node_name.clone(),
        "spec.serviceAccountName" => pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => first(&at.host_ips),
        "status.hostIPs" => at.host_ips.join(","),
        "status.podIP" => first(&at.pod_ips),
        "status.podIPs" => at.pod_ips.join(","),
        _ => return Err(FieldError::Path(path.to_owned())),
    })
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// `key="value"` lines, sorted by key, values quoted as Go quotes them.
fn all_pairs(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", go_quoted(v)));
    lines.collect::<Vec<_>>().join("\n")
}

fn go_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The amount that `selector` asks for; `own` is the container that asks, for a selector that names none.
pub fn resource(pod: &Pod, own: &Container, at: &Placement, s: &ResourceFieldSelector) -> Result<String, FieldError> {
    let container = match s.container_name.as_deref().filter(|name| !name.is_empty()) {
        None => own,
        Some(name) => named(pod, name).ok_or_else(|| FieldError::Container(name.to_owned()))?,
    };
    let unsupported = || FieldError::Resource(s.resource.clone());
    let (side, name) = s.resource.split_once('.').ok_or_else(unsupported)?;
    if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !name.starts_with("hugepages-") {
        return Err(unsupported());
    }
    let resources = container.resources.as_ref();
    let given = match side {
        "limits" => resources.and_then(|r| r.limits.as_ref()).and_then(|l| l.get(name)).or(at.allocatable.get(name)),
        "requests" => resources.and_then(|r| r.requests.as_ref()).and_then(|r| r.get(name)),
        _ => return Err(unsupported()),
    };
    let amount = given.map_or(Ok(Milli(0)), read)?;
    let divisor = s.divisor.as_ref().map_or(Ok(Milli(1000)), read)?;
    Ok(amount.divided_by(divisor).to_string())
}

fn read(quantity: &Quantity) -> Result<Milli, FieldError> {
    quantity::parse(quantity).ok_or_else(|| FieldError::Quantity(quantity.0.clone()))
}

fn named<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web-1", "namespace": "shop", "uid": "u-1",
                "labels": {"b": "say \"hi\"", "a": "1"}, "annotations": {"example.org/x": "line\nline"}},
            "spec": {"serviceAccountName": "clerk", "containers": [
                {"name": "web", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}},
                {"name": "side"}]},
        }))
        .unwrap()
    }

    fn place() -> Placement {
        Placement {
            node_name: "n1".into(),
            host_ips: vec!["192.168.7.2".into()],
            pod_ips: vec!["10.244.0.5".into(), "fd00::5".into()],
            allocatable: [("cpu", "2"), ("memory", "1Gi")].map(|(k, v)| (k.into(), Quantity(v.into()))).into(),
        }
    }

    #[test]
    fn fields_by_path() {
        for (path, value) in [
            ("metadata.name", "web-1"),
            ("metadata.namespace", "shop"),
            ("metadata.uid", "u-1"),
            ("metadata.labels", "a=\"1\"\nb=\"say \\\"hi\\\"\""),
            ("metadata.labels['a']", "1"),
            ("metadata.labels['gone']", ""),
            ("metadata.annotations['example.org/x']", "line\nline"),
            ("spec.nodeName", "n1"),
            ("spec.serviceAccountName", "clerk"),
            ("status.hostIP", "192.168.7.2"),
            ("status.podIP", "10.244.0.5"),
            ("status.podIPs", "10.244.0.5,fd00::5"),
        ] {
            assert_eq!(field(&pod(), &place(), path).as_deref(), Ok(value), "{path}");
        }
        assert_eq!(field(&pod(), &place(), "spec.x"), Err(FieldError::Path("spec.x".into())));
    }

    #[test]
    fn resources_by_name_and_divisor() {
        let pod = pod();
        let web = &pod.spec.as_ref().unwrap().containers[0];
        for (container, name, divisor, value) in [
            (None, "limits.cpu", None, "2"),
            (None, "limits.cpu", Some("1m"), "1500"),
            (None, "requests.cpu", Some("1m"), "250"),
            (None, "limits.memory", None, "67108864"),
            (None, "limits.memory", Some("1Mi"), "64"),
            (None, "limits.memory", Some("0"), "67108864"),
            (None, "requests.memory", None, "0"),
            (Some("side"), "limits.memory", Some("1Mi"), "1024"),
            (Some("side"), "limits.cpu", None, "2"),
        ] {
            let selector = ResourceFieldSelector {
                container_name: container.map(str::to_owned),
                resource: name.into(),
                divisor: divisor.map(|d: &str| Quantity(d.into())),
            };
            assert_eq!(resource(&pod, web, &place(), &selector).as_deref(), Ok(value), "{name} {divisor:?}");
        }
    }
}
