//! An ingress with a real API server in the same process, and backends that the test writes: everything in a namespace of the test's own, on free ports.
#![allow(clippy::unwrap_used, dead_code)]

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use apiserver::{ApiServer, User};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use ingress::{Config, Ingress};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use linux::NetNs;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// More than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Lab {
    pub client: kube::Client,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub names: SocketAddr,
    pub registry: telemetry::Registry,
    pub shutdown: CancellationToken,
    pub server: ApiServer,
    pub running: Option<tokio::task::JoinHandle<Result<(), ingress::Error>>>,
    pub folder: tempfile::TempDir,
}

impl Lab {
    pub async fn new() -> Lab {
        Lab::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let server = ApiServer::open(apiserver::Config::new(folder.path().join("data"))).await.unwrap();
        let client = client::in_process(server.service(User::admin()));
        let here = NetNs::current().unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut config = Config {
            http: vec![(here.clone(), any)],
            https: vec![(here.clone(), any)],
            names: vec![(here, any)],
            publish: vec![Ipv4Addr::new(192, 0, 2, 7).into()],
            workers: 2,
            ..Config::default()
        };
        change(&mut config);
        let registry = config.registry.clone();
        let ingress = Ingress::open(config).unwrap();
        assert!(ingress.refused().is_empty(), "{:?}", ingress.refused());
        let addresses = ingress.addresses();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(ingress.run(client.clone(), shutdown.clone()));
        let lab = Lab {
            client,
            http: addresses[0],
            https: addresses[1],
            names: addresses[2],
            registry,
            shutdown,
            server,
            running: Some(running),
            folder,
        };
        lab.put(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "portolan"},
            "spec": {"controller": ingress::CONTROLLER}
        }))
        .await;
        lab
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let (group, version) = object["apiVersion"]
            .as_str()
            .unwrap()
            .split_once('/')
            .unwrap_or(("", object["apiVersion"].as_str().unwrap()));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap()));
        let namespaced = !["IngressClass", "Namespace"].contains(&object["kind"].as_str().unwrap());
        match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None if namespaced => Api::namespaced_with(self.client.clone(), "default", &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// Creates or replaces an object.
    pub async fn put(&self, object: Value) {
        let api = self.api(&object);
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        if api.get_opt(&name).await.unwrap().is_some() {
            api.patch(&name, &PatchParams::default(), &Patch::Merge(&object)).await.unwrap();
        } else {
            api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
        }
    }

    pub async fn delete(&self, api_version: &str, kind: &str, name: &str) {
        let object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
        self.api(&object).delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub async fn get(&self, api_version: &str, kind: &str, name: &str) -> Value {
        let object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
        serde_json::to_value(self.api(&object).get(name).await.unwrap()).unwrap()
    }

    /// A Service with port 80 (`http`), and its endpoints.
    pub async fn service(&self, name: &str, endpoints: &[SocketAddr]) {
        self.service_with(name, endpoints, json!({})).await;
    }

    pub async fn service_with(&self, name: &str, endpoints: &[SocketAddr], port: Value) {
        let mut said = json!({"name": "http", "port": 80, "targetPort": 8080});
        said.as_object_mut().unwrap().extend(port.as_object().unwrap().clone());
        self.put(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [said]}
        }))
        .await;
        self.endpoints(name, endpoints).await;
    }

    /// A slice for each endpoint, since each has a port of its own here; those of earlier calls go.
    pub async fn endpoints(&self, service: &str, endpoints: &[SocketAddr]) {
        self.endpoints_in(service, endpoints, json!({"ready": true})).await;
    }

    pub async fn endpoints_in(&self, service: &str, endpoints: &[SocketAddr], conditions: Value) {
        let sample = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "x"}});
        let api = self.api(&sample);
        let wanted: Vec<String> = endpoints.iter().map(|e| format!("{service}-{}", e.port())).collect();
        for (name, endpoint) in wanted.iter().zip(endpoints) {
            self.put(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
                "ports": [{"name": "http", "port": endpoint.port(), "protocol": "TCP"}],
                "endpoints": [{"addresses": [endpoint.ip().to_string()], "conditions": conditions}]
            }))
            .await;
        }
        let selector = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        for slice in api.list(&selector).await.unwrap() {
            let name = slice.metadata.name.unwrap();
            if !wanted.contains(&name) {
                api.delete(&name, &DeleteParams::default()).await.unwrap();
            }
        }
    }

    /// An Ingress of our class for one host, all paths, with annotations of ingress-nginx without their prefix.
    pub async fn ingress(&self, name: &str, host: &str, service: &str, annotations: &[(&str, &str)]) {
        self.ingress_path(name, host, "/", "Prefix", service, annotations).await;
    }

    pub async fn ingress_path(
        &self,
        name: &str,
        host: &str,
        path: &str,
        kind: &str,
        service: &str,
        annotations: &[(&str, &str)],
    ) {
        let annotations: Value =
            annotations.iter().map(|(k, v)| (format!("nginx.ingress.kubernetes.io/{k}"), json!(v))).collect();
        self.put(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"ingressClassName": "portolan", "rules": [{"host": host, "http": {"paths": [
                {"path": path, "pathType": kind, "backend": {"service": {"name": service, "port": {"number": 80}}}}
            ]}}]}
        }))
        .await;
    }

    /// A TLS Secret for these names; gives back the certificate.
    pub async fn secret(&self, name: &str, hosts: &[&str]) -> String {
        let made =
            rcgen::generate_simple_self_signed(hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        self.raw_secret(name, &certificate, &key).await;
        certificate
    }

    pub async fn raw_secret(&self, name: &str, certificate: &str, key: &str) {
        use base64::Engine;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        self.put(json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name},
            "data": {"tls.crt": encode(certificate), "tls.key": encode(key)}
        }))
        .await;
    }

    /// Runs curl against the plain listener; `host` resolves to it.
    pub async fn curl(&self, host: &str, path: &str, flags: &[&str]) -> Said {
        self.curl_to(self.http, "http", host, path, flags).await
    }

    pub async fn curl_tls(&self, host: &str, path: &str, flags: &[&str]) -> Said {
        self.curl_to(self.https, "https", host, path, flags).await
    }

    pub async fn curl_to(&self, to: SocketAddr, scheme: &str, host: &str, path: &str, flags: &[&str]) -> Said {
        let mut command = tokio::process::Command::new("curl");
        command.args(["-sS", "--max-time", "30", "-k", "-i", "--noproxy", "*"]);
        command.args(["--resolve", &format!("{host}:{}:{}", to.port(), to.ip())]);
        command.args(flags).arg(format!("{scheme}://{host}:{}{path}", to.port()));
        let Output { stdout, stderr, status } = command.output().await.unwrap();
        let text = String::from_utf8_lossy(&stdout).into_owned();
        Said { text, error: String::from_utf8_lossy(&stderr).into_owned(), code: status.code() }
    }

    /// Asks until the answer has that status.
    pub async fn until(&self, host: &str, path: &str, status: u16) -> Said {
        until(&format!("{status} from {host}{path}"), async || {
            let said = self.curl(host, path, &[]).await;
            if said.status() == status { Ok(said) } else { Err(format!("{said:?}")) }
        })
        .await
    }

    pub async fn events(&self, about: &str) -> Vec<String> {
        let all: Api<k8s_openapi::api::core::v1::Event> = Api::all(self.client.clone());
        let listed = all.list(&ListParams::default()).await.unwrap();
        let about = listed.into_iter().filter(|event| event.involved_object.name.as_deref() == Some(about));
        about.map(|e| format!("{}: {}", e.reason.unwrap_or_default(), e.message.unwrap_or_default())).collect()
    }

    pub async fn until_event(&self, about: &str, text: &str) {
        until(&format!("an event of {about} with `{text}`"), async || {
            let events = self.events(about).await;
            if events.iter().any(|event| event.contains(text)) { Ok(()) } else { Err(format!("{events:?}")) }
        })
        .await;
    }

    pub async fn stop(mut self) {
        self.shutdown.cancel();
        if let Some(running) = self.running.take() {
            running.await.unwrap().unwrap();
        }
        self.server.shut_down();
    }
}

