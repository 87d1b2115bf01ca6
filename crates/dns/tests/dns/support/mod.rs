//! A running server, its API and its resolver outside, and a client that says what it heard.

pub mod api;
pub mod outside;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use api::Api;
use dns::wire::name::parse;
use dns::{Config, Server, UpstreamSource};
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, RecordType};
use linux::NetNs;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Running {
    pub address: SocketAddr,
    pub api: Api,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), dns::Error>>,
}

/// What a server of a test is told.
pub fn config(upstream: Vec<SocketAddr>) -> Config {
    let mut config = Config::new("cluster.local");
    config.upstream = UpstreamSource::Servers(upstream);
    config.listen = vec![(NetNs::current().unwrap(), (Ipv4Addr::LOCALHOST, 0).into())];
    config.threads = 2;
    config
}

impl Running {
    pub fn start(config: Config, api: Api) -> Self {
        let shutdown = CancellationToken::new();
        let server = Server::open(config).unwrap();
        let address = server.addresses()[0];
        let task = tokio::spawn(server.run(api.client(), shutdown.clone()));
        Running { address, api, shutdown, task }
    }

    /// Waits until the cluster's names are answered.
    pub async fn synced(self) -> Self {
        self.until("default.svc.cluster.local.", "A", |m| m.metadata.response_code.low() == 0).await;
        self
    }

    pub async fn stop(self) -> Api {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
        self.api
    }

    pub async fn ask(&self, name: &str, kind: &str) -> Message {
        let (address, query) = (self.address, query(name, kind));
        tokio::task::spawn_blocking(move || ask_udp(address, &query)).await.unwrap()
    }

    /// Asks until the answer is as wanted.
    pub async fn until(&self, name: &str, kind: &str, wanted: impl Fn(&Message) -> bool) -> Message {
        let start = Instant::now();
        loop {
            let answer = self.ask(name, kind).await;
            if wanted(&answer) {
                return answer;
            }
            assert!(start.elapsed() < PATIENCE, "{name} {kind}: {answer}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

pub fn query(name: &str, kind: &str) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind.parse::<RecordType>().unwrap()));
    message
}

pub fn with_edns(mut query: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    query.set_edns(edns);
    query
}

pub fn ask_udp(server: SocketAddr, query: &Message) -> Message {
    ask_udp_sized(server, query).0
}

/// The answer, and how many bytes it had.
pub fn ask_udp_sized(server: SocketAddr, query: &Message) -> (Message, usize) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(&query.to_vec().unwrap(), server).unwrap();
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer).unwrap();
    (Message::from_vec(&buffer[..length]).unwrap(), length)
}

/// The data of all answers, sorted.
pub fn data(message: &Message) -> Vec<String> {
    let mut data: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
    data.sort();
    data
}

pub fn namespace(name: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

pub fn service(namespace: &str, name: &str, spec: serde_json::Value) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

/// A slice of ready endpoints with a port `http`.
pub fn slice(namespace: &str, service: &str, addresses: &[&str]) -> serde_json::Value {
    let endpoints: Vec<_> =
        addresses.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": true}})).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": namespace, "name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
}

/// An API with the namespaces `default` and `kube-system`, and the Service `kubernetes`.
pub fn small_api() -> Api {
    let api = Api::new();
    for name in ["default", "kube-system"] {
        api.apply(&namespace(name));
    }
    let ports = json!([{"name": "https", "port": 443, "protocol": "TCP"}]);
    api.apply(&service("default", "kubernetes", json!({"clusterIP": "10.96.0.1", "ports": ports})));
    assert!(parse("cluster.local").is_some());
    api
}
