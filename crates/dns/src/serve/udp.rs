//! UDP: a thread for each socket, which takes what has arrived in one call, answers it where it lies and sends all answers in another.
//!
//! Threads of their own, because nothing else that the process does may delay an answer; blocking calls, because a thread that has nothing
//! else to do needs no readiness first. Only what has to be asked outside is given to the runtime.
//!
//! A socket that is kept over restarts is emptied only behind the answers: what a killed process had in its hands is answered by the next.

use std::io::{self, ErrorKind, IoSlice};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use linux::Datagrams;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg, setsockopt, sockopt};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::{Logged, Service};
use crate::metrics::{By, Tally};
use crate::respond::{Later, Reply, Transport};
use crate::wire::Rcode;
use crate::zone::Choice;

/// Messages taken in one call.
const BATCH: usize = 32;
/// Longer questions are malformed: a name and an OPT record with a few options have a fraction of it.
const LONGEST: usize = 2048;
/// Questions outside that wait at one time for one socket; more are dropped, and the client asks again.
const WAITING: usize = 4096;
/// How often a thread without work looks whether it is to end.
const LOOK_UP: Duration = Duration::from_millis(200);

/// Where an answer goes, and from which of our addresses if the socket has no address of its own.
#[derive(Debug, Clone, Copy)]
struct Peer {
    client: SocketAddr,
    from: Option<IpAddr>,
}

/// Starts the thread.
pub(super) fn spawn(socket: UdpSocket, kept: bool, service: Service) -> io::Result<JoinHandle<()>> {
    let address = socket.local_addr()?;
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(LOOK_UP))?;
    let any = address.ip().is_unspecified();
    if any && address.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    } else if any {
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    // Where the kernel cannot do that, a killed process loses a few questions, and nothing else is different.
    let kept = kept && Datagrams::peek_from_start(socket.as_fd()).is_ok();
    let tally = service.metrics.tally(Transport::Udp, address.is_ipv6());
    let runtime = Handle::current();
    let worker = Worker {
        socket: Arc::new(socket),
        any,
        kept,
        service,
        tally,
        runtime,
        waiting: Arc::new(Semaphore::new(WAITING)),
    };
    thread::Builder::new().name("dns".to_owned()).spawn(move || worker.run())
}

struct Worker {
    socket: Arc<UdpSocket>,
    /// Bound to no address: answers must name the one that was asked.
    any: bool,
    /// It outlives us.
    kept: bool,
    service: Service,
    tally: Arc<Tally>,
    runtime: Handle,
    waiting: Arc<Semaphore>,
}

