//! The annotations of ingress-nginx, as far as they are common: text in, [`Options`] out, and a fault for each one that has no effect.
//!
//! Names, defaults and value forms are those of its user guide. What only tunes nginx's buffers is accepted without a word: nothing is
//! buffered here.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use regex::Regex;
use service_model::ObjectKey;

use super::canary::{Canary, HeaderRule};
use super::fault::Reason;
use super::limits::Limits;
use super::options::{Affinity, BackendProtocol, BasicAuth, Cors, Options, Redirect, SameSite};

const PREFIX: &str = "nginx.ingress.kubernetes.io/";

const COOKIE: &str = "INGRESSCOOKIE";
const METHODS: &str = "GET, PUT, POST, DELETE, PATCH, OPTIONS";
const HEADERS: &str =
    "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization";
const CORS_AGE: &str = "1728000";

/// Settings of nginx itself, with nothing to do here.
const WITHOUT_MEANING: &[&str] = &[
    "proxy-buffering",
    "proxy-buffer-size",
    "proxy-buffers-number",
    "proxy-busy-buffers-size",
    "proxy-max-temp-file-size",
    "proxy-request-buffering",
    "proxy-http-version",
    "client-body-buffer-size",
    "enable-access-log",
    "ssl-prefer-server-ciphers",
    "websocket-services",
];

/// Annotations while they are read: each is taken once, what is left over is not supported.
struct Reader<'a> {
    left: BTreeMap<&'a str, &'a str>,
    faults: Vec<Reason>,
}

type Parsed<T> = Result<T, String>;

impl<'a> Reader<'a> {
    fn take(&mut self, name: &str) -> Option<&'a str> {
        self.left.remove(name).map(str::trim).filter(|value| !value.is_empty())
    }

    fn read<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Parsed<T>) -> Option<T> {
        match parse(self.take(name)?) {
            Ok(value) => Some(value),
            Err(why) => {
                self.faults.push(Reason::InvalidAnnotation { name: format!("{PREFIX}{name}"), why });
                None
            }
        }
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        self.read(name, flag)
    }
}

/// Reads the annotations of an Ingress in `namespace`.
pub(super) fn read(namespace: &str, annotations: &BTreeMap<String, String>) -> (Options, Vec<Reason>) {
    let ours = annotations.iter().filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value.as_str())));
    let mut reader = Reader { left: ours.collect(), faults: Vec::new() };
    // An Ingress that speaks to ingress-nginx gets its default; one that does not is not redirected, as upstream's conformance has it.
    let mut options = Options { ssl_redirect: !reader.left.is_empty(), ..Options::default() };
    paths(&mut reader, &mut options);
    limits(&mut reader, &mut options);
    access(&mut reader, &mut options, namespace);
    options.limits = client_limits(&mut reader);
    fallbacks(&mut reader, &mut options);
    options.canary = canary(&mut reader);
    options.affinity = affinity(&mut reader);
    options.cors = cors(&mut reader);
    for name in WITHOUT_MEANING {
        reader.left.remove(name);
    }
    let unsupported = reader.left.keys().map(|name| Reason::UnsupportedAnnotation { name: format!("{PREFIX}{name}") });
    let faults = reader.faults.into_iter().chain(unsupported).collect();
    (options, faults)
}

fn paths(reader: &mut Reader<'_>, options: &mut Options) {
    options.rewrite = reader.take("rewrite-target").map(str::to_owned);
    options.use_regex = reader.flag("use-regex").unwrap_or(false);
    options.ssl_redirect = reader.flag("ssl-redirect").unwrap_or(options.ssl_redirect);
    options.force_ssl_redirect = reader.flag("force-ssl-redirect").unwrap_or(false);
    options.app_root = reader.read("app-root", |text| {
        if text.starts_with('/') { header(text) } else { Err("it must begin with a slash".into()) }
    });
    let permanent = reader.read("permanent-redirect", header);
    let code = reader.read("permanent-redirect-code", redirect_code).unwrap_or(301);
    let temporal = reader.read("temporal-redirect", header);
    let temporal_code = reader.read("temporal-redirect-code", redirect_code).unwrap_or(302);
    // Both: the temporary one counts, as in ingress-nginx.
    options.redirect = temporal
        .map(|to| Redirect { to, status: temporal_code })
        .or_else(|| permanent.map(|to| Redirect { to, status: code }));
    options.upstream_host = reader.read("upstream-vhost", header);
    options.forwarded_prefix = reader.read("x-forwarded-prefix", header);
}

