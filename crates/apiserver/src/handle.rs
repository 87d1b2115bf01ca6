//! One request: who asks, what for, may they, and the answer.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY, WARNING};
use http::request::Parts;
use http::{HeaderName, Request, Response, StatusCode};

use crate::Server;
use crate::auth::User;
use crate::body::{self, BoxError, ResponseBody, full};
use crate::fault::{Fault, Outcome};
use crate::metrics::Asked;
use crate::negotiate::{Form, Media};
use crate::query::Query;
use crate::route::{Resource, Route};
use crate::{discovery, verbs};

/// Bodies from this size on are worth compressing: upstream's threshold.
const GZIP_FROM: usize = 128 << 10;

/// A body that takes longer to come belongs to a client that is stuck.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// An answer on its way out.
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) content_type: HeaderValue,
    pub(crate) body: AnswerBody,
    pub(crate) warnings: Vec<String>,
}

pub(crate) enum AnswerBody {
    Whole(Bytes),
    /// Compressed already; only for clients that take that.
    Zipped(Bytes),
    Stream(ResponseBody),
    /// A complete response that another server made: a node's agent.
    Foreign(Box<Response<ResponseBody>>),
}

impl Answer {
    pub(crate) fn new(code: StatusCode, media: Media, body: Bytes) -> Self {
        Answer {
            code,
            content_type: HeaderValue::from_static(media.content_type()),
            body: AnswerBody::Whole(body),
            warnings: Vec::new(),
        }
    }

    pub(crate) fn text(code: StatusCode, text: impl Into<Bytes>) -> Self {
        Answer {
            code,
            content_type: HeaderValue::from_static("text/plain; charset=utf-8"),
            body: AnswerBody::Whole(text.into()),
            warnings: Vec::new(),
        }
    }

    pub(crate) fn json(code: StatusCode, value: &serde_json::Value) -> Self {
        Answer::new(code, Media::Json, crate::object::json_bytes(value))
    }

    /// A response that goes to the client as it is.
    pub(crate) fn foreign(response: Response<ResponseBody>) -> Self {
        Answer {
            code: response.status(),
            content_type: HeaderValue::from_static(""),
            body: AnswerBody::Foreign(Box::new(response)),
            warnings: Vec::new(),
        }
    }

    /// Upstream's answer for a path that no one serves.
    pub(crate) fn no_such_path() -> Self {
        Answer::text(StatusCode::NOT_FOUND, "404 page not found\n")
    }
}

/// Answers one request. It never fails: what goes wrong becomes a `Status`.
pub(crate) async fn respond<B>(server: Arc<Server>, request: Request<B>) -> Response<ResponseBody>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    let gzip = crate::negotiate::takes_gzip(&parts.headers);
    let media = Form::of(&parts.headers).map_or(Media::Json, |form| form.media);
    let begun = Instant::now();
    let query = Query::parse(parts.uri.query());
    let route = Route::of(parts.uri.path());
    let deprecation = deprecation(&route);
    // A version is always for people; schemas are for nobody to read as they come.
    let schemas = matches!(route, Route::OpenApi2 | Route::OpenApi3(_));
    let pretty = !schemas && (route == Route::Version || crate::pretty::wanted(&parts.headers, &query));
    let asked = Asked::of(&crate::auth::verb(&parts.method, &route, &query), &route);
    let mut answer = match answer(&server, parts, route, query, body).await {
        Ok(answer) => answer,
        Err(fault) => refused(&fault, media),
    };
    answer.warnings.extend(deprecation.map(str::to_owned));
    server.metrics.answered(asked, answer.code.as_u16(), begun.elapsed());
    finish(if pretty { for_people(answer) } else { answer }, gzip)
}

fn for_people(answer: Answer) -> Answer {
    let json = answer.content_type.as_bytes().starts_with(b"application/json");
    match answer.body {
        AnswerBody::Whole(bytes) if json => {
            Answer { body: AnswerBody::Whole(crate::pretty::lay_out(&bytes).into()), ..answer }
        }
        body => Answer { body, ..answer },
    }
}

/// What goes with every answer about a kind on its way out.
fn deprecation(route: &Route) -> Option<&'static str> {
    let Route::Target(target) = route else { return None };
    match target.resource {
        Resource::Stored(kind) => kind.deprecation,
        Resource::Report(report) => report.kind.deprecation,
        Resource::Review(_) | Resource::Bindings => None,
    }
}

