//! A client and a node in namespaces of their own, and first packets from one through the other.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use linux::NetNs;
use netlink::NfTables;
use netlink::links::{Links, Route, RouteKind, Via};
use nft::{Ruleset, diff};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::layout::Plan;

/// A client that reaches everything by a node, which drops after its rules what it would forward: the way out is not our
/// subject, and connections that never leave are not kept.
pub struct Lab {
    pub node: NetNs,
    client: NetNs,
    paths: [PathBuf; 2],
}

impl Lab {
    pub fn new() -> Lab {
        let path = |name: &str| std::env::temp_dir().join(format!("portolan-layouts-{}-{name}", std::process::id()));
        let paths = [path("node"), path("client")];
        let [node, client] = [NetNs::create(&paths[0]).unwrap(), NetNs::create(&paths[1]).unwrap()];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(connect(&node, &client));
        node.set_sysctl("net.ipv4.ip_forward", "1").unwrap();
        Lab { node, client, paths }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for path in &self.paths {
            NetNs::delete_at(path).unwrap();
        }
    }
}

async fn connect(node: &NetNs, client: &NetNs) {
    let (here, there) = (Links::open(node).unwrap(), Links::open(client).unwrap());
    let near = here.add_veth("client", "eth0", client).await.unwrap();
    here.set_up(near.index).await.unwrap();
    here.add_address(near.index, "192.0.2.1/24".parse().unwrap()).await.unwrap();
    for range in ["10.0.0.0/8", "172.16.0.0/12"] {
        let via = Via::Kind(RouteKind::Blackhole);
        let route = Route { via, ..Route::link(range.parse().unwrap(), 0) };
        here.add_route(&route).await.unwrap();
    }
    let far = there.link("eth0").await.unwrap();
    there.set_up(far.index).await.unwrap();
    there.add_address(far.index, "192.0.2.2/24".parse().unwrap()).await.unwrap();
    there.add_route(&Route::gateway("0.0.0.0/0".parse().unwrap(), "192.0.2.1".parse().unwrap())).await.unwrap();
}

/// Packets that are timed together. The lower quartile of the batches counts: a machine with other work adds time, and never
/// takes any away.
const BATCH: usize = 500;

/// The time that one first packet of a UDP flow takes, VIPs in a scattered order. A veth carries a packet through the
/// node's rules before send(2) returns, so that the sender's clock measures it.
pub fn first_packets(rules: Option<&Ruleset>, plan: &Plan, packets: usize) -> Duration {
    let lab = Lab::new();
    let mut nft = NfTables::open(&lab.node).unwrap();
    let tracked;
    let rules = match rules {
        Some(rules) => rules,
        // Connections are tracked without rules too, or the difference would be more than the rules.
        None => {
            tracked = tracking();
            &tracked
        }
    };
    nft.commit(&diff(&Ruleset::default(), rules)).unwrap();
    let raw = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
    let socket = lab.client.run(raw).unwrap();
    let mut batches = Vec::new();
    // The first batch warms caches and neighbours up.
    for batch in 0..=packets.div_ceil(BATCH) {
        let started = processor_time();
        for n in batch * BATCH..(batch + 1) * BATCH {
            let vip = Plan::vip(n.wrapping_mul(2_654_435_761) % plan.services);
            let source = 1024 + (n % 60_000) as u16;
            let packet = udp(Ipv4Addr::new(192, 0, 2, 2 + (n / 60_000) as u8), source, vip);
            let to = SockAddr::from(std::net::SocketAddrV4::new(vip, 0));
            socket.send_to(&packet, &to).unwrap();
        }
        batches.push(processor_time().saturating_sub(started));
    }
    batches.remove(0);
    batches.sort();
    batches[batches.len() / 4] / BATCH as u32
}

fn tracking() -> Ruleset {
    let mut table = nft::Table::default();
    let chain = table.chain("prerouting");
    chain.base = Some(nft::Base::new(nft::ChainKind::Nat, nft::Hook::Prerouting, -100));
    Ruleset { tables: [(nft::TableId::new(nft::Family::Ip, "portolan-bench"), table)].into() }
}

/// A UDP packet without payload; the kernel fills in the checksum of the IP header.
fn udp(source: Ipv4Addr, port: u16, destination: Ipv4Addr) -> [u8; 28] {
    let mut packet = [0; 28];
    packet[0] = 0x45;
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet[22..24].copy_from_slice(&53u16.to_be_bytes());
    packet[24..26].copy_from_slice(&8u16.to_be_bytes());
    packet
}

/// What this thread has used of a processor, in user and kernel mode.
#[allow(unsafe_code)]
pub fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a whole timespec that lives through the call, which writes nothing else.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "every Linux has this clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Kernel memory for small objects and large tables, in KiB. The whole machine's, so only differences mean anything.
pub fn slab() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0)
    };
    field("Slab:") + field("VmallocUsed:")
}
