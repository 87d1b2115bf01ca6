//! Ingress: HTTP hosts and paths from outside to Services.

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::common::errors::invalid_all;
use super::common::{get, meta, names, net, table};
use super::{Column, Kind, Rules, Subresource};

pub const KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    subresources: &[Subresource::Status],
    columns: &[
        Column::NAME,
        Column::text("Class", "Class of the controller that serves it"),
        Column::text("Hosts", "Hosts that the rules match"),
        Column::text("Address", "Where it is reached"),
        Column::text("Ports", "Ports that are open there"),
        Column::AGE,
    ],
    cells,
    rules: Rules {
        default,
        prepare_create,
        prepare_update,
        validate_create,
        validate_update,
        validate_status,
        warnings,
        ..Rules::GENERIC
    },
    ..Kind::NAMESPACED
};

const CLASS: &str = "kubernetes.io/ingress.class";

fn default(object: &mut Value) {
    get::object_at(object, "/spec");
    get::object_at(object, "/status/loadBalancer");
}

fn prepare_create(object: &mut Value) {
    meta::start(object, json!({"loadBalancer": {}}));
}

fn prepare_update(new: &mut Value, old: &Value) {
    meta::keep_status_move_generation(new, old, &["/spec"]);
}

fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_create(object);
    errors.extend(spec(object));
    let class = get::text_opt(object, "/spec/ingressClassName");
    if let (Some(annotated), Some(class)) = (annotated_class(object), class)
        && annotated != class
    {
        let path = Path::new("annotations").child(CLASS);
        let detail = "must match `ingressClassName` when both are specified";
        errors.push(FieldError::invalid(path, annotated, detail));
    }
    errors
}

fn annotated_class(object: &Value) -> Option<&str> {
    get::map(object, "/metadata/annotations")?.get(CLASS)?.as_str()
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    errors.extend(meta::validate_create(new));
    errors.extend(spec(new));
    errors
}

fn validate_status(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta::validate_update(new, old);
    let path = Path::new("status").child("loadBalancer").child("ingress");
    for (index, one) in get::list(new, "/status/loadBalancer/ingress").iter().enumerate() {
        let path = path.index(index);
        let (ip, host) = (get::text(one, "/ip"), get::text(one, "/hostname"));
        if !ip.is_empty() {
            invalid_all(&mut errors, &path.child("ip"), ip, net::ip(ip));
        }
        if !host.is_empty() {
            invalid_all(&mut errors, &path.child("hostname"), host, names::dns_subdomain(host));
            if net::parse_ip(host).is_some() {
                let detail = "must be a DNS name, not an IP address";
                errors.push(FieldError::invalid(path.child("hostname"), host, detail));
            }
        }
    }
    errors
}

fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some() || annotated_class(new).is_none() {
        return Vec::new();
    }
    vec![format!("annotation {CLASS:?} is deprecated, please use 'spec.ingressClassName' instead")]
}

fn spec(object: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    let rules = get::list(object, "/spec/rules");
    let backend = object.pointer("/spec/defaultBackend").filter(|found| found.is_object());
    if rules.is_empty() && backend.is_none() {
        let shown = object.pointer("/spec/rules").cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(path.clone(), shown, "either `defaultBackend` or `rules` must be specified"));
    }
    if let Some(backend) = backend {
        self::backend(backend, &path.child("defaultBackend"), &mut errors);
    }
    for (index, rule) in rules.iter().enumerate() {
        let at = path.child("rules");
        host(get::text(rule, "/host"), &at.index(index).child("host"), true, &mut errors);
        paths(rule, &at.index(index).child("http"), &mut errors);
    }
    for (index, tls) in get::list(object, "/spec/tls").iter().enumerate() {
        let at = path.child("tls").index(index);
        for (number, name) in get::texts(tls, "/hosts").into_iter().enumerate() {
            host(name, &at.child("hosts").index(number), false, &mut errors);
        }
        let secret = get::text(tls, "/secretName");
        if !secret.is_empty() {
            invalid_all(&mut errors, &at.child("secretName"), secret, names::dns_subdomain(secret));
        }
    }
    if let Some(class) = get::text_opt(object, "/spec/ingressClassName") {
        invalid_all(&mut errors, &path.child("ingressClassName"), class, names::dns_subdomain(class));
    }
    errors
}

fn host(host: &str, path: &Path, of_rule: bool, errors: &mut Vec<FieldError>) {
    if host.is_empty() && of_rule {
        return;
    }
    if of_rule && net::parse_ip(host).is_some() {
        errors.push(FieldError::invalid(path.clone(), host, "must be a DNS name, not an IP address"));
    }
    let faults = if host.contains('*') { names::wildcard_subdomain(host) } else { names::dns_subdomain(host) };
    invalid_all(errors, path, host, faults);
}

