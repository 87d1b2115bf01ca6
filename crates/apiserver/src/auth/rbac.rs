//! RBAC: roles and bindings, evaluated from the stored objects and kept parsed until one of them changes.

use std::sync::{Arc, Mutex, PoisonError};

use api::selector::FieldSelector;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use store::{RangeOptions, Storage, Watch};

use super::User;
use crate::Server;
use crate::fault::Outcome;
use crate::query::Query;
use crate::route::{Route, Target};

/// What someone wants to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// For what is no resource; then all but the verb is empty.
    pub(crate) path: String,
}

/// The parsed roles and bindings. Volatile; follows the store.
#[derive(Debug)]
pub(crate) struct Access(Mutex<Followed>);

#[derive(Debug)]
struct Followed {
    watch: Option<Watch>,
    policy: Arc<Policy>,
}

#[derive(Debug, Default)]
struct Policy {
    cluster_roles: Vec<Role>,
    roles: Vec<Role>,
    cluster_bindings: Vec<Binding>,
    bindings: Vec<Binding>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct Meta {
    name: String,
    namespace: String,
}

#[derive(Debug, Deserialize)]
struct Role {
    metadata: Meta,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Rule {
    pub(super) verbs: Vec<String>,
    pub(super) api_groups: Vec<String>,
    pub(super) resources: Vec<String>,
    pub(super) resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    pub(super) paths: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Binding {
    metadata: Meta,
    #[serde(default)]
    subjects: Vec<Subject>,
    #[serde(rename = "roleRef")]
    role: RoleRef,
}

#[derive(Debug, Deserialize)]
struct RoleRef {
    kind: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Subject {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: String,
}

const PREFIX: &str = "/rbac.authorization.k8s.io/";

impl Access {
    pub(crate) fn new() -> Self {
        Access(Mutex::new(Followed { watch: None, policy: Arc::default() }))
    }

    /// The reason for a yes; nothing is a no.
    pub(crate) fn reason(&self, store: &dyn Storage, user: &User, wanted: &Attributes) -> Option<String> {
        if user.is_in("system:masters") {
            return Some(String::new());
        }
        if super::node::refuses(store, user, wanted) {
            return None;
        }
        self.policy(store).reason(user, wanted)
    }

    /// All rules that apply to a user in a namespace: those about resources, and those about paths.
    pub(crate) fn rules(&self, store: &dyn Storage, user: &User, namespace: &str) -> (Vec<Value>, Vec<Value>) {
        let own = self.held(store, user, namespace);
        let resources = own.iter().filter(|rule| !rule.resources.is_empty()).map(|rule| {
            let mut shown = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
            if !rule.resource_names.is_empty() {
                shown["resourceNames"] = json!(rule.resource_names);
            }
            shown
        });
        let paths = own.iter().filter(|rule| !rule.paths.is_empty());
        let paths = paths.map(|rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.paths}));
        (resources.collect(), paths.collect())
    }

    /// All rules that apply to a user in a namespace.
    pub(super) fn held(&self, store: &dyn Storage, user: &User, namespace: &str) -> Vec<Rule> {
        if user.is_in("system:masters") {
            return Rule::everything().to_vec();
        }
        self.policy(store).rules_of(user, namespace).into_iter().cloned().collect()
    }

    fn policy(&self, store: &dyn Storage) -> Arc<Policy> {
        let mut followed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = followed.watch.as_mut().is_some_and(|watch| watch.ready().is_ok_and(|events| events.is_empty()));
        if !current {
            // The watch starts before the read, so that a change in between is seen once more rather than missed.
            followed.watch = store.watch(PREFIX, store.revision()).ok();
            followed.policy = Arc::new(Policy::read(store));
        }
        followed.policy.clone()
    }
}

impl Policy {
    fn read(store: &dyn Storage) -> Policy {
        Policy {
            cluster_roles: all(store, "clusterroles/"),
            roles: all(store, "roles/"),
            cluster_bindings: all(store, "clusterrolebindings/"),
            bindings: all(store, "rolebindings/"),
        }
    }

    fn reason(&self, user: &User, wanted: &Attributes) -> Option<String> {
        for binding in &self.cluster_bindings {
            if binding.names(user) && self.grants(binding, "", wanted) {
                let (name, kind, role) = (&binding.metadata.name, &binding.role.kind, &binding.role.name);
                return Some(format!(
                    "RBAC: allowed by ClusterRoleBinding {name:?} of {kind} {role:?} to {}",
                    subject(binding, user)
                ));
            }
        }
        if wanted.namespace.is_empty() {
            return None;
        }
        for binding in self.bindings.iter().filter(|binding| binding.metadata.namespace == wanted.namespace) {
            if binding.names(user) && self.grants(binding, &wanted.namespace, wanted) {
                let name = format!("{}/{}", binding.metadata.name, binding.metadata.namespace);
                let (kind, role) = (&binding.role.kind, &binding.role.name);
                return Some(format!(
                    "RBAC: allowed by RoleBinding {name:?} of {kind} {role:?} to {}",
                    subject(binding, user)
                ));
            }
        }
        None
    }

    fn rules_of<'a>(&'a self, user: &'a User, namespace: &'a str) -> Vec<&'a Rule> {
        let local = self.bindings.iter().filter(|binding| binding.metadata.namespace == namespace);
        let bindings = self.cluster_bindings.iter().map(|binding| (binding, "")).chain(local.map(|b| (b, namespace)));
        bindings
            .filter(|(binding, _)| binding.names(user))
            .flat_map(|(binding, namespace)| self.roles_of(binding, namespace))
            .flat_map(|role| &role.rules)
            .collect()
    }

