//! Health: three probes, each a list of named checks.

use http::StatusCode;

use crate::Server;
use crate::handle::Answer;
use crate::query::Query;

type Check = (&'static str, fn(&Server) -> bool);

const CHECKS: &[Check] = &[
    ("ping", |_| true),
    ("log", |_| true),
    ("etcd", |server| server.store.revision() > 0),
    ("poststarthook/bootstrap", |server| server.store.revision() > 0),
];

/// Only readiness ends with a shutdown: who is not ready gets no new requests, and still answers those under way.
const READY: &[Check] = &[("shutdown", |server| !server.shutdown.is_cancelled())];

pub(crate) fn answer(server: &Server, probe: &str, check: Option<&str>, query: &Query) -> Answer {
    let checks: Vec<&Check> = CHECKS.iter().chain(if probe == "readyz" { READY } else { &[] }).collect();
    if let Some(name) = check {
        return match checks.iter().find(|(known, _)| *known == name) {
            Some((_, holds)) if holds(server) => Answer::text(StatusCode::OK, "ok"),
            Some(_) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "internal server error: check failed\n"),
            None => Answer::no_such_path(),
        };
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut failed = Vec::new();
    let mut lines = String::new();
    for (name, holds) in checks {
        if excluded.contains(name) {
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
        } else if holds(server) {
            lines.push_str(&format!("[+]{name} ok\n"));
        } else {
            failed.push(*name);
            lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
        }
    }
    if failed.is_empty() {
        let body =
            if query.get("verbose").is_some() { format!("{lines}{probe} check passed\n") } else { "ok".to_owned() };
        return Answer::text(StatusCode::OK, body);
    }
    Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{probe} check failed\n"))
}
