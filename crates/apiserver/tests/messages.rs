//! What upstream says to requests that are wrong, beyond the recorded cases: a row a request, with its code and its message.
//!
//! `data/messages.json`: `message` is the whole text, or a list of what it must contain. `{ns}` is one namespace for all rows, which come
//! in order.
#![allow(clippy::unwrap_used)]

use apiserver::{ApiServer, Config, User};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde::Deserialize;
use serde_json::{Value, json};
use tower::ServiceExt;

#[derive(Deserialize)]
struct Row {
    name: String,
    method: String,
    path: String,
    body: Value,
    content_type: String,
    code: u16,
    message: Value,
}

#[tokio::test]
async fn requests_are_refused_in_upstreams_words() {
    let rows: Vec<Row> = serde_json::from_str(include_str!("data/messages.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let server = ApiServer::open(Config::new(dir.path())).await.unwrap();
    let client = server.service(User::admin());
    let send = |method: &str, path: &str, content_type: &str, body: &Value| {
        let bytes = match body {
            Value::Null => Bytes::new(),
            Value::String(text) => Bytes::from(text.clone()),
            other => Bytes::from(other.to_string()),
        };
        let request = Request::builder().method(method).uri(path).header("content-type", content_type);
        let answer = client.clone().oneshot(request.body(Full::new(bytes)).unwrap());
        async move {
            let response = answer.await.unwrap();
            let code = response.status().as_u16();
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            (code, serde_json::from_slice::<Value>(&bytes).unwrap_or(Value::Null))
        }
    };
    send("POST", "/api/v1/namespaces", "application/json", &json!({"metadata": {"name": "words"}})).await;
    let account = json!({"metadata": {"name": "default"}});
    send("POST", "/api/v1/namespaces/words/serviceaccounts", "application/json", &account).await;
    let mut differences = Vec::new();
    for row in &rows {
        let body: Value = serde_json::from_str(&row.body.to_string().replace("{ns}", "words")).unwrap();
        let (code, answer) = send(&row.method, &row.path.replace("{ns}", "words"), &row.content_type, &body).await;
        let said = answer["message"].as_str().unwrap_or_default();
        let holds = match &row.message {
            Value::String(whole) => said == whole.replace("{ns}", "words"),
            Value::Array(parts) => parts.iter().all(|part| said.contains(part.as_str().unwrap())),
            _ => true,
        };
        if code != row.code || !holds {
            differences.push(format!("{}: {code} {said}\n  expected {} {}", row.name, row.code, row.message));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
