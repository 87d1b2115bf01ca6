//! Forwards that follow a Service, as kubectl asks for them, with agents that say which pod they were asked for.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::sync::Arc;

use apiserver::nodes::{Dial, NodeDialer, NodeStream};
use apiserver::{ApiServer, Config, User};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use streams::portforward::{self, Pair};
use tower::ServiceExt;

/// Agents that take every forward. Pod `mute` refuses its connections; node `lost` is not there.
#[derive(Debug)]
struct Agents;

impl NodeDialer for Agents {
    fn dial<'a>(&'a self, node: &'a Node) -> Dial<'a> {
        Box::pin(async {
            if node.metadata.name.as_deref() == Some("lost") {
                return Err(std::io::Error::other("no route to host"));
            }
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let service = hyper::service::service_fn(|request: Request<Incoming>| async {
                let pod = request.uri().path().rsplit('/').next().unwrap().to_owned();
                let request = request.map(axum::body::Body::new);
                let response = portforward::by_spdy(request, |mut pairs| async move {
                    while let Some(pair) = pairs.next().await {
                        tokio::spawn(forward(pod.clone(), pair));
                    }
                });
                Ok::<_, Infallible>(response)
            });
            let serving = hyper::server::conn::http1::Builder::new();
            tokio::spawn(serving.serve_connection(TokioIo::new(theirs), service).with_upgrades());
            Ok(Box::new(ours) as Box<dyn NodeStream>)
        })
    }
}

/// Says the pod, its port, and what was said to it once that is all.
async fn forward(pod: String, Pair { port, mut data, mut error }: Pair) {
    data.writer.accept().await;
    if pod == "mute" {
        error.writer.write(b"connection refused").await.unwrap();
    } else {
        let mut said = Vec::new();
        while let Some(bytes) = data.reader.next().await {
            said.extend_from_slice(&bytes);
        }
        let answer = format!("{pod} {port} {}", String::from_utf8_lossy(&said));
        data.writer.write(answer.as_bytes()).await.unwrap();
    }
    data.writer.close().await;
    error.writer.close().await;
}

struct Lab {
    server: ApiServer,
    _dir: tempfile::TempDir,
}

const SESSION: &str = "a37cf877-10db-4c43-82ee-1f46cf721651";
const CORE: &str = "/api/v1/namespaces/default";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

