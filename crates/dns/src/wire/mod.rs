//! DNS messages as bytes, for the path that every question of the cluster takes: a question is read where it was received and its answer
//! written beside it, without an allocation.
//!
//! Only what a server needs of RFC 1035 and RFC 6891 is here. Messages of others (what a resolver outside answers) are read by `hickory`.

pub mod name;
pub(crate) mod request;
pub(crate) mod writer;

/// Record types and classes that the server itself speaks of (IANA's numbers).
pub mod kind {
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const HINFO: u16 = 13;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const OPT: u16 = 41;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const MAILB: u16 = 253;
    pub const MAILA: u16 = 254;
    pub const ANY: u16 = 255;
}

/// The class of the Internet, the only one that a cluster has.
pub(crate) const IN: u16 = 1;

/// Response codes (RFC 1035, RFC 6895).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    /// An EDNS version that we do not speak; its upper bits travel in the OPT record.
    BadVers = 16,
}

impl Rcode {
    /// As operators and CoreDNS' metrics write it.
    pub fn text(self) -> &'static str {
        match self {
            Rcode::NoError => "NOERROR",
            Rcode::FormErr => "FORMERR",
            Rcode::ServFail => "SERVFAIL",
            Rcode::NxDomain => "NXDOMAIN",
            Rcode::NotImp => "NOTIMP",
            Rcode::Refused => "REFUSED",
            Rcode::BadVers => "BADVERS",
        }
    }
}
