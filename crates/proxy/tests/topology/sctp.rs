//! The first two packets of an SCTP association over raw sockets, for kernels that have connection tracking for SCTP and no sockets.
//!
//! RFC 9260: an INIT chunk is answered by INIT ACK. The answer carries, in a parameter that receivers skip, the endpoint's name and the
//! address that it saw.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use linux::NetNs;
use socket2::{Domain, Protocol, Socket, Type};

use super::sockets::Met;

const SCTP: i32 = 132;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
/// The upper bits tell receivers to skip it and say nothing.
const PARAMETER: u16 = 0x8000;
/// Common header, chunk header and the fields that INIT and INIT ACK share.
const FIXED: usize = 12 + 4 + 16;

/// Answers INITs to a port of the namespace. The thread ends with the test's process.
pub fn answer(netns: &NetNs, name: &str, port: u16) {
    for domain in [Domain::IPV4, Domain::IPV6] {
        let socket: UdpSocket = netns.run(|| raw(domain).unwrap()).unwrap().into();
        let name = format!("{name}:{port}");
        std::thread::spawn(move || {
            while let Ok((from, packet)) = receive(&socket) {
                let Some((source, to)) = ports(&packet).filter(|_| packet.get(12) == Some(&INIT)) else { continue };
                if to == port {
                    let text = format!("{name} {from}");
                    let _ = socket.send_to(&chunk(INIT_ACK, port, source, &text), (from, 0));
                }
            }
        });
    }
}

/// Sends an INIT and waits for its answer. Port 0 is any.
pub fn handshake(netns: &NetNs, source: Option<IpAddr>, port: u16, to: SocketAddr, patience: Duration) -> Met {
    static PORTS: AtomicU16 = AtomicU16::new(20_000);
    let port = if port == 0 { PORTS.fetch_add(1, Ordering::Relaxed) } else { port };
    let socket = netns.run(|| raw(Domain::for_address(to)).unwrap()).unwrap();
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    }
    let connected = socket.connect(&SocketAddr::new(to.ip(), 0).into());
    let socket: UdpSocket = socket.into();
    // What a rule on the way out rejects is told so at once, and an ICMP error may be waiting besides.
    let sent = connected.and_then(|()| socket.send(&chunk(INIT, port, to.port(), "")));
    let began = Instant::now();
    while let Some(left) = patience.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left)).unwrap();
        match receive(&socket) {
            Ok((_, packet)) if ports(&packet) == Some((to.port(), port)) && packet.get(12) == Some(&INIT_ACK) => {
                let text = String::from_utf8_lossy(&packet[FIXED + 4..]).trim_end_matches('\0').to_owned();
                let (endpoint, peer) = text.split_once(' ').unwrap();
                return Met::Answer { endpoint: endpoint.into(), peer: peer.parse().unwrap() };
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Met::Refused,
            Err(_) if sent.is_err() => return Met::Nothing,
            Ok(_) | Err(_) => {}
        }
    }
    Met::Nothing
}

/// A raw socket is read and written as one for datagrams.
fn raw(domain: Domain) -> std::io::Result<Socket> {
    Socket::new(domain, Type::RAW, Some(Protocol::from(SCTP)))
}

/// The sender and the SCTP packet; IPv4 sockets give the IP header too.
fn receive(socket: &UdpSocket) -> std::io::Result<(IpAddr, Vec<u8>)> {
    let mut buffer = [0; 2048];
    let (len, from) = socket.recv_from(&mut buffer)?;
    let header = if from.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
    Ok((from.ip(), buffer.get(header..len).unwrap_or_default().to_vec()))
}

fn ports(packet: &[u8]) -> Option<(u16, u16)> {
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    Some((word(0)?, word(2)?))
}

fn chunk(kind: u8, from: u16, to: u16, text: &str) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    // An INIT's verification tag is 0, its answer's is the tag that the INIT asked for.
    packet.extend(u32::from(kind == INIT_ACK).to_be_bytes());
    packet.extend([0; 4]);
    let parameter = if text.is_empty() { 0 } else { 4 + text.len() };
    packet.extend([kind, 0]);
    packet.extend((20 + parameter as u16).to_be_bytes());
    // Initiate tag, receiver window, streams out and in, first sequence number.
    packet.extend(1u32.to_be_bytes());
    packet.extend(65_536u32.to_be_bytes());
    packet.extend([0, 1, 0, 1]);
    packet.extend(1u32.to_be_bytes());
    if !text.is_empty() {
        packet.extend(PARAMETER.to_be_bytes());
        packet.extend((parameter as u16).to_be_bytes());
        packet.extend(text.as_bytes());
        packet.resize(packet.len().next_multiple_of(4), 0);
    }
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

/// CRC-32C (Castagnoli), as RFC 9260 appendix A has it.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}
