//! The model: what was seen of the cluster, and the table that follows from it.
//!
//! Each object is parsed when it changes. [`Model::commit`] then rebuilds the hosts that were touched and gives out the next table, the
//! certificates' plan if that changed, and faults that were not told before.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use service_model::ObjectKey;

use super::backend::Unavailable;
use super::canary::Canary;
use super::class::{ClassRule, Classes};
use super::fault::{Culprit, Fault, Reason};
use super::host::{CanaryRoute, Gate, HostTable, Route};
use super::htpasswd::Users;
use super::limits::Limiter;
use super::options::BasicAuth;
use super::parse::{Parsed, PathRule, PortKey, PortName, Rank, key_of, parse};
use super::ports::Ports;
use super::stats::Stats;
use super::table::Table;

/// What was seen, and what follows.
#[derive(Debug)]
pub struct Model {
    rule: ClassRule,
    /// Whether Services get names on the machine.
    names: bool,
    classes: Classes,
    /// All Ingresses; parsed if they are ours.
    ingresses: HashMap<ObjectKey, (Arc<Ingress>, Option<Arc<Parsed>>)>,
    secrets: HashMap<ObjectKey, Arc<Secret>>,
    ports: Ports,
    /// Who has rules for a host; the empty host stands for any and for default backends.
    by_host: HashMap<Box<str>, BTreeSet<Rank>>,
    clashes: HashMap<Box<str>, Vec<(ObjectKey, Reason)>>,
    service_users: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
    secret_users: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
    stats: HashMap<ObjectKey, Arc<Stats>>,
    limiters: HashMap<ObjectKey, Arc<Limiter>>,
    turns: HashMap<ObjectKey, Arc<AtomicU64>>,
    told: HashMap<ObjectKey, BTreeSet<Reason>>,
    table: Table,
    dirty: Dirty,
}

/// What changed since the last commit.
#[derive(Debug, Default)]
struct Dirty {
    hosts: BTreeSet<Box<str>>,
    /// Ingresses whose faults may be others now.
    faults: BTreeSet<ObjectKey>,
    services: BTreeSet<ObjectKey>,
    certificates: bool,
}

/// One TLS section: which hosts get the certificate of which Secret. Earlier ones count.
#[derive(Debug, Clone)]
pub struct TlsBinding {
    pub ingress: ObjectKey,
    /// Empty: the names in the certificate.
    pub hosts: Vec<Box<str>>,
    pub secret: ObjectKey,
    pub content: Option<Arc<Secret>>,
}

/// What a commit has to be told to others.
#[derive(Debug, Default)]
pub struct Committed {
    /// The next table, if routes changed.
    pub table: Option<Table>,
    /// The next plan of certificates, if that changed.
    pub certificates: Option<Vec<TlsBinding>>,
    /// Faults that are new.
    pub faults: Vec<Fault>,
}

impl Model {
    /// `names`: whether Services get names on the machine; `domain` is the cluster's.
    pub fn new(rule: ClassRule, names: bool, domain: &str) -> Self {
        Model {
            rule,
            names,
            classes: Classes::default(),
            ingresses: HashMap::new(),
            secrets: HashMap::new(),
            ports: Ports::new(domain),
            by_host: HashMap::new(),
            clashes: HashMap::new(),
            service_users: HashMap::new(),
            secret_users: HashMap::new(),
            stats: HashMap::new(),
            limiters: HashMap::new(),
            turns: HashMap::new(),
            told: HashMap::new(),
            table: Table::default(),
            // The first commit gives a plan of certificates, even an empty one.
            dirty: Dirty { certificates: true, ..Dirty::default() },
        }
    }

    pub fn apply_ingress(&mut self, ingress: &Arc<Ingress>) {
        let parsed = self.classes.is_ours(ingress, &self.rule).then(|| Arc::new(parse(ingress)));
        self.replace(key_of(&ingress.metadata), Some((Arc::clone(ingress), parsed)));
    }