impl Lab {
    /// A Service `web` before pods `a` and `b`, whose port has another number on each.
    async fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { nodes: Arc::new(Agents), ..Config::new(dir.path()) };
        let lab = Lab { server: ApiServer::open(config).await.unwrap(), _dir: dir };
        for node in ["n1", "n2", "lost"] {
            lab.call(Method::POST, "/api/v1/nodes", json!({"metadata": {"name": node}})).await;
        }
        let ports = json!([{"name": "web", "port": 80, "targetPort": "http"}]);
        let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": ports}});
        lab.call(Method::POST, &format!("{CORE}/services"), service).await;
        lab.pod("a", "n1", 8001).await;
        lab.pod("b", "n2", 8002).await;
        lab
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let media = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { Full::<Bytes>::default() } else { Full::from(body.to_string()) };
        let request = Request::builder().method(method).uri(path).header("content-type", media).body(body).unwrap();
        let response = self.server.service(User::admin()).oneshot(request).await.unwrap();
        let (code, bytes) = (response.status(), response.into_body().collect().await.unwrap().to_bytes());
        assert!(code.is_success(), "{path}: {bytes:?}");
        serde_json::from_slice(&bytes).unwrap()
    }

    /// A pod that is ready, with a slice of its own.
    async fn pod(&self, name: &str, node: &str, port: u16) {
        let container = json!({"name": "c", "image": "x", "ports": [{"name": "http", "containerPort": port}]});
        let pod = json!({"metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]}});
        let pod = self.call(Method::POST, &format!("{CORE}/pods"), pod).await;
        let target = json!({"kind": "Pod", "namespace": "default", "name": name, "uid": pod["metadata"]["uid"]});
        let slice = json!({"metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "ports": [{"name": "web", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {"ready": true}, "targetRef": target}]});
        self.call(Method::POST, SLICES, slice).await;
    }

    async fn ready(&self, name: &str, ready: bool) {
        let path = format!("{SLICES}/{name}");
        let mut slice = self.call(Method::GET, &path, Value::Null).await;
        slice["endpoints"][0]["conditions"]["ready"] = json!(ready);
        self.call(Method::PUT, &path, slice).await;
    }

    async fn delete(&self, pod: &str) {
        self.call(Method::DELETE, &format!("{CORE}/pods/{pod}?gracePeriodSeconds=0"), Value::Null).await;
    }

    /// What kubectl does first.
    async fn reads(&self, user: &User, session: &str) {
        let request =
            marked(Request::get(format!("{CORE}/services/web")), session).body(Full::<Bytes>::default()).unwrap();
        let response = self.server.service(user.clone()).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }

    /// A tunnel to pod `a`.
    async fn tunnel(&self, user: &User, session: &str) -> Tunnel {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let service = TowerToHyperService::new(self.server.service(user.clone()));
        let serving = hyper::server::conn::http1::Builder::new();
        tokio::spawn(serving.serve_connection(TokioIo::new(theirs), service).with_upgrades());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let request = marked(Request::post(format!("{CORE}/pods/a/portforward")), session)
            .header("connection", "Upgrade")
            .header("upgrade", "SPDY/3.1")
            .header("x-stream-protocol-version", portforward::PROTOCOL);
        let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        Tunnel(portforward::Client::new(TokioIo::new(hyper::upgrade::on(response).await.unwrap())))
    }
}

fn marked(request: http::request::Builder, session: &str) -> http::request::Builder {
    request.header("kubectl-command", "kubectl port-forward").header("kubectl-session", session)
}

struct Tunnel(portforward::Client);

/// How a connection ended: what the pod said, or what went wrong.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Said(String),
    Wrong(String),
    /// Neither data nor words.
    Refused,
}

impl Tunnel {
    async fn ask(&mut self, port: u16) -> Ended {
        let Pair { mut data, mut error, .. } = self.0.connect(port).await.unwrap();
        data.writer.write(b"hello").await.unwrap();
        data.writer.close().await;
        let mut texts = [String::new(), String::new()];
        for (text, reader) in texts.iter_mut().zip([&mut data.reader, &mut error.reader]) {
            while let Some(bytes) = reader.next().await {
                text.push_str(std::str::from_utf8(&bytes).unwrap());
            }
        }
        match texts {
            [said, wrong] if wrong.is_empty() && said.is_empty() => Ended::Refused,
            [said, wrong] if wrong.is_empty() => Ended::Said(said),
            [_, wrong] => Ended::Wrong(wrong),
        }
    }
}

fn said(text: &str) -> Ended {
    Ended::Said(text.to_owned())
}

#[tokio::test]
async fn connections_go_to_the_chosen_pod_and_then_to_another() {
    let lab = Lab::new().await;
    let admin = User::admin();
    lab.reads(&admin, SESSION).await;
    let mut tunnel = lab.tunnel(&admin, SESSION).await;
    for _ in 0..5 {
        assert_eq!(tunnel.ask(8001).await, said("a 8001 hello"));
    }
    // What is no port of the Service is the pod's own affair.
    assert_eq!(tunnel.ask(9).await, said("a 9 hello"));
    lab.ready("a", false).await;
    assert_eq!(tunnel.ask(8001).await, said("b 8002 hello"), "the port has another number there");
    lab.ready("a", true).await;
    assert_eq!(tunnel.ask(8001).await, said("b 8002 hello"), "it stays");
    lab.delete("b").await;
    assert_eq!(tunnel.ask(8001).await, said("a 8001 hello"));
    lab.delete("a").await;
    assert_eq!(tunnel.ask(8001).await, Ended::Refused, "slices are behind, and name pods that have gone");
    lab.pod("c", "lost", 8003).await;
    assert_eq!(tunnel.ask(8001).await, Ended::Refused, "its node is not there");
    lab.pod("d", "n1", 8004).await;
    assert_eq!(tunnel.ask(8001).await, said("d 8004 hello"));
    assert_eq!(tunnel.ask(9).await, Ended::Refused, "no port of the Service, and the first pod has gone");
    lab.ready("d", false).await;
    assert_eq!(tunnel.ask(8001).await, said("d 8004 hello"), "nothing is ready: as without a Service");
}

#[tokio::test]
async fn what_an_agent_says_against_a_living_pod_is_passed_on() {
    let lab = Lab::new().await;
    lab.reads(&User::admin(), SESSION).await;
    let mut tunnel = lab.tunnel(&User::admin(), SESSION).await;
    lab.pod("mute", "n1", 8005).await;
    lab.delete("a").await;
    lab.delete("b").await;
    assert_eq!(tunnel.ask(8001).await, Ended::Wrong("connection refused".to_owned()));
}

#[tokio::test]
async fn who_has_not_read_a_service_has_a_forward_to_a_pod() {
    let lab = Lab::new().await;
    let (ann, admin) = (User::new("ann", &["system:masters"]), User::admin());
    lab.reads(&admin, SESSION).await;
    let other = "d0943248-c9a4-4239-ba48-0ba26748278f";
    for (user, session) in [(&ann, SESSION), (&admin, other), (&admin, "none")] {
        let mut tunnel = lab.tunnel(user, session).await;
        assert_eq!(tunnel.ask(8001).await, said("a 8001 hello"));
        lab.ready("a", false).await;
        assert_eq!(tunnel.ask(8001).await, said("a 8001 hello"), "{} {session}", user.name);
        lab.ready("a", true).await;
    }
}

#[tokio::test]
async fn another_pod_is_reached_only_by_who_may_reach_it() {
    let lab = Lab::new().await;
    let ann = User::new("ann", &[]);
    let rule = |resource: &str, verbs: &[&str], name: &str| json!({"apiGroups": [""], "resources": [resource], "verbs": verbs, "resourceNames": [name]});
    let rules = [rule("services", &["get"], "web"), rule("pods/portforward", &["get", "create"], "a")];
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({"metadata": {"name": "forwards"}, "rules": rules});
    lab.call(Method::POST, &format!("{rbac}/roles"), role).await;
    let binding = json!({"metadata": {"name": "ann"}, "subjects": [{"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "Role", "name": "forwards", "apiGroup": "rbac.authorization.k8s.io"}});
    lab.call(Method::POST, &format!("{rbac}/rolebindings"), binding).await;
    lab.reads(&ann, SESSION).await;
    let mut tunnel = lab.tunnel(&ann, SESSION).await;
    assert_eq!(tunnel.ask(8001).await, said("a 8001 hello"));
    lab.delete("a").await;
    let Ended::Wrong(told) = tunnel.ask(8001).await else { panic!("it is not refused") };
    let expected = "pods \"b\" is forbidden: User \"ann\" cannot create resource \"pods/portforward\"";
    assert!(told.starts_with(expected), "{told}");
}
