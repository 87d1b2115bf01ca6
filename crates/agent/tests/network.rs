//! Addresses and ports of pods: families, the node's ports, forwarded ports.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use futures::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::json;
use support::{Lab, NODE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::tungstenite::Message;
use tower::ServiceExt;

/// What a web server at `address` answers to a client in the node's network; the last line of it.
fn answer(lab: &Lab, address: SocketAddr) -> Option<String> {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text.lines().last()?.to_owned())
    };
    lab.netns.run(ask).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_has_an_address_of_each_family() {
    let lab = Lab::with_pods_in(&["10.244.9.0/24", "fd00:9::/64"]).await;
    lab.pod("p", &["serve", "80"], json!({})).await;
    let pod = lab.ready("p").await;
    let status = pod.status.clone().unwrap();
    let ips: Vec<IpAddr> = status.pod_ips.unwrap().iter().map(|ip| ip.ip.parse().unwrap()).collect();
    assert!(ips.len() == 2 && ips[0].is_ipv4() && ips[1].is_ipv6(), "{ips:?}");
    assert_eq!(status.pod_ip.unwrap().parse::<IpAddr>().unwrap(), ips[0]);
    for ip in &ips {
        eventually(&format!("{ip} answers"), async || answer(&lab, SocketAddr::new(*ip, 80))).await;
    }
    let (hosts, _) = lab.exec(&pod, &["cat", "/etc/hosts"]).await;
    assert!(hosts.contains(&format!("{}\tp\n{}\tp\n", ips[0], ips[1])), "{hosts}");
    lab.delete("p").await;
    lab.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn host_ports_lead_to_their_pod_and_have_one_owner() {
    let lab = Lab::new().await;
    let links = netlink::links::Links::open(&lab.netns).unwrap();
    let loopback = links.link("lo").await.unwrap().index;
    links.add_address(loopback, "192.0.2.7/32".parse().unwrap()).await.unwrap();
    let spec = |port: u16, ip: &str| json!({"containers": [{"ports": [{"containerPort": 80, "hostPort": port, "hostIP": ip, "protocol": "TCP"}]}]});
    lab.pod("all", &["serve", "80"], spec(8080, "")).await;
    lab.pod("local", &["serve", "80"], spec(8081, "127.0.0.1")).await;
    for name in ["all", "local"] {
        lab.ready(name).await;
    }
    let ask = |ip: &str, port: u16| answer(&lab, SocketAddr::new(ip.parse().unwrap(), port));
    eventually("the node's address answers", async || ask("192.0.2.7", 8080).filter(|a| a == "all")).await;
    assert_eq!(ask("127.0.0.1", 8080).as_deref(), Some("all"));
    assert_eq!(ask("127.0.0.1", 8081).as_deref(), Some("local"));
    assert_eq!(ask("192.0.2.7", 8081), None, "the port was asked for on another address");
    lab.pod("late", &["serve", "80"], spec(8080, "127.0.0.1")).await;
    let refused = lab.phase("late", "Failed").await.status.unwrap();
    assert_eq!(refused.reason.as_deref(), Some("NodePorts"));
    lab.delete("all").await;
    assert_eq!(ask("127.0.0.1", 8080), None, "the port went with its pod");
    assert_eq!(ask("127.0.0.1", 8081).as_deref(), Some("local"));
    for name in ["local", "late"] {
        lab.delete(name).await;
    }
    lab.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_gone_holds_no_host_port() {
    let lab = Lab::new().await;
    let spec = json!({"containers": [{"ports": [{"containerPort": 80, "hostPort": 8080}]}]});
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    for n in 0..5 {
        let name = format!("p{n}");
        lab.pod(&name, &["serve", "80"], spec.clone()).await;
        lab.ready(&name).await;
        // The API forgets it before the node has ended it.
        lab.api::<Pod>().delete(&name, &at_once).await.unwrap();
    }
    lab.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_udp_client_follows_a_host_port_from_pod_to_pod() {
    let lab = Lab::new().await;
    let port = json!({"containerPort": 53, "hostPort": 5353, "protocol": "UDP"});
    let spec = json!({"containers": [{"ports": [port]}]});
    // One socket all the time: its packets are one flow to the kernel, which remembers where it went.
    let client = lab.netns.run(|| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let ask = || {
        client.send_to(b"who?", "127.0.0.1:5353").ok()?;
        let mut answer = [0; 64];
        let length = client.recv(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer[..length]).trim().to_owned())
    };
    assert_eq!(ask(), None);
    for name in ["one", "two"] {
        lab.pod(name, &["udp", "53"], spec.clone()).await;
        lab.ready(name).await;
        eventually(&format!("{name} answers"), async || ask().filter(|answer| answer == name)).await;
        lab.delete(name).await;
    }
    lab.nothing_is_left().await;
}

/// A connection to the node's kubelet API.
fn connect(lab: &Lab) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let api = lab.agent.kubelet_api();
    tokio::spawn(async move {
        let http = hyper::server::conn::http1::Builder::new();
        http.serve_connection(TokioIo::new(theirs), TowerToHyperService::new(api)).with_upgrades().await.unwrap();
    });
    ours
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded_by_channels() {
    let lab = Lab::new().await;
    lab.pod("p", &["serve", "8080"], json!({})).await;
    let pod = lab.ready("p").await;
    let ip: IpAddr = pod.status.unwrap().pod_ip.unwrap().parse().unwrap();
    eventually("it serves", async || answer(&lab, SocketAddr::new(ip, 8080))).await;
    let request = Request::get("ws://node/portForward/default/p?ports=8080&ports=1")
        .header("host", "node")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "v4.channel.k8s.io")
        .body(())
        .unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, connect(&lab)).await.unwrap();
    let mut channels: Vec<Vec<u8>> = vec![Vec::new(); 4];
    socket.send(Message::Binary(b"\x00GET / HTTP/1.1\r\n\r\n".to_vec().into())).await.unwrap();
    while channels[0].windows(5).all(|w| w != b"\r\n\r\np") || channels[3].len() < 3 {
        let message = socket.next().await.unwrap().unwrap().into_data();
        channels[usize::from(message[0])].extend_from_slice(&message[1..]);
    }
    // Each channel begins with the number of its port.
    for (channel, port) in [(0, 8080u16), (1, 8080), (2, 1), (3, 1)] {
        assert_eq!(channels[channel][..2], port.to_le_bytes(), "{channel}");
    }
    assert_eq!(channels[1].len(), 2);
    let failure = String::from_utf8_lossy(&channels[3][2..]).into_owned();
    assert!(failure.contains("dial tcp 127.0.0.1:1: connect: connection refused"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_wrongly_for_a_port_is_told() {
    let lab = Lab::new().await;
    let ask = async |uri: &str, headers: &[(&str, &str)]| {
        let mut request = Request::post(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = lab.agent.kubelet_api().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        response.status().as_u16()
    };
    assert_eq!(ask("/portForward/default/none", &[]).await, 404);
    lab.pod("p", &["stubborn"], json!({})).await;
    lab.ready("p").await;
    assert_eq!(ask("/portForward/default/p", &[]).await, 400);
    let other = [("connection", "upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "other")];
    assert_eq!(ask("/portForward/default/p", &other).await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn spdy_without_a_websocket_is_spoken_too() {
    let lab = Lab::new().await;
    lab.pod("p", &["stubborn"], json!({})).await;
    lab.ready("p").await;
    let mut socket = connect(&lab);
    let request = "POST /portForward/default/p HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
        X-Stream-Protocol-Version: portforward.k8s.io\r\nContent-Length: 0\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("upgrade: spdy/3.1"), "{head}");
    // A ping comes back.
    let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
    socket.write_all(&ping).await.unwrap();
    let mut back = [0; 12];
    socket.read_exact(&mut back).await.unwrap();
    assert_eq!(back, ping);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_the_hosts_network_has_the_nodes_address_and_names() {
    let lab = Lab::new().await;
    let spec = json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet",
        "hostAliases": [{"ip": "192.0.2.99", "hostnames": ["far"]}]});
    lab.pod("p", &["stubborn"], spec).await;
    let pod: Pod = lab.ready("p").await;
    assert_eq!(pod.status.as_ref().unwrap().pod_ip.as_deref(), Some("192.0.2.7"));
    let (text, _) = lab.exec(&pod, &["cat", "/etc/resolv.conf", "/etc/hosts", "/etc/hostname"]).await;
    assert!(text.contains("nameserver 10.96.0.10"), "{text}");
    assert!(
        text.contains("# Kubernetes-managed hosts file (host network).") && text.contains("192.0.2.99\tfar"),
        "{text}"
    );
    assert!(text.ends_with(&format!("{NODE}\n")), "{text}");
    lab.delete("p").await;
    lab.nothing_is_left().await;
}
