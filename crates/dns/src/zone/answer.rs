//! A question answered: the records of what stands at its name, written straight into the message.

use std::net::IpAddr;

use super::service::{Endpoint, Endpoints, Port, ServiceRecords};
use super::{Entry, Node, ReverseName, Zone};
use crate::wire::name::{MAX_NAME, NameBuffer, WireName};
use crate::wire::writer::{Owner, Section, Writer};
use crate::wire::{Rcode, kind};

/// What the zone alone could say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answered {
    /// The message is whole.
    Done(Rcode),
    /// Not all objects have been seen: SERVFAIL.
    NotYet,
    /// The name is to be asked outside; or, if there are aliases, the last of them is.
    Outside(Vec<WireName>),
}

/// Which of several endpoints stands first: chance, so that clients which take the first are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Choice(pub(crate) usize);

/// Longer chains of aliases are not followed.
const MAX_ALIASES: usize = 8;
/// As CoreDNS gives them; no secondary server ever reads them.
const REFRESH_RETRY_EXPIRE: [u32; 3] = [7200, 1800, 86400];

impl Zone {
    /// Answers the question that `writer` begins with. With `alias`, its name is taken for an alias of that one.
    pub(crate) fn answer(
        &self,
        name: &[u8],
        asked: u16,
        alias: Option<&[u8]>,
        choice: Choice,
        writer: &mut Writer<'_>,
    ) -> Answered {
        writer.ttl = self.ttl;
        let mut chain: Vec<&[u8]> = Vec::new();
        let mut at = name;
        if let Some(target) = alias {
            self.write_alias(Owner::Question, target, writer);
            chain.push(target);
            at = target;
        }
        loop {
            let owner = if chain.is_empty() { Owner::Question } else { Owner::Name(at) };
            match self.look_up(at) {
                Node::Outside => return Answered::Outside(chain.into_iter().map(Into::into).collect()),
                Node::NotYet => return Answered::NotYet,
                Node::Missing => {
                    self.write_soa(Section::Authority, &self.domain, writer);
                    return Answered::Done(Rcode::NxDomain);
                }
                Node::Service(Entry { records: ServiceRecords::External { target }, .. }) => {
                    self.write_alias(owner, target, writer);
                    let loops = **target == *name || chain.contains(&&**target) || chain.len() >= MAX_ALIASES;
                    if asked == kind::CNAME || asked == kind::ANY || loops {
                        return Answered::Done(Rcode::NoError);
                    }
                    chain.push(target);
                    at = target;
                }
                node => {
                    if !self.write_records(node, owner, asked, choice, writer) {
                        let tree = if let Node::Reverse { tree, .. } = node { tree } else { &self.domain };
                        self.write_soa(Section::Authority, tree, writer);
                    }
                    return Answered::Done(Rcode::NoError);
                }
            }
        }
    }

    /// Writes the records of that type; false if there are none.
    fn write_records(&self, node: Node<'_>, owner: Owner<'_>, asked: u16, choice: Choice, w: &mut Writer<'_>) -> bool {
        let is = |kind| asked == kind || asked == kind::ANY;
        match node {
            Node::Outside | Node::NotYet | Node::Missing | Node::Empty => false,
            Node::Apex => self.write_apex(owner, asked, w),
            Node::Version => {
                is(kind::TXT) && {
                    w.record(Section::Answer, owner, kind::TXT, |w| w.bytes(b"\x051.1.0"));
                    true
                }
            }
            Node::Server(addresses) => write_addresses(addresses, owner, asked, w),
            Node::Address(address) => write_addresses(&[address], owner, asked, w),
            Node::Service(entry) => match &entry.records {
                ServiceRecords::ClusterIp { addresses, .. } => write_addresses(addresses, owner, asked, w),
                ServiceRecords::Headless(endpoints) => write_endpoints(endpoints, owner, asked, choice, w),
                ServiceRecords::External { .. } => false,
            },
            Node::Endpoint(found) => {
                let mut any = false;
                for endpoint in found.into_iter().flatten() {
                    any |= write_addresses(&[endpoint.address], owner, asked, w);
                }
                any
            }
            Node::Port(entry, port) => {
                is(kind::SRV) && {
                    write_srv(owner, 100, port.number, &[], &entry.name, w);
                    if let ServiceRecords::ClusterIp { addresses, .. } = &entry.records {
                        for address in addresses {
                            w.address(Section::Additional, Owner::Name(&entry.name), *address);
                        }
                    }
                    true
                }
            }
            Node::EndpointPort(entry, endpoints, name) => {
                is(kind::SRV) && {
                    write_endpoint_ports(entry, endpoints, |port| name.matches(port), owner, choice, w);
                    true
                }
            }
            Node::Reverse { address, names, .. } => is(kind::PTR) && self.write_reverse(address, names, owner, w),
        }
    }

