//! Requests through the ingress to real backends: routes, protocols, changes, and whatever goes wrong on the way.
#![allow(clippy::unwrap_used)]

mod lab;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use lab::{Backend, Lab, run, until};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

#[test]
fn requests_reach_the_service_that_the_rules_name() {
    run(async || {
        let lab = Lab::new().await;
        let (shop, api) = (Backend::echo("shop").await, Backend::echo("api").await);
        lab.service("shop", &[shop.address]).await;
        lab.service("api", &[api.address]).await;
        lab.ingress("shop", "shop.example", "shop", &[]).await;
        lab.ingress_path("api", "shop.example", "/api", "Prefix", "api", &[]).await;
        lab.until("shop.example", "/api/v1", 200).await;
        let said = lab.curl("shop.example", "/cart?x=1", &["-A", "test", "-d", "12345678"]).await;
        assert_eq!(said.status(), 200);
        assert!(
            said.header("server").is_some() && said.header("date").is_some() && said.header("content-length").is_some()
        );
        let seen = said.json();
        assert_eq!(
            (&seen["service"], &seen["method"], &seen["uri"]),
            (&json!("shop"), &json!("POST"), &json!("/cart?x=1"))
        );
        assert_eq!((&seen["version"], &seen["body"]), (&json!("HTTP/1.1"), &json!(8)));
        assert_eq!(seen["headers"]["content-length"], "8");
        assert_eq!(seen["headers"]["x-forwarded-for"], "127.0.0.1");
        assert_eq!(seen["headers"]["x-forwarded-proto"], "http");
        assert!(seen["headers"]["host"].as_str().unwrap().starts_with("shop.example"));
        assert_eq!(lab.curl("shop.example", "/api/v1", &[]).await.json()["service"], "api");
        assert_eq!(lab.curl("other.example", "/", &[]).await.status(), 404);
        let status = until("a status", async || {
            let ingress = lab.get("networking.k8s.io/v1", "Ingress", "shop").await;
            ingress["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned).ok_or(ingress.to_string())
        });
        assert_eq!(status.await, "192.0.2.7");
        lab.stop().await;
    });
}

#[test]
fn classes_decide_whose_an_ingress_is() {
    run(async || {
        let lab = Lab::new().await;
        let web = Backend::echo("web").await;
        lab.service("web", &[web.address]).await;
        let ingress = |name: &str, class: Option<&str>| {
            let mut ingress = json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name},
                "spec": {"rules": [{"host": format!("{name}.example"), "http": {"paths": [
                    {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"name": "http"}}}}
                ]}}]}
            });
            if let Some(class) = class {
                ingress["spec"]["ingressClassName"] = json!(class);
            }
            ingress
        };
        lab.put(ingress("foreign", Some("nobody"))).await;
        lab.put(ingress("unnamed", None)).await;
        let mut annotated = ingress("annotated", None);
        annotated["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "portolan"});
        lab.put(annotated).await;
        lab.put(ingress("ours", Some("portolan"))).await;
        lab.until("ours.example", "/", 200).await;
        lab.until("annotated.example", "/", 200).await;
        assert_eq!(lab.curl("foreign.example", "/", &[]).await.status(), 404);
        assert_eq!(lab.curl("unnamed.example", "/", &[]).await.status(), 404);
        lab.put(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": {"name": "portolan", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}
        }))
        .await;
        lab.until("unnamed.example", "/", 200).await;
        let foreign = lab.get("networking.k8s.io/v1", "Ingress", "foreign").await;
        assert!(foreign["status"]["loadBalancer"]["ingress"].is_null(), "{foreign}");
        lab.stop().await;
    });
}

