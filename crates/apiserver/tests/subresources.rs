//! Parts of objects that are not the object: proxies to pods, services and nodes, bindings, evictions, ephemeral containers; and what
//! the server as a whole refuses or gives away: too many requests, other nodes' secrets, a backup.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use apiserver::nodes::{Dial, NodeDialer, NodeStream};
use apiserver::{ApiServer, Config, User};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use tower::ServiceExt;

/// Nodes and pods that say what they were asked. Only port 80 is listened to.
#[derive(Debug)]
struct Echo;

impl NodeDialer for Echo {
    fn dial<'a>(&'a self, _: &'a Node) -> Dial<'a> {
        Box::pin(async { Ok(echo("agent".to_owned())) })
    }

    fn dial_address(&self, address: SocketAddr) -> Dial<'_> {
        Box::pin(async move {
            match address.port() {
                80 => Ok(echo(address.to_string())),
                _ => Err(std::io::Error::other(format!("dial tcp {address}: connect: connection refused"))),
            }
        })
    }
}

fn echo(name: String) -> Box<dyn NodeStream> {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let name = name.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            if parts.uri.path() == "/moved" {
                let moved = Response::builder().status(302).header("location", "/login");
                return Ok(moved.body(Full::default()).unwrap());
            }
            let headers: Vec<String> = parts.headers.keys().map(ToString::to_string).collect();
            let said = json!({
                "who": name, "method": parts.method.as_str(), "uri": parts.uri.to_string(),
                "headers": headers, "body": String::from_utf8_lossy(&body),
            });
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(said.to_string())))
        }
    });
    tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service));
    Box::new(ours)
}

struct Lab {
    server: ApiServer,
    _dir: tempfile::TempDir,
}

async fn lab_with(change: impl FnOnce(&mut Config)) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config { nodes: Arc::new(Echo), ..Config::new(dir.path()) };
    change(&mut config);
    Lab { server: ApiServer::open(config).await.unwrap(), _dir: dir }
}

async fn lab() -> Lab {
    lab_with(|_| {}).await
}