    pub fn remove_ingress(&mut self, key: &ObjectKey) {
        self.replace(key.clone(), None);
    }

    /// The Ingresses that are ours, as they were last seen.
    pub fn ours(&self) -> impl Iterator<Item = &Arc<Ingress>> {
        self.ingresses.values().filter(|(_, parsed)| parsed.is_some()).map(|(ingress, _)| ingress)
    }

    pub fn is_ours(&self, key: &ObjectKey) -> bool {
        self.ingresses.get(key).is_some_and(|(_, parsed)| parsed.is_some())
    }

    /// The uid of an object that was seen.
    pub fn uid(&self, culprit: &Culprit) -> Option<String> {
        match culprit {
            Culprit::Ingress(key) => self.ingresses.get(key)?.0.metadata.uid.clone(),
            Culprit::Secret(key) => self.secrets.get(key)?.metadata.uid.clone(),
        }
    }

    /// A class that comes, goes or changes may make any Ingress ours or another's; says whether it did change.
    pub fn apply_class(&mut self, class: &IngressClass) -> bool {
        let changed = self.classes.apply(class, &self.rule);
        if changed {
            self.reclassify();
        }
        changed
    }

    pub fn remove_class(&mut self, name: &str) -> bool {
        let changed = self.classes.remove(name);
        if changed {
            self.reclassify();
        }
        changed
    }

    fn reclassify(&mut self) {
        let all: Vec<(Arc<Ingress>, bool)> =
            self.ingresses.values().map(|(i, p)| (Arc::clone(i), p.is_some())).collect();
        for (ingress, was_ours) in all {
            if self.classes.is_ours(&ingress, &self.rule) != was_ours {
                self.apply_ingress(&ingress);
            }
        }
    }

    pub fn apply_service(&mut self, service: &Service) {
        let key = self.ports.apply_service(service);
        self.touch_service(key);
    }

    pub fn remove_service(&mut self, key: &ObjectKey) {
        self.ports.remove_service(key);
        self.touch_service(key.clone());
    }

    /// Names outside the cluster that routes lead to.
    pub fn external_names(&self) -> BTreeSet<Box<str>> {
        self.ports.names()
    }

    /// Takes in what a name outside the cluster resolves to; says whether that changed anything.
    pub fn apply_name(&mut self, name: &str, addresses: Vec<std::net::IpAddr>) -> bool {
        let touched = self.ports.resolve_name(name, addresses);
        let changed = !touched.is_empty();
        touched.into_iter().for_each(|service| self.touch_service(service));
        changed
    }

    fn touch_service(&mut self, key: ObjectKey) {
        self.dirty.faults.extend(self.service_users.get(&key).into_iter().flatten().cloned());
        if self.names {
            self.dirty.services.insert(key);
        }
    }

    /// Endpoints take effect at once, in the ports that the routes share.
    pub fn apply_slice(&mut self, slice: &EndpointSlice) {
        self.ports.apply_slice(slice);
    }

    pub fn remove_slice(&mut self, key: &ObjectKey) {
        self.ports.remove_slice(key);
    }

    pub fn apply_secret(&mut self, secret: &Arc<Secret>) {
        let key = key_of(&secret.metadata);
        self.secrets.insert(key.clone(), Arc::clone(secret));
        self.touch_secret(&key);
    }

    pub fn remove_secret(&mut self, key: &ObjectKey) {
        self.secrets.remove(key);
        self.touch_secret(key);
    }

    fn touch_secret(&mut self, key: &ObjectKey) {
        let users: Vec<ObjectKey> = self.secret_users.get(key).into_iter().flatten().cloned().collect();
        for user in users {
            let Some((_, Some(parsed))) = self.ingresses.get(&user) else { continue };
            let is_auth = parsed.options.auth.as_ref().is_some_and(|auth| auth.secret == *key);
            if is_auth {
                self.dirty.hosts.extend(hosts(parsed));
            }
            self.dirty.certificates |= parsed.tls.iter().any(|tls| tls.secret.as_ref() == Some(key));
            self.dirty.faults.insert(user);
        }
    }

