//! The text of answers, as scripts look for it with `grep`: its order, its white space, its words.
#![allow(clippy::unwrap_used)]

use apiserver::{ApiServer, Config, User};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;

struct Lab {
    server: ApiServer,
    _dir: tempfile::TempDir,
}

async fn lab() -> Lab {
    let dir = tempfile::tempdir().unwrap();
    Lab { server: ApiServer::open(Config::new(dir.path())).await.unwrap(), _dir: dir }
}

impl Lab {
    async fn text(&self, agent: &str, method: &str, path: &str, body: &str) -> String {
        let body: Full<Bytes> = Full::from(body.to_owned());
        let request = Request::builder().method(method).uri(path).header("user-agent", agent).body(body).unwrap();
        let response = self.server.service(User::admin()).oneshot(request).await.unwrap();
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }
}

#[track_caller]
fn contains(text: &str, words: &str) {
    assert!(text.contains(words), "no {words:?} in {}", text.chars().take(2000).collect::<String>());
}

#[tokio::test]
async fn resources_are_listed_in_upstreams_order_with_the_hash_of_their_storage() {
    let lab = lab().await;
    let core = lab.text("kubectl", "GET", "/api/v1", "").await;
    assert!(
        core.starts_with(r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"v1","resources":[{"#),
        "{core}"
    );
    contains(
        &core,
        r#"{"name":"configmaps","singularName":"configmap","namespaced":true,"kind":"ConfigMap","verbs":["create","delete","deletecollection","get","list","patch","update","watch"],"shortNames":["cm"],"storageVersionHash":"qFsyl6wFWjQ="}"#,
    );
    contains(&core, r#""shortNames":["po"],"categories":["all"],"storageVersionHash":"xPOwRZ+Yhw8="}"#);
    contains(
        &core,
        r#"{"name":"pods/eviction","singularName":"","namespaced":true,"group":"policy","version":"v1","kind":"Eviction","verbs":["create"]}"#,
    );
    // An event is one object under two names.
    let events = lab.text("kubectl", "GET", "/apis/events.k8s.io/v1", "").await;
    contains(&events, r#""storageVersionHash":"r2yiGXH7wu8=""#);
    contains(&core, r#""shortNames":["ev"],"storageVersionHash":"r2yiGXH7wu8=""#);
}

#[tokio::test]
async fn people_get_lines_and_programs_do_not() {
    let lab = lab().await;
    let question = r#"{"kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1","spec":{"user":"a","groups":["system:masters"],"resourceAttributes":{"verb":"get","resource":"pods"}}}"#;
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    contains(&lab.text("curl/8.5.0", "POST", path, question).await, "\"allowed\": true");
    contains(&lab.text("kubectl/v1.37.0", "POST", path, question).await, "\"allowed\":true");
    contains(&lab.text("kubectl", "GET", "/api/v1/namespaces/default?pretty=true", "").await, "\n  \"metadata\": {\n");
    // A fault as well.
    contains(&lab.text("curl/8.5.0", "GET", "/api/v1/namespaces/none", "").await, "\n  \"code\": 404");
    contains(&lab.text("kubectl", "GET", "/version", "").await, "\n  \"major\": \"1\"");
    let schemas = lab.text("curl/8.5.0", "GET", "/openapi/v2", "").await;
    assert!(!schemas.contains('\n'), "schemas are long enough");
}

#[tokio::test]
async fn the_schemas_say_what_parameters_are_for() {
    let lab = lab().await;
    for document in ["/openapi/v2", "/openapi/v3/api/v1"] {
        let text = lab.text("kubectl", "GET", document, "").await;
        for words in ["list of returned objects", "List of services", "Watch for changes to the described resources"] {
            contains(&text, words);
        }
    }
}

impl Lab {
    async fn accepting(&self, accept: &str, path: &str, body: &str) -> (u16, String) {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let body: Full<Bytes> = Full::from(body.to_owned());
        let request = Request::builder().method(method).uri(path).header("accept", accept).body(body).unwrap();
        let response = self.server.service(User::admin()).oneshot(request).await.unwrap();
        let code = response.status().as_u16();
        (code, String::from_utf8_lossy(&response.into_body().collect().await.unwrap().to_bytes()).into_owned())
    }
}

#[tokio::test]
async fn tables_come_where_there_are_rows_and_in_the_version_that_was_asked_for() {
    let lab = lab().await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let (code, text) = lab.accepting(&table.replace("v=v1", "v=v1beta1"), "/api/v1/namespaces", "").await;
    assert_eq!(code, 200, "{text}");
    assert!(text.contains(r#""apiVersion":"meta.k8s.io/v1beta1""#) && !text.contains(r#""meta.k8s.io/v1""#), "{text}");
    let question = r#"{"spec":{"nonResourceAttributes":{"path":"/","verb":"get"}}}"#;
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(lab.accepting(table, path, question).await.0, 406);
    let listing = "/api/v1/namespaces?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    assert_eq!(lab.accepting(table, listing, "").await.0, 406);
    let (code, text) = lab.accepting(&format!("{table},application/json"), listing, "").await;
    assert!(code == 200 && text.contains(r#""kind":"Namespace""#) && !text.contains("Table"), "{code} {text}");
    let (code, text) = lab.accepting(table, "/api/v1/namespaces?watch=true&timeoutSeconds=1", "").await;
    assert!(code == 200 && text.contains(r#""kind":"Table""#), "{code} {text}");
}

#[tokio::test]
async fn a_timeout_that_is_no_time_is_refused() {
    let lab = lab().await;
    for (timeout, fault) in [
        ("invalid", "invalid duration"),
        ("1", "missing unit in duration"),
        ("1x", "unknown unit \\\"x\\\" in duration"),
        ("-", "invalid duration"),
    ] {
        let (code, text) = lab.accepting("*/*", &format!("/api/v1/namespaces?timeout={timeout}"), "").await;
        assert_eq!(code, 400);
        contains(&text, &format!("invalid timeout specified in the request URL - time: {fault} \\\"{timeout}\\\""));
    }
    for timeout in ["0", "0s", "3m", "1h1m1.5s", "-1s"] {
        assert_eq!(lab.accepting("*/*", &format!("/version?timeout={timeout}"), "").await.0, 200, "{timeout}");
    }
    // A watch has its own.
    assert_eq!(lab.accepting("*/*", "/api/v1/namespaces?watch=true&timeoutSeconds=1&timeout=1", "").await.0, 200);
}

#[tokio::test]
async fn dependents_of_a_job_stay_unless_the_deleter_says_otherwise() {
    let lab = lab().await;
    lab.text("test", "POST", "/api/v1/namespaces", r#"{"metadata":{"name":"n"}}"#).await;
    let template = r#"{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}"#;
    let jobs = "/apis/batch/v1/namespaces/n/jobs";
    for (name, options, finalizers) in [
        ("silent", "", Some(r#"["orphan"]"#)),
        ("background", r#"{"propagationPolicy":"Background"}"#, None),
        ("foreground", r#"{"propagationPolicy":"Foreground"}"#, Some(r#"["foregroundDeletion"]"#)),
    ] {
        let job = format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"template":{template}}}}}"#);
        contains(&lab.text("test", "POST", jobs, &job).await, name);
        let request = Request::builder().method("DELETE").uri(format!("{jobs}/{name}"));
        let request = request.body(Full::<Bytes>::from(options.to_owned())).unwrap();
        let response = lab.server.service(User::admin()).oneshot(request).await.unwrap();
        let warned = response.headers().get("warning").is_some_and(|warning| {
            warning.to_str().unwrap().contains("child pods are preserved by default when jobs are deleted")
        });
        assert_eq!(warned, options.is_empty(), "{name}");
        let left = lab.text("test", "GET", &format!("{jobs}/{name}"), "").await;
        match finalizers {
            Some(finalizers) => contains(&left, &format!("\"finalizers\":{finalizers}")),
            None => contains(&left, "not found"),
        }
    }
    // A CronJob is younger than the choice.
    let cron = format!(
        r#"{{"metadata":{{"name":"c"}},"spec":{{"schedule":"@daily","jobTemplate":{{"spec":{{"template":{template}}}}}}}}}"#
    );
    let cronjobs = "/apis/batch/v1/namespaces/n/cronjobs";
    contains(&lab.text("test", "POST", cronjobs, &cron).await, "@daily");
    contains(&lab.text("test", "DELETE", &format!("{cronjobs}/c"), "").await, "Success");
}

#[tokio::test]
async fn a_pods_manifest_can_be_sent_again() {
    let lab = lab().await;
    lab.text("test", "POST", "/api/v1/namespaces", r#"{"metadata":{"name":"n"}}"#).await;
    lab.text("test", "POST", "/api/v1/namespaces/n/serviceaccounts", r#"{"metadata":{"name":"default"}}"#).await;
    let manifest = |label: &str| {
        format!(
            r#"{{"metadata":{{"name":"p","labels":{{"a":"{label}"}}}},"spec":{{"containers":[{{"name":"c","image":"i"}}]}}}}"#
        )
    };
    contains(&lab.text("test", "POST", "/api/v1/namespaces/n/pods", &manifest("b")).await, "kube-api-access-");
    let replaced = lab.text("test", "PUT", "/api/v1/namespaces/n/pods/p", &manifest("replaced")).await;
    contains(&replaced, r#""a":"replaced""#);
    contains(&replaced, "kube-api-access-");
    // What it says otherwise is still refused.
    let other = manifest("b").replace(r#""image":"i""#, r#""image":"i","tty":true"#);
    contains(
        &lab.text("test", "PUT", "/api/v1/namespaces/n/pods/p", &other).await,
        "pod updates may not change fields other than",
    );
}