/// A pod that has gone without a word, or its node: nobody answers there, neither yes nor no.
#[test]
fn an_endpoint_that_says_nothing_is_passed_over_and_not_waited_for() {
    run(async || {
        let lab = Lab::new().await;
        let web = Backend::echo("web").await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((lab::local_address(), 0).into()).unwrap();
        let silent = socket.listen(0).unwrap();
        let address = silent.local_addr().unwrap();
        // Nobody accepts: what comes when its queue is full is not answered.
        let mut queued = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            queued.push(stream.unwrap());
        }
        lab.service("web", &[web.address]).await;
        // Longer than curl waits.
        lab.ingress("web", "web.example", "web", &[("proxy-connect-timeout", "60")]).await;
        lab.until("web.example", "/", 200).await;
        lab.service("web", &[address, web.address]).await;
        for _ in 0..6 {
            assert_eq!(lab.curl("web.example", "/", &[]).await.status(), 200);
        }
        until("the silent one is tried", async || {
            lab.curl("web.example", "/", &[]).await;
            let text = lab.registry.scrape().body;
            let failures = text.lines().find(|line| line.starts_with("portolan_ingress_connect_failures_total"));
            if failures.is_some_and(|line| !line.ends_with(" 0")) { Ok(()) } else { Err(text) }
        })
        .await;
        lab.stop().await;
    });
}

#[test]
fn a_default_backend_takes_the_rest() {
    run(async || {
        let lab = Lab::new().await;
        let (web, rest) = (Backend::echo("web").await, Backend::echo("rest").await);
        lab.service("web", &[web.address]).await;
        lab.service("rest", &[rest.address]).await;
        lab.ingress_path("web", "web.example", "/only", "Exact", "web", &[]).await;
        lab.put(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "rest"},
            "spec": {"ingressClassName": "portolan", "defaultBackend": {"service": {"name": "rest", "port": {"number": 80}}}}
        }))
        .await;
        assert_eq!(lab.until("anything.example", "/x", 200).await.json()["service"], "rest");
        assert_eq!(lab.until("web.example", "/only", 200).await.json()["service"], "web");
        assert_eq!(lab.curl("web.example", "/else", &[]).await.json()["service"], "rest");
        assert_eq!(lab.curl("web.example", "/", &["-H", "Host:", "--http1.0"]).await.json()["service"], "rest");
        lab.stop().await;
    });
}

#[test]
fn missing_services_ports_and_endpoints_are_told() {
    run(async || {
        let lab = Lab::new().await;
        lab.service("empty", &[]).await;
        lab.ingress("missing", "missing.example", "nobody", &[]).await;
        lab.ingress("empty", "empty.example", "empty", &[]).await;
        lab.put(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "portless"},
            "spec": {"ingressClassName": "portolan", "rules": [{"host": "portless.example", "http": {"paths": [
                {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "empty", "port": {"name": "admin"}}}}
            ]}}]}
        }))
        .await;
        for (name, event) in
            [("missing", "Service default/nobody does not exist"), ("portless", "has no TCP port `admin`")]
        {
            lab.until(&format!("{name}.example"), "/", 503).await;
            lab.until_event(name, event).await;
        }
        lab.until("empty.example", "/", 503).await;
        let web = Backend::echo("web").await;
        lab.service("nobody", &[web.address]).await;
        lab.until("missing.example", "/", 200).await;
        lab.endpoints_in("nobody", &[web.address], json!({"ready": false, "serving": true, "terminating": true})).await;
        lab.ingress("after", "after.example", "nobody", &[]).await;
        lab.until("after.example", "/", 200).await;
        assert_eq!(
            lab.curl("missing.example", "/", &[]).await.status(),
            200,
            "terminating but serving is better than nobody"
        );
        lab.endpoints_in("nobody", &[web.address], json!({"ready": false})).await;
        lab.until("missing.example", "/", 503).await;
        lab.stop().await;
    });
}