    fn replace(&mut self, key: ObjectKey, next: Option<(Arc<Ingress>, Option<Arc<Parsed>>)>) {
        let parsed = next.as_ref().and_then(|(_, parsed)| parsed.clone());
        let before = match next {
            Some(next) => self.ingresses.insert(key.clone(), next),
            None => self.ingresses.remove(&key),
        };
        if let Some((_, Some(before))) = before {
            self.unlink(&before);
        }
        match parsed {
            Some(parsed) => self.link(&parsed),
            None => {
                self.stats.remove(&key);
                self.limiters.remove(&key);
                self.turns.remove(&key);
            }
        }
        self.dirty.faults.insert(key);
    }

    fn link(&mut self, parsed: &Parsed) {
        let key = &parsed.rank.key;
        for host in hosts(parsed) {
            self.by_host.entry(host.clone()).or_default().insert(parsed.rank.clone());
            self.dirty.hosts.insert(host);
        }
        for port in ports(parsed) {
            self.service_users.entry(port.service.clone()).or_default().insert(key.clone());
        }
        for secret in secrets(parsed) {
            self.secret_users.entry(secret.clone()).or_default().insert(key.clone());
        }
        self.dirty.certificates |= !parsed.tls.is_empty();
    }

    fn unlink(&mut self, parsed: &Parsed) {
        let key = &parsed.rank.key;
        for host in hosts(parsed) {
            if let Some(ranks) = self.by_host.get_mut(&host) {
                ranks.remove(&parsed.rank);
            }
            self.dirty.hosts.insert(host);
        }
        for port in ports(parsed) {
            forget(&mut self.service_users, &port.service, key);
        }
        for secret in secrets(parsed) {
            forget(&mut self.secret_users, secret, key);
        }
        self.dirty.certificates |= !parsed.tls.is_empty();
    }

    /// Makes what follows from all changes since the last commit.
    pub fn commit(&mut self) -> Committed {
        let dirty = std::mem::take(&mut self.dirty);
        let mut touched = dirty.faults;
        let routes_changed = !dirty.hosts.is_empty();
        for host in dirty.hosts {
            touched.extend(self.clashes.remove(&host).into_iter().flatten().map(|(key, _)| key));
            self.rebuild(&host);
            touched.extend(self.clashes.get(&host).into_iter().flatten().map(|(key, _)| key.clone()));
        }
        let mut names_changed = false;
        for service in dirty.services {
            names_changed |= self.rename(&service);
        }
        let table = (routes_changed || names_changed).then(|| self.table.clone());
        if routes_changed {
            self.ports.forget_unused();
        }
        let certificates = dirty.certificates.then(|| self.bindings());
        let faults = touched.iter().flat_map(|key| self.new_faults(key)).collect();
        Committed { table, certificates, faults }
    }

    fn rebuild(&mut self, host: &str) {
        let ranks: Vec<Rank> = self.by_host.get(host).into_iter().flatten().cloned().collect();
        if ranks.is_empty() {
            self.by_host.remove(host);
        }
        let parsed: Vec<Arc<Parsed>> =
            ranks.iter().filter_map(|rank| self.ingresses.get(&rank.key)?.1.clone()).collect();
        let mut table = HostTable::default();
        let mut clashes = Vec::new();
        for parsed in parsed.iter().filter(|parsed| parsed.options.canary.is_none()) {
            self.add_rules(host, parsed, &mut table, &mut clashes);
        }
        self.add_default(host, &parsed, &mut table, &mut clashes);
        if !clashes.is_empty() {
            self.clashes.insert(host.into(), clashes);
        }
        let next = (!table.is_empty()).then(|| Arc::new(table));
        let (tables, name) = match host.strip_prefix('*') {
            _ if host.is_empty() => return self.table.any = next,
            Some(suffix) => (&mut self.table.wildcards, suffix),
            None => (&mut self.table.hosts, host),
        };
        let tables = Arc::make_mut(tables);
        match next {
            Some(next) => drop(tables.insert(name.into(), next)),
            None => drop(tables.remove(name)),
        }
    }

