//! What the nodes' kernels tracked of an attempt that failed: which pod it was sent to, and how far it came.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::command::{output, program};

/// States of TCP in which a connection that failed is left; one that ended well is in others.
const FAILED: &[&str] = &["SYN_SENT", "SYN_RECV", "CLOSE "];

/// Of one node; more say nothing more.
const MOST: usize = 3;

/// The nodes' network namespaces.
#[derive(Clone, Default)]
pub struct Evidence {
    pub namespaces: Arc<Vec<PathBuf>>,
}

impl Evidence {
    /// A line for each flow that may be the one; without the port it came from, every flow to the address that has failed.
    pub fn of(&self, address: SocketAddr, udp: bool, port: Option<u16>) -> String {
        let mut found = String::new();
        for namespace in self.namespaces.iter() {
            let net = format!("--net={}", namespace.display());
            let node = namespace.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let tracked = output(&mut program("nsenter", &[&net, "cat", "/proc/net/nf_conntrack"])).unwrap_or_default();
            for line in tracked.lines().filter(|line| is_it(line, address, udp, port)).take(MOST) {
                let words: Vec<&str> = line.split_whitespace().collect();
                found.push_str(&format!("\n      {node} tracks {}", words.join(" ")));
            }
        }
        found
    }
}

fn is_it(line: &str, address: SocketAddr, udp: bool, port: Option<u16>) -> bool {
    let protocol = if udp { " udp " } else { " tcp " };
    let to = format!("dst={} ", address.ip());
    if !line.contains(protocol) {
        return false;
    }
    match port {
        // Beyond the first node it has another destination, and still this source.
        Some(port) => line.contains(&format!("sport={port} ")),
        None => line.contains(&to) && FAILED.iter().any(|state| line.contains(state)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_that_failed_are_found() {
        let refused = "ipv4     2 tcp      6 9 CLOSE src=192.168.94.1 dst=10.96.1.2 sport=40000 dport=80 src=10.244.1.2 dst=192.168.94.2 sport=8080 dport=40000 [ASSURED] mark=0 use=1";
        let address = "10.96.1.2:80".parse().unwrap();
        assert!(is_it(refused, address, false, None));
        assert!(!is_it(refused, address, true, None));
        assert!(!is_it(&refused.replace(" CLOSE ", " TIME_WAIT "), address, false, None));
        assert!(!is_it(refused, "10.96.1.3:80".parse().unwrap(), false, None));
        assert!(is_it(&refused.replace(" tcp ", " udp "), address, true, Some(40000)));
        assert!(!is_it(&refused.replace(" tcp ", " udp "), address, true, Some(4000)));
    }
}