/// A name of the cluster leads to that Service's endpoints, another to where the resolver says; numbers resolve to themselves.
#[test]
fn external_names_are_followed() {
    run(async || {
        let lab = Lab::new().await;
        let web = Backend::echo("web").await;
        lab.service("web", &[web.address]).await;
        let alias = async |name: &str, to: &str, port: u16| {
            lab.put(json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                "spec": {"type": "ExternalName", "externalName": to, "ports": [{"port": 80, "targetPort": port}]}
            }))
            .await;
            lab.ingress(name, &format!("{name}.example"), name, &[]).await;
        };
        alias("inside", "web.default.svc.cluster.local", 80).await;
        alias("twice", "inside.default.svc.cluster.local", 80).await;
        alias("outside", "10.99.0.1", web.address.port()).await;
        alias("loops", "loops.default.svc.cluster.local", 80).await;
        alias("machine", "127.0.0.1", lab.http.port()).await;
        for name in ["inside", "twice", "outside"] {
            let host = format!("{name}.example");
            assert_eq!(lab.until(&host, "/", 200).await.json()["service"], "web", "{name}");
        }
        for name in ["loops", "machine"] {
            assert_eq!(lab.curl(&format!("{name}.example"), "/", &[]).await.status(), 503, "{name}");
            lab.until_event(name, "leads to no address that may be asked").await;
        }
        // Endpoints are followed through the alias.
        let other = Backend::echo("other").await;
        lab.endpoints("web", &[other.address]).await;
        until("the other endpoint", async || {
            let said = lab.curl("twice.example", "/", &[]).await;
            if said.status() == 200 && said.json()["service"] == "other" { Ok(()) } else { Err(format!("{said:?}")) }
        })
        .await;
        lab.stop().await;
    });
}

#[test]
fn clashes_are_decided_by_age_and_told() {
    run(async || {
        let lab = Lab::new().await;
        let (old, new) = (Backend::echo("old").await, Backend::echo("new").await);
        lab.service("old", &[old.address]).await;
        lab.service("new", &[new.address]).await;
        lab.ingress("b-old", "x.example", "old", &[]).await;
        lab.until("x.example", "/", 200).await;
        // Another second: times of creation have no finer grain.
        let created =
            lab.get("networking.k8s.io/v1", "Ingress", "b-old").await["metadata"]["creationTimestamp"].clone();
        until("another second", async || {
            lab.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "clock"}})).await;
            let now = lab.get("v1", "ConfigMap", "clock").await["metadata"]["creationTimestamp"].clone();
            lab.delete("v1", "ConfigMap", "clock").await;
            if now == created { Err("the same".into()) } else { Ok(()) }
        })
        .await;
        lab.ingress("a-new", "x.example", "new", &[]).await;
        lab.until_event("a-new", "belongs to Ingress default/b-old, which is older").await;
        assert_eq!(lab.curl("x.example", "/", &[]).await.json()["service"], "old");
        lab.delete("networking.k8s.io/v1", "Ingress", "b-old").await;
        until("the other", async || {
            let said = lab.curl("x.example", "/", &[]).await;
            if said.status() == 200 && said.json()["service"] == "new" { Ok(()) } else { Err(format!("{said:?}")) }
        })
        .await;
        lab.stop().await;
    });
}

#[test]
fn names_on_the_machine_lead_to_services() {
    run(async || {
        let lab = Lab::new().await;
        let web = Backend::echo("web").await;
        lab.service("web", &[web.address]).await;
        until("the name", async || {
            let said = lab.curl_to(lab.names, "http", "web.default.localhost", "/x", &[]).await;
            if said.status() == 200 && said.json()["uri"] == "/x" { Ok(()) } else { Err(format!("{said:?}")) }
        })
        .await;
        let said = lab.curl_to(lab.names, "http", "other.default.localhost", "/", &[]).await;
        assert_eq!(said.status(), 404);
        assert!(said.body().contains("<service>.<namespace>.localhost"), "{said:?}");
        assert_eq!(lab.curl_to(lab.names, "http", "evil.example", "/", &[]).await.status(), 404);
        lab.delete("v1", "Service", "web").await;
        until("no name", async || {
            let said = lab.curl_to(lab.names, "http", "web.default.localhost", "/", &[]).await;
            if said.status() == 404 { Ok(()) } else { Err(format!("{said:?}")) }
        })
        .await;
        lab.stop().await;
    });
}