    fn grants(&self, binding: &Binding, namespace: &str, wanted: &Attributes) -> bool {
        self.roles_of(binding, namespace).any(|role| role.rules.iter().any(|rule| rule.covers(wanted)))
    }

    fn roles_of<'a>(&'a self, binding: &'a Binding, namespace: &'a str) -> impl Iterator<Item = &'a Role> {
        let cluster = binding.role.kind == "ClusterRole";
        let among = if cluster { &self.cluster_roles } else { &self.roles };
        let inside = move |role: &Role| cluster || role.metadata.namespace == namespace;
        among.iter().filter(move |role| role.metadata.name == binding.role.name && inside(role))
    }
}

fn all<T: for<'a> Deserialize<'a>>(store: &dyn Storage, plural: &str) -> Vec<T> {
    let range = store.range(&format!("{PREFIX}{plural}"), RangeOptions::default());
    let entries = range.map(|range| range.entries).unwrap_or_default();
    entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect()
}

fn subject(binding: &Binding, user: &User) -> String {
    binding.subjects.iter().find(|subject| subject.is(user)).map_or_else(String::new, |subject| {
        let name = match subject.kind.as_str() {
            "ServiceAccount" => format!("{}/{}", subject.name, subject.namespace),
            _ => subject.name.clone(),
        };
        format!("{} {name:?}", subject.kind)
    })
}

impl Binding {
    fn names(&self, user: &User) -> bool {
        self.subjects.iter().any(|subject| subject.is(user))
    }
}

impl Subject {
    fn is(&self, user: &User) -> bool {
        match self.kind.as_str() {
            "User" => self.name == user.name,
            "Group" => user.is_in(&self.name),
            "ServiceAccount" => user.name == format!("system:serviceaccount:{}:{}", self.namespace, self.name),
            _ => false,
        }
    }
}

impl Rule {
    /// What whoever may do everything may do.
    pub(super) fn everything() -> [Rule; 2] {
        let all = || vec!["*".to_owned()];
        let resources = Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() };
        [resources, Rule { verbs: all(), paths: all(), ..Rule::default() }]
    }

    pub(super) fn covers(&self, wanted: &Attributes) -> bool {
        let among = |list: &[String], value: &str| list.iter().any(|one| one == "*" || one == value);
        if !among(&self.verbs, &wanted.verb) {
            return false;
        }
        if !wanted.path.is_empty() {
            return self.paths.iter().any(|path| match path.strip_suffix('*') {
                Some(prefix) => wanted.path.starts_with(prefix),
                None => *path == wanted.path,
            });
        }
        let resource = if wanted.subresource.is_empty() {
            among(&self.resources, &wanted.resource)
        } else {
            let both = format!("{}/{}", wanted.resource, wanted.subresource);
            let any = format!("*/{}", wanted.subresource);
            self.resources.iter().any(|one| one == "*" || *one == both || *one == any)
        };
        let named = self.resource_names.is_empty() || self.resource_names.contains(&wanted.name);
        resource && named && among(&self.api_groups, &wanted.group)
    }
}

/// Refuses what nobody granted.
pub(crate) fn authorize(
    server: &Server,
    user: &User,
    method: &Method,
    route: &Route,
    path: &str,
    query: &Query,
) -> Outcome<()> {
    let verb = verb(method, route, query);
    let wanted = match route {
        Route::Target(target) => of_target(target, verb, query),
        _ => Attributes { verb, path: path.to_owned(), ..Attributes::default() },
    };
    permit(server, user, &wanted)
}

/// Refuses what the user may not do.
pub(crate) fn permit(server: &Server, user: &User, wanted: &Attributes) -> Outcome<()> {
    match server.access.reason(&*server.store, user, wanted) {
        Some(_) => Ok(()),
        None => Err(refusal(user, wanted).into()),
    }
}

/// The verb of a request: RBAC's for resources, the method in small letters for paths.
pub(crate) fn verb(method: &Method, route: &Route, query: &Query) -> String {
    let Route::Target(target) = route else { return method.as_str().to_ascii_lowercase() };
    let verb = match (method.as_str(), &target.name) {
        ("GET", _) if query.flag("watch") && target.subresource.is_none() => "watch",
        ("GET", Some(_)) | ("HEAD", _) => "get",
        ("GET", None) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", Some(_)) => "delete",
        ("DELETE", None) => "deletecollection",
        (_, _) => "",
    };
    verb.to_owned()
}

fn of_target(target: &Target, verb: String, query: &Query) -> Attributes {
    // A list or watch of one object by its name is judged by that name.
    let selected =
        || FieldSelector::parse(query.text("fieldSelector")).ok()?.required("metadata.name").map(str::to_owned);
    let subresource = target.subresource.as_deref().unwrap_or_default();
    Attributes {
        verb,
        group: target.resource.group().to_owned(),
        resource: target.resource.plural().to_owned(),
        // `proxy/some/path` is still the subresource `proxy`.
        subresource: subresource.split('/').next().unwrap_or_default().to_owned(),
        namespace: target.namespace.clone(),
        name: target.name.clone().or_else(selected).unwrap_or_default(),
        path: String::new(),
    }
}

pub(super) fn refusal(user: &User, wanted: &Attributes) -> api::status::Status {
    let Attributes { verb, group, resource, subresource, namespace, name, path } = wanted;
    if !path.is_empty() {
        let why = format!("User {:?} cannot {verb} path {path:?}", user.name);
        return api::status::Status::forbidden("", "", "", why);
    }
    let full = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
    let place = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {namespace:?}")
    };
    let why = format!("User {:?} cannot {verb} resource {full:?} in API group {group:?} {place}", user.name);
    api::status::Status::forbidden(group, resource, name, why)
}
