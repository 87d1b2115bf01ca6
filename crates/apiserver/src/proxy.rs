//! The subresource `proxy` of Pods, Services and Nodes: HTTP passed on to them as it came, without the caller's credentials.
//!
//! A Pod is reached at its address, a Service at one of its ready endpoints, a Node at its agent. An upgrade of the connection is passed
//! on as well. Redirects are rewritten, so that who follows them stays behind the proxy.

use std::net::{IpAddr, SocketAddr};

use api::status::Status;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST, LOCATION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rand::RngExt;
use serde_json::Value;
use store::RangeOptions;

use crate::Server;
use crate::body::{BoxError, ResponseBody, full};
use crate::fault::{Fault, Outcome};
use crate::handle::Answer;
use crate::kinds::{Kind, find};
use crate::nodes::NodeStream;
use crate::object;
use crate::route::Target;

/// Headers about one connection, which end at each.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
];
const AGENT_PORT: &str = "10250";

/// The path behind `proxy`, when the target is one: empty, or with its slash.
pub(crate) fn path<'a>(kind: &Kind, target: &Target, full: &'a str) -> Option<&'a str> {
    let proxied = kind.group.is_empty() && matches!(kind.plural, "pods" | "services" | "nodes");
    let sub = target.subresource.as_deref()?;
    if !proxied || !(sub == "proxy" || sub.starts_with("proxy/")) {
        return None;
    }
    // `…/{plural}/{name}/proxy…`: what follows is the other server's, as it was written.
    let mut at = 0;
    let parts = full.split('/').map(|part| {
        let start = at;
        at += part.len() + 1;
        (start, part)
    });
    let parts: Vec<(usize, &str)> = parts.collect();
    let index = parts.windows(3).position(|three| three[0].1 == kind.plural && three[2].1 == "proxy")? + 2;
    full.get(parts.get(index)?.0 + "proxy".len()..)
}

/// `[scheme:]name[:port]`, as these paths name what they want.
#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    https: bool,
    name: &'a str,
    port: &'a str,
}

fn wanted(text: &str) -> Option<Wanted<'_>> {
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    let known = matches!(scheme, "" | "http" | "https");
    (known && !name.is_empty()).then_some(Wanted { https: scheme == "https", name, port })
}

/// Where a request goes.
enum Place {
    Address { address: SocketAddr, https: bool },
    Agent(Box<k8s_openapi::api::core::v1::Node>),
}

pub(crate) async fn answer<B>(
    server: &Server,
    kind: &'static Kind,
    target: &Target,
    rest: &str,
    parts: Parts,
    body: B,
) -> Outcome<Answer>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let place = place(server, kind, target)?;
    if rest.is_empty() && matches!(parts.method, Method::GET | Method::HEAD) {
        return Ok(to_root(&parts));
    }
    let stream = connect(server, &place).await.map_err(|error| unreachable(&error))?;
    let body = body.map_err(Into::into).boxed_unsync();
    forward(stream, &place, rest, parts, body).await
}

/// A path without a slash at its end would make relative links go astray.
fn to_root(parts: &Parts) -> Answer {
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response: Response<ResponseBody> = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", parts.uri.path())) {
        response.headers_mut().insert(LOCATION, location);
    }
    Answer::foreign(response)
}

fn unreachable(error: &dyn std::fmt::Display) -> Fault {
    Status::service_unavailable(format!("error trying to reach service: {error}")).into()
}

fn place(server: &Server, kind: &'static Kind, target: &Target) -> Outcome<Place> {
    let text = target.name.as_deref().unwrap_or_default();
    let what = kind.singular;
    let wanted = wanted(text).ok_or_else(|| Fault::bad_request(format!("invalid {what} request {text:?}")))?;
    let entry = server
        .store
        .get(&object::key(kind, &target.namespace, wanted.name))
        .ok_or_else(|| Fault::not_found(kind, wanted.name))?;
    let object = object::decode(kind, &entry.value)?;
    match kind.plural {
        "pods" => of_pod(&object, &wanted),
        "services" => of_service(server, &object, &wanted, text),
        _ => of_node(object, &wanted),
    }
}

fn of_node(node: Value, wanted: &Wanted<'_>) -> Outcome<Place> {
    if !matches!(wanted.port, "" | AGENT_PORT) {
        return Err(Fault::bad_request(format!("only the agent of node {} is reached here", wanted.name)));
    }
    serde_json::from_value(node).map(|node| Place::Agent(Box::new(node))).map_err(Fault::internal)
}

