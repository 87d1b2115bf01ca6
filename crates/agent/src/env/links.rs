//! Discovery by environment: the variables that tell a container of the Services that exist when it starts.
//!
//! The names and their order are those of the kubelet (and, for `*_PORT_*`, of Docker's old container links). Which Services count is
//! decided here too, so that the rule stands in one place: those of the pod's namespace that have a cluster IP, and always
//! `default/kubernetes`.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use k8s_openapi::api::core::v1::{Service, ServicePort};

const MASTER_NAMESPACE: &str = "default";
const MASTER_NAME: &str = "kubernetes";

/// The variables for a pod of `namespace`, in the order of the Services' names; `enabled` is `spec.enableServiceLinks`.
pub fn variables<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    enabled: bool,
) -> Vec<(String, String)> {
    visible(services, namespace, enabled).into_values().flat_map(of_service).collect()
}

/// How many Services [`variables`] would name: for the message of an environment that is too large.
pub fn count<'a>(services: impl IntoIterator<Item = &'a Service>, namespace: &str, enabled: bool) -> usize {
    visible(services, namespace, enabled).len()
}

fn visible<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    enabled: bool,
) -> BTreeMap<&'a str, &'a Service> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services.into_iter().filter(|s| cluster_ip(s).is_some()) {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let of = service.metadata.namespace.as_deref().unwrap_or_default();
        if of == namespace && enabled {
            chosen.insert(name, service);
        } else if of == MASTER_NAMESPACE && name == MASTER_NAME {
            // A Service named `kubernetes` in the pod's own namespace wins over the API server's, as it does upstream.
            chosen.entry(name).or_insert(service);
        }
    }
    chosen
}

fn cluster_ip(service: &Service) -> Option<&str> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None")
}

fn of_service(service: &Service) -> Vec<(String, String)> {
    let (Some(ip), Some(spec)) = (cluster_ip(service), service.spec.as_ref()) else { return Vec::new() };
    let prefix = variable_name(service.metadata.name.as_deref().unwrap_or_default());
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut all = vec![(format!("{prefix}_SERVICE_HOST"), ip.to_owned())];
    if let Some(first) = ports.first() {
        all.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
    }
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            all.push((format!("{prefix}_SERVICE_PORT_{}", variable_name(name)), port.port.to_string()));
        }
    }
    for (index, port) in ports.iter().enumerate() {
        link(&mut all, &prefix, ip, index == 0, port);
    }
    all
}

fn link(all: &mut Vec<(String, String)>, prefix: &str, ip: &str, first: bool, port: &ServicePort) {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let lower = protocol.to_ascii_lowercase();
    let host = if ip.parse::<Ipv6Addr>().is_ok() { format!("[{ip}]") } else { ip.to_owned() };
    let url = format!("{lower}://{host}:{}", port.port);
    if first {
        all.push((format!("{prefix}_PORT"), url.clone()));
    }
    let stem = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_ascii_uppercase());
    all.push((stem.clone(), url));
    all.push((format!("{stem}_PROTO"), lower));
    all.push((format!("{stem}_PORT"), port.port.to_string()));
    all.push((format!("{stem}_ADDR"), ip.to_owned()));
}

