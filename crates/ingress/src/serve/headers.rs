//! Headers on their way: what belongs to one connection is taken out, who asked is put in.
//!
//! `X-Forwarded-*`, `X-Real-IP` and `Forwarded` are ours to say: what a client sends of them is replaced, unless it comes from an address
//! that is trusted to have said the truth.

use std::rc::Rc;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode, Version};
use ipnet::IpNet;

use super::client::Client;
use crate::routes::Options;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_SCHEME: HeaderName = HeaderName::from_static("x-forwarded-scheme");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// As many headers as a request gets on its way.
const ADDED: usize = 10;

/// Takes out what is meant for the next hop only (RFC 9110, 7.6.1): the headers that Connection names, and those that always are.
fn strip(headers: &mut HeaderMap) {
    if let Some(connection) = headers.remove(CONNECTION) {
        let tokens = connection.to_str().unwrap_or_default().split(',');
        let named = tokens.filter_map(|token| HeaderName::from_bytes(token.trim().as_bytes()).ok());
        // A client must not have Host or lengths taken out on its way.
        for name in named.filter(|name| ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name)) {
            headers.remove(name);
        }
        // Several Connection headers are one list; `remove` took them all but gave back the first.
        headers.remove(KEEP_ALIVE);
        headers.remove(UPGRADE);
        headers.remove(HTTP2_SETTINGS);
    }
    headers.remove(PROXY_CONNECTION);
}

/// Makes a request's headers those that the backend gets.
pub(crate) fn to_backend(
    parts: &mut Parts,
    client: &Rc<Client>,
    options: &Options,
    trusted: &[IpNet],
    upgrade: Option<HeaderValue>,
    has_body: bool,
) {
    let trailers = parts.headers.get(TE).is_some_and(|te| te.to_str().is_ok_and(|te| te.contains("trailers")));
    let chunked = parts.headers.remove(TRANSFER_ENCODING).is_some();
    all_connection_tokens(&mut parts.headers);
    strip(&mut parts.headers);
    let headers = &mut parts.headers;
    // All that is added below, in one go.
    headers.reserve(ADDED);
    headers.remove(TE);
    headers.remove(EXPECT);
    headers.remove(UPGRADE);
    headers.remove(KEEP_ALIVE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    // Methods that seldom have a body are sent without one, unless a header says how it comes.
    let unusual = [Method::GET, Method::HEAD, Method::DELETE, Method::OPTIONS].contains(&parts.method);
    if has_body && unusual && (chunked || parts.version == Version::HTTP_2) && !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        headers.insert(HOST, host);
    }
    forwarded(headers, client, trusted);
    if let Some(host) = &options.upstream_host {
        headers.insert(HOST, host.clone());
    }
    if let Some(prefix) = &options.forwarded_prefix {
        headers.insert(FORWARDED_PREFIX, prefix.clone());
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

/// Joins several Connection headers, so that none of their tokens is overlooked.
fn all_connection_tokens(headers: &mut HeaderMap) {
    let mut values = headers.get_all(CONNECTION).iter();
    if values.nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b","[..])) {
        headers.insert(CONNECTION, joined);
    }
}

fn forwarded(headers: &mut HeaderMap, client: &Rc<Client>, trusted: &[IpNet]) {
    let host = headers.get(HOST).cloned().unwrap_or(HeaderValue::from_static(""));
    let proto = HeaderValue::from_static(if client.door.tls { "https" } else { "http" });
    let peer = client.peer.ip().to_canonical();
    let believed = !trusted.is_empty() && trusted.iter().any(|range| range.contains(&peer));
    let set = |headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue| {
        if !(believed && headers.contains_key(&name)) {
            headers.insert(name, value.clone());
        }
    };
    if believed && let Some(before) = headers.get(FORWARDED_FOR) {
        let chain = [before.as_bytes(), b", ", client.address.as_bytes()].concat();
        if let Ok(chain) = HeaderValue::from_bytes(&chain) {
            headers.insert(FORWARDED_FOR, chain);
        }
    } else {
        headers.insert(FORWARDED_FOR, client.address.clone());
    }
    set(headers, REAL_IP, &client.address);
    set(headers, FORWARDED_HOST, &host);
    set(headers, FORWARDED_PORT, &client.port);
    set(headers, FORWARDED_PROTO, &proto);
    set(headers, FORWARDED_SCHEME, &proto);
    let element = element(client, &host);
    if believed && let Some(before) = headers.get(FORWARDED) {
        let chain = [before.as_bytes(), b", ", element.as_bytes()].concat();
        if let Ok(chain) = HeaderValue::from_bytes(&chain) {
            headers.insert(FORWARDED, chain);
        }
    } else {
        headers.insert(FORWARDED, element);
    }
}