impl Lab {
    async fn raw(&self, user: User, request: Request<Full<Bytes>>) -> (StatusCode, HeaderMap, Bytes) {
        let response = self.server.service(user).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, body.collect().await.unwrap().to_bytes())
    }

    async fn call_as(&self, user: User, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() { Full::default() } else { Full::from(body.to_string()) };
        let media = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header("content-type", media).body(body).unwrap();
        let (code, _, bytes) = self.raw(user, request).await;
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        self.call_as(User::admin(), method, path, body).await
    }

    async fn create(&self, path: &str, body: Value) -> Value {
        let (code, answer) = self.call(Method::POST, path, body).await;
        assert_eq!(code, StatusCode::CREATED, "{answer}");
        answer
    }

    async fn pod(&self, name: &str, labels: Value, address: &str) {
        self.create(
            "/api/v1/namespaces/default/pods",
            json!({"metadata": {"name": name, "labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        )
        .await;
        let status = json!({"status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        let path = format!("/api/v1/namespaces/default/pods/{name}/status");
        assert_eq!(self.call(Method::PATCH, &path, status).await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_pod_is_reached_through_the_proxy_without_the_callers_credentials() {
    let lab = lab().await;
    lab.pod("p", json!({}), "10.1.2.3").await;
    let request = Request::builder()
        .method(Method::POST)
        .uri("/api/v1/namespaces/default/pods/p:80/proxy/a//b%2Fc/?x=1")
        .header("authorization", "Bearer secret")
        .header("x-own", "kept")
        .body(Full::from("hello"))
        .unwrap();
    let (code, _, bytes) = lab.raw(User::admin(), request).await;
    let said: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(code, StatusCode::OK);
    assert_eq!(
        (&said["who"], &said["method"], &said["body"]),
        (&json!("10.1.2.3:80"), &json!("POST"), &json!("hello"))
    );
    assert_eq!(said["uri"], "/a//b%2Fc/?x=1");
    let headers: Vec<&str> = said["headers"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(headers.contains(&"x-own") && headers.contains(&"x-forwarded-uri"), "{headers:?}");
    assert!(!headers.contains(&"authorization"), "{headers:?}");
}

#[tokio::test]
async fn redirects_stay_behind_the_proxy() {
    let lab = lab().await;
    lab.pod("p", json!({}), "10.1.2.3").await;
    let get = |path: &str| Request::get(path).body(Full::default()).unwrap();
    let root = "/api/v1/namespaces/default/pods/p/proxy";
    let (code, headers, _) = lab.raw(User::admin(), get(root)).await;
    assert_eq!((code, headers["location"].to_str().unwrap()), (StatusCode::MOVED_PERMANENTLY, &*format!("{root}/")));
    let (code, headers, _) = lab.raw(User::admin(), get(&format!("{root}/moved"))).await;
    assert_eq!((code, headers["location"].to_str().unwrap()), (StatusCode::FOUND, &*format!("{root}/login")));
}

#[tokio::test]
async fn services_and_nodes_are_proxied_too_and_what_is_not_there_is_told() {
    let lab = lab().await;
    let services = "/api/v1/namespaces/default/services";
    lab.create(services, json!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "http", "port": 8080}]}})).await;
    let (code, answer) = lab.call(Method::GET, &format!("{services}/s:8080/proxy/"), Value::Null).await;
    assert_eq!((code.as_u16(), &answer["message"]), (503, &json!("no endpoints available for service \"s:8080\"")));
    let slice = json!({
        "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.2.4"]}, {"addresses": ["10.1.2.5"], "conditions": {"ready": false}}],
        "ports": [{"name": "http", "port": 80}],
    });
    lab.create("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await;
    for name in ["s:8080", "s:http", "http:s:http"] {
        let (code, said) = lab.call(Method::GET, &format!("{services}/{name}/proxy/x"), Value::Null).await;
        assert_eq!((code.as_u16(), &said["who"]), (200, &json!("10.1.2.4:80")), "{name}");
    }
    let (code, answer) = lab.call(Method::GET, &format!("{services}/s:9/proxy/"), Value::Null).await;
    assert_eq!((code.as_u16(), &answer["message"]), (503, &json!("no service port 9 found for service \"s\"")));
    lab.create("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    let (code, said) = lab.call(Method::GET, "/api/v1/nodes/n/proxy/metrics", Value::Null).await;
    assert_eq!((code.as_u16(), &said["who"], &said["uri"]), (200, &json!("agent"), &json!("/metrics")));
    lab.pod("lo", json!({}), "127.0.0.1").await;
    let (code, answer) = lab.call(Method::GET, "/api/v1/namespaces/default/pods/lo:80/proxy/", Value::Null).await;
    assert_eq!((code.as_u16(), &answer["message"]), (400, &json!("address not allowed")));
    lab.pod("dead", json!({}), "10.1.2.6").await;
    let (code, answer) = lab.call(Method::GET, "/api/v1/namespaces/default/pods/dead:81/proxy/", Value::Null).await;
    let message = "error trying to reach service: dial tcp 10.1.2.6:81: connect: connection refused";
    assert_eq!((code.as_u16(), &answer["message"]), (503, &json!(message)));
}

#[tokio::test]
async fn a_budget_stops_an_eviction_and_lets_the_next_through() {
    let lab = lab().await;
    lab.pod("p", json!({"app": "web"}), "10.1.2.3").await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget =
        json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    lab.create(budgets, budget).await;
    let path = "/api/v1/namespaces/default/pods/p/eviction";
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let (code, answer) = lab.call(Method::POST, path, eviction.clone()).await;
    assert_eq!((code.as_u16(), &answer["details"]["causes"][0]["reason"]), (429, &json!("DisruptionBudget")));
    let status =
        json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "desiredHealthy": 1, "currentHealthy": 2}});
    assert_eq!(lab.call(Method::PATCH, &format!("{budgets}/b/status"), status).await.0, StatusCode::OK);
    let dry = json!({"metadata": {"name": "p"}, "deleteOptions": {"dryRun": ["All"]}});
    assert_eq!(lab.call(Method::POST, path, dry).await.0, StatusCode::CREATED);
    let (code, answer) = lab.call(Method::POST, path, eviction).await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
    let (_, budget) = lab.call(Method::GET, &format!("{budgets}/b"), Value::Null).await;
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    assert!(budget["status"]["disruptedPods"]["p"].is_string());
    assert_eq!(lab.call(Method::GET, "/api/v1/namespaces/default/pods/p", Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_binding_is_made_once_in_either_way() {
    let lab = lab().await;
    lab.pod("p", json!({}), "10.1.2.3").await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    lab.create("/api/v1/namespaces/default/bindings", binding.clone()).await;
    let (code, answer) = lab.call(Method::POST, "/api/v1/namespaces/default/pods/p/binding", binding).await;
    let message = "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n\"";
    assert_eq!((code.as_u16(), &answer["message"]), (409, &json!(message)));
}

#[tokio::test]
async fn who_comes_when_all_are_busy_is_asked_to_come_again() {
    let lab = lab_with(|config| config.max_in_flight = 0).await;
    let get = || Request::get("/api/v1/namespaces").body(Full::default()).unwrap();
    let (code, headers, _) = lab.raw(User::new("eve", &[]), get()).await;
    assert_eq!((code, headers["retry-after"].to_str().unwrap()), (StatusCode::TOO_MANY_REQUESTS, "1"));
    assert_eq!(lab.raw(User::admin(), get()).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_node_reads_only_the_secrets_of_its_own_pods() {
    let lab = lab().await;
    for name in ["used", "other"] {
        lab.create("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": name}})).await;
    }
    let pod = json!({
        "metadata": {"name": "p"},
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "v", "secret": {"secretName": "used"}}],
        },
    });
    lab.create("/api/v1/namespaces/default/pods", pod).await;
    let ask = async |node: &str, path: &str| {
        let user = User::new(format!("system:node:{node}"), &["system:nodes"]);
        lab.call_as(user, Method::GET, path, Value::Null).await.0.as_u16()
    };
    assert_eq!(ask("n1", "/api/v1/namespaces/default/secrets/used").await, 200);
    assert_eq!(ask("n1", "/api/v1/namespaces/default/secrets/other").await, 403);
    assert_eq!(ask("n2", "/api/v1/namespaces/default/secrets/used").await, 403);
    assert_eq!(ask("n1", "/api/v1/namespaces/default/secrets").await, 403);
    assert_eq!(ask("n1", "/api/v1/secrets").await, 403);
    assert_eq!(ask("n1", "/api/v1/pods").await, 200);
}