fn paths(rule: &Value, at: &Path, errors: &mut Vec<FieldError>) {
    if !get::has(rule, "/http") {
        return;
    }
    let paths = get::list(rule, "/http/paths");
    if paths.is_empty() {
        errors.push(FieldError::required(at.child("paths"), ""));
    }
    for (index, one) in paths.iter().enumerate() {
        path(one, &at.child("paths").index(index), errors);
    }
}

fn path(one: &Value, at: &Path, errors: &mut Vec<FieldError>) {
    let path = get::text(one, "/path");
    let mut fault = |detail: String| errors.push(FieldError::invalid(at.child("path"), path, detail));
    match get::text_opt(one, "/pathType") {
        None => {
            errors.push(FieldError::required(at.child("pathType"), "pathType must be specified"));
            return;
        }
        Some("Exact" | "Prefix") => {
            if !path.starts_with('/') {
                fault("must be an absolute path".to_owned());
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|sequence| path.contains(**sequence)) {
                fault(format!("must not contain '{sequence}'"));
            }
            for end in ["/..", "/."].iter().filter(|end| path.ends_with(**end)) {
                fault(format!("cannot end with '{end}'"));
            }
        }
        Some("ImplementationSpecific") => {
            if !path.is_empty() && !path.starts_with('/') {
                fault("must be an absolute path".to_owned());
            }
        }
        Some(other) => {
            const TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
            errors.push(FieldError::not_supported(at.child("pathType"), other, TYPES));
        }
    }
    backend(one.get("backend").unwrap_or(&Value::Null), &at.child("backend"), errors);
}

fn backend(backend: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let part = |name: &str| backend.get(name).filter(|found| found.is_object());
    match (part("service"), part("resource")) {
        (Some(_), Some(_)) => {
            errors.push(FieldError::invalid(path.clone(), "", "cannot set both resource and service backends"));
        }
        (Some(service), None) => self::service(service, path, errors),
        (None, Some(resource)) => {
            let path = path.child("resource");
            if let Some(group) = get::text_opt(resource, "/apiGroup") {
                invalid_all(errors, &path.child("apiGroup"), group, names::dns_subdomain(group));
            }
            for field in ["kind", "name"] {
                let value = get::text(resource, &format!("/{field}"));
                if value.is_empty() {
                    errors.push(FieldError::required(path.child(field), ""));
                } else {
                    invalid_all(errors, &path.child(field), value, names::path_segment(value));
                }
            }
        }
        (None, None) => errors.push(FieldError::invalid(path.clone(), "", "resource or service backend is required")),
    }
}

fn service(service: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let (name, port, number) =
        (get::text(service, "/name"), get::text(service, "/port/name"), get::int(service, "/port/number"));
    let at = path.child("service");
    if name.is_empty() {
        errors.push(FieldError::required(at.child("name"), ""));
    } else {
        invalid_all(errors, &at.child("name"), name, names::dns_label(name));
    }
    match (!port.is_empty(), number != 0) {
        (true, true) => errors.push(FieldError::invalid(path.clone(), "", "cannot set both port name & port number")),
        (true, false) => invalid_all(errors, &at.child("port").child("name"), port, names::port_name(port)),
        (false, true) => {
            let faults = names::port_number(number).into_iter();
            let at = at.child("port").child("number");
            errors.extend(faults.map(|fault| FieldError::invalid(at.clone(), number, fault)));
        }
        (false, false) => errors.push(FieldError::required(path.clone(), "port name or number is required")),
    }
}

fn cells(object: &Value, now: i64) -> Vec<Value> {
    let ports = if get::list(object, "/spec/tls").is_empty() { "80" } else { "80, 443" };
    vec![
        table::name(object),
        get::text_opt(object, "/spec/ingressClassName").map_or_else(|| "<none>".into(), Value::from),
        hosts(get::list(object, "/spec/rules")).into(),
        table::addresses(object).into(),
        ports.into(),
        table::age(object, now),
    ]
}

fn hosts(rules: &[Value]) -> String {
    let named: Vec<&str> = rules.iter().map(|rule| get::text(rule, "/host")).filter(|host| !host.is_empty()).collect();
    match named.as_slice() {
        [] => "*".to_owned(),
        [a, b, c, _, ..] => format!("{a},{b},{c} + {} more...", rules.len() - 3),
        few => few.join(","),
    }
}