impl Worker {
    fn run(self) {
        // Questions are answered in microseconds; behind a thread that uses up its whole turn one would wait for milliseconds.
        if let Err(error) = linux::process::prefer_short_turns() {
            debug!(%error, "the scheduler gives no short turns");
        }
        let mut batch = Datagrams::new(BATCH, LONGEST);
        let mut answers: Vec<Vec<u8>> = (0..BATCH).map(|_| Vec::with_capacity(LONGEST)).collect();
        let mut turn = rand::random::<u32>() as usize;
        loop {
            let ending = self.service.shutdown.is_cancelled();
            let socket = self.socket.as_fd();
            let taken = if self.kept { batch.peek(socket, !ending) } else { batch.receive(socket, !ending) };
            let taken = match taken {
                Ok(taken) => taken,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if ending {
                        return;
                    }
                    continue;
                }
                // An ICMP error of an earlier answer; the socket itself is fine.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::Interrupted) => continue,
                Err(error) => {
                    warn!(%error, "cannot receive questions");
                    thread::sleep(LOOK_UP);
                    continue;
                }
            };
            let started = Instant::now();
            let mut ready = [0; BATCH];
            let mut count = 0;
            for at in 0..taken {
                turn = turn.wrapping_add(1);
                let Some(client) = batch.sender(at) else { continue };
                let peer = Peer { client, from: if self.any { batch.receiver(at) } else { None } };
                if self.answer(batch.message(at), peer, Choice(turn), started, &mut answers[count]) {
                    if self.any {
                        send_one(&self.socket, &answers[count], &peer);
                    } else {
                        ready[count] = at;
                        count += 1;
                    }
                }
            }
            let nothing: &[u8] = &[];
            let mut replies = [(0, nothing); BATCH];
            for (reply, (at, answer)) in replies.iter_mut().zip(ready.iter().zip(&answers)) {
                *reply = (*at, answer);
            }
            batch.reply(socket, &replies[..count]);
            if self.kept
                && let Err(error) = batch.discard(socket)
            {
                warn!(%error, "some questions may be answered twice");
            }
        }
    }

    /// Whether there is an answer to be sent now.
    fn answer(&self, question: &[u8], peer: Peer, choice: Choice, started: Instant, out: &mut Vec<u8>) -> bool {
        let client = peer.client;
        match self.service.responder.respond(question, client.ip(), Transport::Udp, choice, out) {
            Reply::Silence => false,
            Reply::Written(code) => {
                let took = started.elapsed();
                self.tally.count(kind_of(out), (question.len(), out.len()), code, By::Zone, took);
                self.log(client, question, out.len(), code, took);
                true
            }
            Reply::Later(later) => {
                self.ask_outside(*later, question, peer, choice, started);
                false
            }
        }
    }

    fn log(&self, client: SocketAddr, question: &[u8], size: usize, code: Rcode, took: Duration) {
        if self.service.log_queries {
            Logged { client, question, proto: "udp", size, code, took }.log();
        }
    }

    fn ask_outside(&self, later: Later, question: &[u8], peer: Peer, choice: Choice, started: Instant) {
        let Ok(permit) = Arc::clone(&self.waiting).try_acquire_owned() else { return };
        let client = peer.client;
        let (socket, service, tally) = (Arc::clone(&self.socket), self.service.clone(), Arc::clone(&self.tally));
        let question = question.to_vec();
        self.runtime.spawn(async move {
            let kind = later.kind;
            if let Some((code, answer)) = service.responder.complete(later, choice).await {
                let took = started.elapsed();
                tally.count(kind, (question.len(), answer.len()), code, By::Outside, took);
                if service.log_queries {
                    Logged { client, question: &question, proto: "udp", size: answer.len(), code, took }.log();
                }
                send_one(&socket, &answer, &peer);
            }
            drop(permit);
        });
    }
}

fn send_one(socket: &UdpSocket, answer: &[u8], peer: &Peer) {
    let slices = [IoSlice::new(answer)];
    let client = SockaddrStorage::from(peer.client);
    let send = |control: &[ControlMessage<'_>]| {
        // A client that went away is no fault of ours.
        let _ = sendmsg(socket.as_raw_fd(), &slices, control, MsgFlags::empty(), Some(&client));
    };
    // The source address is set; the interface is left to routing.
    match peer.from {
        None => send(&[]),
        Some(IpAddr::V4(from)) => {
            let from = libc::in_addr { s_addr: u32::from(from).to_be() };
            send(&[ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: from,
                ipi_addr: from,
            })]);
        }
        Some(IpAddr::V6(from)) => {
            let from = libc::in6_addr { s6_addr: from.octets() };
            send(&[ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo { ipi6_ifindex: 0, ipi6_addr: from })]);
        }
    }
}

/// The type that an answer of ours repeats from its question; 0 without one.
pub(super) fn kind_of(answer: &[u8]) -> u16 {
    let name: usize =
        crate::wire::name::labels(answer.get(12..).unwrap_or_default()).map(|label| label.len() + 1).sum();
    let kind = answer.get(12 + name + 1..).and_then(|rest| rest.first_chunk::<2>());
    if answer.get(5) == Some(&1) { kind.map_or(0, |kind| u16::from_be_bytes(*kind)) } else { 0 }
}
