//! Reading links, addresses and routes back from the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType};

use super::{Address, Link, Links, Mac, Route, RouteKind, Via, done};
use crate::{Error, Result};

impl Links {
    /// The link of that name; an error when there is none.
    pub async fn link(&self, name: &str) -> Result<Link> {
        let found = self.find_link(name).await?;
        found.ok_or_else(|| Error::NoLink { act: "look for the link", name: name.to_owned() })
    }

    /// The link of that name, if there is one.
    pub async fn find_link(&self, name: &str) -> Result<Option<Link>> {
        let answer = self.handle.link().get().match_name(name.to_owned()).execute().try_next().await;
        match done("look for the link", name, answer) {
            Ok(message) => Ok(message.map(link)),
            Err(error) if error.not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links, by index.
    pub async fn links(&self) -> Result<Vec<Link>> {
        let messages: Vec<_> = done("list", "links", self.handle.link().get().execute().try_collect().await)?;
        let mut links: Vec<Link> = messages.into_iter().map(link).collect();
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// All addresses, by link.
    pub async fn addresses(&self) -> Result<Vec<Address>> {
        let request = self.handle.address().get().execute();
        let messages: Vec<_> = done("list", "addresses", request.try_collect().await)?;
        let mut addresses: Vec<Address> = messages.iter().filter_map(address).collect();
        addresses.sort();
        Ok(addresses)
    }

    /// The unicast, local, blackhole and unreachable routes of one family in all tables, by destination.
    pub async fn routes(&self, ipv6: bool) -> Result<Vec<Route>> {
        let question = if ipv6 {
            RouteMessageBuilder::<Ipv6Addr>::new().build()
        } else {
            RouteMessageBuilder::<Ipv4Addr>::new().build()
        };
        let request = self.handle.route().get(question).execute();
        let messages: Vec<_> = done("list", "routes", request.try_collect().await)?;
        let mut routes: Vec<Route> = messages.iter().filter_map(|message| route(message, ipv6)).collect();
        routes.sort();
        Ok(routes)
    }
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        bridge: None,
        peer: None,
        alias: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Address(address) => link.mac = address.try_into().ok().map(Mac),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(bridge) => link.bridge = Some(bridge),
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn address(message: &AddressMessage) -> Option<Address> {
    // IFA_LOCAL is our end of a point-to-point link, where IFA_ADDRESS is the other one; elsewhere they are the same and
    // IPv6 sends only the latter.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let plain = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    let address = IpNet::new(local.or(plain)?, message.header.prefix_len).ok()?;
    Some(Address { index: message.header.index, address, scope: u8::from(message.header.scope) })
}

fn route(message: &RouteMessage, ipv6: bool) -> Option<Route> {
    let any = if ipv6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    let mut destination = any;
    let (mut index, mut gateway, mut source, mut metric) = (None, None, None, None);
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Priority(priority) => metric = Some(*priority),
            RouteAttribute::Table(id) => table = *id,
            _ => {}
        }
    }
    let onlink = message.header.flags.contains(RouteFlags::Onlink);
    let via = match (message.header.kind, gateway, index) {
        (RouteType::BlackHole, ..) => Via::Kind(RouteKind::Blackhole),
        (RouteType::Unreachable, ..) => Via::Kind(RouteKind::Unreachable),
        (RouteType::Local, _, Some(index)) => Via::Kind(RouteKind::Local { index }),
        (RouteType::Unicast, Some(address), index) => Via::Gateway { address, index, onlink },
        (RouteType::Unicast, None, Some(index)) => Via::Link { index },
        _ => return None,
    };
    let destination = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    let table = (table != u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(table);
    Some(Route { destination, via, source, metric, table })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
