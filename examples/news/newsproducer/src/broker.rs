//! Where the broker is: by the environment variables that Kubernetes gives a container for each Service, or by DNS name.
//!
//! `BROKER` (host:port) is taken as it is. `BROKER_DISCOVERY=dns` uses the Service's name. Otherwise the variables of `activemq-service`
//! are read, which exist only if the Service existed when this container started.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// STOMP's registered port.
const STOMP: u16 = 61613;

/// The broker's `host:port` and how it was found, from the process environment.
pub fn discover(env: &BTreeMap<String, String>) -> Result<(String, &'static str)> {
    if let Some(address) = env.get("BROKER") {
        return Ok((address.clone(), "BROKER"));
    }
    let service = env.get("BROKER_SERVICE").map_or("activemq-service", String::as_str);
    match env.get("BROKER_DISCOVERY").map(String::as_str) {
        Some("dns") => return Ok((format!("{service}:{STOMP}"), "DNS")),
        Some("env") | None => {}
        Some(other) => bail!("BROKER_DISCOVERY is `{other}`\n  hint: `env` and `dns` are known"),
    }
    let prefix = service.to_uppercase().replace('-', "_");
    let host = env.get(&format!("{prefix}_SERVICE_HOST")).with_context(|| {
        format!("no {prefix}_SERVICE_HOST in the environment\n  hint: create Service `{service}` before this pod, or set BROKER_DISCOVERY=dns")
    })?;
    let port = env.get(&format!("{prefix}_SERVICE_PORT_STOMP")).cloned().unwrap_or_else(|| STOMP.to_string());
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    Ok((format!("{host}:{port}"), "environment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Option<String> {
        let env = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        discover(&env).ok().map(|(address, _)| address)
    }

    #[test]
    fn the_broker_is_found_by_variables_or_by_name() {
        let host = ("ACTIVEMQ_SERVICE_SERVICE_HOST", "10.96.7.7");
        let port = ("ACTIVEMQ_SERVICE_SERVICE_PORT_STOMP", "61614");
        assert_eq!(found(&[host]).as_deref(), Some("10.96.7.7:61613"));
        assert_eq!(found(&[host, port]).as_deref(), Some("10.96.7.7:61614"));
        assert_eq!(found(&[("ACTIVEMQ_SERVICE_SERVICE_HOST", "fd00::7")]).as_deref(), Some("[fd00::7]:61613"));
        assert_eq!(found(&[host, ("BROKER_DISCOVERY", "dns")]).as_deref(), Some("activemq-service:61613"));
        assert_eq!(found(&[host, ("BROKER", "a:1")]).as_deref(), Some("a:1"));
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[host, ("BROKER_DISCOVERY", "guess")]), None);
    }
}
