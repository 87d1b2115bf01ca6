//! Connections as fast as one machine can make and answer them, from a pod, from outside and from the node itself, while endpoints come and go a hundred times a second.
//!
//! No connection is refused or lost while an endpoint is ready, and none reaches an endpoint that was removed before it began. When a change
//! is in the kernel the proxy itself tells, see `Config::applied`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[allow(dead_code)]
mod lab;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::{Lab, Met, ask, pod_address};
use linux::NetNs;
use serde_json::{Value, json};
use socket2::SockRef;

const VIP: &str = "10.96.0.10:80";
const PORT: u16 = 9000;
const CHANGES: usize = 300;
const BETWEEN: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(10);

/// Endpoints that packets may have reached between two moments.
struct Epoch {
    from: Instant,
    /// When the next set was in the kernel; `None` for the last.
    until: Option<Instant>,
    pods: BTreeSet<usize>,
}

struct Connection {
    client: &'static str,
    from: Instant,
    until: Instant,
    met: Met,
}

/// Connects, asks and resets, which leaves neither side's port waiting.
fn connect(client: &'static str, to: SocketAddr) -> Connection {
    let from = Instant::now();
    let met = match TcpStream::connect_timeout(&to, PATIENCE) {
        Ok(mut stream) => {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            ask(&mut stream)
        }
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Met::Refused,
        Err(_) => Met::Nothing,
    };
    Connection { client, from, until: Instant::now(), met }
}

fn client(name: &'static str, netns: &NetNs, done: &Arc<AtomicBool>) -> std::thread::JoinHandle<Vec<Connection>> {
    let (netns, done) = (netns.clone(), done.clone());
    let load = move || {
        let mut connections = Vec::new();
        while !done.load(Ordering::Relaxed) {
            connections.push(connect(name, VIP.parse().unwrap()));
        }
        connections
    };
    std::thread::spawn(move || netns.run(load).unwrap())
}

/// Answers one question a connection, without a thread for each. Lives as long as the test's process.
fn answer(pod: &NetNs, name: &str) {
    let listener = pod.run(|| TcpListener::bind(("0.0.0.0", PORT)).unwrap()).unwrap();
    let name = name.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            // Who gave up meanwhile is told nothing.
            let _ = stream.peer_addr().and_then(|peer| {
                stream.read_exact(&mut [0])?;
                stream.write_all(format!("{name} {}\n", peer.ip()).as_bytes())
            });
        }
    });
}

/// Makes these pods the endpoints; gives the revision.
fn slice(lab: &Lab, pods: &[usize]) -> u64 {
    let endpoint = |n: &usize| json!({"addresses": [pod_address(*n)], "nodeName": "node1"});
    let endpoints: Vec<Value> = pods.iter().map(endpoint).collect();
    lab.api.put(&json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}}, "ports": [{"name": "t", "port": PORT}]}))
}

fn allowed(epochs: &[Epoch], connection: &Connection) -> bool {
    let Met::Answer(name, _) = &connection.met else { return false };
    let overlaps =
        |epoch: &&Epoch| epoch.from <= connection.until && epoch.until.is_none_or(|until| until >= connection.from);
    epochs.iter().filter(overlaps).any(|epoch| epoch.pods.iter().any(|pod| *name == format!("p{pod}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_meets_a_removed_endpoint_and_none_is_refused() {
    let mut lab = Lab::new().await;
    lab.service("web", json!({"clusterIP": "10.96.0.10", "np": null}), &[1, 2, 3]);
    lab.pods.iter().zip(["p1", "p2", "p3"]).for_each(|(pod, name)| answer(pod, name));
    lab.start().await;
    let revision = slice(&lab, &[1, 2, 3]);
    lab.until_applied(revision).await;
    let mut epochs = vec![Epoch { from: Instant::now(), until: None, pods: [1, 2, 3].into() }];
    let done = Arc::new(AtomicBool::new(false));
    let clients = [("node", &lab.node), ("outside", &lab.outside), ("p1", &lab.pods[0])];
    let clients = clients.map(|(name, netns)| client(name, netns, &done));
    let began = Instant::now();
    let mut due = began;
    for change in 0..CHANGES {
        let pods = [&[2, 3][..], &[3], &[3, 1], &[1], &[1, 2, 3], &[2], &[2, 1]][change % 7];
        let from = Instant::now();
        let revision = slice(&lab, pods);
        lab.until_applied(revision).await;
        if let Some(before) = epochs.last_mut() {
            before.until = Some(Instant::now());
        }
        epochs.push(Epoch { from, until: None, pods: pods.iter().copied().collect() });
        due += BETWEEN;
        tokio::time::sleep_until(due.into()).await;
    }
    let took = began.elapsed().as_secs_f64();
    done.store(true, Ordering::Relaxed);
    let met: Vec<Connection> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    println!("{:.0} connections and {:.0} changes a second", met.len() as f64 / took, CHANGES as f64 / took);
    let wrong: Vec<(&str, &Met)> = met.iter().filter(|c| !allowed(&epochs, c)).map(|c| (c.client, &c.met)).collect();
    assert!(wrong.is_empty(), "{} of {} connections: {:?}", wrong.len(), met.len(), &wrong[..wrong.len().min(20)]);
    lab.stop().await;
}