    fn write_apex(&self, owner: Owner<'_>, asked: u16, w: &mut Writer<'_>) -> bool {
        let is = |kind| asked == kind || asked == kind::ANY;
        if is(kind::SOA) {
            self.write_soa(Section::Answer, &self.domain, w);
        }
        if is(kind::NS) {
            // Without the Service of that name the server calls itself as its SOA does.
            let entry = self.services.get(&self.server);
            let place = w.place();
            w.record(Section::Answer, owner, kind::NS, |w| match entry {
                Some(entry) => w.name(&entry.name),
                None => {
                    w.bytes(b"\x02ns\x03dns");
                    w.name(&self.domain);
                }
            });
            if let Some(entry) = entry.filter(|_| w.place() > place) {
                for address in self.server_addresses() {
                    w.address(Section::Additional, Owner::Name(&entry.name), *address);
                }
            }
        }
        is(kind::SOA) || is(kind::NS)
    }

    fn write_reverse(&self, address: IpAddr, names: &[ReverseName], owner: Owner<'_>, w: &mut Writer<'_>) -> bool {
        let mut any = false;
        for name in names {
            if let Some(name) = name.name(address, &self.domain) {
                w.record(Section::Answer, owner, kind::PTR, |w| w.name(&name));
                any = true;
            }
        }
        any
    }

    fn write_alias(&self, owner: Owner<'_>, target: &[u8], w: &mut Writer<'_>) {
        w.record(Section::Answer, owner, kind::CNAME, |w| w.name(target));
    }

    /// The start of authority, which also says for how long a denial may be kept (RFC 2308).
    fn write_soa(&self, section: Section, owner: &[u8], w: &mut Writer<'_>) {
        let timers = REFRESH_RETRY_EXPIRE;
        let owner = if section == Section::Answer { Owner::Question } else { Owner::Name(owner) };
        w.record(section, owner, kind::SOA, |w| {
            w.bytes(b"\x02ns\x03dns");
            w.name(&self.domain);
            w.bytes(b"\x0ahostmaster");
            w.name(&self.domain);
            for number in [self.serial].into_iter().chain(timers).chain([self.ttl]) {
                w.bytes(&number.to_be_bytes());
            }
        });
    }
}

fn is_asked(asked: u16, address: IpAddr) -> bool {
    match asked {
        kind::A => address.is_ipv4(),
        kind::AAAA => address.is_ipv6(),
        kind::ANY => true,
        _ => false,
    }
}

fn write_addresses(addresses: &[IpAddr], owner: Owner<'_>, asked: u16, w: &mut Writer<'_>) -> bool {
    let mut any = false;
    for address in addresses.iter().filter(|address| is_asked(asked, **address)) {
        w.address(Section::Answer, owner, *address);
        any = true;
    }
    any
}

/// The endpoints' places, beginning at one by chance.
fn turned(endpoints: &[Endpoint], choice: Choice) -> impl Iterator<Item = usize> {
    let length = endpoints.len();
    let first = choice.0 % length.max(1);
    (first..length).chain(0..first)
}

fn write_endpoints(endpoints: &Endpoints, owner: Owner<'_>, asked: u16, choice: Choice, w: &mut Writer<'_>) -> bool {
    let mut any = false;
    for at in turned(endpoints.list(), choice) {
        let address = endpoints.list()[at].address;
        if is_asked(asked, address) && endpoints.is_first(at) {
            any = true;
            if !w.address(Section::Answer, owner, address) {
                break;
            }
        }
    }
    any
}

/// `label` may be empty: then the target is the Service itself. RFC 2782 forbids to compress the target.
fn write_srv(owner: Owner<'_>, weight: u16, port: u16, label: &[u8], service: &[u8], w: &mut Writer<'_>) {
    if label.len() + service.len() >= MAX_NAME {
        return;
    }
    w.record(Section::Answer, owner, kind::SRV, |w| {
        w.u16(0);
        w.u16(weight);
        w.u16(port);
        if !label.is_empty() {
            // A label has 63 bytes at most.
            w.bytes(&[label.len() as u8]);
            w.bytes(label);
        }
        w.bytes(service);
    });
}

/// One SRV record for each name and number: endpoints that share a hostname share it.
fn write_endpoint_ports(
    entry: &Entry,
    endpoints: &Endpoints,
    matches: impl Fn(&Port) -> bool,
    owner: Owner<'_>,
    choice: Choice,
    w: &mut Writer<'_>,
) {
    let list = endpoints.list();
    let numbers = |endpoint| endpoints.ports(endpoint).iter().filter(|port| matches(port)).map(|port| port.number);
    let count = list.iter().map(|endpoint| numbers(endpoint).count()).sum::<usize>();
    let weight = u16::try_from(100 / count.max(1)).unwrap_or(1).max(1);
    for at in turned(list, choice) {
        let endpoint = &list[at];
        let label = endpoint.label();
        // A hostname may be shared, or look like the address of another endpoint.
        let [named, _] = endpoints.labelled(label.as_bytes());
        let namesakes = || named.iter().take_while(|other| !std::ptr::eq(*other, endpoint));
        for number in numbers(endpoint) {
            if !namesakes().flat_map(numbers).any(|known| known == number) {
                write_srv(owner, weight, number, label.as_bytes(), &entry.name, w);
            }
        }
    }
    for at in turned(list, choice) {
        let endpoint = &list[at];
        if numbers(endpoint).next().is_none() || w.is_truncated() {
            continue;
        }
        let mut name = NameBuffer::new();
        if name.push_label(endpoint.label().as_bytes()) && name.push(&entry.name) {
            w.address(Section::Additional, Owner::Name(name.as_slice()), endpoint.address);
        }
    }
}