/// A fault in the form that the client reads.
fn refused(fault: &Fault, media: Media) -> Answer {
    let status = fault.0.to_value();
    let code = StatusCode::from_u16(fault.0.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if code.is_server_error() {
        tracing::warn!(code = code.as_u16(), message = fault.0.message, "request failed");
    }
    match crate::render::write(&status, media) {
        Ok(bytes) => Answer::new(code, media, bytes),
        Err(_) => Answer::json(code, &status),
    }
}

async fn answer<B>(server: &Arc<Server>, mut parts: Parts, route: Route, query: Query, body: B) -> Outcome<Answer>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if !is_long(&route, &query) {
        query.check_timeout()?;
    }
    let user = match parts.extensions.remove::<User>() {
        Some(user) => user,
        None => crate::auth::authenticate(server, &parts)?,
    };
    let user = crate::auth::impersonate(server, user, &parts.headers)?;
    let _permit = admit(server, &user, &route, &query)?;
    crate::auth::authorize(server, &user, &parts.method, &route, parts.uri.path(), &query)?;
    if opens_a_stream(&parts, &route) {
        // A WebSocket can only be asked for with GET; what it opens is no reading.
        crate::auth::authorize(server, &user, &http::Method::POST, &route, parts.uri.path(), &query)?;
    }
    if parts.method != http::Method::GET && !matches!(route, Route::Target(_) | Route::Unknown) {
        return Err(Fault::method_not_allowed());
    }
    match route {
        Route::Target(target) => match target.resource {
            Resource::Stored(kind) => verbs::stored(server, kind, &target, parts, query, user, body).await,
            Resource::Review(review) => verbs::review(server, review, &target, &parts, &query, user, body).await,
            Resource::Report(report) => crate::reports::answer(server, report, &target, &parts, &query),
            Resource::Bindings => verbs::binding(server, &target, &parts, &query, user, body).await,
        },
        Route::Unknown => no_such_resource(parts.uri.path()),
        document => own_document(server, document, &parts, &query),
    }
}

/// Below a group that is served, what is not there is answered in the group's form; elsewhere nobody is at home.
fn no_such_resource(path: &str) -> Outcome<Answer> {
    let mut parts = path.trim_matches('/').split('/');
    let served = match (parts.next(), parts.next()) {
        (Some("api"), _) => true,
        (Some("apis"), Some(group)) => discovery::group(group).is_some(),
        _ => false,
    };
    if served { Err(api::status::Status::no_such_resource().into()) } else { Ok(Answer::no_such_path()) }
}

/// Whether a request makes a WebSocket into a Pod.
fn opens_a_stream(parts: &Parts, route: &Route) -> bool {
    let Route::Target(target) = route else { return false };
    let upgrade = parts.headers.get(http::header::UPGRADE);
    matches!(target.subresource.as_deref(), Some("attach" | "exec" | "portforward"))
        && parts.method == http::Method::GET
        && upgrade.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Whether a request waits more than it works.
fn is_long(route: &Route, query: &Query) -> bool {
    match route {
        Route::Target(target) => {
            const LONG: &[&str] = &["attach", "exec", "log", "portforward", "proxy"];
            let part = target.subresource.as_deref().unwrap_or_default();
            query.flag("watch") || LONG.contains(&part.split('/').next().unwrap_or_default())
        }
        Route::Health { .. } => true,
        _ => false,
    }
}

/// Bounds how much is worked on at once. Administrators must get through.
fn admit<'a>(
    server: &'a Server,
    user: &User,
    route: &Route,
    query: &Query,
) -> Outcome<Option<tokio::sync::SemaphorePermit<'a>>> {
    if is_long(route, query) || user.is_in("system:masters") {
        return Ok(None);
    }
    let busy = || api::status::Status::too_many_requests("Too many requests, please try again later.", 1).into();
    server.in_flight.try_acquire().map(Some).map_err(|_| busy())
}