    fn add_rules(
        &mut self,
        host: &str,
        parsed: &Parsed,
        table: &mut HostTable,
        clashes: &mut Vec<(ObjectKey, Reason)>,
    ) {
        let (gate, _) = self.gate(parsed.options.auth.as_ref());
        for rule in parsed.rules.iter().filter(|rule| &*rule.host == host) {
            for path in &rule.paths {
                let canary = self.canary(host, parsed, path);
                let route = self.route(parsed, path, rule.tls, gate.clone(), canary);
                if let Err(winner) = table.add(&path.matcher, route) {
                    let (host, path) = (host.to_owned(), path.path.to_string());
                    let reason = Reason::Taken { host, path, by: winner.ingress.clone() };
                    clashes.push((parsed.rank.key.clone(), reason));
                }
            }
        }
    }

    /// The default backend for a host: of the oldest Ingress with rules for it. For any host, Ingresses that are nothing but a default
    /// backend come first.
    fn add_default(
        &mut self,
        host: &str,
        parsed: &[Arc<Parsed>],
        table: &mut HostTable,
        clashes: &mut Vec<(ObjectKey, Reason)>,
    ) {
        let parsed: Vec<&Arc<Parsed>> = parsed.iter().filter(|parsed| parsed.options.canary.is_none()).collect();
        let pure = |parsed: &&Arc<Parsed>| parsed.rules.is_empty();
        let all = || parsed.iter().copied();
        let candidates = all().filter(pure).chain(all().filter(|parsed| !pure(parsed)));
        let mut winner: Option<ObjectKey> = None;
        for candidate in candidates.filter(|parsed| parsed.default.is_some()) {
            let Some(backend) = &candidate.default else { continue };
            if let Some(by) = &winner {
                if candidate.rules.is_empty() {
                    clashes.push((candidate.rank.key.clone(), Reason::DefaultTaken { by: by.clone() }));
                }
                continue;
            }
            let (gate, _) = self.gate(candidate.options.auth.as_ref());
            let tls = candidate.rules.iter().any(|rule| &*rule.host == host && rule.tls);
            let matcher = super::host::Matcher::prefix("/");
            let rule = PathRule { path: "/".into(), matcher, rewrite: None, backend: backend.clone() };
            table.default = Some(self.route(candidate, &rule, tls, gate, None));
            winner = Some(candidate.rank.key.clone());
        }
    }

    fn route(
        &mut self,
        parsed: &Parsed,
        rule: &PathRule,
        tls: bool,
        gate: Gate,
        canary: Option<(Canary, ObjectKey, PortKey)>,
    ) -> Arc<Route> {
        let mut route = self.way(parsed, rule, tls, &rule.backend);
        route.canary = canary.map(|(canary, key, backend)| CanaryRoute {
            rule: canary,
            turn: Arc::clone(self.turns.entry(key).or_default()),
            route: Arc::new(self.way(parsed, rule, tls, &backend)),
        });
        route.fallback = parsed.fallback.as_ref().map(|backend| {
            // What answers there is meant for any path.
            Arc::new(Route { rewrite: None, ..self.way(parsed, rule, tls, backend) })
        });
        (route.gate, route.limiter) = (gate, self.limiter(parsed));
        Arc::new(route)
    }

    /// To a backend, and nothing else asked.
    fn way(&mut self, parsed: &Parsed, rule: &PathRule, tls: bool, backend: &PortKey) -> Route {
        let ingress = parsed.rank.key.clone();
        Route {
            stats: Arc::clone(self.stats.entry(ingress.clone()).or_default()),
            ingress,
            path: rule.path.clone(),
            backend: self.ports.port(backend),
            options: Arc::clone(&parsed.options),
            tls,
            rewrite: rule.rewrite.clone(),
            gate: Gate::Open,
            limiter: None,
            fallback: None,
            canary: None,
        }
    }

