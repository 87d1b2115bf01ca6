//! A message in, a message out: who answers, within which limits. What the zone knows is answered at once; what has to be asked outside is
//! given back as work for later, so that no question of the cluster waits behind one.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns as MessageEdns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record};
use tokio::time::timeout;

use crate::CurrentZone;
use crate::metrics::Metrics;
use crate::outside::Outside;
use crate::search::{SearchList, Walks, rest_of_walk};
use crate::wire::name::WireName;
use crate::wire::request::{Edns, HEADER, Request};
use crate::wire::writer::{OUR_PAYLOAD, Writer, refuse};
use crate::wire::{Rcode, kind};
use crate::zone::{Answered, Choice, Node, Zone};

/// How a message came, which bounds the answer's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// Without EDNS a UDP answer has at most so many bytes (RFC 1035).
const PLAIN_UDP: u16 = 512;
/// What fits into an IPv4 datagram behind its headers.
const LARGEST_UDP: u16 = 65_507;
/// A walk on behalf of a client takes no longer; then the client walks itself, with time left before its own limit.
const WALK_WITHIN: Duration = Duration::from_millis(1500);

#[derive(Debug)]
pub(crate) struct Responder {
    zone: CurrentZone,
    outside: Arc<Outside>,
    metrics: Arc<Metrics>,
    walks: Walks,
}

/// What becomes of a message.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The answer is in the buffer.
    Written(Rcode),
    /// It must not be answered.
    Silence,
    Later(Box<Later>),
}

/// A question that has to be asked outside.
#[derive(Debug)]
pub(crate) struct Later {
    /// Header and question as they came.
    question: Vec<u8>,
    name: WireName,
    pub(crate) kind: u16,
    edns: Option<Edns>,
    limit: usize,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// The name itself, or the last of its aliases.
    Follow(Vec<WireName>),
    /// The rest of a client's walk. `plain` is the answer without it.
    Walk { plain: Vec<u8>, rest: Vec<WireName> },
}

impl Responder {
    pub(crate) fn new(zone: CurrentZone, outside: Arc<Outside>, metrics: Arc<Metrics>) -> Self {
        Responder { zone, outside, metrics, walks: Walks::default() }
    }

    /// Answers into `out`, or says what else is to be done.
    pub(crate) fn respond(
        &self,
        message: &[u8],
        client: IpAddr,
        transport: Transport,
        choice: Choice,
        out: &mut Vec<u8>,
    ) -> Reply {
        let request = match Request::read(message) {
            Ok(request) => request,
            Err(unfit) => return refuse(message, unfit, out).map_or(Reply::Silence, Reply::Written),
        };
        let limit = match transport {
            Transport::Udp => request.edns.map_or(PLAIN_UDP, |edns| edns.payload.clamp(PLAIN_UDP, LARGEST_UDP)).into(),
            Transport::Tcp => usize::from(u16::MAX),
        };
        let zone = self.zone.load();
        let reply = answer(&zone, &request, None, limit, choice, out);
        match reply {
            Reply::Written(Rcode::NxDomain) => match self.walk(&zone, &request, client) {
                None => reply,
                Some(Ok(end)) => answer(&zone, &request, Some(&end), limit, choice, out),
                Some(Err(rest)) => later(&request, limit, Work::Walk { plain: out.clone(), rest }),
            },
            Reply::Written(_) | Reply::Silence | Reply::Later(_) => reply,
        }
    }

    /// Where the client's walk goes: to a name of the cluster, or on from one outside. None if there is none or it ends with nothing.
    fn walk(&self, zone: &Zone, request: &Request<'_>, client: IpAddr) -> Option<Result<WireName, Vec<WireName>>> {
        if !matches!(request.kind, kind::A | kind::AAAA) {
            return None;
        }
        let list: &SearchList = zone.search_list(client)?;
        let mut rest = rest_of_walk(request.name.as_slice(), list)?;
        let now = Instant::now();
        if self.walks.is_later_step(client, request.name.as_slice(), now) {
            return None;
        }
        self.walks.remember(client, list, &rest, now);
        let first = rest.iter().position(|name| !matches!(zone.look_up(name), Node::Missing))?;
        self.metrics.walked();
        let goes_out = matches!(zone.look_up(&rest[first]), Node::Outside);
        rest.drain(..first);
        Some(if goes_out { Err(rest) } else { Ok(rest.swap_remove(0)) })
    }

