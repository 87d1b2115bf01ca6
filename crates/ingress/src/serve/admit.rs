//! Whether a request means one thing: its host and path as rules are matched against, or a refusal.
//!
//! Whatever two servers could read in two ways is refused (RFC 9112, 11.2): two hosts, two lengths, a host that is none. hyper has
//! already refused what is not HTTP at all, and forgotten what it could make sense of; see `head` for that.

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, Version};

use super::refusal::Refusal;
use crate::routes::normalise;

/// What routes are found by.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// In lower case, without port; empty if an HTTP/1.0 client named none.
    pub host: Cow<'a, str>,
    pub path: Cow<'a, str>,
}

/// Admits a request. `twofold`: its head, as it came, can be read in two ways.
pub(crate) fn admit(parts: &Parts, twofold: bool) -> Result<Target<'_>, Refusal> {
    if parts.method == Method::CONNECT {
        return Err(Refusal::MethodNotAllowed);
    }
    let mut encodings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    let fine = encodings.next().is_none_or(|one| {
        one.as_bytes().eq_ignore_ascii_case(b"chunked") && !parts.headers.contains_key(CONTENT_LENGTH)
    });
    if twofold || !fine || encodings.next().is_some() {
        return Err(Refusal::BadRequest("a request has one length or is chunked, and its lines end in CR LF"));
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (named, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Refusal::BadRequest("a request has one Host"));
    }
    // An authority in the request line counts, whatever Host says (RFC 9112, 3.2.2; RFC 9113, 8.3.1).
    let host = match (parts.uri.authority(), named) {
        (Some(authority), _) => host(authority.as_str())?,
        (None, Some(named)) => {
            host(named.to_str().map_err(|_| Refusal::BadRequest("the Host is not a name or an address"))?)?
        }
        (None, None) if parts.version == Version::HTTP_10 => Cow::Borrowed(""),
        (None, None) => return Err(Refusal::BadRequest("a request has a Host")),
    };
    let path = match parts.uri.path() {
        // `OPTIONS *` is about the server itself.
        "*" => return Err(Refusal::BadRequest("only paths are served")),
        "" => "/",
        path => path,
    };
    let path = normalise(path).ok_or(Refusal::BadRequest("the path climbs above its root"))?;
    Ok(Target { host, path })
}

/// Takes off the port and lowers the case.
fn host(authority: &str) -> Result<Cow<'_, str>, Refusal> {
    const BAD: Refusal = Refusal::BadRequest("the Host is not a name or an address");
    let (name, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(BAD)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| BAD)?;
            (&authority[..address.len() + 2], port.strip_prefix(':').or(port.is_empty().then_some("0")))
        }
        None => match authority.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (authority, Some("0")),
        },
    };
    let port = port.ok_or(BAD)?;
    if !port.is_empty() && port.parse::<u16>().is_err() {
        return Err(BAD);
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte)) {
        return Err(BAD);
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(Cow::Owned(name.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(name))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn check(uri: &str, headers: &[(&str, &str)], expected: Result<(&str, &str), ()>) {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let told = admit(&parts, false);
        let told = told.as_ref().map(|target| (&*target.host, &*target.path)).map_err(|_| ());
        assert_eq!(told, expected, "{uri} {headers:?}");
    }

    #[test]
    fn host_and_path_are_read() {
        check("/a", &[("host", "Example.com:8080")], Ok(("example.com", "/a")));
        check("/a?b=c", &[("host", "example.com.")], Ok(("example.com", "/a")));
        check("/", &[("host", "192.0.2.1")], Ok(("192.0.2.1", "/")));
        check("/", &[("host", "[2001:DB8::1]:80")], Ok(("[2001:db8::1]", "/")));
        check("http://a.example/x", &[("host", "b.example")], Ok(("a.example", "/x")));
        check("http://a.example", &[("host", "a.example")], Ok(("a.example", "/")));
        check("/a/../b", &[("host", "x")], Ok(("x", "/b")));
    }

    #[test]
    fn what_means_two_things_is_refused() {
        check("/", &[], Err(()));
        check("/", &[("host", "a"), ("host", "b")], Err(()));
        check("/", &[("host", "a"), ("host", "a")], Err(()));
        for bad in ["", " ", "a b", "a/b", "a@b", "a:b", "a:99999", "[::1", "[x]", "[::1]x", "a,b", "ä"] {
            check("/", &[("host", bad)], Err(()));
        }
        check("http://user@a.example/", &[("host", "a.example")], Err(()));
        check("/..", &[("host", "a")], Err(()));
        check("/", &[("host", "a"), ("content-length", "1"), ("transfer-encoding", "chunked")], Err(()));
    }
}
