//! The server as clients meet it: over TLS, by certificate, token and not at all; streams to an agent; watches.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use apiserver::nodes::{Dial, NodeDialer, NodeStream};
use apiserver::{ApiServer, Config, User};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Node;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// An agent that says what it was asked, and echoes what comes after an upgrade.
#[derive(Debug)]
struct Echo;

impl NodeDialer for Echo {
    fn dial<'a>(&'a self, _: &'a Node) -> Dial<'a> {
        Box::pin(async {
            let (ours, theirs) = tokio::io::duplex(4096);
            let service =
                hyper::service::service_fn(|request: Request<Incoming>| async { Ok::<_, Infallible>(agent(request)) });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(theirs), service)
                    .with_upgrades(),
            );
            Ok(Box::new(ours) as Box<dyn NodeStream>)
        })
    }
}

fn agent(mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let asked = request.uri().to_string();
    if request.headers().contains_key("upgrade") {
        tokio::spawn(async move {
            let mut stream = TokioIo::new(hyper::upgrade::on(&mut request).await.unwrap());
            stream.write_all(asked.as_bytes()).await.unwrap();
            let mut bytes = [0; 5];
            stream.read_exact(&mut bytes).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        });
        return Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .body(Full::default())
            .unwrap();
    }
    if asked.contains("previous=true") {
        return Response::builder().status(400).body(Full::from("previous terminated container not found")).unwrap();
    }
    Response::new(Full::from(asked))
}

struct Lab {
    server: ApiServer,
    port: u16,
    shutdown: CancellationToken,
    _dir: tempfile::TempDir,
}

async fn lab() -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { nodes: Arc::new(Echo), bookmark_every: Duration::from_millis(50), ..Config::new(dir.path()) };
    let server = ApiServer::open(config).await.unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let shutdown = CancellationToken::new();
    let (serving, stop) = (server.clone(), shutdown.clone());
    tokio::spawn(async move { serving.serve_tls(listener, stop).await });
    Lab { server, port, shutdown, _dir: dir }
}

impl Lab {
    async fn connect(&self, as_admin: bool) -> SendRequest<Full<Bytes>> {
        let credentials = self.server.credentials();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(credentials.ca_pem.as_bytes()).unwrap()).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = if as_admin {
            let certificate = CertificateDer::from_pem_slice(credentials.certificate_pem.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(credentials.key_pem.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }

    /// In process, as the administrator.
    async fn call(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() { Full::default() } else { Full::from(body.to_string()) };
        let request = Request::builder().method(method).uri(path).body(body).unwrap();
        let response = self.server.service(User::admin()).oneshot(request).await.unwrap();
        let code = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn pod_on_a_node(&self) {
        let node = json!({"metadata": {"name": "n1"}});
        assert_eq!(self.call(Method::POST, "/api/v1/nodes", node).await.0, StatusCode::CREATED);
        let pod = json!({
            "metadata": {"name": "p"},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "x"}]},
        });
        let (code, pod) = self.call(Method::POST, "/api/v1/namespaces/default/pods", pod).await;
        assert_eq!(code, StatusCode::CREATED, "{pod}");
    }
}

async fn get(sender: &mut SendRequest<Full<Bytes>>, path: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
    let mut request = Request::get(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Full::default()).unwrap()).await.unwrap();
    let code = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn callers_are_known_by_certificate_by_token_or_not_at_all() {
    let lab = lab().await;
    let mut admin = lab.connect(true).await;
    assert_eq!(get(&mut admin, "/api/v1/nodes", &[]).await.0, StatusCode::OK);
    let as_other = [("impersonate-user", "someone")];
    assert_eq!(get(&mut admin, "/api/v1/nodes", &as_other).await.0, StatusCode::FORBIDDEN);

    let mut nobody = lab.connect(false).await;
    assert_eq!(get(&mut nobody, "/livez", &[]).await, (StatusCode::OK, "ok".to_owned()));
    let (code, text) = get(&mut nobody, "/api/v1/nodes", &[]).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert!(
        text.contains(
            r#"User \"system:anonymous\" cannot list resource \"nodes\" in API group \"\" at the cluster scope"#
        ),
        "{text}"
    );
    let wrong = [("authorization", "Bearer nonsense")];
    assert_eq!(get(&mut nobody, "/api/v1/nodes", &wrong).await.0, StatusCode::UNAUTHORIZED);

    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let (code, token) = lab.call(Method::POST, path, json!({"spec": {}})).await;
    assert_eq!(code, StatusCode::CREATED, "{token}");
    let bearer = format!("Bearer {}", token["status"]["token"].as_str().unwrap());
    let (code, text) = get(&mut nobody, "/api/v1/nodes", &[("authorization", &bearer)]).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert!(text.contains("system:serviceaccount:default:default"), "{text}");
    let binding = json!({
        "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
    });
    lab.call(Method::POST, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    assert_eq!(get(&mut nobody, "/api/v1/nodes", &[("authorization", &bearer)]).await.0, StatusCode::OK);
    // The token dies with its account.
    lab.call(Method::DELETE, "/api/v1/namespaces/default/serviceaccounts/default", Value::Null).await;
    assert_eq!(get(&mut nobody, "/api/v1/nodes", &[("authorization", &bearer)]).await.0, StatusCode::UNAUTHORIZED);
    lab.shutdown.cancel();
}

#[tokio::test]
async fn logs_and_exec_reach_the_agent() {
    let lab = lab().await;
    lab.pod_on_a_node().await;
    let mut admin = lab.connect(true).await;
    let pod = "/api/v1/namespaces/default/pods/p";
    let (code, text) = get(&mut admin, &format!("{pod}/log?follow=true&tailLines=3"), &[]).await;
    assert_eq!((code, text.as_str()), (StatusCode::OK, "/containerLogs/default/p/c?follow=true&tailLines=3"));
    let (code, text) = get(&mut admin, &format!("{pod}/log?previous=true"), &[]).await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    assert!(text.contains("previous terminated container not found"), "{text}");
    let (code, text) = get(&mut admin, &format!("{pod}/log?container=zz"), &[]).await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    assert!(text.contains("container zz is not valid for pod p"), "{text}");

    let request =
        Request::get(format!("{pod}/exec?command=sh&command=-c&stdin=true&stdout=true&stderr=false&tty=true"))
            .header("host", "localhost")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-protocol", "v5.channel.k8s.io")
            .body(Full::default())
            .unwrap();
    let response = admin.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let expected = "/exec/default/p/c?command=sh&command=-c&input=1&output=1&tty=1";
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    stream.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello");
    lab.shutdown.cancel();
}

/// The next event of a watch, as JSON.
async fn event(
    body: &mut (impl hyper::body::Body<Data = Bytes, Error = impl std::fmt::Debug> + Unpin),
    buffer: &mut Vec<u8>,
) -> Value {
    loop {
        if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            return serde_json::from_slice(&line).unwrap();
        }
        let frame = tokio::time::timeout(Duration::from_secs(20), body.frame()).await.unwrap().unwrap().unwrap();
        buffer.extend_from_slice(&frame.into_data().unwrap());
    }
}

