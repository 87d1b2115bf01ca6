//! Asking a container how it is: by exec, HTTP, TCP or gRPC, and in the kubelet's words what came of it.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use containers::runtime::Runtime;
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use linux::NetNs;
use tokio::net::{TcpSocket, TcpStream};

use super::{grpc, http};

const OUTPUT_LIMIT: usize = 10 * 1024;

/// What one question came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub passed: bool,
    pub message: String,
}

impl Answer {
    pub(super) fn yes(message: impl Into<String>) -> Answer {
        Answer { passed: true, message: message.into() }
    }

    pub(super) fn no(message: impl Into<String>) -> Answer {
        Answer { passed: false, message: message.into() }
    }
}

/// Who is asked.
#[derive(Debug, Clone)]
pub struct Target {
    pub sandbox: String,
    /// The runtime's id of the run.
    pub container: String,
    pub spec: Arc<Container>,
    /// Where network probes go when they name no host.
    pub ip: Option<IpAddr>,
}

/// Who asks: sockets are opened in the node's namespace.
#[derive(Clone)]
pub struct Asker {
    pub node: NetNs,
    pub runtime: Arc<dyn Runtime>,
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Asker {
    /// Asks once.
    pub async fn ask(&self, probe: &Probe, target: &Target, timeout: Duration) -> Answer {
        if let Some(exec) = &probe.exec {
            return self.exec(exec, target, timeout).await;
        }
        if let Some(get) = &probe.http_get {
            return self.get(get, target, timeout).await;
        }
        if let Some(socket) = &probe.tcp_socket {
            return self.tcp(socket, target, timeout).await;
        }
        if let Some(call) = &probe.grpc {
            let Some(ip) = target.ip else { return Answer::no("the pod has no address") };
            let Ok(port) = u16::try_from(call.port) else { return Answer::no("invalid port") };
            let service = call.service.as_deref().unwrap_or_default();
            return grpc::check(self, SocketAddr::new(ip, port), service, timeout).await;
        }
        Answer::no("missing probe handler")
    }

    /// Runs a command in the container; its exit code is the answer.
    pub async fn exec(&self, exec: &ExecAction, target: &Target, timeout: Duration) -> Answer {
        let command = exec.command.clone().unwrap_or_default();
        let words = command.join(" ");
        let run = self.runtime.exec_sync(&target.sandbox, &target.container, command, timeout, OUTPUT_LIMIT);
        match run.await {
            Ok(output) if output.timed_out => {
                Answer::no(format!("command timed out: \"{words}\" timed out after {}s", timeout.as_secs()))
            }
            Ok(output) => {
                let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.push_str(&String::from_utf8_lossy(&output.stderr));
                Answer { passed: output.exit_code == 0, message: text }
            }
            Err(error) => Answer::no(error.to_string()),
        }
    }

    /// Sends an HTTP request; a status below 400 is a pass.
    pub async fn get(&self, get: &HTTPGetAction, target: &Target, timeout: Duration) -> Answer {
        match (port(&get.port, &target.spec), host(get.host.as_deref(), target)) {
            (Ok(port), Some(host)) => http::get(self, get, &host, port, timeout).await,
            (Err(error), _) => Answer::no(error),
            (Ok(_), None) => Answer::no("the pod has no address"),
        }
    }

    async fn tcp(&self, socket: &TCPSocketAction, target: &Target, timeout: Duration) -> Answer {
        let port = match port(&socket.port, &target.spec) {
            Ok(port) => port,
            Err(error) => return Answer::no(error),
        };
        let Some(host) = host(socket.host.as_deref(), target) else { return Answer::no("the pod has no address") };
        match tokio::time::timeout(timeout, self.connect(&host, port)).await {
            Ok(Ok(_)) => Answer::yes(""),
            Ok(Err(error)) => Answer::no(dial_error(&host, port, &error)),
            Err(_) => Answer::no(format!("dial tcp {}: i/o timeout", at(&host, port))),
        }
    }

    /// A connection from the node's namespace.
    pub async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let address = match host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, port),
            Err(_) => tokio::net::lookup_host((host, port)).await?.next().ok_or(io::ErrorKind::NotFound)?,
        };
        let open = || if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        self.node.run(open).map_err(io::Error::other)??.connect(address).await
    }
}

fn host(given: Option<&str>, target: &Target) -> Option<String> {
    given.filter(|h| !h.is_empty()).map(str::to_owned).or_else(|| target.ip.map(|ip| ip.to_string()))
}

/// A number, or the name of one of the container's ports.
pub fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match container.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name)) {
            Some(found) => found.container_port,
            None => name.parse().map_err(|_| format!("couldn't find port: {name}"))?,
        },
    };
    u16::try_from(number).ok().filter(|p| *p > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

pub(super) fn at(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// `dial tcp 10.0.0.1:80: connect: connection refused`, as Go has it.
pub(crate) fn dial_error(host: &str, port: u16, error: &io::Error) -> String {
    let cause = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {}: {cause}", at(host, port))
}