fn limits(reader: &mut Reader<'_>, options: &mut Options) {
    options.protocol = reader.read("backend-protocol", |text| match text.to_ascii_uppercase().as_str() {
        "HTTP" | "AUTO_HTTP" => Ok(BackendProtocol::Http),
        "HTTPS" => Ok(BackendProtocol::Https),
        "GRPC" => Ok(BackendProtocol::Grpc),
        "GRPCS" => Ok(BackendProtocol::Grpcs),
        other => Err(format!("`{other}` is not HTTP, HTTPS, GRPC or GRPCS")),
    });
    options.body_limit = reader.read("proxy-body-size", size).filter(|limit| *limit > 0);
    if let Some(timeout) = reader.read("proxy-connect-timeout", seconds) {
        options.connect_timeout = timeout;
    }
    if let Some(timeout) = reader.read("proxy-send-timeout", seconds) {
        options.send_timeout = timeout;
    }
    if let Some(timeout) = reader.read("proxy-read-timeout", seconds) {
        options.read_timeout = timeout;
        options.tunnel_timeout = true;
    }
}

fn access(reader: &mut Reader<'_>, options: &mut Options, namespace: &str) {
    let allow = reader.read("whitelist-source-range", ranges);
    options.allow = reader.read("allowlist-source-range", ranges).or(allow).unwrap_or_default();
    options.deny = reader.read("denylist-source-range", ranges).unwrap_or_default();
    let kind = reader.read("auth-type", |text| match text {
        "basic" => Ok(()),
        other => Err(format!("`{other}` is not supported, only `basic`")),
    });
    let map = reader.read("auth-secret-type", |text| match text {
        "auth-file" => Ok(false),
        "auth-map" => Ok(true),
        other => Err(format!("`{other}` is not auth-file or auth-map")),
    });
    let realm = reader.take("auth-realm").unwrap_or("Authentication Required").replace(['"', '\\'], "");
    let secret = reader.take("auth-secret");
    if kind.is_some() {
        let name = secret.unwrap_or_default();
        let (of, name) = name.split_once('/').unwrap_or((namespace, name));
        let secret = ObjectKey::new(of, name);
        options.auth = Some(BasicAuth { secret, realm, map: map.unwrap_or(false) });
    }
}

fn client_limits(reader: &mut Reader<'_>) -> Limits {
    let per_second = reader.read("limit-rps", count);
    let per_minute = reader.read("limit-rpm", count);
    let at_once = reader.read("limit-connections", count);
    let burst = reader.read("limit-burst-multiplier", count).unwrap_or(5);
    let exempt = reader.read("limit-whitelist", ranges);
    let exempt = reader.read("limit-allowlist", ranges).or(exempt).unwrap_or_default();
    let written = || per_second.into_iter().chain(per_minute);
    Limits {
        per_minute: per_second.map(|rate| rate.saturating_mul(60)).into_iter().chain(per_minute).collect(),
        at_once,
        burst: written().map(|rate| rate.saturating_mul(burst)).collect(),
        exempt,
    }
}

fn fallbacks(reader: &mut Reader<'_>, options: &mut Options) {
    options.aliases = reader.take("server-alias").map(names).unwrap_or_default();
    options.default_backend = reader.take("default-backend").map(str::to_owned);
    let without = options.default_backend.is_none();
    let errors = reader.read("custom-http-errors", |text| match statuses(text) {
        Ok(_) if without => Err("it needs the annotation `default-backend`, which names the Service to ask".to_owned()),
        statuses => statuses,
    });
    options.custom_errors = errors.unwrap_or_default();
}