#[test]
fn bodies_stream_both_ways_and_http2_is_spoken_on_both_sides() {
    run(async || {
        let lab = Lab::new().await;
        let echo = Backend::serve(|request: http::Request<hyper::body::Incoming>| async move {
            Response::new(request.into_body())
        })
        .await;
        lab.service("plain", &[echo.address]).await;
        lab.service_with("h2c", &[echo.address], json!({"appProtocol": "kubernetes.io/h2c"})).await;
        lab.ingress("plain", "plain.example", "plain", &[]).await;
        lab.ingress("h2c", "h2c.example", "h2c", &[]).await;
        let big = lab.folder.path().join("big");
        std::fs::write(&big, vec![b'x'; 5_000_000]).unwrap();
        let file = format!("@{}", big.display());
        for host in ["plain.example", "h2c.example"] {
            lab.until(host, "/", 200).await;
            for flag in ["--http1.1", "--http2-prior-knowledge"] {
                let said = lab.curl(host, "/", &[flag, "--data-binary", &file, "-H", "Expect:"]).await;
                assert_eq!((said.status(), said.body().len()), (200, 5_000_000), "{host} {flag} {}", said.error);
                let said = lab.curl(host, "/", &[flag, "--data-binary", &file, "-H", "Expect: 100-continue"]).await;
                assert_eq!(said.status(), 200, "{host} {flag}");
                let chunked = ["-H", "Transfer-Encoding: chunked", flag, "--data-binary", &file];
                let said = lab.curl(host, "/", &chunked).await;
                assert_eq!((said.status(), said.text.len() > 5_000_000), (200, true), "{host} {flag} {}", said.error);
            }
        }
        // The answer begins while the request has not ended.
        let mut stream = TcpStream::connect(lab.http).await.unwrap();
        stream
            .write_all(b"POST / HTTP/1.1\r\nHost: plain.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            .await
            .unwrap();
        read_until(&mut stream, "abc").await;
        stream.write_all(b"3\r\ndef\r\n0\r\n\r\n").await.unwrap();
        read_until(&mut stream, "def").await;
        lab.stop().await;
    });
}

/// Reads until the text has come.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = timeout(Duration::from_secs(30), stream.read(&mut buffer)).await.unwrap().unwrap();
        all.extend_from_slice(&buffer[..read]);
        let so_far = String::from_utf8_lossy(&all).into_owned();
        if so_far.contains(text) {
            return so_far;
        }
        assert!(read > 0, "ended without `{text}`: {so_far}");
    }
}

#[test]
fn trailers_pass_as_grpc_needs_them() {
    run(async || {
        let lab = Lab::new().await;
        let grpc = Backend::serve(|request: http::Request<hyper::body::Incoming>| async move {
            assert_eq!(request.version(), http::Version::HTTP_2);
            assert_eq!(request.headers()["te"], "trailers");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let trailers = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
            let mut response = Response::new(Full::new(body).with_trailers(async move { Some(Ok(trailers)) }));
            response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            response
        })
        .await;
        lab.service("grpc", &[grpc.address]).await;
        lab.ingress("grpc", "grpc.example", "grpc", &[("backend-protocol", "GRPC")]).await;
        lab.secret("tls", &["grpc.example"]).await;
        until("trailers", async || {
            let stream = TcpStream::connect(lab.http).await.map_err(|e| e.to_string())?;
            let io = hyper_util::rt::TokioIo::new(stream);
            let executor = hyper_util::rt::TokioExecutor::new();
            let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
            tokio::spawn(connection);
            let request = http::Request::post("http://grpc.example/pkg.Service/Method").header("te", "trailers");
            let request = request
                .header("content-type", "application/grpc")
                .body(Full::new(Bytes::from_static(b"\0\0\0\0\x01x")));
            let response = sender.send_request(request.unwrap()).await.map_err(|e| e.to_string())?;
            if response.status() != 200 {
                return Err(response.status().to_string());
            }
            let collected = response.into_body().collect().await.map_err(|e| e.to_string())?;
            assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
            assert_eq!(&collected.to_bytes()[..], b"\0\0\0\0\x01x");
            Ok(())
        })
        .await;
        lab.stop().await;
    });
}

