//! Never wrong, never late: before the first sync, while the API is away, after a change.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use serde_json::json;

use crate::support::outside::Outside;
use crate::support::{Running, ask_udp, config, data, namespace, query, service, slice, small_api};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_servfail_until_everything_has_been_seen() {
    let api = small_api();
    api.apply(&slice("default", "headless", &["10.0.0.1"]));
    api.apply(&service("default", "headless", json!({"clusterIP": "None"})));
    api.hold(&["endpointslices"]);
    let running = Running::start(config(vec![Outside::empty().address]), api);
    let own = ["kubernetes.default.svc", "headless.default.svc", "nosuch.default.svc", "nosuch", "1-2-3-4.default.pod"];
    for name in own {
        let answer = running.ask(&format!("{name}.cluster.local."), "A").await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail, "{name}");
    }
    let reverse = running.ask("1.0.96.10.in-addr.arpa.", "PTR").await;
    assert_eq!(reverse.metadata.response_code, ResponseCode::ServFail, "ours must not be denied by others");
    // What does not depend on objects is known, and the outside is there.
    assert_eq!(data(&running.ask("dns-version.cluster.local.", "TXT").await), ["1.1.0"]);
    assert_eq!(running.ask("www.example.com.", "A").await.metadata.response_code, ResponseCode::NXDomain);
    running.api.hold(&[]);
    running.until("nosuch.cluster.local.", "A", |m| m.metadata.response_code == ResponseCode::NXDomain).await;
    assert_eq!(data(&running.ask("headless.default.svc.cluster.local.", "A").await), ["10.0.0.1"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_zone_goes_on_without_its_api_and_catches_up() {
    let running = Running::start(config(vec![Outside::empty().address]), small_api()).synced().await;
    running.api.set_away(true);
    let name = "kubernetes.default.svc.cluster.local.";
    assert_eq!(data(&running.ask(name, "A").await), ["10.96.0.1"]);
    running.api.apply(&service("default", "web", json!({"clusterIP": "10.96.0.7"})));
    let missing = running.ask("web.default.svc.cluster.local.", "A").await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    running.api.set_away(false);
    let found = running.until("web.default.svc.cluster.local.", "A", |m| !m.answers.is_empty()).await;
    assert_eq!(data(&found), ["10.96.0.7"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_reach_names_and_reverse_names() {
    let running = Running::start(config(vec![Outside::empty().address]), small_api()).synced().await;
    let api = running.api.clone();
    let found = |m: &hickory_proto::op::Message| !m.answers.is_empty();
    let gone = |m: &hickory_proto::op::Message| m.metadata.response_code == ResponseCode::NXDomain;
    api.apply(&service("default", "db", json!({"clusterIP": "None"})));
    api.apply(&slice("default", "db", &["10.0.0.1", "10.0.0.2"]));
    let name = "db.default.svc.cluster.local.";
    running.until(name, "A", |m| data(m) == ["10.0.0.1", "10.0.0.2"]).await;
    running.until("2.0.0.10.in-addr.arpa.", "PTR", |m| data(m) == ["10-0-0-2.db.default.svc.cluster.local."]).await;
    running.until("10-0-0-2.db.default.svc.cluster.local.", "A", found).await;
    api.apply(&slice("default", "db", &["10.0.0.1"]));
    running.until("2.0.0.10.in-addr.arpa.", "PTR", gone).await;
    running.until("10-0-0-2.db.default.svc.cluster.local.", "A", gone).await;
    // The slice goes to another Service by its label alone.
    api.apply(&service("default", "other", json!({"clusterIP": "None"})));
    let mut moved = slice("default", "db", &["10.0.0.1"]);
    moved["metadata"]["labels"]["kubernetes.io/service-name"] = json!("other");
    api.apply(&moved);
    running.until("other.default.svc.cluster.local.", "A", found).await;
    running.until(name, "A", gone).await;
    // A Service of another kind, then none.
    api.apply(&service(
        "default",
        "other",
        json!({"type": "ExternalName", "externalName": "kubernetes.default.svc.cluster.local"}),
    ));
    running
        .until("other.default.svc.cluster.local.", "A", |m| {
            data(m) == ["10.96.0.1", "kubernetes.default.svc.cluster.local."]
        })
        .await;
    api.delete(&service("default", "other", json!({})));
    running.until("other.default.svc.cluster.local.", "A", gone).await;
    api.delete(&namespace("kube-system"));
    running.until("kube-system.svc.cluster.local.", "A", gone).await;
    tokio::time::timeout(Duration::from_secs(20), running.stop()).await.unwrap();
}

/// One server follows another thirty times while a client asks without a pause and never asks twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_restart_drops_no_question() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keeper");
    let keeper = {
        let path = path.clone();
        std::thread::spawn(move || dns::keep::serve(&path))
    };
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let started = |listen: Option<SocketAddr>| {
        let mut config = config(vec![Outside::empty().address]);
        config.listen[0].1 = listen.unwrap_or(config.listen[0].1);
        config.keep = Some(dns::Keep { path: path.clone(), command: Vec::new() });
        Running::start(config, small_api())
    };
    let mut running = started(None).synced().await;
    let address = running.address;
    let stop = Arc::new(AtomicBool::new(false));
    let client = {
        let stop = Arc::clone(&stop);
        tokio::task::spawn_blocking(move || {
            let question = query("kubernetes.default.svc.cluster.local.", "A");
            let mut answered = 0;
            while !stop.load(Ordering::Relaxed) {
                // A new port each time, so that every socket of the server gets some.
                let answer = ask_udp(address, &question);
                assert_eq!(data(&answer), ["10.96.0.1"], "after {answered} answers");
                answered += 1;
            }
            answered
        })
    };
    for _ in 0..30 {
        running.stop().await;
        running = started(Some(address));
        assert_eq!(running.address, address);
        running = running.synced().await;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(client.await.unwrap() > 30);
    running.stop().await;
    dns::keep::release(&path);
    keeper.join().unwrap().unwrap();
    assert!(!path.exists());
}