    /// Does what was left for later. None if nothing can be said, which does not happen with messages that we have read.
    pub(crate) async fn complete(&self, later: Later, choice: Choice) -> Option<(Rcode, Vec<u8>)> {
        let (plain, rest) = match &later.work {
            Work::Follow(aliases) => return self.follow(&later, aliases).await,
            Work::Walk { plain, rest } => (plain, rest),
        };
        match timeout(WALK_WITHIN, self.walk_on(&later, rest, choice)).await {
            Ok(Some(answer)) => Some(answer),
            Ok(None) | Err(_) => Some((Rcode::NxDomain, plain.clone())),
        }
    }

    /// None if the walk ends with nothing, or in doubt.
    async fn walk_on(&self, later: &Later, rest: &[WireName], choice: Choice) -> Option<(Rcode, Vec<u8>)> {
        for name in rest {
            let zone = self.zone.load_full();
            match zone.look_up(name) {
                Node::Missing => {}
                Node::NotYet => return None,
                Node::Outside => {
                    let answer = self.ask(later, name).await?;
                    match answer.metadata.response_code {
                        ResponseCode::NXDomain => {}
                        ResponseCode::NoError => {
                            return later.compose(zone.ttl(), std::slice::from_ref(name), Some(&answer));
                        }
                        _ => return None,
                    }
                }
                _ => {
                    let mut out = Vec::new();
                    let request = Request::read(&later.question).ok()?;
                    let request = Request { edns: later.edns, ..request };
                    return match answer(&zone, &request, Some(name), later.limit, choice, &mut out) {
                        Reply::Written(code) => Some((code, out)),
                        Reply::Later(further) => match &further.work {
                            Work::Follow(aliases) => self.follow(&further, aliases).await,
                            Work::Walk { .. } => None,
                        },
                        Reply::Silence => None,
                    };
                }
            }
        }
        None
    }

    async fn follow(&self, later: &Later, aliases: &[WireName]) -> Option<(Rcode, Vec<u8>)> {
        let answer = self.ask(later, aliases.last().unwrap_or(&later.name)).await;
        later.compose(self.zone.load().ttl(), aliases, answer.as_deref())
    }

    async fn ask(&self, later: &Later, name: &[u8]) -> Option<Arc<Message>> {
        let mut query = later.message()?;
        let asked = query.queries.first_mut()?;
        asked.set_name(message_name(name)?);
        if later.edns.is_some_and(|edns| edns.dnssec_ok) {
            query.set_edns(later.our_edns());
        }
        self.outside.ask(&query).await
    }
}

/// What the zone alone answers to a UDP message: for tests and fuzzing, without sockets. False for silence and for what is asked outside.
pub fn answer_message(zone: &Zone, message: &[u8], out: &mut Vec<u8>) -> bool {
    match Request::read(message) {
        Ok(request) => {
            let limit = request.edns.map_or(PLAIN_UDP, |edns| edns.payload.clamp(PLAIN_UDP, LARGEST_UDP)).into();
            matches!(answer(zone, &request, None, limit, Choice::default(), out), Reply::Written(_))
        }
        Err(unfit) => refuse(message, unfit, out).is_some(),
    }
}

fn answer(
    zone: &Zone,
    request: &Request<'_>,
    alias: Option<&[u8]>,
    limit: usize,
    choice: Choice,
    out: &mut Vec<u8>,
) -> Reply {
    let mut writer = Writer::begin(request, limit, out);
    match zone.answer(request.name.as_slice(), request.kind, alias, choice, &mut writer) {
        Answered::Done(code) => {
            writer.finish(code, true);
            Reply::Written(code)
        }
        Answered::NotYet => {
            writer.finish(Rcode::ServFail, false);
            Reply::Written(Rcode::ServFail)
        }
        Answered::Outside(aliases) => later(request, limit, Work::Follow(aliases)),
    }
}

