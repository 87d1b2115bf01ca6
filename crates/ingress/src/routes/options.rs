//! What an Ingress asks for beside hosts and paths, parsed: the meaning of its annotations.

use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;
use service_model::ObjectKey;

use super::canary::Canary;
use super::limits::Limits;

/// Settings of one Ingress; the defaults are those of ingress-nginx, except that bodies are not limited.
#[derive(Debug, Clone)]
pub struct Options {
    /// `rewrite-target`, with `$1` … for groups of the path.
    pub rewrite: Option<String>,
    /// Paths are regular expressions.
    pub use_regex: bool,
    /// Plain requests to hosts with TLS are sent to HTTPS.
    pub ssl_redirect: bool,
    /// All plain requests are.
    pub force_ssl_redirect: bool,
    /// What the backend speaks; without it the Service's `appProtocol` says so.
    pub protocol: Option<BackendProtocol>,
    /// Largest request body in bytes.
    pub body_limit: Option<u64>,
    pub connect_timeout: Duration,
    /// The longest silence of a backend that owes an answer.
    pub read_timeout: Duration,
    /// The longest silence of a backend that should take a request.
    pub send_timeout: Duration,
    /// Whether `read_timeout` was asked for, which then holds for upgraded connections too.
    pub tunnel_timeout: bool,
    pub affinity: Option<Affinity>,
    pub auth: Option<BasicAuth>,
    pub cors: Option<Cors>,
    /// Where `/` is redirected to.
    pub app_root: Option<HeaderValue>,
    pub redirect: Option<Redirect>,
    /// Who may ask; empty: everyone.
    pub allow: Vec<IpNet>,
    pub deny: Vec<IpNet>,
    pub limits: Limits,
    /// More names for its hosts.
    pub aliases: Vec<Box<str>>,
    /// The Service, in the same namespace, that answers while the backend has no endpoints.
    pub default_backend: Option<String>,
    /// Statuses of the backend in whose place the default backend is asked.
    pub custom_errors: Vec<u16>,
    /// It is no Ingress of its own, but takes a part of another's requests.
    pub canary: Option<Canary>,
    /// The Host that the backend sees.
    pub upstream_host: Option<HeaderValue>,
    pub forwarded_prefix: Option<HeaderValue>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            rewrite: None,
            use_regex: false,
            ssl_redirect: false,
            force_ssl_redirect: false,
            protocol: None,
            body_limit: None,
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            tunnel_timeout: false,
            affinity: None,
            auth: None,
            cors: None,
            app_root: None,
            redirect: None,
            allow: Vec::new(),
            deny: Vec::new(),
            limits: Limits::default(),
            aliases: Vec::new(),
            default_backend: None,
            custom_errors: Vec::new(),
            canary: None,
            upstream_host: None,
            forwarded_prefix: None,
        }
    }
}

/// `backend-protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendProtocol {
    Http,
    Https,
    Grpc,
    Grpcs,
}

/// `permanent-redirect` and `temporal-redirect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    pub to: HeaderValue,
    pub status: u16,
}

/// `affinity: cookie`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Affinity {
    pub name: String,
    /// What follows `name=value` in Set-Cookie, without `Secure`.
    pub attributes: String,
    /// `Secure`: always, never, or as the request came (none).
    pub secure: Option<bool>,
    /// A cookie whose endpoint fails is replaced.
    pub change_on_failure: bool,
}

/// `SameSite` of a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    Strict,
    Lax,
    None,
}

/// `auth-type: basic`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasicAuth {
    pub secret: ObjectKey,
    pub realm: String,
    /// `auth-secret-type: auth-map`: a key a user, instead of one htpasswd file.
    pub map: bool,
}

/// `enable-cors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// `*`, origins, or origins with one `*` label.
    pub origins: Vec<String>,
    pub methods: HeaderValue,
    pub headers: HeaderValue,
    pub expose: Option<HeaderValue>,
    pub credentials: bool,
    pub max_age: HeaderValue,
}

impl Cors {
    /// Whether a page of `origin` may ask.
    pub fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| match allowed.split_once("*.") {
            Some((scheme, domain)) => {
                let label = origin.strip_prefix(scheme).and_then(|rest| rest.strip_suffix(domain));
                let label = label.and_then(|label| label.strip_suffix('.'));
                label.is_some_and(|label| !label.is_empty() && !label.contains(['.', '/', ':']))
            }
            None => allowed == "*" || allowed.eq_ignore_ascii_case(origin),
        })
    }

    pub fn allows_all(&self) -> bool {
        self.origins.iter().any(|allowed| allowed == "*")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_label_by_label() {
        let cors = |origins: &[&str]| Cors {
            origins: origins.iter().map(|o| (*o).to_owned()).collect(),
            methods: HeaderValue::from_static("GET"),
            headers: HeaderValue::from_static("X"),
            expose: None,
            credentials: true,
            max_age: HeaderValue::from_static("1"),
        };
        let some = cors(&["https://a.example", "https://*.b.example"]);
        assert!(some.allows("https://a.example") && some.allows("https://x.b.example"));
        for refused in
            ["http://a.example", "https://b.example", "https://x.y.b.example", "https://evil.com/x.b.example"]
        {
            assert!(!some.allows(refused), "{refused}");
        }
        assert!(cors(&["*"]).allows("https://anything.example"));
    }
}
