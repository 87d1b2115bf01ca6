//! One Ingress, parsed: hosts, paths and backends as values, and what of it cannot be understood.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend};
use regex::{Regex, RegexBuilder};
use service_model::ObjectKey;

use super::annotations;
use super::fault::Reason;
use super::host::{Matcher, Rewrite};
use super::options::Options;
use super::path::normalise;

/// Bounds the memory that one pattern may take when compiled, in bytes.
const PATTERN_SIZE: usize = 1 << 20;

/// A Service's port as an Ingress names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PortKey {
    pub service: ObjectKey,
    pub port: PortName,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum PortName {
    Number(u16),
    Name(Box<str>),
    /// The first that the Service has.
    First,
    /// The backend is no Service; the name is a placeholder that never exists.
    Nothing,
}

impl std::fmt::Display for PortName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PortName::Number(number) => write!(f, "{number}"),
            PortName::Name(name) => f.write_str(name),
            PortName::First => f.write_str("first"),
            PortName::Nothing => f.write_str("-"),
        }
    }
}

/// Age and name: the order in which Ingresses that clash have their way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Seconds since the epoch.
    pub created: i64,
    pub key: ObjectKey,
}

#[derive(Debug)]
pub(super) struct Parsed {
    pub rank: Rank,
    pub options: Arc<Options>,
    pub faults: Vec<Reason>,
    pub default: Option<PortKey>,
    /// Asked while a backend has no endpoints.
    pub fallback: Option<PortKey>,
    pub rules: Vec<Rule>,
    pub tls: Vec<Tls>,
}

#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// Empty: any.
    pub host: Box<str>,
    pub tls: bool,
    pub paths: Vec<PathRule>,
}

#[derive(Debug, Clone)]
pub(super) struct PathRule {
    /// As written.
    pub path: Box<str>,
    pub matcher: Matcher,
    pub rewrite: Option<Rewrite>,
    pub backend: PortKey,
}

#[derive(Debug)]
pub(super) struct Tls {
    pub hosts: Vec<Box<str>>,
    pub secret: Option<ObjectKey>,
}

