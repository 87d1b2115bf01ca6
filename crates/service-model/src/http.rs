//! Which port of a Service speaks HTTP, for those who give it a URL.

use k8s_openapi::api::core::v1::{Service, ServicePort};

/// The number of the port that speaks HTTP: one that says so, one with a usual number, or the only one.
pub fn http_port(service: &Service) -> Option<u16> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let ports = spec.ports.as_deref().unwrap_or_default();
    let tcp = || ports.iter().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    let named = tcp().find(|port| says_http(port));
    let usual = || tcp().find(|port| [80, 8080].contains(&port.port));
    let only = || tcp().next().filter(|port| ports.len() == 1 && !says_otherwise(port));
    let port = named.or_else(usual).or_else(only)?;
    u16::try_from(port.port).ok()
}

fn said(port: &ServicePort) -> &str {
    port.app_protocol.as_deref().or(port.name.as_deref()).unwrap_or_default()
}

fn says_http(port: &ServicePort) -> bool {
    let said = said(port);
    said == "http"
        || said.starts_with("http-")
        || said == "web"
        || said == "kubernetes.io/ws"
        || said == "kubernetes.io/h2c"
}

/// Protocols that are no HTTP for certain; a browser would only hang on them.
fn says_otherwise(port: &ServicePort) -> bool {
    let others = [
        "amqp", "dns", "https", "kafka", "ldap", "mongo", "mqtt", "mysql", "postgres", "redis", "smtp", "ssh", "stomp",
    ];
    others.iter().any(|other| said(port).contains(other)) || [22, 25, 53, 443, 3306, 5432, 6379].contains(&port.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ports: &[(&str, i32)], expected: Option<u16>) {
        let port = |(name, port): &(&str, i32)| ServicePort {
            name: (!name.is_empty()).then(|| (*name).to_owned()),
            port: *port,
            ..ServicePort::default()
        };
        let mut service = Service::default();
        service.spec.get_or_insert_default().ports = Some(ports.iter().map(port).collect());
        assert_eq!(http_port(&service), expected, "{ports:?}");
    }

    #[test]
    fn the_port_that_speaks_http_is_found() {
        check(&[("", 80)], Some(80));
        check(&[("", 3000)], Some(3000));
        check(&[("admin", 9000), ("http", 8161)], Some(8161));
        check(&[("stomp", 61613), ("http-admin", 8161)], Some(8161));
        check(&[("a", 1000), ("b", 8080)], Some(8080));
        check(&[("stomp", 61613)], None);
        check(&[("", 5432)], None);
        check(&[("https", 8443)], None);
        check(&[("", 443)], None);
        check(&[("a", 1000), ("b", 2000)], None);
        check(&[], None);
    }
}
