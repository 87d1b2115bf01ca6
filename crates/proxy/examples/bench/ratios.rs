//! What a connection, a request and a byte cost on the way through a cluster IP, as a part of what goes straight to the pod where nobody has rules
//! for Services: by our layout and by that with chains, side by side.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use linux::NetNs;
use netlink::NfTables;
use netlink::links::Links;
use nft::{Base, ChainKind, Family, Hook, Ruleset, Table, TableId, diff};
use proxy::{Ranges, plan, table_id};
use serde_json::json;
use service_model::{Model, NodeView};

use crate::chains::chains;
use crate::objects::{ENDPOINTS, endpoint, vip};
use crate::server::{Load, PORT, Server};

/// Where pods are, the client among them.
pub const PODS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, 0), 24);
const CLIENT: &str = "192.0.2.1/32";
/// Windows of load, straight and through the cluster IP in turn. Short ones, so that a pair of them meets the same machine.
const WINDOWS: usize = 60;
const WINDOW: Duration = Duration::from_millis(50);
/// A chain layout of 10,000 Services takes minutes to load, and the way of a packet through it does not depend on their number.
const CHAINED: usize = 1_000;
const MAPPED: usize = 10_000;
/// So many of them are asked.
const SERVICES: usize = 10;

/// One layout in a namespace of its own.
struct Laid {
    netns: NetNs,
    server: Server,
    name: &'static str,
    loaded: Duration,
}

pub fn ratios() {
    let bare = Laid::new("bare", &bare());
    for (suffix, mapped, chained) in [("_10", 10, 10), ("", MAPPED, CHAINED)] {
        let laid = [Laid::new("maps", &maps(mapped)), Laid::new("chains", &chains(chained))];
        if suffix.is_empty() {
            println!("kernel_load_chains_{CHAINED}_s {}", laid[1].loaded.as_secs_f64());
        }
        for load in Load::ALL {
            // In turn, so that all of them meet the same machine.
            let (mut ratios, mut own) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
            for n in 0..WINDOWS {
                let best = bare.direct(load, n);
                for (at, laid) in laid.iter().enumerate() {
                    let (direct, through) = laid.both(load, n);
                    ratios[at].push(through / best);
                    own[at].push(through / direct);
                }
            }
            for (laid, (ratios, own)) in laid.iter().zip(ratios.into_iter().zip(own)) {
                println!("{}_ratio_{}{suffix} {}", load.key(), laid.name, median(ratios));
                println!("{}_own_ratio_{}{suffix} {}", load.key(), laid.name, median(own));
            }
        }
        laid.into_iter().for_each(|laid| laid.netns.delete().unwrap());
    }
    bare.netns.delete().unwrap();
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Laid {
    fn new(name: &'static str, ruleset: &Ruleset) -> Self {
        let path = std::env::temp_dir().join(format!("portolan-bench-{}-{name}", std::process::id()));
        let netns = NetNs::create(&path).unwrap();
        let server = std::thread::scope(|scope| scope.spawn(|| prepare(&netns)).join().unwrap());
        // Closed connections are kept for two minutes otherwise, and there is a limit to them.
        netns.set_sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "1").unwrap();
        let began = Instant::now();
        NfTables::open(&netns).unwrap().commit(&diff(&Ruleset::default(), ruleset)).unwrap();
        Laid { netns, server, name, loaded: began.elapsed() }
    }

    /// A window of load straight to a pod, and one through its Service.
    fn both(&self, load: Load, n: usize) -> (f64, f64) {
        // Who comes second finds caches warmer.
        if n.is_multiple_of(2) {
            let direct = self.direct(load, n);
            (direct, self.rate(load, (vip(n % SERVICES), 80).into()))
        } else {
            let through = self.rate(load, (vip(n % SERVICES), 80).into());
            (self.direct(load, n), through)
        }
    }

    fn direct(&self, load: Load, n: usize) -> f64 {
        self.rate(load, (endpoint(n % SERVICES, n % ENDPOINTS), PORT).into())
    }

    fn rate(&self, load: Load, to: SocketAddr) -> f64 {
        self.server.expect(load);
        self.netns.run(|| rate(load, to)).unwrap()
    }
}

fn prepare(netns: &NetNs) -> Server {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::start(netns).await;
        let links = Links::open(netns).unwrap();
        let loopback = links.link("lo").await.unwrap().index;
        links.add_address(loopback, CLIENT.parse().unwrap()).await.unwrap();
        server
    })
}

/// So many connections, requests or bytes in a second, one client after the other.
fn rate(load: Load, to: SocketAddr) -> f64 {
    let mut kept = (load != Load::Connections).then(|| TcpStream::connect(to).unwrap());
    if let Some(stream) = &kept {
        stream.set_nodelay(true).unwrap();
    }
    let (chunk, mut answer) = (vec![0; 1 << 16], [0]);
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < WINDOW {
        match &mut kept {
            // The server closes as soon as it has accepted. Without a wait for it, its backlog would decide.
            None => drop(TcpStream::connect(to).unwrap().read(&mut answer)),
            Some(stream) if load == Load::Requests => {
                stream.write_all(&[0]).unwrap();
                stream.read_exact(&mut answer).unwrap();
            }
            Some(stream) => stream.write_all(&chunk).unwrap(),
        }
        count += 1;
    }
    f64::from(count) / began.elapsed().as_secs_f64()
}

/// Connections are tracked and may be translated, and nobody asks for it.
fn bare() -> Ruleset {
    let mut table = Table::default();
    for (name, hook) in [("in", Hook::Prerouting), ("local", Hook::Output), ("out", Hook::Postrouting)] {
        table.chain(name).base = Some(Base::new(ChainKind::Nat, hook, -100));
    }
    Ruleset { tables: [(TableId::new(Family::Ip, "bare"), table)].into() }
}

fn maps(services: usize) -> Ruleset {
    let objects = (0..services).map(|n| {
        let endpoints: Vec<_> = (0..ENDPOINTS).map(|index| json!({"addresses": [endpoint(n, index)]})).collect();
        let service = json!({"metadata": {"name": format!("bench-{n}"), "namespace": "default"}, "spec": {"clusterIP": vip(n), "ports": [{"port": 80}]}});
        let slice = json!({"metadata": {"name": format!("bench-{n}"), "namespace": "default", "labels": {"kubernetes.io/service-name": format!("bench-{n}")}},
            "addressType": "IPv4", "ports": [{"port": PORT}], "endpoints": endpoints});
        (serde_json::from_value(service).unwrap(), serde_json::from_value(slice).unwrap())
    });
    let (services, slices): (Vec<_>, Vec<_>) = objects.unzip();
    let ranges = Ranges { cluster: vec![PODS.into()], ..Ranges::default() };
    let table = plan(&Model::build(&services, &slices, NodeView::default()), &ranges);
    Ruleset { tables: [(table_id(), table)].into() }
}