fn later(request: &Request<'_>, limit: usize, work: Work) -> Reply {
    let mut question = request.message[..request.question_end].to_vec();
    // One question and nothing else is left of the message.
    question[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    let name = request.name.as_slice().into();
    Reply::Later(Box::new(Later { question, name, kind: request.kind, edns: request.edns, limit, work }))
}

impl Later {
    fn message(&self) -> Option<Message> {
        Message::from_vec(&self.question).ok()
    }

    fn our_edns(&self) -> MessageEdns {
        let mut edns = MessageEdns::new();
        let dnssec_ok = self.edns.is_some_and(|edns| edns.dnssec_ok);
        edns.set_max_payload(OUR_PAYLOAD).set_version(0).set_dnssec_ok(dnssec_ok);
        edns
    }

    /// Aliases of ours, then what was said outside. If nothing was said there, an alias alone would be half a truth: SERVFAIL.
    fn compose(&self, ttl: u32, aliases: &[WireName], outside: Option<&Message>) -> Option<(Rcode, Vec<u8>)> {
        let mut response = self.message()?;
        let mut owner: Name = response.queries.first().map(Query::name)?.clone();
        response.metadata.message_type = MessageType::Response;
        response.metadata.recursion_available = true;
        response.metadata.authoritative = !aliases.is_empty();
        response.metadata.truncation = false;
        response.metadata.authentic_data = false;
        match outside {
            Some(answer) => {
                for alias in aliases {
                    let target = message_name(alias)?;
                    response.add_answer(Record::from_rdata(owner, ttl, RData::CNAME(CNAME(target.clone()))));
                    owner = target;
                }
                response.metadata.response_code = answer.metadata.response_code;
                let same = |record: &Record| aliases.is_empty() && record.name.eq_ignore_root(&owner);
                response.add_answers(answer.answers.iter().cloned().map(|mut record| {
                    // The letters as the client wrote them.
                    if same(&record) {
                        record.name.clone_from(&owner);
                    }
                    record
                }));
                if aliases.is_empty() || response.answers.is_empty() {
                    response.add_authorities(answer.authorities.iter().cloned());
                }
            }
            None => response.metadata.response_code = ResponseCode::ServFail,
        }
        let code = rcode(response.metadata.response_code);
        if self.edns.is_some() {
            response.set_edns(self.our_edns());
        }
        cut(response, self.limit).map(|bytes| (code, bytes))
    }
}

/// A name as messages have it.
pub(crate) fn message_name(name: &[u8]) -> Option<Name> {
    let mut message = Name::from_labels(crate::wire::name::labels(name)).ok()?;
    message.set_fqdn(true);
    Some(message)
}

fn rcode(code: ResponseCode) -> Rcode {
    let known = [Rcode::NoError, Rcode::FormErr, Rcode::NxDomain, Rcode::NotImp, Rcode::Refused];
    known.into_iter().find(|known| *known as u16 == u16::from(code)).unwrap_or(Rcode::ServFail)
}

/// Cuts an answer to what the client takes: additional records are a courtesy, then whole records go and TC says so (RFC 2181, 9).
fn cut(mut response: Message, limit: usize) -> Option<Vec<u8>> {
    let mut bytes = response.to_vec().ok()?;
    if bytes.len() > limit {
        response.additionals.clear();
        bytes = response.to_vec().ok()?;
    }
    while bytes.len() > limit && !(response.answers.is_empty() && response.authorities.is_empty()) {
        response.metadata.truncation = true;
        let keep = response.answers.len() * limit / bytes.len();
        response.answers.truncate(keep.min(response.answers.len().saturating_sub(1)));
        if response.answers.is_empty() {
            response.authorities.clear();
        }
        bytes = response.to_vec().ok()?;
    }
    Some(bytes)
}