fn canary(reader: &mut Reader<'_>) -> Option<Canary> {
    let enabled = reader.flag("canary").unwrap_or(false);
    let name = reader.read("canary-by-header", |text| {
        text.parse::<HeaderName>().map_err(|_| format!("`{text}` is no name of a header"))
    });
    let value = reader.take("canary-by-header-value").map(|text| HeaderRule::Value(text.to_owned()));
    let pattern = reader.read("canary-by-header-pattern", |text| {
        Regex::new(text).map(HeaderRule::Pattern).map_err(|error| error.to_string())
    });
    let rule = value.or(pattern).unwrap_or(HeaderRule::Word);
    let cookie = reader.read("canary-by-cookie", cookie_text);
    let weight = reader.read("canary-weight", whole).unwrap_or(0);
    let total = reader.read("canary-weight-total", whole).unwrap_or(100);
    enabled.then(|| Canary { header: name.map(|name| (name, rule)), cookie, weight: weight.min(total), total })
}

fn affinity(reader: &mut Reader<'_>) -> Option<Affinity> {
    let kind = reader.read("affinity", |text| match text {
        "cookie" => Ok(()),
        other => Err(format!("`{other}` is not supported, only `cookie`")),
    });
    // Both modes: a cookie leads to its endpoint for as long as that serves.
    let _ = reader.read("affinity-mode", |text| match text {
        "balanced" | "persistent" => Ok(()),
        other => Err(format!("`{other}` is not balanced or persistent")),
    });
    let name = reader.read("session-cookie-name", cookie_text).unwrap_or_else(|| COOKIE.to_owned());
    let path = reader.read("session-cookie-path", cookie_text).unwrap_or_else(|| "/".to_owned());
    let domain = reader.read("session-cookie-domain", cookie_text);
    let max_age = reader.read("session-cookie-max-age", whole);
    // An absolute time would have to be written for each answer; Max-Age says the same and wins in every browser (RFC 6265, 5.3).
    let expires = reader.read("session-cookie-expires", whole);
    let same_site = reader.read("session-cookie-samesite", |text| match text.to_ascii_lowercase().as_str() {
        "strict" => Ok(SameSite::Strict),
        "lax" => Ok(SameSite::Lax),
        "none" => Ok(SameSite::None),
        other => Err(format!("`{other}` is not None, Lax or Strict")),
    });
    let conditional = reader.flag("session-cookie-conditional-samesite-none").unwrap_or(false);
    let secure = reader.flag("session-cookie-secure");
    let change_on_failure = reader.flag("session-cookie-change-on-failure").unwrap_or(false);
    kind?;
    let mut attributes = format!("; Path={path}");
    if let Some(domain) = domain {
        attributes.push_str(&format!("; Domain={domain}"));
    }
    if let Some(age) = max_age.or(expires) {
        attributes.push_str(&format!("; Max-Age={age}"));
    }
    attributes.push_str("; HttpOnly");
    match same_site {
        Some(SameSite::Strict) => attributes.push_str("; SameSite=Strict"),
        Some(SameSite::Lax) => attributes.push_str("; SameSite=Lax"),
        Some(SameSite::None) if !conditional => attributes.push_str("; SameSite=None"),
        Some(SameSite::None) | None => {}
    }
    Some(Affinity { name, attributes, secure, change_on_failure })
}

