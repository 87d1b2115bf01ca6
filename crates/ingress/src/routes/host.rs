//! The routes of one host, and which of them a path takes: Exact first, then regular expressions, then the longest Prefix.
//!
//! That order is the API reference's for Exact and Prefix ("longest matching path first, Exact before Prefix") with nginx's place for
//! regular expressions in between. A Prefix matches element by element: `/foo` is a prefix of `/foo/bar`, not of `/foobar`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use fnv::FnvHashMap;
use regex::Regex;
use service_model::ObjectKey;

use super::backend::ServicePort;
use super::canary::Canary;
use super::htpasswd::Users;
use super::limits::Limiter;
use super::options::Options;
use super::stats::Stats;

/// Where a request goes and what is done to it on the way.
#[derive(Debug)]
pub struct Route {
    /// The Ingress that says so; for a name on the machine, the Service itself.
    pub ingress: ObjectKey,
    pub path: Box<str>,
    pub backend: Arc<ServicePort>,
    pub options: Arc<Options>,
    /// The host has a TLS section.
    pub tls: bool,
    pub rewrite: Option<Rewrite>,
    pub gate: Gate,
    pub limiter: Option<Arc<Limiter>>,
    /// The way of a request while the backend has no endpoints, or answers with a status that another page is wanted for.
    pub fallback: Option<Arc<Route>>,
    pub canary: Option<CanaryRoute>,
    pub stats: Arc<Stats>,
}

/// The way that a part of the requests takes.
#[derive(Debug)]
pub struct CanaryRoute {
    pub rule: Canary,
    pub turn: Arc<AtomicU64>,
    pub route: Arc<Route>,
}

/// Who must show a password.
#[derive(Debug, Clone)]
pub enum Gate {
    Open,
    Users(Arc<Users>),
    /// Users are asked for, but there are none: nobody comes in.
    Closed,
}

/// `rewrite-target`: what the path becomes.
#[derive(Debug, Clone)]
pub struct Rewrite {
    pub pattern: Regex,
    pub target: Box<str>,
}

impl Rewrite {
    /// The new path (and query, if the target has one) of a path in normal form; the whole path is replaced, as nginx does.
    pub fn apply(&self, path: &str) -> Option<String> {
        let groups = self.pattern.captures(path)?;
        let mut text = String::with_capacity(path.len() + self.target.len());
        let mut rest = &*self.target;
        while let Some(at) = rest.find('$') {
            text.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let Some(digit) = rest.chars().next().and_then(|c| c.to_digit(10)) else {
                text.push('$');
                continue;
            };
            text.push_str(groups.get(digit as usize).map_or("", |group| group.as_str()));
            rest = &rest[1..];
        }
        text.push_str(rest);
        if !text.starts_with('/') {
            text.insert(0, '/');
        }
        Some(escape(&text))
    }
}

