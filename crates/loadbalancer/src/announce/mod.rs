//! Announcing addresses on a node's links: answering who asks (ARP, NDP), and telling everyone unasked when an address has come here.
//!
//! The addresses are never put on a link. Packets for them meet the proxy's DNAT before routing, as MetalLB has it: nothing of the node
//! itself answers on them, and a connection from the node keeps the node's own address.

mod arp;
mod link;
mod ndp;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use linux::NetNs;
use netlink::links::{Link, LinkChanges, Links, Mac};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use link::Speaking;

/// When an address that has come here is told about, counted from then: once may be lost, and a switch may learn late.
const TELL_AFTER: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(200), Duration::from_millis(1000), Duration::from_millis(3000)];

/// The addresses that are answered for now; shared with the tasks that listen.
pub(crate) type Answered = Arc<RwLock<BTreeSet<IpAddr>>>;

/// Somebody else on the link says that it has an address that we answer for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    pub address: IpAddr,
    pub mac: Mac,
}

/// Which links an announcer speaks on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Interfaces {
    /// Every link that has an address of a network: not the loopback, and not pods' links, which have host addresses only.
    #[default]
    Networks,
    Named(Vec<String>),
}

/// Answers for addresses on one node.
#[derive(Debug)]
pub struct Announcer {
    netns: NetNs,
    interfaces: Interfaces,
    links: Links,
    answered: Answered,
    speaking: BTreeMap<u32, Speaking>,
    conflicts: mpsc::Sender<Conflict>,
    /// What is still to be told, and when.
    due: BTreeSet<(Instant, IpAddr)>,
}

impl Announcer {
    /// Opens the node's links. Must be called within a tokio runtime.
    pub fn open(
        netns: NetNs,
        interfaces: Interfaces,
        conflicts: mpsc::Sender<Conflict>,
    ) -> Result<Announcer, netlink::Error> {
        let links = Links::open(&netns)?;
        let answered = Answered::default();
        Ok(Announcer { netns, interfaces, links, answered, speaking: BTreeMap::new(), conflicts, due: BTreeSet::new() })
    }

    /// Answers for what `wanted` says, until it is dropped. `able` says why nothing can be answered at all, when that is so.
    pub async fn run(mut self, mut wanted: watch::Receiver<BTreeSet<IpAddr>>, able: watch::Sender<Option<String>>) {
        let mut changes = match LinkChanges::open(&self.netns) {
            Ok(changes) => Some(changes),
            Err(error) => {
                warn!(error = %telemetry::chain(&error), "changes of links will not be noticed");
                None
            }
        };
        self.look(&able).await;
        loop {
            let next = self.due.first().map(|(at, _)| *at);
            tokio::select! {
                changed = wanted.changed() => match changed {
                    Ok(()) => {
                        let now = wanted.borrow_and_update().clone();
                        self.answer(now);
                    }
                    Err(_) => return,
                },
                () = next_change(&mut changes) => self.look(&able).await,
                () = sleep_until(next) => self.tell_due(),
            }
        }
    }

    /// Takes over a new set of addresses: what is new is told about at once.
    fn answer(&mut self, now: BTreeSet<IpAddr>) {
        let before =
            std::mem::replace(&mut *self.answered.write().unwrap_or_else(PoisonError::into_inner), now.clone());
        for speaking in self.speaking.values_mut() {
            speaking.follow_groups(&now);
        }
        self.due.retain(|(_, address)| now.contains(address));
        let new: Vec<IpAddr> = now.difference(&before).copied().collect();
        self.schedule(&new);
        self.tell_due();
    }

    fn schedule(&mut self, addresses: &[IpAddr]) {
        let now = Instant::now();
        for address in addresses {
            self.due.extend(TELL_AFTER.iter().map(|after| (now + *after, *address)));
        }
    }

    fn tell_due(&mut self) {
        let now = Instant::now();
        while let Some((at, address)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, address));
            for speaking in self.speaking.values() {
                speaking.announce(address);
            }
        }
    }

    /// Speaks on the links that are there now. A link that came, or came back, is told of every address.
    async fn look(&mut self, able: &watch::Sender<Option<String>>) {
        let found = match self.suitable().await {
            Ok(found) => found,
            Err(error) => {
                warn!(error = %telemetry::chain(&error), "cannot look at the node's links");
                return;
            }
        };
        let working: BTreeMap<u32, &Link> =
            found.iter().filter(|link| link.carrier).map(|link| (link.index, link)).collect();
        self.speaking.retain(|index, speaking| working.get(index).is_some_and(|link| speaking.is_on(link)));
        let mut came = false;
        for (index, link) in &working {
            if self.speaking.contains_key(index) {
                continue;
            }
            let opened = Speaking::open(&self.netns, link, Arc::clone(&self.answered), self.conflicts.clone());
            match opened {
                Ok(mut speaking) => {
                    info!(link = %link.name, "announcing on the link");
                    speaking.follow_groups(&self.answered.read().unwrap_or_else(PoisonError::into_inner));
                    self.speaking.insert(*index, speaking);
                    came = true;
                }
                Err(error) => {
                    warn!(link = %link.name, error = %telemetry::chain(&error), "cannot announce on the link")
                }
            }
        }
        let unable = self.speaking.is_empty().then(|| why_unable(&found, &self.interfaces));
        able.send_if_modified(|old| std::mem::replace(old, unable.clone()) != unable);
        if came {
            let all: Vec<IpAddr> =
                self.answered.read().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
            self.schedule(&all);
            self.tell_due();
        }
    }

    async fn suitable(&self) -> Result<Vec<Link>, netlink::Error> {
        let mut links = self.links.links().await?;
        match &self.interfaces {
            Interfaces::Named(names) => links.retain(|link| names.contains(&link.name)),
            Interfaces::Networks => {
                let addresses = self.links.addresses().await?;
                let in_network = |link: &Link| {
                    let own = addresses.iter().filter(|address| address.index == link.index);
                    own.into_iter()
                        .any(|a| a.address.prefix_len() < a.address.max_prefix_len() && !a.address.addr().is_loopback())
                };
                links.retain(in_network);
            }
        }
        links.retain(|link| link.mac.is_some_and(|mac| mac.0 != [0; 6]));
        Ok(links)
    }
}

fn why_unable(found: &[Link], interfaces: &Interfaces) -> String {
    let names: Vec<&str> = found.iter().map(|link| link.name.as_str()).collect();
    match (names.as_slice(), interfaces) {
        ([], Interfaces::Networks) => "the node has no link with an address of a network".to_owned(),
        ([], Interfaces::Named(names)) => format!("the node has no link {}", names.join(", ")),
        ([one], _) => format!("link {one} has no carrier"),
        (several, _) => format!("links {} have no carrier", several.join(", ")),
    }
}

async fn next_change(changes: &mut Option<LinkChanges>) {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