#[tokio::test]
async fn a_backup_makes_the_same_server_again() {
    let lab = lab().await;
    let made = lab
        .create("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "c"}, "data": {"a": "b"}}))
        .await;
    let account = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let token = lab.create(account, json!({})).await["status"]["token"].clone();
    let get = || Request::get("/portolan/backup").body(Full::default()).unwrap();
    let (code, _, backup) = lab.raw(User::admin(), get()).await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!(lab.raw(User::new("eve", &[]), get()).await.0, StatusCode::FORBIDDEN);

    let other = tempfile::tempdir().unwrap();
    let restored = apiserver::backup::restore(&*backup, other.path()).unwrap();
    assert!(restored.objects > 50, "{restored:?}");
    let server = ApiServer::open(Config::new(other.path())).await.unwrap();
    assert_eq!(server.ca_pem(), lab.server.ca_pem());
    let again = Lab { server, _dir: other };
    let (code, found) = again.call(Method::GET, "/api/v1/namespaces/default/configmaps/c", Value::Null).await;
    assert_eq!((code, &found), (StatusCode::OK, &made));
    let review = json!({"spec": {"token": token}});
    let answer = again.create("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(answer["status"]["authenticated"], true);
    let service = again.call(Method::GET, "/api/v1/namespaces/default/services/kubernetes", Value::Null).await;
    assert_eq!(service.0, StatusCode::OK);
}

#[tokio::test]
async fn openapi_comes_in_the_form_that_client_go_asks_for() {
    let lab = lab().await;
    let media = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let request = Request::get("/openapi/v2").header("accept", media).body(Full::default()).unwrap();
    let (code, headers, bytes) = lab.raw(User::admin(), request).await;
    let answered = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    assert_eq!((code, headers["content-type"].to_str().unwrap()), (StatusCode::OK, answered));
    // Field 1, a text of three bytes: the version of the format.
    assert_eq!(&bytes[..5], b"\x0a\x032.0");
    assert!(bytes.len() > 100_000);
}

/// Asks until the answer is as wanted; only a fault runs into the end of it.
async fn eventually(lab: &Lab, path: &str, wanted: impl Fn(StatusCode, &Value) -> bool) -> Value {
    let ask = async {
        loop {
            let (code, answer) = lab.call(Method::GET, path, Value::Null).await;
            if wanted(code, &answer) {
                return answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), ask).await.unwrap()
}

#[tokio::test]
async fn a_secret_of_an_account_gets_a_token_that_lives_as_long_as_both() {
    let lab = lab().await;
    lab.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "robot"}})).await;
    let secret = |name: &str, account: &str| {
        json!({
            "metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": account}},
            "type": "kubernetes.io/service-account-token",
        })
    };
    lab.create("/api/v1/namespaces/default/secrets", secret("robot-token", "robot")).await;
    let path = "/api/v1/namespaces/default/secrets/robot-token";
    let filled = eventually(&lab, path, |_, secret| secret["data"]["token"].is_string()).await;
    assert_eq!(filled["data"]["namespace"], "ZGVmYXVsdA==");
    let token = String::from_utf8(base64(filled["data"]["token"].as_str().unwrap())).unwrap();
    let review = json!({"spec": {"token": token}});
    let ask = || lab.call(Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews", review.clone());
    let (_, answer) = ask().await;
    assert_eq!(answer["status"]["user"]["username"], "system:serviceaccount:default:robot", "{answer}");
    lab.call(Method::DELETE, "/api/v1/namespaces/default/serviceaccounts/robot", Value::Null).await;
    assert_ne!(ask().await.1["status"]["authenticated"], true);
    // A Secret for an account that is not there goes, and so does one that is made for it.
    eventually(&lab, path, |code, _| code == StatusCode::NOT_FOUND).await;
    lab.create("/api/v1/namespaces/default/secrets", secret("other", "nobody")).await;
    eventually(&lab, "/api/v1/namespaces/default/secrets/other", |code, _| code == StatusCode::NOT_FOUND).await;
}