/// What cannot stand in a request target is percent-encoded again; what is encoded stays.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        let encoded = || text.as_bytes().get(at + 1..at + 3).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
        match byte {
            b'%' if encoded() => escaped.push('%'),
            b'!' | b'$' | b'&'..=b';' | b'=' | b'?'..=b'Z' | b'_' | b'a'..=b'z' | b'~' => {
                escaped.push(char::from(byte))
            }
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

/// The routes of one host.
#[derive(Debug, Default)]
pub struct HostTable {
    exact: FnvHashMap<Box<str>, Arc<Route>>,
    /// The longest pattern first.
    patterns: Vec<(Regex, Arc<Route>)>,
    /// Without a slash at the end; `/` is the empty one.
    prefixes: FnvHashMap<Box<str>, Arc<Route>>,
    longest: usize,
    /// What takes the rest: the default backend of an Ingress with this host.
    pub default: Option<Arc<Route>>,
}

/// How a path of a rule is compared.
#[derive(Debug, Clone)]
pub(super) enum Matcher {
    Exact(Box<str>),
    Prefix(Box<str>),
    Pattern(Regex),
}

impl Matcher {
    /// Whether both compare alike.
    pub fn is_same(&self, other: &Matcher) -> bool {
        match (self, other) {
            (Matcher::Exact(one), Matcher::Exact(other)) | (Matcher::Prefix(one), Matcher::Prefix(other)) => {
                one == other
            }
            (Matcher::Pattern(one), Matcher::Pattern(other)) => one.as_str() == other.as_str(),
            (Matcher::Exact(_) | Matcher::Prefix(_) | Matcher::Pattern(_), _) => false,
        }
    }

    /// A Prefix without its last slash, which does not count.
    pub fn prefix(path: &str) -> Self {
        Matcher::Prefix(path.strip_suffix('/').unwrap_or(path).into())
    }
}

impl HostTable {
    /// Adds a route; gives back the one that was there before it and stays.
    pub(super) fn add(&mut self, matcher: &Matcher, route: Arc<Route>) -> Result<(), Arc<Route>> {
        use std::collections::hash_map::Entry;
        let slot = match matcher {
            Matcher::Exact(path) => self.exact.entry(path.clone()),
            Matcher::Prefix(path) => {
                self.longest = self.longest.max(path.len());
                self.prefixes.entry(path.clone())
            }
            Matcher::Pattern(pattern) => {
                let taken = self.patterns.iter().find(|(known, _)| known.as_str() == pattern.as_str());
                if let Some((_, route)) = taken {
                    return Err(Arc::clone(route));
                }
                let length = pattern.as_str().len();
                let place = self.patterns.partition_point(|(known, _)| known.as_str().len() >= length);
                self.patterns.insert(place, (pattern.clone(), route));
                return Ok(());
            }
        };
        match slot {
            Entry::Occupied(taken) => Err(Arc::clone(taken.get())),
            Entry::Vacant(free) => {
                free.insert(route);
                Ok(())
            }
        }
    }

    /// The route of a path in normal form.
    pub fn find(&self, path: &str) -> Option<&Arc<Route>> {
        if let Some(route) = self.exact.get(path) {
            return Some(route);
        }
        if let Some((_, route)) = self.patterns.iter().find(|(pattern, _)| pattern.is_match(path)) {
            return Some(route);
        }
        if self.prefixes.is_empty() {
            return None;
        }
        self.longest_prefix(path)
    }

    /// Cuts the path at its slashes, from the longest that any rule has: work is bounded by the rules, not by the request.
    fn longest_prefix(&self, path: &str) -> Option<&Arc<Route>> {
        let mut prefix = path.strip_suffix('/').unwrap_or(path);
        if prefix.len() > self.longest {
            let bytes = prefix.as_bytes();
            let cut = (0..=self.longest).rev().find(|at| bytes[*at] == b'/')?;
            prefix = &prefix[..cut];
        }
        loop {
            if let Some(route) = self.prefixes.get(prefix) {
                return Some(route);
            }
            prefix = &prefix[..prefix.rfind('/')?];
        }
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.patterns.is_empty() && self.prefixes.is_empty() && self.default.is_none()
    }

    /// All routes, in no order.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        let patterns = self.patterns.iter().map(|(_, route)| route);
        self.exact.values().chain(patterns).chain(self.prefixes.values()).chain(&self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::backend::EndpointSet;

    fn route(name: &str) -> Arc<Route> {
        let service = ObjectKey::new("default", name);
        Arc::new(Route {
            ingress: service.clone(),
            path: name.into(),
            backend: Arc::new(ServicePort::new(service, "80", EndpointSet::default())),
            options: Arc::default(),
            tls: false,
            rewrite: None,
            gate: Gate::Open,
            limiter: None,
            fallback: None,
            canary: None,
            stats: Arc::default(),
        })
    }

    /// Rules as `E /path` and `P /path`; the answer is the rule that matched.
    fn check(rules: &[&str], path: &str, expected: Option<&str>) {
        let mut table = HostTable::default();
        for rule in rules {
            let matcher = match rule.split_once(' ') {
                Some(("E", path)) => Matcher::Exact(path.into()),
                Some(("P", path)) => Matcher::prefix(path),
                Some((_, pattern)) => Matcher::Pattern(Regex::new(pattern).unwrap()),
                None => panic!("{rule}"),
            };
            table.add(&matcher, route(rule)).unwrap();
        }
        assert_eq!(table.find(path).map(|route| &*route.path), expected, "{rules:?} {path}");
    }

    /// The table of examples of the Ingress concept page, row by row.
    #[test]
    fn paths_match_as_the_documentation_shows() {
        check(&["P /"], "/any/path", Some("P /"));
        check(&["E /foo"], "/foo", Some("E /foo"));
        check(&["E /foo"], "/bar", None);
        check(&["E /foo"], "/foo/", None);
        check(&["E /foo/"], "/foo", None);
        check(&["P /foo"], "/foo", Some("P /foo"));
        check(&["P /foo"], "/foo/", Some("P /foo"));
        check(&["P /foo/"], "/foo", Some("P /foo/"));
        check(&["P /foo/"], "/foo/", Some("P /foo/"));
        check(&["P /aaa/bb"], "/aaa/bbb", None);
        check(&["P /aaa/bbb"], "/aaa/bbb", Some("P /aaa/bbb"));
        check(&["P /aaa/bbb/"], "/aaa/bbb", Some("P /aaa/bbb/"));
        check(&["P /aaa/bbb"], "/aaa/bbb/", Some("P /aaa/bbb"));
        check(&["P /aaa/bbb"], "/aaa/bbb/ccc", Some("P /aaa/bbb"));
        check(&["P /aaa/bbb"], "/aaa/bbbxyz", None);
        check(&["P /", "P /aaa"], "/aaa/ccc", Some("P /aaa"));
        check(&["P /", "P /aaa", "P /aaa/bbb"], "/aaa/bbb", Some("P /aaa/bbb"));
        check(&["P /", "P /aaa", "P /aaa/bbb"], "/ccc", Some("P /"));
        check(&["P /aaa"], "/ccc", None);
        check(&["P /foo", "E /foo"], "/foo", Some("E /foo"));
    }

    #[test]
    fn the_longest_wins_and_case_counts() {
        check(&["P /a", "P /a/b/c"], "/a/b/c/d/e", Some("P /a/b/c"));
        check(&["P /a", "P /a/b/c"], "/a/b/d/e", Some("P /a"));
        check(&["P /foo"], "/FOO", None);
        check(&["P /foo", "R ^/f.*", "R ^/fo+/x"], "/foo/x", Some("R ^/fo+/x"));
        check(&["E /foo/x", "R ^/fo+/x"], "/foo/x", Some("E /foo/x"));
        check(&["P /aa"], &"/a".repeat(4000), None);
        check(&["P /ä"], "/äöü/x", None);
    }

    #[test]
    fn rewriting_replaces_the_whole_path() {
        let told = |pattern: &str, target: &str, path: &str| {
            Rewrite { pattern: Regex::new(pattern).unwrap(), target: target.into() }.apply(path)
        };
        assert_eq!(told("(?i)^/something(/|$)(.*)", "/$2", "/something/new"), Some("/new".into()));
        assert_eq!(told("(?i)^/something(/|$)(.*)", "/$2", "/something"), Some("/".into()));
        assert_eq!(told("(?i)^/something(/|$)(.*)", "/$2", "/other"), None);
        assert_eq!(told("(?i)^/a", "/", "/a/b"), Some("/".into()));
        assert_eq!(told("^/a/(.*)", "/b?q=$1", "/a/x y"), Some("/b?q=x%20y".into()));
        assert_eq!(told("^/(.*)", "$1", "/a%2Fb"), Some("/a%2Fb".into()));
        assert_eq!(told("^/a", "/$x$", "/a"), Some("/$x$".into()));
    }
}