#[tokio::test]
async fn a_watch_lists_follows_and_bookmarks() {
    let lab = lab().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    lab.call(Method::POST, maps, json!({"metadata": {"name": "a", "labels": {"k": "1"}}})).await;
    let path = format!(
        "{maps}?watch=true&labelSelector=k%3D1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    let request = Request::get(path).body(Empty::<Bytes>::new()).unwrap();
    let mut body = lab.server.service(User::admin()).oneshot(request).await.unwrap().into_body();
    let mut buffer = Vec::new();
    let first = event(&mut body, &mut buffer).await;
    assert_eq!((&first["type"], &first["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("a")));
    let end = event(&mut body, &mut buffer).await;
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    // Leaving the selection is a deletion for this watch.
    let patch = Request::patch(format!("{maps}/a"))
        .header("content-type", "application/merge-patch+json")
        .body(Full::<Bytes>::from(r#"{"metadata":{"labels":{"k":"2"}}}"#))
        .unwrap();
    lab.server.service(User::admin()).oneshot(patch).await.unwrap();
    let mut next = event(&mut body, &mut buffer).await;
    while next["type"] == "BOOKMARK" {
        next = event(&mut body, &mut buffer).await;
    }
    assert_eq!((&next["type"], &next["object"]["metadata"]["labels"]["k"]), (&json!("DELETED"), &json!("1")));
    assert_ne!(next["object"]["metadata"]["resourceVersion"], first["object"]["metadata"]["resourceVersion"]);
    let bookmark = event(&mut body, &mut buffer).await;
    assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&json!("BOOKMARK"), &json!("ConfigMap")));
    lab.server.shut_down();
    assert!(matches!(tokio::time::timeout(Duration::from_secs(20), body.frame()).await, Ok(None | Some(Ok(_)))));
}

#[tokio::test]
async fn a_second_start_finds_what_the_first_left() {
    let dir = tempfile::tempdir().unwrap();
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    let path = "/api/v1/namespaces/default/services";
    let ask = |server: &ApiServer, method: Method, path: String, body: Value| {
        let body = if body.is_null() { Full::<Bytes>::default() } else { Full::from(body.to_string()) };
        let request = Request::builder().method(method).uri(path).body(body).unwrap();
        let service = server.service(User::admin());
        async move {
            let response = service.oneshot(request).await.unwrap();
            let code = response.status();
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            (code, serde_json::from_slice::<Value>(&bytes).unwrap())
        }
    };
    let (made, ca) = {
        let server = ApiServer::open(Config::new(dir.path())).await.unwrap();
        let (code, made) = ask(&server, Method::POST, path.to_owned(), service.clone()).await;
        assert_eq!(code, StatusCode::CREATED);
        (made, server.ca_pem())
    };
    let server = ApiServer::open(Config::new(dir.path())).await.unwrap();
    assert_eq!(server.ca_pem(), ca);
    let (_, found) = ask(&server, Method::GET, format!("{path}/s"), Value::Null).await;
    assert_eq!(found, made);
    // Its address and its port are still taken …
    let mut other = service.clone();
    other["metadata"]["name"] = "t".into();
    other["spec"]["clusterIP"] = made["spec"]["clusterIP"].clone();
    let (code, refused) = ask(&server, Method::POST, path.to_owned(), other.clone()).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{refused}");
    // … until it goes.
    assert_eq!(ask(&server, Method::DELETE, format!("{path}/s"), Value::Null).await.0, StatusCode::OK);
    other["spec"]["ports"][0]["nodePort"] = made["spec"]["ports"][0]["nodePort"].clone();
    let (code, taken) = ask(&server, Method::POST, path.to_owned(), other).await;
    assert_eq!(code, StatusCode::CREATED, "{taken}");
}
