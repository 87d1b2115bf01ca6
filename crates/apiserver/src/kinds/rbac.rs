//! RBAC: roles, which are lists of permissions, and bindings, which give them to users.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::common::errors::{invalid_all, unsupported};
use super::common::{get, meta, names, selector, table};
use super::{Column, Kind, NameRule, Rules, Scope};

pub const ROLE: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "Role",
    plural: "roles",
    singular: "role",
    create_on_update: true,
    rules: ROLE_RULES,
    columns: table::NAME_CREATED,
    cells: table::name_created,
    ..Kind::NAMESPACED
};

pub const CLUSTER_ROLE: Kind = Kind {
    kind: "ClusterRole",
    plural: "clusterroles",
    singular: "clusterrole",
    scope: Scope::Cluster,
    rules: CLUSTER_ROLE_RULES,
    ..ROLE
};

pub const ROLE_BINDING: Kind = Kind {
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    columns: &[
        Column::NAME,
        Column::text("Role", "Role that is given"),
        Column::AGE,
        Column::wide("Users", "Users that have it"),
        Column::wide("Groups", "Groups that have it"),
        Column::wide("ServiceAccounts", "Service accounts that have it"),
    ],
    cells: binding_cells,
    rules: BINDING_RULES,
    ..ROLE
};

pub const CLUSTER_ROLE_BINDING: Kind = Kind {
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    scope: Scope::Cluster,
    rules: CLUSTER_BINDING_RULES,
    ..ROLE_BINDING
};

const GROUP: &str = "rbac.authorization.k8s.io";

const ROLE_RULES: Rules = Rules {
    validate_create: |role| role_faults(role, Scope::Namespaced),
    validate_update: |new, old| updated(new, old, role_faults(new, Scope::Namespaced)),
    name: NameRule::PathSegment,
    ..Rules::GENERIC
};

const CLUSTER_ROLE_RULES: Rules = Rules {
    validate_create: |role| role_faults(role, Scope::Cluster),
    validate_update: |new, old| updated(new, old, role_faults(new, Scope::Cluster)),
    ..ROLE_RULES
};

const BINDING_RULES: Rules = Rules {
    default: default_binding,
    validate_create: |binding| binding_faults(binding, Scope::Namespaced),
    validate_update: |new, old| binding_updated(new, old, Scope::Namespaced),
    ..ROLE_RULES
};

const CLUSTER_BINDING_RULES: Rules = Rules {
    validate_create: |binding| binding_faults(binding, Scope::Cluster),
    validate_update: |new, old| binding_updated(new, old, Scope::Cluster),
    ..BINDING_RULES
};

fn updated(new: &Value, old: &Value, faults: Vec<FieldError>) -> Vec<FieldError> {
    let mut errors = meta::update(new, old);
    errors.extend(faults);
    errors.extend(meta::update(new, old));
    errors
}

fn role_faults(role: &Value, scope: Scope) -> Vec<FieldError> {
    let mut errors = meta::check(role, NameRule::PathSegment, scope);
    for (index, rule) in get::list(role, "/rules").iter().enumerate() {
        self::rule(rule, scope, &Path::new("rules").index(index), &mut errors);
    }
    if get::has(role, "/aggregationRule") {
        let path = Path::new("aggregationRule").child("clusterRoleSelectors");
        let selectors = get::list(role, "/aggregationRule/clusterRoleSelectors");
        if selectors.is_empty() {
            let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(FieldError::required(path.clone(), detail));
        }
        for (index, chosen) in selectors.iter().enumerate() {
            errors.extend(selector::validate(Some(chosen), &path.index(index)));
        }
    }
    errors
}