fn cors(reader: &mut Reader<'_>) -> Option<Cors> {
    let enabled = reader.flag("enable-cors").unwrap_or(false);
    let origins = reader.read("cors-allow-origin", |text| {
        let listed: Vec<String> = text.split(',').map(|o| o.trim().to_owned()).filter(|o| !o.is_empty()).collect();
        match listed.iter().find(|origin| *origin != "*" && !origin.contains("://")) {
            Some(bad) => Err(format!("`{bad}` is not an origin such as https://example.com")),
            None => Ok(listed),
        }
    });
    let methods = reader.read("cors-allow-methods", header);
    let headers = reader.read("cors-allow-headers", header);
    let expose = reader.read("cors-expose-headers", header);
    let credentials = reader.flag("cors-allow-credentials").unwrap_or(true);
    let max_age = reader.read("cors-max-age", |text| whole(text).and_then(|age| header(&age.to_string())));
    enabled.then(|| Cors {
        origins: origins.unwrap_or_else(|| vec!["*".to_owned()]),
        methods: methods.unwrap_or(HeaderValue::from_static(METHODS)),
        headers: headers.unwrap_or(HeaderValue::from_static(HEADERS)),
        expose,
        credentials,
        max_age: max_age.unwrap_or(HeaderValue::from_static(CORS_AGE)),
    })
}

/// As Go's `strconv.ParseBool`, which ingress-nginx reads flags with.
fn flag(text: &str) -> Parsed<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(format!("`{other}` is not true or false")),
    }
}

/// A number from 1 on.
fn count(text: &str) -> Parsed<u32> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| format!("`{text}` is not a whole number from 1 on"))
}

/// Host names, separated by commas.
fn names(text: &str) -> Vec<Box<str>> {
    let listed = text.split(',').map(|name| name.trim().to_ascii_lowercase());
    listed.filter(|name| !name.is_empty()).map(Into::into).collect()
}

/// Statuses of errors, separated by commas.
fn statuses(text: &str) -> Parsed<Vec<u16>> {
    let status = |text: &str| match text.parse() {
        Ok(status) if (300..=599).contains(&status) => Ok(status),
        Ok(_) | Err(_) => Err(format!("`{text}` is not a status from 300 to 599")),
    };
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(status).collect()
}

fn whole(text: &str) -> Parsed<u64> {
    text.parse().map_err(|_| format!("`{text}` is not a whole number"))
}

/// Seconds, with or without the unit that nginx would take too.
fn seconds(text: &str) -> Parsed<Duration> {
    match whole(text.strip_suffix('s').unwrap_or(text)) {
        Ok(0) | Err(_) => Err(format!("`{text}` is not a number of seconds")),
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
    }
}

/// Bytes with nginx's suffixes: `8m`, `512k`, `1g`.
fn size(text: &str) -> Parsed<u64> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        Some(_) | None => (text, 1),
    };
    let bytes = whole(digits).ok().and_then(|number| number.checked_mul(unit));
    bytes.ok_or_else(|| format!("`{text}` is not a size such as 8m"))
}

fn redirect_code(text: &str) -> Parsed<u16> {
    match text.parse() {
        Ok(code) if (300..=308).contains(&code) => Ok(code),
        Ok(_) | Err(_) => Err(format!("`{text}` is not a status from 300 to 308")),
    }
}

fn header(text: &str) -> Parsed<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| "it cannot stand in a header".to_owned())
}

fn cookie_text(text: &str) -> Parsed<String> {
    let fine = text.bytes().all(|byte| byte.is_ascii_graphic() && !b";,\"\\".contains(&byte));
    if fine { Ok(text.to_owned()) } else { Err("it cannot stand in a cookie".to_owned()) }
}

