//! Why a packet goes where it goes: the first packet of a connection, walked through a table, told in words.

use std::net::{IpAddr, SocketAddr};

use nft::trace::{Event, Fate, Outcome, Packet, Step, Translation, World, hook};
use nft::{AddrType, Hook, Ruleset, SetSpec, Table, text};
use service_model::Protocol;

use crate::layout::table_id;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    pub from: IpAddr,
    pub to: SocketAddr,
    pub protocol: Protocol,
    /// The node itself sends it, rather than a pod or a host outside.
    pub from_node: bool,
}

/// A client's port; no rule of ours looks at it.
const SOURCE_PORT: u16 = 40_000;

/// Walks the packet through `table` and tells the elements that decided and what became of it. Where chance decides, the first endpoint
/// stands for all. Sets that packets write to are left as they are.
pub fn trace(table: &Table, question: &Question) -> String {
    let mut ruleset = Ruleset { tables: [(table_id(), table.clone())].into() };
    let number = question.protocol.number();
    let from = (question.from, SOURCE_PORT);
    let mut packet = Packet::new(number, from, (question.to.ip(), question.to.port()));
    let mut chance = Chance { endpoints: 0 };
    let first = if question.from_node { Hook::Output } else { Hook::Prerouting };
    let mut text = format!("{} -> {}/{}\n", question.from, question.to, question.protocol);
    let outcome = hook(&mut ruleset, first, &mut packet, &mut chance);
    tell_steps(&mut text, table, &outcome);
    match outcome.fate {
        Fate::Dropped => return text + "dropped\n",
        Fate::Rejected(_) => return text + "refused\n",
        Fate::Accepted if outcome.nat.is_empty() => return text + "no Service: left alone\n",
        Fate::Accepted => {}
    }
    let to = SocketAddr::new(packet.destination, packet.destination_port);
    match chance.endpoints {
        0 => text += &format!("sent to {to}, where this client was before\n"),
        1 => text += &format!("sent to {to}\n"),
        n => text += &format!("sent to one of {n} endpoints with equal chance, for example {to}\n"),
    }
    let outcome = hook(&mut ruleset, Hook::Postrouting, &mut packet, &mut chance);
    tell_steps(&mut text, table, &outcome);
    let masqueraded = outcome.nat.contains(&Translation::Masquerade);
    text + if masqueraded { "its source becomes the node's address\n" } else { "its source is kept\n" }
}

/// Draws the first number and remembers of how many.
struct Chance {
    endpoints: u32,
}

impl World for Chance {
    fn number(&mut self, modulus: u32) -> u32 {
        self.endpoints = modulus;
        0
    }

    fn address_type(&self, _: IpAddr) -> AddrType {
        AddrType::Unicast
    }
}

fn tell_steps(text: &mut String, table: &Table, outcome: &Outcome) {
    for Step { chain, event, .. } in &outcome.steps {
        let Event::Lookup { set, found: Some((key, element)), .. } = event else { continue };
        let Some(spec) = table.sets.get(set).map(|set| -> &SetSpec { &set.spec }) else { continue };
        text.push_str(&format!("  {chain}: @{set} has {}\n", text::element(spec, key, element)));
    }
}
