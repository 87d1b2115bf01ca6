//! Names that are not the cluster's: asked of the resolvers outside, answers kept for as long as they allow.
//!
//! One question is asked once however many clients wait for it. A resolver that is silent is not waited for: the next one is asked
//! beside it, and the first good answer counts. Resolvers that keep silent are asked last until they answer a probe, and one that leads
//! back to us is not asked at all.

mod cache;
mod resolvers;
mod upstream;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::wire::name::WireName;
use cache::Cache;
pub use resolvers::{Stub, UpstreamSource, parse_server, search_domains};
pub(crate) use upstream::exchange;
use upstream::{Said, Upstream};

/// Below the five seconds that stub resolvers wait, so that they hear SERVFAIL rather than nothing.
const ANSWER_WITHIN: Duration = Duration::from_millis(4000);
/// A resolver that has not answered for so long gets company; the second time round there is less hurry.
const PATIENCE: [Duration; 3] = [Duration::from_millis(250), Duration::from_millis(750), Duration::from_millis(1500)];

/// What makes two questions the same: name, type, and the bits that change what a resolver says.
type Asked = (Name, RecordType, bool, bool);
type InFlight = Arc<OnceCell<Option<Arc<Message>>>>;

/// Asks the resolvers outside.
#[derive(Debug)]
pub(crate) struct Outside {
    routes: ArcSwap<Vec<Route>>,
    cache: Cache,
    in_flight: Mutex<HashMap<Asked, InFlight>>,
    metrics: Arc<Metrics>,
}

/// Which resolvers know the names below a domain. The root's route is the last.
#[derive(Debug)]
struct Route {
    domain: WireName,
    upstreams: Vec<Arc<Upstream>>,
}

impl Outside {
    pub(crate) fn new(keep: Duration, metrics: Arc<Metrics>) -> Self {
        Outside { routes: ArcSwap::default(), cache: Cache::new(keep), in_flight: Mutex::default(), metrics }
    }

    /// Sets, and for as long as it runs renews, whom to ask. Our own addresses are left out: asking them would go round.
    pub(crate) async fn follow_resolvers(
        self: Arc<Self>,
        source: UpstreamSource,
        stubs: Vec<Stub>,
        own: Vec<SocketAddr>,
        shutdown: CancellationToken,
    ) {
        let mut known: Option<Vec<SocketAddr>> = None;
        loop {
            let now: Vec<SocketAddr> = source.read().into_iter().filter(|server| !own.contains(server)).collect();
            if known.as_ref() != Some(&now) {
                let root = Stub { domain: [0].into(), servers: now.clone() };
                let routes = resolvers::routes(stubs.iter().chain([&root]), &own);
                for upstream in routes.iter().flat_map(|route| &route.upstreams) {
                    tokio::spawn(shutdown.clone().run_until_cancelled_owned(Arc::clone(upstream).look_for_loop()));
                }
                self.routes.store(Arc::new(routes));
                known = Some(now);
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(resolvers::LOOK_AGAIN) => {}
            }
        }
    }

    /// The answer to `query`, from the cache or outside; none when no resolver answers in time.
    pub(crate) async fn ask(&self, query: &Message) -> Option<Arc<Message>> {
        let question = query.queries.first()?;
        let name = question.name().to_lowercase();
        if question.query_type() == RecordType::HINFO && self.is_our_probe(&name) {
            return None;
        }
        let dnssec_ok = query.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        let asked = (name, question.query_type(), dnssec_ok, query.metadata.checking_disabled);
        if let Some(kept) = self.cache.get(&asked, Instant::now()) {
            self.metrics.cache_hit(kept.metadata.response_code == ResponseCode::NoError);
            return Some(Arc::new(kept));
        }
        self.metrics.cache_miss();
        let cell = Arc::clone(self.lock().entry(asked.clone()).or_default());
        let answer = cell.get_or_init(|| self.race(query, &asked)).await.clone();
        let mut in_flight = self.lock();
        if in_flight.get(&asked).is_some_and(|known| Arc::ptr_eq(known, &cell)) {
            in_flight.remove(&asked);
        }
        answer
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Asked, InFlight>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the resolver whose probe has come back to us.
    fn is_our_probe(&self, name: &Name) -> bool {
        let routes = self.routes.load();
        let mut upstreams = routes.iter().flat_map(|route| &route.upstreams);
        upstreams.any(|upstream| upstream.came_back(name))
    }

    /// Who is asked, the healthy first.
    fn candidates(&self, name: &Name) -> Vec<Arc<Upstream>> {
        let routes = self.routes.load();
        let wire = crate::wire::name::parse(&name.to_ascii());
        let below = |route: &&Route| {
            wire.as_deref().is_some_and(|wire| crate::wire::name::before(wire, &route.domain).is_some())
                || route.domain.len() == 1
        };
        let all = routes.iter().find(below).map_or(&[] as &[_], |route| &route.upstreams);
        let mut sound: Vec<_> = all.iter().filter(|upstream| !upstream.leads_back()).cloned().collect();
        sound.sort_by_key(|upstream| upstream.is_down());
        sound
    }

    async fn race(&self, query: &Message, asked: &Asked) -> Option<Arc<Message>> {
        let upstreams = self.candidates(&asked.0);
        let question = upstream::Question::new(query, &asked.0)?;
        let mut running: JoinSet<Said> = JoinSet::new();
        let deadline = tokio::time::Instant::now() + ANSWER_WITHIN;
        let mut refusal = None;
        for patience in PATIENCE {
            for upstream in &upstreams {
                if refusal.is_some() && upstream.refused_last() {
                    continue;
                }
                running.spawn(Arc::clone(upstream).exchange(question.clone(), deadline, Arc::clone(&self.metrics)));
                let until = deadline.min(tokio::time::Instant::now() + patience);
                if let Some(answer) = first_good(&mut running, until, &mut refusal).await {
                    return Some(self.keep(asked, answer));
                }
            }
            if refusal.is_some() && running.is_empty() {
                break;
            }
        }
        match first_good(&mut running, deadline, &mut refusal).await {
            Some(answer) => Some(self.keep(asked, answer)),
            None => refusal.map(Arc::new),
        }
    }

    fn keep(&self, asked: &Asked, answer: Message) -> Arc<Message> {
        Arc::new(self.cache.keep(asked.clone(), answer, Instant::now()))
    }

    /// Answers that are kept now: good ones, and denials.
    pub(crate) fn cache_entries(&self) -> (usize, usize) {
        self.cache.entries()
    }
}

/// Waits for an answer that settles the question. A refusal is remembered: another resolver may know better.
async fn first_good(
    running: &mut JoinSet<Said>,
    until: tokio::time::Instant,
    refusal: &mut Option<Message>,
) -> Option<Message> {
    while let Ok(Some(said)) = timeout_at(until, running.join_next()).await {
        match said {
            Ok(Said::Answer(answer)) => return Some(answer),
            Ok(Said::Refusal(answer)) => *refusal = Some(answer),
            Ok(Said::Nothing) | Err(_) => {}
        }
    }
    None
}
