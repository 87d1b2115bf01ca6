//! The only netlink sockets of the project: nf_tables batches and dumps, flows in conntrack, links and routes.
//!
//! Each handle is opened inside one network namespace and works from anywhere afterwards. What is sent is made by pure
//! crates (`nft` for rulesets); what goes wrong comes back with the act, the object and the kernel's error number.

mod conntrack;
mod error;
pub mod links;
mod nftables;
mod socket;

pub use conntrack::{Conntrack, Flow, Tuple};
pub use error::{Error, Result};
pub use nftables::{Monitor, NfTables, Notice, Snapshot};
