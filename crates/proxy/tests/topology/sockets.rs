//! Clients and echo servers of the topology. All block; namespaces are entered only to open a socket.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use linux::NetNs;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// Long enough for a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// After so long a UDP question is asked again: its packet is lost when its flow is forgotten while it is on its way.
const AGAIN: Duration = Duration::from_millis(500);
/// Long enough to say that nothing comes.
pub const SILENCE: Duration = Duration::from_millis(350);

/// What a connection met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Met {
    /// `name:port` of who answered, and the address that it saw.
    Answer {
        endpoint: String,
        peer: IpAddr,
    },
    Refused,
    Nothing,
}

/// Answers in a namespace on all its addresses. Threads end with the test's process.
pub fn echo(netns: &NetNs, name: &str, tcp: &[u16], udp: &[u16]) {
    for port in tcp {
        let listener = netns.run(|| TcpListener::bind(("::", *port)).unwrap()).unwrap();
        let answer = format!("{name}:{port}");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, answer) = (stream.unwrap(), answer.clone());
                std::thread::spawn(move || {
                    let peer = stream.peer_addr().unwrap().ip().to_canonical();
                    let mut byte = [0];
                    while stream.read(&mut byte).is_ok_and(|n| n > 0) {
                        if stream.write_all(format!("{answer} {peer}\n").as_bytes()).is_err() {
                            break;
                        }
                    }
                });
            }
        });
    }
    for port in udp {
        let answer = format!("{name}:{port}");
        let sockets = udp_servers(netns, *port);
        for socket in sockets {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut byte = [0; 16];
                while let Ok((_, peer)) = socket.recv_from(&mut byte) {
                    let peer_ip = peer.ip().to_canonical();
                    let _ = socket.send_to(format!("{answer} {peer_ip}\n").as_bytes(), peer);
                }
            });
        }
    }
}

/// One socket for each address that probes use: a socket on all addresses would answer from another one.
fn udp_servers(netns: &NetNs, port: u16) -> Vec<UdpSocket> {
    let mut addresses: Vec<IpAddr> = ["0.0.0.0", "::"].map(|a| a.parse().unwrap()).into();
    let own =
        netns.run(|| UdpSocket::bind("0.0.0.0:0").and_then(|s| s.connect("192.0.2.1:9").and_then(|()| s.local_addr())));
    addresses.extend(own.unwrap().ok().map(|address| address.ip()));
    addresses.dedup();
    let mut sockets = Vec::new();
    for address in addresses {
        let opened = netns.run(|| -> std::io::Result<UdpSocket> {
            let socket = Socket::new(Domain::for_address(SocketAddr::new(address, port)), Type::DGRAM, None)?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new(address, port).into())?;
            Ok(socket.into())
        });
        sockets.extend(opened.unwrap());
    }
    sockets
}

/// An open connection or flow.
pub enum Open {
    Tcp(TcpStream),
    /// With how often a question is asked.
    Udp(UdpSocket, u32),
}

/// Opens a connection; `source` binds it to an address, `port` to a port.
pub fn open(
    netns: &NetNs,
    source: Option<IpAddr>,
    port: u16,
    to: SocketAddr,
    udp: bool,
    patience: Duration,
) -> Result<Open, Met> {
    let opened = netns.run(|| -> std::io::Result<Open> {
        let kind = if udp { Type::DGRAM } else { Type::STREAM };
        let socket = Socket::new(Domain::for_address(to), kind, None)?;
        socket.set_reuse_address(true)?;
        if source.is_some() || port > 0 {
            let any = if to.is_ipv6() { "::".parse() } else { "0.0.0.0".parse() };
            socket.bind(&SocketAddr::new(source.unwrap_or(any.unwrap()), port).into())?;
        }
        if udp {
            socket.connect(&to.into())?;
        } else {
            socket.connect_timeout(&to.into(), patience)?;
        }
        socket.set_read_timeout(Some(if udp { patience.min(AGAIN) } else { patience }))?;
        let tries = patience.as_millis().div_ceil(AGAIN.as_millis()) as u32;
        Ok(if udp { Open::Udp(socket.into(), tries) } else { Open::Tcp(socket.into()) })
    });
    opened.unwrap().map_err(|error| met(&error))
}

fn met(error: &std::io::Error) -> Met {
    use std::io::ErrorKind;
    match error.kind() {
        // A local client whose packet a rule rejects is told `not permitted` by the hook before the ICMP error comes.
        ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied => Met::Refused,
        _ => Met::Nothing,
    }
}

impl Open {
    /// Sends a question and waits for the answer. UDP asks again: its packets may be lost.
    pub fn ask(&mut self) -> Met {
        match self {
            Open::Tcp(stream) => {
                let mut answer = [0; 128];
                let read = stream.write_all(b"?").and_then(|()| stream.read(&mut answer));
                read_answer(read, &answer)
            }
            Open::Udp(socket, tries) => {
                let mut asked = (0..*tries).map(|_| ask_udp(socket));
                asked.find(|met| *met != Met::Nothing).unwrap_or(Met::Nothing)
            }
        }
    }
}

fn ask_udp(socket: &UdpSocket) -> Met {
    let mut answer = [0; 128];
    let read = match socket.send(b"?") {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            // Rejected and dropped look the same to send(2); only after the former an ICMP error is waiting.
            socket.recv(&mut answer).and(Err(error))
        }
        sent => sent.and_then(|_| socket.recv(&mut answer)),
    };
    read_answer(read, &answer)
}

fn read_answer(read: std::io::Result<usize>, answer: &[u8]) -> Met {
    match read {
        Ok(0) => Met::Nothing,
        Ok(n) => {
            let text = std::str::from_utf8(&answer[..n]).unwrap();
            let (endpoint, peer) = text.trim().split_once(' ').unwrap();
            Met::Answer { endpoint: endpoint.into(), peer: peer.parse().unwrap() }
        }
        Err(error) => met(&error),
    }
}

/// `GET path`: status, the weight header and the document.
pub fn http(netns: &NetNs, to: SocketAddr, path: &str) -> Result<(u16, Option<String>, Value), Met> {
    let Open::Tcp(mut stream) = open(netns, None, 0, to, false, PATIENCE)? else { return Err(Met::Nothing) };
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let weight = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("x-load-balancing-endpoint-weight").then(|| value.to_owned())
    });
    Ok((status, weight, serde_json::from_str(body).unwrap_or(Value::Null)))
}
