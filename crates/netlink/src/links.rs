//! Links, addresses, routes, neighbours and routing rules of one network namespace.
//!
//! A thin layer over `rtnetlink`: the few shapes that nodes and pods need, by value, with errors that name the act. A
//! pod's veth is made with its other end directly in the pod's namespace, because moving it there later costs ten times
//! as much. Sysctls are files and belong to `linux`.

mod changes;
mod read;
mod types;

use std::fmt::Display;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use ipnet::IpNet;
use linux::NetNs;
use nft::Errno;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkMessage};
use rtnetlink::{Handle, LinkBridge, LinkDummy, LinkMessageBuilder, LinkUnspec, LinkVeth};

pub use changes::LinkChanges;
pub use types::{Address, Link, Mac, Route, RouteKind, Rule, Via};

use crate::{Error, Result};

/// The links of one namespace. Clones share the socket.
#[derive(Clone, Debug)]
pub struct Links {
    handle: Handle,
    _connection: Arc<Connection>,
}

/// Ends the task that reads the socket, and with it the socket, when the last clone goes.
#[derive(Debug)]
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Links {
    /// Opens a route socket inside `ns`. Must be called within a tokio runtime.
    pub fn open(ns: &NetNs) -> Result<Links> {
        let runtime = tokio::runtime::Handle::current();
        let opened = ns.run(|| {
            let _entered = runtime.enter();
            rtnetlink::new_connection()
        });
        let (connection, handle, _) =
            opened.map_err(Error::Enter)?.map_err(|source| Error::Open { purpose: "links and routes", source })?;
        let task = tokio::spawn(connection);
        Ok(Links { handle, _connection: Arc::new(Connection(task)) })
    }

    /// Makes the pair `name` here and `peer` in `peer_ns`. Both are down.
    pub async fn add_veth(&self, name: &str, peer: &str, peer_ns: &NetNs) -> Result<Link> {
        self.add_veth_with(name, peer, peer_ns, None).await
    }

    /// As [`Links::add_veth`], with the same MTU on both ends.
    pub async fn add_veth_with(&self, name: &str, peer: &str, peer_ns: &NetNs, mtu: Option<u32>) -> Result<Link> {
        let mut far =
            LinkMessageBuilder::<LinkUnspec>::new().name(peer.to_string()).setns_by_fd(peer_ns.as_fd().as_raw_fd());
        let mut near =
            LinkMessageBuilder::<LinkVeth>::new_with_info_kind(rtnetlink::packet_route::link::InfoKind::Veth)
                .name(name.to_string());
        if let Some(mtu) = mtu {
            far = far.mtu(mtu);
            near = near.mtu(mtu);
        }
        let near = near.set_info_data(InfoData::Veth(InfoVeth::Peer(far.build())));
        self.add_link("make the veth pair", name, near.build()).await
    }

    /// Makes a bridge, down.
    pub async fn add_bridge(&self, name: &str) -> Result<Link> {
        self.add_link("make the bridge", name, LinkBridge::new(name).build()).await
    }

    /// Makes a dummy link, down: a place to put addresses.
    pub async fn add_dummy(&self, name: &str) -> Result<Link> {
        self.add_link("make the dummy link", name, LinkDummy::new(name).build()).await
    }

    async fn add_link(&self, act: &'static str, name: &str, message: LinkMessage) -> Result<Link> {
        done(act, name, self.handle.link().add(message).execute().await)?;
        self.link(name).await
    }

    /// Sets a link up.
    pub async fn set_up(&self, index: u32) -> Result<()> {
        self.change("set up the link", index, |link| link.up()).await
    }

    /// Sets a link down.
    pub async fn set_down(&self, index: u32) -> Result<()> {
        self.change("set down the link", index, |link| link.down()).await
    }

    /// Puts a link on a bridge, or takes it off.
    pub async fn set_bridge(&self, index: u32, bridge: Option<u32>) -> Result<()> {
        self.change("put on the bridge the link", index, |link| link.controller(bridge.unwrap_or(0))).await
    }

    /// Renames a link, which must be down.
    pub async fn rename(&self, index: u32, name: &str) -> Result<()> {
        self.change("rename the link", index, |link| link.name(name)).await
    }

    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<()> {
        self.change("set the MTU of the link", index, |link| link.mtu(mtu)).await
    }

    pub async fn set_mac(&self, index: u32, mac: Mac) -> Result<()> {
        self.change("set the MAC address of the link", index, |link| link.address(mac.0.to_vec())).await
    }

    /// A free note on a link (`ip link show` prints it), up to 255 bytes: who made it and why.
    pub async fn set_alias(&self, index: u32, alias: &str) -> Result<()> {
        self.change("set the alias of the link", index, |link| link.alias(alias)).await
    }

    async fn change(
        &self,
        act: &'static str,
        index: u32,
        with: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<()> {
        let message = with(LinkUnspec::new_with_index(index)).build();
        done(act, index, self.handle.link().change(message).execute().await)
    }

    /// Deletes a link; a veth takes its other end with it.
    pub async fn delete_link(&self, index: u32) -> Result<()> {
        done("delete the link", index, self.handle.link().del(index).execute().await)
    }

    /// Deletes the link of that name. Says whether there was one.
    pub async fn delete_link_named(&self, name: &str) -> Result<bool> {
        match self.find_link(name).await? {
            Some(link) => self.delete_link(link.index).await.map(|()| true).or_else(absent),
            None => Ok(false),
        }
    }

    /// Adds an address with the length of its prefix; a /32 or /128 brings no route.
    pub async fn add_address(&self, index: u32, address: IpNet) -> Result<()> {
        let request = self.handle.address().add(index, address.addr(), address.prefix_len());
        done("add the address", address, request.execute().await)
    }

    /// As [`Links::add_address`], content when it is there already.
    pub async fn ensure_address(&self, index: u32, address: IpNet) -> Result<()> {
        let request = self.handle.address().add(index, address.addr(), address.prefix_len());
        done("add the address", address, request.replace().execute().await)
    }

    /// Deletes an address. Says whether it was there.
    pub async fn delete_address(&self, index: u32, address: IpNet) -> Result<bool> {
        let message = types::address_message(index, address);
        let result = self.handle.address().del(message).execute().await;
        done("delete the address", address, result).map(|()| true).or_else(absent)
    }

    /// Adds a route; one to the same destination is an error.
    pub async fn add_route(&self, route: &Route) -> Result<()> {
        let request = self.handle.route().add(types::route_message(route)?);
        done("add the route", route, request.execute().await)
    }

    /// Adds a route in place of the one to the same destination, if any.
    pub async fn replace_route(&self, route: &Route) -> Result<()> {
        let request = self.handle.route().add(types::route_message(route)?);
        done("replace the route", route, request.replace().execute().await)
    }

    /// Deletes a route. Says whether it was there.
    pub async fn delete_route(&self, route: &Route) -> Result<bool> {
        let request = self.handle.route().del(types::route_message(route)?);
        done("delete the route", route, request.execute().await).map(|()| true).or_else(absent)
    }

    /// Tells a link, for good, which MAC address an IP address has.
    pub async fn add_neighbour(&self, index: u32, address: IpAddr, mac: Mac) -> Result<()> {
        let request = self.handle.neighbours().add(index, address).link_layer_address(&mac.0);
        done("add the neighbour", address, request.replace().execute().await)
    }

    /// Makes a link forget which MAC address an IP address has. Says whether it knew.
    pub async fn delete_neighbour(&self, index: u32, address: IpAddr) -> Result<bool> {
        let request = self.handle.neighbours().del(types::neighbour_message(index, address));
        done("delete the neighbour", address, request.execute().await).map(|()| true).or_else(absent)
    }

    /// Adds a routing rule (`ip rule`).
    pub async fn add_rule(&self, rule: &Rule) -> Result<()> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = types::rule_message(rule);
        done("add the routing rule", rule, request.execute().await)
    }

    /// Deletes a routing rule. Says whether it was there.
    pub async fn delete_rule(&self, rule: &Rule) -> Result<bool> {
        let request = self.handle.rule().del(types::rule_message(rule));
        done("delete the routing rule", rule, request.execute().await).map(|()| true).or_else(absent)
    }
}

/// Turns what `rtnetlink` says into our error.
fn done<T>(act: &'static str, target: impl Display, result: std::result::Result<T, rtnetlink::Error>) -> Result<T> {
    result.map_err(|error| match error {
        rtnetlink::Error::NetlinkError(message) => {
            let errno = Errno(message.raw_code().abs());
            Error::Refused { act, target: target.to_string(), errno }
        }
        other => Error::Answer { act, target: target.to_string(), answer: other.to_string() },
    })
}

/// Takes "it was not there" as an answer.
fn absent(error: Error) -> Result<bool> {
    if error.not_found() { Ok(false) } else { Err(error) }
}
