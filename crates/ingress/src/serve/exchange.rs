//! One request and its response: admitted, routed, asked about, sent to an endpoint, and back.
//!
//! A request is sent to another endpoint only if it was not sent at all, or may be sent twice; to three at most.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{ORIGIN, REFERER, USER_AGENT};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use super::backend::{Failure, Reason, send};
use super::body::{Body, Progress, RequestBody, RequestFault};
use super::client::{Client, Serves};
use super::refusal::Refusal;
use super::worker::Worker;
use super::{admit, headers, http1, pages, policy, sticky, upgrade};
use crate::log::Line;
use crate::routes::{ATTEMPTS, Load, Place, Route};

/// How long an endpoint that takes no connection is avoided, in milliseconds.
const SUSPECT_MS: u64 = 1000;

/// What the way through found out.
#[derive(Debug, Default)]
struct Found {
    route: Option<Arc<Route>>,
}

/// Answers one request.
pub(crate) async fn answer(worker: &Rc<Worker>, client: &Rc<Client>, mut request: Request<Incoming>) -> Response<Body> {
    let active = client.begin();
    let started = Instant::now();
    let protocol = upgrade::asked(&request);
    let upgrade = protocol.map(|protocol| (protocol, hyper::upgrade::on(&mut request)));
    let (parts, incoming) = request.into_parts();
    let mut line = worker.shared.log.as_ref().map(|_| line(client, &parts, started));
    let mut found = Found::default();
    let answered = respond(worker, client, parts, incoming, upgrade, started, &mut found).await;
    let mut response = answered.unwrap_or_else(Refusal::response);
    let took = started.elapsed();
    match &found.route {
        Some(route) => route.stats.count(response.status().as_u16(), took),
        None => drop(worker.shared.metrics.unrouted.inc()),
    }
    if let (Some(log), Some(mut line)) = (&worker.shared.log, line.take()) {
        line.status = response.status();
        line.took = took;
        line.endpoint = response.body().endpoint();
        line.ingress = found.route.map(|route| route.ingress.clone());
        response.body_mut().logged(log, line);
    }
    response.body_mut().hold(active);
    response
}

fn line(client: &Client, parts: &Parts, started: Instant) -> Line {
    let host = parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    let host = parts.uri.authority().map(|authority| authority.as_str()).or(host).unwrap_or("-");
    Line {
        client: client.peer.ip().to_canonical(),
        method: parts.method.clone(),
        host: host.into(),
        target: parts.uri.path_and_query().map_or("/", |target| target.as_str()).into(),
        version: parts.version,
        status: StatusCode::OK,
        sent: 0,
        referer: parts.headers.get(REFERER).cloned(),
        agent: parts.headers.get(USER_AGENT).cloned(),
        started: started.into_std(),
        took: std::time::Duration::ZERO,
        ingress: None,
        endpoint: None,
        complete: true,
    }
}

async fn respond(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    mut parts: Parts,
    incoming: Incoming,
    upgrade: Option<(HeaderValue, OnUpgrade)>,
    started: Instant,
    found: &mut Found,
) -> Result<Response<Body>, Refusal> {
    let target = admit::admit(&parts, client.phase.is_twofold())?;
    let route = {
        let table = worker.shared.table.load();
        match client.door.serves {
            Serves::Routes => table.find(&target.host, &target.path).cloned().ok_or(Refusal::NoRoute)?,
            Serves::Names => table.find_name(&target.host).cloned().ok_or(Refusal::NoName)?,
        }
    };
    found.route = Some(Arc::clone(&route));
    if let Some(answer) = policy::ask(worker, client, &route, &parts, &target.path).await? {
        return Ok(answer);
    }
    let limited = route.limiter.as_ref().map(|limiter| {
        limiter.admit(client.peer.ip().to_canonical(), worker.millis(started)).map_err(|_| Refusal::Limited)
    });
    let place = limited.transpose()?.flatten();
    let route = detour(&route, &parts);
    let errors = pages::Wanted::of(&route, &parts);
    let rewritten = route.rewrite.as_ref().and_then(|rewrite| rewrite.apply(&target.path));
    if let Some(path) = rewritten {
        parts.uri = rewrite(&parts.uri, &path).ok_or(Refusal::BadRequest("the path cannot be rewritten"))?;
    }
    let origin = route.options.cors.as_ref().and_then(|_| parts.headers.get(ORIGIN).cloned());
    let stuck = route.options.affinity.as_ref().and_then(|a| sticky::named(a, &parts.headers, &route.backend));
    let keeps_cookie = stuck.is_some();
    let has_body = !http_body::Body::is_end_stream(&incoming);
    let (protocol, pending) = upgrade.unzip();
    headers::to_backend(&mut parts, client, &route.options, &worker.shared.trusted, protocol, has_body);
    let progress = Progress::new(started);
    let body = RequestBody::new(incoming, route.options.body_limit, worker.shared.patience.body, &progress);
    let mut request = Request::from_parts(parts, body);
    http1::origin_form(&mut request);
    let way = Way { worker, client, route: &route, progress: &progress, started, place: Cell::new(place) };
    let (mut response, endpoint) = way.forward(request, stuck, pending).await?;
    if let Some(page) = errors.and_then(|wanted| wanted.ask_for(&route, response.status())) {
        let (route, request) = page;
        let way = Way { route: &route, place: Cell::new(way.place.take()), ..way };
        response = Box::pin(way.forward(request, None, None)).await?.0;
    }
    response.body_mut().take_place(way.place.take());
    headers::to_client_unless_switching(&mut response);
    if let Some(cors) = &route.options.cors {
        policy::share(cors, origin.as_ref(), response.headers_mut());
    }
    if let Some(affinity) = &route.options.affinity
        && (!keeps_cookie || (endpoint.changed && affinity.change_on_failure))
    {
        sticky::give(affinity, &endpoint.cookie, client.door.tls, response.headers_mut());
    }
    Ok(response)
}

