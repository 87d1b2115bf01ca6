//! One link: the tasks that listen on it, and what is said on it.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use linux::NetNs;
use linux::icmp6::{Icmp6Socket, SOLICITATION};
use linux::packet::{ARP, BROADCAST, PacketSocket};
use netlink::links::{Link, Mac};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::arp::{Arp, Kind};
use super::{Answered, Conflict, ndp};

/// Longer than any ARP packet or solicitation that is worth reading.
const BUFFER: usize = 1500;
/// A socket that fails is tried again after this, so that a fault does not become a busy loop.
const PAUSE: Duration = Duration::from_millis(200);

/// A link that is spoken on. Dropping it ends its tasks and closes its sockets.
#[derive(Debug)]
pub(super) struct Speaking {
    name: String,
    mac: Mac,
    arp: Arc<PacketSocket>,
    /// None where IPv6 is switched off.
    ndp: Option<Arc<Icmp6Socket>>,
    groups: BTreeSet<Ipv6Addr>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Speaking {
    pub fn open(
        netns: &NetNs,
        link: &Link,
        answered: Answered,
        conflicts: mpsc::Sender<Conflict>,
    ) -> Result<Speaking, linux::Error> {
        let mac = link.mac.unwrap_or(Mac([0; 6]));
        let arp = Arc::new(PacketSocket::open(netns, link.index, ARP)?);
        let ndp = match Icmp6Socket::open(netns, link.index, &link.name, &[SOLICITATION]) {
            Ok(socket) => Some(Arc::new(socket)),
            Err(error) => {
                debug!(link = %link.name, %error, "no IPv6 on the link");
                None
            }
        };
        let hears_arp = hear_arp(Arc::clone(&arp), mac, Arc::clone(&answered), conflicts);
        let mut tasks = vec![AbortOnDropHandle::new(tokio::spawn(hears_arp))];
        if let Some(socket) = &ndp {
            let hears = hear_ndp(Arc::clone(socket), mac, answered);
            tasks.push(AbortOnDropHandle::new(tokio::spawn(hears)));
        }
        Ok(Speaking { name: link.name.clone(), mac, arp, ndp, groups: BTreeSet::new(), _tasks: tasks })
    }

    /// Whether the link is still what it was when it was opened.
    pub fn is_on(&self, link: &Link) -> bool {
        link.name == self.name && link.mac == Some(self.mac)
    }

    /// Hears solicitations for the IPv6 addresses of a set, and no others.
    pub fn follow_groups(&mut self, addresses: &BTreeSet<IpAddr>) {
        let Some(socket) = &self.ndp else { return };
        let wanted: BTreeSet<Ipv6Addr> = addresses.iter().copied().filter_map(v6).map(ndp::solicited_node).collect();
        for gone in self.groups.difference(&wanted) {
            let _ = socket.leave(*gone);
        }
        for new in wanted.difference(&self.groups) {
            if let Err(error) = socket.join(*new) {
                debug!(link = %self.name, group = %new, %error, "cannot hear solicitations");
            }
        }
        self.groups = wanted;
    }

    /// Tells everyone on the link that the address is here.
    pub fn announce(&self, address: IpAddr) {
        let told = match address {
            IpAddr::V4(address) => Arp::announcements(self.mac, address)
                .iter()
                .try_for_each(|announcement| self.arp.send(BROADCAST, &announcement.write())),
            IpAddr::V6(address) => self.ndp.as_ref().map_or(Ok(()), |socket| {
                say(socket, address, ndp::ALL_NODES, &ndp::advertisement(address, self.mac, false))
            }),
        };
        if let Err(error) = told {
            debug!(link = %self.name, %address, %error, "announcement not sent");
        }
    }
}

/// An advertisement comes from the address that it is about, as from a host that has it; some (ndisc6) take no other.
fn say(socket: &Icmp6Socket, about: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> io::Result<()> {
    socket.send_as(about, to, message).or_else(|_| socket.send(to, message))
}

fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

fn is_answered(answered: &Answered, address: IpAddr) -> bool {
    answered.read().unwrap_or_else(PoisonError::into_inner).contains(&address)
}

async fn hear_arp(socket: Arc<PacketSocket>, mac: Mac, answered: Answered, conflicts: mpsc::Sender<Conflict>) {
    let mut buffer = [0; BUFFER];
    loop {
        let Some(arp) = heard(socket.receive(&mut buffer).await).await.and_then(|len| Arp::read(&buffer[..len])) else {
            continue;
        };
        let (from, sender) = (arp.sender.0, IpAddr::V4(arp.sender.1));
        if from != mac && is_answered(&answered, sender) {
            // Full means that the conflict is known.
            let _ = conflicts.try_send(Conflict { address: sender, mac: from });
        }
        let asks = arp.kind == Kind::Request && arp.sender.1 != arp.target.1;
        if asks && is_answered(&answered, IpAddr::V4(arp.target.1)) {
            let _ = socket.send(from.0, &arp.answer(mac).write());
        }
    }
}

async fn hear_ndp(socket: Arc<Icmp6Socket>, mac: Mac, answered: Answered) {
    let mut buffer = [0; BUFFER];
    loop {
        let Some((len, asker)) = heard(socket.receive(&mut buffer).await).await else { continue };
        let Some(target) = ndp::solicited_target(&buffer[..len]) else { continue };
        if is_answered(&answered, IpAddr::V6(target)) {
            let (to, message) = ndp::answer(target, asker, mac);
            let _ = say(&socket, target, to, &message);
        }
    }
}

/// What was received; after a fault, nothing and a pause. A link that goes down says so once, and works again when it is back.
async fn heard<T>(received: io::Result<T>) -> Option<T> {
    match received {
        Ok(received) => Some(received),
        Err(_) => {
            tokio::time::sleep(PAUSE).await;
            None
        }
    }
}
