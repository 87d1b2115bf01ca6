//! One resolver outside: an exchange with it, whether it is well, and whether it leads back to us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{error, info, warn};

use crate::metrics::Metrics;
use crate::wire::writer::OUR_PAYLOAD;

/// So many silences in a row, and a resolver counts as down.
const SILENCES: u32 = 2;
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// A silence: no answer within this.
const SILENT_AFTER: Duration = Duration::from_secs(1);
/// A loop is looked for again while there is one: someone may have mended it.
const LOOP_AGAIN: Duration = Duration::from_secs(30);

/// One resolver.
#[derive(Debug)]
pub(super) struct Upstream {
    address: SocketAddr,
    silences: AtomicU32,
    refused: AtomicBool,
    leads_back: AtomicBool,
    /// A name that nobody else asks for; if it is asked of us, this resolver asks us.
    probe: Name,
}

/// What came of an exchange.
#[derive(Debug)]
pub(super) enum Said {
    /// The name's records, or that there are none.
    Answer(Message),
    /// The resolver answered that it could not or would not; another may.
    Refusal(Message),
    Nothing,
}

/// A question as it goes out.
#[derive(Debug, Clone)]
pub(super) struct Question {
    message: Arc<Message>,
}

impl Question {
    pub(super) fn new(query: &Message, name: &Name) -> Option<Self> {
        let asked = query.queries.first()?;
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = query.metadata.checking_disabled;
        let mut question = Query::query(name.clone(), asked.query_type());
        question.set_query_class(asked.query_class());
        message.add_query(question);
        let mut edns = Edns::new();
        let dnssec_ok = query.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        edns.set_max_payload(OUR_PAYLOAD).set_version(0).set_dnssec_ok(dnssec_ok);
        message.set_edns(edns);
        Some(Question { message: Arc::new(message) })
    }
}

impl Upstream {
    pub(super) fn new(address: SocketAddr) -> Self {
        let label = format!("{:016x}", rand::random::<u64>());
        let probe = Name::from_labels([label.as_bytes(), b"loop-probe"]).unwrap_or_default();
        Upstream {
            address,
            silences: AtomicU32::new(0),
            refused: AtomicBool::new(false),
            leads_back: AtomicBool::new(false),
            probe,
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.silences.load(Ordering::Relaxed) >= SILENCES
    }

    pub(super) fn refused_last(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn leads_back(&self) -> bool {
        self.leads_back.load(Ordering::Relaxed)
    }

    /// Asks once, over TCP if the answer is cut off, and keeps account of how the resolver does.
    pub(super) async fn exchange(
        self: Arc<Self>,
        question: Question,
        deadline: Instant,
        metrics: Arc<Metrics>,
    ) -> Said {
        let started = Instant::now();
        let asking = self.ask(&question.message);
        tokio::pin!(asking);
        let patient = timeout_at(deadline.min(started + SILENT_AFTER), &mut asking).await;
        let answer = match patient {
            Ok(answer) => answer,
            Err(_) => {
                self.was_silent(&metrics);
                timeout_at(deadline, &mut asking).await.ok().flatten()
            }
        };
        let Some(answer) = answer else { return Said::Nothing };
        self.silences.store(0, Ordering::Relaxed);
        let code = answer.metadata.response_code;
        metrics.upstream_answered(self.address, &code.to_string(), started.elapsed());
        let settles = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        self.refused.store(!settles, Ordering::Relaxed);
        if settles { Said::Answer(answer) } else { Said::Refusal(answer) }
    }

    async fn ask(&self, question: &Message) -> Option<Message> {
        let answer = exchange(self.address, question).await?;
        if answer.metadata.response_code == ResponseCode::FormErr && question.edns.is_some() {
            // A server that does not know EDNS (RFC 6891, 7).
            let mut plain = question.clone();
            plain.edns = None;
            return exchange(self.address, &plain).await;
        }
        Some(answer)
    }

    fn was_silent(self: &Arc<Self>, metrics: &Metrics) {
        metrics.upstream_silent(self.address);
        if self.silences.fetch_add(1, Ordering::Relaxed) + 1 == SILENCES {
            warn!(upstream = %self.address, "resolver does not answer, others are asked first");
            tokio::spawn(Arc::clone(self).probe_until_well());
        }
    }

    async fn probe_until_well(self: Arc<Self>) {
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(Name::root(), RecordType::NS));
        while self.is_down() {
            if timeout(SILENT_AFTER, over_udp(self.address, &question)).await.ok().flatten().is_some() {
                self.silences.store(0, Ordering::Relaxed);
                info!(upstream = %self.address, "resolver answers again");
                return;
            }
            sleep(PROBE_EVERY).await;
        }
    }

    /// Asks for our own probe. If the question comes back to us, this resolver forwards to us and every name would go round for ever.
    pub(super) async fn look_for_loop(self: Arc<Self>) {
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(self.probe.clone(), RecordType::HINFO));
        loop {
            let was = self.leads_back.swap(false, Ordering::Relaxed);
            let _ = timeout(SILENT_AFTER, over_udp(self.address, &question)).await;
            match (was, self.leads_back()) {
                (_, false) => return,
                (true, true) => {}
                (false, true) => error!(
                    upstream = %self.address,
                    "resolver forwards to us: it is not asked any more\n  hint: name other resolvers, or mend the resolver's own"
                ),
            }
            sleep(LOOP_AGAIN).await;
        }
    }

    /// Whether `name` is this resolver's probe, which is remembered.
    pub(super) fn came_back(&self, name: &Name) -> bool {
        let ours = self.probe.eq_ignore_root(name);
        if ours {
            self.leads_back.store(true, Ordering::Relaxed);
        }
        ours
    }
}

/// One question over UDP, and over TCP if the answer is cut off.
pub(crate) async fn exchange(server: SocketAddr, question: &Message) -> Option<Message> {
    let answer = over_udp(server, question).await?;
    if answer.metadata.truncation { over_tcp(server, question).await } else { Some(answer) }
}

/// One question over UDP from a port by chance. Answers to other questions are passed over: someone may be guessing (RFC 5452).
async fn over_udp(server: SocketAddr, question: &Message) -> Option<Message> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let mut question = question.clone();
    question.metadata.id = rand::random();
    let bytes = question.to_vec().ok()?;
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(server).await.ok()?;
    socket.send(&bytes).await.ok()?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await.ok()?;
        if let Some(answer) = answer_to(&question, &buffer[..length]) {
            return Some(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &Message) -> Option<Message> {
    let mut question = question.clone();
    question.metadata.id = rand::random();
    let bytes = question.to_vec().ok()?;
    let length = u16::try_from(bytes.len()).ok()?.to_be_bytes();
    let mut stream = TcpStream::connect(server).await.ok()?;
    stream.write_all(&[&length, bytes.as_slice()].concat()).await.ok()?;
    let mut answer = vec![0; usize::from(stream.read_u16().await.ok()?)];
    stream.read_exact(&mut answer).await.ok()?;
    answer_to(&question, &answer)
}

fn answer_to(question: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let same = |asked: &Query| {
        question.queries.iter().all(|ours| {
            ours.name().eq_ignore_root(asked.name())
                && ours.query_type() == asked.query_type()
                && ours.query_class() == asked.query_class()
        })
    };
    // A refusal may leave the question out.
    let questions_fit = answer.queries.iter().all(same)
        && (!answer.queries.is_empty() || answer.metadata.response_code != ResponseCode::NoError);
    (answer.metadata.id == question.metadata.id && questions_fit).then_some(answer)
}