/// `for=…;host=…;proto=…` (RFC 7239), made anew only when the host is another than before.
fn element(client: &Rc<Client>, host: &HeaderValue) -> HeaderValue {
    if let Some((known, element)) = &*client.forwarded.borrow()
        && known == host
    {
        return element.clone();
    }
    let address = client.address.to_str().unwrap_or("unknown");
    let address = if address.contains(':') { format!("\"[{address}]\"") } else { address.to_owned() };
    let name = host.to_str().unwrap_or_default();
    let proto = if client.door.tls { "https" } else { "http" };
    let text = format!("for={address};host=\"{name}\";proto={proto}");
    let element = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("for=unknown"));
    *client.forwarded.borrow_mut() = Some((host.clone(), element.clone()));
    element
}

/// As [`to_client`], except that an agreed upgrade is between the client and us too.
pub(crate) fn to_client_unless_switching<B>(response: &mut Response<B>) {
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = response.headers().get(UPGRADE).cloned().filter(|_| switching);
    to_client(response.headers_mut());
    if let Some(protocol) = protocol {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(UPGRADE, protocol);
    }
}

/// Makes a response's headers those that the client gets.
fn to_client(headers: &mut HeaderMap) {
    all_connection_tokens(headers);
    strip(headers);
    headers.remove(KEEP_ALIVE);
    headers.remove(TRANSFER_ENCODING);
    headers.remove(UPGRADE);
    // The backend's proxy is nobody's business; we are not one that authenticates.
    headers.remove(PROXY_AUTHENTICATE);
    if !headers.contains_key(http::header::SERVER) {
        headers.insert(http::header::SERVER, HeaderValue::from_static(super::refusal::SERVER_NAME));
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use http::Request;

    use super::*;
    use crate::serve::client::{Door, Serves};

    fn client(peer: &str, tls: bool) -> Rc<Client> {
        let port = if tls { 443 } else { 80 };
        let peer: SocketAddr = format!("{peer}:4711").parse().unwrap();
        Rc::new(Client::new(peer, Arc::new(Door { serves: Serves::Routes, tls, port })))
    }

    fn sent(headers: &[(&str, &str)], client: &Rc<Client>, trusted: &[IpNet]) -> HeaderMap {
        let mut request = Request::builder().uri("/").header("host", "shop.example");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        to_backend(&mut parts, client, &Options::default(), trusted, None, false);
        parts.headers
    }

    #[test]
    fn what_belongs_to_a_connection_stays_on_it() {
        let headers = [
            ("connection", "close, x-private"),
            ("connection", "X-Other, host"),
            ("keep-alive", "5"),
            ("x-private", "1"),
            ("x-other", "1"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("proxy-connection", "x"),
            ("expect", "100-continue"),
            ("x-kept", "1"),
        ];
        let sent = sent(&headers, &client("192.0.2.1", false), &[]);
        for gone in ["connection", "keep-alive", "x-private", "x-other", "upgrade", "proxy-connection", "expect"] {
            assert!(!sent.contains_key(gone), "{gone}");
        }
        assert_eq!(sent["te"], "trailers");
        assert_eq!(sent["host"], "shop.example");
        assert_eq!(sent["x-kept"], "1");
    }

    #[test]
    fn a_client_cannot_say_who_it_is() {
        let lies = [
            ("x-forwarded-for", "10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("x-forwarded-proto", "https"),
        ];
        let told = sent(&lies, &client("192.0.2.1", false), &[]);
        assert_eq!(told["x-forwarded-for"], "192.0.2.1");
        assert_eq!(told["x-real-ip"], "192.0.2.1");
        assert_eq!(told["x-forwarded-proto"], "http");
        assert_eq!(told["x-forwarded-port"], "80");
        assert_eq!(told["forwarded"], "for=192.0.2.1;host=\"shop.example\";proto=http");
        let trusted = sent(&lies, &client("192.0.2.1", false), &["192.0.2.0/24".parse().unwrap()]);
        assert_eq!(trusted["x-forwarded-for"], "10.0.0.1, 192.0.2.1");
        assert_eq!(trusted["x-real-ip"], "10.0.0.1");
        assert_eq!(trusted["x-forwarded-proto"], "https");
        let v6 = sent(&[], &client("[2001:db8::1]", true), &[]);
        assert_eq!(v6["forwarded"], "for=\"[2001:db8::1]\";host=\"shop.example\";proto=https");
    }
}
