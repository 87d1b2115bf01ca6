//! Probes and hooks: what is asked of a container while it runs, and when it starts and stops.

use api::field::{FieldError, Path};
use serde_json::Value;

use crate::kinds::common::errors::{invalid_all, non_negative};
use crate::kinds::common::{get, names};
use crate::kinds::service::port_or_name;

pub fn of_container(container: &Value, path: &Path, grace: Option<i64>, errors: &mut Vec<FieldError>) {
    let lifecycle = path.child("lifecycle");
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = container.pointer(&format!("/lifecycle/{hook}")).filter(|found| found.is_object()) {
            self::handler(handler, grace, &lifecycle.child(hook), errors);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get(name).filter(|found| found.is_object()) else { continue };
        let path = path.child(name);
        self::probe(probe, grace, &path, errors);
        let once = get::int(probe, "/successThreshold");
        if name != "readinessProbe" && once != 1 {
            errors.push(FieldError::invalid(path.child("successThreshold"), once, "must be 1"));
        }
        if let Some(seconds) =
            get::int_opt(probe, "/terminationGracePeriodSeconds").filter(|_| name == "readinessProbe")
        {
            let detail = "must not be set for readinessProbes";
            errors.push(FieldError::invalid(path.child("terminationGracePeriodSeconds"), seconds, detail));
        }
    }
}

fn probe(probe: &Value, grace: Option<i64>, path: &Path, errors: &mut Vec<FieldError>) {
    handler(probe, grace, path, errors);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        non_negative(errors, path.child(field), get::int_opt(probe, &format!("/{field}")));
    }
    if let Some(seconds) = get::int_opt(probe, "/terminationGracePeriodSeconds").filter(|seconds| *seconds <= 0) {
        errors.push(FieldError::invalid(
            path.child("terminationGracePeriodSeconds"),
            seconds,
            "must be greater than 0",
        ));
    }
}

/// Exactly one way to ask.
fn handler(handler: &Value, grace: Option<i64>, path: &Path, errors: &mut Vec<FieldError>) {
    let mut found = 0;
    for name in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let Some(action) = handler.get(name).filter(|action| action.is_object()) else { continue };
        let path = path.child(name);
        found += 1;
        if found > 1 {
            errors.push(FieldError::forbidden(path, "may not specify more than 1 handler type"));
            continue;
        }
        match name {
            "exec" if get::list(action, "/command").is_empty() => {
                errors.push(FieldError::required(path.child("command"), ""));
            }
            "httpGet" => http_get(action, &path, errors),
            "tcpSocket" | "grpc" => port_or_name(action.get("port"), &path.child("port"), errors),
            "sleep" => sleep(action, grace, &path, errors),
            _ => {}
        }
    }
    if found == 0 {
        errors.push(FieldError::required(path.clone(), "must specify a handler type"));
    }
}

fn http_get(action: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if get::text(action, "/path").is_empty() {
        errors.push(FieldError::required(path.child("path"), ""));
    }
    port_or_name(action.get("port"), &path.child("port"), errors);
    let scheme = get::text(action, "/scheme");
    if !["HTTP", "HTTPS"].contains(&scheme) {
        errors.push(FieldError::not_supported(path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in get::list(action, "/httpHeaders") {
        let name = get::text(header, "/name");
        invalid_all(errors, &path.child("httpHeaders"), name, names::http_header(name));
    }
}

fn sleep(action: &Value, grace: Option<i64>, path: &Path, errors: &mut Vec<FieldError>) {
    let seconds = get::int(action, "/seconds");
    if let Some(grace) = grace.filter(|grace| seconds < 0 || seconds > *grace) {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(FieldError::invalid(path.clone(), seconds, detail));
    }
}
