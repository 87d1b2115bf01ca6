//! An API server of a few lines, over plain HTTP: many Services with endpoints, listed once, and watches that tell what is added.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;
use serde_json::{Value, json};

use super::{ENDPOINTS, cluster_ip, name};

pub struct Api {
    address: SocketAddr,
    /// Those who watch Services.
    watchers: Arc<Mutex<Vec<TcpStream>>>,
}

impl Api {
    pub fn start(services: usize) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let api = Api { address: listener.local_addr()?, watchers: Arc::default() };
        let watchers = Arc::clone(&api.watchers);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let watchers = Arc::clone(&watchers);
                // A client that goes away ends its thread.
                thread::spawn(move || serve(stream, services, &watchers).ok());
            }
        });
        Ok(api)
    }

    pub fn kubeconfig(&self) -> String {
        let cluster = json!({"name": "bench", "cluster": {"server": format!("http://{}", self.address)}});
        let context = json!({"name": "bench", "context": {"cluster": "bench", "user": "bench"}});
        json!({"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "users": [{"name": "bench", "user": {}}],
            "contexts": [context], "current-context": "bench"})
        .to_string()
    }

    pub fn add_service(&self, n: usize) {
        let line = format!("{}\n", json!({"type": "ADDED", "object": service(n)}));
        let chunk = format!("{:x}\r\n{line}\r\n", line.len());
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain_mut(|watcher| watcher.write_all(chunk.as_bytes()).is_ok());
    }
}

fn serve(mut stream: TcpStream, services: usize, watchers: &Mutex<Vec<TcpStream>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let resource = path.split('?').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        if path.contains("watch=true") {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
            )?;
            if resource == "services" {
                watchers.lock().unwrap_or_else(PoisonError::into_inner).push(stream.try_clone()?);
            }
            continue;
        }
        let items: Vec<Value> = match resource {
            "namespaces" => vec![json!({"metadata": {"name": "bench", "resourceVersion": "1"}})],
            "services" => (0..services).map(service).collect(),
            "endpointslices" => (0..services).map(slice).collect(),
            _ => Vec::new(),
        };
        let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
            .to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", list.len());
        stream.write_all(head.as_bytes())?;
        stream.write_all(list.as_bytes())?;
    }
}

fn metadata(n: usize) -> Value {
    let name = name(n);
    json!({"namespace": "bench", "name": name.split('.').next(), "resourceVersion": (n + 2).to_string(),
        "uid": format!("00000000-0000-0000-0000-{n:012}")})
}

fn service(n: usize) -> Value {
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]);
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata(n), "spec": {"type": "ClusterIP", "clusterIP": cluster_ip(n),
        "clusterIPs": [cluster_ip(n)], "ports": ports, "selector": {"app": format!("app-{n}")}}})
}

fn slice(n: usize) -> Value {
    let mut metadata = metadata(n);
    metadata["labels"] = json!({"kubernetes.io/service-name": metadata["name"]});
    let endpoint = |k: usize| {
        let at = n * ENDPOINTS + k;
        json!({"addresses": [format!("10.{}.{}.{}", 128 + (at >> 16), at >> 8 & 255, at & 255)], "nodeName": "node-1",
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": "bench", "name": format!("app-{n}-{k}")}})
    };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>()})
}