fn of_pod(pod: &Value, wanted: &Wanted<'_>) -> Outcome<Place> {
    let first = || {
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let ports = containers.filter_map(|container| container["ports"][0]["containerPort"].as_u64());
        ports.into_iter().next().and_then(|port| u16::try_from(port).ok())
    };
    let port = match wanted.port {
        "" => Some(first().unwrap_or(if wanted.https { 443 } else { 80 })),
        text => text.parse().ok(),
    };
    let port = port.ok_or_else(|| Fault::bad_request(format!("invalid pod request {:?}", wanted.name)))?;
    let ip = pod["status"]["podIPs"][0]["ip"].as_str().or(pod["status"]["podIP"].as_str()).unwrap_or_default();
    let ip = ip.parse().ok().filter(may_be_reached).ok_or_else(|| Fault::bad_request("address not allowed"))?;
    Ok(Place::Address { address: SocketAddr::new(ip, port), https: wanted.https })
}

/// A pod says itself where it is; it must not lead us to ourselves.
fn may_be_reached(ip: &IpAddr) -> bool {
    let special = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !special && !local
}

fn of_service(server: &Server, service: &Value, wanted: &Wanted<'_>, text: &str) -> Outcome<Place> {
    let unavailable = |message: String| Fault::from(Status::service_unavailable(message));
    let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = match wanted.port.parse::<u64>() {
        Ok(number) => {
            let found = ports.iter().find(|port| port["port"] == number);
            let missing = || unavailable(format!("no service port {number} found for service {:?}", wanted.name));
            found.ok_or_else(missing)?["name"].as_str().unwrap_or_default()
        }
        Err(_) => wanted.port,
    };
    let ready = ready(server, object::namespace(service), wanted.name, name)?;
    if ready.is_empty() {
        return Err(unavailable(format!("no endpoints available for service {text:?}")));
    }
    let chosen = rand::rng().random_range(0..ready.len());
    Ok(Place::Address { address: ready[chosen], https: wanted.https })
}

/// The ready endpoints of a port, by its name.
fn ready(server: &Server, namespace: &str, service: &str, port: &str) -> Outcome<Vec<SocketAddr>> {
    let Some(kind) = find("discovery.k8s.io", "v1", "endpointslices") else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in server.store.range(&object::prefix(kind, namespace), RangeOptions::default())?.entries {
        let slice = object::decode(kind, &entry.value)?;
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] != service {
            continue;
        }
        let ports = slice["ports"].as_array().into_iter().flatten();
        let ports = ports.filter(|one| one["name"].as_str().unwrap_or_default() == port);
        for number in ports.filter_map(|one| u16::try_from(one["port"].as_u64()?).ok()) {
            let endpoints = slice["endpoints"].as_array().into_iter().flatten();
            let endpoints = endpoints.filter(|one| one["conditions"]["ready"] != false);
            let addresses = endpoints.filter_map(|one| one["addresses"][0].as_str()?.parse().ok());
            found.extend(addresses.filter(may_be_reached).map(|ip| SocketAddr::new(ip, number)));
        }
    }
    Ok(found)
}

async fn connect(server: &Server, place: &Place) -> std::io::Result<Box<dyn NodeStream>> {
    match place {
        Place::Agent(node) => server.config.nodes.dial(node).await,
        Place::Address { address, https: false } => server.config.nodes.dial_address(*address).await,
        Place::Address { address, https: true } => {
            let stream = server.config.nodes.dial_address(*address).await?;
            crate::tls::unverified(stream, address.ip()).await
        }
    }
}

async fn forward(
    stream: Box<dyn NodeStream>,
    place: &Place,
    rest: &str,
    mut parts: Parts,
    body: ResponseBody,
) -> Outcome<Answer> {
    let client = parts.extensions.remove::<OnUpgrade>();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection behind the proxy ended");
        }
    });
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let path = if rest.is_empty() { "/" } else { rest };
    let prefix = parts.uri.path().strip_suffix(rest).unwrap_or_default().to_owned();
    let mut request = Request::builder()
        .method(parts.method.clone())
        .uri(format!("{path}{query}"))
        .body(body)
        .map_err(|error| Fault::bad_request(error.to_string()))?;
    *request.headers_mut() = passed_on(&parts, place, &prefix);
    let response = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(crate::streams::upgraded(response, client));
    }
    Ok(Answer::foreign(back(response, place, &prefix)))
}