    /// The canary for a path: of the oldest Ingress in the same namespace that is one for it.
    fn canary(&self, host: &str, of: &Parsed, path: &PathRule) -> Option<(Canary, ObjectKey, PortKey)> {
        let ranks = self.by_host.get(host).into_iter().flatten();
        let near = ranks.filter(|rank| rank.key.namespace == of.rank.key.namespace);
        near.filter_map(|rank| self.ingresses.get(&rank.key)?.1.as_ref()).find_map(|parsed| {
            let rule = parsed.options.canary.clone()?;
            let paths = parsed.rules.iter().filter(|rule| *rule.host == *host).flat_map(|rule| &rule.paths);
            let same = paths.into_iter().find(|own| own.matcher.is_same(&path.matcher))?;
            Some((rule, parsed.rank.key.clone(), same.backend.clone()))
        })
    }

    /// Counts go on for as long as the limits stay the same.
    fn limiter(&mut self, parsed: &Parsed) -> Option<Arc<Limiter>> {
        let (key, limits) = (&parsed.rank.key, &parsed.options.limits);
        if limits.is_empty() {
            self.limiters.remove(key);
            return None;
        }
        let known = self.limiters.get(key).filter(|known| known.limits == *limits).cloned();
        let limiter = known.unwrap_or_else(|| Arc::new(Limiter::new(limits.clone())));
        self.limiters.insert(key.clone(), Arc::clone(&limiter));
        Some(limiter)
    }

    /// Renews the name of a Service on the machine.
    fn rename(&mut self, service: &ObjectKey) -> bool {
        let name = format!("{}.{}", service.name, service.namespace);
        let port = self.ports.http_port(service);
        let known = self.table.names.get(name.as_str());
        match port {
            None if known.is_none() => return false,
            None => drop(Arc::make_mut(&mut self.table.names).remove(name.as_str())),
            Some(port) if known.is_some_and(|route| *route.backend.port == *port.to_string()) => return false,
            Some(port) => {
                let key = PortKey { service: service.clone(), port: PortName::Number(port) };
                let route = Route {
                    ingress: service.clone(),
                    path: "/".into(),
                    backend: self.ports.port(&key),
                    options: Arc::default(),
                    tls: false,
                    rewrite: None,
                    gate: Gate::Open,
                    limiter: None,
                    fallback: None,
                    canary: None,
                    stats: Arc::default(),
                };
                Arc::make_mut(&mut self.table.names).insert(name.into(), Arc::new(route));
            }
        }
        true
    }

    fn bindings(&self) -> Vec<TlsBinding> {
        let mut ours: Vec<&Arc<Parsed>> = self.ingresses.values().filter_map(|(_, parsed)| parsed.as_ref()).collect();
        ours.sort_by(|one, other| one.rank.cmp(&other.rank));
        let of = |parsed: &Parsed| -> Vec<TlsBinding> {
            let all_hosts: Vec<Box<str>> =
                parsed.rules.iter().map(|rule| rule.host.clone()).filter(|host| !host.is_empty()).collect();
            let bind = |tls: &super::parse::Tls| {
                let secret = tls.secret.clone()?;
                let hosts = if tls.hosts.is_empty() { all_hosts.clone() } else { tls.hosts.clone() };
                let content = self.secrets.get(&secret).cloned();
                Some(TlsBinding { ingress: parsed.rank.key.clone(), hosts, secret, content })
            };
            parsed.tls.iter().filter_map(bind).collect()
        };
        ours.into_iter().flat_map(|parsed| of(parsed)).collect()
    }