#[test]
fn websockets_pass_through() {
    run(async || {
        let lab = Lab::new().await;
        let listener = TcpListener::bind((lab::local_address(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    use futures::{SinkExt, StreamExt};
                    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                    while let Some(Ok(message)) = socket.next().await {
                        if message.is_text() {
                            socket.send(message).await.unwrap();
                        }
                    }
                });
            }
        });
        lab.service("ws", &[address]).await;
        lab.ingress("ws", "ws.example", "ws", &[]).await;
        let mut socket = until("an upgrade", async || {
            let stream = TcpStream::connect(lab.http).await.map_err(|e| e.to_string())?;
            let upgraded = tokio_tungstenite::client_async("ws://ws.example/chat", stream).await;
            upgraded.map(|(socket, _)| socket).map_err(|e| e.to_string())
        })
        .await;
        use futures::{SinkExt, StreamExt};
        for text in ["hello", "again"] {
            socket.send(tokio_tungstenite::tungstenite::Message::text(text)).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap().to_text().unwrap(), text);
        }
        // A change of routes leaves it alone.
        lab.ingress("other", "other.example", "ws", &[]).await;
        lab.delete("networking.k8s.io/v1", "Ingress", "ws").await;
        lab.until("ws.example", "/", 404).await;
        socket.send(tokio_tungstenite::tungstenite::Message::text("still")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().to_text().unwrap(), "still");
        socket.close(None).await.unwrap();
        lab.stop().await;
    });
}

