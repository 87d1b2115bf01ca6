//! Addresses and node ports under concurrency, exhaustion and restart: never doubled, never leaked.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use apiserver::{ApiServer, Config, Service, User};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tower::ServiceExt;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

async fn send(client: &Service, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
    let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("content-type", content_type);
    let response = client.clone().oneshot(request.body(Full::new(bytes)).unwrap()).await.unwrap();
    let code = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap())
}

async fn open(dir: &std::path::Path, cidr: &str, ports: std::ops::RangeInclusive<u16>) -> (ApiServer, Service) {
    let config = Config { service_cidrs: vec![cidr.parse().unwrap()], node_ports: ports, ..Config::new(dir) };
    let server = ApiServer::open(config).await.unwrap();
    let client = server.service(User::admin());
    (server, client)
}

fn spec(kind: u8) -> Value {
    match kind {
        0 => json!({"type": "ClusterIP", "externalName": null, "ports": [{"name": "a", "port": 80}]}),
        1 => {
            json!({"type": "NodePort", "externalName": null, "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]})
        }
        2 => {
            json!({"type": "LoadBalancer", "externalName": null, "externalTrafficPolicy": "Local", "ports": [{"name": "a", "port": 80}]})
        }
        _ => json!({"type": "ExternalName", "externalName": "e.com", "externalTrafficPolicy": null, "ports": null}),
    }
}

/// Every address has its object and the other way round; no address and no port is held twice.
async fn audit(client: &Service) {
    let (_, services) = send(client, "GET", "/api/v1/services", &Value::Null).await;
    let (_, addresses) = send(client, "GET", ADDRESSES, &Value::Null).await;
    let (mut held, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for service in services["items"].as_array().unwrap() {
        for ip in service["spec"]["clusterIPs"].as_array().into_iter().flatten() {
            assert!(held.insert(ip.as_str().unwrap().to_owned()), "{ip} is held twice");
        }
        let of_ports = service["spec"]["ports"].as_array().into_iter().flatten().map(|port| &port["nodePort"]);
        for port in of_ports.chain([&service["spec"]["healthCheckNodePort"]]).filter_map(Value::as_i64) {
            assert!(ports.insert(port), "{port} is held twice");
        }
    }
    let listed: BTreeSet<String> = addresses["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|address| address["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(held, listed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn random_histories_of_many_writers_keep_the_books() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (_server, client) = open(dir.path(), "10.0.0.0/26", 30000..=30063).await;
        let writers: Vec<_> = (0..6)
            .map(|seed| {
                let client = client.clone();
                tokio::spawn(async move {
                    let mut random = StdRng::seed_from_u64(seed);
                    for _ in 0..60 {
                        // Names are shared, so that writers meet.
                        let name = format!("s{}", random.random_range(0..40));
                        let path = format!("{SERVICES}/{name}");
                        let spec = spec(random.random_range(0..4));
                        let (code, answer) = match random.random_range(0..5) {
                            0 | 1 => {
                                send(&client, "POST", SERVICES, &json!({"metadata": {"name": name}, "spec": spec}))
                                    .await
                            }
                            2 | 3 => send(&client, "PATCH", &path, &json!({"spec": spec})).await,
                            _ => send(&client, "DELETE", &path, &Value::Null).await,
                        };
                        let full = answer["message"].as_str().unwrap_or_default().contains("range is full");
                        assert!(code.as_u16() < 500 || full, "{answer}");
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        audit(&client).await;
    }
    // What another start reads is what this one had handed out: deleting all leaves only the server's own Service.
    let (_server, client) = open(dir.path(), "10.0.0.0/26", 30000..=30063).await;
    audit(&client).await;
    let (_, services) = send(&client, "GET", SERVICES, &Value::Null).await;
    for service in services["items"].as_array().unwrap() {
        let name = service["metadata"]["name"].as_str().unwrap();
        if name != "kubernetes" {
            let (code, _) = send(&client, "DELETE", &format!("{SERVICES}/{name}"), &Value::Null).await;
            assert_eq!(code, StatusCode::OK);
        }
    }
    let (_, addresses) = send(&client, "GET", ADDRESSES, &Value::Null).await;
    assert_eq!(addresses["items"].as_array().unwrap().len(), 1);
    // All 62 hosts but the first can be had again, and all 64 ports.
    for number in 0..32 {
        let body = json!({"metadata": {"name": format!("n{number}")}, "spec": spec(1)});
        let (code, answer) = send(&client, "POST", SERVICES, &body).await;
        assert_eq!(code, StatusCode::CREATED, "{answer}");
    }
    audit(&client).await;
}

#[tokio::test]
async fn a_full_range_is_said_and_nothing_is_half_allocated() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, client) = open(dir.path(), "10.0.0.0/29", 30000..=30003).await;
    let create = |name: &str, kind: u8| json!({"metadata": {"name": name}, "spec": spec(kind)});
    // Five hosts are left beside the server's own; two Services use all four ports.
    for (name, kind) in [("a", 1), ("b", 1)] {
        assert_eq!(send(&client, "POST", SERVICES, &create(name, kind)).await.0, StatusCode::CREATED);
    }
    let (code, refused) = send(&client, "POST", SERVICES, &create("c", 1)).await;
    assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(refused["message"].as_str().unwrap().contains("failed to allocate a nodePort: range is full"), "{refused}");
    for name in ["d", "e", "f"] {
        assert_eq!(send(&client, "POST", SERVICES, &create(name, 0)).await.0, StatusCode::CREATED);
    }
    let (code, refused) = send(&client, "POST", SERVICES, &create("g", 0)).await;
    assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(
        refused["message"].as_str().unwrap().contains("failed to allocate a serviceIP: range is full"),
        "{refused}"
    );
    assert_eq!(send(&client, "DELETE", &format!("{SERVICES}/d"), &Value::Null).await.0, StatusCode::OK);
    assert_eq!(send(&client, "POST", SERVICES, &create("g", 0)).await.0, StatusCode::CREATED);
    audit(&client).await;
}

#[tokio::test]
async fn an_address_that_someone_else_registered_is_not_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, client) = open(dir.path(), "10.0.0.0/29", 30000..=30003).await;
    let parent = json!({"group": "", "resource": "services", "namespace": "default", "name": "elsewhere"});
    for host in 2..=5 {
        let address = json!({"metadata": {"name": format!("10.0.0.{host}")}, "spec": {"parentRef": parent}});
        let (code, answer) = send(&client, "POST", ADDRESSES, &address).await;
        assert_eq!(code, StatusCode::CREATED, "{answer}");
    }
    let body = json!({"metadata": {"name": "a"}, "spec": spec(0)});
    let (code, made) = send(&client, "POST", SERVICES, &body).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    assert_eq!(made["spec"]["clusterIP"], "10.0.0.6");
}

/// Asks until the answer is as wanted; the server's own loop needs its moment.
async fn until(client: &Service, path: &str, wanted: impl Fn(StatusCode, &Value) -> bool) {
    for _ in 0..400 {
        let (code, answer) = send(client, "GET", path, &Value::Null).await;
        if wanted(code, &answer) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("{path} did not become what it should");
}

#[tokio::test]
async fn ranges_come_and_go_while_the_server_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, client) = open(dir.path(), "10.0.0.0/30", 30000..=30003).await;
    let create = |name: &str| json!({"metadata": {"name": name}, "spec": spec(0)});
    // One host beside the server's own.
    assert_eq!(send(&client, "POST", SERVICES, &create("a")).await.0, StatusCode::CREATED);
    assert_eq!(send(&client, "POST", SERVICES, &create("b")).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    let cidrs = "/apis/networking.k8s.io/v1/servicecidrs";
    let extra = json!({"metadata": {"name": "extra"}, "spec": {"cidrs": ["10.9.0.0/28"]}});
    let (code, answer) = send(&client, "POST", cidrs, &extra).await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
    let extra = format!("{cidrs}/extra");
    until(&client, &extra, |_, cidr| cidr["status"]["conditions"][0]["status"] == "True").await;
    let (code, made) = send(&client, "POST", SERVICES, &create("b")).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    assert!(made["spec"]["clusterIP"].as_str().unwrap().starts_with("10.9.0."), "{made}");
    // It stays as long as its address is in use, but gives out no more.
    send(&client, "DELETE", &extra, &Value::Null).await;
    until(&client, &extra, |_, cidr| cidr["status"]["conditions"][0]["reason"] == "Terminating").await;
    assert_eq!(send(&client, "POST", SERVICES, &create("c")).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    send(&client, "DELETE", &format!("{SERVICES}/b"), &Value::Null).await;
    until(&client, &extra, |code, _| code == StatusCode::NOT_FOUND).await;
    audit(&client).await;
}