    /// Who may come in, and why nobody may.
    fn gate(&self, auth: Option<&BasicAuth>) -> (Gate, Option<Reason>) {
        let Some(auth) = auth else { return (Gate::Open, None) };
        let (users, faults) = match self.secrets.get(&auth.secret) {
            None => (Users::default(), vec!["it does not exist".to_owned()]),
            Some(secret) => read_users(secret, auth.map),
        };
        let why = |why: String| Reason::Users { secret: auth.secret.clone(), why };
        let reason = (!faults.is_empty()).then(|| why(faults.join(", ")));
        if users.is_empty() {
            return (Gate::Closed, reason.or_else(|| Some(why("it is empty".to_owned()))));
        }
        (Gate::Users(Arc::new(users)), reason)
    }

    fn new_faults(&mut self, key: &ObjectKey) -> Vec<Fault> {
        let Some((_, Some(parsed))) = self.ingresses.get(key) else {
            self.told.remove(key);
            return Vec::new();
        };
        let mut reasons: BTreeSet<Reason> = parsed.faults.iter().cloned().collect();
        let clashes = hosts(parsed).into_iter().filter_map(|host| self.clashes.get(&host)).flatten();
        reasons.extend(clashes.filter(|(loser, _)| loser == key).map(|(_, reason)| reason.clone()));
        for port in ports(parsed) {
            let service = port.service.clone();
            match self.ports.unavailable(port) {
                Some(Unavailable::NoService) => drop(reasons.insert(Reason::NoService { service })),
                Some(Unavailable::NoPort) => {
                    reasons.insert(Reason::NoPort { service, port: port.port.to_string() });
                }
                Some(Unavailable::ExternalName) => drop(reasons.insert(Reason::ExternalName { service })),
                // Told when the Ingress was parsed.
                Some(Unavailable::NotAService) | None => {}
            }
        }
        reasons.extend(self.gate(parsed.options.auth.as_ref()).1);
        let before = self.told.insert(key.clone(), reasons.clone()).unwrap_or_default();
        let new = reasons.difference(&before).cloned();
        new.map(|reason| Fault { culprit: Culprit::Ingress(key.clone()), reason }).collect()
    }
}

fn forget(users: &mut HashMap<ObjectKey, BTreeSet<ObjectKey>>, of: &ObjectKey, user: &ObjectKey) {
    if let Some(set) = users.get_mut(of) {
        set.remove(user);
        if set.is_empty() {
            users.remove(of);
        }
    }
}

fn hosts(parsed: &Parsed) -> BTreeSet<Box<str>> {
    let any = parsed.default.as_ref().map(|_| Box::default());
    parsed.rules.iter().map(|rule| rule.host.clone()).chain(any).collect()
}

fn ports(parsed: &Parsed) -> impl Iterator<Item = &PortKey> {
    parsed
        .rules
        .iter()
        .flat_map(|rule| &rule.paths)
        .map(|path| &path.backend)
        .chain(&parsed.default)
        .chain(&parsed.fallback)
}

fn secrets(parsed: &Parsed) -> impl Iterator<Item = &ObjectKey> {
    parsed.tls.iter().filter_map(|tls| tls.secret.as_ref()).chain(parsed.options.auth.as_ref().map(|auth| &auth.secret))
}

fn read_users(secret: &Secret, map: bool) -> (Users, Vec<String>) {
    let empty = Default::default();
    let data = secret.data.as_ref().unwrap_or(&empty);
    if map {
        let text = |bytes: &'_ k8s_openapi::ByteString| String::from_utf8_lossy(&bytes.0).into_owned();
        let pairs: Vec<(&str, String)> = data.iter().map(|(user, hash)| (user.as_str(), text(hash))).collect();
        return Users::map(pairs.iter().map(|(user, hash)| (*user, hash.as_str())));
    }
    match data.get("auth") {
        Some(file) => Users::file(&String::from_utf8_lossy(&file.0)),
        None => (Users::default(), vec!["it has no key `auth`".to_owned()]),
    }
}