/// What curl said, headers first.
#[derive(Debug)]
pub struct Said {
    pub text: String,
    pub error: String,
    pub code: Option<i32>,
}

impl Said {
    pub fn status(&self) -> u16 {
        // Interim answers (100 Continue) come first.
        let heads = self.text.lines().filter(|line| line.starts_with("HTTP/"));
        let mut statuses = heads.filter_map(|line| line.split(' ').nth(1)?.parse().ok());
        statuses.find(|status| *status >= 200).unwrap_or(0)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let named = self.text.lines().take_while(|line| !line.trim().is_empty() || line.starts_with("HTTP/"));
        let mut pairs = named.filter_map(|line| line.split_once(':'));
        pairs.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub fn body(&self) -> &str {
        self.text.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(self.body()).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}

/// Asks again until it holds.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) if start.elapsed() > PATIENCE => panic!("never {what}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// A backend that says what it was asked, over HTTP/1.1 and h2c.
pub struct Backend {
    pub address: SocketAddr,
    pub asked: Arc<AtomicUsize>,
    pub connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Backend {
    pub async fn echo(name: &'static str) -> Backend {
        Backend::serve(move |request: Request<Incoming>| async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let headers: Value = parts
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value.as_bytes()))))
                .collect();
            let said = json!({
                "service": name, "method": parts.method.as_str(), "uri": parts.uri.to_string(),
                "version": format!("{:?}", parts.version), "headers": headers, "body": body.len()
            });
            let mut response = Response::new(Full::new(Bytes::from(said.to_string())));
            response.headers_mut().insert("content-type", "application/json".parse().unwrap());
            response
        })
        .await
    }

    pub async fn serve<F, R, B>(answer: F) -> Backend
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<B>> + Send,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let listener = TcpListener::bind((local_address(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (asks, opens) = (Arc::clone(&asked), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                opens.fetch_add(1, Ordering::SeqCst);
                let (answer, asks) = (answer.clone(), Arc::clone(&asks));
                serving.spawn(async move {
                    let service = service_fn(move |request| {
                        let answer = answer.clone();
                        asks.fetch_add(1, Ordering::SeqCst);
                        async move { Ok::<_, Infallible>(answer(request).await) }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
        });
        Backend { address, asked, connections, task }
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// The address of backends: the API refuses the loopback's for endpoints.
pub fn local_address() -> std::net::IpAddr {
    std::net::IpAddr::from([10, 99, 0, 1])
}

/// Runs a test inside a network namespace of its own: all its threads and programs are there.
pub fn run(test: impl AsyncFnOnce() + Send) {
    let folder = tempfile::tempdir().unwrap();
    let namespace = NetNs::create(folder.path().join("net")).unwrap();
    let ran = namespace.run(|| {
        let add = ["address", "add", "10.99.0.1/32", "dev", "lo"];
        assert!(std::process::Command::new("ip").args(add).status().unwrap().success());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(test())))
    });
    namespace.delete().unwrap();
    if let Err(panic) = ran.unwrap() {
        std::panic::resume_unwind(panic);
    }
}
