//! The pod network of a node, in place of a CNI plugin: a namespace, an address and a routed veth for each pod.
//!
//! There is no bridge. The pod has `IP/32` and reaches everything by its gateway, which is an address of the node's end of its own veth;
//! the node has one `/32` route a pod. So pod → Service → pod on one node is routed twice by the node's stack, and the proxy's rules see it,
//! whether or not `br_netfilter` is there. The peer is made inside the pod's namespace at once: moving it there costs ten times as much.
//!
//! An address is written to the pod's folder before it is used and read from there at start, so none is given twice over a crash.

pub mod hostports;
pub mod pool;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;
use linux::NetNs;
use netlink::links::{Links, Route};
use netlink::{Conntrack, Flow};
use serde::{Deserialize, Serialize};

use hostports::{HostPort, HostPorts};
use pool::Pool;

const IN_POD: &str = "eth0";
const RECORD: &str = "network.json";

/// Why a pod has no network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no pod addresses left in {0}\n  hint: delete pods, or give the node a larger --pod-cidr")]
    Exhausted(String),
    #[error("cannot keep the pod's addresses in `{path}`")]
    Record { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Namespace(#[from] linux::Error),
    #[error(transparent)]
    Link(#[from] netlink::Error),
}

/// What a pod was given; kept in its folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub ips: Vec<IpAddr>,
    /// The node's end of the pod's veth.
    pub link: String,
    /// Where the pod's namespace is mounted.
    pub namespace: PathBuf,
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
}

/// The pod network of one node.
#[derive(Debug)]
pub struct PodNet {
    node: NetNs,
    links: Links,
    pools: Vec<(IpAddr, Mutex<Pool>)>,
    /// Where pods' namespaces are mounted.
    namespaces: PathBuf,
    host_ports: HostPorts,
}

impl PodNet {
    /// Opens the node's side: forwarding on, one pool a CIDR (the first address of each is the gateway).
    pub async fn open(node: NetNs, cidrs: &[IpNet], namespaces: PathBuf) -> Result<PodNet, Error> {
        let links = Links::open(&node)?;
        let mut pools = Vec::new();
        for cidr in cidrs {
            match cidr {
                IpNet::V4(_) => node.set_sysctl("net.ipv4.ip_forward", "1")?,
                IpNet::V6(_) => node.set_sysctl("net.ipv6.conf.all.forwarding", "1")?,
            }
            let pool = Pool::new(*cidr);
            pools.push((pool.gateway(), Mutex::new(pool)));
        }
        Ok(PodNet { node, links, pools, namespaces, host_ports: HostPorts::default() })
    }

    /// The node's namespace.
    pub fn node(&self) -> &NetNs {
        &self.node
    }

    /// Takes note of what an earlier run gave to the pod of this folder.
    pub fn remember(&self, folder: &Path) -> Option<Attachment> {
        let attachment = read(folder)?;
        for ip in &attachment.ips {
            self.each_pool(|pool| pool.reserve(*ip));
        }
        self.host_ports.note(&attachment.link, (attachment.host_ports.clone(), attachment.ips.clone()));
        Some(attachment)
    }

    /// Makes the node's host ports those of the pods that were remembered, and no others.
    pub fn settle_host_ports(&self) -> Result<(), Error> {
        Ok(self.host_ports.commit(&self.node)?)
    }

    /// Gives a pod its namespace, addresses, link and host ports. On an error nothing is left.
    pub async fn attach(&self, uid: &str, folder: &Path, host_ports: Vec<HostPort>) -> Result<Attachment, Error> {
        // What a crash left between the record and the sandbox: the pod begins anew, and its old addresses are free again.
        self.detach(folder).await?;
        let attachment = self.reserve(uid, folder, host_ports)?;
        let wired = self.wire(&attachment).await;
        if wired.is_err() {
            self.detach(folder).await?;
        }
        wired.map(|()| attachment)
    }

    fn reserve(&self, uid: &str, folder: &Path, host_ports: Vec<HostPort>) -> Result<Attachment, Error> {
        let mut ips: Vec<IpAddr> = Vec::new();
        for (_, pool) in &self.pools {
            let mut pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
            match pool.take() {
                Some(ip) => ips.push(ip),
                None => {
                    let full = pool.cidr().to_string();
                    drop(pool);
                    self.release(&ips);
                    return Err(Error::Exhausted(full));
                }
            }
        }
        let short: String = uid.chars().filter(char::is_ascii_alphanumeric).take(11).collect();
        let (link, namespace) = (format!("pod{short}"), namespace_of(&self.namespaces, uid));
        let attachment = Attachment { ips, link, namespace, host_ports };
        if let Err(source) = write(folder, &attachment) {
            self.release(&attachment.ips);
            return Err(Error::Record { path: folder.join(RECORD), source });
        }
        Ok(attachment)
    }

    async fn wire(&self, attachment: &Attachment) -> Result<(), Error> {
        let pod = NetNs::create(&attachment.namespace)?;
        if attachment.ips.iter().any(IpAddr::is_ipv6) {
            // The address is ours alone by construction; waiting a second for duplicates would delay every pod.
            pod.set_sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        }
        let inside = Links::open(&pod)?;
        // A link of that name is what a crash left between here and the removal of its record.
        self.links.delete_link_named(&attachment.link).await?;
        let near = self.links.add_veth(&attachment.link, IN_POD, &pod).await?.index;
        let far = inside.link(IN_POD).await?.index;
        let loopback = inside.link("lo").await?.index;
        inside.set_up(loopback).await?;
        for ip in &attachment.ips {
            inside.add_address(far, IpNet::from(*ip)).await?;
        }
        inside.set_up(far).await?;
        self.links.set_up(near).await?;
        for ip in &attachment.ips {
            let gateway = self.gateway_of(*ip);
            self.links.add_address(near, IpNet::from(gateway)).await?;
            self.links.replace_route(&Route::link(IpNet::from(*ip), near)).await?;
            inside.add_route(&Route::link(IpNet::from(gateway), far)).await?;
            let everywhere = if ip.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            if let Ok(default) = everywhere.parse() {
                inside.add_route(&Route::gateway(default, gateway)).await?;
            }
        }
        self.publish(attachment)
    }

    fn publish(&self, attachment: &Attachment) -> Result<(), Error> {
        if attachment.host_ports.is_empty() {
            return Ok(());
        }
        if attachment.ips.iter().any(IpAddr::is_ipv4) {
            // What comes from the node's loopback is sent on over this link, and its answers come back over it.
            self.node.set_sysctl(&format!("net/ipv4/conf/{}/route_localnet", attachment.link), "1")?;
        }
        self.host_ports.note(&attachment.link, (attachment.host_ports.clone(), attachment.ips.clone()));
        self.host_ports.commit(&self.node)?;
        self.forget_flows(attachment)
    }

    /// UDP has no end: a client that goes on sending would stay with whoever had the port before, or with nobody.
    fn forget_flows(&self, attachment: &Attachment) -> Result<(), Error> {
        const UDP: u8 = 17;
        let ports: Vec<u16> =
            attachment.host_ports.iter().filter(|port| port.protocol == UDP).map(|port| port.host_port).collect();
        if ports.is_empty() {
            return Ok(());
        }
        let stale = |flow: &Flow| {
            let untouched = flow.original.destination == flow.reply.source;
            let to_us = untouched && ports.contains(&flow.original.destination.port());
            to_us || attachment.ips.contains(&flow.reply.source.ip())
        };
        Conntrack::open(&self.node)?.delete_where(UDP, stale)?;
        Ok(())
    }

    fn gateway_of(&self, ip: IpAddr) -> IpAddr {
        let same = |(gateway, _): &&(IpAddr, Mutex<Pool>)| gateway.is_ipv4() == ip.is_ipv4();
        self.pools.iter().find(same).map_or(ip, |(gateway, _)| *gateway)
    }

    /// Takes the network of the pod of this folder away and gives its addresses back. A pod without one is left as it is.
    pub async fn detach(&self, folder: &Path) -> Result<(), Error> {
        let Some(attachment) = read(folder) else { return Ok(()) };
        if !attachment.host_ports.is_empty() {
            self.host_ports.forget(&attachment.link);
            self.host_ports.commit(&self.node)?;
            self.forget_flows(&attachment)?;
        }
        self.links.delete_link_named(&attachment.link).await?;
        NetNs::delete_at(&attachment.namespace)?;
        // Only after the kernel has let go of the address may another pod have it.
        match fs::remove_file(folder.join(RECORD)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Record { path: folder.join(RECORD), source });
            }
            Ok(()) | Err(_) => self.release(&attachment.ips),
        }
        Ok(())
    }

    fn release(&self, ips: &[IpAddr]) {
        for ip in ips {
            self.each_pool(|pool| pool.release(*ip));
        }
    }

    fn each_pool(&self, mut act: impl FnMut(&mut Pool)) {
        for (_, pool) in &self.pools {
            act(&mut pool.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// Where the namespace of a pod is mounted.
pub(crate) fn namespace_of(folder: &Path, uid: &str) -> PathBuf {
    folder.join(format!("pod-{uid}"))
}

fn read(folder: &Path) -> Option<Attachment> {
    serde_json::from_slice(&fs::read(folder.join(RECORD)).ok()?).ok()
}

fn write(folder: &Path, attachment: &Attachment) -> io::Result<()> {
    let temporary = folder.join(".network.json");
    fs::write(&temporary, serde_json::to_vec(attachment)?)?;
    fs::rename(temporary, folder.join(RECORD))
}
