//! What the model refused, and whose fault it is. The rest of the object stays in force.

use std::fmt;
use std::net::IpAddr;

use crate::claims::FrontendKey;
use crate::names::{Family, ObjectKey, ObjectRef, Protocol};

/// One thing that was left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    pub culprit: ObjectRef,
    pub reason: Reason,
}

/// Why it was left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Not an IP address at all.
    InvalidAddress(String),
    /// An address of the other family than the object says.
    ForeignFamily {
        address: IpAddr,
        expected: Family,
    },
    /// Loopback, multicast, unspecified or link-local: never an endpoint or a frontend.
    UnusableAddress(IpAddr),
    InvalidPort(i32),
    InvalidProtocol(String),
    InvalidRange(String),
    /// The same port and protocol twice in one Service.
    DuplicatePort {
        port: u16,
        protocol: Protocol,
    },
    /// The same address twice among the endpoints of one slice.
    DuplicateAddress(IpAddr),
    /// Another Service has this address, protocol and port.
    FrontendTaken {
        frontend: FrontendKey,
        by: ObjectKey,
    },
}

impl Fault {
    pub(crate) fn service(key: &ObjectKey, reason: Reason) -> Self {
        Fault { culprit: ObjectRef::Service(key.clone()), reason }
    }

    pub(crate) fn slice(key: &ObjectKey, reason: Reason) -> Self {
        Fault { culprit: ObjectRef::EndpointSlice(key.clone()), reason }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.culprit, self.reason)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::InvalidAddress(text) => write!(f, "`{text}` is not an IP address"),
            Reason::ForeignFamily { address, expected } => write!(f, "{address} is not an {expected} address"),
            Reason::UnusableAddress(address) => {
                write!(f, "{address} cannot be used: loopback, multicast, link-local or zero")
            }
            Reason::InvalidPort(port) => write!(f, "port {port} is not between 1 and 65535"),
            Reason::InvalidProtocol(text) => write!(f, "`{text}` is not TCP, UDP or SCTP"),
            Reason::InvalidRange(text) => write!(f, "`{text}` is not an address range"),
            Reason::DuplicatePort { port, protocol } => write!(f, "port {port}/{protocol} is there twice"),
            Reason::DuplicateAddress(address) => write!(f, "endpoint {address} is there twice"),
            Reason::FrontendTaken { frontend, by } => write!(f, "{frontend} belongs to Service {by}"),
        }
    }
}
