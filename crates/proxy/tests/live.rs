//! Real packets through a real kernel, with the whole proxy running against an API.
#![allow(clippy::unwrap_used)]

mod lab;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::{Lab, Met, NODE, OUTSIDE, ask, ask_udp, count, names, open, pod_address, tcp, tcp_within, udp_socket};
use netlink::links::Links;
use proxy::{NodePortAddresses, PodInterface};
use serde_json::json;
use socket2::{Domain, SockRef, Socket, Type};

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_ip_and_a_node_port_reach_the_pods() {
    let mut lab = Lab::new().await;
    lab.service("web", json!({"type": "NodePort", "clusterIP": "10.96.0.10", "np": 30080}), &[2, 3]);
    lab.service("empty", json!({"clusterIP": "10.96.0.11", "np": null}), &[]);
    lab.start().await;
    lab.until("the Services", |table| count(table, "frontends4") == 4 && count(table, "refused4") == 2).await;
    let (p1, node, outside) = (&lab.pods[0], &lab.node, &lab.outside);

    assert_eq!(names(30, || tcp(p1, "10.96.0.10:80")), set(["p2", "p3"]));
    assert_eq!(names(30, || tcp(node, "10.96.0.10:80")), set(["p2", "p3"]));
    assert_eq!(names(30, || ask_udp(&udp_socket(p1, "10.96.0.10:80"))), set(["p2", "p3"]));
    assert_eq!(names(30, || tcp(outside, "192.0.2.11:30080")), set(["p2", "p3"]));
    assert_eq!(names(30, || ask_udp(&udp_socket(outside, "192.0.2.11:30080"))), set(["p2", "p3"]));
    // A pod's address is kept, an outside one is not.
    assert!(matches!(tcp(p1, "10.96.0.10:80"), Met::Answer(_, peer) if peer == pod_address(1)));
    assert!(matches!(tcp(outside, "192.0.2.11:30080"), Met::Answer(_, peer) if peer != address(OUTSIDE)));
    assert!(matches!(tcp(outside, "10.96.0.10:80"), Met::Answer(_, peer) if peer != address(OUTSIDE)));
    // No endpoint, an unused port, no Service.
    assert_eq!(tcp(p1, "10.96.0.11:80"), Met::Refused);
    assert_eq!(ask_udp(&udp_socket(p1, "10.96.0.11:80")), Met::Refused);
    assert_eq!(tcp(p1, "10.96.0.10:81"), Met::Refused);
    assert_eq!(tcp_within(p1, "10.96.0.99:80", Duration::from_millis(300)), Met::Nothing);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_known_by_their_interfaces() {
    for pods_by in [PodInterface::Prefixed("pod".into()), PodInterface::Named("pod1".into())] {
        let mut lab = Lab::new().await;
        lab.pods_by = Some(pods_by);
        lab.service(
            "web",
            json!({"type": "NodePort", "clusterIP": "10.96.0.10", "np": 30080, "externalTrafficPolicy": "Local"}),
            &[2],
        );
        lab.start().await;
        lab.until("the Service", |table| count(table, "inside-frontends4") == 2).await;
        assert_eq!(tcp(&lab.pods[0], "10.96.0.10:80"), Met::Answer("p2".into(), pod_address(1)));
        assert_eq!(tcp(&lab.pods[0], "192.0.2.11:30080"), Met::Answer("p2".into(), pod_address(1)));
        assert!(matches!(tcp(&lab.outside, "10.96.0.10:80"), Met::Answer(_, peer) if peer != address(OUTSIDE)));
        assert_eq!(tcp(&lab.outside, "192.0.2.11:30080"), Met::Answer("p2".into(), address(OUTSIDE)));
        // What the node sends comes in nowhere, and has the node's address anyway.
        assert_eq!(tcp(&lab.node, "10.96.0.10:80").name(), "p2");
        // p3 is behind an interface of another name.
        let kept = matches!(tcp(&lab.pods[2], "10.96.0.10:80"), Met::Answer(_, peer) if peer == pod_address(3));
        assert_eq!(kept, lab.pods_by == Some(PodInterface::Prefixed("pod".into())));
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_reaches_itself() {
    let mut lab = Lab::new().await;
    lab.service("self", json!({"clusterIP": "10.96.0.10", "np": null}), &[1]);
    lab.start().await;
    lab.until("the Service", |table| count(table, "hairpin4") == 1).await;
    let met = tcp(&lab.pods[0], "10.96.0.10:80");
    assert!(matches!(&met, Met::Answer(name, peer) if name == "p1" && *peer != pod_address(1)), "{met:?}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_connections_stay_while_endpoints_change() {
    let mut lab = Lab::new().await;
    lab.service("web", json!({"clusterIP": "10.96.0.10", "np": null}), &[2]);
    lab.start().await;
    lab.until("the Service", |table| count(table, "endpoints4") == 2).await;
    let mut held = open(&lab.pods[0], "10.96.0.10:80").unwrap();
    assert_eq!(ask(&mut held).name(), "p2");
    lab.slice("web", &[2, 3]);
    lab.until("p3", |table| count(table, "endpoints4") == 4).await;
    assert_eq!(ask(&mut held).name(), "p2");
    assert_eq!(names(30, || tcp(&lab.pods[0], "10.96.0.10:80")), set(["p2", "p3"]));
    lab.slice("web", &[3]);
    lab.until("p2 gone", |table| count(table, "endpoints4") == 2 && count(table, "hairpin4") == 1).await;
    assert_eq!(ask(&mut held).name(), "p2");
    assert_eq!(names(10, || tcp(&lab.pods[0], "10.96.0.10:80")), set(["p3"]));
    // A restart with nothing changed writes nothing, and flows go on.
    let before = lab.generation();
    lab.stop().await;
    lab.start().await;
    lab.slice("other", &[]);
    lab.service("other", json!({"clusterIP": "10.96.0.20", "np": null}), &[1]);
    lab.until("a new Service after the restart", |table| count(table, "endpoints4") == 4).await;
    assert!(lab.generation() - before <= 2, "one transaction for each change of `other` at most");
    assert_eq!(ask(&mut held).name(), "p2");
    // Open connections outlive even the Service; new ones are not answered.
    lab.api.delete("Service", "web");
    lab.until("the Service gone", |table| count(table, "cluster-ips4") == 1).await;
    assert_eq!(ask(&mut held).name(), "p2");
    assert_eq!(tcp_within(&lab.pods[0], "10.96.0.10:80", Duration::from_millis(300)), Met::Nothing);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn affinity_is_shared_by_cluster_ip_and_node_port_and_ends_with_its_endpoint() {
    let mut lab = Lab::new().await;
    let spec = json!({"type": "NodePort", "clusterIP": "10.96.0.10", "np": 30080, "sessionAffinity": "ClientIP"});
    lab.service("web", spec, &[1, 2, 3]);
    lab.start().await;
    lab.until("the Service", |table| count(table, "sticky-choices4") == 6).await;
    let outside = lab.outside.clone();
    let by_vip = names(20, || tcp(&outside, "10.96.0.10:80"));
    assert_eq!(by_vip.len(), 1);
    assert_eq!(names(20, || tcp(&outside, &format!("{NODE}:30080"))), by_vip);
    // A restart keeps it.
    lab.stop().await;
    lab.start().await;
    assert_eq!(names(20, || tcp(&outside, "10.96.0.10:80")), by_vip);
    let gone: usize = by_vip.first().unwrap()[1..].parse().unwrap();
    let rest: Vec<usize> = (1..=3).filter(|n| *n != gone).collect();
    lab.slice("web", &rest);
    lab.until("the endpoint gone", |table| count(table, "sticky-choices4") == 4).await;
    let next = names(20, || tcp(&outside, "10.96.0.10:80"));
    assert!(next.len() == 1 && next != by_vip, "{next:?}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_edit_is_repaired_and_told() {
    let mut lab = Lab::new().await;
    lab.service("web", json!({"clusterIP": "10.96.0.10", "np": null}), &[2]);
    lab.start().await;
    lab.until("the Service", |table| count(table, "endpoints4") == 2).await;
    let mut vandal = netlink::NfTables::open(&lab.node).unwrap();
    let mut batch = nft::Batch::new();
    batch.push(nft::Op::DeleteTable { table: proxy::table_id(), must_exist: true });
    vandal.commit(&batch).unwrap();
    lab.until("the repair", |table| count(table, "endpoints4") == 2).await;
    assert_eq!(tcp(&lab.pods[0], "10.96.0.10:80").name(), "p2");
    let told = || lab.api.event_reasons().contains(&"TableRepaired".to_owned());
    for _ in 0..1000 {
        if told() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(told());
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_flows_leave_an_endpoint_with_it() {
    let mut lab = Lab::new().await;
    let spec = || json!({"type": "NodePort", "clusterIP": "10.96.0.10", "np": 30080});
    lab.service("web", spec(), &[2]);
    lab.start().await;
    lab.until("the Service", |table| count(table, "endpoints4") == 4).await;
    let (inside, outside) = (udp_socket(&lab.pods[0], "10.96.0.10:80"), udp_socket(&lab.outside, "192.0.2.11:30080"));
    assert_eq!((ask_udp(&inside).name(), ask_udp(&outside).name()), ("p2", "p2"));
    // One joins: flows stay. The old one leaves: they move.
    lab.slice("web", &[2, 3]);
    lab.until("p3", |table| count(table, "endpoints4") == 8).await;
    assert_eq!((ask_udp(&inside).name(), ask_udp(&outside).name()), ("p2", "p2"));
    lab.slice("web", &[3]);
    lab.until("p2 gone", |table| count(table, "endpoints4") == 4).await;
    until(|| ask_udp(&inside).name() == "p3" && ask_udp(&outside).name() == "p3").await;
    // It leaves while the proxy is down.
    lab.stop().await;
    lab.slice("web", &[1]);
    assert_eq!(ask_udp(&outside).name(), "p3");
    lab.start().await;
    until(|| ask_udp(&outside).name() == "p1").await;
    // The last one leaves: refused, although its pod still lives.
    lab.slice("web", &[]);
    until(|| ask_udp(&outside) == Met::Refused).await;
    lab.slice("web", &[2]);
    until(|| ask_udp(&outside).name() == "p2").await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_by_the_port_of_a_reset_connection_is_sent_anew() {
    let mut lab = Lab::new().await;
    lab.service("web", json!({"clusterIP": "10.96.0.10", "np": null}), &[]);
    let slice = |lab: &Lab, pod: usize| {
        let endpoints = json!([{"addresses": [pod_address(pod)]}]);
        lab.api.put(&json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
            "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}}, "ports": [{"name": "t", "port": 9009}]}))
    };
    let listen = |pod: usize| lab.pods[pod - 1].run(|| TcpListener::bind("0.0.0.0:9009").unwrap()).unwrap();
    let (old, new) = (listen(2), listen(3));
    // The same port each time, from the pod's own address.
    let (lab_pod, from) = (lab.pods[0].clone(), pod_address(1));
    let connect = || {
        let connect = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.bind(&SocketAddr::new(from, 40_000).into()).unwrap();
            socket
                .connect_timeout(&"10.96.0.10:80".parse::<SocketAddr>().unwrap().into(), Duration::from_secs(5))
                .unwrap();
            TcpStream::from(socket)
        };
        lab_pod.run(connect).unwrap()
    };
    let revision = slice(&lab, 2);
    lab.start().await;
    lab.until_applied(revision).await;
    for pod in [3, 2].repeat(5) {
        let (leaves, comes) = if pod == 3 { (&old, &new) } else { (&new, &old) };
        let mut client = connect();
        // An endpoint that ends a connection with nothing lingering resets it.
        let served = leaves.accept().unwrap().0;
        SockRef::from(&served).set_linger(Some(Duration::ZERO)).unwrap();
        drop(served);
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        drop(client);
        let revision = slice(&lab, pod);
        lab.until_applied(revision).await;
        leaves.set_nonblocking(true).unwrap();
        let again = connect();
        assert_eq!(leaves.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "to the endpoint that has left");
        leaves.set_nonblocking(false).unwrap();
        SockRef::from(&again).set_linger(Some(Duration::ZERO)).unwrap();
        drop((comes.accept().unwrap(), again));
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_is_lost_while_endpoints_come_and_go() {
    let mut lab = Lab::new().await;
    // p1 is always there; p2 and p3 come and go, so that numbers move.
    lab.service("web", json!({"clusterIP": "10.96.0.10", "np": null}), &[1, 2, 3]);
    lab.start().await;
    lab.until("the Service", |table| count(table, "endpoints4") == 6).await;
    let (node, done) = (lab.node.clone(), Arc::new(AtomicBool::new(false)));
    let ended = done.clone();
    let client = std::thread::spawn(move || {
        let mut met = Vec::new();
        while !ended.load(Ordering::Relaxed) {
            met.push(tcp(&node, "10.96.0.10:80").name().to_owned());
        }
        met
    });
    for round in 0..150 {
        lab.slice("web", [&[1, 2, 3][..], &[1, 3], &[1], &[2, 1], &[3, 1]][round % 5]);
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    lab.slice("web", &[1]);
    lab.until("the last change", |table| count(table, "endpoints4") == 2).await;
    let last = names(20, || tcp(&lab.node, "10.96.0.10:80"));
    done.store(true, Ordering::Relaxed);
    let met = client.join().unwrap();
    assert!(met.iter().all(|name| name.starts_with('p')), "{met:?}");
    assert_eq!(last, set(["p1"]));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_packet_to_a_service_without_endpoints_is_refused() {
    let mut lab = Lab::new().await;
    lab.service("empty", json!({"clusterIP": "10.96.0.11", "np": null}), &[]);
    lab.start().await;
    lab.until("the Service", |table| count(table, "refused4") == 2).await;
    let pod = &lab.pods[0];
    // The first answer counts: a refusal that sometimes does not come would be asked for again elsewhere, and not be seen.
    for _ in 0..300 {
        let socket = udp_socket(pod, "10.96.0.11:80");
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let error = socket.send(b"?").and_then(|_| socket.recv(&mut [0; 8])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    }
    assert_eq!(names(300, || tcp(pod, "10.96.0.11:80")), set(["refused"]));
    lab.stop().await;
}

/// The sum of squares has two degrees of freedom: above 27.6 once in a million runs, if each endpoint is as likely as the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_are_equally_likely() {
    let mut lab = Lab::new().await;
    lab.service("web", json!({"clusterIP": "10.96.0.10", "np": null}), &[1, 2]);
    lab.start().await;
    let revision = lab.slice("web", &[2, 3, 1]);
    lab.until_applied(revision).await;
    lab.until("the Service", |table| count(table, "endpoints4") == 6).await;
    let mut met = std::collections::BTreeMap::new();
    const CONNECTIONS: u32 = 3000;
    for _ in 0..CONNECTIONS {
        *met.entry(tcp(&lab.outside, "10.96.0.10:80").name().to_owned()).or_insert(0u32) += 1;
    }
    let expected = f64::from(CONNECTIONS) / 3.0;
    let squares: f64 = met.values().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
    assert!(met.keys().cloned().collect::<BTreeSet<_>>() == set(["p1", "p2", "p3"]) && squares < 27.6, "{met:?}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_ports_answer_on_chosen_addresses_as_they_come_and_go() {
    let mut lab = Lab::new().await;
    let ranges = ["192.0.2.0/24", "198.51.100.0/24"].map(|range| range.parse().unwrap());
    lab.node_port_addresses = NodePortAddresses::Ranges(ranges.into());
    lab.service("web", json!({"type": "NodePort", "clusterIP": "10.96.0.10", "np": 30080}), &[2]);
    lab.start().await;
    lab.until("the Service", |table| count(table, "frontends4") == 4).await;
    assert_eq!(tcp(&lab.outside, "192.0.2.11:30080").name(), "p2");
    // An address outside of the ranges is the node's own, where nobody listens.
    assert_eq!(tcp(&lab.outside, "10.244.1.1:30080"), Met::Refused);
    let links = Links::open(&lab.node).unwrap();
    let uplink = links.link("uplink").await.unwrap().index;
    links.add_address(uplink, "198.51.100.7/32".parse().unwrap()).await.unwrap();
    lab.until("the new address", |table| count(table, "frontends4") == 6).await;
    assert_eq!(tcp(&lab.outside, "198.51.100.7:30080").name(), "p2");
    links.delete_address(uplink, "198.51.100.7/32".parse().unwrap()).await.unwrap();
    lab.until("the address gone", |table| count(table, "frontends4") == 4).await;
    assert_eq!(tcp(&lab.outside, "192.0.2.11:30080").name(), "p2");
    lab.stop().await;
}

/// What `/metrics` says of a Service port's endpoint.
fn counted(lab: &Lab, service_port: &str, endpoint: &str) -> Option<u64> {
    let mut stream = open(&lab.node, "127.0.0.1:10249")?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let labels = format!("service_port=\"{service_port}\",endpoint=\"{endpoint}\"");
    let line =
        answer.lines().find(|line| line.starts_with("portolan_proxy_connections_total{") && line.contains(&labels));
    line?.rsplit(' ').next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_counted_by_endpoint_where_that_is_asked_for() {
    let mut lab = Lab::new().await;
    lab.count_connections = true;
    lab.service("web", json!({"clusterIP": "10.96.0.10", "np": null}), &[2]);
    lab.service("sticky", json!({"clusterIP": "10.96.0.11", "np": null, "sessionAffinity": "ClientIP"}), &[3]);
    lab.start().await;
    lab.until("the Services", |table| count(table, "endpoints4") == 2 && count(table, "sticky-choices4") == 2).await;
    until(|| counted(&lab, "packets/web:t", "10.244.1.12:8080") == Some(0)).await;
    for vip in ["10.96.0.10:80", "10.96.0.11:80"] {
        (0..7).for_each(|_| drop(tcp(&lab.pods[0], vip)));
    }
    assert_eq!(counted(&lab, "packets/web:t", "10.244.1.12:8080"), Some(7));
    assert_eq!(counted(&lab, "packets/web:u", "10.244.1.12:8080"), Some(0));
    assert_eq!(counted(&lab, "packets/sticky:t", "10.244.1.13:8080"), Some(7));
    // Another endpoint begins at nothing, and one that left is told no more. A restart that finds all in place goes on.
    let revision = lab.slice("web", &[3]);
    lab.until_applied(revision).await;
    (0..5).for_each(|_| drop(tcp(&lab.pods[0], "10.96.0.10:80")));
    assert_eq!(counted(&lab, "packets/web:t", "10.244.1.13:8080"), Some(5));
    assert_eq!(counted(&lab, "packets/web:t", "10.244.1.12:8080"), None);
    lab.until("the hairpin gone", |table| count(table, "hairpin4") == 1).await;
    let before = lab.generation();
    lab.stop().await;
    lab.start().await;
    until(|| counted(&lab, "packets/web:t", "10.244.1.13:8080") == Some(5)).await;
    assert_eq!(lab.generation(), before);
    lab.stop().await;
}

/// Packets that carry these marks leave with them: kube-proxy's for what is to be masqueraded, and everyone's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_of_others_are_left_alone() {
    use nft::{Base, ChainKind, Family, Hook, Statement, Table, TableId};
    let mut lab = Lab::new().await;
    lab.service("web", json!({"type": "NodePort", "clusterIP": "10.96.0.10", "np": 30080}), &[2]);
    lab.service("sticky", json!({"clusterIP": "10.96.0.11", "np": null, "sessionAffinity": "ClientIP"}), &[3]);
    let mut kernel = netlink::NfTables::open(&lab.node).unwrap();
    let others = TableId::new(Family::Inet, "others");
    let mut table = Table::default();
    for mark in [0x4000, 0xffff_ffff] {
        let name = |stem: &str| format!("{stem}-{mark:x}");
        for (stem, hook) in [("pre", Hook::Prerouting), ("out", Hook::Output)] {
            let chain = table.chain(&name(stem));
            chain.base = Some(Base::new(ChainKind::Filter, hook, -150));
            chain.rule([Statement::SetMark(nft::Value::Const(nft::Bytes::new().number(mark)))]);
        }
        let chain = table.chain(&name("post"));
        chain.base = Some(Base::new(ChainKind::Filter, Hook::Postrouting, 150));
        chain.rule([Statement::mark(mark, u32::MAX), Statement::ret()]);
        chain.rule([Statement::counter(), Statement::drop()]);
        let wanted = nft::Ruleset { tables: [(others.clone(), table.clone())].into() };
        let actual = kernel.dump(&others).unwrap().into_ruleset(others.clone());
        kernel.commit(&nft::diff(&actual, &wanted)).unwrap();
        lab.start().await;
        lab.until("the Services", |table| count(table, "endpoints4") == 4 && count(table, "sticky-choices4") == 2)
            .await;
        // A mark means nothing to us: pods keep their address, others get the node's.
        for vip in ["10.96.0.10:80", "10.96.0.11:80"] {
            assert!(matches!(tcp(&lab.pods[0], vip), Met::Answer(_, peer) if peer == pod_address(1)));
            assert!(matches!(tcp(&lab.outside, vip), Met::Answer(_, peer) if peer != address(OUTSIDE)));
            assert!(matches!(tcp(&lab.node, vip), Met::Answer(..)));
        }
        assert!(matches!(tcp(&lab.outside, "192.0.2.11:30080"), Met::Answer(..)));
        lab.stop().await;
        table = Table::default();
    }
}

async fn until(done: impl Fn() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain");
}