/// Addresses and ranges, separated by commas.
fn ranges(text: &str) -> Parsed<Vec<ipnet::IpNet>> {
    let range = |text: &str| {
        let address = || text.parse::<std::net::IpAddr>().ok().map(ipnet::IpNet::from);
        text.parse::<ipnet::IpNet>().ok().or_else(address).ok_or_else(|| format!("`{text}` is not an address range"))
    };
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pairs: &[(&str, &str)]) -> (Options, Vec<String>) {
        let all = pairs.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned())).collect();
        let (options, faults) = read("shop", &all);
        (options, faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn values_are_read_as_nginx_reads_them() {
        let (options, faults) = told(&[
            ("proxy-body-size", "8m"),
            ("proxy-read-timeout", "3600"),
            ("proxy-connect-timeout", "2s"),
            ("backend-protocol", "grpcs"),
            ("ssl-redirect", "false"),
            ("whitelist-source-range", "10.0.0.0/8, 192.168.1.7,fd00::/8"),
            ("auth-type", "basic"),
            ("auth-secret", "users"),
            ("permanent-redirect", "https://example.com"),
            ("permanent-redirect-code", "308"),
            ("proxy-buffering", "off"),
            ("limit-rps", "5"),
            ("limit-rpm", "100"),
            ("limit-burst-multiplier", "3"),
            ("server-alias", "a.example, B.example"),
            ("default-backend", "errors"),
            ("custom-http-errors", "404,503"),
        ]);
        assert_eq!(faults, Vec::<String>::new());
        assert_eq!(options.body_limit, Some(8 << 20));
        assert_eq!((options.read_timeout, options.tunnel_timeout), (Duration::from_secs(3600), true));
        assert_eq!(options.connect_timeout, Duration::from_secs(2));
        assert_eq!(options.protocol, Some(BackendProtocol::Grpcs));
        assert!(!options.ssl_redirect);
        assert_eq!(options.allow.len(), 3);
        assert_eq!((&*options.limits.per_minute, &*options.limits.burst), (&[300, 100][..], &[15, 300][..]));
        assert_eq!(options.aliases, ["a.example".into(), "b.example".into()] as [Box<str>; 2]);
        assert_eq!(options.custom_errors, [404, 503]);
        assert_eq!(options.auth.unwrap().secret, ObjectKey::new("shop", "users"));
        assert_eq!(options.redirect.unwrap().status, 308);
    }

    #[test]
    fn what_has_no_effect_is_named() {
        let (options, faults) = told(&[
            ("configuration-snippet", "return 418;"),
            ("auth-url", "http://auth"),
            ("limit-rps", "none"),
            ("custom-http-errors", "404"),
            ("proxy-body-size", "lots"),
            ("ssl-redirect", "maybe"),
            ("affinity", "ip"),
        ]);
        assert_eq!(options.body_limit, None);
        assert!(options.affinity.is_none());
        let named = |name: &str| faults.iter().filter(|fault| fault.contains(&format!("{PREFIX}{name}`"))).count();
        for name in [
            "configuration-snippet",
            "auth-url",
            "limit-rps",
            "custom-http-errors",
            "proxy-body-size",
            "ssl-redirect",
            "affinity",
        ] {
            assert_eq!(named(name), 1, "{name} in {faults:?}");
        }
    }

    #[test]
    fn a_plain_ingress_is_not_redirected_one_for_nginx_is() {
        assert!(!told(&[]).0.ssl_redirect);
        assert!(told(&[("rewrite-target", "/")]).0.ssl_redirect);
        assert!(!read("shop", &[("example.com/x".to_owned(), "y".to_owned())].into()).0.ssl_redirect);
    }

    #[test]
    fn cookies_have_their_names_and_attributes() {
        let (options, faults) = told(&[
            ("affinity", "cookie"),
            ("session-cookie-name", "stick"),
            ("session-cookie-max-age", "60"),
            ("session-cookie-samesite", "Lax"),
            ("session-cookie-secure", "true"),
        ]);
        assert!(faults.is_empty(), "{faults:?}");
        let affinity = options.affinity.unwrap();
        assert_eq!(affinity.name, "stick");
        assert_eq!(affinity.attributes, "; Path=/; Max-Age=60; HttpOnly; SameSite=Lax");
        assert_eq!(affinity.secure, Some(true));
        assert_eq!(told(&[("affinity", "cookie")]).0.affinity.unwrap().name, "INGRESSCOOKIE");
        let (_, faults) = told(&[("affinity", "cookie"), ("session-cookie-name", "a; b")]);
        assert_eq!(faults.len(), 1);
    }
}