/// The way that this request takes: the canary's, or while there are no endpoints that of the default backend.
fn detour(route: &Arc<Route>, parts: &Parts) -> Arc<Route> {
    let canary = route.canary.as_ref().filter(|canary| canary.rule.takes(&parts.headers, &canary.turn));
    let chosen = canary.map_or(route, |canary| &canary.route);
    match &route.fallback {
        Some(fallback) if chosen.backend.set().endpoints.is_empty() => Arc::clone(fallback),
        Some(_) | None => Arc::clone(chosen),
    }
}

/// The path is replaced; the query stays, after that of the new path if it has one.
fn rewrite(uri: &Uri, path: &str) -> Option<Uri> {
    let text = match (uri.query(), path.contains('?')) {
        (Some(query), true) => format!("{path}&{query}"),
        (Some(query), false) => format!("{path}?{query}"),
        (None, _) => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(text.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// One request's way to an endpoint.
struct Way<'a> {
    worker: &'a Rc<Worker>,
    client: &'a Rc<Client>,
    route: &'a Arc<Route>,
    progress: &'a Rc<Progress>,
    started: Instant,
    /// Counts for as long as the request lasts.
    place: Cell<Option<Place>>,
}

/// Who answered.
struct Answered {
    cookie: Box<str>,
    /// It is not the one that was tried first.
    changed: bool,
}

impl Way<'_> {
    async fn forward(
        &self,
        mut request: Request<RequestBody>,
        mut stuck: Option<Load>,
        mut upgrade: Option<OnUpgrade>,
    ) -> Result<(Response<Body>, Answered), Refusal> {
        let mut tried: [SocketAddr; ATTEMPTS] = [SocketAddr::from(([0, 0, 0, 0], 0)); ATTEMPTS];
        let mut failed = 0;
        let mut fresh = false;
        let mut last = None;
        loop {
            let now = self.worker.millis(self.started);
            let load = stuck.take().or_else(|| self.route.backend.pick(now, &tried[..failed]));
            let Some(load) = load else { return Err(last.unwrap_or_else(|| self.nobody())) };
            let endpoint = Arc::clone(load.endpoint());
            let sent = match upgrade.take() {
                Some(pending) => {
                    Box::pin(self.send_upgrade(load, request, pending)).await.map_err(|(failure, pending)| {
                        upgrade = Some(pending);
                        failure
                    })
                }
                None => send(self.worker, self.route, load, request, self.progress, fresh).await,
            };
            let failure = match sent {
                Ok(response) => {
                    let answered = Answered { cookie: endpoint.cookie.clone(), changed: failed > 0 };
                    return Ok((response, answered));
                }
                Err(failure) => *failure,
            };
            if let Some(fault) = self.progress.fault.get() {
                return Err(of_client(fault));
            }
            last = Some(of_backend(failure.reason));
            let Failure { reason, request: Some(again) } = failure else { return Err(of_backend(failure.reason)) };
            request = again;
            match reason {
                // The connection had ended, which says nothing of the endpoint.
                Reason::Stale => {
                    fresh = true;
                    stuck = self.route.backend.named(&endpoint.cookie);
                }
                Reason::Connect | Reason::ConnectTimeout | Reason::Broken | Reason::Timeout => {
                    self.worker.shared.metrics.connect_failures.inc();
                    endpoint.suspect(self.worker.millis(Instant::now()) + SUSPECT_MS);
                    tried[failed] = endpoint.address;
                    failed += 1;
                    if failed == ATTEMPTS {
                        return Err(of_backend(reason));
                    }
                }
            }
            self.worker.shared.metrics.retries.inc();
        }
    }

    fn nobody(&self) -> Refusal {
        match self.route.backend.set().unavailable {
            Some(_) => Refusal::NotConfigured,
            None => Refusal::NoEndpoint,
        }
    }

    async fn send_upgrade(
        &self,
        load: Load,
        request: Request<RequestBody>,
        client: OnUpgrade,
    ) -> Result<Response<Body>, (Box<Failure>, OnUpgrade)> {
        let sent = http1::send_upgrade(self.worker, self.route, load, request).await;
        let (mut response, load) = match sent {
            Ok(answered) => answered,
            Err(failure) => return Err((failure, client)),
        };
        let options = &self.route.options;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let silence = options.tunnel_timeout.then_some(options.read_timeout);
            let tunnel = upgrade::Tunnel { load, active: self.client.begin(), place: self.place.take(), silence };
            upgrade::join(self.worker, client, hyper::upgrade::on(&mut response), tunnel);
            return Ok(response.map(|_| Body::text(String::new())));
        }
        Ok(response.map(|incoming| Body::streaming(incoming, options.read_timeout, load, None)))
    }
}

fn of_client(fault: RequestFault) -> Refusal {
    match fault {
        RequestFault::TooLarge => Refusal::TooLarge,
        RequestFault::Silent => Refusal::ClientTimeout,
        RequestFault::BrokenOff => Refusal::BadRequest("the request was broken off"),
    }
}

fn of_backend(reason: Reason) -> Refusal {
    match reason {
        Reason::Connect => Refusal::NoConnection,
        Reason::ConnectTimeout => Refusal::ConnectTimeout,
        Reason::Stale | Reason::Broken => Refusal::BadResponse,
        Reason::Timeout => Refusal::ResponseTimeout,
    }
}
