//! What an upstream API server answered, asked of ours. See `data/README.md`.
#![allow(clippy::unwrap_used)]

mod normal;

use std::collections::BTreeSet;
use std::fmt::Write;

use apiserver::{ApiServer, Config, Service, User};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use normal::Normal;
use serde::Deserialize;
use serde_json::{Value, json};
use tower::ServiceExt;

#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    keep_managed: bool,
    steps: Vec<Step>,
    answers: Vec<Answer>,
}

#[derive(Debug, Deserialize)]
struct Step {
    method: String,
    path: String,
    content_type: Option<String>,
    accept: Option<String>,
    body: Value,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Answer {
    code: u16,
    content_type: String,
    warnings: Vec<String>,
    body: Value,
}

/// Upstream says 500 where the client is at fault.
const BETTER: &[&str] = &["patch/smp-bad-directive", "apply/bad-type", "apply/unknown-field", "meta/create-with-rv"];

/// Run one case alone and print what differs: `API_CASE=service/default/clusterip cargo test -p apiserver --test api_cases`.
const ONE: &str = "API_CASE";

#[tokio::test]
async fn answers_are_upstreams() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("data/api-cases.json")).unwrap();
    let known: BTreeSet<&str> = include_str!("data/known-differences.txt").lines().filter(|l| !l.is_empty()).collect();
    let only = std::env::var(ONE).ok();
    let dir = tempfile::tempdir().unwrap();
    let server = ApiServer::open(Config::new(dir.path())).await.unwrap();
    let client = server.service(User::admin());
    let mut different = BTreeSet::new();
    let mut report = String::new();
    let mut run = 0;
    for (number, case) in cases.iter().enumerate() {
        if only.as_ref().is_some_and(|only| !case.name.starts_with(only.as_str())) {
            continue;
        }
        run += 1;
        if let Err(difference) = judge(&client, case, &format!("case-{number}")).await {
            if only.is_some() || !known.contains(case.name.as_str()) {
                writeln!(report, "== {}\n{difference}", case.name).unwrap();
            }
            different.insert(case.name.as_str());
        }
    }
    println!("{} of {run} cases equal", run - different.len());
    if only.is_some() {
        assert!(report.is_empty(), "{report}");
        return;
    }
    for name in &different {
        println!("different: {name}");
    }
    let equal_now: Vec<_> = known.difference(&different).collect();
    assert!(equal_now.is_empty(), "equal now, take them out of known-differences.txt: {equal_now:#?}");
    assert!(report.is_empty(), "{report}");
}

async fn judge(client: &Service, case: &Case, namespace: &str) -> Result<(), String> {
    let made = json!({"metadata": {"name": namespace}});
    send(client, "POST", "/api/v1/namespaces", Some("application/json"), None, &made).await;
    let account = json!({"metadata": {"name": "default"}});
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    send(client, "POST", &path, Some("application/json"), None, &account).await;
    let normal = Normal::new(namespace, case.keep_managed, case.steps.iter().map(|step| &step.body));
    for (number, (step, expected)) in case.steps.iter().zip(&case.answers).enumerate() {
        let path = step.path.replace("{ns}", namespace);
        let body = normal.request(&step.body);
        let (content_type, accept) = (step.content_type.as_deref(), step.accept.as_deref());
        let mut found = send(client, &step.method, &path, content_type, accept, &body).await;
        found.body = normal.answer(found.body);
        if BETTER.contains(&case.name.as_str()) && expected.code == 500 {
            let message = found.body["message"].as_str().unwrap_or_default();
            if (400..500).contains(&found.code) && !message.is_empty() {
                continue;
            }
        }
        let expected = Answer { body: normal.expected(&expected.body), ..*expected_clone(expected) };
        if found != expected {
            return Err(difference(number, &expected, &found));
        }
    }
    Ok(())
}

fn expected_clone(answer: &Answer) -> Box<Answer> {
    Box::new(Answer {
        code: answer.code,
        content_type: answer.content_type.clone(),
        warnings: answer.warnings.clone(),
        body: Value::Null,
    })
}

async fn send(
    client: &Service,
    method: &str,
    path: &str,
    content_type: Option<&str>,
    accept: Option<&str>,
    body: &Value,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(content_type) = content_type {
        request = request.header("content-type", content_type);
    }
    if let Some(accept) = accept {
        request = request.header("accept", accept);
    }
    let bytes = match body {
        Value::Null => Bytes::new(),
        Value::String(text) => Bytes::from(text.clone()),
        other => Bytes::from(other.to_string()),
    };
    let response = client.clone().oneshot(request.body(Full::new(bytes)).unwrap()).await.unwrap();
    let text = |name: &str| -> Vec<String> {
        response.headers().get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    let content_type = text("content-type").join(",");
    let warnings = text("warning").iter().map(|header| unquoted(header)).collect();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let body =
        serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    let media = content_type.split(';').next().unwrap_or_default().to_owned();
    Answer { code, content_type: media, warnings, body }
}

/// The text of `299 - "text"`.
fn unquoted(header: &str) -> String {
    let text = header.strip_prefix("299 - \"").and_then(|rest| rest.strip_suffix('"')).unwrap_or(header);
    text.replace("\\\"", "\"").replace("\\\\", "\\")
}

fn difference(step: usize, expected: &Answer, found: &Answer) -> String {
    let mut out = format!("step {step}:\n");
    if (expected.code, &expected.content_type) != (found.code, &found.content_type) {
        writeln!(out, "  - {} {}", expected.code, expected.content_type).unwrap();
        writeln!(out, "  + {} {}", found.code, found.content_type).unwrap();
    }
    if expected.warnings != found.warnings {
        writeln!(out, "  - warnings {:?}\n  + warnings {:?}", expected.warnings, found.warnings).unwrap();
    }
    compare("", &expected.body, &found.body, &mut out);
    out
}

fn compare(path: &str, expected: &Value, found: &Value, out: &mut String) {
    match (expected, found) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let none = Value::Null;
                compare(&format!("{path}.{key}"), a.get(key).unwrap_or(&none), b.get(key).unwrap_or(&none), out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{index}]"), a, b, out);
            }
        }
        (a, b) if a == b => {}
        (a, b) => writeln!(out, "  {path}\n    - {a}\n    + {b}").unwrap(),
    }
}
