//! What a route asks before a request is passed on: redirects, preflights, source ranges, passwords. In the order in which nginx asks.

use std::net::IpAddr;
use std::rc::Rc;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, AUTHORIZATION, CONTENT_LENGTH,
    HOST, ORIGIN, VARY, WWW_AUTHENTICATE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::body::Body;
use super::client::Client;
use super::refusal::{Refusal, plain, redirect};
use super::worker::Worker;
use crate::routes::{Cors, Credentials, Gate, Options, Route};

/// Where certificate authorities look for proofs, over plain HTTP: never redirected.
const ACME: &str = "/.well-known/acme-challenge/";

/// An answer that makes it unnecessary to ask the backend. `path` is in normal form.
pub(crate) async fn ask(
    worker: &Rc<Worker>,
    client: &Client,
    route: &Route,
    parts: &Parts,
    path: &str,
) -> Result<Option<Response<Body>>, Refusal> {
    let options = &*route.options;
    if let Some(redirect) = redirected(worker, client, route, parts, path) {
        return Ok(Some(redirect));
    }
    if let Some(cors) = &options.cors
        && parts.method == Method::OPTIONS
    {
        return Ok(Some(preflight(cors, parts.headers.get(ORIGIN))));
    }
    if !allowed(options, client.peer.ip().to_canonical()) {
        return Err(Refusal::Forbidden);
    }
    if !matches!(route.gate, Gate::Open)
        && let Some(challenge) = Box::pin(challenge(worker, route, &parts.headers)).await?
    {
        return Ok(Some(challenge));
    }
    let length = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match (options.body_limit, length) {
        (Some(limit), Some(length)) if length > limit => Err(Refusal::TooLarge),
        (_, _) => Ok(None),
    }
}

fn redirected(worker: &Worker, client: &Client, route: &Route, parts: &Parts, path: &str) -> Option<Response<Body>> {
    let options = &*route.options;
    let to_tls = options.force_ssl_redirect || (options.ssl_redirect && route.tls);
    if to_tls
        && !client.door.tls
        && !path.starts_with(ACME)
        && let Some(to) = https(worker, parts)
    {
        return Some(redirect(StatusCode::PERMANENT_REDIRECT, to));
    }
    if let Some(to) = &options.redirect {
        let status = StatusCode::from_u16(to.status).unwrap_or(StatusCode::FOUND);
        return Some(redirect(status, to.to.clone()));
    }
    match &options.app_root {
        Some(root) if path == "/" => Some(redirect(StatusCode::FOUND, root.clone())),
        Some(_) | None => None,
    }
}

fn https(worker: &Worker, parts: &Parts) -> Option<HeaderValue> {
    let host = match parts.uri.authority() {
        Some(authority) => authority.as_str(),
        None => parts.headers.get(HOST)?.to_str().ok()?,
    };
    // Without the port, which was that of the plain listener; an IPv6 address keeps its brackets.
    let end =
        host.rfind(']').map_or_else(|| host.find(':'), |bracket| host[bracket..].find(':').map(|at| bracket + at));
    let host = &host[..end.unwrap_or(host.len())];
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let text = match worker.shared.https_port {
        443 => format!("https://{host}{target}"),
        port => format!("https://{host}:{port}{target}"),
    };
    HeaderValue::from_str(&text).ok()
}

fn allowed(options: &Options, peer: IpAddr) -> bool {
    let among = |ranges: &[ipnet::IpNet]| ranges.iter().any(|range| range.contains(&peer));
    (options.allow.is_empty() || among(&options.allow)) && !among(&options.deny)
}

fn preflight(cors: &Cors, origin: Option<&HeaderValue>) -> Response<Body> {
    let mut response = plain(StatusCode::NO_CONTENT, String::new());
    response.headers_mut().remove(http::header::CONTENT_TYPE);
    if allow_origin(cors, origin, response.headers_mut()) {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, cors.methods.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, cors.headers.clone());
        headers.insert(ACCESS_CONTROL_MAX_AGE, cors.max_age.clone());
    }
    response
}

/// Says who may read a response, in place of what the backend says.
pub(crate) fn share(cors: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    if allow_origin(cors, origin, headers) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, cors.methods.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, cors.headers.clone());
        headers.insert(ACCESS_CONTROL_MAX_AGE, cors.max_age.clone());
        if let Some(expose) = &cors.expose {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

fn allow_origin(cors: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) -> bool {
    for name in [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS] {
        headers.remove(name);
    }
    let said = origin.and_then(|origin| origin.to_str().ok()).is_some_and(|origin| cors.allows(origin));
    let allowed = match origin {
        Some(origin) if said && !cors.allows_all() => origin.clone(),
        Some(_) | None if cors.allows_all() => HeaderValue::from_static("*"),
        Some(_) | None => return false,
    };
    if allowed != "*" {
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    if cors.credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    true
}

/// Asks for a password, unless a right one was shown.
async fn challenge(worker: &Rc<Worker>, route: &Route, headers: &HeaderMap) -> Result<Option<Response<Body>>, Refusal> {
    let users = match &route.gate {
        Gate::Open => return Ok(None),
        Gate::Closed => return Err(Refusal::NotConfigured),
        Gate::Users(users) => users,
    };
    if let Some(header) = headers.get(AUTHORIZATION)
        && let Some(shown) = Credentials::parse(header.as_bytes())
        && worker.admit(users, shown).await
    {
        return Ok(None);
    }
    let realm = route.options.auth.as_ref().map_or("", |auth| &auth.realm);
    let mut response =
        plain(StatusCode::UNAUTHORIZED, "401 Unauthorized: a user and its password are asked for\n".into());
    let challenge =
        HeaderValue::from_str(&format!("Basic realm=\"{realm}\"")).unwrap_or(HeaderValue::from_static("Basic"));
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    Ok(Some(response))
}
