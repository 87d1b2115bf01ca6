//! What a port of a first pod is called by the Service, and where it is on others.
//!
//! kubectl has turned the Service's port into the number of the pod that it chose. A named target port may be another number elsewhere.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::object;

/// A port as the Service has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ServicePort {
    /// By its name, which may be empty: slices name their ports so.
    Named(String),
    /// A headless Service's: kubectl takes the Service's own number, whatever the target is.
    Number(u16),
}

/// A pod, and no later one of the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) uid: String,
}

impl Pod {
    pub(super) fn of(pod: &Value) -> Pod {
        Pod { name: object::name(pod).to_owned(), uid: object::meta(pod, "uid").to_owned() }
    }
}

/// How a pod stands behind a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Behind {
    /// The pod's number of the port.
    pub(super) port: u16,
    pub(super) ready: bool,
}

/// The port of the Service that leads to `number` on `pod`; the first one, if several do.
pub(super) fn service_port(service: &Value, pod: &Value, number: u16) -> Option<ServicePort> {
    let headless = service["spec"]["clusterIP"] == "None";
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let mut ports = ports.filter(|port| matches!(port["protocol"].as_str(), None | Some("TCP")));
    if headless {
        return ports.any(|port| port["port"] == number).then_some(ServicePort::Number(number));
    }
    let found = ports.find(|port| match &port["targetPort"] {
        Value::String(name) => named(pod, name) == Some(u64::from(number)),
        Value::Number(target) if target.as_u64() != Some(0) => target.as_u64() == Some(u64::from(number)),
        _ => port["port"] == number,
    })?;
    Some(ServicePort::Named(found["name"].as_str().unwrap_or_default().to_owned()))
}

/// The number of a container's port, by its name.
fn named(pod: &Value, name: &str) -> Option<u64> {
    let containers = ["containers", "initContainers"].into_iter().flat_map(|list| pod["spec"][list].as_array());
    let ports = containers.flatten().flat_map(|container| container["ports"].as_array()).flatten();
    ports.into_iter().find(|port| port["name"] == name)?["containerPort"].as_u64()
}

/// The pods behind the Service, as its slices have them.
pub(super) fn behind(slices: &[Value], service: &str, port: &ServicePort) -> BTreeMap<Pod, Behind> {
    let own = slices.iter().filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service);
    let mut found = BTreeMap::new();
    for slice in own {
        let number = match port {
            ServicePort::Number(number) => Some(*number),
            ServicePort::Named(name) => slice["ports"].as_array().into_iter().flatten().find_map(|one| {
                let is = one["name"].as_str().unwrap_or_default() == name
                    && matches!(one["protocol"].as_str(), None | Some("TCP"));
                is.then(|| u16::try_from(one["port"].as_u64()?).ok())?
            }),
        };
        let Some(port) = number else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let target = &endpoint["targetRef"];
            if target["kind"] == "Pod"
                && let (Some(name), Some(uid)) = (target["name"].as_str(), target["uid"].as_str())
            {
                let ready = endpoint["conditions"]["ready"] != false;
                found.insert(Pod { name: name.to_owned(), uid: uid.to_owned() }, Behind { port, ready });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_number_of_the_first_pod_is_a_port_of_the_service() {
        let pod = json!({"spec": {
            "containers": [{"ports": [{"name": "http", "containerPort": 8080}]}],
            "initContainers": [{"ports": [{"name": "side", "containerPort": 9000}]}],
        }});
        let service = json!({"spec": {"clusterIP": "10.96.0.9", "ports": [
            {"name": "udp", "port": 80, "targetPort": 8080, "protocol": "UDP"},
            {"name": "web", "port": 80, "targetPort": "http"},
            {"name": "same", "port": 81, "targetPort": 8080},
            {"name": "side", "port": 82, "targetPort": "side"},
            {"name": "plain", "port": 83},
            {"name": "number", "port": 84, "targetPort": 8400, "protocol": "TCP"},
        ]}});
        let check = |number, expected: Option<&str>| {
            let expected = expected.map(|name| ServicePort::Named(name.to_owned()));
            assert_eq!(service_port(&service, &pod, number), expected, "{number}");
        };
        check(8080, Some("web"));
        check(9000, Some("side"));
        check(83, Some("plain"));
        check(8400, Some("number"));
        check(84, None);
        check(80, None);
        let headless = json!({"spec": {"clusterIP": "None", "ports": [{"port": 80, "targetPort": "http"}]}});
        assert_eq!(service_port(&headless, &pod, 80), Some(ServicePort::Number(80)));
        assert_eq!(service_port(&headless, &pod, 8080), None);
    }

    #[test]
    fn pods_behind_the_service_have_each_their_number() {
        let endpoint = |name: &str, ready: Value| json!({"targetRef": {"kind": "Pod", "name": name, "uid": format!("uid-{name}")}, "conditions": {"ready": ready}});
        let slice = |service: &str, port: u16, endpoints: Vec<Value>| {
            json!({"metadata": {"labels": {"kubernetes.io/service-name": service}}, "endpoints": endpoints,
                "ports": [{"name": "other", "port": 1}, {"name": "web", "port": port, "protocol": "TCP"}]})
        };
        let elsewhere = json!({"addresses": ["192.0.2.1"], "conditions": {"ready": true}});
        let slices = [
            slice("web", 8080, vec![endpoint("a", json!(true)), endpoint("b", json!(false)), elsewhere]),
            slice("web", 8081, vec![endpoint("c", Value::Null)]),
            slice("other", 8082, vec![endpoint("d", json!(true))]),
        ];
        let check = |port: ServicePort, expected: &[(&str, u16, bool)]| {
            let found = behind(&slices, "web", &port);
            let found: Vec<_> = found.iter().map(|(pod, one)| (pod.name.as_str(), one.port, one.ready)).collect();
            assert_eq!(found, expected, "{port:?}");
        };
        check(ServicePort::Named("web".into()), &[("a", 8080, true), ("b", 8080, false), ("c", 8081, true)]);
        check(ServicePort::Number(80), &[("a", 80, true), ("b", 80, false), ("c", 80, true)]);
        check(ServicePort::Named(String::new()), &[]);
    }
}
