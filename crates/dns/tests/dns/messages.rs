//! Messages as a whole: EDNS, sizes, letters, several questions on one connection, and bytes that are no message.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use hickory_proto::op::{Edns, Message};
use hickory_proto::rr::RecordType;
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use serde_json::json;

use crate::support::outside::Outside;
use crate::support::{
    PATIENCE, Running, ask_udp, ask_udp_sized, config, data, query, service, slice, small_api, with_edns,
};

async fn start() -> Running {
    let api = small_api();
    let addresses: Vec<String> = (1..=200).map(|n| format!("10.0.1.{n}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    api.apply(&service("default", "many", json!({"clusterIP": "None"})));
    api.apply(&slice("default", "many", &addresses));
    Running::start(config(vec![Outside::empty().address]), api).synced().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edns_is_answered_in_kind() {
    let running = start().await;
    let server = running.address;
    let name = "kubernetes.default.svc.cluster.local.";
    let checked = tokio::task::spawn_blocking(move || {
        assert!(ask_udp(server, &query(name, "A")).edns.is_none());
        let edns = |payload| ask_udp(server, &with_edns(query(name, "A"), payload)).edns.unwrap();
        assert_eq!((edns(4096).max_payload(), edns(4096).version(), edns(4096).flags().dnssec_ok), (1232, 0, false));
        let mut wanted = query(name, "A");
        let mut edns = Edns::new();
        edns.set_max_payload(1232).set_dnssec_ok(true);
        wanted.set_edns(edns);
        assert!(ask_udp(server, &wanted).edns.unwrap().flags().dnssec_ok, "RFC 3225: the bit is copied");
        let mut edns = Edns::new();
        edns.set_version(1);
        wanted.set_edns(edns);
        let answer = ask_udp(server, &wanted);
        // 16 is BADVERS here, and BADSIG where there are signatures.
        assert_eq!((u16::from(answer.metadata.response_code), answer.edns.unwrap().version()), (16, 0));
    });
    checked.await.unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_whole_or_marked_as_cut() {
    let running = start().await;
    let server = running.address;
    let checked = tokio::task::spawn_blocking(move || {
        for (name, kind, all) in
            [("many.default.svc.cluster.local.", "A", 200), ("_http._tcp.many.default.svc.cluster.local.", "SRV", 200)]
        {
            for payload in [0, 512, 600, 1232, 1500, 2048, 4096, 8192, 16_384, 65_535] {
                let asked = if payload == 0 { query(name, kind) } else { with_edns(query(name, kind), payload) };
                let (answer, size) = ask_udp_sized(server, &asked);
                let whole = answer.answers.len() == all;
                assert_ne!(answer.metadata.truncation, whole, "{name} {payload}");
                assert!(size <= usize::from(payload.max(512)), "{name} {payload}: {size} bytes");
            }
            let over_tcp = ask_tcp(server, &[query(name, kind)]);
            assert_eq!((over_tcp[0].answers.len(), over_tcp[0].metadata.truncation), (all, false));
        }
        // Clients that take the first address are spread.
        let firsts: std::collections::BTreeSet<String> = (0..200)
            .map(|_| ask_udp(server, &query("many.default.svc.cluster.local.", "A")).answers[0].data.to_string())
            .collect();
        assert!(firsts.len() > 20, "{}", firsts.len());
    });
    checked.await.unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_carries_many_questions() {
    let running = start().await;
    let server = running.address;
    let checked = tokio::task::spawn_blocking(move || {
        let names = [
            "kubernetes.default.svc.cluster.local.",
            "www.example.com.",
            "nosuch.cluster.local.",
            "dns-version.cluster.local.",
        ];
        let questions: Vec<Message> =
            names.iter().map(|name| query(name, if name.starts_with("dns") { "TXT" } else { "A" })).collect();
        let answers = ask_tcp(server, &questions);
        for question in &questions {
            let answer = answers.iter().find(|answer| answer.metadata.id == question.metadata.id).unwrap();
            assert_eq!(answer.queries, question.queries);
        }
        // A question that comes byte by byte is a question.
        let mut stream = TcpStream::connect(server).unwrap();
        stream.set_nodelay(true).unwrap();
        let bytes = questions[0].to_vec().unwrap();
        for byte in [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes.as_slice()].concat() {
            stream.write_all(&[byte]).unwrap();
        }
        assert_eq!(data(&read_tcp(&mut stream)), ["10.96.0.1"]);
    });
    checked.await.unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_letters_of_a_question_come_back() {
    let running = start().await;
    let answer = running.ask("KuberNetes.DEFAULT.svc.Cluster.Local.", "A").await;
    assert_eq!(answer.answers[0].name.to_string(), "KuberNetes.DEFAULT.svc.Cluster.Local.");
    assert_eq!(answer.queries[0].name().to_string(), "KuberNetes.DEFAULT.svc.Cluster.Local.");
    running.stop().await;
}

/// Whatever comes in, the server lives, and what it says is a message that answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_bytes_harm_the_server() {
    let running = start().await;
    let server = running.address;
    let checked = tokio::task::spawn_blocking(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(server).unwrap();
        let good = with_edns(query("many.default.svc.cluster.local.", "A"), 1232).to_vec().unwrap();
        let length = good.len();
        let bent = prop::collection::vec((0..length, any::<u8>()), 0..8).prop_map(move |changes| {
            let mut bytes = good.clone();
            changes.into_iter().for_each(|(at, byte)| bytes[at] = byte);
            bytes
        });
        let cut = (bent.clone(), 0..length).prop_map(|(bytes, at)| bytes[..at].to_vec());
        let noise = prop::collection::vec(any::<u8>(), 0..600);
        let strategy = prop_oneof![bent, cut, noise];
        let mut runner = TestRunner::new(Cases { cases: 3000, failure_persistence: None, ..Cases::default() });
        let marker = query("dns-version.cluster.local.", "TXT");
        runner.run(&strategy, |bytes| {
            socket.send(&bytes).unwrap();
            let mut marker = marker.clone();
            marker.metadata.id = !u16::from_be_bytes([*bytes.first().unwrap_or(&0), *bytes.get(1).unwrap_or(&0)]);
            socket.send(&marker.to_vec().unwrap()).unwrap();
            let mut buffer = vec![0; 65_535];
            loop {
                let length = socket.recv(&mut buffer).unwrap();
                // Answers that had to be asked outside come when they come.
                if buffer[..2] == marker.metadata.id.to_be_bytes() && buffer[2] & 0x80 != 0 {
                    return Ok(());
                }
                prop_assert!(buffer[2] & 0x80 != 0 && length >= 12);
                if buffer[2] >> 3 & 0x0f == 0 {
                    let answer = Message::from_vec(&buffer[..length]);
                    prop_assert!(answer.is_ok(), "{:?} is answered by {:?}", bytes, &buffer[..length]);
                }
            }
        })
    });
    checked.await.unwrap().unwrap();
    assert_eq!(running.ask("kubernetes.default.svc.cluster.local.", "A").await.answers[0].record_type(), RecordType::A);
    running.stop().await;
}

fn ask_tcp(server: SocketAddr, questions: &[Message]) -> Vec<Message> {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    for question in questions {
        let question = question.to_vec().unwrap();
        bytes.extend(u16::try_from(question.len()).unwrap().to_be_bytes());
        bytes.extend(question);
    }
    stream.write_all(&bytes).unwrap();
    questions.iter().map(|_| read_tcp(&mut stream)).collect()
}

fn read_tcp(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    Message::from_vec(&answer).unwrap()
}
