//! What stands at a name, by the shape that the Kubernetes DNS specification gives it. Whether a name exists never depends on the type
//! that is asked for (RFC 8020).

use std::net::IpAddr;

use super::service::{Endpoint, Endpoints, Port, ServiceRecords};
use super::{Entry, ReverseName, Zone};
use crate::wire::name::{labelled_address, labels, reverse_address, reverse_tree};

/// What stands at a name.
#[derive(Debug, Clone, Copy)]
pub enum Node<'z> {
    /// The name is not the cluster's: ask outside.
    Outside,
    /// Not all objects have been seen, so nothing can be said yet: SERVFAIL.
    NotYet,
    /// The name does not exist.
    Missing,
    /// The name exists because others exist below it (an empty non-terminal, RFC 8499).
    Empty,
    /// The domain itself.
    Apex,
    /// `dns-version`: which specification is served.
    Version,
    /// `ns.dns`, the server's own name, at the address of the DNS Service.
    Server(&'z [IpAddr]),
    /// A pod by its address.
    Address(IpAddr),
    Service(&'z Entry),
    /// The endpoints that have this name below a Service.
    Endpoint([&'z [Endpoint]; 2]),
    /// A named port of a Service with an address.
    Port(&'z Entry, &'z Port),
    /// A named port of the endpoints of a headless Service.
    EndpointPort(&'z Entry, &'z Endpoints, PortName<'z>),
    /// An address of the cluster, in the reverse tree with this root.
    Reverse {
        address: IpAddr,
        names: &'z [ReverseName],
        tree: &'static [u8],
    },
}

/// Which port of each endpoint.
#[derive(Debug, Clone, Copy)]
pub struct PortName<'z> {
    /// One port of that name and protocol; others differ in number at most.
    any: &'z Port,
}

impl PortName<'_> {
    pub(crate) fn matches(self, port: &Port) -> bool {
        port.name == self.any.name && port.protocol == self.any.protocol
    }
}

/// More labels than this below the domain name nothing.
const DEPTH: usize = 5;

impl Zone {
    /// What stands at `name`, a whole name in lower case.
    pub fn look_up(&self, name: &[u8]) -> Node<'_> {
        let mut starts = [(0, &[] as &[u8]); DEPTH];
        let mut walk = labels(name);
        // Labels pass through the window until what is left is the domain.
        let mut depth = 0;
        while walk.rest() != &*self.domain {
            let start = name.len() - walk.rest().len();
            let Some(label) = walk.next() else { return self.look_up_address(name) };
            if depth >= DEPTH {
                starts.rotate_left(1);
            }
            starts[depth.min(DEPTH - 1)] = (start, label);
            depth += 1;
        }
        let text = |n: usize| starts[n].1;
        let key = |first: usize| &name[starts[first].0..starts[first + 2].0];
        match (depth, text(depth.min(DEPTH).saturating_sub(1))) {
            (0, _) => Node::Apex,
            (1, b"svc" | b"pod" | b"dns") => Node::Empty,
            (1, b"dns-version") => Node::Version,
            (2, b"dns") if text(0) == b"ns" => Node::Server(self.server_addresses()),
            (2, b"svc" | b"pod") => self.known(self.has_namespace(text(0)).then_some(Node::Empty)),
            (3, b"svc") => self.known(self.service(key(0))),
            (3, b"pod") if self.has_namespace(text(1)) => self.known(labelled_address(text(0)).map(Node::Address)),
            (4, b"svc") => self.known(self.below_service(key(1), text(0))),
            (5, b"svc") => self.known(self.port(key(2), text(0), text(1))),
            _ => self.known(None),
        }
    }

    /// Before everything has been seen neither presence nor absence can be told: a Service may lack endpoints that we have not seen.
    fn known<'z>(&self, found: Option<Node<'z>>) -> Node<'z> {
        match found {
            _ if !self.complete => Node::NotYet,
            Some(node) => node,
            None => Node::Missing,
        }
    }

    fn look_up_address(&self, name: &[u8]) -> Node<'_> {
        let Some(tree) = reverse_tree(name) else { return Node::Outside };
        match reverse_address(name) {
            // An address that may be ours must not be denied by someone outside before we know.
            Some(_) if !self.complete => Node::NotYet,
            Some(address) => match self.reverse.get(&address) {
                Some(names) => Node::Reverse { address, names: names.as_slice(), tree },
                None => Node::Outside,
            },
            None => Node::Outside,
        }
    }

    fn service(&self, key: &[u8]) -> Option<Node<'_>> {
        let entry = self.services.get(key)?;
        match &entry.records {
            // The specification: "if there are no ready endpoints for the headless Service, the answer should be NXDOMAIN".
            ServiceRecords::Headless(endpoints) if endpoints.is_empty() => None,
            ServiceRecords::Headless(_) | ServiceRecords::ClusterIp { .. } | ServiceRecords::External { .. } => {
                Some(Node::Service(entry))
            }
        }
    }

    fn below_service(&self, key: &[u8], label: &[u8]) -> Option<Node<'_>> {
        let records = &self.services.get(key)?.records;
        if let Some(protocol) = label.strip_prefix(b"_") {
            let any = match records {
                ServiceRecords::ClusterIp { ports, .. } => {
                    ports.iter().any(|port| port.protocol.label().as_bytes() == protocol)
                }
                ServiceRecords::Headless(endpoints) => endpoints.have_protocol(protocol),
                ServiceRecords::External { .. } => false,
            };
            return any.then_some(Node::Empty);
        }
        let found = match records {
            ServiceRecords::ClusterIp { endpoints, .. } | ServiceRecords::Headless(endpoints) => {
                endpoints.labelled(label)
            }
            ServiceRecords::External { .. } => return None,
        };
        found.iter().any(|found| !found.is_empty()).then_some(Node::Endpoint(found))
    }

    fn port(&self, key: &[u8], name: &[u8], protocol: &[u8]) -> Option<Node<'_>> {
        let (name, protocol) = (name.strip_prefix(b"_")?, protocol.strip_prefix(b"_")?);
        let entry = self.services.get(key)?;
        let is = |port: &&Port| port.name.as_bytes() == name && port.protocol.label().as_bytes() == protocol;
        match &entry.records {
            ServiceRecords::ClusterIp { ports, .. } => ports.iter().find(is).map(|port| Node::Port(entry, port)),
            ServiceRecords::Headless(endpoints) => {
                endpoints.sets().flatten().find(is).map(|any| Node::EndpointPort(entry, endpoints, PortName { any }))
            }
            ServiceRecords::External { .. } => None,
        }
    }

    fn has_namespace(&self, label: &[u8]) -> bool {
        self.namespaces.get(label).is_some()
    }
}
