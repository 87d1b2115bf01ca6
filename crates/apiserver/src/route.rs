//! Paths: which resource, in which namespace, by which name; or which of the server's own documents.

use crate::kinds::{Kind, Scope, find};
use crate::query::decoded;

/// What a path points at.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Route {
    /// `/`
    Index,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/{group}`
    Group(String),
    /// `/api/v1`, `/apis/{group}/{version}`
    Resources {
        group: String,
        version: String,
    },
    Target(Target),
    /// `/openapi/v2`, `/openapi/v3`, `/openapi/v3/{path}`
    OpenApi2,
    OpenApi3(Option<String>),
    Version,
    /// `/healthz`, `/livez`, `/readyz`, with the name of one check.
    Health {
        probe: &'static str,
        check: Option<String>,
    },
    Metrics,
    /// The keys that ServiceAccount tokens are checked with.
    Keys,
    OpenIdConfiguration,
    /// Everything that the server keeps, in one file.
    Backup,
    Unknown,
}

/// A collection, an object, or a part of one.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) resource: Resource,
    /// Empty for cluster-scoped kinds and for collections across namespaces.
    pub(crate) namespace: String,
    /// Absent for a collection.
    pub(crate) name: Option<String>,
    /// `status`, `log`, `proxy/some/path`.
    pub(crate) subresource: Option<String>,
}

/// What is served at a plural.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Resource {
    Stored(&'static Kind),
    /// Questions that are answered and not stored, such as `selfsubjectaccessreviews`.
    Review(&'static crate::reviews::Review),
    /// What the server knows of itself, such as `componentstatuses`.
    Report(&'static crate::reports::Report),
    /// The older way to bind a Pod: a `Binding` of its name, created in its namespace.
    Bindings,
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        self.resource.plural() == other.resource.plural()
            && self.namespace == other.namespace
            && self.name == other.name
            && self.subresource == other.subresource
    }
}

impl Resource {
    pub(crate) fn plural(&self) -> &'static str {
        match self {
            Resource::Stored(kind) => kind.plural,
            Resource::Review(review) => review.plural,
            Resource::Report(report) => report.kind.plural,
            Resource::Bindings => "bindings",
        }
    }

    pub(crate) fn group(&self) -> &'static str {
        match self {
            Resource::Stored(kind) => kind.group,
            Resource::Review(review) => review.group,
            Resource::Report(report) => report.kind.group,
            Resource::Bindings => "",
        }
    }
}

impl Route {
    pub(crate) fn of(path: &str) -> Route {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            [""] => Route::Index,
            ["api"] => Route::CoreVersions,
            ["apis"] => Route::Groups,
            ["apis", group] => Route::Group((*group).to_owned()),
            ["api", version] => Route::Resources { group: String::new(), version: (*version).to_owned() },
            ["apis", group, version] => Route::Resources { group: (*group).to_owned(), version: (*version).to_owned() },
            ["api", version, rest @ ..] => target("", version, rest),
            ["apis", group, version, rest @ ..] => target(group, version, rest),
            ["openapi", "v2"] => Route::OpenApi2,
            ["openapi", "v3"] => Route::OpenApi3(None),
            ["openapi", "v3", rest @ ..] => Route::OpenApi3(Some(rest.join("/"))),
            ["version"] => Route::Version,
            ["metrics"] => Route::Metrics,
            ["openid", "v1", "jwks"] => Route::Keys,
            [".well-known", "openid-configuration"] => Route::OpenIdConfiguration,
            ["portolan", "backup"] => Route::Backup,
            ["healthz", check @ ..] => health("healthz", check),
            ["livez", check @ ..] => health("livez", check),
            ["readyz", check @ ..] => health("readyz", check),
            _ => Route::Unknown,
        }
    }
}

fn is_no_segment(text: &str) -> bool {
    text.contains(['/', '%', '\0']) || matches!(text, "." | "..")
}

fn health(probe: &'static str, check: &[&str]) -> Route {
    Route::Health { probe, check: (!check.is_empty()).then(|| check.join("/")) }
}

fn target(group: &str, version: &str, rest: &[&str]) -> Route {
    match rest {
        // `status` and `finalize` are parts of a Namespace, every other word after its name is a resource in it.
        ["namespaces", name, part @ ("status" | "finalize")] => {
            resource(group, version, "", "namespaces", &[*name, *part])
        }
        ["namespaces", namespace, plural, rest @ ..] => resource(group, version, namespace, plural, rest),
        [plural, rest @ ..] => resource(group, version, "", plural, rest),
        [] => Route::Unknown,
    }
}

fn resource(group: &str, version: &str, namespace: &str, plural: &str, rest: &[&str]) -> Route {
    let resource = match find(group, version, plural) {
        Some(kind) => Resource::Stored(kind),
        None => match crate::reviews::review_at(group, version, plural) {
            Some(review) => Resource::Review(review),
            None if (group, version, plural) == ("", "v1", "bindings") => Resource::Bindings,
            None => match crate::reports::report_at(group, version, plural) {
                Some(report) => Resource::Report(report),
                None => return Route::Unknown,
            },
        },
    };
    let namespaced = match resource {
        Resource::Stored(kind) => kind.scope == Scope::Namespaced,
        Resource::Review(review) => review.namespaced,
        Resource::Report(report) => report.kind.scope == Scope::Namespaced,
        Resource::Bindings => true,
    };
    let (name, subresource) = match rest {
        [] => (None, None),
        [name] => (Some(decoded(name, false)), None),
        [name, sub @ ..] => (Some(decoded(name, false)), Some(sub.join("/"))),
    };
    // What was hidden in percent signs is no name: a slash would reach into another object's key.
    if name.as_deref().is_some_and(is_no_segment) || is_no_segment(&decoded(namespace, false)) {
        return Route::Unknown;
    }
    // An object in a namespace has no address outside it, and a cluster's object none inside one.
    if namespaced == namespace.is_empty() && (name.is_some() || !namespaced) {
        return Route::Unknown;
    }
    Route::Target(Target { resource, namespace: decoded(namespace, false), name, subresource })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: &str) {
        let found = match Route::of(path) {
            Route::Target(target) => format!(
                "{} ns={} name={} sub={}",
                target.resource.plural(),
                target.namespace,
                target.name.unwrap_or_default(),
                target.subresource.unwrap_or_default()
            ),
            other => format!("{other:?}"),
        };
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn paths_lead_where_upstream_leads_them() {
        check("/api/v1/namespaces/default/services/a", "services ns=default name=a sub=");
        check("/api/v1/services", "services ns= name= sub=");
        check("/api/v1/namespaces/x/status", "namespaces ns= name=x sub=status");
        check("/api/v1/namespaces/x", "namespaces ns= name=x sub=");
        check("/api/v1/nodes/n/proxy/a/b", "nodes ns= name=n sub=proxy/a/b");
        check("/apis/apps/v1/namespaces/d/deployments/w/scale", "deployments ns=d name=w sub=scale");
        check("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "selfsubjectaccessreviews ns= name= sub=");
        check("/api/v1/services/a", "Unknown");
        check("/api/v1/namespaces/d/nodes/n", "Unknown");
        check("/api/v1/namespaces/d%2Fe/services/a", "Unknown");
        check("/api/v1/namespaces/d/services/..%2Fx", "Unknown");
        check("/api/v1/namespaces/d/services/%2e%2e", "Unknown");
        check("/apis/apps/v1/nope", "Unknown");
        check("/nope", "Unknown");
    }
}