fn variable_name(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(value: serde_json::Value) -> Service {
        serde_json::from_value(value).unwrap()
    }

    fn world() -> Vec<Service> {
        vec![
            service(serde_json::json!({"metadata": {"name": "kubernetes", "namespace": "default"},
                "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}})),
            service(serde_json::json!({"metadata": {"name": "activemq-service", "namespace": "news"},
                "spec": {"clusterIP": "10.96.7.9", "ports": [
                    {"name": "web", "port": 8161, "protocol": "TCP"}, {"name": "stomp", "port": 61613}]}})),
            service(serde_json::json!({"metadata": {"name": "9-lives", "namespace": "news"},
                "spec": {"clusterIP": "fd00::9", "ports": [{"port": 53, "protocol": "UDP"}]}})),
            service(serde_json::json!({"metadata": {"name": "headless", "namespace": "news"},
                "spec": {"clusterIP": "None", "ports": [{"port": 80}]}})),
            service(serde_json::json!({"metadata": {"name": "elsewhere", "namespace": "news"},
                "spec": {"type": "ExternalName", "externalName": "example.org"}})),
            service(serde_json::json!({"metadata": {"name": "other", "namespace": "shop"},
                "spec": {"clusterIP": "10.96.1.1", "ports": [{"port": 80}]}})),
        ]
    }

    fn lines(namespace: &str, enabled: bool) -> String {
        let all = variables(&world(), namespace, enabled);
        all.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("\n")
    }

    const KUBERNETES: &str = "\
KUBERNETES_SERVICE_HOST=10.96.0.1
KUBERNETES_SERVICE_PORT=443
KUBERNETES_SERVICE_PORT_HTTPS=443
KUBERNETES_PORT=tcp://10.96.0.1:443
KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443
KUBERNETES_PORT_443_TCP_PROTO=tcp
KUBERNETES_PORT_443_TCP_PORT=443
KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1";

    #[test]
    fn every_service_of_the_namespace_with_an_address_is_named() {
        let expected = format!(
            "\
9_LIVES_SERVICE_HOST=fd00::9
9_LIVES_SERVICE_PORT=53
9_LIVES_PORT=udp://[fd00::9]:53
9_LIVES_PORT_53_UDP=udp://[fd00::9]:53
9_LIVES_PORT_53_UDP_PROTO=udp
9_LIVES_PORT_53_UDP_PORT=53
9_LIVES_PORT_53_UDP_ADDR=fd00::9
ACTIVEMQ_SERVICE_SERVICE_HOST=10.96.7.9
ACTIVEMQ_SERVICE_SERVICE_PORT=8161
ACTIVEMQ_SERVICE_SERVICE_PORT_WEB=8161
ACTIVEMQ_SERVICE_SERVICE_PORT_STOMP=61613
ACTIVEMQ_SERVICE_PORT=tcp://10.96.7.9:8161
ACTIVEMQ_SERVICE_PORT_8161_TCP=tcp://10.96.7.9:8161
ACTIVEMQ_SERVICE_PORT_8161_TCP_PROTO=tcp
ACTIVEMQ_SERVICE_PORT_8161_TCP_PORT=8161
ACTIVEMQ_SERVICE_PORT_8161_TCP_ADDR=10.96.7.9
ACTIVEMQ_SERVICE_PORT_61613_TCP=tcp://10.96.7.9:61613
ACTIVEMQ_SERVICE_PORT_61613_TCP_PROTO=tcp
ACTIVEMQ_SERVICE_PORT_61613_TCP_PORT=61613
ACTIVEMQ_SERVICE_PORT_61613_TCP_ADDR=10.96.7.9
{KUBERNETES}"
        );
        assert_eq!(lines("news", true), expected);
    }

    #[test]
    fn links_can_be_switched_off_but_not_those_of_the_api_server() {
        assert_eq!(lines("news", false), KUBERNETES);
        assert_eq!(lines("default", false), KUBERNETES);
        assert_eq!(lines("default", true), KUBERNETES);
    }

    #[test]
    fn a_service_named_kubernetes_in_the_own_namespace_wins() {
        let mut all = world();
        all.push(service(serde_json::json!({"metadata": {"name": "kubernetes", "namespace": "news"},
            "spec": {"clusterIP": "10.96.4.4", "ports": [{"port": 1}]}})));
        let host = |all: &[Service]| {
            variables(all, "news", true).into_iter().find(|(k, _)| k == "KUBERNETES_SERVICE_HOST").unwrap().1
        };
        assert_eq!(host(&all), "10.96.4.4");
        all.reverse();
        assert_eq!(host(&all), "10.96.4.4");
    }
}