fn rule(rule: &Value, scope: Scope, path: &Path, errors: &mut Vec<FieldError>) {
    let texts = |field: &str| get::texts(rule, field);
    if texts("/verbs").is_empty() {
        errors.push(FieldError::required(path.child("verbs"), "verbs must contain at least one value"));
    }
    let urls = texts("/nonResourceURLs");
    if !urls.is_empty() {
        let mut fault = |detail: &str| {
            errors.push(FieldError::invalid(path.child("nonResourceURLs"), urls.clone(), detail));
        };
        if scope == Scope::Namespaced {
            fault("namespaced rules cannot apply to non-resource URLs");
        }
        if ["/apiGroups", "/resources", "/resourceNames"].iter().any(|field| !texts(field).is_empty()) {
            fault("rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if texts("/apiGroups").is_empty() {
        let detail = "resource rules must supply at least one api group";
        errors.push(FieldError::required(path.child("apiGroups"), detail));
    }
    if texts("/resources").is_empty() {
        let detail = "resource rules must supply at least one resource";
        errors.push(FieldError::required(path.child("resources"), detail));
    }
}

fn default_binding(binding: &mut Value) {
    get::set_default_text(binding, "/roleRef/apiGroup", GROUP);
    for subject in get::list_mut(binding, "/subjects").into_iter().flatten() {
        match get::text(subject, "/kind") {
            "User" | "Group" => get::set_default_text(subject, "/apiGroup", GROUP),
            _ if get::text(subject, "/apiGroup").is_empty() => {
                get::remove(subject, "/apiGroup");
            }
            _ => {}
        }
    }
}

fn binding_faults(binding: &Value, scope: Scope) -> Vec<FieldError> {
    let mut errors = meta::check(binding, NameRule::PathSegment, scope);
    let path = Path::new("roleRef");
    let part = |field: &str| get::text(binding, &format!("/roleRef/{field}"));
    if part("apiGroup") != GROUP {
        errors.push(FieldError::not_supported(path.child("apiGroup"), part("apiGroup"), &[GROUP]));
    }
    let kinds: &[&str] = if scope == Scope::Cluster { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
    if !kinds.contains(&part("kind")) {
        errors.push(unsupported(path.child("kind"), part("kind"), kinds));
    }
    if part("name").is_empty() {
        errors.push(FieldError::required(path.child("name"), ""));
    } else {
        invalid_all(&mut errors, &path.child("name"), part("name"), names::path_segment(part("name")));
    }
    for (index, subject) in get::list(binding, "/subjects").iter().enumerate() {
        self::subject(subject, &Path::new("subjects").index(index), &mut errors);
    }
    errors
}

fn subject(subject: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let part = |field: &str| get::text(subject, field);
    let (kind, name, group) = (part("/kind"), part("/name"), part("/apiGroup"));
    if name.is_empty() {
        errors.push(FieldError::required(path.child("name"), ""));
    }
    match kind {
        "ServiceAccount" => {
            if !name.is_empty() {
                invalid_all(errors, &path.child("name"), name, names::dns_subdomain(name));
            }
            if !group.is_empty() {
                errors.push(FieldError::not_supported(path.child("apiGroup"), group, &[""]));
            }
            if part("/namespace").is_empty() {
                errors.push(FieldError::required(path.child("namespace"), ""));
            }
        }
        "User" | "Group" if group != GROUP => {
            errors.push(FieldError::not_supported(path.child("apiGroup"), group, &[GROUP]));
        }
        "User" | "Group" => {}
        other => errors.push(unsupported(path.child("kind"), other, &["ServiceAccount", "User", "Group"])),
    }
}

fn binding_updated(new: &Value, old: &Value, scope: Scope) -> Vec<FieldError> {
    let mut errors = updated(new, old, binding_faults(new, scope));
    if !get::same(new, old, "/roleRef") {
        // Upstream shows its internal struct here.
        let part = |field: &str| get::text(new, &format!("/roleRef/{field}"));
        let text =
            format!(r#"{{"APIGroup":{:?},"Kind":{:?},"Name":{:?}}}"#, part("apiGroup"), part("kind"), part("name"));
        let fault = FieldError::invalid(Path::new("roleRef"), Value::Null, "cannot change roleRef");
        errors.push(super::common::errors::shown(fault, text));
    }
    errors
}

fn binding_cells(object: &Value, now: i64) -> Vec<Value> {
    let subjects = |kind: &str| -> Value {
        let of_kind = get::list(object, "/subjects").iter().filter(|subject| get::text(subject, "/kind") == kind);
        let names = of_kind.map(|subject| match kind {
            "ServiceAccount" => format!("{}/{}", get::text(subject, "/namespace"), get::text(subject, "/name")),
            _ => get::text(subject, "/name").to_owned(),
        });
        names.collect::<Vec<_>>().join(", ").into()
    };
    let role = format!("{}/{}", get::text(object, "/roleRef/kind"), get::text(object, "/roleRef/name"));
    vec![
        table::name(object),
        role.into(),
        table::age(object, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}