pub(super) fn key_of(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> ObjectKey {
    ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

pub(super) fn parse(ingress: &Ingress) -> Parsed {
    let key = key_of(&ingress.metadata);
    let created = ingress.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second());
    let empty = Default::default();
    let annotations = ingress.metadata.annotations.as_ref().unwrap_or(&empty);
    let (options, mut faults) = annotations::read(&key.namespace, annotations);
    let spec = ingress.spec.clone().unwrap_or_default();
    let lower = |host: &String| -> Box<str> { host.to_ascii_lowercase().into() };
    let tls: Vec<Tls> = spec
        .tls
        .iter()
        .flatten()
        .map(|tls| Tls {
            hosts: tls.hosts.iter().flatten().map(lower).collect(),
            secret: tls
                .secret_name
                .as_ref()
                .filter(|n| !n.is_empty())
                .map(|n| ObjectKey::new(key.namespace.clone(), n.as_str())),
        })
        .collect();
    let default = spec.default_backend.as_ref().map(|backend| port_key(&key, backend, &mut faults));
    let mut rules = Vec::new();
    for rule in spec.rules.iter().flatten() {
        let host = rule.host.as_ref().map(lower).unwrap_or_default();
        let paths = rule.http.iter().flat_map(|http| &http.paths);
        let paths = paths.filter_map(|path| path_rule(&key, path, &options, &mut faults)).collect();
        let tls = tls.iter().any(|tls| tls.hosts.is_empty() || tls.hosts.iter().any(|tls| covers(tls, &host)));
        rules.push(Rule { host, tls, paths });
    }
    alias(&mut rules, &options.aliases);
    let fallback = options
        .default_backend
        .as_ref()
        .map(|name| PortKey { service: ObjectKey::new(key.namespace.clone(), name.as_str()), port: PortName::First });
    Parsed { rank: Rank { created, key }, options: Arc::new(options), faults, default, fallback, rules, tls }
}

/// Gives the rules of the first host to its other names too.
fn alias(rules: &mut Vec<Rule>, aliases: &[Box<str>]) {
    let Some(host) = rules.iter().map(|rule| rule.host.clone()).find(|host| !host.is_empty()) else { return };
    let own: Vec<Rule> = rules.iter().filter(|rule| rule.host == host).cloned().collect();
    for alias in aliases.iter().filter(|alias| rules.iter().all(|rule| rule.host != **alias)).collect::<Vec<_>>() {
        rules.extend(own.iter().map(|rule| Rule { host: alias.clone(), ..rule.clone() }));
    }
}

/// Whether the name of a TLS section, maybe with a `*` label, stands for `host`.
fn covers(name: &str, host: &str) -> bool {
    name == host
        || name.strip_prefix('*').is_some_and(|suffix| host.find('.').is_some_and(|dot| &host[dot..] == suffix))
}

fn path_rule(key: &ObjectKey, rule: &HTTPIngressPath, options: &Options, faults: &mut Vec<Reason>) -> Option<PathRule> {
    let path = rule.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let backend = port_key(key, &rule.backend, faults);
    let pattern = |text: String| RegexBuilder::new(&text).size_limit(PATTERN_SIZE).build();
    let exact = rule.path_type == "Exact";
    // ingress-nginx reads paths as patterns as soon as there is a rewrite; for a plain Prefix that would match `/foobar` for `/foo`.
    let looks_like_one = path.contains(['(', '[', '*', '+', '|', '\\', '^', '$']);
    let as_pattern = !exact && (options.use_regex || (options.rewrite.is_some() && looks_like_one));
    let compiled: Result<Option<Regex>, regex::Error> = if as_pattern || options.rewrite.is_some() {
        let text = if as_pattern { path.to_owned() } else { regex::escape(path) };
        pattern(format!("(?i)^{text}")).map(Some)
    } else {
        Ok(None)
    };
    let compiled = match compiled {
        Ok(compiled) => compiled,
        Err(error) => {
            let why = error.to_string().lines().last().unwrap_or_default().to_owned();
            faults.push(Reason::Pattern { path: path.to_owned(), why });
            return None;
        }
    };
    let plain = || normalise(path).map_or_else(|| path.to_owned(), std::borrow::Cow::into_owned);
    let matcher = match &compiled {
        Some(pattern) if as_pattern => Matcher::Pattern(pattern.clone()),
        // ImplementationSpecific is read as Prefix here.
        Some(_) | None if exact => Matcher::Exact(plain().into()),
        Some(_) | None => Matcher::prefix(&plain()),
    };
    let rewrite = options.rewrite.as_ref().zip(compiled);
    let rewrite = rewrite.map(|(target, pattern)| Rewrite { pattern, target: target.as_str().into() });
    Some(PathRule { path: path.into(), matcher, rewrite, backend })
}

fn port_key(key: &ObjectKey, backend: &IngressBackend, faults: &mut Vec<Reason>) -> PortKey {
    if let Some(service) = &backend.service {
        let port = service.port.as_ref();
        let number = port.and_then(|port| port.number).and_then(|number| u16::try_from(number).ok());
        let name = port.and_then(|port| port.name.as_deref()).unwrap_or_default();
        let port = number.filter(|n| *n > 0).map_or_else(|| PortName::Name(name.into()), PortName::Number);
        return PortKey { service: ObjectKey::new(key.namespace.clone(), service.name.as_str()), port };
    }
    let (kind, name) = backend.resource.as_ref().map(|r| (r.kind.clone(), r.name.clone())).unwrap_or_default();
    let service = ObjectKey::new(key.namespace.clone(), name.as_str());
    faults.push(Reason::ResourceBackend { kind, name });
    PortKey { service, port: PortName::Nothing }
}
