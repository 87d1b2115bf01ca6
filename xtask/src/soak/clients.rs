//! The clients: each a thread that does one thing again and again against one address, and writes down how it went.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::evidence::Evidence;

/// What takes longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// A target that is not served by then never is.
const SERVED: Duration = Duration::from_secs(60);
/// Between two attempts of one client.
pub const PAUSE: Duration = Duration::from_millis(20);
/// Where the source ports of datagrams begin, below those that the kernel chooses, and how many each client has: more than it needs until
/// the kernel has forgotten the first.
const FIRST_PORT: u16 = 10_000;
const PORTS: u16 = 2_500;

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A new connection for each request.
    Short,
    /// One connection for as long as it lives; a request on a connection that closes under it is made again on a new one, as browsers do.
    KeepAlive,
    /// A new flow for each datagram, which has to come back.
    Udp,
}

/// What a Service answers, and what an Ingress does.
pub const SERVICE: &[Kind] = &[Kind::Short, Kind::KeepAlive, Kind::Udp];
pub const INGRESS: &[Kind] = &[Kind::Short, Kind::KeepAlive];

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    /// No connection, or a datagram without an echo.
    NotConnected,
    /// A connection, and then no whole answer on it.
    NotAnswered,
    /// A kept connection ended with its pod, and the request went over a new one.
    Again,
}

/// One attempt.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Since the start of the run.
    pub at: Duration,
    pub took: Duration,
    pub outcome: Outcome,
    pub target: Arc<str>,
    /// What was said of a failure, and where the kernel had sent it.
    pub why: Option<String>,
}

/// An address of the app, by which way it is reached.
#[derive(Debug, Clone)]
pub struct Target {
    pub name: String,
    pub address: SocketAddr,
    /// What requests name as their host.
    pub host: String,
    pub kinds: &'static [Kind],
}

/// What all clients of a run share.
#[derive(Clone)]
pub struct Run {
    pub began: Instant,
    pub stop: Arc<AtomicBool>,
    pub samples: Sender<Sample>,
    pub evidence: Evidence,
}

/// Starts a client of each kind for each target; they end when the run is stopped.
pub fn start(targets: &[Target], run: &Run) -> Vec<JoinHandle<()>> {
    let mut clients = Vec::new();
    let mut ports = (0..).map(|number: u16| FIRST_PORT.saturating_add(number.saturating_mul(PORTS)));
    for target in targets {
        for kind in target.kinds {
            let word = match kind {
                Kind::Short => "new",
                Kind::KeepAlive => "kept",
                Kind::Udp => "udp",
            };
            let first_port = if *kind == Kind::Udp { ports.next().unwrap_or(0) } else { 0 };
            let client = Client {
                name: format!("{} {word}", target.name).into(),
                kind: *kind,
                target: target.clone(),
                first_port,
                run: run.clone(),
            };
            clients.push(thread::spawn(move || client.attempt_again()));
        }
    }
    clients
}

/// Waits until a target answers: a rollout that is complete to its controller may not have reached every kernel yet.
pub fn served(target: &Target) -> Result<()> {
    let start = Instant::now();
    loop {
        let asked = TcpStream::connect_timeout(&target.address, PATIENCE).and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            request(&mut stream, &target.host, "close")
        });
        match asked {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > SERVED => {
                return Err(error).with_context(|| format!("{} does not answer", target.name));
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

struct Client {
    name: Arc<str>,
    kind: Kind,
    target: Target,
    first_port: u16,
    run: Run,
}

/// Why an attempt failed, with the port that it came from where that is known.
type Ended = Result<Outcome, (Outcome, std::io::Error, Option<u16>)>;

impl Client {
    fn attempt_again(self) {
        let mut kept = None;
        // Ports in turn, so that a flow is new: one that the kernel still tracks goes where it went before.
        let mut ports = (self.first_port..self.first_port.saturating_add(PORTS)).cycle();
        while !self.run.stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            let ended = match self.kind {
                Kind::Short => self.short(),
                Kind::KeepAlive => self.keep_alive(&mut kept),
                Kind::Udp => self.udp(ports.next().unwrap_or(0)),
            };
            let took = start.elapsed();
            let (outcome, why) = match ended {
                Ok(outcome) => (outcome, None),
                Err((outcome, error, port)) => {
                    let found = self.run.evidence.of(self.target.address, self.kind == Kind::Udp, port);
                    (outcome, Some(format!("{error}{found}")))
                }
            };
            let target = Arc::clone(&self.name);
            let sample = Sample { at: start - self.run.began, took, outcome, target, why };
            if self.run.samples.send(sample).is_err() {
                return;
            }
            thread::sleep(PAUSE);
        }
    }

    fn short(&self) -> Ended {
        let mut stream = self.connect()?;
        self.answered(&mut stream, "close")?;
        Ok(Outcome::Answered)
    }

    fn keep_alive(&self, kept: &mut Option<TcpStream>) -> Ended {
        let mut outcome = Outcome::Answered;
        if let Some(mut stream) = kept.take() {
            match self.answered(&mut stream, "keep-alive") {
                Ok(()) => {
                    *kept = Some(stream);
                    return Ok(Outcome::Answered);
                }
                // The connection has ended, and with it nothing was said.
                Err((_, error, _)) if error.kind() != ErrorKind::Other => outcome = Outcome::Again,
                Err(refused) => return Err(refused),
            }
        }
        let mut stream = self.connect()?;
        self.answered(&mut stream, "keep-alive")?;
        *kept = Some(stream);
        Ok(outcome)
    }

    fn connect(&self) -> Result<TcpStream, (Outcome, std::io::Error, Option<u16>)> {
        let failed = |error: std::io::Error| (Outcome::NotConnected, error, None);
        let stream = TcpStream::connect_timeout(&self.target.address, PATIENCE).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(stream)
    }

    fn answered(&self, stream: &mut TcpStream, ending: &str) -> Result<(), (Outcome, std::io::Error, Option<u16>)> {
        let port = stream.local_addr().ok().map(|address| address.port());
        request(stream, &self.target.host, ending).map_err(|error| (Outcome::NotAnswered, error, port))
    }

    fn udp(&self, port: u16) -> Ended {
        let failed = |error: std::io::Error| (Outcome::NotConnected, error, Some(port));
        let socket = UdpSocket::bind(("0.0.0.0", port)).map_err(failed)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        // Connected, so that a refusal is heard.
        socket.connect(self.target.address).map_err(failed)?;
        socket.send(b"soak").map_err(failed)?;
        let mut buffer = [0; 16];
        let length = socket.recv(&mut buffer).map_err(failed)?;
        if &buffer[..length] == b"soak" { Ok(Outcome::Answered) } else { Err(failed(ErrorKind::InvalidData.into())) }
    }
}

/// One request, and its whole answer. An answer that is no success is an error of kind `Other`.
fn request(stream: &mut TcpStream, host: &str, connection: &str) -> std::io::Result<()> {
    let cut = || std::io::Error::new(ErrorKind::UnexpectedEof, "the answer was cut off");
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let (mut length, mut first) = (None, true);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(cut());
        }
        if first && !line.starts_with("HTTP/1.1 200") {
            return Err(std::io::Error::other(line.trim().to_owned()));
        }
        first = false;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse::<usize>().ok();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length.ok_or_else(cut)?];
    reader.read_exact(&mut body)
}