/// The caller's headers without who the caller is.
fn passed_on(parts: &Parts, place: &Place, prefix: &str) -> HeaderMap {
    let upgrade = parts.headers.contains_key(UPGRADE);
    let mut headers = HeaderMap::new();
    for (name, value) in &parts.headers {
        let kept = upgrade && (name == UPGRADE || name == CONNECTION);
        if kept || (!is_hop_by_hop(name) && !is_private(name)) {
            headers.append(name.clone(), value.clone());
        }
    }
    let host = match place {
        Place::Address { address, .. } => address.to_string(),
        Place::Agent(node) => node.metadata.name.clone().unwrap_or_default(),
    };
    let caller = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
    let caller = caller.or_else(|| parts.uri.host().map(str::to_owned)).unwrap_or_default();
    let mut set = |name: &'static str, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("host", &host);
    set("x-forwarded-host", &caller);
    set("x-forwarded-proto", "https");
    set("x-forwarded-uri", prefix);
    headers
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(&name.as_str())
}

fn is_private(name: &HeaderName) -> bool {
    name == AUTHORIZATION || name.as_str().starts_with("impersonate-")
}

/// The answer on its way to the caller.
fn back(response: Response<Incoming>, place: &Place, prefix: &str) -> Response<ResponseBody> {
    let (mut parts, body) = response.into_parts();
    for name in HOP_BY_HOP.iter().filter(|name| **name != "content-length") {
        parts.headers.remove(*name);
    }
    let location = parts.headers.get(LOCATION).and_then(|value| value.to_str().ok());
    if let Some(location) = location.and_then(|location| behind(location, place, prefix))
        && let Ok(location) = HeaderValue::from_str(&location)
    {
        parts.headers.insert(LOCATION, location);
    }
    Response::from_parts(parts, body.map_err(Into::into).boxed_unsync())
}

/// Where a redirect leads as seen from outside; nothing when it leads elsewhere anyway.
fn behind(location: &str, place: &Place, prefix: &str) -> Option<String> {
    let path = match (location.split_once("://"), place) {
        (None, _) => location,
        (Some((_, rest)), Place::Address { address, .. }) => rest.strip_prefix(&address.to_string())?,
        (Some(_), Place::Agent(_)) => return None,
    };
    (path.is_empty() || path.starts_with('/')).then(|| format!("{prefix}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Resource, Route};

    #[test]
    fn what_is_wanted_is_read_as_upstream_reads_it() {
        let of = |https, name, port| Some(Wanted { https, name, port });
        assert_eq!(wanted("web"), of(false, "web", ""));
        assert_eq!(wanted("web:80"), of(false, "web", "80"));
        assert_eq!(wanted("https:web:ssl"), of(true, "web", "ssl"));
        assert_eq!(wanted(":web:http"), of(false, "web", "http"));
        for bad in ["", ":80", "ftp:web:1", "a:b:c:d"] {
            assert_eq!(wanted(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_path_behind_is_left_as_it_was_written() {
        let check = |full: &str, expected: Option<&str>| {
            let Route::Target(target) = Route::of(full) else { panic!("{full}") };
            let Resource::Stored(kind) = target.resource else { panic!("{full}") };
            assert_eq!(path(kind, &target, full), expected, "{full}");
        };
        check("/api/v1/namespaces/d/pods/p/proxy", Some(""));
        check("/api/v1/namespaces/d/pods/p:80/proxy/", Some("/"));
        check("/api/v1/namespaces/proxy/services/https:proxy:x/proxy/a//b%2Fc/", Some("/a//b%2Fc/"));
        check("/api/v1/nodes/proxy/proxy/proxy", Some("/proxy"));
        check("/api/v1/namespaces/d/pods/p/log", None);
        check("/api/v1/namespaces/d/configmaps/p/proxy", None);
    }

    #[test]
    fn a_redirect_stays_behind_the_proxy() {
        let place = Place::Address { address: "10.1.2.3:80".parse().unwrap(), https: false };
        let behind = |location| behind(location, &place, "/p/proxy");
        assert_eq!(behind("/login?x").as_deref(), Some("/p/proxy/login?x"));
        assert_eq!(behind("http://10.1.2.3:80/a").as_deref(), Some("/p/proxy/a"));
        assert_eq!(behind("http://elsewhere/a"), None);
        assert_eq!(behind("relative"), None);
    }
}