/// What the server says about itself.
fn own_document(server: &Arc<Server>, route: Route, parts: &Parts, query: &Query) -> Outcome<Answer> {
    let json = |value: &serde_json::Value| -> Outcome<Answer> {
        let media = discovery::media(&parts.headers);
        Ok(Answer::new(StatusCode::OK, media, crate::render::write_plain(value, media)?))
    };
    let gzip = crate::negotiate::takes_gzip(&parts.headers);
    let aggregated = |core: bool| {
        discovery::aggregated(&parts.headers).map(|content_type| Answer {
            content_type: HeaderValue::from_static(content_type),
            ..Answer::json(StatusCode::OK, &discovery::aggregate(core))
        })
    };
    match route {
        Route::CoreVersions => match aggregated(true) {
            Some(answer) => Ok(answer),
            None => json(&discovery::core_versions(&server.address())),
        },
        Route::Groups => match aggregated(false) {
            Some(answer) => Ok(answer),
            None => json(&discovery::group_list()),
        },
        Route::Group(name) => discovery::group(&name).map_or_else(|| Ok(Answer::no_such_path()), |group| json(&group)),
        Route::Resources { group, version } => match discovery::resources(&group, &version) {
            Some(list) => {
                let media = discovery::media(&parts.headers);
                Ok(Answer::new(StatusCode::OK, media, crate::render::write_plain(&list, media)?))
            }
            None => no_such_resource(parts.uri.path()),
        },
        Route::OpenApi2 => crate::openapi::v2(&parts.headers, gzip),
        Route::OpenApi3(path) => crate::openapi::v3(path.as_deref(), gzip),
        Route::Version => json(&discovery::version()),
        Route::Health { probe, check } => Ok(crate::health::answer(server, probe, check.as_deref(), query)),
        Route::Metrics => {
            server.metrics.at(server.store.revision());
            let scrape = server.config.registry.scrape();
            Ok(Answer {
                content_type: HeaderValue::from_static(scrape.content_type),
                ..Answer::text(StatusCode::OK, scrape.body)
            })
        }
        Route::Keys => json(&crate::auth::token::keys(server)),
        Route::OpenIdConfiguration => json(&crate::auth::token::configuration(server)),
        Route::Backup => crate::backup::answer(server),
        Route::Index => json(
            &serde_json::json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}),
        ),
        Route::Target(_) | Route::Unknown => Ok(Answer::no_such_path()),
    }
}

fn finish(answer: Answer, gzip: bool) -> Response<ResponseBody> {
    let (body, zipped) = match answer.body {
        AnswerBody::Foreign(response) => return *response,
        AnswerBody::Stream(stream) => (stream, false),
        AnswerBody::Zipped(bytes) => (full(bytes), true),
        AnswerBody::Whole(bytes) if gzip && bytes.len() >= GZIP_FROM => match zip(&bytes) {
            Some(zipped) => (full(zipped), true),
            None => (full(bytes), false),
        },
        AnswerBody::Whole(bytes) => (full(bytes), false),
    };
    let mut response = Response::new(body);
    *response.status_mut() = answer.code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, answer.content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if zipped {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    if matches!(answer.code, StatusCode::TOO_MANY_REQUESTS | StatusCode::GATEWAY_TIMEOUT) {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    for warning in &answer.warnings {
        if let Some(value) = warning_header(warning) {
            headers.append(WARNING, value);
        }
    }
    if answer.code == StatusCode::NOT_FOUND && answer_is_plain(headers) {
        headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    }
    response
}

fn answer_is_plain(headers: &http::HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/plain"))
}

/// `299 - "text"`, as RFC 9111 had it and client-go reads it.
fn warning_header(text: &str) -> Option<HeaderValue> {
    let quoted: String = text
        .chars()
        .filter(|character| !character.is_control())
        .flat_map(|character| if matches!(character, '"' | '\\') { vec!['\\', character] } else { vec![character] })
        .collect();
    HeaderValue::from_str(&format!("299 - \"{quoted}\"")).ok()
}

fn zip(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(bytes.len() / 6), flate2::Compression::new(1));
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

/// Reads a body with the server's limit.
pub(crate) async fn read_body<B>(server: &Server, body: B) -> Outcome<Bytes>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    match tokio::time::timeout(BODY_PATIENCE, body::read(body, server.config.max_body)).await {
        Ok(body) => body,
        Err(_) => Err(api::status::Status::timeout("request did not complete within the allotted timeout", 0).into()),
    }
}