fn base64(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

async fn table(lab: &Lab, path: &str) -> Vec<Vec<Value>> {
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let request = Request::get(path).header("accept", accept).body(Full::default()).unwrap();
    let (code, _, bytes) = lab.raw(User::admin(), request).await;
    assert_eq!(code, StatusCode::OK);
    let table: Value = serde_json::from_slice(&bytes).unwrap();
    let cells = |row: &Value| row["cells"].as_array().unwrap().clone();
    table["rows"].as_array().unwrap().iter().map(cells).collect()
}

#[tokio::test]
async fn what_the_server_knows_of_itself_can_be_read_and_not_written() {
    let lab = lab().await;
    assert_eq!(
        table(&lab, "/api/v1/componentstatuses").await,
        [json!(["etcd-0", "Healthy", "ok", ""]).as_array().unwrap().clone()]
    );
    let services = table(&lab, "/apis/apiregistration.k8s.io/v1/apiservices").await;
    assert!(services.iter().any(|row| row[..3] == [json!("v1.apps"), json!("Local"), json!("True")]), "{services:?}");
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, none) = lab.call(Method::GET, definitions, Value::Null).await;
    assert_eq!(
        (code, &none["kind"], &none["items"]),
        (StatusCode::OK, &json!("CustomResourceDefinitionList"), &json!([]))
    );
    assert_eq!(lab.call(Method::POST, definitions, json!({})).await.0, StatusCode::METHOD_NOT_ALLOWED);
    let (code, missing) = lab.call(Method::GET, "/api/v1/componentstatuses/nope", Value::Null).await;
    assert_eq!((code, &missing["message"]), (StatusCode::NOT_FOUND, &json!("componentstatuses \"nope\" not found")));
    let (_, groups) = lab.call(Method::GET, "/apis", Value::Null).await;
    assert!(groups.to_string().contains("apiextensions.k8s.io/v1"));
}

#[tokio::test]
async fn a_scale_is_shown_as_a_table_and_only_written_at_its_own_name() {
    let lab = lab().await;
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    lab.create("/apis/apps/v1/namespaces/default/deployments", deployment).await;
    let path = "/apis/apps/v1/namespaces/default/deployments/d/scale";
    assert_eq!(table(&lab, path).await[0][..3], [json!("d"), json!(3), json!(0)]);
    let other = json!({"metadata": {"name": "x"}, "spec": {"replicas": 1}});
    let (code, answer) = lab.call(Method::PUT, path, other).await;
    assert_eq!(code, StatusCode::BAD_REQUEST, "{answer}");
}

#[tokio::test]
async fn a_pod_is_resized_where_its_node_can_do_it() {
    let lab = lab().await;
    lab.create(
        "/api/v1/namespaces/default/pods",
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i",
            "resources": {"requests": {"cpu": "1"}}}]}}),
    )
    .await;
    let resize = |cpu: &str| {
        let containers = json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]);
        lab.call(Method::PATCH, "/api/v1/namespaces/default/pods/p/resize", json!({"spec": {"containers": containers}}))
    };
    let (code, pod) = resize("2").await;
    assert_eq!((code, &pod["metadata"]["generation"]), (StatusCode::OK, &json!(2)), "{pod}");
    assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"], "2");
    let status = json!({"status": {"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}});
    assert_eq!(lab.call(Method::PATCH, "/api/v1/namespaces/default/pods/p/status", status).await.0, StatusCode::OK);
    let (code, answer) = resize("3").await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let expected = "Pod \"p\" is invalid: spec: Forbidden: Pod running on node without support for resize";
    assert_eq!(answer["message"], expected);
}
