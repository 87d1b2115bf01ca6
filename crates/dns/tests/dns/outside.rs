//! Names outside: the cache, resolvers that are silent, stub domains, and a resolver that leads back to us.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use hickory_proto::op::ResponseCode;
use serde_json::json;

use crate::support::outside::Outside;
use crate::support::{PATIENCE, Running, config, data, small_api};

fn resolver(address: &str) -> Outside {
    let names = json!({"www.example.com.": [["A", 300, address]], "host.corp.example.": [["A", 300, address]]});
    Outside::start(&names, &json!({".": "a. b. 1 1800 900 604800 60"}))
}

/// An address at which nobody answers, held for as long as the socket lives.
fn silence() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_and_denials_are_asked_for_once() {
    let outside = resolver("198.51.100.1");
    let running = Running::start(config(vec![outside.address]), small_api());
    let asked = |kind: &str, name: &str| outside.asked().iter().filter(|q| **q == format!("{name} {kind}")).count();
    for _ in 0..5 {
        assert_eq!(data(&running.ask("www.example.com.", "A").await), ["198.51.100.1"]);
        assert_eq!(data(&running.ask("WWW.example.COM.", "A").await), ["198.51.100.1"]);
        assert_eq!(running.ask("no.example.com.", "A").await.metadata.response_code, ResponseCode::NXDomain);
        let empty = running.ask("www.example.com.", "AAAA").await;
        assert_eq!((empty.metadata.response_code, empty.authorities.len()), (ResponseCode::NoError, 1));
    }
    assert_eq!(
        (asked("A", "www.example.com."), asked("AAAA", "www.example.com."), asked("A", "no.example.com.")),
        (1, 1, 1)
    );
    assert!(running.ask("www.example.com.", "A").await.answers[0].ttl <= 30);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_resolver_is_not_waited_for() {
    let (_held, silent) = silence();
    let outside = resolver("198.51.100.1");
    let running = Running::start(config(vec![silent, outside.address]), small_api());
    // The silent one is asked first and still the answer comes, long before a client would give up.
    assert_eq!(data(&running.ask("www.example.com.", "A").await), ["198.51.100.1"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_silent_is_servfail_in_time_for_the_client() {
    let (_held, silent) = silence();
    let running = Running::start(config(vec![silent]), small_api());
    let start = Instant::now();
    let answer = running.ask("www.example.com.", "A").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(start.elapsed() < PATIENCE);
    // Others do not wait behind it: names of the cluster are answered meanwhile.
    let (waiting, own) =
        tokio::join!(running.ask("other.example.com.", "A"), running.ask("dns-version.cluster.local.", "TXT"));
    assert_eq!((waiting.metadata.response_code, data(&own)), (ResponseCode::ServFail, vec!["1.1.0".to_owned()]));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_given_on_only_if_nobody_knows_better() {
    let refusing = Outside::start(
        &json!({"www.example.com.": "SERVFAIL", "mine.example.com.": "REFUSED"}),
        &json!({".": "a. b. 1 1 1 1 60"}),
    );
    let outside = resolver("198.51.100.1");
    let running = Running::start(config(vec![refusing.address, outside.address]), small_api());
    assert_eq!(data(&running.ask("www.example.com.", "A").await), ["198.51.100.1"]);
    running.stop().await;
    let running = Running::start(config(vec![refusing.address]), small_api());
    assert_eq!(running.ask("mine.example.com.", "A").await.metadata.response_code, ResponseCode::Refused);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stub_domain_has_resolvers_of_its_own() {
    let (outside, corporate) = (resolver("198.51.100.1"), resolver("198.51.100.2"));
    let mut config = config(vec![outside.address]);
    config.stubs = vec![format!("corp.example={}", corporate.address).parse().unwrap()];
    let running = Running::start(config, small_api());
    assert_eq!(data(&running.ask("host.corp.example.", "A").await), ["198.51.100.2"]);
    assert_eq!(data(&running.ask("www.example.com.", "A").await), ["198.51.100.1"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_is_found_and_left() {
    // Two servers that forward to each other; the second also knows a way out, but asks the first one first.
    let outside = resolver("198.51.100.1");
    let (held, later) = silence();
    let first = Running::start(config(vec![later]), small_api());
    drop(held);
    let mut second = config(vec![first.address, outside.address]);
    second.listen[0].1 = later;
    let second = Running::start(second, small_api());
    let answer = second.until("www.example.com.", "A", |m| !m.answers.is_empty()).await;
    assert_eq!(data(&answer), ["198.51.100.1"]);
    // A name that nobody knows ends, for the client, in a denial and not in a storm.
    assert_eq!(second.ask("no.example.com.", "A").await.metadata.response_code, ResponseCode::NXDomain);
    assert!(outside.asked().iter().filter(|q| q.starts_with("no.example.com.")).count() < 10);
    first.stop().await;
    second.stop().await;
}