#[test]
fn no_request_fails_while_endpoints_come_and_go() {
    run(async || {
        let lab = Arc::new(Lab::new().await);
        let mut backends = vec![Backend::echo("web").await, Backend::echo("web").await];
        let addresses = |backends: &[Backend]| backends.iter().map(|b| b.address).collect::<Vec<_>>();
        lab.service("web", &addresses(&backends)).await;
        lab.ingress("web", "web.example", "web", &[]).await;
        lab.until("web.example", "/", 200).await;
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients: Vec<_> = (0..8)
            .map(|number| {
                let (stop, asked, http) = (Arc::clone(&stop), Arc::clone(&asked), lab.http);
                tokio::spawn(async move {
                    let mut sender = connect(http).await;
                    while !stop.load(Ordering::SeqCst) {
                        // Some keep their connection, some make a new one each time.
                        if number % 4 == 0 {
                            sender = connect(http).await;
                        }
                        let request = http::Request::get("/").header("host", "web.example");
                        let response =
                            sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
                        assert_eq!(response.status(), 200, "after {}", asked.load(Ordering::SeqCst));
                        response.into_body().collect().await.unwrap();
                        asked.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for round in 0..10 {
            let before = asked.load(Ordering::SeqCst);
            backends.push(Backend::echo("web").await);
            lab.endpoints("web", &addresses(&backends)).await;
            // The oldest leaves the slices, answers what it was sent, and ends.
            let old = backends.remove(0);
            lab.endpoints("web", &addresses(&backends)).await;
            lab.ingress("more", &format!("more{round}.example"), "web", &[]).await;
            until("more requests", async || {
                let quiet = old.asked();
                tokio::time::sleep(Duration::from_millis(50)).await;
                let more = asked.load(Ordering::SeqCst) > before + 50;
                if more && old.asked() == quiet { Ok(()) } else { Err("fewer".into()) }
            })
            .await;
            drop(old);
        }
        stop.store(true, Ordering::SeqCst);
        for client in clients {
            client.await.unwrap();
        }
        Arc::into_inner(lab).unwrap().stop().await;
    });
}

async fn connect(to: std::net::SocketAddr) -> hyper::client::conn::http1::SendRequest<Full<Bytes>> {
    let io = hyper_util::rt::TokioIo::new(TcpStream::connect(to).await.unwrap());
    let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[test]
fn a_dead_endpoint_costs_no_request_and_a_kept_connection_that_ended_costs_none() {
    run(async || {
        let lab = Lab::new().await;
        // A port that nobody listens on.
        let dead = TcpListener::bind((lab::local_address(), 0)).await.unwrap().local_addr().unwrap();
        let alive = Backend::echo("alive").await;
        lab.service("web", &[dead, alive.address]).await;
        lab.ingress("web", "web.example", "web", &[]).await;
        lab.until("web.example", "/", 200).await;
        for _ in 0..20 {
            assert_eq!(lab.curl("web.example", "/", &["-d", "x"]).await.status(), 200);
        }
        lab.endpoints("web", &[dead]).await;
        lab.until("web.example", "/", 502).await;

        // A backend that closes each connection after one answer without saying so.
        let listener = TcpListener::bind((lab::local_address(), 0)).await.unwrap();
        let closing = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    read_until(&mut stream, "\r\n\r\n").await;
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                });
            }
        });
        lab.endpoints("web", &[closing]).await;
        lab.until("web.example", "/", 200).await;
        for _ in 0..50 {
            assert_eq!(lab.curl("web.example", "/", &[]).await.status(), 200);
        }
        lab.stop().await;
    });
}

#[test]
fn requests_are_logged_and_counted() {
    run(async || {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("access.log");
        let path = file.clone();
        let lab = Lab::with(move |config| config.access_log = Some(path)).await;
        let web = Backend::echo("web").await;
        lab.service("web", &[web.address]).await;
        lab.ingress("web", "web.example", "web", &[]).await;
        lab.until("web.example", "/", 200).await;
        lab.curl("web.example", "/seen?x=1", &["-A", "a \"quoted\" agent"]).await;
        let line = until("a line", async || {
            let text = std::fs::read_to_string(&file).unwrap();
            text.lines().find(|line| line.contains("/seen")).map(str::to_owned).ok_or(text)
        })
        .await;
        assert!(line.starts_with("127.0.0.1 - - [") && line.contains("HTTP/1.1\" 200 "), "{line}");
        assert!(line.contains("\\\"quoted\\\"") && line.contains("ingress=default/web"), "{line}");
        assert!(line.contains(&format!("endpoint={}", web.address)), "{line}");
        let metrics = lab.registry.scrape().body;
        let counted = "portolan_ingress_requests_total{namespace=\"default\",ingress=\"web\",status=\"2xx\"} ";
        let count = metrics.lines().find_map(|line| line.strip_prefix(counted)).unwrap_or_else(|| panic!("{metrics}"));
        assert!(count.parse::<u64>().unwrap() >= 2);
        assert!(metrics.contains("portolan_ingress_request_duration_seconds_bucket{"), "{metrics}");
        lab.stop().await;
    });
}

#[test]
fn a_request_that_is_on_its_way_outlives_the_end() {
    run(async || {
        let lab = Lab::new().await;
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let held = Arc::clone(&gate);
        let slow = Backend::serve(move |request: http::Request<hyper::body::Incoming>| {
            let held = Arc::clone(&held);
            async move {
                if request.uri().path() == "/slow" {
                    drop(held.acquire().await.unwrap());
                }
                Response::new(Full::new(Bytes::from_static(b"done")))
            }
        })
        .await;
        lab.service("slow", &[slow.address]).await;
        lab.ingress("slow", "slow.example", "slow", &[]).await;
        lab.until("slow.example", "/", 200).await;
        let before = slow.asked();
        let mut stream = TcpStream::connect(lab.http).await.unwrap();
        stream.write_all(b"GET /slow HTTP/1.1\r\nHost: slow.example\r\n\r\n").await.unwrap();
        until("asked", async || if slow.asked() > before { Ok(()) } else { Err("not yet".into()) }).await;
        lab.shutdown.cancel();
        until("no new connections", async || match TcpStream::connect(lab.http).await {
            Ok(_) => Err("still accepted".into()),
            Err(_) => Ok(()),
        })
        .await;
        gate.add_permits(1);
        let said = read_until(&mut stream, "done").await;
        assert!(said.contains("connection: close"), "{said}");
        lab.stop().await;
    });
}
