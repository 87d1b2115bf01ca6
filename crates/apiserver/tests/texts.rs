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
